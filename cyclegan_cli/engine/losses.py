"""Adversarial, cycle-consistency and identity losses (Zhu et al., ICCV 2017, sections 3 and 5.2).

All are means over every element, never sums, computed in float32 or better.

The patch loss is the sliced Wasserstein distance (Rabin et al., "Wasserstein Barycenter and its
Application to Texture Mixing", SSVM 2011) between patches of generated and of real pictures in a
Laplacian pyramid (Karras et al., ICLR 2018, section 5).

The spectrum loss compares power spectra, in which the regular patterns of networks that upsample
show (Durall et al., "Watch Your Up-Convolution", CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.randomness import stream_seed
from cyclegan_cli.settings import GanLoss

SIDE = 7  # pixels along a patch
LEVELS = 4  # of the pyramid: each half the size of the one before
DIRECTIONS = 512  # on which patches are projected
DRAWN = 32  # of them at each step
PATCHES = 48  # of a step's pictures, at each level
KNOTS = 129  # quantiles that describe the real distribution
TRIMMED = 0.03  # of the ranks at either end, where generated patches are led no further
BEGIN = 256  # pictures from which the real distributions are learnt
REMEMBERED = 96  # steps whose generated patches stand for all generated ones
FLATTEST = 1e-3  # a deviation below an eighth of a grey level counts as none
WINDOW = 32  # pixels along a window whose spectrum is taken
STRIDE = 16  # pixels between them
LATEST = 1 / 32  # share of a step's windows in the mean spectrum
FAINT = 1e-4  # a power that counts as none: that of noise of 1.3 grey levels
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_CHROMA = 16  # pixels along a cell whose mean colour is compared
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
_USUAL = 0.2  # a distance of colours at which the square is as much as the distance
_FLAT = 2e-3  # a product of deviations: some 5 grey levels in both pictures


def wide(x: Tensor) -> Tensor:
    """Half precision as float32; other types as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def generator_loss(logits: Tensor, kind: GanLoss) -> Tensor:
    """The adversarial loss of a generator.

    logits: float, N×1×h×w, of the discriminator for generated pictures. ``lsgan``: mean
    (l − 1)² (Mao et al., ICCV 2017); ``vanilla``: −log σ(l), the non-saturating form (Goodfellow et
    al., 2014); ``hinge``: −l (Lim and Ye, 2017). Returns a scalar.
    """
    logits = wide(logits)
    if kind == "lsgan":
        return (logits - 1).square().mean()
    if kind == "vanilla":
        return functional.softplus(-logits).mean()
    return -logits.mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: GanLoss) -> Tensor:
    """½ [loss on real pictures + loss on generated ones].

    real, fake: float logits, N×1×h×w. The ½ slows the discriminator relative to the generator
    (paper, section 7.1). Returns a scalar.
    """
    real, fake = wide(real), wide(fake)
    if kind == "lsgan":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    if kind == "vanilla":
        return 0.5 * (functional.softplus(-real).mean() + functional.softplus(fake).mean())
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def l1(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖₁ as a mean over elements: the cycle-consistency and identity losses."""
    return functional.l1_loss(wide(a), wide(b))


def coarse_l1(a: Tensor, b: Tensor) -> Tensor:
    """``l1`` at a quarter of the size: coarse content, without texture."""
    return l1(functional.avg_pool2d(a, 4), functional.avg_pool2d(b, 4))


def structure_loss(painted: Tensor, picture: Tensor) -> Tensor:
    """1 minus the correlation of luma in 5×5 windows, at a quarter and an eighth of the size.

    float, N×3×H×W (or 1 channel) in [−1, 1], sides of at least 40. The structure term of Wang et
    al., "Image Quality Assessment", IEEE TIP 2004: contrast, palette and fine texture may change,
    the place of light and dark may not. Returns a scalar.
    """
    total = painted.new_zeros(())
    for size in (4, 8):
        a, b = (functional.avg_pool2d(luma(wide(p)), size) for p in (painted, picture))
        total = total + (1 - _correlation(a, b)).mean()
    return total / 2


def chroma_loss(generated: Tensor, source: Tensor, share: float = 0.8) -> Tensor:
    """How far colours are from ``share`` of the source's, squared, at a sixteenth of the size.

    Squared, so that no spot goes far: L1 is as well content with a few of them, in wild colours, as
    with one slight shift of all. Both float, N×3×H×W. Returns a scalar.
    """
    small = (functional.avg_pool2d(p.float(), _CHROMA) for p in (generated, source))
    made, wanted = map(_opponents, small)
    return ((made - share * wanted) ** 2).mean() / _USUAL


def _opponents(pictures: Tensor) -> Tensor:
    """Red minus green, and blue minus their mean."""
    red, green, blue = pictures.unbind(1)
    return torch.stack([red - green, blue - (red + green) / 2], dim=1)


def luma(pictures: Tensor) -> Tensor:
    """Rec. 601 luma of N×3×H×W (or 1 channel): N×1×H×W."""
    if pictures.shape[1] == 1:
        return pictures
    red, green, blue = (w * part for w, part in zip(LUMA, pictures.unbind(1), strict=True))
    return (red + green + blue)[:, None]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """In each 5×5 window; windows that are nearly flat in both count as correlated."""

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 5, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = (
        ((mean(x * x) - m * m).clamp_min(0) + 1e-8).sqrt() for x, m in ((a, mean_a), (b, mean_b))
    )
    shared = mean(a * b) - mean_a * mean_b
    return (shared + _FLAT) / (spread_a * spread_b + _FLAT)


class PatchLoss:
    """Distance of the patches of a domain's generated pictures from those of its real ones.

    Along random directions, the projection of each generated patch is compared with the real value
    of the same rank. Generated patches of the last ``REMEMBERED`` steps are ranked with it, so one
    picture a step is enough. The unit is the standard deviation of the real patches in a channel.

    ``name``: the domain, which labels the random streams together with ``seed``. ``begin`` must be
    called first.
    """

    def __init__(self, seed: int, name: str, channels: int, device: torch.device) -> None:
        self._seed, self._name = seed, name
        draw = torch.Generator().manual_seed(stream_seed(seed, "patches", name))
        directions = torch.randn(DIRECTIONS, channels * SIDE * SIDE, generator=draw)
        self._directions = (directions / directions.norm(dim=1, keepdim=True)).to(device)
        self.steps = 0
        size = channels * SIDE * SIDE
        # Quantiles of the real patches along each direction, their deviation for each value of a
        # patch, and the generated patches of the last steps.
        self.quantiles = torch.zeros(LEVELS, DIRECTIONS, KNOTS, device=device)
        self.deviations = torch.ones(LEVELS, size, device=device)
        self.made = torch.zeros(REMEMBERED, LEVELS, PATCHES, size, device=device)

    def __call__(self, generated: Tensor) -> Tensor:
        """The loss, a scalar: Huber's, in units of the real deviation, the mean of four levels.

        generated: float, N×channels×H×W in [−1, 1], sides of at least 56.
        """
        draw = self._stream("patch-draw", self.steps)
        place = self.steps % REMEMBERED
        total = generated.new_zeros(())
        for level, part in enumerate(_levels(generated)):
            patches = _patches(part, PATCHES, draw)
            which = torch.randperm(DIRECTIONS, generator=draw)[:DRAWN].to(part.device)
            self.made[place, level] = patches.detach()
            directions = (self._directions[which] / self.deviations[level]).T
            values = patches @ directions
            with torch.no_grad():
                wanted = self._wanted(level, which, directions, values.detach())
            total = total + functional.smooth_l1_loss(values, wanted, beta=0.2)
        self.steps += 1
        return total / LEVELS

    @torch.no_grad()
    def begin(self, real: Iterable[Tensor], generated: Iterable[Tensor]) -> None:
        """Measure about ``BEGIN`` real pictures, and remember the patches of generated ones.

        Fewer generated pictures than ``REMEMBERED`` are used repeatedly.
        """
        draw = self._stream("patch-begin", 0)
        seen: list[list[Tensor]] = [[] for _ in range(LEVELS)]
        for pictures in real:
            for level, part in enumerate(_levels(pictures)):
                seen[level].append(_patches(part, PATCHES, draw))
        channels = self.deviations.shape[1] // SIDE**2
        for level, parts in enumerate(seen):
            patches = torch.cat(parts)
            spread = patches.view(-1, channels, SIDE**2).std(dim=(0, 2)).clamp_min(FLATTEST)
            self.deviations[level] = spread.repeat_interleave(SIDE**2)
            ordered = sorted_projections(patches @ (self._directions / self.deviations[level]).T)
            places = (torch.arange(KNOTS) + 0.5) / KNOTS * ordered.shape[1]
            self.quantiles[level] = ordered[:, places.long()]
        made = [
            torch.stack([_patches(part, PATCHES, draw) for part in _levels(pictures)])
            for pictures in generated
        ]
        for place in range(REMEMBERED):
            self.made[place] = made[place % len(made)]

    def state(self) -> dict[str, Tensor]:
        """The tensors that it remembers; ``steps`` also belongs to its state."""
        kept = {"quantiles": self.quantiles, "deviations": self.deviations, "made": self.made}
        return {name: tensor.clone() for name, tensor in kept.items()}

    def load_state(self, kept: dict[str, Tensor], steps: int) -> None:
        """The inverse of ``state``. Raises KeyError or RuntimeError."""
        self.quantiles.copy_(kept["quantiles"])
        self.deviations.copy_(kept["deviations"])
        self.made.copy_(kept["made"])
        self.steps = steps

    def _stream(self, label: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(self._seed, label, self._name, number))

    def _wanted(self, level: int, which: Tensor, directions: Tensor, values: Tensor) -> Tensor:
        """The real value of the rank of each generated value: patches × directions."""
        made = self.made[:, level].flatten(0, 1)
        ordered = sorted_projections(made @ directions)
        ranks = torch.searchsorted(ordered, values.T.contiguous()) / ordered.shape[1]
        # A sun or poppies are in few paintings: each batch would get their share of spots.
        rare = TRIMMED * KNOTS if level > 0 else 0.0
        place = (ranks * KNOTS - 0.5).clamp(rare, KNOTS - 1 - rare)
        low = place.long().clamp(max=KNOTS - 2)
        real = self.quantiles[level][which]
        return torch.lerp(real.gather(1, low), real.gather(1, low + 1), place - low).T


class SpectrumLoss:
    """Distance of the mean power spectrum of a domain's generated pictures from that of real ones.

    The mean over windows of 32×32 pixels of the logarithm of the power at each frequency, in each
    channel. Regular patterns show in it that hardly any patch or feature tells, and so does a loss
    of contrast at any size up to the window's. ``begin`` must be called first.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.steps = 0
        hann = torch.hann_window(WINDOW, device=device)
        hann = hann / hann.norm()
        self._window = hann.outer(hann)  # of norm 1: white noise has its variance as power
        # Mean logarithms: of real pictures, and of the generated ones of the last steps.
        self.real = torch.zeros(channels, WINDOW, WINDOW // 2 + 1, device=device)
        self.made = torch.zeros_like(self.real)

    def __call__(self, generated: Tensor) -> Tensor:
        """Mean over frequencies of the squared difference of logarithms, a scalar.

        generated: float, N×channels×H×W in [−1, 1], sides of at least 32. The gradient is that of
        this step's pictures standing for all.
        """
        now = self._logarithm(generated)
        mean = torch.lerp(self.made, now, LATEST)
        self.made.copy_(mean.detach())
        self.steps += 1
        loss = (mean - self.real).square().mean()
        return loss.detach() + (loss - loss.detach()) / LATEST

    @torch.no_grad()
    def begin(self, real: Iterable[Tensor], generated: Iterable[Tensor]) -> None:
        """Measure real pictures, and some generated ones to begin with."""
        for mean, pictures in ((self.real, real), (self.made, generated)):
            mean.copy_(torch.stack([self._logarithm(some) for some in pictures]).mean(0))

    def state(self) -> dict[str, Tensor]:
        """The tensors that it remembers; ``steps`` also belongs to its state."""
        return {"real": self.real.clone(), "made": self.made.clone()}

    def load_state(self, kept: dict[str, Tensor], steps: int) -> None:
        """The inverse of ``state``. Raises KeyError or RuntimeError."""
        self.real.copy_(kept["real"])
        self.made.copy_(kept["made"])
        self.steps = steps

    def _logarithm(self, pictures: Tensor) -> Tensor:
        """The mean logarithm of the power: channels×32×17."""
        windows = pictures.float().unfold(2, WINDOW, STRIDE).unfold(3, WINDOW, STRIDE)
        windows = windows - windows.mean((-2, -1), keepdim=True)
        spectrum = torch.fft.rfft2(windows * self._window)
        power = spectrum.real.square() + spectrum.imag.square()
        logarithm: Tensor = (power + FAINT).log()
        return logarithm.mean((0, 2, 3))


def sorted_projections(values: Tensor) -> Tensor:
    """vectors × directions -> directions × vectors, sorted along each direction."""
    if values.device.type == "cpu":
        # NumPy's sort takes a tenth of the time of PyTorch's, which keeps track of the order.
        return torch.from_numpy(np.sort(values.T.contiguous().numpy(), axis=1))
    return values.T.contiguous().sort(dim=1).values


# -- patches of a Laplacian pyramid ----------------------------------------------------------------


def pyramid(
    pictures: Tensor, levels: int, enlarge: Callable[[Tensor, torch.Size], Tensor]
) -> list[Tensor]:
    """What each size of N×C×H×W adds to the next coarser one, and the coarsest: ``levels`` in all.

    ``enlarge``: makes a level as large as the size given, that of the finer one.
    """
    found = []
    for _ in range(levels - 1):
        coarse = _halve(pictures)
        found.append(pictures - enlarge(coarse, pictures.shape[2:]))
        pictures = coarse
    return [*found, pictures]


def _levels(pictures: Tensor) -> list[Tensor]:
    return pyramid(pictures.float(), LEVELS, _bilinear)


def _bilinear(pictures: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(pictures, size=size, mode="bilinear", align_corners=False)


def _halve(pictures: Tensor) -> Tensor:
    """N×C×H×W -> N×C×⌈H/2⌉×⌈W/2⌉, smoothed."""
    return smooth(pictures)[:, :, ::2, ::2]


def smooth(pictures: Tensor) -> Tensor:
    """N×C×H×W under the 5×5 binomial filter, mirrored at the border.

    Shifted sums along one axis, then the other: a depthwise convolution takes ten times as long.
    """
    height, width = pictures.shape[2:]
    padded = functional.pad(pictures, (2, 2, 2, 2), mode="reflect")
    rows = sum(
        (weight * padded[:, :, k : k + height] for k, weight in enumerate(_BINOMIAL)),
        start=torch.zeros(()),
    )
    return sum(
        (weight * rows[:, :, :, k : k + width] for k, weight in enumerate(_BINOMIAL)),
        start=torch.zeros(()),
    )


def cut_patches(pictures: Tensor, which: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
    """Patches of N×C×H×W with their corners at (tops, lefts): count×C×SIDE×SIDE."""
    step = torch.arange(SIDE, device=pictures.device)
    rows = (tops[:, None] + step)[:, None, :, None]
    columns = (lefts[:, None] + step)[:, None, None, :]
    planes = torch.arange(pictures.shape[1], device=pictures.device)[None, :, None, None]
    return pictures[which[:, None, None, None], planes, rows, columns]


def _patches(part: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """``count`` patches anywhere in N×C×H×W: count × (C · SIDE²)."""
    n, _, height, width = part.shape
    limits = (n, height - SIDE + 1, width - SIDE + 1)
    places = [torch.randint(limit, (count,), generator=draw).to(part.device) for limit in limits]
    return cut_patches(part, *places).flatten(1)

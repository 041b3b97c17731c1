"""Adversarial, cycle-consistency and identity losses (Zhu et al., ICCV 2017, sections 3 and 5.2).

All are means over every element, never sums, computed in float32 or better.

The patch loss draws the patches of generated pictures to those of the real ones, all pictures taken
together. Sliced Wasserstein: Rabin et al., "Wasserstein Barycenter and its Application to Texture
Mixing", SSVM 2011; patches of a Laplacian pyramid: Karras et al., ICLR 2018, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.measures import halve
from cyclegan_cli.randomness import stream_seed
from cyclegan_cli.settings import GanLoss

__all__ = [
    "BEGIN",
    "REMEMBERED",
    "PatchLoss",
    "coarse_l1",
    "discriminator_loss",
    "generator_loss",
    "l1",
    "luma",
    "structure_loss",
]

SIDE = 7  # pixels along a patch
LEVELS = 4  # of the pyramid: each half the size of the one before
DIRECTIONS = 512  # on which patches are projected
DRAWN = 32  # of them at each step
PATCHES = 48  # of a step's pictures, at each level
KNOTS = 129  # quantiles that describe the real distribution
BEGIN = 256  # pictures from which the real distributions are learnt
REMEMBERED = 96  # steps whose generated patches stand for all generated ones
_FLATTEST = 1e-3  # a deviation below an eighth of a grey level is none
_FLAT = 2e-3  # a product of deviations: some 5 grey levels in both pictures


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def generator_loss(logits: Tensor, kind: GanLoss) -> Tensor:
    """What a generator pays while the discriminator tells its pictures from real ones.

    logits: float, N×1×h×w, the discriminator's answer to generated pictures. ``lsgan``: mean
    (l − 1)² (Mao et al., ICCV 2017); ``vanilla``: −log σ(l), the non-saturating form (Goodfellow et
    al., 2014); ``hinge``: −l (Lim and Ye, 2017). Returns a scalar.
    """
    logits = _wide(logits)
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
    real, fake = _wide(real), _wide(fake)
    if kind == "lsgan":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    if kind == "vanilla":
        return 0.5 * (functional.softplus(-real).mean() + functional.softplus(fake).mean())
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def l1(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖₁ as a mean over elements: the cycle-consistency and identity losses."""
    return functional.l1_loss(_wide(a), _wide(b))


def coarse_l1(a: Tensor, b: Tensor) -> Tensor:
    """``l1`` at a quarter of the size: what a picture shows, not how it is drawn."""
    return l1(functional.avg_pool2d(a, 4), functional.avg_pool2d(b, 4))


def structure_loss(painted: Tensor, picture: Tensor) -> Tensor:
    """How little of the light and dark of ``picture`` is left in ``painted``: 0, all; 1, none.

    float, N×3×H×W (or 1 channel) in [−1, 1], sides of at least 40. At a quarter and an eighth of
    the size, 1 minus the correlation of luma in 5×5 windows (the structure term of Wang et al.,
    "Image Quality Assessment", IEEE TIP 2004): contrast and palette may change, and whatever is
    finer than a stroke; what lies where may not. Returns a scalar.
    """
    total = painted.new_zeros(())
    for size in (4, 8):
        a, b = (functional.avg_pool2d(luma(_wide(p)), size) for p in (painted, picture))
        total = total + (1 - _correlation(a, b)).mean()
    return total / 2


def luma(pictures: Tensor) -> Tensor:
    """Rec. 601 luma of N×3×H×W (or 1 channel): N×1×H×W."""
    if pictures.shape[1] == 1:
        return pictures
    red, green, blue = pictures.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """In each 5×5 window; windows that are nearly flat in both correlate whatever they hold."""

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 5, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = (
        ((mean(x * x) - m * m).clamp_min(0) + 1e-8).sqrt() for x, m in ((a, mean_a), (b, mean_b))
    )
    shared = mean(a * b) - mean_a * mean_b
    return (shared + _FLAT) / (spread_a * spread_b + _FLAT)


class PatchLoss:
    """How far the generated pictures of one domain are from its real ones, patch by patch.

    Along each of many directions, the projections of all generated patches have a distribution,
    and so have those of the real ones. A generated patch is drawn to the real value of its own
    rank: not to one painting, but to its place among all. One picture at a time is enough, since
    the patches of the last ``REMEMBERED`` steps stand beside it. As in ``measures``, the real
    patches' deviation in a channel is the unit.

    ``name``: the domain, which names the random choices together with ``seed``. ``begin`` comes
    before the first call.
    """

    def __init__(self, seed: int, name: str, channels: int, device: torch.device) -> None:
        self._seed, self._name = seed, name
        draw = torch.Generator().manual_seed(stream_seed(seed, "patches", name))
        directions = torch.randn(DIRECTIONS, channels * SIDE * SIDE, generator=draw)
        self._directions = (directions / directions.norm(dim=1, keepdim=True)).to(device)
        self.steps = 0
        size = channels * SIDE * SIDE
        # What it remembers: the real patches' quantiles along each direction and their deviation
        # per value of a patch, and the generated patches, the oldest of which makes room.
        self.quantiles = torch.zeros(LEVELS, DIRECTIONS, KNOTS, device=device)
        self.deviations = torch.ones(LEVELS, size, device=device)
        self.made = torch.zeros(REMEMBERED, LEVELS, PATCHES, size, device=device)

    def __call__(self, generated: Tensor) -> Tensor:
        """The loss of ``generated``, a scalar, among those that were generated before it.

        generated: float, N×channels×H×W in [−1, 1], sides of at least 56. The distance is Huber's,
        in units of the real patches' deviation, the mean of four levels.
        """
        draw = self._stream("patch-draw", self.steps)
        place = self.steps % REMEMBERED
        total = generated.new_zeros(())
        for level, part in enumerate(_pyramid(generated.float())):
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
        """Learn from pictures like those that will come: of ``real`` some ``BEGIN``, of
        ``generated`` as many as are remembered (if fewer, they are gone through again).
        """
        draw = self._stream("patch-begin", 0)
        seen: list[list[Tensor]] = [[] for _ in range(LEVELS)]
        for pictures in real:
            for level, part in enumerate(_pyramid(pictures.float())):
                seen[level].append(_patches(part, PATCHES, draw))
        channels = self.deviations.shape[1] // SIDE**2
        for level, parts in enumerate(seen):
            patches = torch.cat(parts)
            spread = patches.view(-1, channels, SIDE**2).std(dim=(0, 2)).clamp_min(_FLATTEST)
            self.deviations[level] = spread.repeat_interleave(SIDE**2)
            ordered = _ordered(patches @ (self._directions / self.deviations[level]).T)
            places = (torch.arange(KNOTS) + 0.5) / KNOTS * ordered.shape[1]
            self.quantiles[level] = ordered[:, places.long()]
        made = [
            torch.stack([_patches(part, PATCHES, draw) for part in _pyramid(pictures.float())])
            for pictures in generated
        ]
        for place in range(REMEMBERED):
            self.made[place] = made[place % len(made)]

    def state(self) -> dict[str, Tensor]:
        """What it remembers; ``steps`` belongs to it."""
        kept = {"quantiles": self.quantiles, "deviations": self.deviations, "made": self.made}
        return {name: tensor.clone() for name, tensor in kept.items()}

    def load_state(self, kept: dict[str, Tensor], steps: int) -> None:
        """The inverse of ``state``. Raises KeyError or RuntimeError for anything else."""
        self.quantiles.copy_(kept["quantiles"])
        self.deviations.copy_(kept["deviations"])
        self.made.copy_(kept["made"])
        self.steps = steps

    def _stream(self, label: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(self._seed, label, self._name, number))

    def _wanted(self, level: int, which: Tensor, directions: Tensor, values: Tensor) -> Tensor:
        """For each generated value the real value of its rank: patches × directions."""
        made = self.made[:, level].flatten(0, 1)
        ordered = _ordered(made @ directions)
        ranks = torch.searchsorted(ordered, values.T.contiguous()) / ordered.shape[1]
        place = (ranks * KNOTS - 0.5).clamp(0, KNOTS - 1)
        low = place.long().clamp(max=KNOTS - 2)
        real = self.quantiles[level][which]
        return torch.lerp(real.gather(1, low), real.gather(1, low + 1), place - low).T


def _ordered(values: Tensor) -> Tensor:
    """patches × directions -> directions × patches, each direction's values in order."""
    if values.device.type == "cpu":
        # NumPy's sort takes a tenth of the time of PyTorch's, which keeps track of the order.
        return torch.from_numpy(np.sort(values.T.contiguous().numpy(), axis=1))
    return values.T.contiguous().sort(dim=1).values


def _patches(part: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """``count`` patches anywhere in N×C×H×W: count × (C · SIDE²)."""
    n, channels, height, width = part.shape

    def anywhere(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=draw).to(part.device)

    step = torch.arange(SIDE, device=part.device)
    pictures = anywhere(n)[:, None, None, None]
    rows = (anywhere(height - SIDE + 1)[:, None] + step)[:, None, :, None]
    columns = (anywhere(width - SIDE + 1)[:, None] + step)[:, None, None, :]
    planes = torch.arange(channels, device=part.device)[None, :, None, None]
    return part[pictures, planes, rows, columns].flatten(1)


def _pyramid(pictures: Tensor) -> list[Tensor]:
    """What each size adds to the next coarser one, and at last the coarsest."""
    levels = []
    for _ in range(LEVELS - 1):
        coarse = halve(pictures)
        fine = functional.interpolate(
            coarse, size=pictures.shape[-2:], mode="bilinear", align_corners=False
        )
        levels.append(pictures - fine)
        pictures = coarse
    return [*levels, pictures]

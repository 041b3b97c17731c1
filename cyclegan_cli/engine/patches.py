"""A loss that draws the patches of generated pictures to those of the real ones, all pictures taken
together: the sliced Wasserstein distance, learnt on the way.

Sliced Wasserstein: Rabin et al., "Wasserstein Barycenter and its Application to Texture Mixing",
SSVM 2011; patches of a Laplacian pyramid: Karras et al., ICLR 2018, section 5. Quantiles that are
followed step by step: Robbins and Monro, Annals of Mathematical Statistics 1951.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.measures import halve
from cyclegan_cli.randomness import stream_seed

__all__ = ["PatchLoss"]

SIDE = 7  # pixels along a patch
LEVELS = 4  # of the pyramid: each half the size of the one before
DIRECTIONS = 512  # on which patches are projected
DRAWN = 128  # of them at each step
STRIDES = (6, 3, 2, 1)  # between patches at each level: about as many of each
KNOTS = 65  # quantiles that describe a distribution
FOLLOW = 0.06  # how far a quantile moves at a step, in units of the distribution's spread
BEGIN = 96  # pictures from which the distributions are first known
_LOW, _HIGH = 10, 54  # knots between which the spread is taken: the middle two thirds


class PatchLoss:
    """How far the generated pictures of one domain are from its real ones, patch by patch.

    Along each of many directions, the projections of all generated patches have a distribution,
    and so have those of the real ones. A generated patch is drawn to the real value of its own
    rank: not to one painting, but to its place among all. One picture at a time is enough, since
    both distributions are remembered, as quantiles that follow what is seen.

    ``name``: the domain, which names the random choices together with ``seed``. ``begin`` comes
    before the first call.
    """

    def __init__(self, seed: int, name: str, channels: int, device: torch.device) -> None:
        self._seed, self._name = seed, name
        draw = torch.Generator().manual_seed(stream_seed(seed, "patches", name))
        directions = torch.randn(DIRECTIONS, channels, SIDE, SIDE, generator=draw)
        self._directions = (directions / directions.flatten(1).norm(dim=1)[:, None, None, None]).to(
            device
        )
        self._ranks = torch.linspace(0.002, 0.998, KNOTS, device=device)
        self.steps = 0
        # real, generated: LEVELS×DIRECTIONS×KNOTS, each in order
        self.quantiles = torch.zeros(2, LEVELS, DIRECTIONS, KNOTS, device=device)

    def __call__(self, real: Tensor, generated: Tensor) -> Tensor:
        """The loss of ``generated``, a scalar; both distributions learn from the pictures.

        real, generated: float, N×channels×H×W in [−1, 1], sides of at least 56. The distances are
        in units of the spread of the real patches, the mean of four levels.
        """
        draw = torch.Generator().manual_seed(
            stream_seed(self._seed, "patch-draw", self._name, self.steps)
        )
        which = torch.randperm(DIRECTIONS, generator=draw)[:DRAWN].to(real.device)
        total = generated.new_zeros(())
        reals = _pyramid(real.detach().float())
        for level, part in enumerate(_pyramid(generated.float())):
            offset = torch.randint(STRIDES[level], (2,), generator=draw).tolist()
            with torch.no_grad():
                seen = self._project(reals[level], level, which, offset)
                self._follow(0, level, which, seen)
            values = self._project(part, level, which, offset)
            with torch.no_grad():
                self._follow(1, level, which, values.detach())
                wanted, spread = self._wanted(level, which, values.detach())
            total = total + functional.smooth_l1_loss(values / spread, wanted / spread, beta=0.1)
        self.steps += 1
        return total / LEVELS

    @torch.no_grad()
    def begin(self, real: Iterable[Tensor], generated: Iterable[Tensor]) -> None:
        """Learn both distributions from pictures like those that will come: some ``BEGIN``."""
        every = torch.arange(DIRECTIONS, device=self.quantiles.device)
        for side, batches in enumerate((real, generated)):
            seen: list[list[Tensor]] = [[] for _ in range(LEVELS)]
            for pictures in batches:
                for level, part in enumerate(_pyramid(pictures.float())):
                    values = self._project(part, level, every, [0, 0])
                    seen[level].append(values[:, :: -(-values.shape[1] // 64)])
            for level, parts in enumerate(seen):
                ordered = torch.cat(parts, 1).sort(dim=1).values
                places = (self._ranks * (ordered.shape[1] - 1)).round().long()
                self.quantiles[side, level] = ordered[:, places]

    def _project(self, part: Tensor, level: int, which: Tensor, offset: list[int]) -> Tensor:
        """The projections of evenly spread patches: directions × patches."""
        part = part[..., offset[0] :, offset[1] :]
        found = functional.conv2d(part, self._directions[which], stride=STRIDES[level])
        return found.transpose(0, 1).flatten(1)

    def _follow(self, side: int, level: int, which: Tensor, values: Tensor) -> None:
        """Move each quantile by the share of values that lies on its wrong side."""
        now = self.quantiles[side, level][which]
        ordered = values.sort(dim=1).values
        below = torch.searchsorted(ordered, now) / values.shape[1]
        moved = now + FOLLOW * _spread(now) * (self._ranks - below)
        self.quantiles[side, level][which] = moved.sort(dim=1).values

    def _wanted(self, level: int, which: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """For each generated value the real value of its rank; and the spread of the real ones."""
        real, made = (self.quantiles[side, level][which] for side in (0, 1))
        above = torch.searchsorted(made, values.contiguous()).clamp(1, KNOTS - 1)
        low, high = made.gather(1, above - 1), made.gather(1, above)
        share = (values - low) / (high - low + 1e-6)
        inside = share.clamp(0, 1)
        real_low, real_high = real.gather(1, above - 1), real.gather(1, above)
        beyond = (share.clamp(-1, 2) - inside) * (high - low)
        return real_low + inside * (real_high - real_low) + beyond, _spread(real) / 2


def _spread(quantiles: Tensor) -> Tensor:
    return (quantiles[:, _HIGH] - quantiles[:, _LOW]).clamp_min(0.004)[:, None]


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

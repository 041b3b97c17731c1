"""What goes wrong with a CycleGAN though every loss is finite, seen in what a training measures.

Known failures, each for both directions, by figures that a healthy run keeps clear of
(docs/troubleshooting.md has its margins). Nothing here touches the training: it reads the losses
and the sampled pictures. A warning is given once; it can come again only after the figure was well
again, on the far side of a second threshold. A resumed run begins anew, and so says again what is
still wrong.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.losses import luma
from cyclegan_cli.settings import GanLoss, TrainSettings

__all__ = [
    "Finding",
    "Watchdogs",
    "change",
    "discriminator_floor",
    "luminance_correlation",
    "variety",
]

EXPLODED = 1000.0  # times what guessing costs a discriminator; well again below a tenth
WINDOW = 500  # steps over which a discriminator's loss is averaged
EARLY = (100, 1000)  # steps in which pictures prove nothing: a quarter of all, within these
LATE = 0.5  # of all steps: from here an output that is still its input is a finding
IN_A_ROW = 2  # samplings that must agree
# A warning begins below the first figure and ends above the second.
UNCHANGED = (0.10, 0.15)
ALIKE = (0.20, 0.35)
INVERTED = (-0.20, 0.0)
_COARSE = 16  # the side of the small pictures that are compared with each other

_EXPLODED_HINT = (
    "The training has diverged: its style will be worthless. Start again with a lower --lr (the "
    "default is 2e-4), or from before: cyclegan resume RUN --checkpoint best"
)
_COLLAPSE_HINT = (
    "The generators learn nothing from a discriminator that is always right. Usual cures: a lower "
    "--lr, more pictures, an --lambda-identity that is lower, or another --seed."
)
_UNCHANGED_HINT = (
    "Usual cures: a lower --lambda-identity (0 to 0.1), a lower --lambda-cycle (5), more epochs. "
    "If the two domains differ little, so must the pictures."
)
_ALIKE_HINT = (
    "Usual cures: go back to an earlier checkpoint (cyclegan resume RUN --checkpoint PATH), or "
    "start again with a lower --lr, a higher --lambda-cycle, another --seed, or more pictures."
)
_INVERTED_HINT = (
    "More steps seldom turn it round. Start again with a higher --lambda-identity (0.5 to 1) or "
    "another --seed; if one domain is the negative of the other, all is well."
)


_GUESSING: dict[GanLoss, float] = {"lsgan": 0.25, "vanilla": math.log(2), "hinge": 1.0}


@dataclass(frozen=True)
class Finding:
    """One warning. ``kind``: ``exploded``, ``discriminator-collapse``, ``unchanged``, ``alike`` or
    ``inverted``;
    ``message``: what was seen, with its figures; ``hint``: what usually helps."""

    kind: str
    message: str
    hint: str


def discriminator_floor(gan: GanLoss) -> tuple[float, float]:
    """(collapsed below, well again above), in units of the discriminator's loss.

    Guessing costs 0.25 under least squares, 0.69 under the vanilla loss and 1 under hinge; a
    discriminator that is always right costs 0.
    """
    return 0.04 * _GUESSING[gan], 0.16 * _GUESSING[gan]


# -- the figures -------------------------------------------------------------------------------


def change(before: Tensor, after: Tensor) -> float:
    """How far ``after`` is from ``before``, in units of the contrast of ``before``.

    Both N×C×H×W in [−1, 1]. Root of the mean squared difference over the standard deviation of
    ``before``: 0 for the identity. A flat ``before`` counts as one of little contrast.
    """
    contrast = before.std(unbiased=False).clamp(min=0.05)
    return float((after - before).square().mean().sqrt() / contrast)


def variety(pictures: Tensor) -> float:
    """How different the pictures of a batch are from each other, coarsely.

    N×C×H×W in [−1, 1], N ≥ 2. The root of the mean squared distance of the pictures, reduced to
    16×16, from their mean: texture, which differs by itself, does not count.
    """
    small = _coarse(pictures)
    return float((small - small.mean(dim=0, keepdim=True)).square().mean().sqrt())


def luminance_correlation(before: Tensor, after: Tensor) -> float:
    """Pearson's correlation of the luminance of both, reduced to 16×16; mean over the pictures.

    Both N×3×H×W (or N×1×H×W) in [−1, 1]. In −1..1; a flat picture correlates with nothing: 0.
    """
    a, b = (_coarse(luma(p)).flatten(1) for p in (before, after))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-3)
    return float(((a * b).sum(dim=1) / norms).mean())


def _coarse(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[2:]
    return functional.adaptive_avg_pool2d(pictures, (min(_COARSE, height), min(_COARSE, width)))


# -- over time ---------------------------------------------------------------------------------


class _Alarm:
    """Rings once when a figure was below ``low`` so many times in a row; again only after it was
    above ``high``."""

    def __init__(self, thresholds: tuple[float, float], in_a_row: int = 1) -> None:
        self._low, self._high = thresholds
        self._needed = in_a_row
        self._count = 0
        self._rung = False

    def rings(self, figure: float) -> bool:
        self._count = self._count + 1 if figure < self._low else 0
        if figure > self._high:
            self._rung = False
        if self._rung or self._count < self._needed:
            return False
        self._rung = True
        return True


class _Window:
    """The mean of a loss over the last WINDOW steps, of means over some steps each."""

    def __init__(self) -> None:
        self._parts: deque[tuple[int, float]] = deque()
        self._steps = 0

    def add(self, steps: int, mean: float) -> float | None:
        """The mean with this part, or None while there are fewer steps than the window has."""
        self._parts.append((steps, mean))
        self._steps += steps
        while self._steps - self._parts[0][0] >= WINDOW:
            self._steps -= self._parts.popleft()[0]
        if self._steps < WINDOW:
            return None
        return sum(n * m for n, m in self._parts) / self._steps


class Watchdogs:
    """The watch over one training of ``total`` steps that begins (or goes on) at ``step``."""

    def __init__(self, settings: TrainSettings, step: int, total: int) -> None:
        self._step = step
        self._total = total
        learning = ("D_X", "D_Y") if settings.lambda_gan > 0 else ()  # else they take no steps
        self._windows = {name: _Window() for name in learning}
        floor = discriminator_floor(settings.gan)
        most = EXPLODED * _GUESSING[settings.gan]
        self._exploded = _Alarm((-most, -most / 10))
        self._collapsed = {name: _Alarm(floor) for name in self._windows}
        self._unchanged, self._alike, self._inverted = (
            {name: _Alarm(thresholds, IN_A_ROW) for name in ("G(x)", "F(y)")}
            for thresholds in (UNCHANGED, ALIKE, INVERTED)
        )

    def measured(self, step: int, losses: Mapping[str, float]) -> list[Finding]:
        """What the mean ``losses`` of the steps since the last call tell."""
        steps, self._step = step - self._step, step
        found = self._look_for_explosion(losses)
        for name, window in self._windows.items():
            mean = window.add(steps, losses[name]) if steps > 0 else None
            if mean is not None and self._collapsed[name].rings(mean):
                message = f"{name}'s loss was {mean:.4f} over {WINDOW} steps: it is always right"
                found.append(Finding("discriminator-collapse", f"{message}.", _COLLAPSE_HINT))
        return found

    def sampled(self, step: int, pictures: Mapping[str, Tensor]) -> list[Finding]:
        """What the pictures of ``CycleGAN.sample`` tell: float32, N×3×H×W in [−1, 1]."""
        if step < min(max(self._total / 4, EARLY[0]), EARLY[1]):
            return []
        x, y = pictures["x"], pictures["y"]
        found: list[Finding] = []
        for name, before, goal in (("G(x)", x, y), ("F(y)", y, x)):
            after = pictures[name]
            if step >= LATE * self._total:
                found += self._look_for_identity(name, before, after)
            found += self._look_for_sameness(name, before, after, goal)
            found += self._look_for_inversion(name, before, after)
        return found

    def _look_for_explosion(self, losses: Mapping[str, float]) -> list[Finding]:
        name = max(losses, key=lambda one: abs(losses[one]), default="")
        if not name or not self._exploded.rings(-abs(losses[name])):
            return []
        message = f"The loss {name} is {losses[name]:.3g}: losses that explode learn nothing."
        return [Finding("exploded", message, _EXPLODED_HINT)]

    def _look_for_identity(self, name: str, before: Tensor, after: Tensor) -> list[Finding]:
        share = change(before, after)
        if not self._unchanged[name].rings(share):
            return []
        source = name[2]
        message = f"{name} hardly differs from {source}: by {share:.0%} of its contrast."
        return [Finding("unchanged", message, _UNCHANGED_HINT)]

    def _look_for_sameness(
        self, name: str, before: Tensor, after: Tensor, goal: Tensor
    ) -> list[Finding]:
        if min(len(before), len(goal)) < 2:
            return []
        real = min(variety(before), variety(goal))
        share = variety(after) / max(real, 0.02)
        if not self._alike[name].rings(share):
            return []
        message = (
            f"{name} is alike for different pictures: its variety is {share:.0%} of what "
            "the real ones have."
        )
        return [Finding("alike", message, _ALIKE_HINT)]

    def _look_for_inversion(self, name: str, before: Tensor, after: Tensor) -> list[Finding]:
        correlation = luminance_correlation(before, after)
        if not self._inverted[name].rings(correlation):
            return []
        source = name[2]
        message = (
            f"{name} is dark where {source} is light: their luminance correlates by "
            f"{correlation:.2f}."
        )
        return [Finding("inverted", message, _INVERTED_HINT)]

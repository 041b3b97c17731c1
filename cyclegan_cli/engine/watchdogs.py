"""Warnings about known failures of a training whose losses are finite.

They are found in the losses and sampled pictures, for both directions; docs/troubleshooting.md has
the thresholds. A warning is given once, and again only after the figure has passed a second
threshold. A resumed run has no memory of earlier warnings.
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

EXPLODED = 1000.0  # times the loss of a guessing discriminator; the warning ends below a tenth
WINDOW = 500  # steps over which a discriminator's loss is averaged
EARLY = (100, 1000)  # limits of the steps without warnings about pictures: a quarter of all
LATE = 0.5  # of all steps: from here on an output that equals its input is a finding
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
    ``inverted``; ``message``: the finding, with figures; ``hint``: the usual remedy."""

    kind: str
    message: str
    hint: str


def discriminator_floor(gan: GanLoss) -> tuple[float, float]:
    """Thresholds of a discriminator's loss: (warn below, end above).

    Guessing gives 0.25 for lsgan, 0.69 for vanilla and 1 for hinge; always being right gives 0.
    """
    return 0.04 * _GUESSING[gan], 0.16 * _GUESSING[gan]


# -- the figures -------------------------------------------------------------------------------


def change(before: Tensor, after: Tensor) -> float:
    """Root mean squared difference over the standard deviation of ``before`` (at least 0.05).

    Both N×C×H×W in [−1, 1]. 0 for the identity.
    """
    contrast = before.std(unbiased=False).clamp(min=0.05)
    return float((after - before).square().mean().sqrt() / contrast)


def variety(pictures: Tensor) -> float:
    """Root mean squared distance of the pictures, reduced to 16×16, from their mean.

    N×C×H×W in [−1, 1], N ≥ 2. Reduced, so that texture does not count.
    """
    small = _coarse(pictures)
    return float((small - small.mean(dim=0, keepdim=True)).square().mean().sqrt())


def luminance_correlation(before: Tensor, after: Tensor) -> float:
    """Pearson's correlation of luma, reduced to 16×16, in −1..1; the mean over the pictures.

    Both N×3×H×W (or N×1×H×W) in [−1, 1]. 0 for a flat picture.
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
    """Rings once if a figure is below ``low`` so many times in a row, and again after it was above
    ``high``."""

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
    """The mean of a loss over the last WINDOW steps, from means over a few steps each."""

    def __init__(self) -> None:
        self._parts: deque[tuple[int, float]] = deque()
        self._steps = 0

    def add(self, steps: int, mean: float) -> float | None:
        """The mean with this part, or None before there are WINDOW steps."""
        self._parts.append((steps, mean))
        self._steps += steps
        while self._steps - self._parts[0][0] >= WINDOW:
            self._steps -= self._parts.popleft()[0]
        if self._steps < WINDOW:
            return None
        return sum(n * m for n, m in self._parts) / self._steps


class Watchdogs:
    """Watches a training of ``total`` steps that begins or resumes at ``step``."""

    def __init__(self, settings: TrainSettings, step: int, total: int) -> None:
        self._step = step
        self._total = total
        learning = ("D_X", "D_Y") if settings.lambda_gan > 0 else ()  # else they are not trained
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
        """Findings in the mean ``losses`` of the steps since the last call."""
        steps, self._step = step - self._step, step
        found = self._look_for_explosion(losses)
        for name, window in self._windows.items():
            mean = window.add(steps, losses[name]) if steps > 0 else None
            if mean is not None and self._collapsed[name].rings(mean):
                message = f"{name}'s loss was {mean:.4f} over {WINDOW} steps: it is always right"
                found.append(Finding("discriminator-collapse", f"{message}.", _COLLAPSE_HINT))
        return found

    def sampled(self, step: int, pictures: Mapping[str, Tensor]) -> list[Finding]:
        """Findings in the pictures of ``CycleGAN.sample``: float32, N×3×H×W in [−1, 1]."""
        if step < min(max(self._total / 4, EARLY[0]), EARLY[1]):
            return []
        x, y = pictures["x"], pictures["y"]
        found: list[Finding] = []
        for name, before, goal in (("G(x)", x, y), ("F(y)", y, x)):
            after, source = pictures[name], name[2]
            share = change(before, after) if step >= LATE * self._total else math.inf
            if self._unchanged[name].rings(share):
                message = f"{name} hardly differs from {source}: by {share:.0%} of its contrast."
                found.append(Finding("unchanged", message, _UNCHANGED_HINT))
            share = math.inf
            if min(len(before), len(goal)) > 1:
                share = variety(after) / max(min(variety(before), variety(goal)), 0.02)
            if self._alike[name].rings(share):
                message = f"{name} is alike for different pictures: its variety is {share:.0%} of "
                message += "what the real ones have."
                found.append(Finding("alike", message, _ALIKE_HINT))
            correlation = luminance_correlation(before, after)
            if self._inverted[name].rings(correlation):
                message = f"{name} is dark where {source} is light: their luminance correlates by "
                message += f"{correlation:.2f}."
                found.append(Finding("inverted", message, _INVERTED_HINT))
        return found

    def _look_for_explosion(self, losses: Mapping[str, float]) -> list[Finding]:
        name = max(losses, key=lambda one: abs(losses[one]), default="")
        if not name or not self._exploded.rings(-abs(losses[name])):
            return []
        message = f"The loss {name} is {losses[name]:.3g}: losses that explode learn nothing."
        return [Finding("exploded", message, _EXPLODED_HINT)]

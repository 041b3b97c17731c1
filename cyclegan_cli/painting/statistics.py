"""The statistics of one InstanceNorm: measured strip by strip, merged exactly, or given.

Merging is that of Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances", 1979: the mean of the strips' variances would be wrong, since the
strips' means differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.engine.layers import EPS

__all__ = ["Moments", "OverrideStats", "factors", "is_alive"]

_ROUNDING = 1e-12  # the variance of values near 1 that differ by float32's rounding of sums


@dataclass(frozen=True)
class Moments:
    """Of each channel: how many values, their mean, and the sum of their squared deviations.

    ``mean`` and ``m2``: float64, C values each: NumPy arrays, or tensors on the CUDA device that
    measured them, so that nobody has to wait for it. The biased variance is m2 / count.
    """

    count: int
    mean: Any
    m2: Any

    @property
    def variance(self) -> Any:
        """The biased variance: float64, C values, never negative."""
        return self.m2 / self.count

    def on_host(self) -> Moments:
        """The same as NumPy arrays."""
        if isinstance(self.mean, np.ndarray):
            return self
        return Moments(self.count, self.mean.cpu().numpy(), self.m2.cpu().numpy())

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together."""
        count = self.count + other.count
        share = other.count / count
        step = other.mean - self.mean
        m2 = self.m2 + other.m2 + step * step * (self.count * share)
        return Moments(count, self.mean + step * share, m2)

    def blend(self, other: Moments, weight: float) -> Moments:
        """Means and variances a ``weight`` (0..1) of the way to ``other``'s; this one's count.

        For video: ``held.blend(measured, 0.1)`` follows the picture slowly.
        """
        mean = self.mean + weight * (other.mean - self.mean)
        variance = self.variance + weight * (other.variance - self.variance)
        return Moments(self.count, mean, variance * self.count)


# Replaces the statistics of an InstanceNorm: called with its number (0 is the first of the network)
# and what was measured over the whole picture, as NumPy arrays; returns what shall be used.
OverrideStats: TypeAlias = Callable[[int, Moments], Moments]


def is_alive(moments: Moments) -> Any:
    """Whether each channel varies by more than rounding: bool, C values.

    InstanceNorm would enlarge rounding by 1/√eps, and after a few of them a flat picture would be
    full of noise. So where a channel does not vary, its scale is 0.
    """
    return moments.variance > _ROUNDING * (1.0 + moments.mean**2)


def factors(moments: Moments) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """mean and 1 / √(variance + eps): float32, C values each; 0 where ``is_alive`` says so."""
    scale = 1.0 / np.sqrt(moments.variance + EPS) * is_alive(moments)
    return moments.mean.astype(np.float32), scale.astype(np.float32)

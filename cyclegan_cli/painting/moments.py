"""The statistics of one InstanceNorm: measured strip by strip, merged exactly, or given.

Merging is that of Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances", 1979: the mean of the strips' variances would be wrong, since the
strips' means differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Moments", "Settle", "factors", "measure", "normalise"]

_ROUNDING = 1e-12  # the variance of values near 1 that differ by float32's rounding of sums


@dataclass(frozen=True)
class Moments:
    """Of each channel: how many values, their mean, and the sum of their squared deviations.

    ``mean`` and ``m2``: float64, C values each, on the CPU, or on the CUDA device that measured
    them. The biased variance, which InstanceNorm divides by, is m2 / count.
    """

    count: int
    mean: Tensor
    m2: Tensor

    @property
    def variance(self) -> Tensor:
        """The biased variance: float64, C values, never negative, where the moments are."""
        return self.m2 / self.count

    def on_host(self) -> Moments:
        """The same on the CPU."""
        return Moments(self.count, self.mean.cpu(), self.m2.cpu())

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together."""
        count = self.count + other.count
        share = other.count / count
        step = other.mean - self.mean
        m2 = self.m2 + other.m2 + step * step * (self.count * share)
        return Moments(count, self.mean + step * share, m2)

    def blend(self, other: Moments, weight: float) -> Moments:
        """Means and variances a ``weight`` (0..1) of the way to ``other``'s; this one's count.

        For video: ``steady = steady.blend(measured, 0.1)`` follows the picture slowly.
        """
        variance = torch.lerp(self.variance, other.variance, weight)
        return Moments(self.count, torch.lerp(self.mean, other.mean, weight), variance * self.count)


# What an InstanceNorm shall use: called with its number (0 is the first of the network) and what
# was measured over the whole picture, on the CPU. Return the measured ones (and record them), ones
# that are given or blended, or ones pooled with other processes that hold other parts of one
# picture.
Settle: TypeAlias = Callable[[int, Moments], Moments]


def measure(x: Tensor) -> Moments:
    """The moments of 1×C×h×w values of any float type, without cancellation.

    The second sum corrects the first one's rounding, so that the mean of a constant is that
    constant and a flat picture has a variance of exactly 0.
    """
    values = x.float()
    rough = values.mean((0, 2, 3), keepdim=True)
    deviation = values - rough
    shift = deviation.mean((0, 2, 3))
    squares = deviation.mul_(deviation).sum((0, 2, 3))
    parts = torch.stack([rough.flatten(), shift, squares])
    # A CUDA device goes on by itself, as nobody waits for what it found; others have no float64.
    rough64, shift64, squares64 = (parts if parts.is_cuda else parts.cpu()).double()
    count = x.shape[0] * x.shape[2] * x.shape[3]
    return Moments(count, rough64 + shift64, (squares64 - count * shift64**2).clamp_(min=0.0))


def normalise(x: Tensor, moments: Moments, eps: float, *, in_place: bool) -> Tensor:
    """(x − mean) / √(variance + eps) of each channel of 1×C×h×w, in x's dtype.

    The mean goes first: multiplying first would lose the digits of a mean that is far from 0.
    """
    mean, scale = (part[:, None, None].to(x.device) for part in factors(moments, eps))
    if x.dtype != torch.float32:
        return x.float().sub_(mean).mul_(scale).to(x.dtype)
    return (x.sub_(mean) if in_place else x - mean).mul_(scale)


def factors(moments: Moments, eps: float) -> tuple[Tensor, Tensor]:
    """mean and 1 / √(variance + eps): float32, C values each, where the moments are.

    The second is 0 for a channel that varies by no more than rounding: each InstanceNorm would
    enlarge that by 1/√eps, and after a few of them a flat picture would be full of noise.
    """
    variance = moments.variance
    alive = variance > _ROUNDING * (1.0 + moments.mean**2)
    return moments.mean.float(), ((variance + eps).rsqrt() * alive).float()

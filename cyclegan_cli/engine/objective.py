"""Adversarial, cycle-consistency and identity losses (Zhu et al., ICCV 2017, sections 3 and 5.2).

All are means over every element, never sums, computed in float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.settings import GanLoss

__all__ = ["coarse_l1", "discriminator_loss", "generator_loss", "l1", "structure_loss"]


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
        a, b = (functional.avg_pool2d(_luma(_wide(p)), size) for p in (painted, picture))
        total = total + (1 - _correlation(a, b)).mean()
    return total / 2


def _luma(pictures: Tensor) -> Tensor:
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

"""Adversarial, cycle-consistency and identity losses (Zhu et al., ICCV 2017, sections 3 and 5.2).

All are means over every element, never sums, computed in float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.settings import GanLoss

__all__ = ["discriminator_loss", "generator_loss", "l1"]


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

"""FID and KID through torchmetrics, whose Inception weights are downloaded once by it.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017; Binkowski et al.,
"Demystifying MMD GANs", ICLR 2018.
"""

from __future__ import annotations

from torch import Tensor

from cyclegan_cli.errors import CycleganError, UsageError

__all__ = ["WEIGHTS", "frechet", "have_torchmetrics"]

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # the name that torch-fidelity gives it
SUBSET = 50


def have_torchmetrics() -> None:
    """Raise UsageError where the packages of the extra are not installed."""
    try:
        import torch_fidelity  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"FID and KID need a package that is not installed ({error.name}).",
            hint="pip install 'cyclegan[metrics]'",
        ) from error


def frechet(some: Tensor, real: Tensor) -> tuple[float, float]:
    """FID and KID of ``some`` to ``real``: float, N×3×H×W and M×3×H×W in [−1, 1].

    Raises CycleganError where the weights of Inception cannot be had.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    subset = min(SUBSET, len(some), len(real))
    try:
        fid = FrechetInceptionDistance(normalize=True)
        kid = KernelInceptionDistance(subset_size=subset, subsets=1, normalize=True)
    except (OSError, RuntimeError) as error:
        raise CycleganError(
            f"The weights of Inception, which FID and KID need, cannot be had ({error}).",
            hint="Leave out --fid: SWD and classifier need no download.",
        ) from error
    for metric in (fid, kid):
        for pictures, is_real in ((real, True), (some, False)):
            for start in range(0, len(pictures), 8):
                metric.update((pictures[start : start + 8] + 1) / 2, real=is_real)
    return float(fid.compute()), float(kid.compute()[0])

"""What a user is told before FID and KID: a package, and a download that is not this program's."""

from __future__ import annotations

from cyclegan_cli.cli.console import Console
from cyclegan_cli.errors import DownloadError
from cyclegan_cli.places import offline

__all__ = ["prepare"]


def prepare(console: Console) -> None:
    """Check that FID and KID can be had, and say what will be downloaded.

    Raises UsageError where the extra is missing, DownloadError where CYCLEGAN_OFFLINE forbids it.
    """
    from pathlib import Path

    import torch

    from cyclegan_cli.engine.evaluation import INCEPTION_WEIGHTS, have_torchmetrics

    have_torchmetrics()
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
    if path.is_file():
        return
    if offline():
        raise DownloadError(
            "FID and KID need the weights of Inception, and CYCLEGAN_OFFLINE is set.",
            hint=f"Leave out --fid, or put the file at {path}",
        )
    console.note(f"torch-fidelity fetches the weights of Inception (91 MB) into {path.parent}.")

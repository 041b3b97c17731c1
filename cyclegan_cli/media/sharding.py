"""Which of several processes does which job, without a word between them."""

from __future__ import annotations

from collections.abc import Sequence

from cyclegan_cli.media.formats import is_video
from cyclegan_cli.media.plan import Job

__all__ = ["balanced", "pixels_of", "share_of_jobs"]

_VIDEO = 100  # pixels a byte, about: reading a video's frames to count them would take long


def share_of_jobs(jobs: Sequence[Job], rank: int, size: int) -> list[Job]:
    """The jobs of process ``rank`` of ``size``, in their order, balanced by pixels.

    The same inputs give the same shares in every process and every run, whichever outputs exist
    already; each job is in one share. Only headers are read.
    """
    owners = balanced([pixels_of(job) for job in jobs], size)
    return [job for job, owner in zip(jobs, owners, strict=True) if owner == rank]


def balanced(weights: Sequence[int], size: int) -> list[int]:
    """The process of each weight: the heaviest first, each to whom has the least so far.

    (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969: no process gets more than 4/3 of
    the best possible.)
    """
    loads = [(0, 0)] * size  # (weight, how many): those of no weight are spread as well
    owners = [0] * len(weights)
    for index in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        rank = loads.index(min(loads))
        owners[index] = rank
        weight, count = loads[rank]
        loads[rank] = (weight + weights[index], count + 1)
    return owners


def pixels_of(job: Job) -> int:
    """How much there is to paint, by the header: width × height × frames; 0: it cannot be read."""
    from PIL import Image

    from cyclegan_cli.media.decoding import held_pillow

    if job.source is None:
        return 0
    try:
        if is_video(job.source):
            return job.source.stat().st_size * _VIDEO
        with held_pillow(), Image.open(job.source) as image:
            frames: int = getattr(image, "n_frames", 1)
            return int(image.width) * int(image.height) * frames
    except Exception:  # whoever gets it will say what is wrong with it
        return 0

"""How what there is to do is divided among processes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

__all__ = ["Part", "shares"]


@dataclass(frozen=True)
class Part:
    """The ``rows`` that one process has of a batch of ``whole`` pictures; they may be none."""

    rows: range
    whole: int


def shares(count: int, size: int) -> list[range]:
    """``count`` things in a row, divided among ``size`` processes: as even as can be, in order.

    The first ones take one more where it does not come out even; some are empty where there are
    fewer things than processes.
    """
    least, more = divmod(count, size)
    starts = [rank * least + min(rank, more) for rank in range(size + 1)]
    return [range(a, b) for a, b in itertools.pairwise(starts)]

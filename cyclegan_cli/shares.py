"""How what there is to do is divided among processes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


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

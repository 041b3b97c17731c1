"""How what there is to do is divided among processes."""

from __future__ import annotations

import itertools

__all__ = ["shares"]


def shares(count: int, size: int) -> list[range]:
    """``count`` things in a row, divided among ``size`` processes: as even as can be, in order.

    The first ones take one more where it does not come out even; some are empty where there are
    fewer things than processes.
    """
    least, more = divmod(count, size)
    starts = [rank * least + min(rank, more) for rank in range(size + 1)]
    return [range(a, b) for a, b in itertools.pairwise(starts)]

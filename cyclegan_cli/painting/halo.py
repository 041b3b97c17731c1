"""Which rows of a picture a layer reads, padding and enlarging taken into account."""

from __future__ import annotations

__all__ = ["needed"]


def needed(
    rows: tuple[int, int], height: int, pad: int, *, mirror: bool, enlarge: bool
) -> tuple[int, int]:
    """What rows (from, to) of the padded picture come of: (from, to) of a picture of ``height``.

    ``pad``: above and below, by reflection (``mirror``) or zeros. ``enlarge``: before it is padded,
    each row becomes two.
    """
    scale = 2 if enlarge else 1
    first, end = rows[0] - pad, rows[1] - pad
    low, high = max(first, 0), min(end, scale * height)
    if mirror:
        last = scale * height - 1
        high = max(high, min(1 - first, scale * height)) if first < 0 else high
        low = min(low, max(2 * last - (end - 1), 0)) if end - 1 > last else low
    return min(low, high - 1) // scale, -(-high // scale)

"""The one place for random choices.

Every choice is drawn from a stream of its own, named by the run's seed and by what is chosen
("history", "crop", the picture's number, …), instead of from one generator that all share. So there
is no random state to lose: a run's seed and its step say what every choice is, whatever the number
of threads or processes, and a resumed run chooses what it would have chosen.
"""

from __future__ import annotations

import hashlib
import random


def stream_seed(seed: int, *labels: str | int) -> int:
    """A number below 2**63 for what ``labels`` name; the same arguments give the same number."""
    text = "/".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def choices(seed: int, *labels: str | int) -> random.Random:
    """A stream of choices for what ``labels`` name; the same arguments give the same stream."""
    return random.Random(stream_seed(seed, *labels))

"""Random choices are named by seed and labels, and by nothing else."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.randomness import choices, stream_seed

SEEDS = st.integers(0, 2**63 - 1)
LABELS = st.lists(st.sampled_from(["history", "crop", "X", "Y"]) | st.integers(0, 10**6))


@settings(deadline=None, max_examples=50)
@given(SEEDS, LABELS)
def test_the_same_names_give_the_same_stream(seed: int, labels: list[str | int]) -> None:
    random.seed(1)
    before = choices(seed, *labels).random(), stream_seed(seed, *labels)
    random.seed(2)
    assert (choices(seed, *labels).random(), stream_seed(seed, *labels)) == before
    assert 0 <= before[1] < 2**63
    assert stream_seed(seed, *labels, "more") != before[1]


def test_neighbouring_names_give_unrelated_streams() -> None:
    """First draws of 4000 neighbouring streams: uniform, and each told apart."""
    draws = [choices(seed, "crop", n).random() for seed in range(4) for n in range(1000)]
    assert len(set(draws)) == 4000
    assert abs(sum(draws) / 4000 - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    shared = pairwise(draws)
    covariance = sum((a - 0.5) * (b - 0.5) for a, b in shared) / 3999
    assert abs(covariance) < 4 / 12 / 3999**0.5


def test_drawing_leaves_the_global_random_state_alone() -> None:
    random.seed(3)
    torch.manual_seed(3)
    state, tensor_state = random.getstate(), torch.get_rng_state()
    choices(0, "a").random()
    stream_seed(0, "a")
    assert random.getstate() == state
    assert torch.equal(torch.get_rng_state(), tensor_state)

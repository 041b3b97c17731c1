"""The history of generated images: what it returns, how often, and what it keeps.

Distributions are tested with a fixed seed, so that a test passes always or never; the bounds are
those that a right history misses once in some ten thousand seeds.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cyclegan_cli.engine.history import History

CAPACITY = 50
SHOWN = 10_000
CHI_SQUARE_49 = (20.2, 94.8)  # quantiles 0.0001 and 0.9999 with 49 degrees of freedom


def numbered(*numbers: int) -> Tensor:
    """Tiny pictures that are told apart by their value."""
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def number(picture: Tensor) -> int:
    assert bool((picture == picture.flatten()[0]).all())
    return int(picture.flatten()[0])


def follow(seed: int, shown: int = SHOWN) -> tuple[int, list[int]]:
    """Show pictures one by one to a full history, checking every answer against the rule.

    Returns how often a stored one came back, and how often from each place.
    """
    history = History(CAPACITY, seed, "Y")
    held = list(range(CAPACITY))
    history.exchange(numbered(*held))
    places = [0] * CAPACITY
    for new in range(CAPACITY, CAPACITY + shown):
        answer = number(history.exchange(numbered(new))[0])
        if answer != new:
            place = held.index(answer)  # fails where it was given back before, or never stored
            held[place] = new
            places[place] += 1
    assert [number(picture) for picture in history.state()] == held
    return sum(places), places


def test_it_fills_with_what_it_returns() -> None:
    history = History(CAPACITY, 0, "X")
    for n in range(CAPACITY):
        assert number(history.exchange(numbered(n))[0]) == n
        assert [number(p) for p in history.state()] == list(range(n + 1))


def test_a_replay_shows_the_newest_and_others_that_were_held() -> None:
    history = History(8, 0, "Y")
    shown: set[int] = set()
    for n in range(200):
        answers = [number(picture) for picture in history.replay(numbered(n), 5)]
        held = [number(picture) for picture in history.state()]
        assert len(answers) == 5
        assert answers[0] == n
        assert n in held
        assert len(held) == len(set(held)) == min(n + 1, 8)
        assert set(answers) <= set(held)
        shown |= set(answers[1:])
    assert len(shown) > 150  # nearly every picture comes back, sooner or later


def test_a_replay_goes_on_from_its_state() -> None:
    whole, half = History(4, 3, "X"), History(4, 3, "X")
    for n in range(10):
        whole.replay(numbered(n), 3)
        half.replay(numbered(n), 3)
    resumed = History(4, 3, "X")
    resumed.load_state(half.state(), half.seen)
    for n in range(10, 30):
        assert torch.equal(whole.replay(numbered(n), 3), resumed.replay(numbered(n), 3))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_stored_one_comes_back_half_the_time_from_a_uniform_place(seed: int) -> None:
    exchanged, places = follow(seed)
    # Binomial(10 000, ½): standard deviation 50; four of them.
    assert abs(exchanged - SHOWN / 2) < 4 * (SHOWN / 4) ** 0.5
    expected = exchanged / CAPACITY
    statistic = sum((count - expected) ** 2 / expected for count in places)
    assert CHI_SQUARE_49[0] < statistic < CHI_SQUARE_49[1]  # too even is not random either


def test_choices_do_not_follow_from_the_one_before() -> None:
    """Exchanged after exchanged, and the place after the place: as often as chance has it."""
    history = History(1, 3, "X")
    history.exchange(numbered(0))
    answers = [number(history.exchange(numbered(n))[0]) != n for n in range(1, 10_001)]
    repeats = sum(a == b for a, b in pairwise(answers))
    assert abs(repeats - 5000) < 4 * 50


def test_the_two_histories_of_a_run_choose_apart() -> None:
    answers = []
    for name in ("X", "Y"):
        history = History(1, 0, name)
        history.exchange(numbered(0))
        answers.append([number(history.exchange(numbered(n))[0]) != n for n in range(1, 4001)])
    agreements = sum(a == b for a, b in zip(*answers, strict=True))
    assert abs(agreements - 2000) < 4 * 1000**0.5


def test_seeds_differ_and_repeat() -> None:
    assert follow(5, 500) == follow(5, 500)
    assert follow(5, 500) != follow(6, 500)


def test_capacity_0_is_no_history() -> None:
    history = History(0, 0, "X")
    for n in range(20):
        assert number(history.exchange(numbered(n))[0]) == n
    assert history.state() == []


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_a_batch_is_its_pictures_one_by_one(batch: int) -> None:
    whole, single = History(5, 8, "X"), History(5, 8, "X")
    for start in range(0, 40 * batch, batch):
        numbers = range(start, start + batch)
        together = whole.exchange(numbered(*numbers))
        alone = torch.cat([single.exchange(numbered(n)) for n in numbers])
        assert together.shape == (batch, 3, 2, 2)
        assert torch.equal(together, alone)
    assert whole.seen == single.seen == 40 * batch


@pytest.mark.parametrize("way", ["exchange", "replay"])
def test_what_is_held_is_a_copy(way: str) -> None:
    """While the history fills and once it is full: an image may be used again after it was shown.

    A view would also keep the whole batch in memory that it is a view of.
    """
    history = History(2, 0, "X")
    for n in range(1, 41):
        picture = numbered(n).clone()
        if way == "exchange":
            history.exchange(picture)
        else:
            history.replay(picture, 2)
        picture.zero_()
        held = history.state()
        assert all(number(p) > 0 for p in held)
        assert all(p.untyped_storage().nbytes() == p.nbytes for p in held)
    assert min(number(p) for p in held) > 2  # the first were exchanged


@pytest.mark.parametrize("before", [0, 3, 5, 40])
def test_state_carries_on_identically(before: int) -> None:
    straight, broken, fresh = (History(5, 4, "Y") for _ in range(3))
    for n in range(before):
        straight.exchange(numbered(n))
        broken.exchange(numbered(n))
    fresh.load_state([p.clone() for p in broken.state()], broken.seen)
    for n in range(before, before + 60):
        assert torch.equal(fresh.exchange(numbered(n)), straight.exchange(numbered(n)))
    assert [number(p) for p in fresh.state()] == [number(p) for p in straight.state()]
    assert fresh.seen == straight.seen

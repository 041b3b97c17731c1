"""How much memory there is, and which plan is chosen."""

from __future__ import annotations

from functools import partial

import pytest

from cyclegan_cli.engine.fast.kernels import library
from cyclegan_cli.errors import PictureError
from cyclegan_cli.painting import strips
from cyclegan_cli.painting.evaluate import estimate
from cyclegan_cli.painting.strips import Plan, check_memory
from cyclegan_cli.settings import GeneratorSpec

GB = 10**9
RESNET9 = GeneratorSpec()


def choose(spec: GeneratorSpec, size: tuple[int, int], max_memory: int | None) -> list[Plan]:
    costs = partial(estimate, spec, 4, *size)
    return strips.choose(costs, size, 4 * spec.width * size[1], max_memory=max_memory)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of 0.4 GB on a machine with 16 GB free."""
    monkeypatch.setattr(strips, "resident_memory", lambda: int(0.4 * GB))
    monkeypatch.setattr(strips, "available_memory", lambda: 16 * GB)


@pytest.mark.parametrize("limit", [None, 12 * GB, 6 * GB, 3 * GB, 2.5 * GB, 1 * GB, 0.6 * GB])
def test_twelve_megapixels_keep_to_the_limit(limit: float | None) -> None:
    bound = int(limit) if limit else None
    plans = choose(RESNET9, (3000, 4000), max_memory=bound)
    for plan in plans:
        cost = estimate(RESNET9, 4, 3000, 4000, plan)
        in_memory = cost.strips + (0 if plan.place == "disk" else cost.kept)
        ceiling = (limit or 3 * GB) if plan.place == "device" else 16 * GB
        assert 0.4 * GB + in_memory <= ceiling
    assert (plans[0].place == "disk") == (limit is not None and limit <= 1 * GB)


def test_more_memory_keeps_more() -> None:
    kept = [choose(RESNET9, (3000, 4000), max_memory=n * GB)[0].keep for n in (2, 3, 6)]
    assert kept == [768_000_000, 1_536_000_000, 3_072_000_000]


def test_a_hundred_megapixels_fit_into_16_gb() -> None:
    plan = choose(RESNET9, (8660, 11548), max_memory=None)[0]
    assert plan.place == "device"
    cost = estimate(RESNET9, 4, 8660, 11548, plan)
    assert 12.5 * GB < cost.kept + cost.strips < 14.4 * GB


@pytest.mark.parametrize("width", [1000, 4000, 11548])
def test_strips_of_wide_pictures_are_not_all_halo(width: int) -> None:
    row = 64 * width * 4  # bytes, after the first convolution
    plans = choose(RESNET9, (2000, width), max_memory=16 * GB)
    assert plans[0].strip == max(18 * 2**20, 32 * row)
    assert plans[-1].strip == max(2**20, row)


@pytest.mark.skipif(library() is None, reason="no kernels built")
def test_what_the_kernels_keep_for_each_thread_is_counted() -> None:
    """Of a picture 11,548 pixels wide 27 MB: 37 matrices of 256 channels × 722 tiles."""
    plan = Plan(2**20, 0)
    costs = {
        (name, threads): estimate(GeneratorSpec.named(name), 4, 8660, 11548, plan, threads).strips
        for threads in (1, 32)
        for name in ("resnet6", "mobile")
    }
    each = 37 * 256 * 722 * 4
    assert 31 * each <= costs["resnet6", 32] - costs["resnet6", 1] < 1.05 * 31 * each
    assert costs["mobile", 32] - costs["mobile", 1] < each


def test_what_does_not_fit_is_refused_with_the_figures() -> None:
    with pytest.raises(PictureError, match=r"4000×3000 pixels needs at least 0\.\d\d GB") as caught:
        choose(RESNET9, (3000, 4000), max_memory=2**20)
    assert caught.value.hint is not None
    assert "--resolution" in caught.value.hint


def test_a_full_machine_is_not_driven_into_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "available_memory", lambda: int(1.0 * GB))
    assert choose(RESNET9, (3000, 4000), max_memory=64 * GB)[0].place == "disk"
    monkeypatch.setattr(strips, "available_memory", lambda: 1000)
    with pytest.raises(PictureError):
        choose(RESNET9, (3000, 4000), max_memory=None)


def test_room_for_what_is_needed() -> None:
    check_memory("It", 14 * GB, None)
    for needed, limit in ((15 * GB, None), (2 * GB, 2 * GB)):
        with pytest.raises(
            PictureError, match=r"It needs \d+\.00 GB of memory; 1\d?\.\d\d GB is left"
        ):
            check_memory("It", needed, limit)

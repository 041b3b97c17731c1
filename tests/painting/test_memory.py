"""How much memory there is, and which plan is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.errors import PictureError
from cyclegan_cli.painting import memory
from cyclegan_cli.painting.memory import available_memory, choose, resident_memory
from cyclegan_cli.painting.streaming import estimate
from cyclegan_cli.settings import GeneratorSpec

GB = 10**9
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def resnet9() -> Generator:
    with torch.device("meta"):
        return Generator(GeneratorSpec())


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of 0.4 GB on a machine with 16 GB free."""
    monkeypatch.setattr(memory, "resident_memory", lambda: int(0.4 * GB))
    monkeypatch.setattr(memory, "available_memory", lambda: 16 * GB)


@pytest.mark.parametrize("limit", [None, 12 * GB, 6 * GB, 3 * GB, 2.5 * GB, 1 * GB, 0.6 * GB])
def test_twelve_megapixels_keep_to_the_limit(resnet9: Generator, limit: float | None) -> None:
    bound = int(limit) if limit else None
    plans = choose(resnet9, (3000, 4000), CPU, bound)
    for plan in plans:
        cost = estimate(resnet9, 3000, 4000, plan)
        in_memory = cost.strips + (0 if plan.place == "disk" else cost.kept)
        ceiling = (limit or 3 * GB) if plan.place == "device" else 16 * GB
        assert 0.4 * GB + in_memory <= ceiling
    assert (plans[0].place == "disk") == (limit is not None and limit <= 1 * GB)


def test_more_memory_keeps_more(resnet9: Generator) -> None:
    kept = [choose(resnet9, (3000, 4000), CPU, n * GB)[0].keep for n in (2, 3, 6)]
    assert kept == [768_000_000, 1_536_000_000, 3_072_000_000]


def test_a_hundred_megapixels_fit_into_16_gb(resnet9: Generator) -> None:
    plan = choose(resnet9, (8660, 11548), CPU, None)[0]
    assert plan.place == "device"
    cost = estimate(resnet9, 8660, 11548, plan)
    assert 12.5 * GB < cost.kept + cost.strips < 14.4 * GB


@pytest.mark.parametrize("width", [1000, 4000, 11548])
def test_strips_of_wide_pictures_are_not_all_halo(resnet9: Generator, width: int) -> None:
    row = 64 * width * 4  # bytes, after the first convolution
    plans = choose(resnet9, (2000, width), CPU, 16 * GB)
    assert plans[0].strip == max(2**24, 32 * row)
    assert plans[-1].strip == max(2**20, row)


def test_what_does_not_fit_is_refused_with_the_figures(resnet9: Generator) -> None:
    with pytest.raises(PictureError, match=r"4000×3000 pixels needs at least 0\.\d\d GB") as caught:
        choose(resnet9, (3000, 4000), CPU, 2**20)
    assert caught.value.hint is not None
    assert "--resolution" in caught.value.hint


def test_a_full_machine_is_not_driven_into_swap(
    resnet9: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: int(1.0 * GB))
    assert choose(resnet9, (3000, 4000), CPU, 64 * GB)[0].place == "disk"
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(PictureError):
        choose(resnet9, (3000, 4000), CPU, None)


def test_real_figures() -> None:
    assert 2**20 < resident_memory() < 2**40
    assert 2**20 < available_memory() < 2**45


def test_control_groups(tmp_path: Path) -> None:
    """Version 2: own limit and a parent's; version 1: the memory controller's."""
    two = tmp_path / "two"
    for folder, limit in (("", "max"), ("a", "5000"), ("a/b", "max")):
        (two / folder).mkdir(exist_ok=True)
        (two / folder / "memory.max").write_text(limit + "\n")
        (two / folder / "memory.current").write_text("3000\n")
        (two / folder / "memory.stat").write_text("anon 1000\ninactive_file 1500\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    assert memory._control_groups(two, own) == [5000 - 3000 + 1500]
    one = tmp_path / "one" / "memory" / "x"
    one.mkdir(parents=True)
    (one / "memory.limit_in_bytes").write_text("9000")
    (one / "memory.usage_in_bytes").write_text("4000")
    (one / "memory.stat").write_text("cache 1\ntotal_inactive_file 500\n")
    own.write_text("5:cpu:/y\n4:memory:/x\n0::/\n")
    assert memory._control_groups(tmp_path / "one", own) == [5500]
    assert memory._control_groups(two, tmp_path / "missing") == []

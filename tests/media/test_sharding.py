"""Shares of a list of pictures: whole, apart, the same everywhere, balanced by pixels."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cyclegan_cli.machine import balanced
from cyclegan_cli.media.plan import make_plan, share_of_jobs


@given(st.lists(st.integers(0, 10**9), max_size=60), st.integers(1, 9))
def test_no_process_has_more_than_the_others_by_more_than_a_picture(
    weights: list[int], size: int
) -> None:
    owners = balanced(weights, size)
    assert len(owners) == len(weights)
    loads = [sum(w for w, o in zip(weights, owners, strict=True) if o == r) for r in range(size)]
    assert max(loads) - min(loads) <= max(weights, default=0)
    assert balanced(weights, size) == owners


def test_each_job_has_one_owner_whatever_is_there_already(tmp_path: Path) -> None:
    for index, size in enumerate([(400, 300), (40, 30), (300, 200), (200, 300), (30, 20)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    (tmp_path / "5.png").write_bytes(b"no picture")
    plan = make_plan([str(tmp_path)], style="s", existing="overwrite")
    before = [share_of_jobs(plan.jobs, rank, 2) for rank in (0, 1)]
    assert sorted(j.source.name for part in before for j in part if j.source) == [
        f"{i}.png" for i in range(6)
    ]
    Image.new("RGB", (9, 9)).save(tmp_path / "0_s.png")  # another process has been quick
    for rank in (0, 1):
        own = make_plan(
            [str(tmp_path)],
            style="s",
            existing="skip",
            share=lambda jobs, rank=rank: share_of_jobs(jobs, rank, 2),  # type: ignore[misc]
        )
        assert {*own.jobs, *own.there_already} == set(before[rank])

"""Several processes that paint one picture give what one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from cyclegan_cli.engine.distributed import ALONE, join
from cyclegan_cli.errors import PictureError
from cyclegan_cli.painting import painter as module
from cyclegan_cli.painting.bands import help_paint, together
from cyclegan_cli.painting.statistics import Moments
from cyclegan_cli.painting.strips import Plan
from tests.painting.common import KINDS, network, painter_of, random_pixels
from tests.together import together as processes

SIZES = ((61, 37), (16, 20), (5, 40), (130, 24))
# Everything kept, only the trunk kept, and on disk: thin strips, so that bands have several.
PLANS = (Plan(4000, 10**9), Plan(2000, 3000), Plan(3000, 3000, "disk"))
NAMES = ("resnet9", "mobile", "resize", "separable", "no blocks", "grey", "brush")


def halved(_number: int, moments: Moments) -> Moments:
    return Moments(moments.count, moments.mean * 0.5, moments.m2)


def cases() -> list[tuple[str, tuple[int, int], Plan, bool]]:
    found = [(name, SIZES[0], PLANS[i % 3], False) for i, name in enumerate(NAMES)]
    found += [("mobile", SIZES[0], plan, False) for plan in PLANS]
    found += [("resnet9 in bf16", SIZES[0], plan, False) for plan in PLANS[:2]]
    return found + [("mobile", size, PLANS[0], size == SIZES[1]) for size in SIZES[1:]]


def paint(own: Any, case: tuple[str, tuple[int, int], Plan, bool]) -> Any:
    pixels = random_pixels(*case[1], dtype="float32")
    return own.paint(pixels, override_stats=halved if case[3] else None)


def painter_for(case: tuple[str, tuple[int, int], Plan, bool]) -> Any:
    """``resnet9 in bf16`` also runs where the processor has no bfloat16: then by PyTorch."""
    name, _, half = case[0].partition(" in ")
    return painter_of(network(KINDS[name]), precision=half or "fp32")


def work(rank: int) -> dict[str, Any]:
    group = join(torch.device("cpu"), timeout=30)
    results = []
    for case in cases():
        own = painter_for(case)
        with mock.patch.object(module, "choose", return_value=[case[2]]):
            if rank == 0:
                with together(own, group):
                    results.append(paint(own, case))
            else:
                help_paint(own, group)
    poor = [] if rank else [PLANS[0]]
    with mock.patch.object(module, "choose", return_value=poor):
        own = painter_of(network(KINDS["mobile"]))
        if rank == 0:
            with together(own, group), pytest.raises(PictureError, match="too little memory"):
                paint(own, cases()[0])
        else:
            help_paint(own, group)
    group.leave()
    return {"results": results}


def alone(case: tuple[str, tuple[int, int], Plan, bool]) -> Any:
    return paint(painter_for(case), case)


@pytest.fixture(scope="module", params=[2, 3])
def painted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder: Path = tmp_path_factory.mktemp("shared")
    alone(cases()[0])  # imports, before the forks, all that painting imports
    found = processes(request.param, work, folder)[0]["results"]
    assert isinstance(found, list)
    return found


def test_the_picture_of_several_processes_is_that_of_one(painted: list[Any]) -> None:
    """Float pictures, to rounding; every kind of layer, plan, and uneven height."""
    for case, found in zip(cases(), painted, strict=True):
        wanted = alone(case)
        off, half = np.abs(found - wanted), case[0].endswith("bf16")
        assert found.shape == wanted.shape
        assert np.abs(wanted).max() > 0.05, "alive"
        assert off.max() < (0.1 if half else 2e-5), case
        assert off.mean() < (2**-8 if half else 1e-5), case


def test_without_normalisation_bands_are_exact(painted: list[Any]) -> None:
    """By the kernels: no statistics, no Winograd tiles, so where a band begins cannot show."""
    case = next(case for case in cases() if case[0] == "brush")
    assert np.array_equal(painted[cases().index(case)], alone(case))


def test_all_processes_plan_for_the_bytes_of_the_picture() -> None:
    """Deep pictures have more bytes than values: each process counts bytes, as the first does."""
    asked: list[int] = []
    painter = painter_of(network(KINDS["mobile"]))
    choice = mock.patch.object(
        module, "choose", side_effect=lambda *_a, **k: asked.append(k["extra"]) or [PLANS[0]]
    )
    with choice, together(painter, ALONE):
        painter.paint(random_pixels(20, 24, dtype="uint16"))
    assert asked == [20 * 24 * 3 * 2] * 2


def test_alone_it_is_a_painter() -> None:
    case = cases()[0]
    painter = painter_of(network(KINDS[case[0]]))
    with together(painter, ALONE):
        found = paint(painter, case)
    assert np.abs(found - alone(case)).max() < 2e-5

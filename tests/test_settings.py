"""Settings: every bound, the schedule, intervals, and JSON there and back."""

from __future__ import annotations

import dataclasses
import json
import math
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.errors import UsageError, WeightsError
from cyclegan_cli.machine import normal_gpu
from cyclegan_cli.settings import (
    GENERATORS,
    GeneratorSpec,
    Interval,
    TrainSettings,
    TranslateSettings,
    fraction,
)

# -- the schedule ----------------------------------------------------------------------------------


def test_each_of_200_epochs() -> None:
    """Factor 1 − max(0, e + 1 − 100)/101: the public code's, e from 0."""
    chosen = TrainSettings()
    for epoch in range(200):
        factor = Fraction(1) - Fraction(max(0, epoch + 1 - 100), 101)
        assert math.isclose(chosen.learning_rate(epoch), 2e-4 * factor, rel_tol=1e-12)
    assert all(chosen.learning_rate(epoch) == 2e-4 for epoch in range(100))
    rates = [chosen.learning_rate(epoch) for epoch in range(99, 200)]
    assert all(a > b for a, b in pairwise(rates))
    assert math.isclose(chosen.learning_rate(199), 2e-4 / 101, rel_tol=1e-12)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_schedule(data: st.DataObject) -> None:
    epochs = data.draw(st.integers(1, 500))
    knee = data.draw(st.none() | st.integers(0, epochs))
    lr = data.draw(st.floats(1e-8, 1.0))
    chosen = TrainSettings(epochs=epochs, decay_from=knee, lr=lr)
    n = epochs // 2 if knee is None else knee
    for epoch in range(epochs):
        factor = 1 - Fraction(max(0, epoch + 1 - n), epochs - n + 1)
        assert factor > 0
        assert math.isclose(chosen.learning_rate(epoch), lr * factor, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("epochs", "decay_from", "factors"),
    [
        (1, None, [Fraction(1, 2)]),
        (3, None, [1, Fraction(2, 3), Fraction(1, 3)]),
        (5, None, [1, 1, Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)]),
        (3, 0, [Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)]),
        (3, 3, [1, 1, 1]),
        (4, 1, [1, Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)]),
    ],
)
def test_schedules_by_hand(epochs: int, decay_from: int | None, factors: list[Fraction]) -> None:
    chosen = TrainSettings(epochs=epochs, decay_from=decay_from, lr=1.0)
    rates = [chosen.learning_rate(epoch) for epoch in range(epochs)]
    assert rates == pytest.approx([float(f) for f in factors], rel=1e-12)


# -- bounds ----------------------------------------------------------------------------------------

BAD_TRAINING: list[tuple[str, Any]] = [
    *(("epochs", value) for value in (0, -1, 1.5, True, "3", None)),
    *(("decay_from", value) for value in (-1, 201, 0.5, "half")),
    *(("batch_size", value) for value in (0, -1, 2.5)),
    *(("lr", value) for value in (-1e-9, math.nan, math.inf, "fast", True)),
    *(("beta1", value) for value in (-0.1, 1.0, math.nan)),
    *(("lambda_cycle", value) for value in (-1.0, math.nan, math.inf)),
    *(("lambda_identity", value) for value in (-1.0, math.nan, math.inf)),
    *(("history", value) for value in (-1, 1.5)),
    *(("gan", value) for value in ("wgan", "", None, ["lsgan"])),
    *(("precision", value) for value in ("fp8", "", None)),
    *(("resize", value) for value in ("stretch", None)),
    *(("crop_size", value) for value in (0, 28, 31, 254, 290, 64.0)),
    *(("load_size", value) for value in (255, 0, 286.5)),
    *(("seed", value) for value in (-1, 2**63, 0.5)),
    *(("max_steps", value) for value in (0, -1, 1.5)),
    *(("workers", value) for value in (-1, 0.5)),
    *(("keep", value) for value in (0, 1.5)),
    *(("samples", value) for value in (-1, 0.5)),
    *(("flip", value) for value in ("no", 1, None)),
    *(("compile", value) for value in ("no", 0, None)),
    *(("checkpoint_every", value) for value in ("", "0", "never", 5, None)),
    *(("sample_every", value) for value in ("0epochs", "0.0001s", "300000000h", "-1", 5)),
    *(("log_every", value) for value in ("1.5steps", "x", [])),
]
GOOD_TRAINING: list[tuple[str, Any]] = [
    *(("epochs", value) for value in (1, 10_000)),
    *(("decay_from", value) for value in (0, 200, None)),
    *(("lr", value) for value in (0, 0.0, 1)),
    *(("beta1", value) for value in (0, 0.999)),
    *(("lambda_cycle", value) for value in (0, 0.0, 100)),
    *(("lambda_identity", value) for value in (0, 0.0, 5)),
    *(("history", value) for value in (0, 1000)),
    *(("gan", value) for value in ("lsgan", "vanilla", "hinge")),
    *(("crop_size", value) for value in (32, 36, 284)),
    *(("load_size", value) for value in (256, 1000)),
    *(("seed", value) for value in (0, 2**63 - 1)),
    *(("max_steps", value) for value in (1, None)),
    *(("workers", value) for value in (0, 16)),
    *(("samples", value) for value in (0, 8)),
    *(("sample_every", value) for value in ("1", "90s")),
]
BAD_TRANSLATION: list[tuple[str, Any]] = [
    *(("precision", value) for value in ("fp8", "")),
    *(("resolution", value) for value in (15, 0, -1)),
    *(("strength", value) for value in (-0.01, 1.01, math.nan)),
    *(("quality", value) for value in (0, 101)),
    *(("max_pixels", value) for value in (0, -1)),
    *(("max_memory", value) for value in (0, 2**20 - 1)),
]


@pytest.mark.parametrize(("name", "value"), BAD_TRAINING)
def test_training_bounds(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        TrainSettings.from_json({name: value})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "value"), GOOD_TRAINING)
def test_the_edges_of_the_bounds_are_inside(name: str, value: object) -> None:
    assert TrainSettings.from_json({name: value}).to_json()[name] == value


@pytest.mark.parametrize(("name", "value"), BAD_TRANSLATION)
def test_translation_bounds(name: str, value: Any) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(TranslateSettings(), **{name: value})


def test_a_bound_names_the_option() -> None:
    with pytest.raises(UsageError, match="--batch-size must be at least 1"):
        TrainSettings(batch_size=0)
    with pytest.raises(UsageError, match="--decay-from"):
        TrainSettings(epochs=10, decay_from=11)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("70", "0.7"), ("70%", "0.7"), ("0,7", "0.7"), (" 5 ", "0.05"), ("100", "1")),
        *((70.0, "0.7"), ("-1", None), ("nan", None), ("1.5", None), ("most", None), ("300", None)),
    ],
)
def test_what_is_no_share_is_told_what_may_be_meant(given: Any, meant: str | None) -> None:
    with pytest.raises(UsageError, match="--strength must be a number from 0 to 1") as caught:
        fraction("--strength", given)
    assert str(caught.value).endswith("?") == (meant is not None)
    assert meant is None or f"Did you mean {meant}?" in str(caught.value)


def test_shares_and_their_ends() -> None:
    assert [fraction("--x", one) for one in ("0", "1", ".5", 1, 0.25)] == [0, 1, 0.5, 1, 0.25]
    for one in (1.0, "100"):
        with pytest.raises(UsageError, match=r"from 0 to below 1, not 1\d*\.$"):
            fraction("--x", one, below=True)
    for name in ("beta1", "beta2", "ema"):
        with pytest.raises(UsageError, match=f"--{name} .* Did you mean 0.9"):
            TrainSettings(**{name: 99.0})
    with pytest.raises(UsageError, match=r"--noise-d .* Did you mean 0.05\?"):
        TrainSettings(noise_d=5)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        *(("cuda:0", "0"), ("CUDA:1", "1"), ("gpu:2", "2"), ("cuda:0, cuda:1", "0,1")),
        *(("cuda", "cuda"), ("CUDA", "cuda"), ("CPU", "cpu"), ("cpu:0", "cpu"), ("MPS:0", "mps")),
        *(("Auto", "auto"), (" 0 , 1 ", "0,1"), ("cuda:x", "cuda:x"), ("nonsense", "nonsense")),
    ],
)
def test_devices_as_people_spell_them(given: str, normal: str) -> None:
    assert normal_gpu(given) == normal


def test_defaults_are_the_papers() -> None:
    chosen = TrainSettings()
    assert chosen.generator == GENERATORS["resnet9"] == GeneratorSpec()
    assert (chosen.epochs, chosen.knee, chosen.batch_size) == (200, 100, 1)
    assert (chosen.lr, chosen.beta1, chosen.history) == (2e-4, 0.5, 50)
    assert (chosen.lambda_cycle, chosen.lambda_identity, chosen.gan) == (10.0, 0.5, "lsgan")
    assert (chosen.load_size, chosen.crop_size, chosen.flip) == (286, 256, True)


# -- there and back --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(GENERATORS)),
    st.integers(1, 999),
    st.floats(0, 1e3),
    st.sampled_from(["lsgan", "vanilla", "hinge"]),
    st.integers(0, 2**63 - 1),
    st.none() | st.integers(1, 10**9),
)
def test_training_settings_travel_as_json(
    name: str, epochs: int, lr: float, gan: Any, seed: int, steps: int | None
) -> None:
    chosen = TrainSettings(
        GENERATORS[name], epochs=epochs, lr=lr, gan=gan, seed=seed, max_steps=steps
    )
    text = json.dumps(chosen.to_json(), allow_nan=False)
    assert TrainSettings.from_json(json.loads(text)) == chosen


def test_unknown_settings_are_named() -> None:
    with pytest.raises(UsageError, match=r"epoks, rate\. Did you mean epochs\?"):
        TrainSettings.from_json({"rate": 1, "epoks": 2, "epochs": 3})


def test_generators_by_name() -> None:
    for name, spec in GENERATORS.items():
        assert GeneratorSpec.named(name) == spec
        assert spec.name == name
    with pytest.raises(UsageError) as caught:
        GeneratorSpec.named("resnet10")
    assert all(name in str(caught.value.hint) for name in GENERATORS)


# -- hostile generators ----------------------------------------------------------------------------

HOSTILE: list[object] = [
    *(None, [], "resnet9", 3, True),
    *({"width": value} for value in (0, -1, 513, 10**30, 64.0, math.nan, "64", True, None, [64])),
    *({"blocks": value} for value in (-1, 65, 10**9, 9.0, "9", False, None, {})),
    *({"in_channels": value} for value in (0, 5, 10**9, 3.0, True)),
    *({"out_channels": value} for value in (0, 5, 10**9, 3.0, True)),
    *({"separable": value} for value in (1, 0, "true", None, [])),
    *({"upsample": value} for value in ("bilinear", "", None, 1, [], {})),
    *({"name": value} for value in (None, 9, True, [], {}, "", "x" * 1000, "a\nb", "\x1b[2J")),
    *({"forward": "os.system"}, {"__class__": "x"}, {"width ": 64}, {"": 1}, {1: 2}),
]


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data)[:40])
def test_hostile_descriptions_of_generators(data: object) -> None:
    with pytest.raises(WeightsError):
        GeneratorSpec.from_json(data)


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from([f.name for f in dataclasses.fields(GeneratorSpec)]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none()),
    )
)
def test_any_description_is_a_generator_or_refused(data: dict[str, object]) -> None:
    try:
        spec = GeneratorSpec.from_json(data)
    except WeightsError:
        return
    assert spec.to_json() == {**GeneratorSpec().to_json(), **data}
    assert 1 <= spec.width <= 512
    assert 0 <= spec.blocks <= 64


# -- intervals -------------------------------------------------------------------------------------

UNITS = {
    "epoch": ("epoch", 1),
    "epochs": ("epoch", 1),
    "step": ("step", 1),
    "steps": ("step", 1),
    "s": ("second", 1),
    "sec": ("second", 1),
    "seconds": ("second", 1),
    "min": ("second", 60),
    "minutes": ("second", 60),
    "h": ("second", 3600),
    "hours": ("second", 3600),
}
SPACE = st.sampled_from(["", " ", "  ", "\t"])


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 10**8), st.sampled_from(sorted(UNITS)), SPACE, SPACE, SPACE)
def test_intervals(count: int, unit: str, before: str, between: str, after: str) -> None:
    parsed = Interval.parse(f"{before}{count}{between}{unit}{after}")
    kind, factor = UNITS[unit]
    assert (parsed.count, parsed.unit) == (count * factor, kind)
    assert Interval.parse(str(parsed)) == parsed


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**12), SPACE, SPACE)
def test_a_bare_number_means_epochs(count: int, before: str, after: str) -> None:
    assert Interval.parse(f"{before}{count}{after}") == Interval(count, "epoch")


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=20) | st.from_regex(r"[0-9.eE+-]{0,9} ?[a-z]{0,8}", fullmatch=True))
def test_any_text_is_an_interval_or_refused(text: str) -> None:
    try:
        parsed = Interval.parse(text)
    except UsageError:
        return
    assert 0 < parsed.count < math.inf
    assert parsed.unit in ("epoch", "step", "second")
    if parsed.unit != "second":
        assert parsed.count == int(parsed.count)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "0",
            "0epochs",
            "0.0001s",
            "300000000h",
            "-1",
            "+1",
            "1.5",
            "1.5epochs",
            "0.5steps",
            "1e3",
            "nan",
            "inf",
        ),
        *("1day", "10 m", "10mins", "steps", "1 2", "1epoch 2steps", "²", "1,5h", "9" * 400),
        "9" * 400 + "h",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_not_an_interval(text: str) -> None:
    with pytest.raises(UsageError):
        Interval.parse(text)


@settings(deadline=None, max_examples=100)
@given(st.decimals("0.001", 10**8, places=3), st.sampled_from(["s", "min", "h"]))
def test_fractions_of_time_are_shown_as_they_were_read(count: Decimal, unit: str) -> None:
    parsed = Interval.parse(f"{count:f}{unit}")
    assert Interval.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1", "1epoch"),
        ("2epochs", "2epochs"),
        ("500steps", "500steps"),
        ("1234567steps", "1234567steps"),
        ("10min", "10min"),
        ("1.5h", "90min"),
        ("90s", "90s"),
        ("0.5s", "0.5s"),
    ],
)
def test_intervals_are_shown_as_they_are_written(text: str, shown: str) -> None:
    assert str(Interval.parse(text)) == shown

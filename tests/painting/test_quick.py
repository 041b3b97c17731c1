"""The fast way through the layers paints what the plain one does: any size, strip and kernel."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.painting.moments import Moments
from cyclegan_cli.painting.plans import Plan
from cyclegan_cli.painting.quick import Quick
from cyclegan_cli.painting.translator import Translator
from cyclegan_cli.settings import GeneratorSpec
from tests.painting.common import CPU, KINDS, network, random_pixels, streamed, whole

# Widths from which Winograd's filtering is used, and those below it.
WIDE = {
    "resnet": GeneratorSpec(width=4, blocks=2),
    "mobile": GeneratorSpec(width=4, blocks=2, separable=True, upsample="resize"),
    "resize": GeneratorSpec(width=8, blocks=1, upsample="resize"),
    "brush": replace(GeneratorSpec.named("brush"), width=6, blocks=2),
}
NETWORKS = {name: network(spec) for name, spec in {**KINDS, **WIDE}.items()}
ALL = 2**62
WAYS = [
    pytest.param(True, marks=pytest.mark.skipif(not kernels.present(), reason="no kernels built")),
    False,
]


@pytest.fixture(params=WAYS, ids=lambda built: "kernels" if built else "torch alone")
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels, and as on a machine without a compiler."""
    if not request.param:
        monkeypatch.setattr(kernels, "_library", lambda: None)


def exact(name: str, x: torch.Tensor) -> torch.Tensor:
    return whole(copy.deepcopy(NETWORKS[name]).double(), x.double())


def picture(name: str, height: int, width: int, seed: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    channels = NETWORKS[name].spec.in_channels
    noise = torch.rand(1, channels, height, width, generator=source)
    return noise - torch.linspace(0, 1, height)[:, None]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("way")
@settings(max_examples=10, deadline=None, database=None)
@given(data=st.data())
def test_any_strips_are_as_near_to_float64_as_the_plain_whole(
    name: str, data: st.DataObject
) -> None:
    height, width = (4 * data.draw(st.integers(4, 14), side) for side in ("height/4", "width/4"))
    x = picture(name, height, width, data.draw(st.integers(0, 9), "seed"))
    full = 4 * NETWORKS[name].spec.width * height * width
    keep = data.draw(st.sampled_from([0, full // 4, full]), "keep")
    strip = data.draw(st.one_of(st.just(ALL), st.integers(1, full)), "strip")
    result = streamed(NETWORKS[name], x, Plan(strip, keep), quick=Quick())
    right = exact(name, x)
    allowed = 4 * float((whole(NETWORKS[name], x) - right).abs().max()) + 2e-5
    assert float((result - right).abs().max()) <= allowed


@pytest.mark.parametrize("name", [name for name in WIDE if WIDE[name].norm == "instance"])
@pytest.mark.usefixtures("way")
def test_statistics_that_are_given_are_used(name: str) -> None:
    x = picture(name, 20, 24, 0)

    def other(_number: int, measured: Moments) -> Moments:
        return Moments(measured.count, measured.mean + 1, 2 * measured.m2)

    plan = Plan(ALL, ALL)
    plain = streamed(NETWORKS[name], x, plan, settle=other)
    result = streamed(NETWORKS[name], x, plan, settle=other, quick=Quick())
    assert float((result - plain).abs().max()) <= 1e-4
    assert float((plain - whole(NETWORKS[name], x)).abs().max()) > 0.01


@pytest.mark.usefixtures("way")
def test_a_flat_picture_is_painted_flat() -> None:
    for generator in NETWORKS.values():
        x = torch.full((1, generator.spec.in_channels, 32, 24), 0.37)
        result = streamed(generator, x, Plan(ALL, ALL), quick=Quick())
        assert torch.isfinite(result).all()
        spread = result.amax((2, 3)) - result.amin((2, 3))
        assert float(spread.max()) < 1e-3


@pytest.mark.usefixtures("way")
def test_the_switch_gives_the_plain_operations() -> None:
    generator = NETWORKS["resnet"]
    pixels = random_pixels(40, 52, dtype="float32")
    plain = Translator(generator, exact_reference=True).paint(pixels)
    quick = Translator(generator).paint(pixels)
    assert float(np.abs(plain - quick).max()) < 1e-4
    assert not np.array_equal(plain, quick)  # another way was taken


def test_only_float32_on_the_cpu_has_a_fast_way() -> None:
    generator = NETWORKS["resnet"]
    assert Quick.suits(generator, CPU)
    assert not Quick.suits(generator, torch.device("cuda"))
    assert not Quick.suits(copy.deepcopy(generator).double(), CPU)

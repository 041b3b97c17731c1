"""The kernels paint what plain layers do: any generator, size and strip."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.engine.fast import bf16, kernels
from cyclegan_cli.engine.fast.kernels import library
from cyclegan_cli.engine.layers import Layer, reduction
from cyclegan_cli.painting.by_kernels import KernelBackend
from cyclegan_cli.painting.statistics import Moments
from cyclegan_cli.painting.strips import Plan
from cyclegan_cli.settings import GeneratorSpec
from tests.painting.common import (
    KINDS,
    network,
    painter_of,
    random_pixels,
    rows_of,
    streamed,
    weights_of,
    whole,
)

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not here")

# Widths from which Winograd's filtering is used, and those below it.
WIDE = {
    "resnet": GeneratorSpec(width=4, blocks=2),
    "mobile": GeneratorSpec(width=4, blocks=2, separable=True, upsample="resize"),
    "resize": GeneratorSpec(width=8, blocks=1, upsample="resize"),
    "brush": replace(GeneratorSpec.named("brush"), width=6, blocks=2),
    "scene": replace(GeneratorSpec.named("scene"), blocks=2),
}
NETWORKS = {name: network(spec) for name, spec in {**KINDS, **WIDE}.items()}
ALL = 2**62


def exact(name: str, x: torch.Tensor) -> torch.Tensor:
    return whole(copy.deepcopy(NETWORKS[name]).double(), x.double())


def picture(name: str, height: int, width: int, seed: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    channels = NETWORKS[name].spec.in_channels
    noise = torch.rand(1, channels, height, width, generator=source)
    return noise - torch.linspace(0, 1, height)[:, None]


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=10, deadline=None, database=None)
@given(data=st.data())
def test_any_strips_are_as_near_to_float64_as_the_plain_whole(
    name: str, data: st.DataObject
) -> None:
    unit = reduction(NETWORKS[name].spec)
    height, width = (unit * data.draw(st.integers(4, 14), f"{side} units") for side in "hw")
    x = picture(name, height, width, data.draw(st.integers(0, 9), "seed"))
    full = 4 * NETWORKS[name].spec.width * height * width
    keep = data.draw(st.sampled_from([0, full // 4, full]), "keep")
    strip = data.draw(st.one_of(st.just(ALL), st.integers(1, full)), "strip")
    result = streamed(NETWORKS[name], x, Plan(strip, keep), kernels=True)
    right = exact(name, x)
    allowed = 4 * float((whole(NETWORKS[name], x) - right).abs().max()) + 2e-5
    assert float((result - right).abs().max()) <= allowed


@pytest.mark.parametrize("name", [name for name in WIDE if WIDE[name].norm == "instance"])
def test_statistics_that_are_given_are_used(name: str) -> None:
    x = picture(name, 20, 24, 0)

    def other(_number: int, measured: Moments) -> Moments:
        return Moments(measured.count, measured.mean + 1, 2 * measured.m2)

    plan = Plan(ALL, ALL)
    plain = streamed(NETWORKS[name], x, plan, override_stats=other)
    result = streamed(NETWORKS[name], x, plan, override_stats=other, kernels=True)
    assert float((result - plain).abs().max()) <= 1e-4
    assert float((plain - whole(NETWORKS[name], x)).abs().max()) > 0.01


def test_a_flat_picture_is_painted_flat() -> None:
    for generator in NETWORKS.values():
        if generator.spec.code > 0:  # its grain is not flat
            continue
        x = torch.full((1, generator.spec.in_channels, 32, 24), 0.37)
        result = streamed(generator, x, Plan(ALL, ALL), kernels=True)
        assert torch.isfinite(result).all()
        spread = result.amax((2, 3)) - result.amin((2, 3))
        assert float(spread.max()) < 1e-3


def test_exact_reference_gives_the_plain_operations() -> None:
    generator = NETWORKS["resnet"]
    pixels = random_pixels(40, 52, dtype="float32")
    plain = painter_of(generator, exact_reference=True).paint(pixels)
    fast = painter_of(generator).paint(pixels)
    assert float(np.abs(plain - fast).max()) < 1e-4
    assert not np.array_equal(plain, fast)  # another way was taken


@pytest.mark.parametrize("name", NETWORKS)
def test_threads_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, plan = picture(name, 56, 40, 1), Plan(2**14, 2**13)
    found = []
    for count in (1, 3):
        monkeypatch.setattr(kernels, "threads", lambda count=count: count)
        found.append(streamed(NETWORKS[name], x, plan, kernels=True))
    assert torch.equal(*found)


def test_pictures_painted_at_once_do_not_disturb_each_other() -> None:
    """The transformed weights of a small picture are kept, and a large picture drops them."""
    one = painter_of(network(WIDE["resnet"]))
    small, large = random_pixels(40, 48), random_pixels(240, 300)
    expected = {len(p): one.paint(p) for p in (small, large)}
    with ThreadPoolExecutor(4) as pool:
        pictures = [small, large] * 12
        for picture_, painted in zip(pictures, pool.map(one.paint, pictures), strict=True):
            assert np.array_equal(painted, expected[len(picture_)])


def test_a_layer_that_the_kernels_lack_is_refused() -> None:
    backend = KernelBackend(weights_of(NETWORKS["resnet"]))
    with pytest.raises(TypeError, match="save"):
        backend.apply(Layer("save", "it"), rows_of(np.zeros((2, 8, 8), np.float32)))


def test_leaky_relu_is_pytorchs() -> None:
    backend = KernelBackend(weights_of(NETWORKS["resnet"]))
    x = torch.randn(1, 2, 12, 10)
    fresh = replace(rows_of(x[0].numpy().copy()), fresh=True)
    rows = backend.apply(Layer("leaky_relu", "it", 2, 2, slope=0.1), fresh).read(3, 9)
    expected = torch.nn.functional.leaky_relu(x, 0.1)[0, :, 3:9]
    assert torch.equal(torch.from_numpy(rows), expected)


@pytest.mark.parametrize("name", ["resnet9", "mobile"])
def test_strips_are_the_whole_picture_bit_for_bit(name: str) -> None:
    own = network(replace(GeneratorSpec.named(name), width=16, blocks=3))
    x = torch.rand(1, 3, 160, 104, generator=torch.Generator().manual_seed(0)) * 2 - 1
    at_once = streamed(own, x, Plan(ALL, ALL), kernels=True)
    for strip, keep in ((400_000, ALL), (400_000, 0), (250_000, 0)):
        assert torch.equal(streamed(own, x, Plan(strip, keep), kernels=True), at_once)


@pytest.mark.skipif(not bf16.has_unit(), reason="the processor does not compute in bfloat16")
@pytest.mark.parametrize("place", ["device", "disk"])
@pytest.mark.parametrize("upsample", ["transpose", "resize"])
def test_strips_in_bfloat16_are_the_whole_picture(upsample: Any, place: Any) -> None:
    """Statistics are sums in double, so that the strips are rounded as the whole picture is.

    Without AMX only strips of whole tiles are: those of single rows differ by roundings.
    """
    own = network(GeneratorSpec(width=20, blocks=2, upsample=upsample))
    x = torch.rand(1, 3, 72, 52, generator=torch.Generator().manual_seed(0)) * 2 - 1
    at_once = streamed(own, x, Plan(ALL, ALL), kernels=True, bf16=True)
    assert 0 < (at_once - whole(own, x)).abs().mean() < 0.008, "less than a level of 8 bits"
    for strip, keep in ((1, 0), (9_000, 40_000), (60_000, ALL)):
        strips = streamed(own, x, Plan(strip, keep, place), kernels=True, bf16=True)
        whole_tiles = strip > 9_000 or bf16.has_tiles()
        assert (strips - at_once).abs().mean() < (1e-5 if whole_tiles else 0.001)

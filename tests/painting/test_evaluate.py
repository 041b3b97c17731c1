"""Strips give the whole picture's result, for every generator, size, strip and plan."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.fast.kernels import library
from cyclegan_cli.engine.layers import Layer, Trunk, reduction
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.painting import evaluate as module
from cyclegan_cli.painting.by_kernels import KernelBackend
from cyclegan_cli.painting.by_torch import TorchBackend
from cyclegan_cli.painting.evaluate import estimate
from cyclegan_cli.painting.statistics import Moments
from cyclegan_cli.painting.strips import Plan
from cyclegan_cli.settings import GENERATORS, GeneratorSpec
from tests.painting.common import KINDS, network, rows_of, streamed, whole

TOLERANCE = 1e-4  # in [−1, 1]; one 8-bit level is 8e-3
ROW = 1  # bytes: no strip can have more than one row
ALL = 2**62
NEEDS_KERNELS = pytest.mark.skipif(library() is None, reason="the kernels are not here")
NETWORKS = {name: network(spec) for name, spec in KINDS.items()}


def picture(generator: Generator, height: int, width: int, seed: int = 0) -> Tensor:
    """Noise over a slope: the strips' statistics differ from the whole picture's."""
    random = torch.Generator().manual_seed(seed)
    channels = generator.spec.in_channels
    noise = torch.rand(1, channels, height, width, generator=random)
    return noise - torch.linspace(0, 1, height)[:, None]


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert bool(torch.isfinite(a).all())
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_plan_gives_the_result_of_the_whole(name: str, data: st.DataObject) -> None:
    generator = NETWORKS[name]
    unit = reduction(generator.spec)
    height, width = (unit * data.draw(st.integers(4, 18), f"{side} units") for side in "hw")
    x = picture(generator, height, width, data.draw(st.integers(0, 9), "seed"))
    full = 4 * generator.spec.width * height * width
    keep = data.draw(st.sampled_from([0, full // 4, full // 2, full]), "keep")
    strip = data.draw(st.integers(ROW, 2 * full // 3), "strip")
    place = data.draw(st.sampled_from(["device", "host", "disk"]), "place")
    result = streamed(generator, x, Plan(strip, keep, place))
    assert difference(result, whole(generator, x)) <= TOLERANCE


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(16, 16), (16, 52), (52, 20)])
def test_strips_of_one_row_give_the_result_of_the_whole(name: str, size: tuple[int, int]) -> None:
    generator = NETWORKS[name]
    size = (size[0] * reduction(generator.spec) // 4, size[1] * reduction(generator.spec) // 4)
    x = picture(generator, *size)
    middle = generator.spec.width * size[0] * size[1]
    result = streamed(generator, x, Plan(ROW, keep=middle))
    assert difference(result, whole(generator, x)) <= TOLERANCE


def test_the_comparison_can_fail() -> None:
    """The usual tiles, each with statistics of its own, are far from the whole picture."""
    generator = NETWORKS["resnet9"]
    x = picture(generator, 64, 32)
    tiles = torch.cat([whole(generator, x[:, :, :32]), whole(generator, x[:, :, 32:])], 2)
    assert difference(tiles, whole(generator, x)) > 1000 * TOLERANCE


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.37, 1.0])
@pytest.mark.parametrize("plan", [Plan(ROW, 0), Plan(ALL, ALL)])
def test_a_flat_picture_is_painted_flat(value: float, plan: Plan) -> None:
    """No NaN, and no noise: torch's own InstanceNorm enlarges rounding until it fills the range."""
    for generator in NETWORKS.values():
        if generator.spec.code > 0:  # its grain is not flat
            continue
        x = torch.full((1, generator.spec.in_channels, 32, 24), value)
        result = streamed(generator, x, plan)
        assert torch.isfinite(result).all()
        assert (result - result[:, :, :1, :1]).abs().max() < 0.01


def test_each_pixel_is_counted_once_at_every_norm() -> None:
    generator = network(KINDS["separable"])
    counts: list[tuple[int, int]] = []

    def note(number: int, measured: Moments) -> Moments:
        counts.append((number, measured.count))
        return measured

    streamed(generator, picture(generator, 20, 16), Plan(ROW, 0), note)
    assert counts == [(0, 320), (1, 80), (2, 20), (3, 20), (4, 20), (5, 80), (6, 320)]


def test_statistics_of_one_picture_paint_another() -> None:
    """With given statistics a part is painted as it is within the whole, apart from its borders."""
    generator = NETWORKS["separable"]
    x = picture(generator, 96, 32)
    known: list[Moments] = []

    def record(_number: int, measured: Moments) -> Moments:
        known.append(measured)
        return measured

    complete = streamed(generator, x, Plan(ALL, ALL), record)
    part = streamed(generator, x[:, :, :64], Plan(3_000, 0), lambda number, _: known[number])
    assert difference(part[:, :, :32], complete[:, :, :32]) <= TOLERANCE
    own = streamed(generator, x[:, :, :64], Plan(3_000, 0))
    assert difference(own[:, :, :32], complete[:, :, :32]) > 100 * TOLERANCE


def test_parts_pool_their_statistics() -> None:
    """Two pictures measured together get the statistics of all their pixels."""
    generator = NETWORKS["no blocks"]
    top, bottom = picture(generator, 32, 16), picture(generator, 48, 16) * 0.5
    first: list[Moments] = []
    pooled: list[Moments] = []

    def keep(_number: int, measured: Moments) -> Moments:
        first.append(measured)
        return measured

    def pool(number: int, measured: Moments) -> Moments:
        pooled.append(measured.merge(first[number]))
        return pooled[-1]

    streamed(generator, top, Plan(ALL, ALL), keep)
    streamed(generator, bottom, Plan(ALL, ALL), pool)
    values = [generator.encoder[1](generator.encoder[0](x)) for x in (top, bottom)]
    together = torch.cat([v.flatten(2) for v in values], 2).double()[0]
    assert pooled[0].count == 32 * 16 + 48 * 16
    np.testing.assert_allclose(pooled[0].mean, together.mean(1), rtol=0, atol=1e-6)
    variance = together.var(1, correction=0)
    np.testing.assert_allclose(pooled[0].variance, variance, rtol=1e-5, atol=0)


def test_the_estimate_counts_what_is_kept() -> None:
    resnet9 = GENERATORS["resnet9"]
    full = 4000 * 3000 * 64 * 4
    lean, half, all_kept = (
        estimate(resnet9, 4, 3000, 4000, Plan(2**24, keep)) for keep in (full // 4, full // 2, full)
    )
    assert lean.middle == full // 4
    assert lean.sizes == (full, full // 2, full // 4, full // 2, full)
    assert lean.kept == full // 2  # the trunk's two buffers
    assert half.kept == full * 3 // 4
    assert all_kept.kept == full * 3 // 2
    tiny = estimate(resnet9, 4, 3000, 4000, Plan(ROW, full // 4))
    assert tiny.strips < lean.strips < 3e8
    assert lean.strips + lean.kept < 2.2e9


def test_a_mapped_file_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    generator = NETWORKS["mobile"]
    x = picture(generator, 24, 24)
    result = streamed(generator, x, Plan(2_000, ALL, "disk"))
    assert difference(result, whole(generator, x)) <= TOLERANCE
    assert list(tmp_path.iterdir()) == []


# -- a generator of another shape: skip connections, two trunks, leaky ReLUs -----------------------


def conv(name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[Layer]:
    pad = Layer("reflect", f"{name}.pad", inputs, inputs, padding=kernel // 2)
    return [pad, Layer("conv", name, inputs, outputs, kernel, stride)]


def leaky(channels: int) -> Layer:
    return Layer("leaky_relu", "act", channels, channels, slope=0.1)


def block(name: str, channels: int) -> tuple[Layer, ...]:
    first, second = (conv(f"{name}.{i}", channels, channels, 3) for i in "ab")
    return (*first, leaky(channels), *second)


def larger(name: str, inputs: int, outputs: int) -> list[Layer]:
    return [
        Layer("upsample", name, inputs, inputs),
        *conv(name, inputs, outputs, 3),
        leaky(outputs),
    ]


SKIPPING: tuple[Layer | Trunk, ...] = (
    *(*conv("stem", 3, 4, 7), leaky(4), Layer("save", "f0", slot="f0")),
    *(*conv("down1", 4, 16, 3, 2), leaky(16), Layer("save", "f1", slot="f1")),
    *(*conv("down2", 16, 20, 3, 2), leaky(20)),
    Trunk((block("quarter.0", 20), block("quarter.1", 20))),
    *(*larger("up1", 20, 16), Layer("add", "f1", slot="f1")),
    Trunk((block("half.0", 16),)),
    *(*larger("up0", 16, 4), Layer("add", "f0", slot="f0")),
    *conv("out", 4, 3, 7),
)


def directly(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """``SKIPPING``, whole, by PyTorch's functions."""
    saved: dict[str, Tensor] = {}

    def step(layer: Layer, x: Tensor) -> Tensor:
        if layer.kind == "reflect":
            return functional.pad(x, (layer.padding,) * 4, mode="reflect")
        if layer.kind == "conv":
            one, other = weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"]
            return functional.conv2d(x, one, other, layer.stride)
        if layer.kind == "upsample":
            return functional.interpolate(x, scale_factor=2, mode="nearest")
        if layer.kind == "save":
            saved[layer.slot] = x
            return x
        return x + saved[layer.slot] if layer.kind == "add" else functional.leaky_relu(x, 0.1)

    for part in SKIPPING:
        if isinstance(part, Layer):
            x = step(part, x)
            continue
        for branch in part.blocks:
            y = x
            for layer in branch:
                y = step(layer, y)
            x = x + y
    return x


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=NEEDS_KERNELS)])
@pytest.mark.parametrize("place", ["device", "disk"])
@pytest.mark.parametrize("keep", [0, 10_000, ALL])
@pytest.mark.parametrize("strip", [1, 9_000, ALL])
def test_skip_connections_and_several_trunks(
    strip: int, keep: int, place: Any, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = GeneratorSpec()
    source = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for part in SKIPPING:
        every = [part] if isinstance(part, Layer) else [one for b in part.blocks for one in b]
        for layer in (one for one in every if one.weight_shape):
            scale = (2.0 / (layer.inputs * layer.kernel**2)) ** 0.5
            shape = layer.weight_shape
            tensors[f"{layer.name}.weight"] = torch.randn(shape, generator=source) * scale
            tensors[f"{layer.name}.bias"] = torch.randn(layer.outputs, generator=source) * 0.1
    weights = Weights(spec, {name: tensor.numpy() for name, tensor in tensors.items()})
    monkeypatch.setattr(module, "layers", lambda _spec: SKIPPING)
    x = torch.rand(1, 3, 48, 36, generator=source) * 2 - 1
    expected = directly(tensors, x)
    backend: Any = KernelBackend(weights) if kernels else TorchBackend(weights, "cpu", "fp32")
    found: list[Any] = []
    rows, plan = rows_of(x[0].numpy() if kernels else x), Plan(strip, keep, place)
    module.evaluate(spec, backend, rows, plan, lambda _row, strip_: found.append(strip_))
    if kernels:
        found = [torch.from_numpy(part)[None] for part in found]
    result = torch.cat(found, 2)
    assert difference(result, expected) <= TOLERANCE

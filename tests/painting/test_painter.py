"""Arrays in, arrays out: sizes, types, rounding, memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cyclegan_cli.engine.grain import canvas
from cyclegan_cli.engine.layers import reduction
from cyclegan_cli.engine.networks import Generator, initialise
from cyclegan_cli.errors import PictureError, WeightsError
from cyclegan_cli.painting import painter as module
from cyclegan_cli.painting.by_torch import (
    levels_to_tensor,
    tensor_to_levels,
    to_pixels,
    to_tensor,
)
from cyclegan_cli.painting.effects import paint_picture
from cyclegan_cli.painting.pixels import reflected
from cyclegan_cli.painting.strips import Plan
from cyclegan_cli.settings import GeneratorSpec, TranslateSettings
from tests.painting.common import (
    KINDS,
    network,
    painter_of,
    random_pixels,
    whole,
    with_grain,
)

NETWORK = network(KINDS["mobile"])


def expected(generator, pixels: np.ndarray) -> np.ndarray:
    """The definition, naively: pad with numpy, run the network, crop; float in [−1, 1]."""
    height, width = pixels.shape[:2]
    unit = reduction(generator.spec)
    more = [(0, max(4 * unit, -(-n // unit) * unit) - n) for n in (height, width)]
    padded = np.pad(pixels, (*more, (0, 0)), mode="reflect")
    if pixels.dtype != np.float32:
        padded = padded.astype(np.float64) / np.iinfo(pixels.dtype).max * 2 - 1
    x = torch.from_numpy(padded).float().permute(2, 0, 1)[None]
    if generator.spec.code:  # of the picture without what is padded
        picture = x[:, :, :height, :width]
        with torch.inference_mode():
            painted = generator(with_grain(generator.spec, x), generator.scene_code(picture))
        return painted[0, :, :height, :width].permute(1, 2, 0).double().numpy()
    if generator.spec.grain:
        x = x + torch.from_numpy(canvas(generator.spec, 0, x.shape[2], x.shape[3]))
    return whole(generator, x)[0, :, :height, :width].permute(1, 2, 0).double().numpy()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 45), st.integers(1, 45), st.sampled_from(["uint8", "uint16", "float32"]))
def test_any_size_and_type(height: int, width: int, dtype: str) -> None:
    assume(height * width > 1)  # flat: there torch itself paints noise
    pixels = random_pixels(height, width, dtype=dtype)
    before = pixels.copy()
    painted = painter_of(NETWORK).paint(pixels)
    assert np.array_equal(pixels, before)
    assert painted.shape == pixels.shape
    assert painted.dtype == pixels.dtype
    exact = expected(NETWORK, pixels)
    if dtype == "float32":
        assert np.abs(painted - exact).max() <= 1e-4
    else:  # rounded: never further than half a level, and the tolerance of the computation
        top = np.iinfo(dtype).max
        off = np.abs(painted.astype(np.float64) - (exact + 1) * top / 2)
        assert off.max() <= 0.5 + 1e-4 * top / 2


@pytest.mark.parametrize("name", [name for name in KINDS if name != "grey"])
@pytest.mark.parametrize("size", [(2, 3), (37, 50), (96, 41)])
def test_every_kind_of_generator(name: str, size: tuple[int, int]) -> None:
    """Where the change is added to the picture, what leaves the range of colours is clipped."""
    generator, pixels = network(KINDS[name]), random_pixels(*size)
    exact = (expected(generator, pixels).clip(-1, 1) + 1) * 127.5
    off = np.abs(painter_of(generator).paint(pixels).astype(np.float64) - exact)
    assert off.max() <= 0.5 + 1e-4 * 127.5


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 40), (17, 16)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_and_tiny_pictures_give_numbers(size: tuple[int, int], value: int) -> None:
    flat = np.full((*size, 3), value / 127.5 - 1, dtype=np.float32)
    assert np.isfinite(painter_of(NETWORK).paint(flat)).all()


def test_padding_is_numpy_reflection() -> None:
    for size in range(1, 9):
        for padded in range(size, 30):
            wanted = np.pad(np.arange(size), (0, padded - size), mode="reflect")
            assert reflected(size, padded).tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_level_survives_the_way_in_and_out(dtype: str) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    pixels = levels.reshape(-1, 1, 1).repeat(3, axis=2)
    x = to_tensor(pixels, 3)
    assert x.min() == -1.0
    assert x.max() == pytest.approx(1.0, abs=1e-6)
    assert np.array_equal(to_pixels(x, pixels.dtype), pixels)


def test_rounded_not_truncated_and_clipped() -> None:
    values = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.5]).repeat(1, 3, 1, 1)
    assert to_pixels(values, np.dtype("uint8"))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_what_a_device_converts_itself_is_what_the_host_would_send() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    levels[..., 1] = levels[::-1, :, 1]
    x = levels_to_tensor(torch.from_numpy(levels))
    assert torch.equal(x, to_tensor(levels, 3))
    values = torch.linspace(-1.3, 1.3, 3 * 40 * 25).reshape(1, 3, 40, 25)
    assert np.array_equal(tensor_to_levels(values).numpy(), to_pixels(values, np.dtype("uint8")))


def test_grey_networks() -> None:
    generator = network(KINDS["grey"])
    pixels = random_pixels(20, 24)
    painted = painter_of(generator).paint(pixels)
    assert (painted[..., 0] == painted[..., 1]).all()
    assert (painted[..., 0] == painted[..., 2]).all()
    luma = pixels @ np.array([0.299, 0.587, 0.114]) / 127.5 - 1
    y = whole(generator, torch.from_numpy(luma).float()[None, None])[0, 0].numpy()
    assert np.abs(painted[..., 0] - (y + 1) * 127.5).max() <= 0.51


def test_what_cannot_be_painted_is_refused() -> None:
    for spec in (GeneratorSpec(width=1, in_channels=2), GeneratorSpec(width=1, out_channels=4)):
        with pytest.raises(WeightsError, match="channels"):
            painter_of(network(spec))
    for pixels in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int16),
        np.zeros((4, 4, 3), np.float64),
    ):
        with pytest.raises(PictureError, match="cannot be painted"):
            painter_of(NETWORK).paint(pixels)


def gradient(dtype: str) -> np.ndarray:
    """A smooth slope of 16 bits."""
    levels = np.linspace(0, 65535, 48 * 400).reshape(48, 400, 1).repeat(3, axis=2)
    return levels.astype(dtype)


def test_half_precision_is_close() -> None:
    pixels = random_pixels(32, 40, dtype="float32")
    exact = painter_of(NETWORK).paint(pixels)
    half = painter_of(NETWORK, precision="bf16").paint(pixels)
    assert half.dtype == np.float32
    assert not np.array_equal(half, exact)
    assert np.abs(half - exact).mean() < 0.008, "less than a level of 8 bits"


def test_half_precision_keeps_the_picture_itself() -> None:
    """A new residual generator is nearly the identity: what it adds to is not rounded to 8 bits."""
    own = Generator(replace(KINDS["brush"], grain=0.0)).requires_grad_(False)
    initialise(own, torch.Generator().manual_seed(0))
    pixels = (gradient("uint16") / np.float32(32767.5) - 1).astype(np.float32)
    exact = painter_of(own).paint(pixels)
    half = painter_of(own, precision="bf16").paint(pixels, deep=False)
    # Rounding the picture itself to bfloat16 costs 1e-3 on average.
    assert np.abs(half - exact).mean() < 1e-4
    assert np.abs(exact - pixels).mean() > 5e-4, "alive"


@pytest.mark.parametrize("resolution", [None, 100])
def test_sixteen_bits_are_painted_in_float32(resolution: int | None) -> None:
    """Whatever the precision, and at any resolution; 8 bits are painted as was asked."""
    own, settings_ = network(KINDS["brush"]), TranslateSettings(resolution=resolution)
    half, full = painter_of(own, precision="bf16"), painter_of(own)
    deep = gradient("uint16")
    painted = paint_picture(half, deep, settings_)
    assert np.array_equal(painted, paint_picture(full, deep, settings_))
    assert len(np.unique(painted[..., 0])) > 5000
    pixels = random_pixels(48, 400)
    shallow = [paint_picture(own_, pixels, settings_) for own_ in (half, full)]
    assert not np.array_equal(*shallow)


def test_the_network_that_was_given_is_left_alone() -> None:
    generator = network(KINDS["mobile"])
    generator.train().requires_grad_(True)
    painter_of(generator, precision="bf16")
    assert generator.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in generator.parameters())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError("no memory for winograd")]
)
def test_short_memory_is_met_with_a_smaller_plan(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory on the first plan: the second gives the same picture, and it is noted."""
    pixels = random_pixels(40, 36)
    own = painter_of(NETWORK, exact_reference=not isinstance(error, MemoryError))
    reference = own.paint(pixels)
    assert own.notes == []
    tried: list[Plan] = []
    real = module.evaluate

    def evaluate(spec, backend, source, plan, write, **how):
        tried.append(plan)
        if len(tried) == 1:
            raise error
        real(spec, backend, source, plan, write, **how)

    monkeypatch.setattr(module, "evaluate", evaluate)
    again = own.paint(pixels)
    assert len(tried) == 2
    assert tried[1] != tried[0]
    assert np.abs(again.astype(int) - reference).max() <= 1
    assert len(own.notes) == 1
    assert "memory" in own.notes[0]


def test_no_memory_at_all_and_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "DefaultCPUAllocator: can't allocate memory"
    for error, exact in (
        (RuntimeError(words), True),
        (MemoryError(), True),
        (MemoryError(), False),
    ):

        def full(*_, error=error, **__):
            raise error

        monkeypatch.setattr(module, "evaluate", full)
        with pytest.raises(PictureError, match="too small") as caught:
            painter_of(NETWORK, exact_reference=exact).paint(random_pixels(16, 16))
        assert caught.value.hint

    def broken(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(module, "evaluate", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        painter_of(NETWORK).paint(random_pixels(16, 16))

"""The kernels: rows as they are read, what is computed of them, the same bits with any number of
threads, and no memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.fast import bf16, kernels
from cyclegan_cli.engine.fast.kernels import Strip, library
from tests.program import environment

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not here")

Drawn: TypeAlias = tuple[Strip, Tensor, tuple[int, int]]


def padded(strip: Strip, picture: Tensor) -> Tensor:
    """All of what is read of the whole ``picture``, which ``strip`` has some rows of."""
    if strip.mean is not None and strip.scale is not None:
        mean, scale = (torch.from_numpy(part)[:, None, None] for part in (strip.mean, strip.scale))
        picture = (picture - mean) * scale
    picture = torch.relu(picture) if strip.relu else picture
    if strip.enlarge:
        picture = functional.interpolate(picture, scale_factor=2, mode="nearest")
    return functional.pad(picture, (strip.pad,) * 4, mode="reflect" if strip.mirror else "constant")


def rows_of(pad: int, height: int, mirror: bool, first: int, stop: int) -> list[int]:
    """The picture's rows that rows ``first`` … ``stop`` of the padded one are read from."""
    rows = [row - pad for row in range(first, stop)]
    if mirror:
        rows = [abs(row) if row < height else 2 * (height - 1) - row for row in rows]
    return [row for row in rows if 0 <= row < height] or [0]


@st.composite
def strips(draw: st.DrawFn, least: int = 1) -> Drawn:
    """A strip, the picture that it is of, and rows of the padded one, ``least`` or more."""
    height, width = (
        draw(st.integers(max(3, least), 23), "height"),
        draw(st.integers(3, 23), "width"),
    )
    pad, mirror = draw(st.integers(0, 2), "pad"), draw(st.booleans(), "mirror")
    channels = draw(st.sampled_from([16, 17, 130, 256]), "channels")
    source = torch.Generator().manual_seed(draw(st.integers(0, 9), "seed"))
    picture = torch.randn(1, channels, height, width, generator=source)
    first = draw(st.integers(0, height + 2 * pad - least), "first")
    stop = draw(st.integers(first + least, height + 2 * pad), "stop")
    rows = rows_of(pad, height, mirror, first, stop)
    low = draw(st.integers(0, min(rows)), "low")
    high = draw(st.integers(max(rows) + 1, height), "high")
    known = draw(st.booleans(), "known")
    mean = torch.randn(channels, generator=source) if known else None
    scale = torch.rand(channels, generator=source) if known else None
    values = picture[0, :, low:high].numpy()
    how = [None if part is None else part.numpy() for part in (mean, scale)]
    relu = draw(st.booleans(), "relu")
    strip = Strip(np.ascontiguousarray(values), low, height, pad, mirror, *how, relu)
    return strip, picture, (first, stop)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def near(found: np.ndarray, right: Tensor) -> bool:
    """To the rounding of float32; ``right``: 1×C×h×w, float64."""
    assert found.shape == right.shape[1:]
    allowed = 1e-5 * max(1.0, float(right.abs().max()))
    return float((torch.from_numpy(found) - right[0]).abs().max()) <= allowed


@settings(max_examples=60, deadline=None, database=None)
@given(drawn=strips())
def test_any_rows_are_read_as_those_of_the_padded_picture(drawn: Drawn) -> None:
    strip, picture, (first, stop) = drawn
    values = strip.values.copy()
    right = padded(strip, picture)[0, :, first:stop]
    out = np.empty(tuple(right.shape), np.float32)
    kernels.prepare(strip, first, out)
    assert torch.equal(torch.from_numpy(out), right)
    assert np.array_equal(strip.values, values)


@settings(max_examples=30, deadline=None, database=None)
@given(drawn=strips(least=3), outputs=st.sampled_from([16, 19, 140]))
def test_any_rows_by_winograd(drawn: Drawn, outputs: int) -> None:
    strip, picture, (first, stop) = drawn
    inputs = picture.shape[1]
    weight = random(outputs, inputs, 3, 3, seed=outputs) / inputs**0.5
    bias = random(outputs, seed=1)
    x = padded(strip, picture)[:, :, first:stop].double()
    right = functional.conv2d(x, weight.double(), bias.double())
    out = np.empty(tuple(right.shape[1:]), np.float32)
    packed = kernels.winograd_weights(weight.numpy())
    mean, m2 = kernels.winograd(strip, first, packed, bias.numpy(), out)
    assert near(out, right)
    exact = out.astype(np.float64).reshape(outputs, -1)
    np.testing.assert_allclose(mean, exact.mean(1), atol=1e-6)
    np.testing.assert_allclose(m2, exact.var(1) * exact.shape[1], rtol=1e-4, atol=1e-6)
    again = kernels.moments(out)
    np.testing.assert_allclose(again[0], mean, atol=1e-6)


@settings(max_examples=30, deadline=None, database=None)
@given(drawn=strips(least=7), kernel=st.sampled_from([3, 7]), stride=st.sampled_from([1, 2]))
def test_any_rows_of_a_convolution(drawn: Drawn, kernel: int, stride: int) -> None:
    strip, picture, (first, stop) = drawn
    width = picture.shape[3] + 2 * strip.pad
    if width < kernel or (kernel, stride) == (7, 2):
        return
    inputs = picture.shape[1]
    weight, bias = random(5, inputs, kernel, kernel, seed=2) / (9 * inputs**0.5), random(5, seed=3)
    start = -(-first // stride)
    whole = functional.conv2d(
        padded(strip, picture).double(), weight.double(), bias.double(), stride
    )
    count = (stop - start * stride - kernel) // stride + 1
    if count < 1:
        return
    right = whole[:, :, start : start + count]
    out = np.empty(tuple(right.shape[1:]), np.float32)
    kernels.convolve(strip, start, (weight.numpy(), bias.numpy()), stride, out)
    assert near(out, right)


@settings(max_examples=20, deadline=None, database=None)
@given(drawn=strips(least=3), enlarge=st.booleans())
def test_all_rows_of_a_separable_convolution(drawn: Drawn, enlarge: bool) -> None:
    strip, picture, _ = drawn
    values = np.ascontiguousarray(picture[0].numpy())
    whole = Strip(values, 0, picture.shape[2], 1, True, strip.mean, strip.scale, True, enlarge)
    channels = picture.shape[1]
    depth = random(channels, 1, 3, 3, seed=4) / 3, random(channels, seed=5)
    point = random(6, channels, 1, 1, seed=6) / channels**0.5, random(6, seed=7)
    x = padded(whole, picture).double()
    x = functional.conv2d(x, depth[0].double(), depth[1].double(), groups=channels)
    right = functional.conv2d(x, point[0].double(), point[1].double())
    out = np.empty(tuple(right.shape[1:]), np.float32)
    pairs = [tuple(part.numpy() for part in pair) for pair in (depth, point)]
    kernels.separable(whole, 0, *pairs, out)
    assert near(out, right)


def test_a_transposed_convolution() -> None:
    x, weight, bias = random(1, 7, 9, 11, seed=0), random(7, 5, 3, 3, seed=1), random(5, seed=2)
    right = functional.conv_transpose2d(x.double(), weight.double(), bias.double(), 2, 1, 1)
    strip = Strip(np.ascontiguousarray(x[0].numpy()), 0, 9, 1)
    out = np.empty((5, 18, 22), np.float32)
    kernels.conv_transpose(strip, 1, 1, (weight.numpy(), bias.numpy()), out)
    assert near(out, right)


def test_what_is_normalised_is_added() -> None:
    x, total = random(4, 6, 5, seed=0).numpy(), random(4, 9, 5, seed=1).numpy()
    mean, scale = random(4, seed=2).numpy(), random(4, seed=3).numpy()
    expected = total.copy()
    expected[:, 2:8] += (x - mean[:, None, None]) * scale[:, None, None]
    kernels.accumulate_normalised(total[:, 2:8], x, mean, scale)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)


def test_threads_are_those_of_pytorch_where_it_is_loaded() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert kernels.threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def with_threads(count: int, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    torch.set_num_threads(count)
    return work()


@settings(max_examples=30, deadline=None, database=None)
@given(data=st.data())
def test_a_filtered_picture_has_the_same_bits_with_any_threads(data: st.DataObject) -> None:
    outputs, inputs = (data.draw(st.integers(16, 40), side) for side in ("outputs", "inputs"))
    height, width = (data.draw(st.integers(2, 70), side) for side in ("height", "width"))
    source = torch.Generator().manual_seed(data.draw(st.integers(0, 9), "seed"))
    x = torch.randn(1, inputs, height, width, generator=source)
    weight = torch.randn(outputs, inputs, 3, 3, generator=source) / inputs**0.5
    bias = torch.randn(outputs, generator=source)

    def work() -> tuple[Tensor, ...]:
        out = torch.empty(1, outputs, height, width)
        strip = Strip(x[0].numpy(), 0, height, 1, True)
        own = kernels.winograd_weights(weight.numpy())
        measured = kernels.winograd(strip, 0, own, bias.numpy(), out[0].numpy())
        return out, *map(torch.from_numpy, measured)

    alone, mean, m2 = with_threads(1, work)
    for count in (2, 3, data.draw(st.integers(4, 40), "threads")):
        assert all(
            torch.equal(one, other)
            for one, other in zip(with_threads(count, work), (alone, mean, m2), strict=True)
        )

    padded = functional.pad(x.double(), (1, 1, 1, 1), mode="reflect")
    exact = functional.conv2d(padded, weight.double(), bias.double())
    assert float((alone - exact).abs().max()) < 1e-4
    values = alone.double()
    assert torch.allclose(mean, values.mean((0, 2, 3)), atol=1e-7)
    squares = ((values - values.mean((0, 2, 3), keepdim=True)) ** 2).sum((0, 2, 3))
    assert torch.allclose(m2, squares, rtol=1e-5)


def test_long_sums_are_as_exact_as_those_of_pytorch() -> None:
    # Of 3136 terms: one after the other in float32, the error was five times PyTorch's.
    source = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 40, 40, generator=source).abs()
    weight = torch.randn(3, 64, 7, 7, generator=source) / 56
    exact = functional.conv2d(x.double(), weight.double())
    plain = functional.conv2d(x, weight)
    found = torch.empty(1, 3, 34, 34)
    pair = weight.numpy(), np.zeros(3, np.float32)
    kernels.convolve(Strip(x[0].numpy(), 0, 40), 0, pair, 1, found[0].numpy())
    error = float((found - exact).pow(2).mean().sqrt())
    assert error < 2 * float((plain - exact).pow(2).mean().sqrt())


# Each function in a thread that has no scratch memory yet, when there is no more to be had.
SHORT = """
import resource, threading
import numpy as np
import torch
from pathlib import Path
from cyclegan_cli.engine.fast import bf16, kernels
from cyclegan_cli.engine.fast.kernels import Strip

def random(*shape):
    return torch.rand(shape).numpy()

def rows(channels, height, width):
    return Strip(random(channels, height, width), 0, height, 1, True)

wide, deep, tall = rows(2, 6, 100_000), rows(512, 4, 4), rows(512, 40, 40)
double = Strip(wide.values, 0, 6, enlarge=True)
full, flat, bias = random(512, 512, 3, 3), random(512, 512, 1, 1), random(512)
own = random(kernels.winograd_size(512, 512))
depth, each = (random(512, 1, 3, 3), random(512)), random(2, 1, 3, 3)
grad, wide_grad = random(512, 4, 4), random(2, 6, 100_000)
small, spread, large = random(512, 4, 4), random(512, 9, 9), random(512, 40, 40)
wide_out, row, pair = random(2, 6, 100_000), random(2, 1, 200_000), random(2)
full_out, flat_out, bias_out = random(512, 512, 3, 3), random(512, 512, 1, 1), random(512)
depth_out, each_out, between = random(512, 1, 3, 3), random(2, 1, 3, 3), random(1024, 4, 4)
tall_out = random(512, 40, 40)
calls = {
    "convolve": lambda: kernels.convolve(deep, 0, (full, None), 1, small),
    "conv_transpose": lambda: kernels.conv_transpose(deep, 0, 0, (full, None), spread),
    "convolve_backward": lambda: kernels.convolve_backward(deep, grad, 1, full_out, bias_out),
    "prepare": lambda: kernels.prepare(double, 0, row),
    "depthwise": lambda: kernels.invoke("depthwise", wide, 0, 6, each, None, wide_out),
    "depthwise_backward": lambda: kernels.invoke(
        "depthwise_backward", wide, wide_grad, each, wide_out, each_out, pair),
    "separable": lambda: kernels.separable(deep, 0, depth, (flat, None), small),
    "separable_backward": lambda: kernels.separable_backward(
        deep, grad, depth, flat, between, small, (depth_out, bias_out, flat_out, bias_out)),
    "pointwise": lambda: kernels.invoke(
        "pointwise", grad, 16, 512, 16, 512, 0, flat, None, small, 16),
    "winograd": lambda: kernels.winograd(tall, 0, own, None, large, measured=False),
    "winograd_backward": lambda: kernels.winograd_backward(tall, large, own, tall_out, full_out),
}
if bf16.has_unit():
    halves, spread_halves = bf16.weights((full, None), 1), bf16.transposed_weights((full, None))
    half_out = random(512, 81, 81)
    calls |= {
        "bf16.convolve": lambda: bf16.convolve(tall, 0, halves, 3, 1, large),
        "bf16.conv_transpose": lambda: bf16.conv_transpose(tall, 0, 0, spread_halves, half_out),
        "bf16.convolve_backward": lambda: bf16.convolve_backward(
            tall, large, 1, full_out, bias_out),
    }
few, both = random(2, 1, 1), (np.empty(2), np.empty(2))

def once(call, ready, begin, said):
    kernels.invoke("moments", few, 2, 1, 1, 1, *both)  # starts OpenMP's threads, which cannot fail
    ready.set()
    begin.wait()
    try:
        call()
        said.append("done")
    except BaseException as error:
        said.append(type(error).__name__)

for threads in (1, 2):
    torch.set_num_threads(threads)
    for name, call in calls.items():
        call()
        ready, begin, said = threading.Event(), threading.Event(), []
        thread = threading.Thread(target=once, args=(call, ready, begin, said))
        thread.start()
        ready.wait()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
        begin.set()
        thread.join()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        call()
        print(threads, name, *said)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
def test_without_memory_each_function_says_so_and_works_again_later() -> None:
    # Whatever is larger than this is mapped by itself: nothing that was freed before can serve.
    env = environment() | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    run = [sys.executable, "-c", SHORT]
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines()]
    assert len(said) == (28 if bf16.has_unit() else 22)
    assert {result for _, _, result in said} == {"MemoryError"}, done.stdout


# The kernels start threads of their own where there is no PyTorch whose threads they could use.
THREADLESS = """
import resource
from pathlib import Path
import numpy as np
from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Strip, convolve

random = np.random.default_rng(0)
strip = Strip(random.random((8, 300, 300), np.float32), 0, 300, 1)
layer = random.random((8, 8, 3, 3), np.float32), random.random(8, np.float32)
alone, others = np.zeros((2, 8, 300, 300), np.float32)
kernels.threads = lambda: 1
convolve(strip, 0, layer, 1, alone)
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
kernels.threads = lambda: 4
convolve(strip, 0, layer, 1, others)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert alone.any() and np.array_equal(alone, others)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
def test_without_room_for_more_threads_one_does_all() -> None:
    run = [sys.executable, "-c", THREADLESS]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The kernels alone: the same bits with any threads, moments on the way, and no memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.winograd import convolve, transformed
from tests.program import environment

pytestmark = pytest.mark.skipif(not kernels.present(), reason="no kernels built")


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
        mean, m2 = torch.empty(2, outputs, dtype=torch.float64)
        strip = Strip(x, 0, height, 1, True)
        own = transformed(weight)
        return convolve(strip, (0, height), own, bias, statistics=(mean, m2)), mean, m2

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
    weight, bias = torch.randn(3, 64, 7, 7, generator=source) / 56, torch.zeros(3)
    exact = functional.conv2d(x.double(), weight.double())
    plain = functional.conv2d(x, weight)
    found = kernels.convolve(Strip(x, 0, 40), (0, 34), weight, bias)
    error = float((found - exact).pow(2).mean().sqrt())
    assert error < 2 * float((plain - exact).pow(2).mean().sqrt())


# Each function in a thread that has no scratch memory yet, when there is no more to be had: its
# outputs are those of the call before, since what is tried is the kernels' own memory.
SHORT = """
import resource, threading
import torch
from pathlib import Path
from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Strip

def rows(channels, height, width):
    return Strip(torch.rand(1, channels, height, width), 0, height, 1, True)

wide, deep = rows(2, 6, 100_000), rows(512, 4, 4)
full, flat = torch.rand(512, 512, 3, 3), torch.rand(512, 512, 1, 1)
own = torch.rand(kernels.winograd_size(512, 512))
depth, each = (torch.rand(512, 1, 3, 3), torch.rand(512)), torch.rand(2, 1, 3, 3)
grad, wide_grad = torch.rand(1, 512, 4, 4), torch.rand(1, 2, 6, 100_000)
out, tall = torch.empty(1, 512, 40, 40), rows(512, 40, 40)
calls = {
    "convolve": lambda: kernels.convolve(deep, (0, 4), full, None),
    "spread": lambda: kernels.spread(deep, (0, 9), (0, 9), full, None),
    "correlate": lambda: kernels.correlate(deep, grad, 3),
    "prepare": lambda: kernels.prepare(Strip(wide.values, 0, 6, enlarge=True), 0, 1),
    "depthwise": lambda: kernels.depthwise(wide, 0, 6, each, None),
    "depthwise_backward": lambda: kernels.depthwise_backward(wide, wide_grad, each),
    "separable": lambda: kernels.separable(deep, (0, 4), depth, (flat, None)),
    "separable_backward": lambda: kernels.separable_backward(deep, grad, depth, flat, inwards=True),
    "pointwise": lambda: kernels.pointwise(deep.values, flat, None),
    "winograd": lambda: kernels.winograd(tall, 0, own, None, out),
    "winograd_backward": lambda: kernels.winograd_backward(tall, out, own, trained=True),
}
made, empty = [], torch.empty
few, both = torch.rand(1, 2, 1, 1), torch.empty(2, 2, dtype=torch.float64)

def remembered(*size, **how):
    made.append(empty(*size, **how))
    return made[-1]

def once(call, ready, begin, said):
    kernels._call("moments", few, 2, 1, 1, *both)  # starts OpenMP's threads, which cannot fail
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
        made.clear()
        torch.empty = remembered
        call()
        again = iter(list(made))
        torch.empty = lambda *size, **how: next(again)
        ready, begin, said = threading.Event(), threading.Event(), []
        thread = threading.Thread(target=once, args=(call, ready, begin, said))
        thread.start()
        ready.wait()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
        begin.set()
        thread.join()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        torch.empty = empty
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
    assert len(said) == 22
    assert {result for _, _, result in said} == {"MemoryError"}, done.stdout


# The kernels start threads of their own where there is no PyTorch whose threads they could use.
THREADLESS = """
import resource
from pathlib import Path
import numpy as np
from cyclegan_cli.engine.fast import arrays
from cyclegan_cli.engine.fast.arrays import Strip, convolve

random = np.random.default_rng(0)
strip = Strip(random.random((8, 300, 300), np.float32), 0, 300, 1)
layer = random.random((8, 8, 3, 3), np.float32), random.random(8, np.float32)
alone, others = np.zeros((2, 8, 300, 300), np.float32)
arrays.threads = lambda: 1
convolve(strip, 0, layer, 1, alone)
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
arrays.threads = lambda: 4
convolve(strip, 0, layer, 1, others)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert alone.any() and np.array_equal(alone, others)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
def test_without_room_for_more_threads_one_does_all() -> None:
    run = [sys.executable, "-c", THREADLESS]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

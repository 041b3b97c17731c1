"""Seconds and peak memory of painting a picture whole, and in strips.

    python -m tests.benchmarks.memory --sizes 1,4,12 --modes whole,streamed

Each figure is measured in a process of its own, on a 4:3 picture of random smooth colours.
``baseline`` is ``tests.benchmarks.baseline``, the whole picture at once; ``whole`` calls the
program's network on the whole picture; ``streamed`` is what ``Painter`` does by default, and what
``cyclegan translate`` does: without PyTorch, where the kernels are;
``plain`` is that without the fast paths, as ``whole`` is; ``lean`` is ``Painter`` with no more
memory than it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

MODES = ("baseline", "whole", "plain", "streamed", "lean")


def picture(megapixels: float):
    """A 4:3 picture, uint8."""
    import numpy as np

    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    y, x = np.linspace(0, 20, height)[:, None], np.linspace(0, 27, width)
    pixels = np.empty((height, width, 3), np.uint8)
    for channel, phase in enumerate((0.0, 1.0, 2.0)):
        for row in range(0, height, 64):  # in parts, so that the picture's making takes no memory
            wave = np.sin(y[row : row + 64] + phase) * np.cos(x - phase)
            pixels[row : row + 64, :, channel] = 127.5 + 127.5 * wave
    return pixels


def measure(megapixels: float, mode: str, generator: str, threads: int) -> dict[str, float]:
    """One run, in this process."""
    if mode == "streamed":
        return measured(painter_without_torch(generator).paint, picture(megapixels))
    import torch

    from cyclegan_cli.engine.networks import Generator, initialise
    from cyclegan_cli.painting.by_torch import to_pixels
    from cyclegan_cli.settings import GeneratorSpec
    from tests.benchmarks import baseline
    from tests.benchmarks.speed import plain
    from tests.painting.common import painter_of

    torch.set_num_threads(threads)
    network = Generator(GeneratorSpec.named(generator)).eval().requires_grad_(False)
    initialise(network, torch.Generator().manual_seed(0))
    pixels = picture(megapixels)
    own_painter = painter_of(network, exact_reference=mode == "plain")
    if mode == "baseline":
        own = plain(network)
        height, width = (n // 4 * 4 for n in pixels.shape[:2])
        pixels = pixels[:height, :width].copy()

    def work(part) -> None:
        if mode == "baseline":
            baseline.translate(own, part)
        elif mode == "whole":
            with torch.inference_mode():
                to_pixels(network(whole_tensor(part)), part.dtype)
        else:
            own_painter.paint(part)

    if mode == "lean":
        work(pixels[:64, :64])
        own_painter.max_memory = lean_budget(network, pixels.shape[:2])
    return measured(work, pixels)


def painter_without_torch(generator: str):
    """Paints with random weights."""
    import numpy as np

    from cyclegan_cli.engine.layers import shapes
    from cyclegan_cli.engine.weights import Weights
    from cyclegan_cli.painting.painter import Painter
    from cyclegan_cli.settings import GeneratorSpec

    spec, draw = GeneratorSpec.named(generator), np.random.default_rng(0)
    sizes = shapes(spec).items()
    tensors = {name: draw.normal(0, 0.02, size).astype(np.float32) for name, size in sizes}
    return Painter(Weights(spec, tensors))


def measured(work, pixels) -> dict[str, float]:
    """Seconds of ``work(pixels)``, and the process's peak memory."""
    work(pixels[:64, :64])  # what is set up once does not count
    started, cpu = time.perf_counter(), time.process_time()
    work(pixels)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "gigabytes": peak_memory() / 1e9}


def peak_memory() -> int:
    """Bytes that this process had at most.

    Not ru_maxrss on Linux: it counts what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def whole_tensor(pixels):
    """The picture as a tensor, padded to multiples of 4."""
    from cyclegan_cli.painting.by_torch import to_tensor
    from cyclegan_cli.painting.pixels import reflected

    rows, columns = (reflected(n, -(-n // 4) * 4) for n in pixels.shape[:2])
    return to_tensor(pixels[rows][:, columns], 3)


def lean_budget(network, size: tuple[int, int]) -> int:
    """The bytes with which a picture is painted with only the trunk kept."""
    from cyclegan_cli.machine import resident_memory
    from cyclegan_cli.painting.evaluate import estimate
    from cyclegan_cli.painting.strips import Plan, choose

    height, width = (-(-n // 4) * 4 for n in size)
    costs = partial(estimate, network.spec, 4, height, width)
    middle, row = costs(Plan(2**20, 0)).middle, 4 * network.spec.width * width
    plans = choose(costs, (height, width), row, max_memory=2**60)
    cost = costs(next(p for p in plans if p.keep == middle))
    return resident_memory() + cost.strips + cost.kept + 3 * height * width + 20_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,4,12", help="megapixels, with commas")
    parser.add_argument("--modes", default="whole,streamed", help=", ".join(MODES))
    parser.add_argument("--generator", default="resnet9")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the median is shown")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        size, mode = options.child.split(":")
        print(json.dumps(measure(float(size), mode, options.generator, options.threads)))
        return
    print(f"{options.generator}, {options.threads} threads")
    print(
        "| megapixels | mode | seconds | of processors | peak memory, GB |\n|---|---|---|---|---|"
    )
    for size in options.sizes.split(","):
        runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in options.modes.split(",")}
        for _ in range(options.repeat):  # interleaved, so that a busy machine slows all alike
            for mode, found in runs.items():
                found.append(apart(float(size), mode, options.generator, options.threads))
        for mode, found in runs.items():
            seconds, cpu = (statistics.median(run[k] for run in found) for k in ("seconds", "cpu"))
            peak = max(run["gigabytes"] for run in found)
            print(f"| {size} | {mode} | {seconds:.1f} | {cpu:.1f} | {peak:.2f} |", flush=True)


def apart(size: float, mode: str, generator: str, threads: int) -> dict[str, float]:
    """One run, in a process of its own; not numbers where it failed, as for want of memory."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--child", f"{size}:{mode}"]
    command += ["--generator", generator, "--threads", str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return dict.fromkeys(("seconds", "cpu", "gigabytes"), float("nan"))
    result: dict[str, float] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()

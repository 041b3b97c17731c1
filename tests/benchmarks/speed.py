"""The rows of the table: painting, training steps, starts of the program, pictures a second.

Each function measures one row. The program is called by its public ways (``Translator.paint``,
``CycleGAN.step``, ``UnpairedPictures.batches``, the command), which decide what is fast.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.networks import Generator, initialise
from cyclegan_cli.engine.weights import save_generator
from cyclegan_cli.media.dataset import UnpairedPictures
from cyclegan_cli.settings import GeneratorSpec, TrainSettings
from tests.benchmarks import baseline, memory
from tests.benchmarks.timing import Ratio, Row, compared
from tests.painting.common import painter_of

SHAPES = {"resnet9": (9, 64, False), "mobile": (9, 24, True)}


def drawn(name: str) -> Generator:
    """The generator ``name`` with the weights that a training begins with."""
    network = Generator(GeneratorSpec.named(name)).eval().requires_grad_(False)
    initialise(network, torch.Generator().manual_seed(0))
    return network


def plain(network: Generator) -> nn.Module:
    """The baseline with the weights of ``network``."""
    own = baseline.generator(*SHAPES[network.spec.name]).eval().requires_grad_(False)
    baseline.adopt(own, network)
    return own


def picture(height: int = 256, width: int = 256) -> Any:
    """Smooth colours with some noise, uint8."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = rng.integers(-8, 9, smooth.shape, dtype=np.int16)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def as_floats(pixels: Any) -> Any:
    """float32 in [−1, 1]: what comes out is not rounded, so that errors show."""
    return (pixels / 127.5 - 1).astype(np.float32)


# -- painting --------------------------------------------------------------------------------------


def paint(name: str, generator: str, target: str, quick: bool) -> Row:
    """256², a picture at a time. ``mobile`` is compared with resnet9's baseline."""
    network = drawn(generator)
    own = plain(network)
    rival = own if generator == "resnet9" else plain(drawn("resnet9"))
    translator = painter_of(network)
    pixels = picture()
    row = Row(name, f"translate 256², {generator}", target)
    floats = as_floats(pixels)
    exact = baseline.translate(plain(network).double(), floats)
    row.baseline_error = float(np.abs(baseline.translate(own, floats) - exact).max())
    row.error = float(np.abs(translator.paint(floats) - exact).max())
    works: dict[str, Callable[[], object]] = {
        "baseline": lambda: baseline.translate(rival, pixels),
        "here": lambda: translator.paint(pixels),
    }
    return compared(row, works, quick=quick)


def paint_large(name: str, megapixels: float, target: str, quick: bool, threads: int) -> Row:
    """Seconds and peak memory, each run in a process of its own, in turn."""
    row = Row(name, f"translate {megapixels:g} MP, resnet9", target)
    modes = ("baseline", "streamed")
    runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
    for _ in range(1 if quick else 3):
        for mode in modes:
            runs[mode].append(memory.apart(megapixels, mode, "resnet9", threads))
    times = {mode: [run["seconds"] for run in found] for mode, found in runs.items()}
    row.baseline, row.seconds = (statistics.median(times[mode]) for mode in modes)
    row.ratio = Ratio.of(times["baseline"], times["streamed"])
    row.runs = len(times["streamed"])
    peaks = {mode: max(run["gigabytes"] for run in found) for mode, found in runs.items()}
    row.facts = {"baseline's peak, GB": peaks["baseline"], "peak, GB": peaks["streamed"]}
    row.facts["of the baseline's memory"] = peaks["streamed"] / peaks["baseline"]
    return row


# -- training --------------------------------------------------------------------------------------


def pair(size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """x and y, 1×3×size×size."""
    values = torch.from_numpy(as_floats(picture(size, 2 * size))).permute(2, 0, 1)[None]
    x, y = values.to(dtype).chunk(2, dim=3)
    return x.contiguous(), y.contiguous()


def trainings(
    generator: str, dtype: torch.dtype = torch.float32
) -> tuple[CycleGAN, baseline.Training]:
    """The engine's, with autocast to ``dtype``, and the baseline's, at the same weights."""
    model = CycleGAN(TrainSettings(generator=GeneratorSpec.named(generator)), dtype=dtype)
    return model, twin(model, generator)


def twin(model: CycleGAN, generator: str) -> baseline.Training:
    own = baseline.Training(*SHAPES[generator])
    for network, mine in own.networks().items():
        baseline.adopt(mine, model.networks()[network])
    return own


def slopes(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """All gradients of each network in one float64 vector."""
    return {
        name: torch.cat([p.grad.double().flatten() for p in network.parameters()])
        for name, network in networks.items()
    }


def gradient_error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """‖found − exact‖ / ‖exact‖ of the network for which it is largest."""
    return max(float((found[n] - exact[n]).norm() / exact[n].norm()) for n in exact)


def step(
    name: str,
    generator: str,
    size: int,
    target: str,
    quick: bool,
    dtype: torch.dtype = torch.float32,
) -> Row:
    """A whole step, batch 1, and the gradients of the first step against float64."""
    model, own = trainings(generator, dtype)
    x, y = pair(size)
    exact = twin(model, generator).to(torch.float64)
    exact.step(*pair(size, torch.float64))
    truth = slopes(exact.networks())
    del exact
    gc.freeze()  # what is there by now is not looked at again, as in the command
    own.step(x, y)
    model.step(x, y, 2e-4)
    precision = "" if dtype == torch.float32 else ", bfloat16"
    row = Row(name, f"training step {size}², {generator}, batch 1{precision}", target)
    row.baseline_error = gradient_error(slopes(own.networks()), truth)
    row.error = gradient_error(slopes(model.networks()), truth)
    row.facts["errors are"] = "of gradients, relative"
    works: dict[str, Callable[[], object]] = {
        "baseline": lambda: own.step(x, y),
        "here": lambda: model.step(x, y, 2e-4),
    }
    return compared(row, works, quick=quick, seconds=90)


# -- starts and files ------------------------------------------------------------------------------

_IMPORT = [sys.executable, "-c", "import torch"]


def start(name: str, generator: str, target: str, quick: bool) -> Row:
    """One 256² picture by the command, in a new process, against ``import torch`` in one.

    The ratio is the command's time over the import's: smaller is better.
    """
    with tempfile.TemporaryDirectory() as folder:
        style = Path(folder, "style.safetensors")
        save_generator(style, drawn(generator))
        row = Row(name, f"one 256² picture, {generator}, cold process", target)
        return _started(row, str(style), quick)


def _started(row: Row, style: str, quick: bool, *options: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "photo.png")
        Image.fromarray(picture()).save(source)
        command = [sys.executable, "-m", "cyclegan_cli", "translate", str(source), "--style", style]
        command += ["-o", str(Path(folder, "out.png")), "--overwrite", "-q", *options]
        row = compared(
            row,
            {"baseline": lambda: _process(_IMPORT), "here": lambda: _process(command)},
            quick=quick,
            seconds=60,
        )
    row.ratio = _inverse(row.ratio)
    row.facts["the ratio is"] = "to import torch: smaller is better"
    return row


def start_bundled(name: str, style: str, target: str, quick: bool) -> Row:
    """As ``start``, with a style that ships, which the command paints without PyTorch."""
    row = Row(name, f"one 256² picture, the style {style}, cold process", target)
    return _started(row, style, quick, "--gpu", "cpu")


def help_page(name: str, target: str, quick: bool) -> Row:
    """``--help``, and Python alone."""
    page = [sys.executable, "-m", "cyclegan_cli", "--help"]
    works: dict[str, Callable[[], object]] = {
        "baseline": lambda: _process([sys.executable, "-c", "pass"]),
        "here": lambda: _process(page),
    }
    row = compared(Row(name, "--help", target), works, quick=quick, seconds=10)
    row.ratio = None
    row.facts["baseline"] = "python -c pass"
    return row


def _process(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _inverse(ratio: Ratio | None) -> Ratio | None:
    return ratio and Ratio(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)


def training_pictures(name: str, target: str, quick: bool) -> Row:
    """Pictures of X and Y a second at 256², in the caller's thread, after the first epoch."""
    count = 50
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number in range(count):
            files.append(Path(folder, f"{number}.jpg"))
            Image.fromarray(np.roll(picture(320, 400), number, 0)).save(files[-1])
        pictures = UnpairedPictures(files, files[::-1], TrainSettings())
        first = _seconds_of_epoch(pictures, 0)
        rates = [
            2 * count / _seconds_of_epoch(pictures, epoch) for epoch in range(1, 6 if quick else 21)
        ]
    row = Row(name, "pictures of the training folder, 256²", target, runs=len(rates))
    row.facts = {
        "a second": statistics.median(rates),
        "from": min(rates),
        "to": max(rates),
        "in the first epoch": 2 * count / first,
    }
    return row


def _seconds_of_epoch(pictures: UnpairedPictures, epoch: int) -> float:
    started = time.perf_counter()
    for _ in pictures.batches(epoch):
        pass
    return time.perf_counter() - started

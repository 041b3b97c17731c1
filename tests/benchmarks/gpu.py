"""Everything there is to check and to time on a CUDA device, in one call of under 10 minutes.

    python -m tests.benchmarks.gpu --out gpu.json [--seconds 540] [--quick]

Runs in order, and leaves out what the time no longer allows: checks (the device against the CPU,
the tests marked ``gpu``, memory that runs out), training steps, painting, the variants that the
program does not use unless they win (channels_last, compiling, CUDA graphs, cuDNN's search), the
measured rate of bf16 matrix products, and a folder of 1,000 photos with the share of time that the
device is busy. Writes every figure to ``--out`` as it comes, and a table to stdout. Where there is
no CUDA device it rehearses on the CPU, with tiny sizes: that shows that it runs, and no figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.machine import resident_memory
from cyclegan_cli.media.plan import make_plan
from cyclegan_cli.painting.batch import Done, translate_pictures
from cyclegan_cli.painting.painter import Painter
from cyclegan_cli.settings import GeneratorSpec, TrainSettings, TranslateSettings
from tests.benchmarks import baseline
from tests.benchmarks.__main__ import machine
from tests.benchmarks.speed import as_floats, drawn, picture, plain
from tests.benchmarks.timing import Ratio, interleave
from tests.painting.common import painter_of


@dataclass
class Session:
    """Where it runs, how large the work is, and what was found so far."""

    device: torch.device
    out: Path
    end: float
    generator: str
    size: int
    batches: tuple[int, ...]
    photos: int
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """``half`` as ``--precision`` calls it."""
        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names[self.half]

    @property
    def half(self) -> torch.dtype:
        """What is computed in; bf16 on a CPU without it would take minutes."""
        return torch.bfloat16 if self.cuda else torch.float32

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def run(self, part: Callable[[Session], dict[str, Any]]) -> None:
        """One part: its figures, or why there are none."""
        name = part.__name__
        if time.monotonic() > self.end:
            self.found[name] = {"left out": "the time was over"}
        else:
            started = time.monotonic()
            try:
                self.found[name] = part(self)
            except Exception as error:  # the other parts are worth having
                self.found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            self.found[name]["took, s"] = round(time.monotonic() - started, 1)
            if self.cuda:
                torch.cuda.empty_cache()
        self.out.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {self.found[name]}", file=sys.stderr, flush=True)

    def timed(self, works: dict[str, Callable[[], object]], seconds: float = 8) -> dict[str, Any]:
        """Median milliseconds of each, and the first one's time over each other's."""

        def waited(work: Callable[[], object]) -> Callable[[], object]:
            def run() -> None:
                work()
                self.wait()

            return run

        times = interleave(
            {name: waited(work) for name, work in works.items()}, seconds=seconds, least=3, warm=2
        )
        first = next(iter(works))
        result: dict[str, Any] = {}
        for name, found in times.items():
            result[f"{name}, ms"] = round(1000 * statistics.median(found), 3)
            if name != first:
                result[f"{name}, ratio"] = str(Ratio.of(times[first], found))
        return result

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        values = torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return values.to(self.device, dtype)


# -- checks ----------------------------------------------------------------------------------------


def painting_agrees(s: Session) -> dict[str, Any]:
    """The device in float32 and bf16, whole and in strips, against float64 on the CPU."""
    network = drawn(s.generator)
    floats = as_floats(picture(s.size, s.size))
    exact = baseline.translate(plain(network).double(), floats)
    result: dict[str, Any] = {}
    for name, precision, memory in (
        ("float32", "fp32", None),
        ("bf16", s.precision, None),
        ("float32 in strips", "fp32", 2**28 + (0 if s.cuda else resident_memory())),
    ):
        painter = painter_of(network, str(s.device), precision, max_memory=memory)
        wrong = np.abs(painter.paint(floats) - exact)
        result[f"{name}, largest difference"] = float(wrong.max())
        result[f"{name}, mean difference"] = float(wrong.mean())
    return result


def gradients_agree(s: Session) -> dict[str, Any]:
    """The gradients of a step, float32 and bf16, against float64 on the CPU; relative."""
    size = min(s.size, 64)
    spec = GeneratorSpec(name="small", blocks=3, width=16)
    exact = baseline.Training(3, 16)
    models = {
        name: CycleGAN(TrainSettings(generator=spec), s.device, dtype)
        for name, dtype in (("float32", torch.float32), ("bf16", s.half))
    }
    for name, network in exact.networks().items():
        baseline.adopt(network, models["float32"].networks()[name].cpu())
        models["float32"].networks()[name].to(s.device)
    exact.to(torch.float64)
    x, y = (torch.rand(1, 3, size, size, dtype=torch.float64) * 2 - 1 for _ in range(2))
    exact.step(x, y)
    result: dict[str, Any] = {}
    for name, model in models.items():
        model.step(x.float().to(s.device), y.float().to(s.device), 2e-4)
        for key, network in model.networks().items():
            found, truth = (
                torch.cat([p.grad.double().cpu().flatten() for p in n.parameters()])
                for n in (network, exact.networks()[key])
            )
            result[f"{name}, {key}"] = float((found - truth).norm() / truth.norm())
    return result


def tests_marked_gpu(s: Session) -> dict[str, Any]:
    """The project's own tests that want a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    if not s.cuda:
        command += ["--collect-only"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    if done.returncode == 5:  # pytest found none
        return {"left out": "no test is marked so"}
    return {"exit code": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}


def memory_that_runs_out(s: Session) -> dict[str, Any]:
    """A picture too large for what is left of the card is painted in strips, and is the same."""
    if not s.cuda:
        return {"left out": "needs CUDA"}
    network = drawn("mobile")
    pixels = picture(2048, 2048)
    painter = painter_of(network, device=str(s.device))
    whole = painter.paint(pixels)
    notes = list(painter.notes)
    free, total = torch.cuda.mem_get_info(s.device)
    torch.cuda.empty_cache()
    held = torch.empty(max(0, free - 600 * 2**20), dtype=torch.uint8, device=s.device)
    tight = painter.paint(pixels)
    # Memory that goes after the plan was made: torch is told that it may have less than is free.
    del held
    torch.cuda.set_per_process_memory_fraction(600 * 2**20 / total, s.device)
    torch.cuda.empty_cache()
    try:
        short = painter.paint(pixels)
        said = list(painter.notes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, s.device)
    return {
        "notes with room": notes,
        "levels apart, planned": int(np.abs(tight.astype(int) - whole).max()),
        "levels apart, after running out": int(np.abs(short.astype(int) - whole).max()),
        "notes after running out": said,
    }


# -- times -----------------------------------------------------------------------------------------


def matrix_rate(s: Session) -> dict[str, Any]:
    """The most that bf16 matrix products reach here."""
    best = 0.0
    for side in (4096, 8192) if s.cuda else (256,):
        a, b = s.random(side, side, dtype=s.half), s.random(side, side, dtype=s.half)
        found = s.timed({"product": lambda a=a, b=b: a @ b}, 4)
        best = max(best, 2 * side**3 / found["product, ms"] / 1e9)
    return {"teraflops": best}


def flops_of_a_step(s: Session) -> float:
    """Of one picture pair: every product and sum of the convolutions, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    shape = baseline.Training(*SHAPE[s.generator])
    x = torch.zeros(1, 3, s.size, s.size)
    with FlopCounterMode(display=False) as counter:
        shape.step(x, x)
    return float(counter.get_total_flops())


SHAPE = {"resnet9": (9, 64, False), "mobile": (9, 24, True)}


def training_steps(s: Session) -> dict[str, Any]:
    """Batch 1 against the eager float32 baseline; then larger batches, and what they reach."""
    spec = GeneratorSpec.named(s.generator)
    own = baseline.Training(*SHAPE[s.generator]).to(s.device)
    x, y = s.random(1, 3, s.size, s.size), s.random(1, 3, s.size, s.size)

    def model(batch: int, compiled: bool = False) -> CycleGAN:
        settings = TrainSettings(generator=spec, batch_size=batch, compile=compiled, history=0)
        return CycleGAN(settings, s.device, s.half)

    engine, other = model(1), model(1)
    for network in other.networks().values():
        network.to(memory_format=torch.channels_last)
    result = s.timed(
        {
            "eager float32": lambda: own.step(x, y),
            "here, bf16": lambda: engine.step(x, y, 2e-4),
            "channels_last": lambda: other.step(x, y, 2e-4),
        },
        20,
    )
    torch.backends.cudnn.benchmark = True
    result |= s.timed({"cuDNN's search": lambda: engine.step(x, y, 2e-4)})
    torch.backends.cudnn.benchmark = False
    work = flops_of_a_step(s)
    result["teraflops of a pair"] = work / 1e12
    for batch in s.batches:
        if time.monotonic() > s.end:
            break
        wide = model(batch)
        x, y = (s.random(batch, 3, s.size, s.size) for _ in range(2))
        took = s.timed({"step": lambda m=wide, x=x, y=y: m.step(x, y, 2e-4)}, 6)["step, ms"]
        rate = work * batch / took / 1e9
        result[f"batch {batch}, ms"] = took
        result[f"batch {batch}, teraflops"] = round(rate, 2)
        top = s.found.get("matrix_rate", {}).get("teraflops")
        if top:
            result[f"batch {batch}, of the matrix rate"] = round(rate / top, 3)
        del wide
    return result


def training_compiled(s: Session) -> dict[str, Any]:
    """``--compile``, batch 1: what it takes to begin, and a step."""
    if not s.cuda:
        return {"left out": "takes minutes on a CPU"}
    settings = TrainSettings(generator=GeneratorSpec.named(s.generator), compile=True, history=0)
    model = CycleGAN(settings, s.device, s.half)
    x, y = s.random(1, 3, s.size, s.size), s.random(1, 3, s.size, s.size)
    started = time.monotonic()
    model.step(x, y, 2e-4)
    s.wait()
    first = time.monotonic() - started
    return {"first step, s": first} | s.timed({"step": lambda: model.step(x, y, 2e-4)})


@torch.no_grad()
def painting(s: Session) -> dict[str, Any]:
    """One picture: the program against the eager baseline, and the bare network's variants."""
    network = drawn(s.generator)
    pixels = picture(s.size, s.size)
    own = plain(network).to(s.device)
    painter = painter_of(network, device=str(s.device), precision=s.precision)
    half = plain(network).to(s.device, s.half)
    last = plain(network).to(s.device, s.half).to(memory_format=torch.channels_last)
    x = s.random(1, 3, s.size, s.size, dtype=s.half)
    works: dict[str, Callable[[], object]] = {
        "eager float32": lambda: baseline.translate(own, pixels),
        "here, bf16": lambda: painter.paint(pixels),
        "baseline, bf16": lambda: baseline.translate(half, pixels),
        "network alone, bf16": lambda: half(x),
        "channels_last": lambda: last(x.to(memory_format=torch.channels_last)),
    }
    if s.cuda:
        graph = captured(half, x)
        works["network alone, CUDA graph"] = graph.replay
    result = s.timed(works, 20)
    for batch in s.batches:
        many = s.random(batch, 3, s.size, s.size, dtype=s.half)
        took = s.timed({"paint": lambda many=many: half(many)}, 3)["paint, ms"]
        result[f"network alone, batch {batch}, ms a picture"] = round(took / batch, 3)
    return result


def captured(network: nn.Module, x: Tensor) -> torch.cuda.CUDAGraph:
    """The network's work on ``x`` as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is set up on the first calls must not be captured
        for _ in range(3):
            network(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(x)
    return graph


def folder_of_photos(s: Session) -> dict[str, Any]:
    """Photos a second from files to files, and the share of time that the device is busy."""
    network = drawn(s.generator)
    painter = painter_of(network, device=str(s.device), precision=s.precision)
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "photos"), Path(name, "painted")
        source.mkdir()
        height, width = (480, 640) if s.cuda else (48, 64)
        photo = picture(height, width)
        for number in range(s.photos):
            Image.fromarray(np.roll(photo, number, 1)).save(source / f"{number:04}.jpg")
        plan = make_plan([str(source)], style="bench", output=str(target))
        painter.paint(photo)
        done, busy, seconds = 0, _Busy(), 0.0
        with busy:
            started = time.monotonic()
            for event in translate_pictures(plan.jobs, painter.paint, TranslateSettings()):
                done += isinstance(event, Done)
            seconds = time.monotonic() - started
        # By the device's own clock: what one picture's kernels take, times their number.
        alone = s.timed({"paint": lambda: painter.paint(photo)}, 3)["paint, ms"] / 1000
    return {
        "photos": done,
        "a second": round(done / seconds, 1),
        "size": f"{width}×{height}",
        "device busy (nvidia-smi), %": busy.share(),
        "time of painting alone over the time of all": round(alone * done / seconds, 3),
        "kernels' share of painting": kernel_share(s, painter, photo),
    }


class _Busy:
    """The share of time that nvidia-smi calls the device busy, sampled meanwhile."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Busy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._stop.wait(0.2):
            try:
                text = subprocess.run(query, capture_output=True, text=True, check=True).stdout
                self._samples.append(float(text.split()[0]))
            except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
                return

    def share(self) -> float | None:
        return round(statistics.mean(self._samples), 1) if self._samples else None


def kernel_share(s: Session, painter: Painter, photo: Any) -> float | None:
    """Of the time that pictures are painted one after another, how much has a kernel running."""
    if not s.cuda:
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        started = time.perf_counter()
        for _ in range(20):
            painter.paint(photo)
        s.wait()
        seconds = time.perf_counter() - started
    kernels = sum(event.self_device_time_total for event in seen.key_averages())
    return round(kernels / 1e6 / seconds, 3)


PARTS = (
    painting_agrees,
    gradients_agree,
    memory_that_runs_out,
    matrix_rate,
    training_steps,
    painting,
    folder_of_photos,
    training_compiled,
    tests_marked_gpu,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=480, help="no part begins after that")
    parser.add_argument("--quick", action="store_true", help="small sizes, on a GPU, too")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    small = options.quick or not cuda
    session = Session(
        torch.device("cuda" if cuda else "cpu"),
        options.out,
        time.monotonic() + options.seconds,
        generator="mobile" if small else "resnet9",
        size=32 if small else 256,
        batches=(2,) if small else (4, 16, 32, 64),
        photos=8 if small else 1000,
    )
    session.found["machine"] = machine() | {
        "device": torch.cuda.get_device_name() if cuda else "none: a rehearsal on the CPU",
        "generator": session.generator,
        "size": session.size,
    }
    for part in PARTS:
        session.run(part)
    print("| part | figure | value |\n| --- | --- | --- |")
    for part, facts in session.found.items():
        for name, value in facts.items():
            print(f"| {part} | {name} | {value} |")
    failed = [p for p, facts in session.found.items() if "failed" in facts]
    sys.exit(f"Failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()

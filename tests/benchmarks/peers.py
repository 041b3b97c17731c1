"""What else runs the same network on a CPU: PyTorch in bfloat16, ONNX Runtime, OpenVINO.

All in one interleaved run with the baseline and this program, on the same weights. Those that are
not installed are left out; the extra "peers" brings them.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.styles.onnxformat import export_onnx
from tests.benchmarks import baseline
from tests.benchmarks.speed import as_floats, drawn, picture, plain
from tests.benchmarks.timing import Ratio, Row, interleave
from tests.painting.common import painter_of, weights_of

Run = Callable[[Any], Any]  # H×W×3 uint8 -> the same painted; float32 in [−1, 1] -> float32


def painted_by_peers(name: str, side: int, quick: bool, threads: int) -> list[Row]:
    """One row for each way, ``side``² pixels of 8 bits in and out, by resnet9."""
    network = drawn("resnet9")
    pixels = picture(side, side)
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(network, Path(folder), side, threads)
        works = {way: partial(run, pixels) for way, run in ways.items()}
        limits = (1, 1) if quick and side > 512 else (3, 3) if quick else (5, 15)
        times = interleave(works, seconds=60, least=limits[0], most=limits[1])
        exact = ways["PyTorch, float32"](as_floats(pixels))
        rows = []
        for way, run in ways.items():
            row = Row(f"{name}: {way}", f"translate {side}², resnet9: {way}")
            row.baseline = statistics.median(times["PyTorch, float32"])
            row.seconds = statistics.median(times[way])
            row.ratio = Ratio.of(times["PyTorch, float32"], times[way])
            row.runs = len(times[way])
            apart = np.abs(run(as_floats(pixels)) - exact) * 127.5
            row.facts = {"grey levels from float32": float(apart.mean()), "at most": apart.max()}
            rows.append(row)
    return rows


def _ways(network: Generator, folder: Path, side: int, threads: int) -> dict[str, Run]:
    eager = plain(network)
    ways: dict[str, Run] = {
        "PyTorch, float32": lambda pixels: baseline.translate(eager, pixels),
        "PyTorch, bfloat16": lambda pixels: _autocast(eager, pixels),
        "here, float32": painter_of(network).paint,
        "here, bfloat16": painter_of(network, precision="bf16").paint,
    }
    if importlib.util.find_spec("onnx") is None:
        return ways
    file = folder / "resnet9.onnx"
    export_onnx(weights_of(network), file, {})
    if importlib.util.find_spec("onnxruntime") is not None:
        ways["ONNX Runtime, float32"] = _onnxruntime(file, threads)
    if importlib.util.find_spec("openvino") is not None:
        ways["OpenVINO, float32"] = _openvino(file, side, threads, "f32")
        ways["OpenVINO, as it chooses"] = _openvino(file, side, threads, None)
    return ways


def _autocast(network: torch.nn.Module, pixels: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        y = network(torch.from_numpy(_planes(pixels)))
    return _pixels(y.float().numpy(), pixels.dtype)


def _onnxruntime(file: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: _pixels(session.run(None, {name: _planes(pixels)})[0], pixels.dtype)


def _openvino(file: Path, side: int, threads: int, precision: str | None) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(file))
    model.reshape([1, 3, side, side])
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        config["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(model, "CPU", config).create_infer_request()
    return lambda pixels: _pixels(
        request.infer([_planes(pixels)])[0],
        pixels.dtype,
    )


def _planes(pixels: Any) -> Any:
    values = pixels.astype(np.float32) / 127.5 - 1 if pixels.dtype == np.uint8 else pixels
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def _pixels(y: Any, dtype: Any) -> Any:
    painted = y[0].transpose(1, 2, 0)
    if dtype == np.uint8:
        return ((painted + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return painted

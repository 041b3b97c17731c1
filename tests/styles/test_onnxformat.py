"""The ONNX export paints what the network paints, at any size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cyclegan_cli.engine.grain import canvas
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.painting.painter import Painter
from cyclegan_cli.settings import GENERATORS, GeneratorSpec
from cyclegan_cli.styles.onnxformat import export_onnx
from tests.painting.common import weights_of
from tests.styles.make import TINY, TINY_MOBILE, tiny_generator


def mirrored(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Continued at the end by its mirror image, to a multiple of 4 and 16 at least: by walking."""
    n = x.shape[axis]
    rows, step, row = [], 1, 0
    for _ in range(max(16, n + -n % 4)):
        rows.append(row)
        if n > 1:
            if not 0 <= row + step < n:
                step = -step
            row += step
    return x.index_select(axis, torch.tensor(rows))


@torch.no_grad()
def expected(network: Generator, x: torch.Tensor) -> torch.Tensor:
    x, (height, width) = mirrored(mirrored(x, 2), 3), x.shape[2:]
    if network.spec.grain:
        x = x + torch.from_numpy(canvas(network.spec, 0, x.shape[2], x.shape[3]))
    return network(x)[..., :height, :width].clamp(-1, 1)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


_GREY = {"in_channels": 1, "out_channels": 1, "smooth_chroma": False}
SIZES = [(64, 64), (61, 83), (96, 40), (17, 16), (3, 2), (1, 50)]


@pytest.mark.parametrize(
    "spec",
    [
        TINY,
        TINY_MOBILE,
        GENERATORS["mobile"],
        GENERATORS["brush"],
        GENERATORS["resnet9"],
        GeneratorSpec(name="grey", blocks=1, width=8, in_channels=1, out_channels=3),
    ],
    ids=lambda spec: f"{spec.name}-{spec.width}",
)
def test_onnxruntime_paints_the_same(spec: GeneratorSpec, tmp_path: Path) -> None:
    network = tiny_generator(3, spec)
    export_onnx(weights_of(network), tmp_path / "g.onnx", {"style": "s"})
    run = session(tmp_path / "g.onnx")
    sizes = SIZES[:3] if spec.width > 16 else SIZES
    for height, width in sizes:
        torch.manual_seed(height * width)
        x = torch.rand(2, spec.in_channels, height, width) * 2 - 1
        (ours,) = run.run(["painting"], {"picture": x.numpy()})
        theirs = expected(network, x).numpy()
        assert ours.shape == (2, spec.out_channels, height, width)
        assert np.abs(ours - theirs).max() < 1e-3
        assert height * width < 100 or theirs.std() > 0.01  # there is something to compare


@pytest.mark.parametrize(
    "spec",
    [
        replace(GENERATORS["scene"], width=4, blocks=2),
        replace(GENERATORS["scene"], width=4, blocks=1, grain=0.0, **_GREY),
        GENERATORS["scene"],
        replace(GENERATORS["brush"], width=4),
        replace(GENERATORS["brush"], width=4, coarse=0.2),
    ],
    ids=["scene-4", "scene-grey", "scene", "brush", "brush-coarse"],
)
def test_onnxruntime_paints_what_the_painter_paints(spec: GeneratorSpec, tmp_path: Path) -> None:
    network = tiny_generator(5, spec)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.startswith(("scene", "code", "colour")):
                value.mul_(4)  # so that the scene matters
        if spec.code > 0:
            network.decoder[-1].weight.mul_(0.1)  # so that outputs are near [−1, 1]
    weights = weights_of(network)
    export_onnx(weights, tmp_path / "g.onnx", {})
    run, painter = session(tmp_path / "g.onnx"), Painter(weights)
    draw = np.random.default_rng(1)
    sizes = [(97, 131), (64, 96), (33, 20), (1, 3), (1050, 21)]
    for height, width in sizes if spec.width < 16 else sizes[:1]:
        noise = draw.uniform(-0.3, 0.3, (1, height, width, 3)).astype(np.float32)
        ramp = np.linspace(-0.6, 0.6, width, dtype=np.float32)[:, None]
        dark, light = noise + ramp - 0.2, noise - ramp + 0.1  # two scenes
        pictures = np.concatenate([dark, light])
        if spec.in_channels == 1:
            pictures = np.repeat(pictures.mean(3, keepdims=True), 3, axis=3)
        planes = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)[:, : spec.in_channels])
        (ours,) = run.run(["painting"], {"picture": planes})
        theirs = np.stack([painter.paint(picture) for picture in pictures]).transpose(0, 3, 1, 2)
        assert np.abs(ours - theirs[:, : spec.out_channels]).max() < 1e-4
        assert height * width < 100 or theirs.std() > 0.05


def test_a_single_pixel_has_a_finite_translation(tmp_path: Path) -> None:
    # A flat picture's variance is 0, so its digits are rounding noise: nothing to compare.
    export_onnx(weights_of(tiny_generator()), tmp_path / "g.onnx", {})
    x = np.full((1, 3, 1, 1), 0.3, np.float32)
    (ours,) = session(tmp_path / "g.onnx").run(["painting"], {"picture": x})
    assert ours.shape == (1, 3, 1, 1)
    assert np.isfinite(ours).all()


def test_the_model_says_what_it_is(tmp_path: Path) -> None:
    export_onnx(weights_of(tiny_generator()), tmp_path / "g.onnx", {"style": "s", "licence": "CC0"})
    model = onnx.load(tmp_path / "g.onnx")
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["about"]) == {"style": "s", "licence": "CC0"}
    assert GeneratorSpec.from_json(json.loads(facts["generator"])) == TINY
    for value in (model.graph.input[0], model.graph.output[0]):
        names = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        assert names == ["batch", 3, "height", "width"]

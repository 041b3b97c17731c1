"""A generator as an ONNX graph that takes pictures of any size.

It is written layer by layer: torch's exporters differ between versions, and do not pad as this
program does. The graph itself pads, crops, and makes the thumbnail of a ``scene`` generator.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclegan_cli import __version__
from cyclegan_cli.engine.grain import CENTRE, COARSE, PERIOD, SPREAD, coarse_tile, grained, tile
from cyclegan_cli.engine.layers import (
    EPS,
    SCENE_WIDTHS,
    SMOOTH,
    THUMBNAIL,
    Kind,
    Layer,
    film_name,
    layers,
    reduction,
)
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.errors import UsageError, pip_extra
from cyclegan_cli.files import atomic_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOAT = 1  # onnx.TensorProto.FLOAT
_OPSET = 18
_OPERATORS: dict[Kind, str] = {
    "add": "Add",
    "conv": "Conv",
    "conv_transpose": "ConvTranspose",
    "instance_norm": "InstanceNormalization",
    "leaky_relu": "LeakyRelu",
    "reflect": "Pad",
    "relu": "Relu",
    "tanh": "Tanh",
    "upsample": "Resize",
}
_IR_VERSION = 8  # the one that opset 18 came with: runtimes from 2023 on read it


def export_onnx(weights: Weights, path: Path, about: dict[str, object]) -> None:
    """Write a generator to ``path`` as ONNX (opset 18).

    Input ``picture``: float32, N×in_channels×H×W in [−1, 1], any H and W from 1 up. Output
    ``painting``: float32, N×out_channels×H×W in [−1, 1]. ``about``: the model's metadata. Raises
    UsageError if the package ``onnx`` is not installed; OSError.
    """
    try:
        import onnx
    except ImportError as error:
        raise UsageError(
            "The export to ONNX needs the package onnx, which is not installed.",
            hint=pip_extra("onnx"),
        ) from error
    spec, graph = weights.spec, _Graph(weights)
    _write_generator(graph)
    pictures = [
        onnx.helper.make_tensor_value_info(name, _FLOAT, ["batch", channels, "height", "width"])
        for name, channels in (("picture", spec.in_channels), ("painting", spec.out_channels))
    ]
    name, ends = f"cyclegan-{spec.name}", (pictures[:1], pictures[1:])
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, name, *ends, graph.constants),
        producer_name="cyclegan",
        producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    facts = {"about": json.dumps(about), "generator": json.dumps(spec.to_json())}
    onnx.helper.set_model_props(model, {**facts, "range": "[-1, 1]"})
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save_model(model, temporary)


class _Graph:
    """Nodes and constants in the order in which they are added; values are named by number."""

    def __init__(self, weights: Weights) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy = helper, numpy_helper
        self.spec, self.tensors = weights.spec, weights.tensors
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.saved: dict[str, str] = {}  # of skip connections
        self.code = ""  # of the scene: N×code

    def constant(self, value: NDArray[np.generic] | list[int] | int) -> str:
        """A constant; whole numbers become int64, arrays keep their type."""
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants.append(self._numpy.from_array(np.ascontiguousarray(array), name))
        return name

    def floats(self, value: float | list[float] | NDArray[np.floating[Any]]) -> str:
        """A constant of float32."""
        return self.constant(np.asarray(value, np.float32))

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def read(self, name: str, rows: NDArray[np.intp] | slice = slice(None)) -> list[str]:
        """Weight and bias of a layer, or ``rows`` of them."""
        return [self.constant(self.tensors[f"{name}.{k}"][rows]) for k in ("weight", "bias")]

    def size(self, x: str, axis: int) -> str:
        """Of ``x`` along ``axis``: one int64."""
        return self.add("Gather", self.add("Shape", x), self.constant([axis]))

    def count(self, size: str) -> str:
        """0, 1, … below ``size``, one int64."""
        end = self.add("Reshape", size, self.constant(np.asarray([], dtype=np.int64)))
        return self.add("Range", self.constant(0), end, self.constant(1))


def _write_generator(graph: _Graph) -> None:
    spec, x, sizes = graph.spec, "picture", []
    if spec.code > 0:
        graph.code = _scene_code(graph)
    for axis in (2, 3):
        sizes.append(graph.size("picture", axis))
        x = _mirrored(graph, x, sizes[-1], axis)
    source = x
    if grained(spec):
        x = _grained(graph, x)
    padded = x
    for part in layers(spec):
        if isinstance(part, Layer):
            x = _layer(graph, part, x)
            continue
        for block in part.blocks:
            y = x
            for layer in block:
                y = _layer(graph, layer, y)
            x = graph.add("Add", x, y)
    if spec.residual or spec.code > 0:
        base = _recoloured(graph, _smoothed(graph, source)) if spec.code > 0 else padded
        x = graph.add("Clip", graph.add("Add", base, x), graph.floats(-1.0), graph.floats(1.0))
    ends = graph.add("Concat", *sizes, axis=0)
    starts, axes = graph.constant([0, 0]), graph.constant([2, 3])
    graph.add("Slice", x, starts, ends, axes, output="painting")


def _mirrored(graph: _Graph, x: str, size: str, axis: int) -> str:
    """``x``, of ``size`` n along ``axis``, mirrored there to the size that is painted.

    Row i is row t = i mod 2(n − 1), or 2(n − 1) − t where that is less.
    """
    unit = reduction(graph.spec)
    one, two, multiple = (graph.constant([n]) for n in (1, 2, unit))
    count = graph.add("Div", graph.add("Add", size, graph.constant([unit - 1])), multiple)
    padded = graph.add("Max", graph.add("Mul", count, multiple), graph.constant([4 * unit]))
    period = graph.add("Mul", graph.add("Sub", size, one), two)
    period = graph.add("Max", period, one)  # a single row is repeated
    turn = graph.add("Mod", graph.count(padded), period)
    rows = graph.add("Min", turn, graph.add("Sub", period, turn))
    return graph.add("Gather", x, rows, axis=axis)


def _grained(graph: _Graph, x: str) -> str:
    """``x`` with the canvas: added to the picture, or one more channel for ``scene`` generators."""
    spec = graph.spec
    channels = 1 if spec.code > 0 else spec.in_channels
    grain = graph.add("Cast", graph.constant(tile()[None, :channels]), to=_FLOAT)
    grain = _placed(graph, grain, x)
    grain = graph.add("Sub", grain, graph.floats(CENTRE))
    grain = graph.add("Mul", grain, graph.floats(spec.grain / SPREAD))
    if spec.coarse > 0:
        small = np.pad(np.float32(spec.coarse) * coarse_tile(), 1, mode="wrap")[None, None]
        scales = np.asarray([1, 1, COARSE, COARSE], np.float32)
        large = graph.add(
            "Resize", graph.constant(small), "", graph.constant(scales), mode="linear"
        )
        ends, axes = graph.constant([COARSE + PERIOD] * 2), graph.constant([2, 3])
        inner = graph.add("Slice", large, graph.constant([COARSE] * 2), ends, axes)
        grain = graph.add("Add", grain, _placed(graph, inner, x))
    if spec.code == 0:
        return graph.add("Add", x, grain)
    batch = graph.add("Concat", graph.size(x, 0), graph.constant([1, 1, 1]), axis=0)
    return graph.add("Concat", x, graph.add("Expand", grain, batch), axis=1)


def _placed(graph: _Graph, canvas: str, x: str) -> str:
    """``canvas``, a square of PERIOD, repeated to the size of ``x``."""
    for axis in (2, 3):
        places = graph.add("Mod", graph.count(graph.size(x, axis)), graph.constant(PERIOD))
        canvas = graph.add("Gather", canvas, places, axis=axis)
    return canvas


def _scene_code(graph: _Graph) -> str:
    """The code of the whole picture, N×code, from a thumbnail of it."""
    rows = _averages(graph, graph.size("picture", 2))
    columns = graph.add("Transpose", _averages(graph, graph.size("picture", 3)), perm=[1, 0])
    x = graph.add("MatMul", graph.add("MatMul", rows, "picture"), columns)
    for number in range(len(SCENE_WIDTHS)):
        read = graph.read(f"scene.{2 * number}")
        x = graph.add("Conv", x, *read, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        x = graph.add("Relu", x)
    mean = graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)
    return graph.add("Relu", graph.add("Gemm", mean, *graph.read("code"), transB=1))


def _averages(graph: _Graph, size: str) -> str:
    """THUMBNAIL×size: a matrix that averages the rows of each field of the thumbnail.

    Field i has rows ⌊i·size/T⌋ to ⌈(i + 1)·size/T⌉, so in small pictures they overlap.
    """
    fields, every = np.arange(THUMBNAIL)[:, None], graph.constant(THUMBNAIL)
    start = graph.add("Div", graph.add("Mul", graph.constant(fields), size), every)
    stop = graph.add("Mul", graph.constant(fields + 1), size)
    stop = graph.add("Div", graph.add("Add", stop, graph.constant(THUMBNAIL - 1)), every)
    row = graph.count(size)
    inside = graph.add("GreaterOrEqual", row, start)
    inside = graph.add("And", inside, graph.add("Less", row, stop))
    count = graph.add("Cast", graph.add("Sub", stop, start), to=_FLOAT)
    return graph.add("Div", graph.add("Cast", inside, to=_FLOAT), count)


def _read_code(graph: _Graph, name: str, rows: NDArray[np.intp]) -> str:
    """What the linear layer ``name`` makes of the code, limited to (−1, 1): N×rows."""
    return graph.add("Tanh", graph.add("Gemm", graph.code, *graph.read(name, rows), transB=1))


def _conditioned(graph: _Graph, layer: Layer, x: str) -> str:
    """The output of ``layer`` scaled and shifted by the code."""
    rows = np.arange(2 * layer.outputs).reshape(2, -1)
    axes = graph.constant([2, 3])
    codes = (_read_code(graph, film_name(layer), some) for some in rows)
    scale, shift = (graph.add("Unsqueeze", code, axes) for code in codes)
    scaled = graph.add("Mul", x, graph.add("Add", scale, graph.floats(1.0)))
    return graph.add("Add", scaled, shift)


def _smoothed(graph: _Graph, picture: str) -> str:
    """The picture without its fine detail."""
    cell = [SMOOTH, SMOOTH]
    small = graph.add("AveragePool", picture, kernel_shape=cell, strides=cell)
    scales = graph.floats([1.0, 1.0, SMOOTH, SMOOTH])
    return graph.add("Resize", small, "", scales, mode="linear")


def _recoloured(graph: _Graph, picture: str) -> str:
    """The picture by a colour matrix with offset, both read from the code."""
    inputs, outputs = graph.spec.in_channels, graph.spec.out_channels
    rows = np.arange(outputs * (inputs + 1)).reshape(outputs, inputs + 1)
    matrix = _read_code(graph, "colour", rows[:, :inputs].ravel())
    matrix = graph.add("Reshape", matrix, graph.constant([0, outputs, inputs]))
    offset = _read_code(graph, "colour", rows[:, inputs])
    offset = graph.add("Unsqueeze", offset, graph.constant([2, 3]))
    change = graph.add("Einsum", matrix, picture, equation="noc,nchw->nohw")
    return graph.add("Add", picture, graph.add("Add", change, offset))


def _layer(graph: _Graph, layer: Layer, x: str) -> str:
    if layer.weight_shape:
        x = _convolution(graph, layer, x)
        return _conditioned(graph, layer, x) if layer.scene else x
    if layer.kind == "save":
        graph.saved[layer.slot] = x
        return x
    inputs: list[str] = []
    how: dict[str, Any] = {}
    if layer.kind == "add":
        inputs = [graph.saved.pop(layer.slot)]
    elif layer.kind == "reflect":
        border = [0, 0, layer.padding, layer.padding]
        inputs, how = [graph.constant([*border, *border])], {"mode": "reflect"}
    elif layer.kind == "instance_norm":
        inputs = [graph.floats(np.full(layer.outputs, value)) for value in (1.0, 0.0)]
        how = {"epsilon": EPS}
    elif layer.kind == "leaky_relu":
        how = {"alpha": layer.slope}
    elif layer.kind == "upsample":
        inputs = ["", graph.floats([1.0, 1.0, 2.0, 2.0])]
        how = {"mode": "nearest", "nearest_mode": "floor"}
        how["coordinate_transformation_mode"] = "asymmetric"
    return graph.add(_OPERATORS[layer.kind], x, *inputs, **how)


def _convolution(graph: _Graph, layer: Layer, x: str) -> str:
    how: dict[str, Any] = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
    how |= {"pads": [layer.padding] * 4, "group": layer.groups}
    if layer.kind == "conv_transpose":
        how["output_padding"] = [1, 1]
    return graph.add(_OPERATORS[layer.kind], x, *graph.read(layer.name), **how)

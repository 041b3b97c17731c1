"""A generator as an ONNX graph that takes pictures of any size.

The graph is written layer by layer with ``onnx`` alone: torch's exporters differ between versions,
and do not pad as this program does. The graph itself pads the bottom and the right by reflection to
a multiple of 4, at least 16, and crops the result, as ``painting`` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from cyclegan_cli.engine.grain import CENTRE, PERIOD, SPREAD, tile
from cyclegan_cli.engine.networks import Generator, ResidualBlock
from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import atomic_path
from cyclegan_cli.settings import GeneratorSpec
from cyclegan_cli.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["export_onnx"]

_FLOAT = 1  # onnx.TensorProto.FLOAT
_OPSET = 18
_IR_VERSION = 8  # the one that opset 18 came with: runtimes from 2023 on read it


def export_onnx(network: Generator, path: Path, about: dict[str, object]) -> None:
    """Write ``network`` to ``path`` as ONNX (opset 18).

    Input ``picture``: float32, N×in_channels×H×W in [−1, 1], any H and W from 1 up. Output
    ``painting``: float32, N×out_channels×H×W in [−1, 1]. ``about``: the model's metadata. Raises
    UsageError if the package ``onnx`` is not installed and for a ``scene`` generator; OSError.
    """
    try:
        import onnx
    except ImportError as error:
        raise UsageError(
            "The export to ONNX needs the package onnx, which is not installed.",
            hint="pip install 'cyclegan[onnx]'",
        ) from error
    spec, any_size = network.spec, ["batch", None, "height", "width"]
    if spec.code > 0:
        raise UsageError(
            f"A {spec.name} generator cannot be exported as ONNX yet.",
            hint="Export it as .safetensors.",
        )
    graph = _Graph()
    _write_generator(graph, network)
    value = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            f"cyclegan-{spec.name}",
            [value("picture", onnx.TensorProto.FLOAT, _shape(any_size, spec.in_channels))],
            [value("painting", onnx.TensorProto.FLOAT, _shape(any_size, spec.out_channels))],
            graph.constants,
        ),
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


def _shape(template: list[str | None], channels: int) -> list[str | int]:
    return [channels if size is None else size for size in template]


class _Graph:
    """Nodes and constants in the order in which they are added; values are named by number."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy = helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: NDArray[np.generic] | list[int] | list[float]) -> str:
        """A constant; lists of whole numbers become int64, others keep their type."""
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants.append(self._numpy.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def _write_generator(graph: _Graph, network: Generator) -> None:
    shape = graph.add("Shape", "picture")
    x = "picture"
    sizes = []
    for axis in (2, 3):
        size = graph.add("Gather", shape, graph.constant([axis]))
        sizes.append(size)
        x = _mirrored(graph, x, size, axis)
    if network.spec.grain > 0:
        x = _grained(graph, x, network.spec)
    padded = x
    for part in (network.encoder, network.trunk, network.decoder):
        for layer in part:
            x = _layer(graph, layer, x)
    if network.spec.residual:
        x = graph.add("Add", padded, x)
        low, high = (graph.constant(np.asarray(v, np.float32)) for v in (-1.0, 1.0))
        x = graph.add("Clip", x, low, high)
    ends = graph.add("Concat", *sizes, axis=0)
    starts, axes = graph.constant([0, 0]), graph.constant([2, 3])
    graph.add("Slice", x, starts, ends, axes, output="painting")


def _mirrored(graph: _Graph, x: str, size: str, axis: int) -> str:
    """``x`` continued along ``axis`` by its mirror image, to a multiple of 4 and 16 at least.

    Of n rows the i-th is row t = i mod 2(n − 1), or 2(n − 1) − t where that is less. ``size``: n,
    one int64.
    """
    one, two, three, four = (graph.constant([n]) for n in (1, 2, 3, 4))
    quarters = graph.add("Div", graph.add("Add", size, three), four)
    padded = graph.add("Max", graph.add("Mul", quarters, four), graph.constant([16]))
    period = graph.add("Mul", graph.add("Sub", size, one), two)
    period = graph.add("Max", period, one)  # a single row is repeated
    scalar = graph.constant(np.asarray([], dtype=np.int64))
    end = graph.add("Reshape", padded, scalar)
    zero, step = graph.constant(np.asarray(0)), graph.constant(np.asarray(1))
    turn = graph.add("Mod", graph.add("Range", zero, end, step), period)
    rows = graph.add("Min", turn, graph.add("Sub", period, turn))
    return graph.add("Gather", x, rows, axis=axis)


def _grained(graph: _Graph, x: str, spec: GeneratorSpec) -> str:
    """``x`` under the canvas, which is laid out from its first row and column on."""
    grain = graph.constant(tile()[None, : spec.in_channels])
    grain = graph.add("Cast", grain, to=_FLOAT)
    shape = graph.add("Shape", x)
    scalar = graph.constant(np.asarray([], dtype=np.int64))
    zero, step = graph.constant(np.asarray(0)), graph.constant(np.asarray(1))
    period = graph.constant(np.asarray(PERIOD))
    for axis in (2, 3):
        size = graph.add("Gather", shape, graph.constant([axis]))
        every = graph.add("Range", zero, graph.add("Reshape", size, scalar), step)
        grain = graph.add("Gather", grain, graph.add("Mod", every, period), axis=axis)
    centre, scale = (np.asarray(v, np.float32) for v in (CENTRE, spec.grain / SPREAD))
    grain = graph.add("Sub", grain, graph.constant(centre))
    return graph.add("Add", x, graph.add("Mul", grain, graph.constant(scale)))


def _layer(graph: _Graph, layer: nn.Module, x: str) -> str:
    """One layer of a ``Generator``; there are no others than these."""
    if isinstance(layer, ResidualBlock):
        y = x
        for inner in layer.branch:
            y = _layer(graph, inner, y)
        return graph.add("Add", x, y)
    if isinstance(layer, nn.ReflectionPad2d):
        left, right, top, bottom = layer.padding
        pads = graph.constant([0, 0, top, left, 0, 0, bottom, right])
        return graph.add("Pad", x, pads, mode="reflect")
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return _convolution(graph, layer, x)
    if isinstance(layer, nn.InstanceNorm2d):
        ones = graph.constant(np.ones(layer.num_features, np.float32))
        zeros = graph.constant(np.zeros(layer.num_features, np.float32))
        return graph.add("InstanceNormalization", x, ones, zeros, epsilon=layer.eps)
    if isinstance(layer, nn.Upsample):
        scales = graph.constant(np.asarray([1, 1, 2, 2], np.float32))
        return graph.add(
            *("Resize", x, "", scales),
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )
    return graph.add({nn.ReLU: "Relu", nn.Tanh: "Tanh"}[type(layer)], x)


def _convolution(graph: _Graph, layer: nn.Conv2d | nn.ConvTranspose2d, x: str) -> str:
    weight = graph.constant(layer.weight.detach().cpu().float().numpy())
    inputs = [x, weight]
    if layer.bias is not None:
        inputs.append(graph.constant(layer.bias.detach().cpu().float().numpy()))
    (pad_y, pad_x) = (int(n) for n in layer.padding)
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "pads": [pad_y, pad_x, pad_y, pad_x],
        "group": layer.groups,
    }
    if isinstance(layer, nn.Conv2d):
        return graph.add("Conv", *inputs, **attributes)
    return graph.add(
        "ConvTranspose", *inputs, output_padding=list(layer.output_padding), **attributes
    )

"""Styles from and to other files: import, export, and the test translation of both.

The public PyTorch CycleGAN's files hold one plain state_dict and say nothing of the network, so the
architecture is read from the tensors' names (see ``_names``) and shapes.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan_cli.engine.layers import shapes
from cyclegan_cli.engine.weights import (
    FORMAT,
    build_generator,
    load_generator,
    load_weights,
    save_generator,
)
from cyclegan_cli.errors import StoreError, UsageError, WeightsError, reason_of
from cyclegan_cli.files import atomic_path, digest_of, read_safetensors_header
from cyclegan_cli.settings import GeneratorSpec
from cyclegan_cli.styles.catalogue import Direction, Origin, Style, Way
from cyclegan_cli.styles.store import Write, add_style, find_style

if TYPE_CHECKING:
    from torch import Tensor

    from cyclegan_cli.engine.networks import Generator

_FORMATS = (".safetensors", ".pth", ".onnx")
_TEST_SIZE = 32  # pixels along each side of the test picture
_FLAT = 1e-4  # standard deviation below which a translation counts as a single colour
_WRAPPERS = ("module", "_orig_mod")  # DataParallel's, torch.compile's
_LAYER = re.compile(r"((?:.*?\.)??)model\.\d+(\.conv_block)?\.")  # what lies before it, of a block
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_BLOCK = re.compile(r"model\.(\d+)\.conv_block\.(\d+)\.weight")


def import_style(
    name: str,
    files: Mapping[Way, Path],
    *,
    x: str,
    y: str,
    origin: Origin = "imported",
    card: Mapping[str, object] | None = None,
    replace: bool = False,
) -> Style:
    """Make a style of generators of this program or of the public PyTorch CycleGAN.

    No byte of a file is executed, and each is tried on a test picture before the style appears.
    Raises WeightsError, UsageError, StoreError, OSError.
    """
    weights, sources = dict[Way, Path | Write](), dict[str, object]()
    for way, file in files.items():
        facts: dict[str, object] = {"x": x, "y": y, "direction": way}
        weights[way] = functools.partial(convert, file, about=facts)
        sources[way] = {"file": file.name, "sha256": digest_of(file)[0]}
    about = {"sources": sources, **(card or {})}
    return add_style(name, x=x, y=y, origin=origin, weights=weights, card=about, replace=replace)


def convert(source: Path, target: Path, *, about: dict[str, object]) -> None:
    """Write ``source``'s generator to ``target`` and try it. Raises WeightsError, OSError."""
    save_generator(target, read_generator(source), about)
    try:
        check_generator(target)
    except WeightsError as error:
        target.unlink()
        raise WeightsError(str(error).replace(str(target), str(source))) from error


def other_direction(file: Path) -> Path | None:
    """The pair's other file beside ``latest_net_G_A.pth`` (``…_B.pth``), or None."""
    if match := re.fullmatch(r"(.*_net_G_)([AB])(\.\w+)", file.name):
        other = file.with_name(f"{match[1]}{'B' if match[2] == 'A' else 'A'}{match[3]}")
        return other if other.is_file() else None
    return None


def check_target(file: Path, *, overwrite: bool) -> None:
    """Raise UsageError unless ``file`` can be written and its extension is that of a format."""
    if file.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"{file} does not say in which format to export.",
            hint=f"End it in one of: {', '.join(_FORMATS)}.",
        )
    if file.exists() and (not overwrite or not file.is_file()):
        raise UsageError(f"{file} is already there.", hint="--overwrite replaces it.")
    if not file.parent.is_dir():
        hint = f"mkdir -p {shlex.quote(str(file.parent))}"
        raise UsageError(f"The folder {file.parent} is not there.", hint=hint)


def export_style(style: Style, source: Path, file: Path, *, reverse: bool = False) -> None:
    """Write ``source``, one direction of ``style``, to ``file`` in the format of its extension.

    Raises UsageError if it has no such generator or a package is missing; WeightsError, OSError.
    """
    if file.suffix.lower() == ".safetensors":
        with atomic_path(file) as temporary:
            shutil.copyfile(source, temporary)
        return
    if file.suffix.lower() == ".pth":
        export_public(load_generator(source), file)
        return
    from cyclegan_cli.styles.onnxformat import export_onnx

    domains = (style.y, style.x) if reverse else (style.x, style.y)
    about: dict[str, object] = {"style": style.name, "from": domains[0], "to": domains[1]}
    about["licence"] = str(style.card.get("licence", "unknown"))
    export_onnx(load_weights(source), file, about)


def verify_style(style: Style) -> list[str]:
    """What is wrong with ``style``, one sentence each: digests, sizes, a test translation.

    A style that another process has replaced meanwhile is checked again.
    """
    found = ((direction.file, _problem(direction)) for direction in style.directions.values())
    problems = [f"{file}: {problem}" for file, problem in found if problem]
    if problems and style.folder is not None:
        with contextlib.suppress(StoreError):
            now = find_style(style.name)
            if now.folder == style.folder and now.directions != style.directions:
                return verify_style(now)
    return problems


def _problem(direction: Direction) -> str:
    try:
        digest, size = digest_of(direction.file)
        if size != direction.size:
            return f"it has {size} bytes, and had {direction.size}"
        if digest != direction.sha256:
            return f"its SHA-256 is {digest[:12]}…, and was {direction.sha256[:12]}…"
        if load_generator(direction.file).spec != direction.generator:
            return "its generator is not the one that the style's card names"
        check_generator(direction.file)
    except OSError as error:
        return f"it cannot be read ({reason_of(error)})"
    except WeightsError as error:
        return str(error).removeprefix(f"{direction.file} ").rstrip(".")
    return ""


def check_generator(path: Path) -> None:
    """Translate a test picture on the CPU. Raises WeightsError for one colour, NaN or infinity."""
    import torch

    network = load_generator(path)
    ramp = torch.linspace(-1, 1, _TEST_SIZE).repeat(_TEST_SIZE, 1)
    picture = torch.stack([ramp, ramp.T, ramp * ramp.T]).repeat(2, 1, 1)
    x = picture[None, : network.spec.in_channels]
    if network.spec.code > 0:  # it has the grain as a further channel
        x = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
    with torch.inference_mode():
        result = network(x)
    if not bool(torch.isfinite(result).all()):
        raise WeightsError(f"{path} translates a test picture into numbers that are not finite.")
    if float(result.std(dim=(2, 3)).max()) < _FLAT:
        raise WeightsError(f"{path} translates a test picture into a single colour.")


def read_generator(path: Path) -> Generator:
    """The generator in ``path``: float32, in eval mode, on the CPU.

    ``path``: a file of this program, or of the public PyTorch CycleGAN (``.pth`` of any version, or
    its tensors as ``.safetensors``). No byte of it is executed. Raises WeightsError, OSError.
    """
    from safetensors import SafetensorError

    from cyclegan_cli.styles.safeload import SIZE_LIMIT, load_state_dict

    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] != b"{" or head[:1] == b"{":  # JSON begins so, too
        return _paintable(from_public(load_state_dict(path), path), path)
    if path.stat().st_size > SIZE_LIMIT:
        raise WeightsError(f"{path} is larger than {SIZE_LIMIT >> 20} MiB.")
    try:
        from safetensors.torch import load_file

        metadata, _ = read_safetensors_header(path)
        said = metadata.get("format", "")
        if said.startswith("cyclegan-checkpoint"):
            raise WeightsError(
                f"{path} is a checkpoint of a training, which holds more than one generator.",
                hint="cyclegan pretrained import --run RUN, or with --checkpoint FILE of that run",
            )
        own = said == FORMAT
        return _paintable(load_generator(path) if own else from_public(load_file(path), path), path)
    except (ValueError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a whole weights file: {error}.") from error


def _paintable(network: Generator, path: Path) -> Generator:
    """``network``. Raises WeightsError unless it has 1 or 3 channels on each side."""
    spec = network.spec
    if not {spec.in_channels, spec.out_channels} <= {1, 3}:
        raise WeightsError(
            f"{path} holds a generator from {spec.in_channels} to {spec.out_channels} channels; "
            "pictures are painted with 3, or 1 (grey)."
        )
    return network


def from_public(tensors: dict[str, Tensor], path: Path) -> Generator:
    """The generator of a public state_dict, without InstanceNorm's running statistics.

    Raises WeightsError, which names ``path``, if it is no residual generator with InstanceNorm.
    """
    import torch

    if any(re.search(r"(^|\.)model\.\d+\.model\.\d", name) for name in tensors):  # nested levels
        raise _not_it(path, "it is a U-Net (--netG unet_128 or unet_256)")
    tensors = _one_network(tensors, path)
    _refuse_others(tensors, path)
    kept = {k: v for k, v in tensors.items() if not k.endswith(_STATISTICS)}
    spec, dropout = _architecture(kept, path)
    names = _names(spec, dropout)
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    state = {}
    for own, shape in shapes(spec).items():
        layer, _, kind = own.rpartition(".")
        name = f"{names[layer]}.{kind}"
        tensor = kept.pop(name, None)
        if tensor is None:
            raise _not_it(path, f"{name} is missing")
        if tensor.shape != shape:
            both = f"{list(tensor.shape)}, not {list(shape)}"
            raise _not_it(path, f"the shape of {name} is {both}")
        if tensor.dtype not in floats or not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path} is damaged: {name} holds numbers that are not finite.")
        state[own] = tensor.detach().float().contiguous().clone()
    if kept:
        raise _not_it(path, f"{sorted(kept)[0]} has no place in one")
    return build_generator(spec, state)


def to_public(network: Generator) -> dict[str, Tensor]:
    """The state_dict of the public ``ResnetGenerator``. Raises UsageError for other generators."""
    spec = network.spec
    sizes = ("name", "blocks", "width", "in_channels", "out_channels")
    if spec != GeneratorSpec(**{name: vars(spec)[name] for name in sizes}):
        raise UsageError(
            f"A {spec.name} generator has no place in the public CycleGAN's layout.",
            hint="Export it as .safetensors or .onnx.",
        )
    names = _names(spec, dropout=False)
    state: dict[str, Tensor] = OrderedDict()
    for own, tensor in network.state_dict().items():
        layer, _, kind = own.rpartition(".")
        state[f"{names[layer]}.{kind}"] = tensor.detach().cpu().float().contiguous().clone()
    return state


def export_public(network: Generator, path: Path) -> None:
    """Write ``to_public(network)`` to ``path`` as a ``.pth`` file. Raises UsageError, OSError."""
    import torch

    state = to_public(network)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _names(spec: GeneratorSpec, dropout: bool) -> dict[str, str]:
    """{layer of ``Generator``: layer of the public layout}."""
    n, second = spec.blocks, 6 if dropout else 5
    names = {f"encoder.{i}": f"model.{i}" for i in (1, 4, 7)}
    for i in range(n):
        names[f"trunk.{i}.branch.1"] = f"model.{10 + i}.conv_block.1"
        names[f"trunk.{i}.branch.5"] = f"model.{10 + i}.conv_block.{second}"
    return names | {f"decoder.{i}": f"model.{10 + n + i}" for i in (0, 3, 7)}


def _one_network(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The one generator's tensors, without prefixes such as ``module.`` and ``netG_A.``.

    Other tensors are left out. Raises WeightsError if there are several generators.
    """
    bare: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if short in bare:
            raise _not_it(path, f"{short} is there twice")
        bare[short] = tensor
    matches = [match for name in bare if (match := _LAYER.match(name))]
    places, generators = {match[1] for match in matches}, {m[1] for m in matches if m[2]}
    if len(generators) > 1:
        listed = ", ".join(sorted(place.rstrip(".") or "model" for place in generators)[:6])
        raise WeightsError(
            f"{path} holds several generators: {listed}.",
            hint="Save the state_dict of each to a file of its own.",
        )
    if len(generators or places) != 1:
        return bare
    (place,) = generators or places
    return {name[len(place) :]: t for name, t in bare.items() if name.startswith(place)}


def _architecture(tensors: dict[str, Tensor], path: Path) -> tuple[GeneratorSpec, bool]:
    """The generator's spec, and whether its blocks have dropout."""
    matches = [match for name in tensors if (match := _BLOCK.fullmatch(name))]
    blocks = len({match[1] for match in matches})
    found = {int(match[2]) for match in matches}
    second = found - {1}
    if blocks == 0 or second not in ({5}, {6}):
        if found in ({0, 3}, {0, 4}):
            raise _not_it(path, "its blocks pad with zeros, where the method's reflect")
        raise _not_it(path, "it has no residual blocks of the kind that the method has")
    first, last = tensors.get("model.1.weight"), tensors.get(f"model.{17 + blocks}.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        raise _not_it(path, "its first or last convolution is not where it should be")
    try:
        spec = GeneratorSpec(
            name=f"resnet{blocks}",
            blocks=blocks,
            width=first.shape[0],
            in_channels=first.shape[1],
            out_channels=last.shape[0],
        )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return spec, second == {6}


def _refuse_others(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise WeightsError for other networks of the public code, by name."""
    first = tensors.get("model.0.weight")
    if first is not None and first.shape[-1:] == (4,):
        raise WeightsError(
            f"{path} is a discriminator, not a generator.",
            hint="The generators are the files named latest_net_G_A.pth and latest_net_G_B.pth.",
        )
    if any(name.endswith(".filt") for name in tensors):
        raise _not_it(path, "it has the anti-aliased layers of CUT, a later method")
    if any(k.endswith(".weight") and tensor.ndim == 1 for k, tensor in tensors.items()):
        kind = "BatchNorm (--norm batch)" if "model.1.bias" not in tensors else "a learned norm"
        raise _not_it(path, f"it normalises with {kind}, where the method has plain InstanceNorm")
    if "model.1.weight" in tensors and "model.1.bias" not in tensors:
        raise _not_it(path, "its convolutions have no biases, as without InstanceNorm (--norm)")


def _not_it(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"{path} does not hold a CycleGAN generator that this program can build: {why}.",
        hint="What can be imported: generators trained with --netG resnet_9blocks or "
        "resnet_6blocks and --norm instance.",
    )

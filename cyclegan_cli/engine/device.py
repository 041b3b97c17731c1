"""Devices: what --gpu and --precision mean on this machine, and what a training needs of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import nn

from cyclegan_cli.engine.networks import DISCRIMINATORS, Generator, count_parameters
from cyclegan_cli.errors import DeviceError, counted
from cyclegan_cli.machine import normal_gpu
from cyclegan_cli.settings import Precision, TrainSettings

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Device:
    """A device that exists, and what a user calls it."""

    torch: torch.device
    label: str

    @property
    def gpu(self) -> str:
        """What ``--gpu`` calls it."""
        return self.torch.type if self.torch.index is None else str(self.torch.index)


def available() -> dict[str, str]:
    """What ``--gpu`` can name on this machine: {name: description}; always at least ``cpu``."""
    found = {"cpu": f"CPU, {counted(torch.get_num_threads(), 'thread')}"}
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    for index in range(torch.cuda.device_count()):
        found[str(index)] = torch.cuda.get_device_name(index)
    return found


def resolve(gpu: str) -> list[Device]:
    """The devices that ``--gpu`` means, at least one.

    ``auto``: the CUDA device with the most free memory, else MPS, else the CPU; ``cpu``; ``mps``;
    ``cuda``; ``0``; ``0,1``; ``cuda:0``. Raises DeviceError if a named device is not there.
    """
    found = available()
    gpu = normal_gpu(gpu)
    names = _automatic(found) if gpu == "auto" else gpu.split(",")
    if gpu == "cuda" and "0" in found:
        names = _automatic(found)
    for name in names:
        if name not in found:
            there = "; ".join(f"--gpu {key} ({label})" for key, label in found.items())
            number = f" {name}" if name.isdigit() else ""
            kind = f"CUDA device{number}" if number or name == "cuda" else f"device '{name}'"
            raise DeviceError(f"There is no {kind} here.", hint=f"Available: {there}.")
    if len(set(names)) != len(names):
        raise DeviceError(f"--gpu {gpu} names a device twice.")
    if len(names) > 1 and not all(name.isdigit() for name in names):
        raise DeviceError(f"--gpu {gpu}: only CUDA devices can be combined.")
    return [Device(_torch_device(name), found[name]) for name in names]


def _automatic(found: dict[str, str]) -> list[str]:
    indices = [name for name in found if name.isdigit()]
    if indices:
        return [max(indices, key=lambda name: torch.cuda.mem_get_info(int(name))[0])]
    return ["mps" if "mps" in found else "cpu"]


def _torch_device(name: str) -> torch.device:
    return torch.device("cuda", int(name)) if name.isdigit() else torch.device(name)


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of autocast: float32 means no autocast.

    ``auto``: bfloat16 on CUDA devices of compute capability 8.0 or more, else float32. Raises
    DeviceError for fp16 anywhere but on CUDA.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float32
    if precision == "fp16" and device.type != "cuda":
        raise DeviceError("--precision fp16 needs a CUDA device.", hint="--precision fp32")
    return DTYPES[precision]


def memory_used(device: torch.device) -> int | None:
    """Peak bytes of a CUDA device's memory, else of this process's; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes


# -- what a training needs ------------------------------------------------------------------------


@dataclass(frozen=True)
class Needs:
    """``memory``: bytes while training, an estimate; ``checkpoint``: bytes of one checkpoint;
    ``parameters``: those of one generator."""

    memory: int
    checkpoint: int
    parameters: int


def training_needs(settings: TrainSettings) -> Needs:
    """Estimate memory and disk from the shapes of the networks' layers.

    Counted: what autograd keeps of six generator and two discriminator passes (one step for G and
    F), the parameters with their gradients and moments, and the histories.
    """
    generator = Generator(settings.generator)
    discriminator = DISCRIMINATORS[settings.discriminator](settings.generator.out_channels)
    channels, crop = settings.generator.in_channels, settings.crop_size
    pixels = settings.batch_size * crop * crop
    kept = 6 * _activations(generator, channels, pixels)
    kept += 2 * max(1, settings.replay) * _activations(discriminator, channels, pixels)
    parameters = 2 * (count_parameters(generator) + count_parameters(discriminator))
    history = (4 if settings.replay else 2) * settings.history * channels * crop * crop
    return Needs(
        memory=_FLOAT * (int(kept) + 4 * parameters + history) + 500 * 2**20,  # and torch itself
        checkpoint=_FLOAT * (3 * parameters + history),
        parameters=count_parameters(generator),
    )


def _activations(network: nn.Module, channels: int, pixels: float) -> float:
    """The number of elements of all layers' outputs, which autograd keeps nearly all of.

    Counted by hand: a pass over meta tensors would import PyTorch's compiler.
    """
    total = 0.0
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            pixels /= layer.stride[0] ** 2
            channels = layer.out_channels
        elif isinstance(layer, nn.ConvTranspose2d):
            pixels *= layer.stride[0] ** 2
            channels = layer.out_channels
        elif isinstance(layer, nn.Upsample):
            pixels *= 4
        if not list(layer.children()):
            total += channels * pixels
    return total

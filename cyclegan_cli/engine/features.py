"""Losses on features of a frozen network.

Its input gets noise and random sizes first, else a generator learns to paint what only the network
sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.distributed import ALONE, Group
from cyclegan_cli.engine.grain import drawn
from cyclegan_cli.engine.losses import sorted_projections
from cyclegan_cli.engine.networks import SEEN_CHANNELS, View
from cyclegan_cli.engine.perceptual import STAGES, WHOLE_CHANNELS, frozen_network
from cyclegan_cli.machine import Part
from cyclegan_cli.randomness import choices, stream_seed
from cyclegan_cli.settings import TrainSettings

SEEN = (0, 1, 2, 4)  # the stages that discriminators and distances look at: strides 2, 4, 8, 16
CONTENT = (2, 3)  # of these, the ones that say what is where
_TONES = 2  # values that describe light and dark
_VECTORS = len(SEEN_CHANNELS) + 1  # levels of vectors; those of pictures' statistics follow
_WEIGHT = 6.0  # of pictures' statistics
_WHOLE = 5.0  # the same of the last stage's mean, times this: what a picture shows
_LITTLE = 1e-4  # deviations: each vector is also a remembered one, but for rounding
_CELL = 16  # pixels along a cell of tones and of surroundings
_PLACE = 4  # values that describe a place: mean colour and contrast
_SHARE = 1.0  # of these, beside a stage's channels together

NOISE = (0.0, 0.05)  # its deviation on what the network is shown: drawn between them for each step
SHIFT = 8  # pixels, at most, by which it is shown shifted
SCALES = (0.25, 0.5, 0.75, 1.0, 1.0)  # sizes at which it is shown

BEGIN = 32  # steps' pictures that are looked at before the first step
SAMPLES = 512  # feature vectors of a step that are compared
KEPT = 192  # of them remembered
REMEMBERED = 32  # steps whose vectors stand for all pictures, this step's among them
PICTURES = 128  # steps whose pictures' statistics do
SHOWN = 4  # pictures of a step whose statistics are compared
DIRECTIONS = 24  # on which they are projected at each step


# -- what is shown to it ---------------------------------------------------------------------------


class Perception:
    """The frozen network in a training: features of a step's pictures, and losses on them.

    Its input is shifted, resized and has noise; shift and size are the same for all pictures of a
    step.
    """

    def __init__(self, settings: TrainSettings, device: torch.device, group: Group = ALONE) -> None:
        self._settings, self._seed = settings, settings.seed
        stages = STAGES if settings.lambda_feature > 0 else max(SEEN) + 1
        self._network = frozen_network("lite0", stages, device)
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
            whole = stages[-1].mean((2, 3), keepdim=True)
        found = View(pictures, shown, [stages[stage] for stage in SEEN], whole)
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
        return x + choice.uniform(*NOISE) * drawn(x, seed, self._part)

    def losses(self, x: Tensor, y: Tensor, fake_x: Tensor, fake_y: Tensor) -> dict[str, Tensor]:
        """``feature_X``, ``feature_Y``, ``content_X``, ``content_Y``, weighted, if not 0."""
        s, losses = self._settings, {}
        if s.lambda_feature == 0 and s.lambda_content == 0:
            return {}
        seen_x, seen_y = self.view(x, "x"), self.view(y, "y")
        made_x, made_y = self.view(fake_x, "F(y)"), self.view(fake_y, "G(x)")
        if self.distances:
            with torch.autocast(x.device.type, enabled=False):
                distance_x = self.distances["X"](made_x, seen_y, seen_x, self._part)
                distance_y = self.distances["Y"](made_y, seen_x, seen_y, self._part)
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
            real, source, made = (0, 1, 2) if domain == "X" else (1, 0, 3)
            distance.begin(*([views[i] for views in seen] for i in (made, source, real)))
        return {"X": deviations([v[0] for v in seen]), "Y": deviations([v[1] for v in seen])}


# -- losses ----------------------------------------------------------------------------------------


class FeatureDistance:
    """Sliced Wasserstein distance of the features of generated pictures to those of real ones.

    Rabin et al., SSVM 2011, for the feature vectors of each stage, for mean and deviation of light
    in the pictures' cells, and for each picture's mean and deviation of the channels of a stage
    and mean of the last stage. Those of earlier steps are included on both sides. The unit is the
    deviation in real pictures.

    Vectors also hold colour and contrast at their place, a generated picture's those of its source,
    each in units of its domain: what is smooth and blue is compared with what is smooth and blue in
    real pictures.

    ``name``: the domain, which labels the random streams together with ``seed``. ``begin`` must be
    called first. ``group``: the processes that train together; each remembers the same.
    """

    def __init__(self, seed: int, name: str, device: torch.device, group: Group = ALONE) -> None:
        self._seed, self._name, self._group = seed, name, group
        self.steps = 0
        vectors = [size + _PLACE for size in (*SEEN_CHANNELS, _TONES)]
        statistics = [*(2 * size for size in SEEN_CHANNELS), WHOLE_CHANNELS]
        # Mean and deviation of places in the sources of generated pictures, and in real ones.
        self._places = [torch.ones(2, _PLACE, device=device) for _ in range(2)]
        self._deviations = [torch.ones(n, device=device) for n in (*vectors, *statistics)]
        shapes = [(REMEMBERED, KEPT, size) for size in vectors]
        shapes += [(PICTURES, SHOWN, size) for size in statistics]
        self._made = [torch.zeros(shape, device=device) for shape in shapes]
        self._real = [torch.zeros(shape, device=device) for shape in shapes]

    def begin(
        self, generated: Sequence[View], source: Sequence[View], real: Sequence[View]
    ) -> None:
        """Measure the units on ``real`` and ``source``, and remember features."""
        for units, views in zip(self._places, (source, real), strict=True):
            places = torch.cat([_vectors(_surroundings(view.pictures)) for view in views])
            units.copy_(torch.stack([places.mean(0), places.std(0) + 1e-3]))
        made = [self._levels(*views, 0) for views in zip(generated, source, strict=True)]
        wanted = [self._levels(view, view, 1) for view in real]
        self._deviations = [
            torch.cat([_vectors(features) for features in level]).std(0, correction=0) + 1e-3
            for level in zip(*wanted, strict=True)
        ]
        for deviation in self._deviations[:_VECTORS]:
            deviation[-_PLACE:] = (_PLACE / (_SHARE * (len(deviation) - _PLACE))) ** 0.5
        draw = self._stream("feature-begin", 0)
        for memory, levels in ((self._made, made), (self._real, wanted)):
            for level, kept in enumerate(memory):
                for number in range(len(kept)):
                    vectors = self._drawn(level, levels[number % len(levels)][level], draw)
                    kept[number] = vectors.detach()[: kept.shape[1]]

    def __call__(
        self, generated: View, source: View, real: View, part: Part | None = None
    ) -> Tensor:
        """A scalar: about ‖v‖² for a shift of all vectors by v, and for pictures' statistics
        Huber's loss, in units of their deviation.

        With a ``part``, the value is that of the whole batch in each process. The gradient is such
        that its mean over processes, weighted by pictures, is that of the whole batch.
        """
        draw = self._stream("feature-draw", self.steps)
        total = generated.pictures.new_zeros(())
        pairs = zip(self._levels(generated, source, 0), self._levels(real, real, 1), strict=True)
        for level, (made, wanted) in enumerate(pairs):
            places, kept, size = self._made[level].shape
            vectors = self._drawn(level, made, draw, part)
            place = self.steps % places
            self._made[level][place] = vectors[:kept].detach()
            self._real[level][place] = self._drawn(level, wanted, draw, part)[:kept].detach()
            directions = torch.randn(size, DIRECTIONS, generator=draw).to(vectors.device)
            directions = directions / directions.norm(dim=0)
            values = (vectors @ directions).T.contiguous()
            with torch.no_grad():
                made_values = sorted_projections(self._made[level].flatten(0, 1) @ directions)
                real_values = sorted_projections(self._real[level].flatten(0, 1) @ directions)
                ranks = torch.searchsorted(made_values, values.detach() - _LITTLE)
                targets = real_values.gather(1, ranks.clamp(max=made_values.shape[1] - 1))
            if level < _VECTORS:
                loss = size * (values - targets).square().mean() / _VECTORS
            else:
                weight = _WEIGHT * (_WHOLE if level == len(self._made) - 1 else 1.0)
                loss = weight * functional.smooth_l1_loss(values, targets) / len(SEEN_CHANNELS)
            total = total + loss
        self.steps += 1
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
        kept["place"] = self._places
        return {f"{name}.{i}": t for name, tensors in kept.items() for i, t in enumerate(tensors)}

    def _drawn(
        self, level: int, features: Tensor, draw: torch.Generator, part: Part | None = None
    ) -> Tensor:
        """Random vectors of N×C×h×w in units of the real deviation: SAMPLES, or SHOWN pictures'.

        With a ``part``, they are drawn from the whole batch; those of others have no gradient.
        """
        vectors, n = _vectors(features), len(features)
        rows, whole = (part.rows, part.whole) if part else (range(n), n)
        each = len(vectors) // n
        if level < _VECTORS:
            which = torch.randint(whole * each, (SAMPLES,), generator=draw)
        else:
            which = torch.randperm(whole, generator=draw).repeat(SHOWN)[:SHOWN]
        which = which.to(vectors.device) - rows.start * each
        own = (which >= 0) & (which < len(rows) * each)
        mine = vectors[which.clamp(0, len(vectors) - 1)] * own[:, None]
        everyone = mine.detach().clone()
        if part:
            self._group.sum_([everyone])
        return (mine + (everyone - mine.detach())) / self._deviations[level]

    def _levels(self, view: View, source: View, side: int) -> list[Tensor]:
        """Maps of vectors with what is at their place in ``source``, and pictures' statistics.

        ``side``: 0 for generated pictures, 1 for real ones.
        """
        mean, deviation = self._places[side][..., None, None]
        around = (_surroundings(source.pictures) - mean) / deviation
        vectors = [*view.features, _tones(view.pictures)]
        statistics = [
            torch.cat([f.mean((2, 3), keepdim=True), f.std((2, 3), correction=0, keepdim=True)], 1)
            for f in view.features
        ]
        sizes = [f.shape[2:] for f in vectors]
        places = [functional.interpolate(around, size, mode="bilinear") for size in sizes]
        placed = [torch.cat(pair, dim=1) for pair in zip(vectors, places, strict=True)]
        return [*placed, *statistics, view.whole]

    def _stream(self, label: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(self._seed, label, self._name, number))


def deviations(views: Sequence[View]) -> Tensor:
    """The deviation of each stage's features."""
    stages = zip(*(view.features for view in views), strict=True)
    return torch.stack([torch.cat([s.flatten() for s in stage]).std() for stage in stages])


def _vectors(features: Tensor) -> Tensor:
    """N×C×h×w -> (N·h·w)×C."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def _tones(pictures: Tensor) -> Tensor:
    """Mean and deviation of the light in each cell: N×2×h×w."""
    light = pictures.mean(1, keepdim=True)
    mean = functional.avg_pool2d(light, _CELL)
    square = functional.avg_pool2d(light.square(), _CELL)
    return torch.cat([mean, ((square - mean.square()).clamp_min(0) + 1e-4).sqrt()], dim=1)


def _surroundings(pictures: Tensor) -> Tensor:
    """Mean colour, and the logarithm of the contrast of light, around each cell: N×4×h×w.

    Of means of 8×8 pixels, in which brushwork does not count.
    """
    with torch.no_grad():
        small = functional.avg_pool2d(pictures, _CELL // 2)
        light = small.mean(1, keepdim=True)
        mean, of_light, of_squares = (
            functional.avg_pool2d(x, 4, 2, 1, count_include_pad=False)
            for x in (small, light, light.square())
        )
        contrast = (of_squares - of_light.square()).clamp_min(0).sqrt()
        return torch.cat([mean, (contrast + 0.02).log()], dim=1)


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

"""How good generators are, on pictures that they were not trained on.

Sliced Wasserstein distance of patches in a Laplacian pyramid: Karras et al., "Progressive Growing
of GANs for Improved Quality, Stability, and Variation", ICLR 2018, section 5. There each set is
normalised by itself, so that washed-out colours cost nothing; here both are normalised by the real
set's mean and deviation.

The classifier two-sample test: Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR
2017. Its error on unseen pictures is the score: ½ if the sets look alike, 0 if they never do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.losses import (
    DIRECTIONS,
    FLATTEST,
    SIDE,
    cut_patches,
    l1,
    pyramid,
    smooth,
    sorted_projections,
)
from cyclegan_cli.randomness import choices, stream_seed

Paint = Callable[[Tensor], Tensor]

PATCHES = 128  # of a picture, at each level of the pyramid
COARSEST = 32  # pixels along the short side of the last level
_AT_ONCE = 64  # directions: limits the memory

# The classifier.
FOLDS = 3
STEPS = 120  # of training, for each fold
CROP = 64  # pixels along a side of its input
CROPS = 8  # of each unseen picture; their mean decides
BATCH = 16  # crops of each set a step
RATE = 4e-3
WIDTHS = (3, 16, 32, 48)


@dataclass(frozen=True)
class Score:
    """``swd``: the mean of ``sliced_wasserstein``; ``classifier``: ``classifier_error``."""

    swd: float
    classifier: float


@dataclass(frozen=True)
class Evaluation:
    """Outputs of G against real Y (``y``), outputs of F against real X (``x``).

    The floors are the scores of as many other real pictures. ``cycle_l1``: mean of |F(G(x)) − x|
    and |G(F(y)) − y|, for values in [−1, 1].
    """

    y: Score
    y_floor: Score
    x: Score
    x_floor: Score
    cycle_l1: float

    @property
    def distance(self) -> float:
        """The mean of both directions' SWD over their floor: lower is better.

        Without the classifier's error, which varies too much on few pictures.
        """
        pairs = ((self.y, self.y_floor), (self.x, self.x_floor))
        return sum(got.swd / max(floor.swd, 1e-9) for got, floor in pairs) / len(pairs)

    def to_json(self) -> dict[str, Any]:
        """The record in metrics.jsonl."""
        record: dict[str, Any] = {
            "cycle_l1": round(self.cycle_l1, 5),
            "distance": round(self.distance, 4),
        }
        for name, got, floor in (("y", self.y, self.y_floor), ("x", self.x, self.x_floor)):
            floors = {f"{key}_floor": value for key, value in asdict(floor).items()}
            record[name] = {k: round(v, 4) for k, v in {**asdict(got), **floors}.items()}
        return record


def score(some: Tensor, real: Tensor, *, seed: int = 0) -> Score:
    """Both measures of ``some`` against ``real``: float, N×3×H×W and M×3×H×W in [−1, 1].

    Raises ValueError for sets that cannot be compared.
    """
    return Score(
        swd=sliced_wasserstein(some, real, seed=seed)["mean"],
        classifier=classifier_error(some, real, seed=seed),
    )


class Real(NamedTuple):
    """Held-out pictures ``x`` and ``y``, and ``more_x`` and ``more_y`` for the floors.

    Each float, N×3×H×W in [−1, 1], all of one size; as many of ``more_x`` as of ``y``, and so on.
    """

    x: Tensor
    y: Tensor
    more_x: Tensor
    more_y: Tensor


class Evaluator:
    """Measures generators on the same pictures, which ``load`` gives at the first evaluation."""

    def __init__(self, load: Callable[[], Real], *, seed: int = 0) -> None:
        self._load = load
        self._seed = seed
        self._known: tuple[Real, Score, Score] | None = None

    def evaluate(self, G: Paint, F: Paint) -> Evaluation:
        """Score G: X→Y and F: Y→X, which paint float 1×3×H×W in [−1, 1], on the CPU.

        Raises PictureError if a picture cannot be read, ValueError if there are too few.
        """
        seed = self._seed
        if self._known is None:
            real = self._load()
            y_floor = score(real.more_y, real.y, seed=seed)
            self._known = (real, y_floor, score(real.more_x, real.x, seed=seed))
        real, y_floor, x_floor = self._known
        fake_y, cycle_x = through(real.x, G, F)
        fake_x, cycle_y = through(real.y, F, G)
        return Evaluation(
            y=score(fake_y, real.y, seed=seed),
            y_floor=y_floor,
            x=score(fake_x, real.x, seed=seed),
            x_floor=x_floor,
            cycle_l1=(cycle_x + cycle_y) / 2,
        )


@torch.no_grad()
def through(pictures: Tensor, there: Paint, back: Paint) -> tuple[Tensor, float]:
    """Each picture painted, one at a time, and the mean |back(there(p)) − p|."""
    painted, away = [], 0.0
    for number in range(len(pictures)):
        picture = pictures[number : number + 1]
        painted.append(there(picture))
        away += float(l1(back(painted[-1]), picture))
    return torch.cat(painted), away / len(pictures)


# -- sliced Wasserstein distance -------------------------------------------------------------------


def sliced_wasserstein(some: Tensor, real: Tensor, *, seed: int = 0) -> dict[str, float]:
    """Distance of the patches of ``some`` and ``real``, times 1000: by level and "mean".

    ``some``, ``real``: float, N×3×H×W and M×3×H×W in [−1, 1]. Levels are named by their short side
    in pixels ("256", "128", …, at least 32): the finest compares texture, the coarsest palette and
    large shapes, in units of the real patches' deviation in each channel. The same arguments give
    the same numbers. Raises ValueError for sets that cannot be compared.
    """
    a, b = some, real
    if a.ndim != 4 or a.shape[1:] != b.shape[1:] or a.shape[1] != 3 or not (len(a) and len(b)):
        raise ValueError(f"sets of {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    if min(a.shape[2:]) < COARSEST:
        raise ValueError(f"pictures of {tuple(a.shape[2:])} are smaller than {COARSEST} pixels")
    total = PATCHES * min(len(a), len(b))
    count, side = 1, min(a.shape[2:])
    while side // 2 >= COARSEST:
        count, side = count + 1, -(-side // 2)
    pyramids = [pyramid(one.detach().float().cpu(), count, _double) for one in (a, b)]
    scores = {}
    for levels in zip(*pyramids, strict=True):
        side = min(levels[0].shape[2:])
        patches = [_patches(level, total, seed, side) for level in levels]
        scores[str(side)] = 1000 * _sliced(*_normalised(patches[0], patches[1]), seed, side)
    return {**scores, "mean": sum(scores.values()) / len(scores)}


def _double(pictures: Tensor, size: torch.Size) -> Tensor:
    """A level at the size of the finer one: zeros between the pixels, smoothed."""
    spread = pictures.new_zeros(*pictures.shape[:2], *size)
    spread[:, :, ::2, ::2] = pictures
    return 4 * smooth(spread)


def _patches(level: Tensor, total: int, seed: int, side: int) -> Tensor:
    """``total`` patches, spread evenly over the pictures: N×3×H×W -> total×3×7×7."""
    n, _, height, width = level.shape
    draw = torch.Generator().manual_seed(stream_seed(seed, "swd-patches", side))
    tops = torch.randint(height - SIDE + 1, (total,), generator=draw)
    lefts = torch.randint(width - SIDE + 1, (total,), generator=draw)
    return cut_patches(level, torch.arange(total) % n, tops, lefts)


def _normalised(some: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Both as rows, normalised to mean 0 and deviation 1 of the real patches in each channel."""
    deviation, mean = torch.std_mean(real, dim=(0, 2, 3), keepdim=True, correction=0)
    deviation = deviation.clamp_min(FLATTEST)
    return ((some - mean) / deviation).flatten(1), ((real - mean) / deviation).flatten(1)


def _sliced(a: Tensor, b: Tensor, seed: int, side: int) -> float:
    """Mean over directions of the one-dimensional Wasserstein distance between projections."""
    draw = torch.Generator().manual_seed(stream_seed(seed, "swd-directions", side))
    directions = torch.randn(a.shape[1], DIRECTIONS, generator=draw)
    directions = directions / directions.norm(dim=0)
    distance = 0.0
    for some in directions.split(_AT_ONCE, dim=1):
        one, other = (sorted_projections(rows @ some).numpy() for rows in (a, b))
        distance += float(np.abs(one - other).mean(axis=1, dtype=np.float64).sum())
    return distance / DIRECTIONS


# -- the classifier -------------------------------------------------------------------------------


def classifier_error(a: Tensor, b: Tensor, *, seed: int = 0) -> float:
    """The error, 0 to 1, of telling the pictures of ``a`` from those of ``b``; ½: it cannot.

    ``a``, ``b``: float, N×3×H×W and M×3×H×W in [−1, 1], two pictures in each at least. A network of
    three convolutions learns from random crops of two thirds of the pictures of each set and is
    asked about the rest, three times, so that every picture is asked about once. Both sets weigh
    the same, whatever their sizes. The same arguments give the same number on one machine. Raises
    ValueError for sets that cannot be compared.
    """
    if a.ndim != 4 or a.shape[1:] != b.shape[1:] or a.shape[1] != 3 or min(len(a), len(b)) < 2:
        raise ValueError(f"sets of {tuple(a.shape)} and {tuple(b.shape)} cannot be told apart")
    sets = [a.detach().float().cpu(), b.detach().float().cpu()]
    folds = min(FOLDS, len(a), len(b))
    orders = [_order(len(pictures), seed, label) for label, pictures in enumerate(sets)]
    wrong, asked = [0.0, 0.0], [0, 0]
    for fold in range(folds):
        unseen = [order[fold::folds] for order in orders]
        seen = [[i for i in o if i not in set(u)] for o, u in zip(orders, unseen, strict=True)]
        weights = _learn([s[which] for s, which in zip(sets, seen, strict=True)], seed, fold)
        for label, (pictures, which) in enumerate(zip(sets, unseen, strict=True)):
            draw = torch.Generator().manual_seed(stream_seed(seed, "classifier-asks", fold))
            crops = _crops(pictures, [i for i in which for _ in range(CROPS)], draw)
            with torch.no_grad():
                says_b = _judge(crops, weights).sigmoid().reshape(-1, CROPS).mean(dim=1) > 0.5
            wrong[label] += float((says_b != bool(label)).sum())
            asked[label] += len(which)
    return sum(w / n for w, n in zip(wrong, asked, strict=True)) / 2


def _order(count: int, seed: int, label: int) -> list[int]:
    order = list(range(count))
    choices(seed, "classifier-folds", label).shuffle(order)
    return order


def _learn(sets: list[Tensor], seed: int, fold: int) -> list[Tensor]:
    """Adam on the cross-entropy; the weights are tensors, so no shared random state is used."""
    draw = torch.Generator().manual_seed(stream_seed(seed, "classifier", fold))
    weights = _fresh(draw)
    optimiser = torch.optim.Adam(weights, lr=RATE)
    target = torch.cat([torch.zeros(BATCH), torch.ones(BATCH)])
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        crops = []
        for pictures in sets:
            which = torch.randint(len(pictures), (BATCH,), generator=draw).tolist()
            crops.append(_crops(pictures, which, draw))
        batch = torch.cat(crops)
        mirrored = torch.rand(len(batch), generator=draw) < 0.5
        batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        with torch.enable_grad():
            loss = functional.binary_cross_entropy_with_logits(_judge(batch, weights), target)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
    return [weight.detach() for weight in weights]


def _fresh(draw: torch.Generator) -> list[Tensor]:
    """Kernels by He's rule and zero biases, for every layer in turn."""
    weights = []
    for before, after in pairwise(WIDTHS):
        weights += [torch.randn(after, before, 3, 3, generator=draw) * math.sqrt(2 / (9 * before))]
        weights += [torch.zeros(after)]
    weights += [torch.randn(1, WIDTHS[-1], generator=draw) * math.sqrt(1 / WIDTHS[-1])]
    weights += [torch.zeros(1)]
    return [weight.requires_grad_() for weight in weights]


def _judge(crops: Tensor, weights: list[Tensor]) -> Tensor:
    """N×3×h×w -> N logits, positive for the second set."""
    *layers, last, bias = weights
    for kernel, shift in zip(layers[::2], layers[1::2], strict=True):
        crops = functional.relu(functional.conv2d(crops, kernel, shift, stride=2, padding=1))
    return functional.linear(crops.mean(dim=(2, 3)), last, bias)[:, 0]


def _crops(pictures: Tensor, which: list[int], draw: torch.Generator) -> Tensor:
    """A random square of each picture that ``which`` names (the whole of a small one)."""
    height, width = pictures.shape[2:]
    side = min(CROP, height, width)
    tops = torch.randint(height - side + 1, (len(which),), generator=draw).tolist()
    lefts = torch.randint(width - side + 1, (len(which),), generator=draw).tolist()
    places = zip(which, tops, lefts, strict=True)
    views = [pictures[i, :, top : top + side, left : left + side] for i, top, left in places]
    return torch.stack(views)

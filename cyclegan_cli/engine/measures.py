"""How far two sets of pictures are from one another, without a pretrained network.

Sliced Wasserstein distance over patches of a Laplacian pyramid: Karras et al., "Progressive Growing
of GANs for Improved Quality, Stability, and Variation", ICLR 2018, section 5. One thing differs:
there each set is normalised by itself, so that washed-out colours cost nothing; here the real set's
mean and deviation are the yardstick of both.

The classifier two-sample test: Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR
2017: a small classifier, freshly trained, tells the sets apart. Its error on pictures that it has
not seen is the score: one half where the sets look alike to it, nothing where they never do.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.randomness import choices, stream_seed

__all__ = ["classifier_error", "halve", "sliced_wasserstein"]

NEIGHBOURHOOD = 7  # pixels along a side of a patch
PATCHES = 128  # of a picture, at each level of the pyramid
DIRECTIONS = 512
COARSEST = 32  # pixels along the short side of the last level
FLATTEST = 1e-3  # a deviation below an eighth of a grey level is none
_AT_ONCE = 64  # directions: bounds the memory

# The classifier.
FOLDS = 3
STEPS = 120  # of training, for each fold
CROP = 64  # pixels along a side of what it sees
CROPS = 8  # of each unseen picture; their mean decides
BATCH = 16  # crops of each set a step
RATE = 4e-3
WIDTHS = (3, 16, 32, 48)


def sliced_wasserstein(some: Tensor, real: Tensor, *, seed: int = 0) -> dict[str, float]:
    """How far the patches of ``some`` are from those of ``real``, times 1000: by level and "mean".

    ``some``, ``real``: float, N×3×H×W and M×3×H×W (N and M may differ, H and W not), in [−1, 1].
    The levels are named by their short side in pixels ("256", "128", …, not under 32): the finest
    says how alike the texture is, the coarsest how alike palette and large shapes are. Every level
    is in units of the real patches' deviation per channel. The same arguments give the same
    numbers; a set has distance 0 to itself. Raises ValueError for sets that cannot be compared.
    """
    a, b = some, real
    if a.ndim != 4 or a.shape[1:] != b.shape[1:] or a.shape[1] != 3 or not (len(a) and len(b)):
        raise ValueError(f"sets of {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    if min(a.shape[2:]) < COARSEST:
        raise ValueError(f"pictures of {tuple(a.shape[2:])} are smaller than {COARSEST} pixels")
    total = PATCHES * min(len(a), len(b))
    scores = {}
    rests = [a.detach().float().cpu(), b.detach().float().cpu()]
    while True:
        side = min(rests[0].shape[2:])
        last = side // 2 < COARSEST
        halves = rests if last else [halve(rest) for rest in rests]
        levels = [
            rest if last else rest - _double(half, rest.shape[2], rest.shape[3])
            for rest, half in zip(rests, halves, strict=True)
        ]
        patches = [_patches(level, total, seed, side) for level in levels]
        scores[str(side)] = 1000 * _sliced(*_normalised(*patches), seed, side)
        if last:
            break
        rests = halves
    return {**scores, "mean": sum(scores.values()) / len(scores)}


_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def _smooth(pictures: Tensor) -> Tensor:
    """N×3×H×W under the 5×5 binomial filter, mirrored at the border.

    Shifted sums along one axis, then the other: a depthwise convolution takes ten times as long.
    """
    height, width = pictures.shape[2:]
    padded = functional.pad(pictures, (2, 2, 2, 2), mode="reflect")
    wide = sum(
        (weight * padded[:, :, k : k + height] for k, weight in enumerate(_BINOMIAL)),
        start=torch.zeros(()),
    )
    return sum(
        (weight * wide[:, :, :, k : k + width] for k, weight in enumerate(_BINOMIAL)),
        start=torch.zeros(()),
    )


def halve(pictures: Tensor) -> Tensor:
    """The next coarser level: N×3×H×W -> N×3×⌈H/2⌉×⌈W/2⌉."""
    return _smooth(pictures)[:, :, ::2, ::2]


def _double(pictures: Tensor, height: int, width: int) -> Tensor:
    """A level at the size of the finer one: zeros between the pixels, smoothed."""
    spread = pictures.new_zeros(*pictures.shape[:2], height, width)
    spread[:, :, ::2, ::2] = pictures
    return 4 * _smooth(spread)


def _patches(level: Tensor, total: int, seed: int, side: int) -> Tensor:
    """``total`` patches, spread evenly over the pictures: N×3×H×W -> total×3×7×7."""
    n, _, height, width = level.shape
    draw = torch.Generator().manual_seed(stream_seed(seed, "swd-patches", side))
    which = torch.arange(total) % n
    tops = torch.randint(height - NEIGHBOURHOOD + 1, (total,), generator=draw)
    lefts = torch.randint(width - NEIGHBOURHOOD + 1, (total,), generator=draw)
    step = torch.arange(NEIGHBOURHOOD)
    rows = (tops[:, None] + step)[:, None, :, None]
    columns = (lefts[:, None] + step)[:, None, None, :]
    channels = torch.arange(3)[None, :, None, None]
    return level[which[:, None, None, None], channels, rows, columns]


def _normalised(some: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Both in units of the real patches: their mean 0, deviation 1 in a channel; a row a patch."""
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
        # NumPy's sort takes a tenth of the time of PyTorch's, which keeps track of the order.
        one, other = (np.sort((rows @ some).T.contiguous().numpy(), axis=1) for rows in (a, b))
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

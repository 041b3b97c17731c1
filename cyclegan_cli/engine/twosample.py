"""Can a small classifier, freshly trained, tell two sets of pictures apart?

The classifier two-sample test: Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR
2017. Its error on pictures that it has not seen is the score: one half where the sets look alike to
it, nothing where they never do.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.randomness import choices, stream_seed

__all__ = ["classifier_error"]

FOLDS = 3
STEPS = 120  # of training, for each fold
CROP = 64  # pixels along a side of what it sees
CROPS = 8  # of each unseen picture; their mean decides
BATCH = 16  # crops of each set a step
RATE = 4e-3
WIDTHS = (3, 16, 32, 48)


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

"""How good the generators are, measured on pictures that they did not learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cyclegan_cli.engine.losses import l1
from cyclegan_cli.engine.measures import classifier_error, sliced_wasserstein

__all__ = ["Evaluation", "Evaluator", "Paint", "Real", "Score", "score", "through"]

Paint = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """How far a set of pictures is from real ones of the domain.

    ``swd``: the mean of ``sliced_wasserstein``; ``classifier``: ``classifier_error``.
    """

    swd: float
    classifier: float


@dataclass(frozen=True)
class Evaluation:
    """Outputs of G against real Y (``y``), outputs of F against real X (``x``).

    The floors are the scores of as many other real pictures: what a perfect style would get.
    ``cycle_l1``: mean |F(G(x)) − x| and |G(F(y)) − y|, in levels of [−1, 1], halved to one figure.
    """

    y: Score
    y_floor: Score
    x: Score
    x_floor: Score
    cycle_l1: float

    @property
    def distance(self) -> float:
        """One figure, the lower the better: each direction's SWD over its floor, averaged.

        The classifier's error has no part in it: on few pictures it jumps.
        """
        pairs = ((self.y, self.y_floor), (self.x, self.x_floor))
        return sum(got.swd / max(floor.swd, 1e-9) for got, floor in pairs) / len(pairs)

    def to_json(self) -> dict[str, Any]:
        """What metrics.jsonl keeps."""
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
    """Real pictures, each float, N×3×H×W in [−1, 1], all of one H and W.

    ``x``, ``y``: pictures that did not train. ``more_x``, ``more_y``: others, as many as there are
    of the other domain (the number of its outputs): the floors are theirs.
    """

    x: Tensor
    y: Tensor
    more_x: Tensor
    more_y: Tensor


class Evaluator:
    """Measures generators on the same pictures again and again.

    ``load`` is called once, when the pictures are first wanted; the floors are measured then.
    """

    def __init__(self, load: Callable[[], Real], *, seed: int = 0) -> None:
        self._load = load
        self._seed = seed
        self._known: tuple[Real, Score, Score] | None = None

    def evaluate(self, G: Paint, F: Paint) -> Evaluation:
        """The scores of G: X→Y and F: Y→X: float 1×3×H×W in [−1, 1] -> the same, on the CPU.

        Raises PictureError where a picture cannot be read, ValueError where there are too few.
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
    """Every picture painted, one at a time, and the mean |back(there(p)) − p|."""
    painted, away = [], 0.0
    for number in range(len(pictures)):
        picture = pictures[number : number + 1]
        painted.append(there(picture))
        away += float(l1(back(painted[-1]), picture))
    return torch.cat(painted), away / len(pictures)

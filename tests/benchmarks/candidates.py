"""Which state of a run is the best: every checkpoint measured alike, between photos and paintings.

    python -m tests.benchmarks.candidates RUN_FOLDER CHECKPOINT... [--size 256] [--held]

G's outputs for the run's pictures of X are compared with real pictures of Y that it never saw: all
of X, or with --held only those that were held out, too. The first row is X as it is, the last one
are other real pictures of Y. The cycle is F(G(x)).
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from torch import Tensor

from cyclegan_cli.engine import checkpoint
from cyclegan_cli.engine.evaluation import classifier_error, sliced_wasserstein, through
from cyclegan_cli.engine.run import Run, open_run
from cyclegan_cli.media.dataset import whole_views
from cyclegan_cli.painting.by_torch import paints_tensors
from cyclegan_cli.settings import TrainSettings
from tests.painting.common import painter_of


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--held", action="store_true")
    chosen = parser.parse_args(arguments)
    run = open_run(chosen.run)
    x, y, more = pictures(run, chosen.size, chosen.held)
    print(f"{len(x)} photos against {len(y)} paintings that were held out, at {chosen.size}²\n")
    print("| candidate | SWD | by level | classifier | cycle L1 |\n|---|---|---|---|---|")
    row("photos as they are", x, y)
    for path in chosen.checkpoints:
        start = checkpoint.load(path)
        painters = map(painter_of, checkpoint.generators(start))
        G, F = (paints_tensors(painter.paint) for painter in painters)
        painted, cycle = through(x, G, F)
        row(f"step {start.place.step}", painted, y, cycle)
    row("other paintings", more, y)


def pictures(run: Run, size: int, held: bool) -> tuple[Tensor, Tensor, Tensor]:
    """X (all, or the held-out), held-out Y, and as many of the other Y as there are of X."""
    views = partial(whole_views, settings=TrainSettings(load_size=size, crop_size=size))
    files = run.paths("x", held=True) + ([] if held else run.paths("x"))
    return views(files), views(run.paths("y", held=True)), views(run.paths("y")[: len(files)])


def row(name: str, some: Tensor, real: Tensor, cycle: float | None = None) -> None:
    levels = sliced_wasserstein(some, real)
    parts = " / ".join(f"{value:.0f}" for level, value in levels.items() if level != "mean")
    error = classifier_error(some, real)
    last = "" if cycle is None else f"{cycle:.3f}"
    print(f"| {name} | {levels['mean']:.0f} | {parts} | {error:.2f} | {last} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

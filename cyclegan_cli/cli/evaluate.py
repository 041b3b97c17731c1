"""cyclegan evaluate: how near a style's outputs come to real pictures, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclegan_cli.cli.console import Console, ProgressBar
from cyclegan_cli.cli.options import Debug, Gpu, Json, Quiet, complete_style
from cyclegan_cli.cli.processes import one_device
from cyclegan_cli.errors import DataError, DownloadError, PictureError, UsageError, counted
from cyclegan_cli.places import offline
from cyclegan_cli.randomness import choices
from cyclegan_cli.styles.catalogue import obtainable
from cyclegan_cli.styles.store import find_style, weights_file

if TYPE_CHECKING:
    from torch import Tensor
    from torch import device as torch_device

    from cyclegan_cli.styles.catalogue import Style, Way

__all__ = ["evaluate"]

FEW = 20  # below this many pictures the figures of two good styles cannot be told apart
LEAST = 2
_MORE = {  # measures by pretrained networks: their columns in the table
    "content": ("content", ".0f"),
    "texture": ("texture", ".0f"),
    "fid": ("FID", ".1f"),
    "kid": ("KID", ".4f"),
}

Paint = Callable[["Tensor"], "Tensor"]
Measure = Callable[["Tensor", "Tensor"], dict[str, float]]


def evaluate(
    style: Annotated[
        str,
        typer.Argument(
            metavar="STYLE", help="A style's name, or its path.", autocompletion=complete_style
        ),
    ],
    x_dir: Annotated[Path, typer.Argument(metavar="X_DIR", help="Pictures of domain X.")],
    y_dir: Annotated[Path, typer.Argument(metavar="Y_DIR", help="Pictures of domain Y.")],
    reverse: Annotated[bool, typer.Option("--reverse", help="Only the direction Y → X.")] = False,
    limit: Annotated[
        int, typer.Option(min=LEAST, metavar="COUNT", help="Pictures in each set, at most.")
    ] = 50,
    size: Annotated[
        int,
        typer.Option(
            min=32, max=1024, metavar="PIXELS", help="Side of the middle that is measured."
        ),
    ] = 256,
    perceptual: Annotated[
        bool,
        typer.Option(
            "--perceptual", help="Content and texture too: pip install 'cyclegan[features]'."
        ),
    ] = False,
    fid: Annotated[
        bool, typer.Option("--fid", help="FID and KID too: pip install 'cyclegan[metrics]'.")
    ] = False,
    gpu: Gpu = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a style on pictures that it was not trained on.

    For each direction three sets are compared with real pictures of the target: the style's
    outputs, the inputs as they are (identity), and other real ones (real: the noise floor).
    SWD is the sliced Wasserstein distance, lower is better; classifier is how often a small
    network takes one for the other, and 0.5 is the best there is; content and texture
    (--perceptual) are distances as a network trained on ImageNet sees it. More: cyclegan docs
    measures.

    \b
    Examples:
      cyclegan evaluate photos2monet other_photos other_monets
      cyclegan evaluate monet photos monets --limit 100 --json
    """
    console = Console(as_json=json_, quiet=quiet)
    if size % 4:
        raise UsageError("--size must be a multiple of 4 (the generator's stride).")
    found = find_style(style)
    ways = _ways(found, reverse)
    files = {"x": _shuffled(x_dir, "x"), "y": _shuffled(y_dir, "y")}
    device = one_device(gpu)
    measures = _pretrained_measures(console, device.torch, perceptual, fid)
    painters: dict[str, Paint] = {
        way: _painter(console, found, way, device.gpu) for way in {*found.directions, *ways}
    }
    console.note(f"Measuring on {device.label}.")
    pictures = {domain: _Pictures(console, paths, size) for domain, paths in files.items()}
    lines = []
    with console.progress("measuring", 3 * len(ways)) as bar:
        for way in ways:
            lines += list(_direction(found, way, painters, pictures, limit, measures, bar))
    few = min(line.pictures for line in lines)
    if few < FEW:
        console.warn(
            f"{counted(few, 'picture')} in a set: differences of a fifth mean nothing. See 'real'."
        )
    more = [_MORE[name][0] for name in _MORE if name in lines[0].more]
    columns = ("direction", "set", "SWD", "classifier", "cycle L1", *more)
    console.table(columns, [line.row() for line in lines], [line.record() for line in lines])


def _pretrained_measures(
    console: Console, device: torch_device, perceptual: bool, fid: bool
) -> list[Measure]:
    """What was asked for. Raises UsageError where an extra is missing, DownloadError where
    CYCLEGAN_OFFLINE forbids what it needs.
    """
    measures: list[Measure] = []
    if perceptual:
        from cyclegan_cli.engine.perceptual import Perceptual

        measures.append(Perceptual(device).distances)
    if fid:
        import torch

        from cyclegan_cli.engine.perceptual import INCEPTION_WEIGHTS, Inception, have_torchmetrics

        have_torchmetrics()
        path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
        if not path.is_file():
            if offline():
                raise DownloadError(
                    "FID and KID need the weights of Inception, and CYCLEGAN_OFFLINE is set.",
                    hint=f"Leave out --fid, or put the file at {path}",
                )
            folder = path.parent
            console.note(f"torch-fidelity fetches the weights of Inception (91 MB) into {folder}.")
        measures.append(Inception(device).distances)
    return measures


def _ways(style: Style, reverse: bool) -> list[Way]:
    """The directions to measure, which may have to be downloaded. Raises UsageError for one that
    was asked for and cannot be had.
    """
    if not reverse:
        return list(style.ways)
    if not obtainable(style, "yx"):
        weights_file(style, reverse)
    return ["yx"]


def _shuffled(folder: Path, domain: str) -> list[Path]:
    from cyclegan_cli.media.folders import find_pictures

    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder} {what}.", hint="Two folders: cyclegan evaluate STYLE X_DIR Y_DIR"
        )
    files = find_pictures(folder)
    choices(0, "evaluate", domain).shuffle(files)
    return files


class _Pictures:
    """The pictures of a domain in a fixed random order, each read once, the unreadable left out."""

    def __init__(self, console: Console, files: list[Path], size: int) -> None:
        self._console = console
        self._size = size
        self._files: Iterator[Path] = iter(files)
        self._read: list[Tensor] = []

    def first(self, count: int) -> Tensor:
        """As many as there are of the first ``count``: N×3×size×size, float32 in [−1, 1]."""
        import torch

        from cyclegan_cli.media.dataset import whole_views
        from cyclegan_cli.settings import TrainSettings

        views = TrainSettings(load_size=self._size, crop_size=self._size)
        while len(self._read) < count:
            file = next(self._files, None)
            if file is None:
                break
            try:
                self._read.append(whole_views([file], views))
            except PictureError as error:
                self._console.warn(f"left out: {error}")
        if not self._read:
            return torch.empty(0, 3, self._size, self._size)
        return torch.cat(self._read[:count])


@dataclass(frozen=True)
class _Line:
    """One set against the real pictures of the target."""

    direction: str
    what: str
    pictures: int
    levels: dict[str, float]
    classifier: float
    cycle_l1: float | None
    more: dict[str, float]  # by pretrained networks

    def row(self) -> tuple[str, ...]:
        return (
            self.direction,
            self.what,
            f"{self.levels['mean']:.1f}",
            f"{self.classifier:.2f}",
            "-" if self.cycle_l1 is None else f"{self.cycle_l1:.3f}",
            *(format(self.more[k], spec) for k, (_, spec) in _MORE.items() if k in self.more),
        )

    def record(self) -> dict[str, Any]:
        levels = {f"swd_{k}": round(v, 3) for k, v in self.levels.items() if k != "mean"}
        return {
            "direction": self.direction,
            "set": self.what,
            "pictures": self.pictures,
            "swd": round(self.levels["mean"], 3),
            **levels,
            "classifier": round(self.classifier, 4),
            "cycle_l1": None if self.cycle_l1 is None else round(self.cycle_l1, 5),
            **{name: round(value, 5) for name, value in self.more.items()},
        }


def _direction(
    style: Style,
    way: str,
    painters: dict[str, Paint],
    pictures: dict[str, _Pictures],
    limit: int,
    measures: list[Measure],
    bar: ProgressBar,
) -> Iterator[_Line]:
    """The three lines of one direction: as many outputs as real ones, and as many for the floor."""
    from cyclegan_cli.engine.evaluation import classifier_error, sliced_wasserstein, through

    sources, targets = pictures[way[0]].first(limit), pictures[way[1]].first(2 * limit)
    count = min(len(sources), len(targets) // 2)
    names = {"x": style.x, "y": style.y}
    if count < LEAST:
        raise DataError(
            f"Too few pictures for {names[way[0]]} → {names[way[1]]}: {len(sources)} and "
            f"{len(targets)} can be read; {LEAST} and {2 * LEAST} are the least.",
            hint="Half of the target's pictures serve as the noise floor.",
        )
    sources, real, more = sources[:count], targets[:count], targets[count : 2 * count]
    back = painters.get(way[::-1])
    outputs, cycle = through(sources, painters[way], back or (lambda picture: picture))
    sets = {style.name: outputs, "identity": sources, "real": more}
    for what, some in sets.items():
        yield _Line(
            direction=f"{names[way[0]]} → {names[way[1]]}",
            what=what,
            pictures=count,
            levels=sliced_wasserstein(some, real),
            classifier=classifier_error(some, real),
            cycle_l1=cycle if back is not None and some is outputs else None,
            more={name: v for measure in measures for name, v in measure(some, real).items()},
        )
        bar.advance()


def _painter(console: Console, style: Style, way: str, gpu: str) -> Paint:
    """One direction of ``style``: 1×3×H×W in [−1, 1] -> the same, on the CPU."""
    from cyclegan_cli.cli.downloading import ensure_weights
    from cyclegan_cli.painting.by_torch import paints_tensors
    from cyclegan_cli.painting.painter import open_painter

    painter = open_painter(ensure_weights(console, style, way == "yx"), gpu, "fp32")
    return paints_tensors(painter.paint)

"""cyclegan evaluate: how near a style's outputs come to real pictures, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.console import Console, ProgressBar
from cyclegan_cli.cli.options import GPU, STYLE, argument, command, flag, option
from cyclegan_cli.cli.preflight import require_folder
from cyclegan_cli.cli.processes import one_device
from cyclegan_cli.errors import (
    DataError,
    DownloadError,
    PictureError,
    UsageError,
    counted,
    pip_extra,
)
from cyclegan_cli.randomness import choices
from cyclegan_cli.styles.catalogue import obtainable, offline
from cyclegan_cli.styles.store import find_style, weights_file

if TYPE_CHECKING:
    from torch import Tensor
    from torch import device as torch_device

    from cyclegan_cli.styles.catalogue import Style, Way

FEW = 20  # below this many pictures the figures of two good styles cannot be told apart
LEAST = 2
_MORE = {  # measures by pretrained networks: their columns in the table
    "content": ("content", ".0f"),
    "texture": ("texture", ".0f"),
    "fid": ("FID", ".1f"),
    "kid": ("KID", ".4f"),
}

Line = dict[str, Any]  # one set against the real pictures of the target
Paint = Callable[["Tensor"], "Tensor"]
Measure = Callable[["Tensor", "Tensor"], dict[str, float]]


@command("json", "quiet")
def evaluate(
    console: Console,
    style: str = STYLE,
    x_dir: Path = argument(..., "X_DIR", "Pictures of domain X."),
    y_dir: Path = argument(..., "Y_DIR", "Pictures of domain Y."),
    reverse: bool = flag("Only the direction Y → X."),
    limit: int = option(50, "COUNT", "Pictures in each set, at most.", min=LEAST),
    size: int = option(256, "PIXELS", "Side of the middle that is measured.", min=32, max=1024),
    perceptual: bool = flag(f"Content and texture too: {pip_extra('features')}."),
    fid: bool = flag(f"FID and KID too: {pip_extra('metrics')}."),
    gpu: str = GPU,
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
    # As many as there are outputs, and of a target as many again for the noise floor.
    counts = {way[0]: limit for way in ways} | {way[1]: 2 * limit for way in ways}
    pictures = {one: _read(console, files[one], size, count) for one, count in counts.items()}
    lines: list[Line] = []
    with console.progress("measuring", 3 * len(ways)) as bar:
        for way in ways:
            lines += list(_direction(found, way, painters, pictures, limit, measures, bar))
    few = min(line["pictures"] for line in lines)
    if few < FEW:
        console.warn(
            f"{counted(few, 'picture')} in a set: differences of a fifth mean nothing. See 'real'."
        )
    more = [title for name, (title, _) in _MORE.items() if name in lines[0]]
    columns = ("direction", "set", "SWD", "classifier", "cycle L1", *more)
    console.table(columns, [_row(line) for line in lines], lines)


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

    require_folder(folder, "Two folders: cyclegan evaluate STYLE X_DIR Y_DIR")
    files = find_pictures(folder)
    choices(0, "evaluate", domain).shuffle(files)
    return files


def _read(console: Console, files: list[Path], size: int, count: int) -> Tensor:
    """The first ``count`` of ``files`` that can be read: N×3×size×size, float32 in [−1, 1]."""
    import torch

    from cyclegan_cli.media.dataset import whole_views
    from cyclegan_cli.settings import TrainSettings

    views, found = TrainSettings(load_size=size, crop_size=size), [torch.empty(0, 3, size, size)]
    for file in files:
        if len(found) > count:
            break
        try:
            found.append(whole_views([file], views))
        except PictureError as error:
            console.warn(f"left out: {error}")
    return torch.cat(found)


def _row(line: Line) -> tuple[str, ...]:
    cycle = line["cycle_l1"]
    return (
        line["direction"],
        line["set"],
        f"{line['swd']:.1f}",
        f"{line['classifier']:.2f}",
        "-" if cycle is None else f"{cycle:.3f}",
        *(format(line[name], spec) for name, (_, spec) in _MORE.items() if name in line),
    )


def _direction(
    style: Style,
    way: str,
    painters: dict[str, Paint],
    pictures: dict[str, Tensor],
    limit: int,
    measures: list[Measure],
    bar: ProgressBar,
) -> Iterator[Line]:
    """The three lines of one direction: as many outputs as real ones, and as many for the floor."""
    from cyclegan_cli.engine.evaluation import classifier_error, sliced_wasserstein, through

    sources, targets = pictures[way[0]][:limit], pictures[way[1]]
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
        levels = {f"swd_{k}": round(v, 3) for k, v in sliced_wasserstein(some, real).items()}
        yield {
            "direction": f"{names[way[0]]} → {names[way[1]]}",
            "set": what,
            "pictures": count,
            "swd": levels.pop("swd_mean"),
            **levels,
            "classifier": round(classifier_error(some, real), 4),
            "cycle_l1": round(cycle, 5) if back is not None and some is outputs else None,
            **{k: round(v, 5) for measure in measures for k, v in measure(some, real).items()},
        }
        bar.advance()


def _painter(console: Console, style: Style, way: str, gpu: str) -> Paint:
    """One direction of ``style``: 1×3×H×W in [−1, 1] -> the same, on the CPU."""
    from cyclegan_cli.cli.downloading import ensure_weights
    from cyclegan_cli.painting.by_torch import paints_tensors
    from cyclegan_cli.painting.painter import open_painter

    painter = open_painter(ensure_weights(console, style, way == "yx"), gpu, "fp32")
    return paints_tensors(painter.paint)

"""cyclegan train: options -> settings -> checks -> a run -> its events, rendered."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclegan_cli.cli.common import (
    Debug,
    Gpu,
    Json,
    Processes,
    Quiet,
    Tensorboard,
    Verbose,
    arguments,
    check_tensorboard,
)
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.preflight import (
    default_name,
    examine,
    first_weights,
    folders,
    present,
    refuse_existing,
)
from cyclegan_cli.cli.processes import (
    launch,
    leading,
    led,
    local_count,
    member,
    refuse_unshareable,
    team,
)
from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import read_toml
from cyclegan_cli.places import check_name, runs_dir
from cyclegan_cli.settings import GENERATORS, GeneratorSpec, TrainSettings

if TYPE_CHECKING:
    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.engine.run import Run

__all__ = ["train"]

_D = TrainSettings()


def train(
    ctx: typer.Context,
    x_dir: Annotated[Path, typer.Argument(metavar="X_DIR", help="Pictures of domain X.")],
    y_dir: Annotated[
        Path | None,
        typer.Argument(metavar="Y_DIR", help="Pictures of domain Y.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the run and its style. Default: <X>2<Y>."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Options from TOML; the command line wins."),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print the options as TOML."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="All checks, no training.")] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse unreadable pictures."),
    ] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures, in all.")] = _D.epochs,
    decay_from: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCH",
            help="From here the learning rate falls to 0. Default: half.",
        ),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    batch_size: Annotated[
        int, typer.Option(help="Pictures of each domain a step and process.")
    ] = _D.batch_size,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = _D.lr,
    lr_d: Annotated[
        float | None, typer.Option(help="That of D_X and D_Y. Default: the same.")
    ] = None,
    beta1: Annotated[float, typer.Option(help="Adam's first decay.")] = _D.beta1,
    beta2: Annotated[float, typer.Option(help="Adam's second decay.")] = _D.beta2,
    clip: Annotated[
        float, typer.Option(help="Largest norm of a gradient, e.g. 1; 0: any.")
    ] = _D.clip,
    lambda_cycle: Annotated[
        float, typer.Option(help="Weight of the cycle loss.")
    ] = _D.lambda_cycle,
    lambda_identity: Annotated[
        float,
        typer.Option(help="Identity loss, times lambda-cycle."),
    ] = _D.lambda_identity,
    lambda_gan: Annotated[
        float, typer.Option(help="Weight of the adversarial loss.")
    ] = _D.lambda_gan,
    lambda_patch: Annotated[
        float, typer.Option(help="Weight of the distance of patches; 0: none.")
    ] = _D.lambda_patch,
    lambda_self: Annotated[
        float, typer.Option(help="Weight of staying near the input; 0: none.")
    ] = _D.lambda_self,
    lambda_structure: Annotated[
        float, typer.Option(help="Weight of keeping light and dark; 0: none.")
    ] = _D.lambda_structure,
    lambda_feature: Annotated[
        float, typer.Option(help="Weight of the distance of features; 0: none.")
    ] = _D.lambda_feature,
    lambda_content: Annotated[
        float, typer.Option(help="Weight of keeping what is shown; 0: none.")
    ] = _D.lambda_content,
    lambda_chroma: Annotated[
        float, typer.Option(help="Weight of keeping colours; 0: none.")
    ] = _D.lambda_chroma,
    init: Annotated[
        str | None, typer.Option(metavar="STYLE", help="Start from a style's weights.")
    ] = None,
    history: Annotated[int, typer.Option(help="Generated images kept for each D.")] = _D.history,
    replay: Annotated[
        int, typer.Option(help="Of them, shown to D at each step; 0: as the paper.")
    ] = _D.replay,
    ema: Annotated[
        float, typer.Option(help="Publish a running mean, e.g. 0.998; 0: none.")
    ] = _D.ema,
    discriminator: Annotated[
        str, typer.Option(help="patchgan, twoscale or projected (on frozen features).")
    ] = _D.discriminator,
    noise_d: Annotated[
        float, typer.Option(help="Noise through which D sees, e.g. 0.05; 0: none.")
    ] = _D.noise_d,
    gan: Annotated[str, typer.Option(help="lsgan, vanilla or hinge.")] = _D.gan,
    generator: Annotated[
        str, typer.Option(help=f"One of: {', '.join(GENERATORS)}.")
    ] = _D.generator.name,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = _D.seed,
    load_size: Annotated[int, typer.Option(help="Short side before the crop.")] = _D.load_size,
    crop_size: Annotated[int, typer.Option(help="Side of what is trained on.")] = _D.crop_size,
    crop_range: Annotated[
        str | None,
        typer.Option(metavar="LOW..HIGH", help="Sides of crops, resized to --crop-size."),
    ] = None,
    resize: Annotated[
        str,
        typer.Option(help="keep the aspect, or distort as the paper."),
    ] = _D.resize,
    flip: Annotated[bool, typer.Option(help="Mirror half of the pictures.")] = _D.flip,
    gpu: Gpu = "auto",
    processes: Processes = 1,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = _D.precision,
    compile: Annotated[bool, typer.Option(help="Compile the networks first.")] = _D.compile,
    exact_reference: Annotated[
        bool, typer.Option("--exact-reference", help="Plain PyTorch layers, slower.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Threads that prepare pictures.")] = _D.workers,
    checkpoint_every: Annotated[
        str, typer.Option(help="1epoch, 500steps or 10min.")
    ] = _D.checkpoint_every,
    keep: Annotated[int, typer.Option(help="Checkpoints that stay.")] = _D.keep,
    sample_every: Annotated[str, typer.Option(help="Sample sheets, likewise.")] = _D.sample_every,
    samples: Annotated[int, typer.Option(help="Held-out pictures shown each time.")] = _D.samples,
    log_every: Annotated[str, typer.Option(help="Lines in metrics.jsonl.")] = _D.log_every,
    tensorboard: Tensorboard = False,
    hold_out: Annotated[
        int, typer.Option(help="Pictures kept out to measure on. Default: 50, a tenth at most.")
    ] = _D.hold_out,
    evaluate_every: Annotated[
        str, typer.Option(help="Measure on them; an interval, or never.")
    ] = _D.evaluate_every,
    publish: Annotated[
        str, typer.Option(help="What becomes the style: last or best.")
    ] = _D.publish,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Learn a style from two folders of pictures, X and Y, in both directions.

    The pictures need no pairs. When the training ends, the style is in the cache under its name.
    Ctrl-C saves first; "cyclegan resume NAME" goes on exactly where it stopped.

    \b
    Examples:
      cyclegan train ./photos ./vangogh --epochs 200 --gpu 0
      cyclegan train photos monet --generator mobile --crop-size 128
      cyclegan train photos monet --dry-run
    """
    console = Console(as_json=json_, quiet=quiet, verbose=verbose, silent=not leading())
    settings = _settings(ctx, config)
    if print_config:
        console.document(_to_toml(settings), settings.to_json())
        return
    x_dir, y_dir = folders(x_dir, y_dir)
    name = check_name(name or default_name(x_dir, y_dir))
    folder = runs_dir() / name
    me = member()
    count = me.size if me else local_count(gpu, processes)
    # A run's batch is that of all processes: it stays when their number changes.
    settings = dataclasses.replace(settings, batch_size=settings.batch_size * count)
    refuse_unshareable(settings, count)
    first_weights(settings)
    check_tensorboard(tensorboard)
    if me is None and count > 1 and not dry_run:
        refuse_existing(name, folder)
        launch(arguments(), count)

    def prepared() -> Run:
        from cyclegan_cli.engine.run import open_run

        if me and me.restarts and (folder / "run.json").exists():
            return open_run(folder)  # torchrun started all anew: they go on
        if not dry_run:
            refuse_existing(name, folder)
        run, checkup = examine(
            *(console, name, folder, settings, x_dir, y_dir),
            strict=strict,
            exact=settings.hold_out != _D.hold_out or _is_given(ctx, "hold_out"),
        )
        present(console, run, gpu, count, checkup.rows(full=dry_run))
        checkup.tell(console, full=dry_run)
        if dry_run and json_:
            console.result("", checkup.record())
        return run

    with team(gpu) as group:
        run = led(group, prepared)
        if dry_run:
            console.note("A dry run: nothing was written.")
            return
        from cyclegan_cli.cli.journey import Machine, train_held
        from cyclegan_cli.engine.run import create_run

        def commit() -> None:
            if not (me and me.restarts and (folder / "run.json").exists()):
                create_run(run)

        machine = Machine(gpu, settings.workers, group, tensorboard)
        train_held(console, run, machine, lambda: newest(run), commit)


def newest(run: Run) -> Checkpoint | None:
    """Where processes that were restarted go on: a new run has none."""
    from cyclegan_cli.engine import checkpoint

    return checkpoint.newest(run.checkpoints)[0]


# -- settings ----------------------------------------------------------------------------------


def _settings(ctx: typer.Context, config: Path | None) -> TrainSettings:
    """The command line over the config file over the defaults."""
    names = {field.name for field in dataclasses.fields(TrainSettings)}
    values = {name: value for name, value in ctx.params.items() if name in names}
    for name, value in (_from_toml(config) if config else {}).items():
        if name not in names:
            raise UsageError(f"{config}: '{name}' is not an option of train that a file can set.")
        if not _is_given(ctx, name):
            values[name] = value
    generator = values["generator"]
    if not isinstance(generator, str):
        raise UsageError(f"{config}: 'generator' must be one of: {', '.join(GENERATORS)}.")
    return TrainSettings.from_json(
        {**values, "generator": GeneratorSpec.named(generator).to_json()}
    )


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether the command line names that option."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _from_toml(path: Path) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in read_toml(path).items()}


def _to_toml(settings: TrainSettings) -> str:
    """One line an option, in the form that --config reads; JSON scalars are TOML scalars."""
    values = {**settings.to_json(), "generator": settings.generator.name}
    lines = [
        f"{key.replace('_', '-')} = {json.dumps(value)}"
        for key, value in values.items()
        if value is not None
    ]
    return "\n".join(lines)

"""cyclegan train: options -> settings -> checks -> a run -> its events, rendered."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

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
from cyclegan_cli.cli.completion import complete_local_style, one_of
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
from cyclegan_cli.errors import UsageError, did_you_mean
from cyclegan_cli.files import read_toml
from cyclegan_cli.places import check_name, runs_dir
from cyclegan_cli.settings import (
    GENERATORS,
    DiscriminatorKind,
    GanLoss,
    GeneratorSpec,
    Precision,
    Publish,
    Resize,
    TrainSettings,
    wrong_kind,
)

if TYPE_CHECKING:
    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.engine.run import Run

__all__ = ["train"]

_D = TrainSettings()
# What a --config file can set, and of what kind: the settings of a run, and some options besides.
_FIELDS = {field.name: str(field.type) for field in dataclasses.fields(TrainSettings)}
_IN_FILES = _FIELDS | {"generator": "str", "name": "str", "gpu": "str | int", "processes": "int"}
_IN_FILES |= {"tensorboard": "bool", "strict": "bool"}
# What --print-config shows, commented out, for an option that has no value.
_EXAMPLES = {"max_steps": 1000, "crop_range": "160..280", "init": "monet"}

_pictures = partial(typer.Option, rich_help_panel="Pictures")
_length = partial(typer.Option, rich_help_panel="Length and learning rate")
_losses = partial(typer.Option, rich_help_panel="Losses", metavar="WEIGHT")
_networks = partial(typer.Option, rich_help_panel="Networks", metavar="NAME")
_device = partial(typer.Option, rich_help_panel="Device")
_saving = partial(typer.Option, rich_help_panel="Saving and watching")
_research = partial(typer.Option, rich_help_panel="Research")


def _read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the options in a TOML file the defaults of this command line."""
    if path is not None:
        ctx.default_map = _from_toml(path)
    return path


def _without_folders(ctx: typer.Context, value: bool) -> bool:
    """--print-config needs no pictures."""
    for parameter in ctx.command.params if value else ():
        parameter.required = False
    return value


def train(
    ctx: typer.Context,
    x_dir: Annotated[Path, typer.Argument(metavar="X_DIR", help="Pictures of domain X.")],
    y_dir: Annotated[
        Path | None,
        typer.Argument(metavar="Y_DIR", help="Pictures of domain Y.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the run and its style. Default: <X>2<Y>."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Options from TOML; the command line wins.",
            is_eager=True,
            callback=_read_config,
        ),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config",
            help="Print all options as TOML, for --config.",
            is_eager=True,
            callback=_without_folders,
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="All checks, no training.")] = False,
    # -- pictures
    crop_size: Annotated[
        int, _pictures(metavar="PIXELS", help="Side of the squares to train on.")
    ] = _D.crop_size,
    load_size: Annotated[
        int, _pictures(metavar="PIXELS", help="Short side before the crop.")
    ] = _D.load_size,
    flip: Annotated[bool, _pictures(help="Mirror half of the pictures.")] = _D.flip,
    strict: Annotated[bool, _pictures("--strict", help="Refuse unreadable pictures.")] = False,
    resize: Annotated[
        str,
        _pictures(
            metavar="HOW",
            help="Aspect: keep, or distort as the paper does.",
            autocompletion=one_of(get_args(Resize)),
        ),
    ] = _D.resize,
    crop_range: Annotated[
        str | None,
        _pictures(metavar="LOW..HIGH", help="Sides of crops, resized to --crop-size."),
    ] = None,
    # -- length and learning rate
    epochs: Annotated[
        int, _length(metavar="COUNT", help="Passes over the pictures, in total.")
    ] = _D.epochs,
    max_steps: Annotated[
        int | None, _length(metavar="COUNT", help="Stop after this many steps.")
    ] = None,
    batch_size: Annotated[
        int, _length(metavar="COUNT", help="Pictures of each domain per step and process.")
    ] = _D.batch_size,
    lr: Annotated[float, _length(metavar="RATE", help="Adam's learning rate.")] = _D.lr,
    decay_from: Annotated[
        int | None,
        _length(metavar="EPOCH", help="Where its decay to 0 begins. Default: half."),
    ] = None,
    # -- losses
    lambda_cycle: Annotated[float, _losses(help="Cycle-consistency loss.")] = _D.lambda_cycle,
    lambda_identity: Annotated[
        float, _losses(help="Identity loss, times --lambda-cycle.")
    ] = _D.lambda_identity,
    lambda_gan: Annotated[float, _losses(help="Adversarial loss.")] = _D.lambda_gan,
    gan: Annotated[
        str,
        _losses(
            metavar="KIND",
            help="Adversarial loss: lsgan, vanilla or hinge.",
            autocompletion=one_of(get_args(GanLoss)),
        ),
    ] = _D.gan,
    lambda_patch: Annotated[float, _losses(help="Distance of patches.")] = _D.lambda_patch,
    lambda_structure: Annotated[float, _losses(help="Keep light and dark.")] = _D.lambda_structure,
    lambda_self: Annotated[float, _losses(help="Stay near the input.")] = _D.lambda_self,
    lambda_feature: Annotated[float, _losses(help="Distance of features.")] = _D.lambda_feature,
    lambda_content: Annotated[float, _losses(help="Keep the content.")] = _D.lambda_content,
    lambda_chroma: Annotated[float, _losses(help="Keep the colours.")] = _D.lambda_chroma,
    # -- networks
    generator: Annotated[
        str,
        _networks(help=f"One of {', '.join(GENERATORS)}.", autocompletion=one_of(GENERATORS)),
    ] = _D.generator.name,
    init: Annotated[
        str | None,
        _networks(
            metavar="STYLE",
            help="Start from a style's weights.",
            autocompletion=complete_local_style,
        ),
    ] = None,
    discriminator: Annotated[
        str,
        _networks(
            help="patchgan, twoscale or projected.",
            autocompletion=one_of(get_args(DiscriminatorKind)),
        ),
    ] = _D.discriminator,
    # -- device
    gpu: Gpu = "auto",
    precision: Annotated[
        str,
        _device(
            metavar="TYPE",
            help="auto, fp32, bf16 or fp16.",
            autocompletion=one_of(get_args(Precision)),
        ),
    ] = _D.precision,
    workers: Annotated[
        int, _device(metavar="COUNT", help="Threads that prepare pictures.")
    ] = _D.workers,
    processes: Processes = 1,
    compile: Annotated[bool, _device(help="Compile the networks first.")] = _D.compile,
    # -- saving and watching
    checkpoint_every: Annotated[
        str, _saving(metavar="INTERVAL", help="Save the state: 1epoch, 500steps, 10min.")
    ] = _D.checkpoint_every,
    keep: Annotated[int, _saving(metavar="COUNT", help="Checkpoints to keep.")] = _D.keep,
    sample_every: Annotated[
        str, _saving(metavar="INTERVAL", help="Write a sheet of samples.")
    ] = _D.sample_every,
    samples: Annotated[
        int, _saving(metavar="COUNT", help="Held-out pictures on each sheet.")
    ] = _D.samples,
    log_every: Annotated[str, _saving(metavar="INTERVAL", help="Log the losses.")] = _D.log_every,
    evaluate_every: Annotated[
        str,
        _saving(
            metavar="INTERVAL",
            help="Measure on held-out pictures, or never.",
            autocompletion=one_of(("never",)),
        ),
    ] = _D.evaluate_every,
    hold_out: Annotated[
        int,
        _saving(metavar="COUNT", help="Pictures held out; by default a tenth at most."),
    ] = _D.hold_out,
    publish: Annotated[
        str,
        _saving(
            metavar="WHICH",
            help="Checkpoint that becomes the style: last or best.",
            autocompletion=one_of(get_args(Publish)),
        ),
    ] = _D.publish,
    tensorboard: Tensorboard = False,
    # -- research
    seed: Annotated[
        int, _research(metavar="NUMBER", help="Seed of every random choice.")
    ] = _D.seed,
    history: Annotated[
        int, _research(metavar="COUNT", help="Generated images kept for each discriminator.")
    ] = _D.history,
    ema: Annotated[
        float, _research(metavar="0..1", help="Publish a running mean, e.g. 0.998.")
    ] = _D.ema,
    replay: Annotated[
        int, _research(metavar="COUNT", help="Kept images that D sees at each step.")
    ] = _D.replay,
    noise_d: Annotated[
        float, _research(metavar="0..1", help="Noise on what D sees, e.g. 0.05.")
    ] = _D.noise_d,
    lr_d: Annotated[
        float | None, _research(metavar="RATE", help="D's learning rate. Default: --lr.")
    ] = None,
    beta1: Annotated[float, _research(metavar="0..1", help="Adam's first decay.")] = _D.beta1,
    beta2: Annotated[float, _research(metavar="0..1", help="Adam's second decay.")] = _D.beta2,
    clip: Annotated[
        float, _research(metavar="NORM", help="Largest norm of gradients; 0: any.")
    ] = _D.clip,
    exact_reference: Annotated[
        bool, _research("--exact-reference", help="Plain PyTorch layers, slower.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Learn a style from two folders of pictures, X and Y, in both directions.

    The pictures need no pairs. When the training ends, its style is installed under its name.
    Ctrl-C saves first; "cyclegan resume NAME" continues exactly where it stopped.

    \b
    Examples:
      cyclegan train ./photos ./vangogh --epochs 200 --gpu 0
      cyclegan train photos monet --generator mobile --crop-size 128
      cyclegan train photos monet --dry-run
    """
    console = Console(as_json=json_, quiet=quiet, verbose=verbose, silent=not leading())
    settings = _settings(ctx)
    if print_config:
        console.document(_to_toml(ctx, settings), settings.to_json())
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
            return open_run(folder)  # torchrun restarted all: they continue
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
        from cyclegan_cli.cli.runner import Machine, train_held
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


def _settings(ctx: typer.Context) -> TrainSettings:
    values = {name: ctx.params[name] for name in _FIELDS}
    generator = GeneratorSpec.named(values["generator"])
    return TrainSettings.from_json({**values, "generator": generator.to_json()})


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether the command line or the config file names that option."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")


def _from_toml(path: Path) -> dict[str, Any]:
    """The options in a file, each of its kind; their names are spelled with - or with _."""
    found: dict[str, Any] = {}
    for key, value in read_toml(path).items():
        name = key.replace("-", "_")
        if name not in _IN_FILES:
            known = [one if "_" in key else one.replace("_", "-") for one in _IN_FILES]
            raise UsageError(
                f"{path}: there is no option '{key}'.{did_you_mean(key, known)}",
                hint="Options stand at the top of the file, in no [table]."
                if isinstance(value, dict)
                else "cyclegan train --print-config   lists them all.",
            )
        if name in found:
            raise UsageError(f"{path}: {key} is given twice, with - and with _.")
        wrong = wrong_kind(_IN_FILES[name], value)
        if wrong:
            raise UsageError(f"{path}: {key} {wrong}.")
        found[name] = value
    return found


def _to_toml(ctx: typer.Context, settings: TrainSettings) -> str:
    """Every option under its help, as --config reads it; those without a value commented out."""
    unset = _EXAMPLES | {"decay_from": settings.knee, "lr_d": settings.lr, "name": "photos2monet"}
    lines = ["# Options of cyclegan train, for --config FILE."]
    heading = ""
    for option in ctx.command.params:
        name, panel = option.name or "", vars(option).get("rich_help_panel") or ""
        if name not in _IN_FILES:
            continue
        if panel != heading:
            heading = panel
            lines += ["", f"# ---- {panel} ----"]
        value = ctx.params[name]
        line = f"{name.replace('_', '-')} = {json.dumps(unset[name] if value is None else value)}"
        lines += ["", f"# {vars(option)['help']}", f"# {line}" if value is None else line]
    return "\n".join(lines)

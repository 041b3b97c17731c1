"""cyclegan train: options -> settings -> checks -> a run -> its events, rendered."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import (
    GPU,
    PROCESSES,
    TENSORBOARD,
    Table,
    argument,
    command,
    complete_local_style,
    flag,
    one_of,
    option,
)
from cyclegan_cli.cli.preflight import (
    default_name,
    examine,
    first_weights,
    folders,
    present,
    refuse_existing,
)
from cyclegan_cli.cli.processes import (
    check_processes,
    launch,
    leading,
    led,
    local_count,
    member,
    team,
)
from cyclegan_cli.errors import UsageError, did_you_mean
from cyclegan_cli.files import check_name, read_toml, runs_dir
from cyclegan_cli.settings import GENERATORS, GeneratorSpec, TrainSettings, wrong_kind

if TYPE_CHECKING:
    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.engine.run import Run

_OPTIONS: Table = {
    "Pictures": (
        ("crop_size", "PIXELS", "Side of the square crops to train on."),
        ("load_size", "PIXELS", "Short side of a picture before it is cropped."),
        ("flip", "no", "Mirror half of the pictures."),
        "strict",
        (
            "resize",
            "HOW",
            "Aspect ratio: keep, or distort as the paper does; reduce: keep, and never enlarge.",
        ),
        ("crop_range", "LOW..HIGH", "Crop squares of these sides; resize to --crop-size."),
    ),
    "Length and learning rate": (
        ("epochs", "COUNT", "Passes over the pictures, in total."),
        ("max_steps", "COUNT", "Stop after this many steps."),
        ("batch_size", "COUNT", "Pictures of each domain per step and process."),
        ("lr", "RATE", "Adam's learning rate."),
        ("decay_from", "EPOCH", "Epoch from which the rate falls to 0. Default: half way."),
    ),
    "Losses": (
        ("lambda_cycle", "WEIGHT", "Cycle-consistency loss: there and back."),
        ("lambda_identity", "WEIGHT", "Identity loss; multiplied by --lambda-cycle."),
        ("lambda_gan", "WEIGHT", "Adversarial loss: look like the other domain."),
        ("gan", "KIND", "Kind of adversarial loss: lsgan, vanilla or hinge."),
        ("lambda_patch", "WEIGHT", "Small patches look like the other domain's."),
        ("lambda_spectrum", "WEIGHT", "Fine detail has the other domain's frequencies."),
        ("lambda_structure", "WEIGHT", "Keep light and dark."),
        ("lambda_self", "WEIGHT", "Stay close to the input."),
        ("lambda_feature", "WEIGHT", "Features look like the other domain's."),
        ("lambda_content", "WEIGHT", "Keep the content, by features."),
        ("lambda_chroma", "WEIGHT", "Keep the colours."),
    ),
    "Networks": (
        ("generator", "NAME", f"One of {', '.join(GENERATORS)}."),
        ("init", "STYLE", "Start from the weights of a style."),
        ("discriminator", "NAME", "patchgan, twoscale or projected."),
    ),
    "Device": (
        "gpu",
        ("precision", "TYPE", "auto, fp32, bf16 or fp16."),
        ("workers", "COUNT", "Threads that prepare pictures."),
        "processes",
        ("compile", "no", "Compile the networks with torch.compile."),
    ),
    "Saving and watching": (
        ("checkpoint_every", "INTERVAL", "Save a checkpoint: 1epoch, 500steps, 10min."),
        ("keep", "COUNT", "Checkpoints to keep."),
        ("sample_every", "INTERVAL", "Write a sheet of samples."),
        ("samples", "COUNT", "Held-out pictures on each sheet."),
        ("log_every", "INTERVAL", "Log the losses."),
        ("evaluate_every", "INTERVAL", "Measure on held-out pictures, or never."),
        ("hold_out", "COUNT", "Pictures to hold out; by default at most a tenth."),
        ("publish", "WHICH", "Checkpoint that becomes the style: last or best."),
        "tensorboard",
    ),
    "Research": (
        ("seed", "NUMBER", "Seed of all random choices."),
        ("history", "COUNT", "Generated images kept for each discriminator."),
        ("ema", "0..1", "Publish a running mean of the weights: 0.998."),
        ("replay", "COUNT", "Images of the history that D sees at each step."),
        ("noise_d", "0..1", "Noise added to what D sees: 0.05."),
        ("lr_d", "RATE", "D's learning rate. Default: that of --lr."),
        ("warmup", "STEPS", "Increase the generators' rate from 0 over these steps."),
        ("beta1", "0..1", "Adam's first decay."),
        ("beta2", "0..1", "Adam's second decay."),
        ("clip", "NORM", "Clip gradients to this norm; 0: do not."),
        ("exact_reference", "", "Use PyTorch's own layers only: slower."),
    ),
}
_DETAILS: dict[str, dict[str, Any]] = {
    "generator": {"default": TrainSettings().generator.name, "complete": one_of(GENERATORS)},
    "init": {"complete": complete_local_style},
    "evaluate_every": {"complete": one_of(("never",))},
}
# What a --config file can set, and of what kind: the settings of a run, and some options besides.
_FIELDS = {field.name: str(field.type) for field in dataclasses.fields(TrainSettings)}
_IN_FILES = _FIELDS | {"generator": "str", "name": "str", "gpu": "str | int", "processes": "int"}
_IN_FILES |= {"tensorboard": "bool", "strict": "bool"}
# What --print-config shows, commented out, for an option that has no value.
_EXAMPLES = {"max_steps": 1000, "crop_range": "160..280", "init": "monet"}


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


@command("json", "quiet", "verbose", settings=TrainSettings, table=_OPTIONS, details=_DETAILS)
def train(
    console: Console,
    ctx: typer.Context,
    x_dir: Path = argument(..., "X_DIR", "Folder of domain X, such as photographs."),
    y_dir: Path | None = argument(None, "Y_DIR", "Folder of domain Y, such as paintings."),
    name: str | None = option(None, "NAME", "Name of the run and its style. Default: <X>2<Y>."),
    config: Path | None = option(
        None,
        "FILE",
        "Read options from a TOML file; the command line wins.",
        is_eager=True,
        callback=_read_config,
    ),
    print_config: bool = flag(
        "Print all options as TOML, for --config.", is_eager=True, callback=_without_folders
    ),
    dry_run: bool = flag("Check everything, train nothing."),
    strict: bool = flag("Stop if a picture cannot be read.", panel="Pictures"),
    gpu: str = GPU,
    processes: int = PROCESSES,
    tensorboard: bool = TENSORBOARD,
    **chosen: Any,
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
    console.silence(not leading())
    generator = GeneratorSpec.named(chosen["generator"]).to_json()
    settings = TrainSettings.from_json({**chosen, "generator": generator})
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
    check_processes(settings, count)
    first_weights(settings)
    if me is None and count > 1 and not dry_run:
        refuse_existing(name, folder)
        launch(count)

    def prepared() -> Run:
        from cyclegan_cli.engine.run import open_run

        if me and me.restarts and (folder / "run.json").exists():
            return open_run(folder)  # torchrun restarted all: they continue
        if not dry_run:
            refuse_existing(name, folder)
        checkup = examine(
            *(console, name, folder, settings, x_dir, y_dir),
            strict=strict,
            exact=settings.hold_out != TrainSettings.hold_out or _is_given(ctx, "hold_out"),
        )
        present(console, checkup.run, gpu, count, checkup.rows(full=dry_run))
        checkup.tell(console, full=dry_run)
        if dry_run and console.as_json:
            console.result("", checkup.record())
        return checkup.run

    with team(gpu) as group:
        run = led(group, prepared)
        if dry_run:
            console.note("A dry run: nothing was written.")
            return
        from cyclegan_cli.cli.runner import Machine, train_held
        from cyclegan_cli.engine import checkpoint
        from cyclegan_cli.engine.run import create_run

        def newest() -> Checkpoint | None:
            return checkpoint.newest(run.checkpoints)[0]  # of processes that were restarted

        def commit(_start: Checkpoint | None) -> None:
            if not (me and me.restarts and (folder / "run.json").exists()):
                create_run(run)

        machine = Machine(gpu, settings.workers, group, tensorboard)
        train_held(console, run, machine, newest, commit)


# -- settings ----------------------------------------------------------------------------------


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
    for parameter in ctx.command.params:
        name, panel = parameter.name or "", vars(parameter).get("rich_help_panel") or ""
        if name not in _IN_FILES:
            continue
        if panel != heading:
            heading = panel
            lines += ["", f"# ---- {panel} ----"]
        value = ctx.params[name]
        line = f"{name.replace('_', '-')} = {json.dumps(unset[name] if value is None else value)}"
        lines += ["", f"# {vars(parameter)['help']}", f"# {line}" if value is None else line]
    return "\n".join(lines)

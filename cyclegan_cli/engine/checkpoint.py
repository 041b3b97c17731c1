"""Checkpoints: the whole state of a run in one file, written atomically and checked by a digest.

A checkpoint is a safetensors file: every tensor of ``CycleGAN.state``, and in its metadata the
settings, the place in the training, and a SHA-256 of all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.run import (
    BEST,
    CHECKPOINT_FORMAT,
    UNREADABLE,
    Place,
    checkpoint_files,
    checkpoint_name,
    read_state,
)
from cyclegan_cli.engine.weights import below, build_generator
from cyclegan_cli.errors import CheckpointError, NonFiniteLossError, StoreError, reason_of
from cyclegan_cli.files import atomic_path, read_safetensors_header
from cyclegan_cli.settings import TrainSettings


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. ``processes``: the number that wrote it."""

    path: Path
    settings: TrainSettings
    place: Place
    losses: dict[str, float]
    tensors: dict[str, Tensor]
    plain: dict[str, Any]
    evaluation: dict[str, Any] | None = None  # only the best of a run has one
    processes: int = 1


def save(folder: Path, model: CycleGAN, place: Place, losses: Mapping[str, float]) -> Path:
    """Write the state of ``model`` to ``folder``, and delete all but ``settings.keep`` checkpoints.

    Returns the new file. Raises NonFiniteLossError, before it writes, if a number of the state is
    not finite; StoreError if it cannot be written.
    """
    path = folder / checkpoint_name(place)
    _write(path, model, place, losses)
    before = [old for old in checkpoint_files(folder) if old.name < path.name]
    for old in before[model.settings.keep - 1 :]:
        old.unlink(missing_ok=True)
    return path


def save_best(
    folder: Path,
    model: CycleGAN,
    place: Place,
    losses: Mapping[str, float],
    evaluation: Mapping[str, Any],
) -> Path:
    """Write the state of ``model`` as the best of ``folder``, which ``save`` never deletes.

    ``evaluation``: ``Evaluation.to_json``. Raises as ``save`` does.
    """
    path = folder / BEST
    _write(path, model, place, losses, evaluation)
    return path


def best_distance(folder: Path) -> float | None:
    """``Evaluation.distance`` of the best checkpoint by its header; None if there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return float(read_state(folder / BEST)["evaluation"]["distance"])
    return None


def _write(
    path: Path,
    model: CycleGAN,
    place: Place,
    losses: Mapping[str, float],
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    tensors, plain = model.state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteLossError(f"After step {place.step}, {name} is no longer finite.")
    state = {
        "settings": model.settings.to_json(),
        "place": asdict(place),
        "losses": dict(losses),
        "plain": plain,
        "written": time.time(),
        "processes": model.group.size,
    }
    if evaluation is not None:
        state["evaluation"] = dict(evaluation)
    text = json.dumps(state)
    metadata = {"format": CHECKPOINT_FORMAT, "state": text, "sha256": _digest(tensors, text)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, apart=True) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise StoreError(f"The checkpoint {path} cannot be written: {error}.") from error


def load(path: Path) -> Checkpoint:
    """Read and check the checkpoint ``path``. Raises CheckpointError if it is damaged."""
    try:
        metadata, _ = read_safetensors_header(path)
        said = metadata.get("format")
        if said != CHECKPOINT_FORMAT:
            ours = str(said).startswith(CHECKPOINT_FORMAT.rstrip("0123456789"))
            what = "another version" if ours else "another program"
            raise CheckpointError(f"{path} is a file of {what}, not a checkpoint of this one.")
        tensors = load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}.") from error
    except (ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    text = metadata.get("state", "")
    if metadata.get("sha256") != _digest(tensors, text):
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not the one that it was written with."
        )
    try:
        state = json.loads(text)
        return Checkpoint(
            path=path,
            settings=TrainSettings.from_json(state["settings"]),
            place=Place(**state["place"]),
            losses=dict(state["losses"]),
            tensors=tensors,
            plain=dict(state["plain"]),
            evaluation=state.get("evaluation"),
            processes=int(state.get("processes", 1)),
        )
    except UNREADABLE as error:
        raise CheckpointError(f"{path} is of another version of this program: {error}") from error


def generators(start: Checkpoint) -> tuple[Generator, Generator]:
    """G and F of ``start``, or their running means: float32 on the CPU. Raises CheckpointError."""
    networks = []
    for letter in ("G", "F") if start.settings.ema == 0 else ("G_mean", "F_mean"):
        try:
            tensors = below(start.tensors, letter)
            networks.append(build_generator(start.settings.generator, tensors))
        except RuntimeError as error:
            raise CheckpointError(f"{start.path} does not hold its generators.") from error
    return networks[0], networks[1]


def newest(folder: Path) -> tuple[Checkpoint | None, list[CheckpointError]]:
    """The newest intact checkpoint of ``folder``, and what is wrong with newer ones."""
    damaged: list[CheckpointError] = []
    for path in checkpoint_files(folder):
        try:
            return load(path), damaged
        except CheckpointError as error:
            damaged.append(error)
    return None, damaged


def _set_aside_after(folder: Path, place: Place) -> list[Path]:
    """Move checkpoints of steps after ``place`` to ``set-aside/``; returns their new paths."""
    moved = []
    later = [path for path in checkpoint_files(folder) if path.name > checkpoint_name(place)]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if Place(**read_state(folder / BEST)["place"]).step > place.step:
            later.append(folder / BEST)
    for path in later:
        aside = folder / "set-aside"
        aside.mkdir(exist_ok=True)
        moved.append(path.replace(aside / path.name))
    return moved


def go_back_to(folder: Path, start: Checkpoint) -> list[Path]:
    """Make ``start`` the newest checkpoint of ``folder``, wherever it was read from.

    Later ones are moved aside; returns their new paths. Else a run that is cut off before its next
    checkpoint would resume from another one. Raises StoreError.
    """
    try:
        moved = _set_aside_after(folder, start.place)
        own = folder / checkpoint_name(start.place)
        if not own.exists():
            with atomic_path(own) as temporary:
                shutil.copyfile(start.path, temporary)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {reason_of(error)}.") from error
    return moved


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of every tensor (name, dtype, shape, bytes), by name, and of ``text``."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    sha.update(text.encode())
    return sha.hexdigest()

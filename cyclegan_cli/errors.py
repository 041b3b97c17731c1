"""Every error that this program raises on purpose, and how messages say counts and commands.

An error says what happened and to which file; ``hint`` is the next thing to type. The exit code is
2 for a UsageError and its kinds, 1 for the others.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
from collections.abc import Iterable, Iterator


def command_line(*words: str | os.PathLike[str]) -> str:
    """``cyclegan WORDS`` as it can be pasted into a shell, whatever the names in it are.

    A path that begins like an option gets ``./``; strings are options and names as they are.
    """
    texts = [
        word if isinstance(word, str) else f"./{word}" if str(word)[:1] == "-" else str(word)
        for word in words
    ]
    return shlex.join(["cyclegan", *texts])


def pip_extra(extra: str) -> str:
    """The command that installs an extra of this program, in a shell's quotes."""
    return f'pip install "cyclegan[{extra}]"'


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean lambda-cycle?`` for a name that is close to a known one, else nothing."""
    names = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    near = [names[one] for one in close if _alike(name, one) > _alike(name, close[0]) - 0.1]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _alike(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, name.lower()).ratio()


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 picture``, ``2 pictures``, ``1,000 pictures``; ``plural`` where it is not noun + s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def size_text(count: int) -> str:
    """``2.1 MB``, ``1.35 GB`` for so many bytes."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


class CycleganError(Exception):
    """Base of all errors of this program; ``str(error)`` is the message for the user."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CycleganError):
    """What was asked for cannot be done as it was asked."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that stands for nothing; close names are offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str) -> None:
        question = did_you_mean(name, known)
        super().__init__(f"There is no {kind} named '{name}'.{question}", hint=hint)


class DeviceError(UsageError):
    """The device that was named is not there, or cannot do what was asked."""


class DataError(UsageError):
    """The folders of pictures cannot be trained on."""


class PictureError(CycleganError):
    """One picture cannot be read, painted or written; the others go on."""


class WeightsError(CycleganError):
    """A file of weights is damaged, hostile, or of a kind that is not understood."""


class CheckpointError(CycleganError):
    """A checkpoint is damaged or belongs to something else."""


class StoreError(CycleganError):
    """The folder that holds runs and styles cannot be read or written."""


class DownloadError(CycleganError):
    """No address gave a file that could be verified."""


class NoNetworkError(DownloadError):
    """No address could be reached: names are not found, or there is no way to their hosts."""


class ProcessesError(CycleganError):
    """One of several processes that work together has failed, has gone, or was not found."""


class TrainingError(CycleganError):
    """A training cannot go on."""


class NonFiniteLossError(TrainingError):
    """A loss is NaN or infinite."""


def reason_of(error: BaseException) -> str:
    """What went wrong, in the system's words where it was the system; never empty."""
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error) or type(error).__name__


@contextlib.contextmanager
def writing(what: object, verb: str = "written", *, hint: str | None = None) -> Iterator[None]:
    """Turn an OSError into a StoreError: ``what``, a path or its name, cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what} cannot be {verb}: {reason_of(error)}.", hint=hint) from error

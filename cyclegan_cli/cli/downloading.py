"""Downloads as a user sees them; ``pretrained download`` and ``translate`` share it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclegan_cli.cli.console import Console, ProgressBar
from cyclegan_cli.errors import CycleganError, DownloadError, NoNetworkError, UnknownNameError
from cyclegan_cli.styles.catalogue import Style, Way, entries
from cyclegan_cli.styles.download import Learned, Waiting, download_style, ensure
from cyclegan_cli.styles.fetch import Event, Failed, Received, Trying

_UNIT = 1_000_000  # progress counts megabytes


@dataclass(frozen=True)
class Result:
    """What came of one name: a style, or errors, or (one direction of two) both."""

    style: Style | None
    fetched: tuple[Way, ...]
    errors: tuple[CycleganError, ...]


def ensure_weights(console: Console, style: Style, reverse: bool) -> Path:
    """The file of one direction of ``style``; if it must be downloaded, stderr says so.

    Raises UsageError where there is no such direction, DownloadError, StoreError.
    """
    with telling(console) as tell:
        return ensure(style, reverse, tell)


def download_all(console: Console, names: Sequence[str], *, force: bool) -> list[Result]:
    """Every style of ``names``; one that fails does not stop the others.

    Raises UnknownNameError, before anything is fetched, for a name that is not in the catalogue.
    """
    known = entries()
    for name in names:
        if name not in known:
            raise UnknownNameError(
                "downloadable style", name, known, hint="cyclegan pretrained list"
            )
    results = []
    for name in names:
        try:
            with telling(console) as tell:
                done = download_style(name, force=force, tell=tell)
        except NoNetworkError as error:
            results.append(Result(None, (), (error,)))
            break  # of the others the same would be said
        except DownloadError as error:
            results.append(Result(None, (), (error,)))
            continue
        if not done.fetched:
            console.note(f"'{name}' is here already.")
        results.append(Result(done.style, done.fetched, tuple(done.failed.values())))
    return results


@contextlib.contextmanager
def telling(console: Console) -> Iterator[Callable[[Event | Waiting | Learned], None]]:
    """What tells of downloads as they go: notes for what happens, a bar for what comes."""
    said: set[Trying] = set()
    bar: ProgressBar | None = None
    shown = 0  # megabytes
    with contextlib.ExitStack() as bars:

        def tell(event: Event | Waiting | Learned) -> None:
            nonlocal bar, shown
            if isinstance(event, Received):
                if bar is None:
                    total = None if event.total is None else -(-event.total // _UNIT)
                    bar, shown = bars.enter_context(console.progress("Downloading, MB", total)), 0
                rest = _UNIT - 1 if event.count == event.total else 0
                now = (event.count + rest) // _UNIT
                if now > shown:
                    bar.advance(now - shown)
                    shown = now
                return
            bars.close()
            bar = None
            if isinstance(event, Trying):
                if event not in said:  # that it is tried again was said
                    more = f", from byte {event.start}" if event.start else ""
                    console.note(f"Downloading {event.address}{more}")
                    said.add(event)
            elif isinstance(event, Failed):
                end = "; trying again" if event.again else ""
                console.note(f"{event.address}: {event.reason}{end}.")
            elif isinstance(event, Waiting):
                console.note(f"Another process is downloading '{event.style}': waiting for it.")
            else:
                console.note(
                    f"No digest of {event.file} was known. Its SHA-256 is {event.sha256}; "
                    "it is recorded, and later downloads must match it."
                )

        yield tell

"""Downloads as a user sees them; ``pretrained download`` and ``translate`` share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cyclegan_cli.cli.console import Console, ProgressBar
from cyclegan_cli.errors import CycleganError, DownloadError, NoNetworkError
from cyclegan_cli.styles.catalogue import Style, Way
from cyclegan_cli.styles.download import Learned, Waiting, download_style, ensure
from cyclegan_cli.styles.fetch import Event, Failed, Received, Trying

__all__ = ["Result", "Teller", "download_all", "ensure_weights"]

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
    with Teller(console) as teller:
        return ensure(style, reverse, teller.tell)


def download_all(console: Console, names: Sequence[str], *, force: bool) -> list[Result]:
    """Every style of ``names``; one that fails does not stop the others.

    Raises UnknownNameError, before anything is fetched, for a name that is not in the catalogue.
    """
    from cyclegan_cli.errors import UnknownNameError
    from cyclegan_cli.styles.catalogue import entries

    known = entries()
    for name in names:
        if name not in known:
            hint = "cyclegan pretrained list"
            raise UnknownNameError("downloadable style", name, known, hint=hint)
    results = []
    for name in names:
        try:
            with Teller(console) as teller:
                done = download_style(name, force=force, tell=teller.tell)
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


class Teller:
    """Notes for what happens, and a bar for what comes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: ProgressBar | None = None
        self._shown = 0
        self._said: set[Trying] = set()

    def __enter__(self) -> Teller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def tell(self, event: Event | Waiting | Learned) -> None:
        """Say it."""
        if isinstance(event, Received):
            self._advance(event)
            return
        self._close()
        if isinstance(event, Trying):
            if event not in self._said:  # that it is tried again was said
                more = f", from byte {event.start}" if event.start else ""
                self._console.note(f"Downloading {event.address}{more}")
                self._said.add(event)
        elif isinstance(event, Failed):
            end = "; trying again" if event.again else ""
            self._console.note(f"{event.address}: {event.reason}{end}.")
        elif isinstance(event, Waiting):
            self._console.note(f"Another process is downloading '{event.style}': waiting for it.")
        else:
            self._console.note(
                f"No digest of {event.file} was known. Its SHA-256 is {event.sha256}; "
                "it is recorded, and later downloads must match it."
            )

    def _advance(self, event: Received) -> None:
        if self._bar is None:
            total = None if event.total is None else -(-event.total // _UNIT)
            self._bar = ProgressBar(self._console, "Downloading, MB", total)
            self._bar.__enter__()
            self._shown = 0
        now = event.count // _UNIT
        if event.count == event.total:
            now = -(-event.count // _UNIT)
        if now > self._shown:
            self._bar.advance(now - self._shown)
            self._shown = now

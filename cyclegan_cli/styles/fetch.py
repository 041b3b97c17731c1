"""One file from the network, by urllib: resumed, retried, limited in size, checked."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cyclegan_cli import __version__
from cyclegan_cli.errors import DownloadError, NoNetworkError, StoreError, reason_of, writing
from cyclegan_cli.files import cache_dir
from cyclegan_cli.styles import catalogue
from cyclegan_cli.styles.catalogue import Digest, file_digests

_BLOCK = 1 << 16
_PROGRESS = 1 << 16  # bytes that make an attempt worth while
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_NO_WAY = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}
_LOCK_SECONDS = 3600.0
_disk = partial(writing, hint="Set CYCLEGAN_CACHE to a folder with free space that can be written.")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server; times in seconds.

    ``attempts``: in a row that may bring less than ``_PROGRESS`` new bytes. ``slowest``: bytes per
    second, over ``window`` seconds, below which a download is given up.
    """

    timeout: float = 20.0
    attempts: int = 4
    first_wait: float = 1.0
    slowest: float = 1024.0
    window: float = 30.0


@dataclass(frozen=True)
class Waiting:
    """Another process is downloading the same style (or data set)."""

    style: str


@dataclass(frozen=True)
class Trying:
    """A request begins; ``start`` bytes are here already."""

    address: str
    start: int


@dataclass(frozen=True)
class Received:
    """``count`` bytes of ``total`` (None: unknown) are here."""

    count: int
    total: int | None


@dataclass(frozen=True)
class Failed:
    """A request failed; it will be made ``again`` or not."""

    address: str
    reason: str
    again: bool


@dataclass(frozen=True)
class Learned:
    """A file without a published digest: from now on it must have this one."""

    file: str
    sha256: str


Event = Waiting | Trying | Received | Failed | Learned
Tell = Callable[[Event], None]


class _PassingError(Exception):
    """Another attempt may not fail."""


class _FinalError(Exception):
    """Another attempt would fail too."""


class _UnreachableError(_FinalError):
    """The host's name is not found, or there is no route to it."""


@dataclass
class Download:
    """One file: where it comes from, is collected, and what it must be.

    ``what``: subject of a message. ``key``: under which its digest is recorded if no ``digest`` is
    published. ``wrong``: what is wrong with a file, empty if nothing is. ``hints``: for a
    DownloadError, and a NoNetworkError.
    """

    what: str
    file: str
    key: str
    part: Path
    addresses: Sequence[str]
    size_limit: int
    wrong: Callable[[Path], str]
    hints: tuple[str, str]
    tell: Tell
    patience: Patience
    digest: Digest | None = None
    _received: bool = False

    def fetch(self) -> str:
        """Download it; returns the address used. Raises DownloadError, StoreError."""
        base, known = _mirror(), self.known_digest()
        addresses = [f"{base}/{self.file}", *self.addresses] if base else self.addresses
        try:
            return self._run(addresses, known)
        except NoNetworkError as error:
            message = f"{self.what} cannot be downloaded: {error}."
            raise NoNetworkError(message, hint=self.hints[1]) from error
        except DownloadError as error:
            recorded = known and not self.digest
            note = f" (Its digest was recorded in {catalogue.digests_file()}.)" if recorded else ""
            raise DownloadError(f"{self.file}: {error}{note}", hint=self.hints[0]) from error

    def known_digest(self) -> Digest | None:
        """The published digest, or the SHA-256 of the first download. Raises StoreError."""
        return self.digest or catalogue.recorded_digest(self.key)

    def accept(self) -> None:
        """It turned out well: record its digest, if none is known, and delete the partial file."""
        if self.known_digest() is None:
            sha256 = file_digests(self.part)["sha256"]
            catalogue.record_digest(self.key, sha256)
            self.tell(Learned(self.file, sha256))
        self.drop()

    def reject(self) -> None:
        """It is of no use, nor is the recorded digest of earlier downloads: delete both."""
        self.drop()
        if not self.digest:
            catalogue.record_digest(self.key, "")

    def drop(self) -> None:
        """Delete what is here."""
        with _disk(self.part):
            self.part.unlink(missing_ok=True)
            self._tag.unlink(missing_ok=True)

    @property
    def _tag(self) -> Path:
        """A file beside the part: its address, and the server's tag of its version."""
        return self.part.with_name(self.part.name + ".tag")

    def _size(self) -> int:
        """How many bytes of the file are here."""
        with _disk(self.part):
            return self.part.stat().st_size if self.part.exists() else 0

    def _run(self, addresses: Sequence[str], digest: Digest | None) -> str:
        reasons: dict[str, str] = {}
        unreachable: dict[str, str] = {}
        left = list(dict.fromkeys(addresses))
        opener, most, failures = _opener(), self._size(), 0
        while left and failures < self.patience.attempts:
            last = failures + 1 == self.patience.attempts
            for address in list(left):
                if _host(address) in unreachable:
                    continue
                try:
                    self._get(address, digest, opener)
                    return address
                except (_PassingError, _FinalError) as error:
                    reasons[address] = reason = str(error)
                    again = isinstance(error, _PassingError)
                    if isinstance(error, _UnreachableError):
                        unreachable[_host(address)] = reason
                        left = [other for other in left if _host(other) not in unreachable]
                        if not left:
                            break
                    elif again:
                        again = not last or self._size() >= most + _PROGRESS
                    else:
                        left.remove(address)
                self.tell(Failed(address, reason, again))
            # A line that breaks again and again still brings the file, if each try adds to it.
            failures = 0 if self._size() >= most + _PROGRESS else failures + 1
            most = max(most, self._size())
            if left and failures < self.patience.attempts:
                time.sleep(self.patience.first_wait * 2 ** max(0, failures - 1))
        if all(_host(address) in unreachable for address in reasons):
            raise NoNetworkError(f"there is no network ({'; '.join(unreachable.values())})")
        listed = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        raise DownloadError(f"No address gave the file. {listed}.")

    def _get(
        self, address: str, digest: Digest | None, opener: urllib.request.OpenerDirector
    ) -> None:
        """One request and its check. Raises _PassingError, _FinalError, StoreError."""
        start = self._size()
        version = self._version(address) if start else ""
        # Without a digest, only a version that the same address can name is continued.
        if not 0 < start <= self.size_limit or not (digest or version):
            self.drop()
            start = 0
        headers = {"User-Agent": f"cyclegan/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": version} if version else {})
        request = urllib.request.Request(address, headers=headers)
        try:
            host, url = _host(address), urlsplit(address)
            # A proxy looks the host up itself.
            if url.scheme not in urllib.request.getproxies() or urllib.request.proxy_bypass(host):
                socket.getaddrinfo(host, url.port or url.scheme, type=socket.SOCK_STREAM)
            self.tell(Trying(address, start))
            with opener.open(request, timeout=self.patience.timeout) as answer:
                start, total = self._begin(answer, address, start)
                self._receive(answer, start, total)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and start:
                self.drop()
                raise _PassingError("it has no more than what is here already") from error
            reason = f"it answered {error.code} {error.reason}"
            raise (_PassingError if error.code in _PASSING else _FinalError)(reason) from error
        except (http.client.HTTPException, EOFError, ValueError) as error:
            raise _PassingError(f"it answered nonsense ({type(error).__name__})") from error
        except OSError as error:  # of the network: those of the disk are StoreErrors by now
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            no_way = isinstance(cause, OSError) and cause.errno in _NO_WAY
            # A network that was there may come back.
            if not self._received and (no_way or isinstance(cause, socket.gaierror)):
                raise _UnreachableError(f"{host}: {_reason(error)}") from error
            raise _PassingError(_reason(error)) from error
        found = file_digests(self.part)[digest.kind] if digest else ""
        if digest and found != digest.hex:
            reason = f"what it sent has the digest {found[:12]}…, and not {digest.hex[:12]}…"
        else:
            reason = self.wrong(self.part)
        if reason:
            self.drop()
            # A part of an older file may be to blame: once more, from the start.
            raise (_PassingError if start else _FinalError)(reason)

    def _version(self, address: str) -> str:
        """The version tag of the part, if it is from ``address``."""
        with contextlib.suppress(FileNotFoundError):
            written, _, version = self._tag.read_text(encoding="latin-1").partition("\n")
            return version if written == address else ""
        return ""

    def _begin(
        self, answer: http.client.HTTPResponse, address: str, start: int
    ) -> tuple[int, int | None]:
        """The byte at which the answer starts, and the length of the whole file, if known."""
        headers = answer.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            raise _FinalError("it sends the file compressed, which was not asked for")
        length = headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if answer.status == 206:
            said = headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said)
            if match is None or int(match[1]) != start:
                self.drop()
                raise _PassingError("it sent another part than was asked for")
            total = None if match[3] == "*" else int(match[3])
        elif answer.status != 200:
            raise _FinalError(f"it answered {answer.status}")
        else:
            start = 0  # it does not know Range, or the file is another one now
            self.drop()
        if total is not None and total > self.size_limit:
            raise _FinalError(f"the file would have {total} bytes; {self.size_limit} are allowed")
        tag = headers.get("ETag", "") or headers.get("Last-Modified", "")
        if tag and not tag.startswith("W/") and len(tag) < 200:
            with _disk(self._tag):
                self._tag.write_text(f"{address}\n{tag}", encoding="latin-1")
        return start, total

    def _receive(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> None:
        count = start
        with _disk(self.part), self.part.open("ab" if start else "wb") as file:
            for block in self._blocks(answer):
                count += len(block)
                if count > self.size_limit:
                    break
                file.write(block)
                self._received = True
                self.tell(Received(count, total))
        if count > self.size_limit:
            self.drop()
            raise _FinalError(f"the file is larger than {self.size_limit} bytes")
        if total is not None and count != total:
            raise _PassingError(f"it stopped after {count} of {total} bytes")
        if count == 0:
            raise _PassingError("it sent an empty file")

    def _blocks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """The answer in blocks; one that is too slow is given up."""
        since, gathered = time.monotonic(), 0
        while True:
            try:
                block = answer.read1(_BLOCK)
            except OSError as error:  # here, before it passes for one of the disk
                raise _PassingError(_reason(error)) from error
            if not block:
                return
            gathered += len(block)
            passed = time.monotonic() - since
            if passed >= self.patience.window:
                if gathered < self.patience.slowest * passed:
                    raise _PassingError(f"it sent only {gathered} bytes in {passed:.0f} s")
                since, gathered = time.monotonic(), 0
            yield block


def _mirror() -> str | None:
    """The address of a folder that holds the catalogue's files, from ``CYCLEGAN_MIRROR``."""
    return os.environ.get("CYCLEGAN_MIRROR", "").rstrip("/") or None


def _host(address: str) -> str:
    return urlsplit(address).hostname or ""


def _reason(error: OSError) -> str:
    cause: Any = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    return reason_of(cause) if isinstance(cause, Exception) else str(cause)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to http and https only, and not without end."""

    max_redirections = 5
    max_repeats = 2

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise _FinalError(f"it redirects to {newurl[:80]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS, proxies of the environment, and nothing else: no files, no FTP."""
    opener, lib = urllib.request.OpenerDirector(), urllib.request
    errors = (lib.HTTPDefaultErrorHandler(), lib.HTTPErrorProcessor(), _Redirects())
    for handler in (lib.ProxyHandler(), lib.HTTPHandler(), lib.HTTPSHandler(), *errors):
        opener.add_handler(handler)
    return opener


def part_file(name: str, ending: str = ".part") -> Path:
    """Where the download ``name`` is collected. Raises StoreError if the folder cannot be made."""
    folder = cache_dir() / "downloads"
    with writing(folder, hint="Set CYCLEGAN_CACHE to a folder that can be written."):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / (re.sub(r"[^\w.+-]", "_", name) + ending)


@contextlib.contextmanager
def alone(name: str, tell: Tell) -> Iterator[None]:
    """Hold the lock on downloads of that name. Raises StoreError after ``_LOCK_SECONDS``."""
    from filelock import FileLock, Timeout

    lock = FileLock(part_file(name, ".lock"))
    try:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
        if not lock.is_locked:
            tell(Waiting(name))
            lock.acquire(timeout=_LOCK_SECONDS)
        yield
    except Timeout:
        raise StoreError(f"Another process has been downloading '{name}' for an hour.") from None
    finally:
        lock.release()

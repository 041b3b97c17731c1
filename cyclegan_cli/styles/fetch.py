"""One file from the network: resumed, retried, limited in size, checked.

The standard library's urllib is enough (one GET with a Range), honours the usual proxy variables,
and adds no dependency. A file is collected in ``NAME.part`` and used only if its digest is right.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
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
from cyclegan_cli.errors import DownloadError, NoNetworkError, writing
from cyclegan_cli.styles.catalogue import Digest

_BLOCK = 1 << 16
_PROGRESS = 1 << 16  # bytes that make an attempt worth while
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_disk = partial(writing, hint="Set CYCLEGAN_CACHE to a folder with free space that can be written.")
_NO_WAY = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}


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


Event = Trying | Received | Failed


class _PassingError(Exception):
    """A failure that another attempt may not have."""


class _FinalError(Exception):
    """A failure that another attempt would have too."""


class _UnreachableError(_FinalError):
    """The host's name is not found, or there is no route to it."""


@dataclass
class Transfer:
    """One file on its way to ``part``, a partial file that is continued if the server can.

    The file must have ``digest`` (if None, the length that the server announced), and ``wrong``
    must return nothing for it.
    """

    part: Path
    digest: Digest | None
    size_limit: int
    wrong: Callable[[Path], str]
    tell: Callable[[Event], None]
    patience: Patience
    _received: bool = False

    def __post_init__(self) -> None:
        self._opener = _opener()

    def run(self, addresses: Sequence[str]) -> str:
        """Download it from one of ``addresses``, in turn; returns the address used.

        Raises DownloadError, with what each address answered; NoNetworkError if no host can be
        reached; StoreError if ``part`` cannot be written.
        """
        reasons: dict[str, str] = {}
        unreachable: dict[str, str] = {}
        left = list(dict.fromkeys(addresses))
        most, failures = self.size(), 0
        while left and failures < self.patience.attempts:
            last = failures + 1 == self.patience.attempts
            for address in list(left):
                if address not in left:
                    continue  # of a host that cannot be reached
                try:
                    self.get(address)
                except _UnreachableError as error:
                    host = _host(address)
                    unreachable[host] = reasons[address] = str(error)
                    left = [other for other in left if _host(other) != host]
                    if left:
                        self.tell(Failed(address, str(error), again=False))
                except _FinalError as error:
                    reasons[address] = str(error)
                    left.remove(address)
                    self.tell(Failed(address, reasons[address], again=False))
                except _PassingError as error:
                    reasons[address] = str(error)
                    gained = self.size() >= most + _PROGRESS
                    self.tell(Failed(address, reasons[address], again=gained or not last))
                else:
                    return address
            # A line that breaks again and again still brings the file, if each try adds to it.
            failures = 0 if self.size() >= most + _PROGRESS else failures + 1
            most = max(most, self.size())
            if left and failures < self.patience.attempts:
                time.sleep(self.patience.first_wait * 2 ** max(0, failures - 1))
        if all(_host(address) in unreachable for address in reasons):
            raise NoNetworkError(f"there is no network ({'; '.join(unreachable.values())})")
        listed = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        raise DownloadError(f"No address gave the file. {listed}.")

    @property
    def tag(self) -> Path:
        """A file beside the part: its address, and the server's tag of its version."""
        return self.part.with_name(self.part.name + ".tag")

    def get(self, address: str) -> None:
        """One request and its check. Raises _PassingError, _FinalError, StoreError."""
        start = self._start(address)
        try:
            _look_up(address)
            self.tell(Trying(address, start))
            with self._open(address, start) as answer:
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
                raise _UnreachableError(f"{_host(address)}: {_reason(error)}") from error
            raise _PassingError(_reason(error)) from error
        self._check(resumed=start > 0)

    def size(self) -> int:
        """How many bytes of the file are here."""
        with _disk(self.part):
            return self.part.stat().st_size if self.part.exists() else 0

    def _start(self, address: str) -> int:
        """How many bytes of the part to keep.

        Without a digest, only a part from the same address whose version the server can name: two
        servers may use one tag for two files.
        """
        size = self.size()
        if 0 < size <= self.size_limit and (self.digest or self._version(address)):
            return size
        self.drop()
        return 0

    def _version(self, address: str) -> str:
        """The version tag of the part, if it is from ``address``."""
        try:
            written, _, version = self.tag.read_text(encoding="latin-1").partition("\n")
        except FileNotFoundError:
            return ""
        return version if written == address else ""

    def drop(self) -> None:
        """Forget what is here."""
        with _disk(self.part):
            self.part.unlink(missing_ok=True)
            self.tag.unlink(missing_ok=True)

    def _open(self, address: str, start: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"cyclegan/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version := self._version(address):
                headers["If-Range"] = version
        request = urllib.request.Request(address, headers=headers)
        answer: http.client.HTTPResponse = self._opener.open(request, timeout=self.patience.timeout)
        return answer

    def _begin(
        self, answer: http.client.HTTPResponse, address: str, start: int
    ) -> tuple[int, int | None]:
        """The byte at which the answer starts, and the length of the whole file, if known."""
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise _FinalError("it sends the file compressed, which was not asked for")
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if answer.status == 206:
            match = re.fullmatch(
                r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "")
            )
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
        tag = answer.headers.get("ETag", "") or answer.headers.get("Last-Modified", "")
        if tag and not tag.startswith("W/") and len(tag) < 200:
            with _disk(self.tag):
                self.tag.write_text(f"{address}\n{tag}", encoding="latin-1")
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

    def _check(self, *, resumed: bool) -> None:
        reason = ""
        if self.digest is not None:
            found, wanted = file_digests(self.part)[self.digest.kind], self.digest.hex
            if found != wanted:
                reason = f"what it sent has the digest {found[:12]}…, and not {wanted[:12]}…"
        reason = reason or self.wrong(self.part)
        if reason:
            self.drop()
            # A part of an older file may be to blame: once more, from the start.
            raise (_PassingError if resumed else _FinalError)(reason)


def file_digests(path: Path) -> dict[str, str]:
    """The file's SHA-256 ("sha256") and its name as a git blob ("git_blob")."""
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            blob.update(block)
    return {"sha256": sha256.hexdigest(), "git_blob": blob.hexdigest()}


def _host(address: str) -> str:
    return urlsplit(address).hostname or ""


def _look_up(address: str) -> None:
    """Raise socket.gaierror if the host has no address; a proxy looks it up itself."""
    host, parts = _host(address), urlsplit(address)
    if parts.scheme not in urllib.request.getproxies() or urllib.request.proxy_bypass(host):
        socket.getaddrinfo(host, parts.port or parts.scheme, type=socket.SOCK_STREAM)


def _reason(error: OSError) -> str:
    cause: Any = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return str(cause.strerror)
    return str(cause) or type(cause).__name__


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
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener

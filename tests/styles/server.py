"""A real HTTP server on loopback that behaves as badly as it is told to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Act = Callable[["Handler"], None]


@dataclass
class Server:
    """``files``: what lies where. ``acts``: what to do instead, one a request, then as usual."""

    files: dict[str, bytes] = field(default_factory=dict)
    acts: dict[str, list[Act]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    base: str = ""
    etag: str | None = '"one"'
    ranges: bool = True

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    rules: Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.close_connection = True
        self.rules.requests.append((self.path, dict(self.headers)))
        acts = self.rules.acts.get(self.path, [])
        act = acts.pop(0) if acts else serve
        try:
            act(self)
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has had enough

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of a good answer."""
        path = re.sub(r"^http://[^/]*", "", self.path)  # as a proxy is asked
        data = self.rules.files.get(path)
        if data is None:
            return 404, {"Content-Length": "0"}, b""
        tag = {"ETag": self.rules.etag} if self.rules.etag else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        changed = self.headers.get("If-Range", self.rules.etag) != self.rules.etag
        if wanted is None or changed or not self.rules.ranges:
            return 200, {"Content-Length": str(len(data)), **tag}, data
        start = int(wanted[1])
        if start >= len(data):
            return 416, {"Content-Length": "0"}, b""
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        rest = data[start:]
        return 206, {"Content-Length": str(len(rest)), "Content-Range": span, **tag}, rest


def serve(handler: Handler) -> None:
    status, headers, data = handler.body()
    handler.head(status, headers)
    handler.wfile.write(data)


def cut(after: int) -> Act:
    """The connection ends after so many bytes of the content."""

    def act(handler: Handler) -> None:
        status, headers, data = handler.body()
        handler.head(status, headers)
        handler.wfile.write(data[:after])

    return act


def status(code: int, **headers: str) -> Act:
    def act(handler: Handler) -> None:
        handler.head(
            code, {"Content-Length": "0", **{k.replace("_", "-"): v for k, v in headers.items()}}
        )

    return act


def send(data: bytes, length: int | None = None, **headers: str) -> Act:
    """Other content than lies there; ``length``: what Content-Length says (-1: nothing)."""

    def act(handler: Handler) -> None:
        size = (
            {} if length == -1 else {"Content-Length": str(len(data) if length is None else length)}
        )
        handler.head(200, {**size, **{k.replace("_", "-"): v for k, v in headers.items()}})
        handler.wfile.write(data)

    return act


def flood(handler: Handler) -> None:
    """Bytes without end, of no stated number."""
    handler.head(200, {})
    while True:
        handler.wfile.write(bytes(1 << 16))


def drip(handler: Handler) -> None:
    """A byte now and then, for ever."""
    status, headers, data = handler.body()
    handler.head(status, headers)
    for byte in data:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def hang(handler: Handler) -> None:
    time.sleep(3)


def nonsense(handler: Handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


def wrong_range(handler: Handler) -> None:
    """Another part than was asked for."""
    _, _, data = handler.body()
    handler.head(206, {"Content-Length": "4", "Content-Range": f"bytes 0-3/{len(data)}"})
    handler.wfile.write(data[:4])


@contextmanager
def running(rules: Server) -> Iterator[Server]:
    """``rules`` on a port of loopback."""
    handler = type("Bound", (Handler,), {"rules": rules})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        rules.base = f"http://127.0.0.1:{server.server_port}"
        try:
            yield rules
        finally:
            server.shutdown()
            thread.join()

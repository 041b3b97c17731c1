"""A ``cyclegan`` command that starts at once, for tests that run many in a real shell.

Importing torch takes seconds. So one process imports everything, and forks for each command: the
child is given the command's arguments, folder, environment and its very stdin, stdout and stderr,
and runs ``main`` as ``python -m cyclegan_cli`` does.

``python -m tests.forkserver SOCKET`` is the process; ``command(folder)`` starts and stops it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from PIL import Image

from tests.program import REPOSITORY, environment

_CLIENT = """#!{python} -IS
import json, os, socket, sys
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(call)
    for fd in (0, 1, 2):
        os.close(fd)  # so that the pipe's other end sees the program's end, not this one's
    os._exit(server.recv(1)[0])
"""


@contextlib.contextmanager
def command(folder: Path) -> Iterator[Path]:
    """A folder for PATH in which ``cyclegan`` lies. ``folder``: empty; the path must be short."""
    address, programs = folder / "s", folder / "bin"
    programs.mkdir()
    client = programs / "cyclegan"
    client.write_text(_CLIENT.format(python=sys.executable, socket=str(address)))
    client.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.forkserver", str(address)],
        env=environment({"OPENBLAS_NUM_THREADS": "1"}),
        cwd=REPOSITORY,
    ) as server:
        try:
            for _ in range(1200):
                if address.exists() or server.poll() is not None:
                    break
                time.sleep(0.1)
            assert address.exists(), "the fork server did not start"
            yield programs
        finally:
            server.kill()


def serve(address: str) -> NoReturn:
    """Fork for every call, for ever."""
    import cyclegan_cli.api  # all of the engine, painting and media
    import cyclegan_cli.painting.batch  # noqa: F401
    from cyclegan_cli.cli.app import main

    Image.init()
    with contextlib.redirect_stderr(io.StringIO()):
        assert main(["translate"]) == 2  # imports what parsing options takes

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need not be waited for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address + "~")
        server.listen(64)
        Path(address + "~").rename(address)
        while True:
            caller, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                caller.send(bytes([_run(caller, main)]))
                os._exit(0)
            caller.close()


def _run(caller: socket.socket, main: object) -> int:
    """One call, in its own process."""
    size, fds, _, _ = socket.recv_fds(caller, 8, 3)
    with caller.makefile("rb") as stream:
        arguments, folder, variables = json.loads(stream.read(int.from_bytes(size, "big")))
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv[1:] = arguments
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(fd, mode, encoding="utf-8", closefd=False) for fd, mode in enumerate("rww")
    )
    assert callable(main)
    code = main(arguments)
    assert isinstance(code, int)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    for fd in (0, 1, 2):
        os.close(fd)
    return code


if __name__ == "__main__":
    serve(sys.argv[1])

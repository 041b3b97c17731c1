"""Several processes of a test: forks, which spares each the seconds of importing torch."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT = 200.0  # seconds: far more than any of these takes, on a machine that is busy


def free_port() -> int:
    """A TCP port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def places(size: int) -> list[dict[str, str]]:
    """The environment of each of ``size`` processes, as torchrun would set it."""
    common = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def start(size: int, work: Callable[[int], Any], folder: Path) -> list[int]:
    """Fork ``size`` processes that do ``work(rank)``; the pids. ``finish`` gathers what it gave."""
    pids = []
    for rank, variables in enumerate(places(size)):
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads; none of ours holds a lock here.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 99
            try:
                os.environ.update(variables)
                result = work(rank)
                (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    return pids


def wait(pids: list[int], timeout: float = TIMEOUT) -> list[int]:
    """The exit codes (negative: the signal) once all have ended; kills them after ``timeout``."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + timeout
    try:
        while len(codes) < len(pids):
            for pid in pids:
                if pid not in codes and (status := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(status[1])
            assert time.monotonic() < deadline, f"still running after {timeout} s"
            time.sleep(0.02)
    finally:
        for pid in set(pids) - set(codes):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return [codes[pid] for pid in pids]


def together(size: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work(rank)`` gave in each of ``size`` processes."""
    assert wait(start(size, work, folder)) == [0] * size
    return [pickle.loads((folder / f"result-{rank}").read_bytes()) for rank in range(size)]

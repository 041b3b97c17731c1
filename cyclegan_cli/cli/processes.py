"""This process, and several of one command: those that torchrun or Slurm started, or that start
here. The only reader of the environment that they set.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from cyclegan_cli.errors import CycleganError, UsageError, counted

if TYPE_CHECKING:
    from cyclegan_cli.engine.device import Device
    from cyclegan_cli.engine.distributed import Group
    from cyclegan_cli.settings import TrainSettings

PATIENCE = 600.0  # seconds until a process that does not answer is given up
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_joined: list[Group] = []
_arguments: list[str] = []

T = TypeVar("T")


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that nothing on the way mistakes it for a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.exit_code = 128 + signum  # 130 for SIGINT, 143 for SIGTERM


def stop_on_signals() -> None:
    """Turn Ctrl-C and SIGTERM into ``Stopped`` (in the main thread)."""

    def stop(signum: int, _frame: FrameType | None) -> NoReturn:
        raise Stopped(signum)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def remember(given: list[str]) -> None:
    """Keep the command line, for the processes that ``launch`` starts."""
    _arguments[:] = given


def arguments() -> list[str]:
    """The command line without the program's name."""
    return list(_arguments)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import large libraries faster: what they make stays, so no garbage is looked for.

    Nor is it looked for among what was imported afterwards, or at the end of the program.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


# -- several processes -----------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """This process among those of one command. ``restarts``: how often all were restarted."""

    rank: int
    size: int
    local_rank: int
    restarts: int = 0


def member() -> Member | None:
    """What torchrun's or Slurm's environment says of this process; None where it is alone.

    Raises UsageError where torchrun's variables are no numbers.
    """
    _adopt_slurm()
    variables = os.environ
    if any(name not in variables for name in _TORCHRUN):
        return None
    try:
        rank, size, local = (int(variables[name]) for name in _TORCHRUN)
        restarts = int(variables.get("TORCHELASTIC_RESTART_COUNT", "0"))
    except ValueError as error:
        raise UsageError(f"RANK, WORLD_SIZE or LOCAL_RANK is no number ({error}).") from error
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank}, where WORLD_SIZE is {size}.")
    return Member(rank, size, local, restarts)


def _adopt_slurm() -> None:
    """Set what torchrun would, where srun started several tasks and torchrun is not used.

    SLURM_STEP_NUM_TASKS is of srun's own step: in a batch script or an interactive shell, which
    have SLURM_NTASKS too, one process is all there is.
    """
    variables = os.environ
    if "RANK" in variables or int(variables.get("SLURM_STEP_NUM_TASKS") or 1) < 2:
        return
    if "SLURM_PROCID" not in variables:
        return
    job = int(re.sub(r"\D", "", variables.get("SLURM_JOB_ID", "")) or 0)
    variables["RANK"] = variables["SLURM_PROCID"]
    variables["WORLD_SIZE"] = variables["SLURM_STEP_NUM_TASKS"]
    variables["LOCAL_RANK"] = variables.get("SLURM_LOCALID", "0")
    variables.setdefault("MASTER_PORT", str(20_000 + job % 20_000))
    variables.setdefault("MASTER_ADDR", first_host(variables.get("SLURM_STEP_NODELIST", "")))


def first_host(nodes: str) -> str:
    """The first of Slurm's list: ``gpu[03-06,9],login`` is gpu03; empty: this machine."""
    match = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes.strip())
    if match is None or not match[0]:
        return "127.0.0.1"
    return f"{match[1]}{match[2] or ''}{match[3] or ''}"


def leading() -> bool:
    """Whether this process is alone or the first, which speaks."""
    me = member()
    return me is None or me.rank == 0


def may_speak() -> bool:
    """Whether this process shall say why it failed: one of them does."""
    return _joined[0].speaks() if _joined else leading()


def local_count(gpu: str, processes: int) -> int:
    """How many processes ``--gpu`` and ``--processes`` mean on this machine.

    Raises UsageError where they do not agree, DeviceError where a device is not there.
    """
    if processes < 1:
        raise UsageError("--processes must be at least 1.")
    if processes == 1 and "," not in gpu:
        return 1  # without importing torch
    from cyclegan_cli.engine.device import resolve

    devices = resolve(gpu)
    if len(devices) > 1 and processes in (1, len(devices)):
        return len(devices)
    if len(devices) == 1 and (processes == 1 or devices[0].torch.type == "cpu"):
        return processes
    raise UsageError(
        f"--gpu {gpu} with --processes {processes}: each GPU has one process.",
        hint="--gpu 0,1,2,3   or   --gpu cpu --processes 4",
    )


def one_device(gpu: str) -> Device:
    """The device of this process: of several that ``--gpu`` means, the one of its local rank.

    Raises UsageError where it means several and this process is alone.
    """
    from cyclegan_cli.engine.device import available, resolve

    me = member()
    if me is not None and gpu == "auto":
        # A cluster may show each process only its own device, which then has the number 0.
        cuda = [name for name in available() if name.isdigit()]
        if len(cuda) == 1:
            return resolve(cuda[0])[0]
        gpu = ",".join(cuda) or "cpu"
    devices = resolve(gpu)
    if me is not None and (len(devices) > me.local_rank or devices[0].torch.type == "cpu"):
        return devices[me.local_rank % len(devices)]
    if me is not None:
        raise UsageError(f"--gpu {gpu} has no device for process {me.local_rank} of this machine.")
    if len(devices) > 1:
        raise UsageError(
            f"--gpu {gpu}: this command computes on one device at a time.",
            hint=f"--gpu {gpu.split(',', maxsplit=1)[0]}",
        )
    return devices[0]


@contextlib.contextmanager
def team(gpu: str) -> Iterator[Group]:
    """The group of this command's processes; of one that is alone, a group that is free.

    A process that leaves by an exception leaves word of it first.
    """
    from cyclegan_cli.engine.distributed import ALONE, join

    if member() is None:
        yield ALONE
        return
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    group = join(one_device(gpu).torch, _patience())
    _joined[:] = [group]
    try:
        yield group
    except typer.Exit:
        group.leave()
        raise
    except BaseException as error:
        group.report(error)
        raise
    group.leave()


def _patience() -> float:
    text = os.environ.get("CYCLEGAN_TIMEOUT", "")
    with contextlib.suppress(ValueError):
        return max(1.0, float(text)) if text else PATIENCE
    raise UsageError(f"CYCLEGAN_TIMEOUT is '{text}': write a number of seconds.")


def wait_for_others() -> None:
    """Wait, under torchrun, until all processes of this machine and others have come here.

    Each has its own share of the work and needs no other; but torchrun ends all when one ends
    with an error, and one bad picture must not stop the pictures of the others.
    """
    me = member()
    if me is None or _joined or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    from datetime import timedelta

    from torch._C._distributed_c10d import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with contextlib.suppress(RuntimeError):  # torchrun has gone: there is nobody to wait for
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=60))
        key = f"cyclegan/done/{me.restarts}"
        store.add(key, 1)
        while store.add(key, 0) < me.size:
            time.sleep(0.2)


def led(group: Group, work: Callable[[], T]) -> T:
    """What ``work()`` gives in the first process, for all; its error is everybody's."""
    result = error = None
    if group.leads:
        try:
            result = work()
        except CycleganError as found:
            error = found
    group.check_in(error=error)
    shared: T = group.first(result)  # type: ignore[assignment]
    return shared


def check_processes(settings: TrainSettings, size: int) -> None:
    """Raise UsageError where ``size`` processes cannot train by these settings.

    ``batch_size`` is that of all of them: it stays when their number changes, and so does the
    training.
    """
    if size == 1:
        return
    for option, used in (
        ("--lambda-patch", settings.lambda_patch > 0),
        ("--lambda-spectrum", settings.lambda_spectrum > 0),
        ("--replay", settings.replay > 0),
    ):
        if used:
            raise UsageError(
                f"What {option} remembers cannot be shared by several processes.",
                hint="Train on one device, or without it.",
            )
    if size > settings.batch_size:
        raise UsageError(
            f"A step takes {counted(settings.batch_size, 'picture')}: "
            f"{size} processes would not all have one.",
            hint=f"Use {settings.batch_size} at most.",
        )


def launch(count: int) -> NoReturn:
    """Run this command line in ``count`` processes, by PyTorch's launcher, and end as they do.

    Raises typer.Exit with the exit code of the first that failed, Stopped where a signal came.
    """
    import logging
    import tempfile
    import uuid

    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _set_up(count)
    logging.disable(logging.CRITICAL)  # of the launcher: the processes speak
    with tempfile.TemporaryDirectory(prefix="cyclegan-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "cyclegan_cli", *_arguments)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            raise typer.Exit(failure.exitcode if failure.exitcode > 0 else 1) from None
        except SignalException as error:
            raise Stopped(int(error.sigval)) from None
        finally:
            logging.disable(logging.NOTSET)
    raise typer.Exit(0)


def _set_up(count: int) -> None:
    """The processes' environment: their share of the processors, and only the loopback."""
    import socket  # slow to import, as those of launch

    variables = os.environ
    variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    variables.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")  # a step, and its checkpoint
    with contextlib.suppress(OSError, AttributeError):
        loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        if loopback:
            variables.setdefault("GLOO_SOCKET_IFNAME", loopback[0])

"""Several processes at one training or one picture, by torch.distributed.

NCCL between CUDA devices, Gloo between processors. Failures of a process become errors with their
reason in the others.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cyclegan_cli.errors import CycleganError, ProcessesError
from cyclegan_cli.machine import Part, shares

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_BUCKET = 32 * 2**20  # bytes of gradients in one message: the next is packed while it is sent
_FAILURE = "failure"

T = TypeVar("T")


class Group:
    """The processes that work together; this one is number ``rank`` of ``size``.

    Without a ``store`` it is a single process, and the methods cost nothing. Else they are
    collective: every process must call them in the same order. They raise ProcessesError if another
    process has ended, failed, or does not answer in time.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.rank = rank
        self.size = size
        self._store = store

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def joined(self) -> bool:
        """Whether there is a group; it may have one process."""
        return self._store is not None

    # -- tensors -------------------------------------------------------------------------------

    def average(
        self, gradients: Sequence[Tensor], values: Mapping[str, Tensor], count: int, whole: int
    ) -> dict[str, Tensor]:
        """Means over all ``whole`` pictures, of which ``count`` are this process's.

        ``gradients``: of a sum over this process's pictures; each becomes, in place, that of the
        mean over all. ``values``: scalar means over this process's pictures; returns those over
        all. One exchange, after which all processes have the same numbers, bit for bit.
        """
        if not self.joined:
            return dict(values)
        means = torch.stack([v.to(gradients[0].dtype) for v in values.values()]) * count
        everything = [means, *gradients]
        self.sum_(everything)
        for tensor in everything:
            tensor.div_(whole)
        return dict(zip(values, means.unbind(), strict=True))

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor (of one dtype and device) by its sum over all processes."""
        if not self.joined:
            return
        with self._watched():
            sent = []
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
            for bucket, flat, work in sent:
                work.wait()
                parts = torch.split(flat, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def gather(self, x: Tensor, count: int) -> Tensor:
        """The N×… tensors of all processes, in the order of ranks.

        ``count``: the sum of all N, which are divided as by ``shares``.
        """
        if not self.joined:
            return x
        counts = [len(part) for part in shares(count, self.size)]
        mine = x.new_zeros((max(counts), *x.shape[1:]))
        mine[: counts[self.rank]] = x[: counts[self.rank]]
        parts = [torch.empty_like(mine) for _ in counts]
        with self._watched():
            dist.all_gather(parts, mine)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    def send(self, x: Tensor, rank: int) -> None:
        """Send ``x`` to one process, which calls ``receive``."""
        with self._watched():
            dist.send(_bytes(x.contiguous()), rank)

    def receive(self, into: Tensor, rank: int) -> None:
        """Fill ``into``, which is contiguous, with the values that process ``rank`` sends."""
        with self._watched():
            dist.recv(_bytes(into), rank)

    # -- words ---------------------------------------------------------------------------------

    def first(self, value: T) -> T:
        """The value of the first process, for all."""
        if not self.joined:
            return value
        box: list[Any] = [value]
        with self._watched():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        found: T = box[0]
        return found

    def total(self, count: int) -> int:
        """The sum of all processes' counts."""
        if not self.joined:
            return count
        box = torch.tensor([count], dtype=torch.int64)
        with self._watched():
            dist.all_reduce(box)
        return int(box)

    def part(self, count: int) -> Part | None:
        """This process's part of a batch, ``count`` pictures; None without a group.

        Raises ValueError if that is not its share.
        """
        if not self.joined:
            return None
        whole = self.total(count)
        rows = shares(whole, self.size)[self.rank]
        if len(rows) != count:
            raise ValueError(f"{count} pictures, where {len(rows)} are this process's share")
        return Part(rows, whole)

    def check_in(self, word: int = 0, error: CycleganError | None = None) -> int:
        """Wait for all others; returns the largest ``word``.

        If a process has an ``error``, every process raises: that one its own, the others a
        ProcessesError that repeats it.
        """
        if not self.joined:
            if error is not None:
                raise error
            return word
        words = torch.tensor([word, error is not None], dtype=torch.int64)
        with self._watched():
            dist.all_reduce(words, dist.ReduceOp.MAX)
        if words[1]:
            self._raise_all(error)
        return int(words[0])

    def _raise_all(self, error: CycleganError | None) -> None:
        told: list[Any] = [None] * self.size
        mine = error and (str(error), error.hint, error.exit_code)
        with self._watched():
            dist.all_gather_object(told, mine)
        if error is not None:
            raise error
        rank, (message, hint, code) = next((r, words) for r, words in enumerate(told) if words)
        raise _told(f"Process {rank}: {message}", hint, code)

    def same(self, what: str, value: str) -> None:
        """Raise ProcessesError in all if ``value`` differs between processes."""
        if not self.joined:
            return
        values: list[Any] = [None] * self.size
        with self._watched():
            dist.all_gather_object(values, value)
        others = [(rank, v) for rank, v in enumerate(values) if v != values[0]]
        if others:
            rank, other = others[0]
            raise ProcessesError(
                f"The processes differ in {what}: {values[0]} in process 0, {other} in {rank}."
            )

    # -- failures ------------------------------------------------------------------------------

    def report(self, error: BaseException) -> None:
        """Leave the reason why this process ends for the others."""
        if self._store is not None:
            text = str(error).partition("\n")[0] or type(error).__name__
            with contextlib.suppress(RuntimeError):  # the store may have ended
                self._store.compare_set(_FAILURE, "", f"Process {self.rank}: {text}")

    def speaks(self) -> bool:
        """Whether this process should print the error: the first that asks."""
        if self._store is None:
            return True
        try:
            return int(self._store.add("spoken", 1)) == 1
        except RuntimeError:
            return self.leads

    def leave(self) -> None:
        """Leave the group at the end; not after an error, when others may have ended."""
        if self.joined:
            self._store = None
            dist.destroy_process_group()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> CycleganError:
        """Why a collective failed: the reason that another process left, if any."""
        if self._store is not None:
            with contextlib.suppress(RuntimeError):
                if self._store.check([_FAILURE]):
                    return _told(self._store.get(_FAILURE).decode(), None, 1)
        text = str(error).partition("\n")[0]
        return ProcessesError(f"Another process has ended or does not answer ({text:.200}).")


ALONE = Group()


def join(device: torch.device, timeout: float) -> Group:
    """The group of this process's environment, as torchrun sets it.

    ``device``: of this process; CUDA tensors are sent by NCCL, all others by Gloo. ``timeout``:
    seconds to wait for another process. Raises ProcessesError if the others are not found.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    patience = datetime.timedelta(seconds=timeout)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=patience)))
        store = PrefixStore("cyclegan", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    except (RuntimeError, ValueError) as error:
        text = str(error).partition("\n")[0]
        raise ProcessesError(
            f"The processes did not find each other ({text:.200}).",
            hint="MASTER_ADDR and MASTER_PORT must name the first one, and let the others in.",
        ) from error
    return Group(rank, size, store)


def _told(message: str, hint: str | None, code: int) -> ProcessesError:
    error = ProcessesError(message, hint=hint)
    error.exit_code = code
    return error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """``tensors`` in order, in lists of about ``_BUCKET`` bytes."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        bucket.append(tensor)
        held += tensor.numel() * tensor.element_size()
        if held >= _BUCKET:
            yield bucket
            bucket, held = [], 0
    if bucket:
        yield bucket


def _bytes(x: Tensor) -> Tensor:
    return x.view(-1).view(torch.uint8)

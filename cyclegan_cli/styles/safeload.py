"""A state_dict from a ``.pth`` file that is not trusted.

``torch.load(weights_only=True)`` executes no foreign code, but it believes the sizes in the file: a
kilobyte can ask for a terabyte, a storage can claim more bytes than it has, and a zip can expand
without end. So the pickle is first read by a small interpreter, which knows only the instructions
that a state_dict needs, builds only descriptions, and checks every size against the bytes in the
file. Then torch loads it: of a zip file, a copy that holds only what was checked.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import shlex
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan_cli.errors import WeightsError
from cyclegan_cli.styles.catalogue import DOWNLOAD_AGAIN, foreign

__all__ = ["SIZE_LIMIT", "load_state_dict"]

SIZE_LIMIT = 1 << 30  # bytes of a file; the paper's generator has 45 million
_PICKLE_LIMIT = 1 << 20  # bytes of the pickle in it; the paper's generator's has some 10 thousand
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ITEM_BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4}
_CALLS = {
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
}


class _RefusedError(ValueError):
    """What is wrong with a file, as the end of a sentence.

    ``state``: a Python expression for the state_dict of ``FILE``, for those who trust it.
    """

    def __init__(self, message: str, hint: str | None = None, state: str = "") -> None:
        super().__init__(message)
        self.hint, self.state = hint, state


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file by name, on the CPU.

    Keys of nested dictionaries are joined, as in ``state_dict.model.1.weight``. Raises WeightsError
    if the file is damaged, hostile or not a state_dict; OSError if it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(SIZE_LIMIT + 1)
    try:
        if len(data) > SIZE_LIMIT:
            raise _RefusedError(f"is larger than {SIZE_LIMIT >> 20} MiB")
        if data.startswith(b"PK\x03\x04"):
            content, data = _checked_zip(data)
        elif data.startswith(_LEGACY_MAGIC):
            content = _checked_legacy(data)
        else:
            what, advice = foreign(data)
            raise _RefusedError(f"is not a PyTorch file{what and f', but {what}'}", advice)
        paths = _tensor_paths(content)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {name: reduce(getitem, keys, loaded).detach() for name, keys in paths.items()}
    except _RefusedError as error:
        state = error.state.replace("FILE", json.dumps(str(path)))
        command = shlex.quote(f'import torch; torch.save({state}, "weights.pth")')
        hint = f"If you trust it: python -c {command}" if state else error.hint
        raise WeightsError(f"{path} {error}.", hint=hint) from error
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path} is cut short or damaged.", hint=DOWNLOAD_AGAIN) from error
    except (
        *(RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
        *(pickle.UnpicklingError, MemoryError, RecursionError, OverflowError),
        *(NotImplementedError, AssertionError, struct.error),
    ) as error:
        raise WeightsError(f"{path} is damaged: it does not load.") from error


# -- the containers --------------------------------------------------------------------------


def _checked_zip(data: bytes) -> tuple[Any, bytes]:
    """The description of a zip file's content, and a copy with nothing else."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names) or len(names) > 10_000:
            raise _RefusedError("is damaged: its table of contents is not one that PyTorch writes")
        _refuse_other_zips(names)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise _RefusedError("is compressed, which no file of PyTorch's is: it is refused")
        if sum(entry.file_size for entry in entries) > len(data):
            raise _RefusedError("says that it holds more than its own size: it is refused")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _RefusedError("is a zip file, but not one of PyTorch's")
        folder = pickles[0][: -len("data.pkl")]
        program = archive.read(pickles[0])
        content, claims = _interpret(program)
        records = {f"data/{key}": archive.read(f"{folder}data/{key}") for key in claims}
        order = archive.read(folder + "byteorder") if folder + "byteorder" in names else None
    for key, (kind, count) in claims.items():
        if count * _ITEM_BYTES[kind] != len(records[f"data/{key}"]):
            raise _RefusedError("is damaged: a tensor's bytes are not as many as it says")
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program)
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for name, record in records.items():
            archive.writestr("archive/" + name, record)
        archive.writestr("archive/version", b"3\n")
    return content, copy.getvalue()


def _refuse_other_zips(names: list[str]) -> None:
    """Raise _RefusedError, naming it, for a zip file of another kind that is well known."""
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise _RefusedError(
            "is a TorchScript program, not a state_dict",
            state="torch.jit.load(FILE).state_dict()",
        )
    if any(name.endswith("archive_format") for name in names):
        raise _RefusedError("is a program of torch.export, not a state_dict")
    if all(name.endswith(".npy") for name in names):
        raise _RefusedError("is a file of NumPy arrays, not of PyTorch")
    weights = [name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".safetensors"))]
    if weights:
        raise _RefusedError(f"is a zip archive that holds {weights[0]}", "Unpack it first.")


def _checked_legacy(data: bytes) -> Any:
    """The description of a file from before PyTorch 1.6: pickles, then raw bytes."""
    stream = io.BytesIO(data)
    for _ in range(3):  # the magic number, the protocol's version, the machine's word sizes
        _interpret(_next_pickle(stream))
    content, claims = _interpret(_next_pickle(stream))
    keys, none = _interpret(_next_pickle(stream))
    needed = sum(8 + count * _ITEM_BYTES[kind] for kind, count in claims.values())
    if none or not isinstance(keys, list) or {str(key) for key in keys} != set(claims):
        raise _RefusedError("is damaged: its list of tensors is not that of its contents")
    if len(keys) != len(claims) or needed > len(data) - stream.tell():
        raise _RefusedError("is cut short: its tensors are larger than the file")
    return content


def _next_pickle(stream: io.BytesIO) -> bytes:
    start = stream.tell()
    for _ in _instructions(stream, start):
        pass
    end = stream.tell()
    stream.seek(start)
    return stream.read(end - start)


def _instructions(stream: io.BytesIO, start: int) -> Iterator[tuple[str, Any]]:
    for opcode, argument, position in pickletools.genops(stream):
        if (position or start) - start > _PICKLE_LIMIT:
            raise _RefusedError("holds more than the names of a generator's tensors: it is refused")
        yield opcode.name, argument


# -- the pickle ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names; it is never looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    size: tuple[int, ...]


class _Built(dict[Any, Any]):
    """An OrderedDict that the pickle builds."""


def _interpret(program: bytes) -> tuple[Any, dict[str, tuple[str, int]]]:
    """Run a pickle on descriptions only.

    Returns its value and the storages that it uses: {key: (kind, number of items)}. Raises
    _RefusedError at the first instruction that a state_dict does not need.
    """
    if len(program) > _PICKLE_LIMIT:
        raise _RefusedError("holds more than the names of a generator's tensors: it is refused")
    machine = _Machine()
    try:
        for name, argument in _instructions(io.BytesIO(program), 0):
            if name == "STOP":
                break
            machine.step(name, argument)
    except _RefusedError as error:
        if b"pytorch-lightning_version" not in program:
            raise
        raise _RefusedError(
            f"is a checkpoint of PyTorch Lightning that {error}",
            state='torch.load(FILE, "cpu", weights_only=False)["state_dict"]',
        ) from error
    return machine.pop(), machine.claims


class _Machine:
    """The stack, marks and memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.claims: dict[str, tuple[str, int]] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def step(self, name: str, argument: Any) -> None:  # noqa: PLR0912 - one branch an instruction
        if name == "PROTO":
            if argument != 2:
                raise _RefusedError(f"is pickled by protocol {argument}, PyTorch's is 2: refused")
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"):
            self.stack.append(argument)
        elif name in ("BINUNICODE", "SHORT_BINSTRING", "NONE", "NEWTRUE", "NEWFALSE"):
            self.stack.append({"NEWTRUE": True, "NEWFALSE": False}.get(name, argument))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            self.stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            if name != "TUPLE":
                self.marks.append(len(self.stack) - int(name[-1]))
            self.stack.append(tuple(self.pop_mark()))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._fill(name)
        elif name == "GLOBAL":
            self.stack.append(_Name(_allowed(argument)))
        elif name == "BINPERSID":
            self.stack.append(self._storage(self.pop()))
        elif name == "REDUCE":
            arguments = self.pop()
            self.stack.append(_call(self.pop(), arguments))
        elif name == "BUILD":
            state = self.pop()  # the versions of the modules, which nothing here reads
            if not isinstance(self.stack[-1], _Built) or set(state) != {"_metadata"}:
                raise _RefusedError("holds Python objects, not only tensors: it is refused")
        else:
            raise _RefusedError(f"holds Python objects ({name}), not only tensors: it is refused")

    def _fill(self, name: str) -> None:
        if not name.endswith("S"):
            self.marks.append(len(self.stack) - (1 if name == "APPEND" else 2))
        items = self.pop_mark()
        target = self.stack[-1]
        if name.startswith("APPEND") and isinstance(target, list):
            target.extend(items)
        elif name.startswith("SETITEM") and isinstance(target, dict) and len(items) % 2 == 0:
            # Plain keys only: the hash of a tuple of tuples of … can take for ever.
            if not all(type(key) in (str, int) for key in items[::2]):
                raise _RefusedError("holds Python objects, not only tensors: it is refused")
            target.update(zip(items[::2], items[1::2], strict=True))
        else:
            raise _RefusedError("is damaged: its contents make no sense")

    def _storage(self, claim: Any) -> _Storage:
        """('storage', type, key, place, count), and in old files a view, which must be None."""
        well_formed = (
            isinstance(claim, tuple)
            and len(claim) in (5, 6)
            and claim[0] == "storage"
            and isinstance(claim[1], _Name)
            and isinstance(claim[2], str | int)
            and type(claim[4]) is int
            and claim[5:] in ((), (None,))
        )
        kind = claim[1].name.rpartition(" ")[2].removesuffix("Storage") if well_formed else ""
        if kind not in _ITEM_BYTES or claim[4] < 0:
            raise _RefusedError("holds numbers of a kind that no generator has: it is refused")
        storage = _Storage(str(claim[2]), kind, claim[4])
        if self.claims.setdefault(storage.key, (kind, storage.count)) != (kind, storage.count):
            raise _RefusedError("is damaged: it says two things of one tensor")
        return storage


def _allowed(argument: str) -> str:
    module, _, name = argument.partition(" ")
    storage = name.endswith("Storage") and name.removesuffix("Storage") in _ITEM_BYTES
    if argument in _CALLS or (storage and module in ("torch", "torch.cuda")):
        return argument
    if module.startswith(("models", "torch.nn", "networks")):
        raise _RefusedError(
            f"holds a whole Python object ({module}.{name}), which could only be read by running "
            "code from it: save the network's state_dict() instead"
        )
    raise _RefusedError(f"would run code ({module}.{name}): it is refused")


def _call(function: Any, arguments: Any) -> Any:
    called = function.name if isinstance(function, _Name) else ""
    if called not in _CALLS or not isinstance(arguments, tuple):
        raise _RefusedError("holds Python objects, not only tensors: it is refused")
    if called == "collections OrderedDict":
        # Python 2 hands over its items, as a list of pairs; Python 3 sets them one by one.
        pairs = arguments[0] if len(arguments) == 1 else []
        if len(arguments) > 1 or not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
            raise _RefusedError("is damaged: its contents make no sense")
        return _Built(pairs)
    if called == "torch._utils _rebuild_parameter":
        if not arguments or not isinstance(arguments[0], _Tensor):
            raise _RefusedError("is damaged: its contents make no sense")
        return arguments[0]
    if len(arguments) > 6:
        raise _RefusedError("holds tensors with more to them than numbers: it is refused")
    return _tensor(*arguments[:4])


def _is_pair(item: Any) -> bool:
    """[name, value], as Python 2 writes the items of an OrderedDict."""
    return isinstance(item, list) and len(item) == 2 and type(item[0]) in (str, int)


def _tensor(storage: Any = None, offset: Any = 0, size: Any = (), stride: Any = ()) -> _Tensor:
    """A tensor must lie within its storage, and be no larger than it."""
    whole = isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
    numbers = (offset, *size, *stride) if whole else ()
    if not whole or not all(type(n) is int and n >= 0 for n in numbers) or len(size) > 8:
        raise _RefusedError("is damaged: its contents make no sense")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (
        math.prod(size) > storage.count
        or offset > storage.count
        or (math.prod(size) and last >= storage.count)
    ):
        raise _RefusedError("says that a tensor is larger than its bytes: it is refused")
    return _Tensor(size)


def _tensor_paths(content: Any) -> dict[str, tuple[Any, ...]]:
    """{name: the keys that lead to it} of every tensor in dictionaries of dictionaries.

    Each is entered once: it may hold itself, or others again and again.
    """
    if not isinstance(content, dict) or not content:
        raise _RefusedError("is not a state_dict, but some other value saved by PyTorch")
    found: dict[str, tuple[Any, ...]] = {}
    entered: set[int] = set()

    def enter(value: dict[Any, Any], keys: tuple[Any, ...]) -> None:
        if id(value) in entered or len(keys) > 8:
            return
        entered.add(id(value))
        for key, inner in value.items():
            name = ".".join(map(str, (*keys, key)))
            if isinstance(inner, dict):
                enter(inner, (*keys, key))
            elif isinstance(inner, _Tensor):
                if name in found:
                    raise _RefusedError(f"is not a state_dict: {name[:100]} is there twice")
                found[name] = (*keys, key)

    enter(content, ())
    if not found:
        raise _RefusedError("is not a state_dict: it holds no tensors by name")
    return found

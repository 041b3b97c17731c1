"""A state_dict from a ``.pth`` file that is not trusted.

``torch.load(weights_only=True)`` executes no foreign code, but it believes the sizes in the file: a
kilobyte can ask for a terabyte. So the pickle is run by Python's own interpreter of pickles, with
no instruction but a state_dict's and no function but those below, which check every size.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import shlex
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan_cli.errors import WeightsError
from cyclegan_cli.styles.catalogue import DOWNLOAD_AGAIN, foreign

SIZE_LIMIT = 1 << 30  # bytes of a file; the paper's generator has 45 million
_PICKLE_LIMIT = 1 << 20  # bytes of the pickle in it; the paper's generator's has some 10 thousand
_TOO_LONG = "holds more than the names of a generator's tensors: it is refused"
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_DTYPES = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16},
    **{"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32},
}


class _RefusedError(ValueError):
    """The end of a sentence. ``state``: Python for ``FILE``'s state_dict, if it is trusted."""

    def __init__(self, message: str, hint: str | None = None, state: str = "") -> None:
        super().__init__(message)
        self.hint, self.state = hint, state


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file, on the CPU, by names such as ``state_dict.model.1.weight``.

    Raises WeightsError if it is damaged, hostile or not a state_dict; OSError.
    """
    with path.open("rb") as file:
        data = file.read(SIZE_LIMIT + 1)
    try:
        if len(data) > SIZE_LIMIT:
            raise _RefusedError(f"is larger than {SIZE_LIMIT >> 20} MiB")
        if data.startswith(b"PK\x03\x04"):
            return _named_tensors(_load_zip(data))
        if data.startswith(_LEGACY_MAGIC):
            return _named_tensors(_load_legacy(data))
        what, advice = foreign(data)
        raise _RefusedError(f"is not a PyTorch file{what and f', but {what}'}", advice)
    except _RefusedError as error:
        state = error.state.replace("FILE", json.dumps(str(path)))
        command = shlex.quote(f'import torch; torch.save({state}, "weights.pth")')
        hint = f"If you trust it: python -c {command}" if state else error.hint
        raise WeightsError(f"{path} {error}.", hint=hint) from error
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path} is cut short or damaged.", hint=DOWNLOAD_AGAIN) from error
    except Exception as error:  # foreign bytes make a pickle fail in many ways
        raise WeightsError(f"{path} is damaged: it does not load.") from error


def _load_zip(data: bytes) -> Any:
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
        if archive.getinfo(pickles[0]).file_size > _PICKLE_LIMIT:
            raise _RefusedError(_TOO_LONG)
        folder = pickles[0].removesuffix("data.pkl")
        order = folder + "byteorder"
        swapped = order in names and archive.read(order).decode() != sys.byteorder

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            record = archive.read(f"{folder}data/{key}")
            if count * dtype.itemsize != len(record):
                raise _RefusedError("is damaged: a tensor's bytes are not as many as it says")
            return _fill(torch.empty(count, dtype=dtype), record, swapped=swapped)

        return _Reader(archive.read(pickles[0]), 0, storage).load()


def _refuse_other_zips(names: list[str]) -> None:
    """Raise _RefusedError, naming it, for a zip file of another kind that is well known."""
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise _RefusedError(
            "is a TorchScript program, not a state_dict", state="torch.jit.load(FILE).state_dict()"
        )
    if any(name.endswith("archive_format") for name in names):
        raise _RefusedError("is a program of torch.export, not a state_dict")
    if all(name.endswith(".npy") for name in names):
        raise _RefusedError("is a file of NumPy arrays, not of PyTorch")
    for name in names:
        if name.endswith((".pth", ".pt", ".ckpt", ".safetensors")):
            raise _RefusedError(f"is a zip archive that holds {name}", "Unpack it first.")


def _load_legacy(data: bytes) -> Any:
    """The content of a file from before PyTorch 1.6: pickles, then the bytes of all storages."""
    left = len(data)

    def storage(_key: str, dtype: torch.dtype, count: int) -> Tensor:
        nonlocal left
        left -= 8 + count * dtype.itemsize
        if left < 0:
            raise _RefusedError("is cut short: its tensors are larger than the file")
        return torch.empty(count, dtype=dtype)

    loaded, place = [], 0
    for _ in range(5):  # a magic number, the version, sizes of words; the content; keys of storages
        reader = _Reader(data, place, storage)
        loaded.append((reader.load(), reader.storages))
        place += reader.program.tell()
    (content, storages), (keys, _) = loaded[3:]
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise _RefusedError("is damaged: its list of tensors is not that of its contents")
    for values in (storages[str(key)] for key in keys):
        place += 8  # the number of items
        record = data[place : place + values.nbytes]
        _fill(values, record, swapped=sys.byteorder != "little")
        place += len(record)
    return content


def _fill(values: Tensor, record: bytes, *, swapped: bool) -> Tensor:
    """``values`` with these bytes, which are ``swapped`` if they are of another byte order."""
    if len(record) != values.nbytes:
        raise _RefusedError("is cut short: its tensors are larger than the file")
    items = np.frombuffer(record, np.uint8).reshape(-1, values.itemsize)
    items = items[:, ::-1] if swapped else items
    values.view(torch.uint8).numpy()[:] = items.reshape(-1)
    return values


class _Instructions(dict[int, Callable[[Any], None]]):
    """What a pickle may do."""

    def __missing__(self, code: int) -> Callable[[Any], None]:
        name = next((op.name for op in pickletools.opcodes if op.code == chr(code)), "unknown")
        raise _RefusedError(f"holds Python objects ({name}), not only tensors: it is refused")


class _Reader(pickle._Unpickler):
    """Python's interpreter of pickles. ``storage(key, dtype, count)``: 1-D, called once each."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    _allowed = (
        *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
        *(pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
        *(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.MARK, pickle.TUPLE),
        *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.APPEND, pickle.APPENDS),
        *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.GLOBAL, pickle.BINPERSID, pickle.REDUCE, pickle.STOP),
    )
    dispatch = _Instructions({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _allowed})

    def __init__(
        self, data: bytes, start: int, storage: Callable[[str, torch.dtype, int], Tensor]
    ) -> None:
        self.program = io.BytesIO(data[start : start + _PICKLE_LIMIT])
        super().__init__(self.program, encoding="utf-8")
        self.storages: dict[str, Tensor] = {}
        self._storage = storage

    def load(self) -> Any:
        """Run it. Raises _RefusedError at the first instruction that a state_dict has not."""
        try:
            return super().load()
        except _RefusedError as error:
            if b"pytorch-lightning_version" not in self.program.getvalue():
                raise
            raise _RefusedError(
                f"is a checkpoint of PyTorch Lightning that {error}",
                state='torch.load(FILE, "cpu", weights_only=False)["state_dict"]',
            ) from error
        except Exception as error:
            if self.program.tell() < _PICKLE_LIMIT:
                raise
            raise _RefusedError(_TOO_LONG) from error

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global; it is never looked up."""
        called = f"{module}.{name}"
        if called in _CALLS:
            return _CALLS[called]
        if module in ("torch", "torch.cuda") and name.removesuffix("Storage") in _DTYPES:
            return _DTYPES[name.removesuffix("Storage")]
        if module.startswith(("models", "torch.nn", "networks")):
            raise _RefusedError(
                f"holds a whole Python object ({called}), which could only be read by running "
                "code from it: save the network's state_dict() instead"
            )
        raise _RefusedError(f"would run code ({called}): it is refused")

    def persistent_load(self, claim: Any) -> Tensor:
        """('storage', type, key, place, count), and in old files a view, which must be None."""
        well_formed = (
            isinstance(claim, tuple)
            and len(claim) in (5, 6)
            and isinstance(claim[1], torch.dtype)
            and isinstance(claim[2], str | int)
            and type(claim[4]) is int
            and claim[4] >= 0
            and claim[5:] in ((), (None,))
        )
        if not well_formed or claim[0] != "storage":
            raise _RefusedError("holds numbers of a kind that no generator has: it is refused")
        key, dtype, count = str(claim[2]), claim[1], claim[4]
        if key not in self.storages:
            self.storages[key] = self._storage(key, dtype, count)
        values = self.storages[key]
        if (values.dtype, len(values)) != (dtype, count):
            raise _RefusedError("is damaged: it says two things of one tensor")
        return values

    def _proto(self) -> None:
        if (protocol := self.read(1)[0]) != 2:
            raise _RefusedError(f"is pickled by protocol {protocol}, PyTorch's is 2: refused")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise _RefusedError("is damaged: its contents make no sense")
        self.stack[-1].update(_ordered_dict(list(zip(items[::2], items[1::2], strict=True))))

    def _build(self) -> None:
        state = self.stack.pop()  # the versions of the modules, which nothing here reads
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            raise _RefusedError("holds Python objects, not only tensors: it is refused")

    dispatch |= {
        **{pickle.PROTO[0]: _proto, pickle.BUILD[0]: _build},
        **{pickle.SETITEM[0]: _set_item, pickle.SETITEMS[0]: _set_items},
    }


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """Python 2 hands over its items, as a list of pairs; Python 3 sets them one by one."""
    # Plain keys only: the hash of a tuple of tuples of … can take for ever.
    if not all(len(pair) == 2 and type(pair[0]) in (str, int) for pair in pairs):
        raise _RefusedError("holds Python objects, not only tensors: it is refused")
    return dict(pairs)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _gradient: Any = None, _hooks: Any = None
) -> Tensor:
    """A tensor must lie within its storage, and be no larger than it."""
    whole = isinstance(storage, Tensor) and isinstance(size, tuple) and isinstance(stride, tuple)
    numbers = (offset, *size, *stride) if whole else ()
    if not whole or not all(type(n) is int and n >= 0 for n in numbers) or len(size) > 8:
        raise _RefusedError("is damaged: its contents make no sense")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = len(storage)
    if math.prod(size) > count or offset > count or (math.prod(size) and last >= count):
        raise _RefusedError("says that a tensor is larger than its bytes: it is refused")
    values: Tensor = storage.as_strided(size, stride, offset)
    return values


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "collections.OrderedDict": _ordered_dict,
}


def _named_tensors(content: Any) -> dict[str, Tensor]:
    """Every tensor in nested dictionaries, by its keys; one that holds itself is entered once."""
    if not isinstance(content, dict) or not content:
        raise _RefusedError("is not a state_dict, but some other value saved by PyTorch")
    found: dict[str, Tensor] = {}
    entered: set[int] = set()

    def enter(value: dict[Any, Any], keys: tuple[Any, ...]) -> None:
        if id(value) in entered or len(keys) > 8:
            return
        entered.add(id(value))
        for key, inner in value.items():
            name = ".".join(map(str, (*keys, key)))
            if isinstance(inner, dict):
                enter(inner, (*keys, key))
            elif isinstance(inner, Tensor):
                if name in found:
                    raise _RefusedError(f"is not a state_dict: {name[:100]} is there twice")
                found[name] = inner

    enter(content, ())
    if not found:
        raise _RefusedError("is not a state_dict: it holds no tensors by name")
    return found

"""The tensors of a TorchScript archive, read as data: no code of the archive is run, and no file of it is written.

Such an archive is a zip. Its `data.pkl` is a pickle of the module: per submodule a dict of attributes, and tensors as
views of storages, which lie beside it as plain bytes. The pickle may name the classes and functions below, and nothing
else; the code in the archive, its constants and its traced inputs are not looked at. OpenAI publishes such archives.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

OPCODES = {  # what a TorchScript pickle is made of; each makes no more than its own bytes say
    "PROTO", "STOP", "MARK", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT",
    "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
}  # fmt: skip
STORAGES = {
    "BFloat16Storage": torch.bfloat16, "BoolStorage": torch.bool, "ByteStorage": torch.uint8,
    "CharStorage": torch.int8, "DoubleStorage": torch.float64, "FloatStorage": torch.float32,
    "HalfStorage": torch.float16, "IntStorage": torch.int32, "LongStorage": torch.int64, "ShortStorage": torch.int16,
}  # fmt: skip
ATTRIBUTES = 1_000_000  # of all modules together, and
DEPTH = 100  # of one module in another: a pickle of few bytes may say far more, by references


def is_torchscript(file: Path) -> bool:
    """Whether a file is a zip with code, or with the constants of code: torch.save writes neither."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The parameters and buffers of the module in an archive, by dotted name.

    ValueError or pickle.UnpicklingError if the archive holds or declares anything else than such a module does.
    """
    with zipfile.ZipFile(file) as archive:
        places = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(places) != 1:
            raise ValueError(f"it has {len(places)} data.pkl")
        top = places[0].partition("/")[0]
        if f"{top}/byteorder" in archive.namelist() and _stored(archive, f"{top}/byteorder") != b"little":
            raise ValueError("its storages are not little-endian")
        data = _stored(archive, places[0])
        _only_known_opcodes(data)
        module = _Reader(data, lambda key: _stored(archive, f"{top}/data/{key}")).load()
    if not isinstance(module, _Module):
        raise ValueError("its data.pkl is not of a module")
    return dict(_tensors(module))


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry that lies in the zip as it is, as torch writes them: what it declares is what it has."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{name} is compressed")
    data = archive.read(entry)
    if len(data) != entry.file_size:
        raise ValueError(f"{name} is shorter than it says")
    return data


def _only_known_opcodes(data: bytes) -> None:
    for opcode, value, _ in pickletools.genops(data):
        if opcode.name not in OPCODES:
            raise pickle.UnpicklingError(f"its pickle has {opcode.name}, which is none of TorchScript")
        if "PUT" in opcode.name and (value or 0) > len(data):  # the place for it would be made at once
            raise pickle.UnpicklingError(f"its pickle counts {value} objects in {len(data)} bytes")


class _Module:
    """A module of an archive: its attributes, whatever class the archive says it is of."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("it has an object with a state of its own")
        self.attributes = state


class _Sealed:
    """A function that a pickle may call, or a storage or tensor of it: nothing whose state a pickle could set."""

    __slots__ = ("held",)

    def __init__(self, held: Any):
        self.held = held

    def __call__(self, *values: Any) -> Any:
        return self.held(*values)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets the state of what has none")


def _same(value: Any, *_: Any) -> Any:
    return value


def _tensor(storage: _Sealed, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Sealed:
    """A view of a storage, no larger than the storage; torch refuses one that leaves it."""
    if math.prod(size) > len(storage.held) or min((*size, *stride, offset, 0)) < 0:
        raise pickle.UnpicklingError(f"it declares a tensor of {size}, more than its storage has")
    return _Sealed(torch.as_strided(storage.held, size, stride, offset))


class _Reader(pickle.Unpickler):
    """Reads the pickle of a module; `read` gives the bytes of a storage by its key."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): _Sealed(_tensor),
        ("torch._utils", "_rebuild_parameter"): _Sealed(_same),
        ("torch.jit._pickle", "restore_type_tag"): _Sealed(_same),
        **{("torch.jit._pickle", f"build_{kind}list"): _Sealed(_same) for kind in ("int", "double", "bool", "tensor")},
        ("collections", "OrderedDict"): _Sealed(dict),
        ("torch", "device"): _Sealed(_same),
        **{("torch", name): dtype for name, dtype in STORAGES.items()},
    }

    def __init__(self, data: bytes, read: Callable[[str], bytes]):
        super().__init__(io.BytesIO(data))
        self.read, self.storages = read, dict[str, _Sealed]()

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name; every class of the archive itself is a module."""
        if module.partition(".")[0] == "__torch__":
            return _Module
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")
        return self.known[module, name]

    def persistent_load(self, told: Any) -> _Sealed:
        """A storage, as a tensor of one axis."""
        kind, dtype, key, _, count = told
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"it keeps a {kind} beside the pickle, not a storage")
        if key not in self.storages:
            data = bytearray(self.read(key))
            if len(data) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} has {len(data)} bytes, and declares {count} numbers")
            self.storages[key] = _Sealed(torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype))
        return self.storages[key]


def _tensors(module: _Module) -> Iterator[tuple[str, Tensor]]:
    waiting: list[tuple[tuple[str, ...], _Module]] = [((), module)]
    seen = 0
    while waiting:
        above, one = waiting.pop()
        seen += 1 + len(one.attributes)
        if seen > ATTRIBUTES or len(above) > DEPTH:
            raise ValueError("it has more modules than a model has")
        for name, value in one.attributes.items():
            if isinstance(value, _Sealed) and isinstance(value.held, Tensor):
                yield ".".join((*above, name)), value.held
            elif isinstance(value, _Module):
                waiting.append(((*above, name), value))

"""Items and stores on disk: a cache of items outside DVC, and the stores of HDF5 shards that stages leave.

An item is what one stage computed for one clip: arrays and a few fields, or a reason why there are none. The
cache keeps items by a key of everything that decides their value, so a stage killed halfway goes on where it
was. `pipeline.shards` assembles stores from it; `Store` reads them.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from pipeline.errors import RETRIED, AvsetError, ClipError, MissingArtifact

SCHEMA = 2
LIBRARIES = ("av", "numpy", "open_clip_torch", "pillow", "torch", "torchaudio")  # whose versions an item tells
OPEN = 32  # shards that a store keeps open, in each process; HDF5 keeps up to 7 MB for each
KNOWN = 128  # datasets of such a shard that need not be looked up again
PIECE = 65536  # rows that are Python objects at once


@cache
def versions() -> str:
    """The versions of the libraries that compute items: "av 18.1.0, numpy 2.4.6, ..."."""
    return ", ".join(f"{name} {version(name)}" for name in LIBRARIES)


@dataclass(frozen=True)
class Item:
    """What a stage computed for one clip; with a `reason` (a key of errors.REASONS) it failed.

    `made` tells the `versions` that made it, once it is in the cache; it is no part of its content.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    made: str = ""

    @classmethod
    def failed(cls, error: ClipError) -> "Item":
        """The item of a clip that raised `error`."""
        return cls(reason=error.reason, detail=error.detail)

    def dump(self) -> bytes:
        """The content of the item as bytes, the same for the same content."""
        header = json.dumps([self.fields, self.reason, self.detail], sort_keys=True)
        arrays = {k: np.ascontiguousarray(v) for k, v in sorted(self.arrays.items())}
        return save_tensors(arrays, metadata={"item": header})

    @classmethod
    def parse(cls, payload: bytes, made: str = "") -> "Item":
        """The inverse of `dump`."""
        size = int.from_bytes(payload[:8], "little")
        fields, reason, detail = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["item"])
        return cls(load_tensors(payload), fields, reason, detail, made)


class ItemCache:
    """Items by key, in the folder $AVSET_CACHE (default: the user's cache). Any number of writers, no locks."""

    def __init__(self, root: Path | None = None):
        named = os.environ.get("AVSET_CACHE")
        self.root = root or Path(named or platformdirs.user_cache_dir("avset"))

    def path(self, key: str) -> Path:
        """Where the item of `key` lies, or would."""
        return self.root / "items" / key[:2] / key[2:]

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def put(self, key: str, item: Item) -> None:
        """Keep an item, unless its failure is one to be tried again."""
        if item.reason in RETRIED:
            return
        made = (item.made or versions()).encode()
        data = item.dump() + made + len(made).to_bytes(2, "big")
        write_atomic(self.path(key), hashlib.sha256(data).digest() + data)

    def get(self, key: str) -> tuple[Item, str] | None:
        """The item and the sha256 of its content; None if it is not there, or damaged (then it is removed)."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise AvsetError(f"cannot read {path}: {e.strerror}; remove it, or have its owner make it readable") from e
        end = max(32, len(data) - 2 - int.from_bytes(data[-2:], "big"))
        whole = hashlib.sha256(data[32:end])
        content = whole.hexdigest()
        whole.update(data[end:])
        with suppress(ValueError, KeyError, SafetensorError):
            if whole.digest() == data[:32]:
                return Item.parse(data[32:end], data[end:-2].decode()), content
        with writing(path):
            path.unlink(missing_ok=True)
        return None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; what a group may do in the one that exists, it may do in the new ones."""
    if not folder.exists():
        make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
            share(folder)


def share(path: Path) -> None:
    """Give a new file or folder the group's rights to the folder that it lies in: caches are shared by teams."""
    above, own = path.parent.stat().st_mode, path.stat().st_mode
    rights = above & (stat.S_IRWXG | stat.S_ISGID if stat.S_ISDIR(own) else stat.S_IRGRP | stat.S_IWGRP)
    if own | rights != own:
        path.chmod(own | rights)


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # the fault of no clip


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """AvsetError where a file cannot be written, whatever the library says."""
    try:
        yield
    except (OSError, RuntimeError) as e:
        why = getattr(e, "strerror", None) or " ".join(str(e).split())
        raise AvsetError(f"cannot write {path}: {why}; free space, or point AVSET_CACHE elsewhere") from e


class _Sink:
    """A new file for HDF5 to write to. It never hears that it cannot: it would crash. `error` is the first one."""

    def __init__(self, file: Any):
        self.file = file
        self.error: OSError | None = None
        self.read, self.readinto, self.seek, self.tell, self.flush = (
            file.read, file.readinto, file.seek, file.tell, file.flush
        )  # fmt: skip

    def write(self, data: Any) -> int:
        """All of it, or as if."""
        left = memoryview(data).cast("B")
        while left and not self.error:
            try:
                left = left[self.file.write(left) :]
            except OSError as e:
                self.error = e
        return len(data)

    def truncate(self, size: int) -> int:
        """To a size, or as if."""
        try:
            return self.file.truncate(size)
        except OSError as e:
            self.error = self.error or e
            return size


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file, on the disk when the block ends; AvsetError if it cannot be written."""
    with writing(path):
        raw = path.open("w+b", buffering=0)
    with raw:
        sink = _Sink(raw)
        with h5py.File(sink, "w") as file:
            yield file
        with writing(path):
            if sink.error:
                raise sink.error
            os.fsync(raw.fileno())


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put a folder in the place of another one, which is there whole until it is gone."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")  # no process id: machines may share the folder
    with writing(path):
        try:
            make_folder(path.parent)
            with temporary.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            share(temporary)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, no time stamps, a newline at the end."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    """Rows as Parquet; give the schema where there may be no row to take it from."""
    with writing(path):
        make_folder(path.parent)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file; MissingArtifact names the command that makes it."""
    require(path)
    return pq.read_table(path).to_pylist()


def read_columns(path: Path, *names: str) -> Iterator[list[list[Any]]]:
    """Some columns of a Parquet file, piece by piece: an index may have millions of rows."""
    with pq.ParquetFile(require(path)) as file:
        for piece in file.iter_batches(columns=list(names)):
            yield [piece[name].to_pylist() for name in names]


def require(path: Path) -> Path:
    """`path` if it exists, else a MissingArtifact that names the stage to run."""
    if not path.exists():
        stage = {"models": "train", "scores": "evaluate"}
        room = path.parts[2] if path.parts[0] == "data" and len(path.parts) > 2 else ""
        how = f"dvc repro {stage.get(room, room)}".strip()
        raise MissingArtifact(f"{path} is not there; make it with `{how}`, or `dvc pull`")
    return path


class Rows(Mapping[str, dict[str, Any]]):
    """The rows of an index by clip, sorted; kept as columns, since a row as a dict takes ten times the memory."""

    def __init__(self, table: pa.Table):
        self.table = table.combine_chunks()
        chunks = self.table["clip_id"].chunks
        self.names = chunks[0] if chunks else pa.array([], pa.string())

    def __getitem__(self, clip: str) -> dict[str, Any]:
        return self.table.slice(self._place(clip), 1).to_pylist()[0]

    def value(self, clip: str, name: str) -> Any:
        """One column of one clip."""
        return self.table[name][self._place(clip)].as_py()

    def _place(self, clip: str) -> int:
        i = bisect_left(range(len(self.names)), clip, key=lambda i: self.names[i].as_py())
        if i == len(self.names) or self.names[i].as_py() != clip:
            raise KeyError(clip)
        return i

    def __iter__(self) -> Iterator[str]:
        return iter(self.names.to_pylist())

    def __len__(self) -> int:
        return len(self.names)

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Some columns, row by row."""
        for piece in self.table.select(names).to_batches(PIECE):
            yield from zip(*(column.to_pylist() for column in piece.columns), strict=True)


class Store:
    """A store, read-only. Handles open lazily and once per process, so it may cross into data workers."""

    def __init__(self, folder: Path):
        require(folder / "store.json")
        self.folder = folder
        text = (folder / "store.json").read_bytes() + (folder / "index.parquet").read_bytes()
        self.digest = hashlib.sha256(text).hexdigest()
        self.info = json.loads((folder / "store.json").read_text())
        self.rows = Rows(pq.read_table(folder / "index.parquet", read_dictionary=["status", "reason", "made"]))
        self._files: OrderedDict[tuple[int, str], tuple[h5py.File, dict[str, h5py.Dataset]]] = OrderedDict()

    @property
    def clips(self) -> list[str]:
        """Names of the clips that have data, sorted."""
        return [clip for clip, status in self.rows.columns("clip_id", "status") if status == "ok"]

    def dataset(self, clip: str, name: str) -> h5py.Dataset:
        """The HDF5 dataset of one array of a clip. Read it at once: few shards stay open."""
        at = (os.getpid(), self.rows.value(clip, "shard"))
        if at not in self._files:
            self._files[at] = h5py.File(self.folder / "shards" / f"{at[1]}.h5", "r"), {}
            if len(self._files) > OPEN:
                self._files.popitem(last=False)[1][0].close()
        self._files.move_to_end(at)
        file, known = self._files[at]
        if (path := f"{clip}/{name}") not in known:  # looking it up takes as long as reading a crop
            if len(known) == KNOWN:
                known.clear()
            known[path] = file[path]
        return known[path]

    def read(self, clip: str, name: str, part: slice = slice(None)) -> np.ndarray:
        """One array of a clip, or a slice of its first axis."""
        return self.dataset(clip, name)[part]

    def stack(self, clips: Sequence[str], name: str) -> np.ndarray:
        """One array of many clips, of one shape, stacked; each shard is opened once."""
        at = {clip: i for i, clip in enumerate(clips)}
        order = [(shard, clip) for clip, shard in self.rows.columns("clip_id", "shard") if clip in at]
        found: np.ndarray | None = None
        for _, clip in sorted(order):
            one = self.read(clip, name)
            found = np.empty((len(clips), *one.shape), one.dtype) if found is None else found
            found[at[clip]] = one
        return np.empty(0) if found is None else found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

"""Stores on disk: a cache of items outside DVC, and the HDF5 shards that are assembled from it.

An item is what one stage computed for one clip: arrays and a few fields, or a reason why there are none. The
cache keeps items by a key of everything that decides their value, so a stage killed halfway goes on where it
was, and its store is assembled in one order whatever the history: same content, same bytes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from pipeline.errors import RETRIED, AvsetError, ClipError, MissingArtifact

SCHEMA = 1
SHARDS = 16  # HDF5 files of a store; a clip's shard is a hash of its name
VERSIONS = ("av", "h5py", "numpy", "open_clip_torch", "torch", "torchaudio")


@dataclass(frozen=True)
class Item:
    """What a stage computed for one clip; with a `reason` (a key of errors.REASONS) it failed."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""

    @classmethod
    def failed(cls, error: ClipError) -> "Item":
        """The item of a clip that raised `error`."""
        return cls(reason=error.reason, detail=error.detail)

    def dump(self) -> bytes:
        """The item as bytes, the same for the same content."""
        header = json.dumps([self.fields, self.reason, self.detail], sort_keys=True)
        arrays = {k: np.ascontiguousarray(v) for k, v in sorted(self.arrays.items())}
        return save_tensors(arrays, metadata={"item": header})

    @classmethod
    def parse(cls, payload: bytes) -> "Item":
        """The inverse of `dump`."""
        size = int.from_bytes(payload[:8], "little")
        fields, reason, detail = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["item"])
        return cls(load_tensors(payload), fields, reason, detail)


class ItemCache:
    """Items by key, in the folder $AVSET_CACHE (default: the user's cache). Any number of writers, no locks."""

    def __init__(self, root: Path | None = None):
        named = os.environ.get("AVSET_CACHE")
        self.root = root or Path(named or platformdirs.user_cache_dir("avset"))

    def path(self, key: str) -> Path:
        """Where the item of `key` lies, or would."""
        return self.root / "items" / key[:2] / key[2:]

    def __contains__(self, key: str) -> bool:
        return self.path(key).exists()

    def put(self, key: str, item: Item) -> None:
        """Keep an item, unless its failure is one to be tried again."""
        if item.reason in RETRIED:
            return
        payload = item.dump()
        write_atomic(self.path(key), hashlib.sha256(payload).digest() + payload)

    def get(self, key: str) -> tuple[Item, str] | None:
        """The item and the sha256 of its content; None if it is not there, or damaged (then it is removed)."""
        try:
            data = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        content = hashlib.sha256(data[32:])
        if content.digest() != data[:32]:
            self.path(key).unlink(missing_ok=True)
            return None
        return Item.parse(data[32:]), content.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError as e:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise AvsetError(f"cannot write {path}: {e.strerror}; free space, or point AVSET_CACHE elsewhere") from e


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, no time stamps, a newline at the end."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    """Rows as Parquet; give the schema where there may be no row to take it from."""
    path.parent.mkdir(parents=True, exist_ok=True)
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


def shard_of(clip_id: str) -> int:
    """The shard of a clip: a stable hash of its name."""
    return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:4], "big") % SHARDS


def assemble(
    folder: Path,
    stage: str,
    clips: Iterable[str],
    item_of: Callable[[str], tuple[Item, str]],
    identity: dict[str, Any],
    dimensions: dict[str, tuple[str, ...]],
) -> list[dict[str, Any]]:
    """Write the store of a stage from its items; returns the index rows.

    `folder` gets shards/NN.h5 (one group a clip, one contiguous dataset an array, axes labelled by
    `dimensions`), index.parquet (every clip, with status, reason, digest of its content and its fields) and
    store.json (identity, written last). Bytes depend on the content only.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "shards").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    buckets: dict[int, list[str]] = {}
    for clip in sorted(clips):
        buckets.setdefault(shard_of(clip), []).append(clip)
    for shard, members in sorted(buckets.items()):
        rows += _write_shard(fresh / "shards" / f"{shard:02d}.h5", shard, members, item_of, dimensions)
    rows.sort(key=lambda row: row["clip_id"])
    columns = dict.fromkeys(k for row in rows for k in row)
    write_table(fresh / "index.parquet", [{k: row.get(k) for k in columns} for row in rows])
    versions = {name: version(name) for name in VERSIONS}
    write_json(fresh / "store.json", {"schema": SCHEMA, "stage": stage, "versions": versions, **identity})
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)
    return rows


def _write_shard(
    path: Path, shard: int, clips: list[str], item_of: Callable, dimensions: dict[str, tuple[str, ...]]
) -> list[dict[str, Any]]:
    rows = []
    with h5py.File(path, "w") as file:
        for clip in clips:
            item, digest = item_of(clip)
            status = "failed" if item.reason else "ok"
            row = {"clip_id": clip, "status": status, "reason": item.reason, "detail": item.detail}
            rows.append({**row, "shard": shard, "digest": digest, **item.fields})
            for name, array in sorted(item.arrays.items()):
                dataset = file.create_dataset(f"{clip}/{name}", data=array)
                for axis, letter in zip(dataset.dims, dimensions[name], strict=True):
                    axis.label = letter
    return rows


class Store:
    """A store, read-only. Handles open lazily and once per process, so it may cross into data workers."""

    def __init__(self, folder: Path):
        require(folder / "store.json")
        self.folder = folder
        text = (folder / "store.json").read_bytes() + (folder / "index.parquet").read_bytes()
        self.digest = hashlib.sha256(text).hexdigest()
        self.info = json.loads((folder / "store.json").read_text())
        self.rows = {row["clip_id"]: row for row in read_table(folder / "index.parquet")}
        self._files: dict[tuple[int, int], h5py.File] = {}

    @property
    def clips(self) -> list[str]:
        """Names of the clips that have data, sorted."""
        return [clip for clip, row in self.rows.items() if row["status"] == "ok"]

    def dataset(self, clip: str, name: str) -> h5py.Dataset:
        """The HDF5 dataset of one array of a clip."""
        at = (os.getpid(), self.rows[clip]["shard"])
        if at not in self._files:
            self._files[at] = h5py.File(self.folder / "shards" / f"{at[1]:02d}.h5", "r")
        return self._files[at][f"{clip}/{name}"]

    def read(self, clip: str, name: str, part: slice = slice(None)) -> np.ndarray:
        """One array of a clip, or a slice of its first axis."""
        return self.dataset(clip, name)[part]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

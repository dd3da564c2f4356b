"""The HDF5 shards of a store: which clip lies in which, and how a store is assembled from items.

A finished shard stays in the item cache under the keys of its clips, and a store has it by a hard link. So a run
that changes nothing looks at no item, one that adds k clips writes the shards of those alone, and the items of a
shard that is kept may go. Content decides bytes, history doesn't: same clips, same items, same store.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avset.errors import RETRIED, AvsetError
from avset.params import digest
from avset.storage.artifacts import Dimensions, Record
from avset.storage.cache import ItemCache, cache_folder
from avset.storage.checksums import promised, sha256_of
from avset.storage.files import (
    count_as_used,
    link,
    make_folder,
    new_folder,
    replace_folder,
    share,
    write_atomic,
    writing,
)
from avset.storage.hdf5 import UNREADABLE, new_hdf5, open_hdf5
from avset.storage.items import SCHEMA, Item
from avset.storage.tables import whole_table

BITS = 4  # of the hash of a clip's name, that name its shard in a small store: 16 shards
CAPACITY = 128  # clips of a shard; a fuller one splits in two, by the next bit: k clips more write k times so many
LAYOUT = 2  # of kept shards: those that lie in the item cache under another number are written anew, from their items
SHA256 = b"sha256"  # of a kept shard, in the metadata of its rows
INDEX_COLUMNS = ("clip_id", "status", "reason", "detail", "shard", "digest", "input", "made")


class Part(NamedTuple):
    """What a clip's place in a store is filled with: the `key` of its item ("": it failed upstream), the digest of
    the `input` that the item is made of, and the clip `of` which it is the item where several share one."""

    key: str = ""
    input: str = ""
    of: str | None = None


@dataclass
class Shard:
    """A shard of a store to be: its name, its clips, and where the cache keeps it, with its rows if it does."""

    name: str
    clips: list[str]
    known: Mapping[str, Part]  # of all clips; none is looked up before it is needed
    path: Path | None = None
    rows: pa.Table | None = None

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The parts of its clips."""
        return {clip: self.known.get(clip, Part()) for clip in self.clips}

    @property
    def sha256(self) -> str:
        """Of the shard that the cache keeps, as it was when it was written; empty if that is not known."""
        told = (self.rows.schema.metadata or {}) if self.rows is not None else {}
        return str(told.get(SHA256, b"").decode())


def hash_of(clip: str) -> int:
    """The hash of a clip's name, 64 bits."""
    return int.from_bytes(hashlib.sha256(clip.encode()).digest()[:8], "big")


def bits_of(clip: str) -> str:
    """The hash of a clip's name: a shard is named by the bits with which those of its clips begin."""
    return f"{hash_of(clip):064b}"


def spread(clips: Iterable[str], parts: Mapping[str, Part] | None = None) -> list[Shard]:
    """The shards of some clips, and their clips, both sorted by name."""
    names = sorted(clips)
    hashes = np.array([hash_of(clip) for clip in names], np.uint64)
    order = np.argsort(hashes)
    ascending, found, waiting = hashes[order], list[Shard](), [("", 0, len(names))]
    while waiting:
        name, start, stop = waiting.pop()
        if len(name) >= BITS and stop - start <= CAPACITY:
            if start < stop:
                found.append(Shard(name, [names[i] for i in np.sort(order[start:stop])], parts or {}))
            continue
        first = np.uint64(int(f"{name}1".ljust(64, "0"), 2))
        middle = start + int(np.searchsorted(ascending[start:stop], first))
        waiting += [(name + "1", middle, stop), (name + "0", start, middle)]
    return found


class Kept:
    """The shards of a stage in the item cache: <bits>/<key>.h5, and <key>.rows, written last."""

    def __init__(self, stage: str, dimensions: Dimensions):
        self.told, self.folder = [SCHEMA, LAYOUT, stage, dimensions], cache_folder("shards") / stage
        self._forgotten = ItemCache().forgotten()
        self._open: tuple[Path, dict[str, dict[str, Any]]] = (Path(), {})  # rows of the shard read last, by key

    def look(self, shards: list[Shard]) -> None:
        """Find out which of these shards are kept."""
        for shard in (shard for shard in shards if shard.rows is None):
            shard.path = self._place(shard.name, shard.parts)
            if self._forgotten.isdisjoint(part.key for part in shard.parts.values()):
                shard.rows = self.rows(shard.path)
            if shard.rows is not None:
                del shard.parts  # so that a plan of many clips takes little memory

    def _place(self, name: str, parts: dict[str, Part]) -> Path:
        return self.folder / name / f"{digest([self.told, name, list(parts.items())])}.h5"

    def inherit(self, store: Path, key_of: Callable[[str, str], str]) -> None:
        """Take over the shards of a store that lies there, as if they had been made here: no item is copied.

        `key_of` makes a key of a clip and the digest of its input. A shard with a failure that is to be tried again is
        never kept: its items are taken one by one. A shard that is damaged is not taken over.
        """
        index = whole_table(store / "index.parquet")
        known = promised(store)
        index = index.sort_by([("shard", "ascending"), ("clip_id", "ascending")])
        names, starts = np.unique(index["shard"].to_numpy(), return_index=True)
        for name, start, stop in zip(names, starts, [*starts[1:], len(index)], strict=True):
            path, rows = (store / "shards" / f"{name}.h5").resolve(), index.slice(start, stop - start)
            told = rows.to_pylist()
            parts = {row["clip_id"]: _part(row, key_of) for row in told}
            if not path.exists() or self.rows(place := self._place(name, parts)) is not None:
                continue
            if (sha256 := sha256_of(path)) != known.get(f"shards/{name}.h5", sha256):
                continue
            keys = [part.key for part in parts.values()]
            if RETRIED.intersection(row["reason"] for row in told if row["input"]):
                _take_items(told, keys, path)
                continue
            link(path, place)
            self.keep(place, rows.append_column("key", pa.array(keys, pa.string())), sha256)

    def rows(self, path: Path) -> pa.Table | None:
        """The rows of a kept shard; None if it is not there, or no longer what was written."""
        try:
            data = path.with_suffix(".rows").read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                return None
            table = pq.read_table(pa.BufferReader(data[32:]))
            count_as_used(path)
            return table if table.schema.metadata[b"stamp"].decode() == _stamp(path) else None
        except FileNotFoundError:
            return None

    @staticmethod
    def keep(path: Path, rows: pa.Table, sha256: str) -> None:
        """Close a shard that lies at `path`, by its rows and its checksum."""
        buffer = pa.BufferOutputStream()
        told = {"stamp": _stamp(path), SHA256: sha256}
        pq.write_table(rows.replace_schema_metadata(told), buffer, compression="zstd")
        data = buffer.getvalue().to_pybytes()
        write_atomic(path.with_suffix(".rows"), hashlib.sha256(data).digest() + data)

    def find(self, wanted: dict[str, str]) -> dict[str, Path]:
        """The kept shard that has an item, by key, for those that are in one; `wanted`: key -> the clip it is of."""
        folders = {folder.name for folder in (self.folder.iterdir() if self.folder.exists() else ())}
        lengths, places = {len(name) for name in folders}, defaultdict(set)
        for key, clip in wanted.items() if folders else ():
            if key in self._forgotten:
                continue
            bits = bits_of(clip)
            for length in lengths:
                places[bits[:length]].add(key)
        found: dict[str, Path] = {}
        for name in sorted(folders & places.keys()):
            for path in sorted((self.folder / name).glob("*.h5")):
                if (table := self.rows(path)) is not None:
                    found |= dict.fromkeys(places[name].intersection(table["key"].to_pylist()), path)
        return found

    def item(self, key: str, path: Path) -> tuple[Item, str] | None:
        """An item from a kept shard, and the sha256 of its content; None if it is not as it was written."""
        row = self._row(key, path)
        if row is None:
            return None
        with suppress(*UNREADABLE), open_hdf5(path) as file:
            item = item_of(row, file)
            return (item, row["digest"]) if item else None
        return None

    def reason(self, key: str, path: Path) -> str:
        """Why the clip of an item in a kept shard failed; "" if it did not."""
        row = self._row(key, path)
        return row["reason"] if row else ""

    def _row(self, key: str, path: Path) -> Any:
        if path != self._open[0]:
            table = self.rows(path)
            rows = {} if table is None else {row.pop("key"): row for row in table.to_pylist()}
            self._open = (path, rows)
        return self._open[1].get(key)


def _part(row: dict[str, Any], key_of: Callable[[str, str], str]) -> Part:
    """The part that a row of an index tells of."""
    of = row.get("of")
    return Part(key_of(of or row["clip_id"], row["input"]), row["input"], of) if row["input"] else Part()


def _take_items(rows: list[dict[str, Any]], keys: list[str], path: Path) -> None:
    """Put the items of a shard into the item cache."""
    cache = ItemCache()
    forgotten = cache.forgotten()
    with open_hdf5(path) as file:
        for row, key in zip(rows, keys, strict=True):
            if key and key not in cache and key not in forgotten and (item := item_of(row, file)):
                cache.put(key, item, row["input"])


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def item_of(row: dict[str, Any], file: h5py.File) -> Item | None:
    """The item of a clip, put together again from its row of the index and its shard; None if it is not that item.

    A null in a row is a field that the item has not, or null in it.
    """
    fields = {k: v for k, v in row.items() if k not in (*INDEX_COLUMNS, "of")}
    clip, arrays = row["clip_id"], {}
    if row["status"] == "ok":
        arrays = {name: np.asarray(array[()]) for name, array in file[clip].items()}
    for told in ({k: v for k, v in fields.items() if v is not None}, fields):
        item = Item(arrays, told, row["reason"], row["detail"], row["made"])
        if hashlib.sha256(item.dump()).hexdigest() == row["digest"]:
            return item
    return None


def assemble(
    folder: Path,
    record: Record,
    shards: list[Shard],
    item_of: Callable[[str], tuple[Item, str]],
    dimensions: Dimensions,
) -> pa.Table:
    """Write the store of a stage from its items and their digests; returns the index.

    `folder` gets shards/<bits>.h5 (one group a clip, one contiguous dataset an array, axes labelled by
    `dimensions`), index.parquet (every clip, with status, reason, digest of its content and its fields) and
    the `record`, written last. Bytes depend on the content only. Shards that have a path are kept there,
    or taken from there; `item_of` is asked for the clips of the others alone.
    """
    fresh, tables = folder.with_name(f".{folder.name}.new"), []
    with writing(fresh):
        new_folder(fresh)
        make_folder(fresh / "shards")
    for shard in shards:
        target, table = fresh / "shards" / f"{shard.name}.h5", shard.rows
        if shard.path and table is not None:
            link(shard.path, target, lasting=False)
        else:
            rows = write_shard(target, shard, item_of, dimensions)
            table = _table(rows)
            if shard.path and not RETRIED.intersection(row["reason"] for row in rows if row["key"]):
                with suppress(AvsetError):  # a cache that we may only read, or a full one: then it is not kept
                    link(target, shard.path)
                    share(shard.path)
                    Kept.keep(shard.path, table, sha256_of(target))
        tables.append(table.drop_columns("key"))
    index = _index(tables)
    with writing(fresh):
        pq.write_table(index, fresh / "index.parquet", compression="zstd")
    known = {f"shards/{shard.name}.h5": shard.sha256 for shard in shards if shard.sha256}
    replace(record, libraries=versions_of(index)).write(fresh, known)
    replace_folder(fresh, folder)
    return index


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """A column for every name that some row has (by itself, pyarrow takes the names of the first row alone)."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _index(tables: list[pa.Table]) -> pa.Table:
    """The rows of all shards, sorted by clip, their own fields after the common columns."""
    empty = pa.table({name: pa.array([], pa.string()) for name in INDEX_COLUMNS})
    index = pa.concat_tables([empty, *tables], promote_options="permissive").replace_schema_metadata(None)
    own = sorted(set(index.column_names) - {*INDEX_COLUMNS, "of"})
    shared = [name for name in (*INDEX_COLUMNS, "of") if name in index.column_names]
    return index.select([*shared, *own]).sort_by("clip_id").combine_chunks()


def versions_of(index: pa.Table) -> dict[str, str]:
    """Library -> the versions of it that made the items of an index."""
    found: dict[str, set[str]] = {}
    for made in filter(None, pc.unique(index["made"]).to_pylist()):
        for name, number in (entry.split(" ") for entry in made.split(", ")):
            found.setdefault(name, set()).add(number)
    return {name: ", ".join(sorted(numbers)) for name, numbers in found.items()}


def write_shard(
    path: Path, shard: Shard, item_of: Callable[[str], tuple[Item, str]], dimensions: Dimensions
) -> list[dict[str, Any]]:
    """Write the HDF5 file of some clips; returns their rows, with the key of each."""
    rows = []
    with new_hdf5(path) as file:
        for clip, part in shard.parts.items():
            item, content = item_of(clip)
            status = "failed" if item.reason else "ok"
            row = {"clip_id": clip, "status": status, "reason": item.reason, "detail": item.detail}
            row |= {"shard": shard.name, "digest": content, "input": part.input, "made": item.made, "key": part.key}
            rows.append({**row, **({} if part.of is None else {"of": part.of}), **item.fields})
            for name, array in sorted(item.arrays.items()):
                dataset = file.create_dataset(f"{clip}/{name}", data=array)
                for axis, letter in zip(dataset.dims, dimensions[name], strict=True):
                    axis.label = letter
    return rows

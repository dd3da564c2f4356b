"""A store of HDF5 shards, read-only."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5s

from avset.storage.artifacts import Record, identity_of
from avset.storage.checksums import blamed, damaged, promised, sha256_of
from avset.storage.files import require
from avset.storage.hdf5 import UNREADABLE, open_hdf5
from avset.storage.shards import item_of
from avset.storage.tables import Rows, sorted_index

OPEN = 32  # shards that a store keeps open in each process; HDF5 needs up to 7 MB for each
KNOWN = 128  # datasets of an open shard that need not be looked up again


class Store:
    """A store, read-only. Its files are opened when they are needed, in each process anew: a store may be pickled.

    Of every clip that is read, arrays and fields are hashed once and compared with the digest in the index, which is
    compared with the record. AvsetError names the file that is damaged, and the cure.
    """

    def __init__(self, folder: Path):
        self.folder, self.record = folder, Record.read(folder)
        self.digest = identity_of(folder, self.record.artifact)
        self.rows = Rows(sorted_index(folder / "index.parquet"))
        self._intact = np.zeros(len(self.rows), bool)  # rows of the clips whose content was compared
        self._files: OrderedDict[tuple[int, str], tuple[h5py.File, dict[str, h5py.Dataset]]] = OrderedDict()

    @property
    def clips(self) -> list[str]:
        """Names of the clips that have data, sorted."""
        return self.rows.where("status", "ok")

    def dataset(self, clip: str, name: str) -> h5py.Dataset:
        """The HDF5 dataset of one array of a clip. Read the dataset at once: few shards stay open."""
        position = self.rows.position(clip)
        at = (os.getpid(), self.rows.at(position, "shard"))
        if at not in self._files:
            with _readable(self.shard(clip)) as shard:
                self._files[at] = open_hdf5(require(shard)), {}
            if len(self._files) > OPEN:
                self._files.popitem(last=False)[1][0].close()
        self._files.move_to_end(at)
        file, known = self._files[at]
        if (path := f"{clip}/{name}") not in known:  # the lookup takes as long as to read a crop
            if len(known) == KNOWN:
                known.clear()
            self._compare(clip, position, file)
            known[path] = file[path]
        return known[path]

    def _compare(self, clip: str, position: int, file: h5py.File) -> None:
        """AvsetError if what the open shard has of a clip is not what the index promises."""
        if not self._intact[position]:
            row = self.rows[clip]
            with _readable(self.shard(clip)) as shard:
                if row["digest"] and item_of(row, file) is None:
                    raise damaged(shard, f"{clip} in it is not what the index promises")
            self._intact[position] = True

    def read(self, clip: str, name: str, part: slice = slice(None)) -> np.ndarray:
        """One array of a clip, or a slice of its first axis."""
        array: np.ndarray = self.dataset(clip, name)[part]
        return array

    def arrays(self, clip: str) -> dict[str, np.ndarray]:
        """All arrays of a clip, by name."""
        with _readable(self.shard(clip)) as shard, open_hdf5(require(shard)) as file:
            self._compare(clip, self.rows.position(clip), file)
            return {name: np.asarray(array[()]) for name, array in file[clip].items()}

    def shard(self, clip: str) -> Path:
        """The HDF5 file that has a clip."""
        return self.folder / "shards" / f"{self.rows.value(clip, 'shard')}.h5"

    def stack(self, clips: Sequence[str], name: str) -> np.ndarray:
        """One array of many clips, of one shape, stacked; each shard is opened once."""
        stacked: np.ndarray | None = None
        for i in self.by_shard(clips):
            one = self.read(clips[i], name)
            stacked = np.empty((len(clips), *one.shape), one.dtype) if stacked is None else stacked
            stacked[i] = one
        return np.empty(0) if stacked is None else stacked

    def by_shard(self, clips: Sequence[str]) -> np.ndarray:
        """The order in which to read clips, as places among them: shard by shard."""
        return np.argsort(self.rows.numbers("shard", self.rows.positions(clips)), kind="stable")

    def each(self, clips: Sequence[str], name: str) -> Iterator[np.ndarray]:
        """One array of many clips, all of one shape and sorted `by_shard`: of a large part of a store.

        A shard is compared with the record as a whole, which is faster than clip by clip.
        """
        known, shape, numbers = promised(self.folder), None, self.rows.numbers("shard", self.rows.positions(clips))
        ends = [*(np.flatnonzero(np.diff(numbers)) + 1), len(clips)]
        for start, end in zip([0, *ends], ends, strict=False):
            shard = self.shard(clips[start])
            with _readable(shard), open_hdf5(require(shard)) as file:
                sha256 = known.get(f"shards/{shard.name}")
                if sha256 and sha256_of(shard) != sha256:
                    raise damaged(shard, "its bytes are not those that were written")
                for clip in clips[start:end]:
                    if not sha256:
                        self._compare(clip, self.rows.position(clip), file)
                    found = h5d.open(file.id, f"{clip}/{name}".encode())
                    if found.shape != (shape := shape or found.shape):
                        raise damaged(shard, f"{name} of {clip} has another shape than that of {clips[0]}")
                    array = np.empty(shape, found.dtype)
                    found.read(h5s.ALL, h5s.ALL, array)
                    yield array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


@contextmanager
def _readable(shard: Path) -> Iterator[Path]:
    """The path of a shard; AvsetError if the block cannot read it, whatever HDF5 raises then."""
    try:
        yield shard
    except UNREADABLE as e:
        raise blamed(shard, e) from e

"""A store of HDF5 shards, read-only."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from avset.storage.artifacts import Record, identity_of
from avset.storage.checksums import blamed, damaged
from avset.storage.files import require
from avset.storage.hdf5 import UNREADABLE, open_hdf5
from avset.storage.shards import item_of
from avset.storage.tables import Rows, whole_table

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
        self.rows = Rows(whole_table(folder / "index.parquet", read_dictionary=["status", "reason", "made"]))
        self._intact: set[str] = set()  # clips whose content was compared
        self._files: OrderedDict[tuple[int, str], tuple[h5py.File, dict[str, h5py.Dataset]]] = OrderedDict()

    @property
    def clips(self) -> list[str]:
        """Names of the clips that have data, sorted."""
        return [clip for clip, status in self.rows.columns("clip_id", "status") if status == "ok"]

    def dataset(self, clip: str, name: str) -> h5py.Dataset:
        """The HDF5 dataset of one array of a clip. Read the dataset at once: few shards stay open."""
        at = (os.getpid(), self.rows.value(clip, "shard"))
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
            self._compare(clip, file)
            known[path] = file[path]
        return known[path]

    def _compare(self, clip: str, file: h5py.File) -> None:
        """AvsetError if what the open shard has of a clip is not what the index promises."""
        if clip not in self._intact:
            row = self.rows[clip]
            with _readable(self.shard(clip)) as shard:
                if row["digest"] and item_of(row, file) is None:
                    raise damaged(shard, f"{clip} in it is not what the index promises")
            self._intact.add(clip)

    def read(self, clip: str, name: str, part: slice = slice(None)) -> np.ndarray:
        """One array of a clip, or a slice of its first axis."""
        array: np.ndarray = self.dataset(clip, name)[part]
        return array

    def arrays(self, clip: str) -> dict[str, np.ndarray]:
        """All arrays of a clip, by name."""
        with _readable(self.shard(clip)) as shard, open_hdf5(require(shard)) as file:
            self._compare(clip, file)
            return {name: np.asarray(array[()]) for name, array in file[clip].items()}

    def shard(self, clip: str) -> Path:
        """The HDF5 file that has a clip."""
        return self.folder / "shards" / f"{self.rows.value(clip, 'shard')}.h5"

    def stack(self, clips: Sequence[str], name: str) -> np.ndarray:
        """One array of many clips, of one shape, stacked; each shard is opened once."""
        at = {clip: i for i, clip in enumerate(clips)}
        order = [(shard, clip) for clip, shard in self.rows.columns("clip_id", "shard") if clip in at]
        stacked: np.ndarray | None = None
        for _, clip in sorted(order):
            one = self.read(clip, name)
            stacked = np.empty((len(clips), *one.shape), one.dtype) if stacked is None else stacked
            stacked[at[clip]] = one
        return np.empty(0) if stacked is None else stacked

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


@contextmanager
def _readable(shard: Path) -> Iterator[Path]:
    """The path of a shard; AvsetError if the block cannot read it, whatever HDF5 raises then."""
    try:
        yield shard
    except UNREADABLE as e:
        raise blamed(shard, e) from e

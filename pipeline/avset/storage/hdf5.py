"""HDF5 files: new ones that are there whole or not at all, and old ones that are read also where there are no locks."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from h5py import h5d, h5l, h5o

from avset.storage.checksums import Stamp, stamp_of
from avset.storage.files import writing
from avset.storage.reading import patiently

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # what such a file system answers, NFS for example

UNREADABLE = (OSError, LookupError, RuntimeError, ValueError, TypeError, MemoryError)  # what a damaged file raises


class _Sink:
    """A new file for HDF5 to write to. HDF5 crashes on an error of its file, so it is told of none: see `error`."""

    def __init__(self, file: Any):
        self.file = file
        self.error: OSError | None = None
        self.read, self.readinto, self.seek, self.tell, self.flush = (
            file.read, file.readinto, file.seek, file.tell, file.flush
        )  # fmt: skip

    def write(self, data: Any) -> int:
        """Write all of `data`; after an error pretend to."""
        left = memoryview(data).cast("B")
        while left and not self.error:
            try:
                left = left[self.file.write(left) :]
            except OSError as e:
                self.error = e
        return len(data)

    def truncate(self, size: int) -> int:
        """Set the size of the file; after an error pretend to."""
        try:
            return int(self.file.truncate(size))
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


def open_hdf5(path: Path) -> h5py.File:
    """An HDF5 file to read from, locked where the file system has locks: what nobody writes to needs no lock.

    OSError if the file leads to another one, see `_check_alone`.

    HDF5 itself goes on without a lock if the file system does not know locks (ENOSYS), not if it has none to give.
    """
    try:
        file = patiently(lambda: h5py.File(path, "r", locking="best-effort"))
    except OSError as e:
        if e.errno not in NO_LOCKS:
            raise
        file = h5py.File(path, "r", locking=False)
    if (at := (path.absolute(), stamp_of(path))) not in _alone:
        try:
            _check_alone(file)
        except BaseException:
            file.close()
            raise
        _alone.add(at)
    return file


_alone: set[tuple[Path, Stamp]] = set()  # files that were looked through


def _check_alone(file: h5py.File) -> None:
    """OSError if a name in a file is a link, or if an array in it is kept in another file: HDF5 would read that one.

    Our files have none. Each file is looked through once in a process, as long as it stays the same.
    """
    names: list[bytes] = []

    def see(name: bytes, link: Any) -> bytes | None:
        names.append(name)
        return name if link.type != h5l.TYPE_HARD else None  # what is not None ends the visit

    if (name := file.id.links.visit(see, info=True)) is not None:
        raise OSError(f"{name.decode(errors='replace')!r} in it is a link, which may lead out of the file")
    for name in names:
        found = h5o.open(file.id, name)
        if isinstance(found, h5d.DatasetID):
            made = found.get_create_plist()
            if made.get_layout() == h5d.VIRTUAL or made.get_external_count():
                raise OSError(f"{name.decode(errors='replace')!r} in it is kept in another file")

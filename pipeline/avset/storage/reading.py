"""Files are read patiently: an error of the system says nothing about the file that was to be read.

A full table of open files, a stale handle of a network disk or a full memory passes. So the reading is tried again, and
what does not pass is told as what it is: never as a damaged file, and never remembered.
"""

import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from avset.errors import AvsetError, ClipError
from avset.storage.files import FULL

WAITS = (0.05, 0.2, 0.8)  # s before the next try
AGAIN = "the machine or its disk is to blame, and not the file; run again"
DENIED = {errno.EACCES, errno.EPERM}
SETTLED = {  # errors that no waiting mends: of names, rights and full disks
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EPIPE, *DENIED, *FULL
}  # fmt: skip
T = TypeVar("T")


def patiently(read: Callable[[], T]) -> T:
    """What `read` returns. After an error that may pass it is called again, after each of `WAITS`."""
    for wait in WAITS:
        try:
            return read()
        except (OSError, MemoryError) as e:
            if not passing(e):
                raise
        time.sleep(wait)
    return read()


def passing(error: BaseException) -> bool:
    """Whether an error is one of the system that may pass. Libraries raise OSError without a number for their own."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno is not None and error.errno not in SETTLED
    )


def told(error: OSError | MemoryError) -> str:
    """An error of the system in one sentence, with the cure; empty if it is none."""
    if isinstance(error, MemoryError):
        return "the memory is full; end other programs or lower runtime.workers, and run again"
    where, why = f"{error.filename or 'a file'}", error.strerror
    if error.errno in FULL:
        return f"cannot write {where}: {why}; free space"
    if error.errno in DENIED:
        return f"cannot use {where}: {why}; see its permissions"
    return f"cannot use {where}: {why}; {AGAIN}" if passing(error) else ""


@contextmanager
def closing_checked(file: Any) -> Iterator[Any]:
    """Close a file when the block ends. If it could not be read, its `check` says so, whatever the block made of it."""
    try:
        yield file
    except Exception:
        file.check()
        raise
    finally:
        file.close()
    file.check()


class Positioned(io.RawIOBase):
    """A file to read and to seek in, whose place `at` and `length` (bytes) a subclass keeps."""

    at, length = 0, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of a file; its end is where it was when the file was opened."""
        self.at = max(0, offset + (0, self.at, self.length)[whence])
        return self.at


class PatientFile(Positioned):
    """A file, read patiently. A stale one is opened anew, as long as it has the size and the time that it had.

    A C library drops an exception of its file, or takes an error for the end of the file. So after an error the file is
    at its end: call `check` when the library has finished, or use `closing_checked`. ClipError("missing") if there is
    no such file, AvsetError if this user may not read it.
    """

    def __init__(self, path: Path):
        self.name, self._path = str(path.absolute()), path
        self._file: io.FileIO | None = None
        self._stamp: tuple[int, int] | None = None
        self.failure: Exception | None = None
        try:
            if not patiently(path.is_file):
                raise ClipError("missing", f"there is no file {path.name!r}")
            patiently(self._opened)
        except (OSError, MemoryError) as e:
            self.failure = e
            if isinstance(e, FileNotFoundError):
                raise ClipError("missing", f"there is no file {path.name!r}") from e
            self.check()

    def _opened(self) -> io.FileIO:
        if self._file is None:
            file = io.FileIO(self.name)
            stat = os.fstat(file.fileno())
            stamp = stat.st_size, stat.st_mtime_ns
            if self._stamp not in (None, stamp):
                file.close()
                raise OSError(errno.ESTALE, "it was replaced while it was read", self.name)
            self._file, self._stamp, self.length = file, stamp, stat.st_size
        return self._file

    def check(self) -> None:
        """Raise the error that there was: AvsetError if this user may not read the file, else ClipError("system")."""
        if self.failure is None:
            return
        why = getattr(self.failure, "strerror", None) or "the memory is full"
        if isinstance(self.failure, PermissionError):
            raise AvsetError(f"cannot read {str(self._path)!r}: {why}; see its permissions") from self.failure
        raise ClipError("system", f"{self._path.name!r}: {why}") from self.failure

    def readinto(self, buffer: Any) -> int:
        """As of a file; 0 after an error."""
        if self.failure is None:
            try:
                count = patiently(lambda: self._read(buffer))
                self.at += count
                return count
            except (OSError, MemoryError) as e:
                self.failure = e
        return 0

    def _read(self, buffer: Any) -> int:
        file = self._opened()
        try:
            file.seek(self.at)
            return file.readinto(buffer) or 0
        except OSError:
            self._file = None
            with suppress(OSError):
                file.close()
            raise

    def close(self) -> None:
        """Close it."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        super().close()

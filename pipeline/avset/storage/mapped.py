"""Files made of artifacts to be mapped into memory, in the item cache, each under a key of all that decided it.

What is mapped takes no memory of its own, and all processes share it. A file ends with the sha256 of what is before.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from avset.errors import AvsetError
from avset.storage.cache import cache_folder
from avset.storage.checksums import Stamp, stamp_of
from avset.storage.files import count_as_used, make_folder, place, share, writing

PIECE = 2**22  # bytes
_whole: set[tuple[Path, Stamp]] = set()  # of this process: files that were compared with their checksum


def mapped(key: str, write: Callable[[BinaryIO], None]) -> Path | None:
    """The file of a key, made by `write` if it is not there whole; None where the cache cannot be written."""
    path = cache_folder("mapped") / key
    with suppress(AvsetError):
        if not _intact(path):
            _make(path, write)
        count_as_used(path)
        return path
    return None


def _make(path: Path, write: Callable[[BinaryIO], None]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    with writing(path):
        make_folder(path.parent)
        try:
            with temporary.open("xb") as file:
                write(file)
            sha256 = _sha256(temporary, temporary.stat().st_size)
            with temporary.open("ab") as file:
                file.write(sha256)
            share(temporary)
            place(temporary, path, lasting=False)
            _whole.add((path, stamp_of(path)))
        finally:
            temporary.unlink(missing_ok=True)


def _intact(path: Path) -> bool:
    """Whether a file is there and is as it was written; it is read once in each process."""
    with suppress(OSError):
        if (at := (path, stamp_of(path))) in _whole:
            return True
        size = path.stat().st_size - 32
        with path.open("rb") as file:
            file.seek(max(0, size))
            if size >= 0 and file.read() == _sha256(path, size):
                _whole.add(at)
                return True
    return False


def _sha256(path: Path, size: int) -> bytes:
    """Of the first `size` bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, size, PIECE):
            found.update(file.read(min(PIECE, size - start)))
    return found.digest()

"""Artifacts that took long, kept whole in the cache under a key of all that decided them.

DVC restores an output if the bytes of all dependencies are as they were. A tidied module has other bytes and the same
results: then the stage runs, finds its key here, and computes nothing.
"""

import io
import zipfile
from pathlib import Path

from avset.errors import AvsetError
from avset.storage.cache import cache_folder
from avset.storage.files import count_as_used, write_atomic, writing


def _place(key: str) -> Path:
    return cache_folder("finished") / f"{key}.zip"


def keep(folder: Path, key: str) -> None:
    """Keep the files of a folder. A cache that cannot be written is told by AvsetError."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # it has a checksum of every file
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    write_atomic(_place(key), buffer.getvalue())


def restore(key: str, folder: Path) -> bool:
    """Put the files that are kept under a key into a folder; False if there are none. A damaged file is removed."""
    place = _place(key)
    if not place.exists():
        return False
    try:
        with zipfile.ZipFile(place) as archive:
            if archive.testzip() is None:
                with writing(folder):
                    archive.extractall(folder)
                count_as_used(place)
                return True
    except zipfile.BadZipFile:
        pass
    except PermissionError as e:
        raise AvsetError(f"cannot read {place}: {e.strerror}; remove it, or have its owner make it readable") from e
    place.unlink(missing_ok=True)
    return False

"""One process at a time makes an artifact, in a new folder that takes the place of the old one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from avset.errors import AvsetError
from avset.storage.artifacts import ARTIFACTS
from avset.storage.cache import ItemCache
from avset.storage.checksums import RECORD
from avset.storage.files import clear, fresh_folder, make_folder


def enough_room(gigabytes: float) -> None:
    """AvsetError if less is free where the artifacts are, or where the item cache is."""
    for place in (Path.cwd(), ItemCache().root.absolute()):
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(existing).free / 1e9
        if free < gigabytes:
            raise AvsetError(
                f"{place} has {free:.1f} GB free, less than runtime.min_free_gb = {gigabytes:g}; "
                "free space, or lower it"
            )


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A new folder in which to make an artifact, which it is when the block ends. One process at a time."""
    with only_writer(folder):
        only_ours(folder)
        with fresh_folder(folder) as fresh:
            yield fresh


def only_ours(folder: Path) -> None:
    """AvsetError if a folder that an artifact is to replace holds a file that no stage made."""
    name = next((name for name in (folder.name, folder.parent.name) if name in ARTIFACTS), None)
    if name and folder.is_dir():
        known = {RECORD, *ARTIFACTS[name].files, *ARTIFACTS[name].also}
        strange = sorted(path.name for path in folder.iterdir() if path.name not in known and path.name[0] != ".")
        if strange:
            raise AvsetError(f"{folder} will be replaced, and {strange[0]!r} in it is no part of it; move it elsewhere")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """One process at a time makes an artifact: a killed `dvc repro` may have left its stage running."""
    lock = Path("data/.locks") / ".".join(folder.parts)
    make_folder(lock.parent)
    if lock.is_symlink():
        clear(lock)
    try:
        with filelock.FileLock(lock, timeout=0):
            yield
    except filelock.Timeout as e:
        raise AvsetError(f"another process is making {folder}; wait for it, or end it") from e

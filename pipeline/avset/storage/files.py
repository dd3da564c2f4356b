"""Files and folders that are there whole or not at all."""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from avset.errors import AvsetError, MissingArtifact
from avset.params import stage_of


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. The new ones get the group's rights to the one that was there."""
    if not folder.exists():
        make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
            share(folder)


def share(path: Path) -> None:
    """Give a new file or folder the group's rights to the folder above it: teams share caches."""
    above, own = path.parent.stat().st_mode, path.stat().st_mode
    rights = above & (stat.S_IRWXG | stat.S_ISGID if stat.S_ISDIR(own) else stat.S_IRGRP | stat.S_IWGRP)
    if own | rights != own:
        path.chmod(own | rights)


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # errors of a disk: no clip is to blame


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """AvsetError if the block cannot write a file, whatever a library raises then."""
    try:
        yield
    except (OSError, RuntimeError) as e:
        why = getattr(e, "strerror", None) or " ".join(str(e).split())
        raise AvsetError(f"cannot write {path}: {why}; free space, or point AVSET_CACHE elsewhere") from e


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put the folder `fresh` in the place of `folder`. Until then the old one is whole."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
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


def require(path: Path) -> Path:
    """`path` if it exists; else MissingArtifact, which names the stage to run."""
    if not path.exists():
        how = f"dvc repro {stage_of(path)}".strip()
        raise MissingArtifact(f"{path} is not there; make it with `{how}`, or `dvc pull`")
    return path


def count_as_used(path: Path) -> None:
    """Set the time of the last reading, by which the cache is swept: a link or an extraction may not set it."""
    with suppress(OSError):  # of another user, or a read-only cache
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def link(source: Path, target: Path) -> None:
    """Give a file another name: a hard link where that is possible, else a copy that is whole or not there."""
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    with writing(target):
        make_folder(target.parent)
        try:
            try:
                os.link(source, temporary)
            except OSError:  # another disk, another owner
                shutil.copy2(source, temporary)
                share(temporary)
            temporary.replace(target)
        finally:
            with suppress(OSError):  # still there if both were one file, or if it failed
                temporary.unlink(missing_ok=True)

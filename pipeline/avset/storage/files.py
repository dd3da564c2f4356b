"""Files and folders that are there whole or not at all, also after a power cut.

The one place where something gets its name: `place`, `replace_folder` and `link`. Before, the disk holds its bytes
(`sync`); afterwards it holds the name. What need not outlive a power cut is not `lasting`: the disk takes it when it
likes, and who reads it must notice by a checksum that it is torn.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
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
            sync_names(folder.parent)


def share(path: Path) -> None:
    """Give a new file or folder the group's rights to the folder above it: teams share caches."""
    above, own = path.parent.stat().st_mode, path.lstat().st_mode
    if stat.S_ISLNK(own):  # a colleague's: what it names is none of ours
        return
    rights = above & (stat.S_IRWXG | stat.S_ISGID if stat.S_ISDIR(own) else stat.S_IRGRP | stat.S_IWGRP)
    if own | rights != own:
        path.chmod(own | rights)


UNASKED = {errno.EACCES, errno.EINVAL, errno.ENOTSUP}  # errors of a file system that is not asked to sync a folder
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # errors of a disk: no clip is to blame


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """AvsetError if the block cannot write a file, whatever a library raises then."""
    try:
        yield
    except (OSError, RuntimeError) as e:
        why = getattr(e, "strerror", None) or " ".join(str(e).split())
        raise AvsetError(f"cannot write {path}: {why}; free space, or point AVSET_CACHE elsewhere") from e


def sync(path: Path) -> None:
    """Wait until the disk holds a file, or a folder and all in it.

    In a folder, a file that has another name already is on the disk: no file gets one before, see `link`.
    """
    if not path.is_dir():
        return _fsync(path)
    for inner in path.iterdir():
        if inner.is_dir() or inner.stat().st_nlink == 1:
            sync(inner)
    sync_names(path)


def sync_names(folder: Path) -> None:
    """Wait until the disk holds which names are in a folder; some file systems do so anyway, and refuse to be asked."""
    try:
        _fsync(folder)
    except OSError as e:
        if e.errno not in UNASKED:
            raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place(temporary: Path, path: Path, lasting: bool = True) -> None:
    """Give a finished file its name, in the same folder or another of the same disk."""
    if lasting:
        sync(temporary)
    temporary.replace(path)
    if lasting:
        sync_names(path.parent)


def new_folder(folder: Path) -> None:
    """Make an empty folder, in the place of whatever has its name; a link goes, and not what it names."""
    clear(folder)
    make_folder(folder)


def clear(path: Path) -> None:
    """Remove a folder and all in it, as far as that is possible, or the link or file that has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def own_file(path: Path) -> bool:
    """Whether a path is a file with one name only, and no link: what is appended to it goes nowhere else."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return False


def open_to_append(path: Path) -> BinaryIO:
    """A file to append to; OSError if its name is a link, which others may have put there."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put the folder `fresh` in the place of `folder`. Until then the old one is whole."""
    old = folder.with_name(f".{folder.name}.old")
    with writing(fresh):
        sync(fresh)
    clear(old)
    with suppress(FileNotFoundError):
        folder.rename(old)
    fresh.rename(folder)
    sync_names(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A new folder, which takes the place of `folder` when the block ends; until then the old one is whole."""
    fresh = folder.with_name(f".{folder.name}.new")
    with writing(fresh):
        new_folder(fresh)
    yield fresh
    replace_folder(fresh, folder)


def write_atomic(path: Path, data: bytes, lasting: bool = True) -> None:
    """Write a file that is there whole or not at all; if it is not `lasting`, a power cut may tear it."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")  # no process id: machines may share the folder
    with writing(path):
        try:
            make_folder(path.parent)
            with temporary.open("xb") as file:
                file.write(data)
            share(temporary)
            place(temporary, path, lasting)
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


def link(source: Path, target: Path, lasting: bool = True) -> None:
    """Give a file another name: a hard link where that is possible, else a copy that is whole or not there.

    Not `lasting` is a name in a folder that `replace_folder` puts in its place, of a file that the disk holds.
    """
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    with writing(target):
        make_folder(target.parent)
        try:
            try:
                os.link(source, temporary)
            except OSError:  # another disk, another owner
                shutil.copy2(source, temporary)
                share(temporary)
            place(temporary, target, lasting)
        finally:
            with suppress(OSError):  # still there if both were one file, or if it failed
                temporary.unlink(missing_ok=True)

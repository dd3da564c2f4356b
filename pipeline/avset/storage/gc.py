"""Remove from the item cache what nobody used for long, and what killed writers left."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath

from avset.errors import AvsetError
from avset.storage.cache import ABANDONED, DAY, FOLDERS, ItemCache, kept_media


def sweep(root: Path, days: float, fetched: bool = False, dry_run: bool = False) -> dict[str, tuple[int, int]]:
    """Remove from the item cache at `root` what was not read or written for `days`: kind -> files, bytes.

    The kinds are items, shards, mapped files, states of trainings, finished models, media that no item names, and what
    killed writers left. What was `fetched` goes only if told to, because its site may no longer have it. Only old files
    go, so writers and readers may be at work. Only files with names that the cache gives go: the folder may hold a
    user's own.
    """
    kinds = {
        "temporary files": _older(_temporary(root), 1.0),
        "broken fetches": (path for glob, s in ABANDONED.items() for path in _older(root.glob(glob), s / DAY)),
        "mapped files": _older(_files(root, "mapped"), days),
        "trainings": _older(_files(root, "runs"), days),
        "models": _older(_files(root, "finished"), days),
        "shared models": _older(_files(root, "shared"), days),
        "items": _older(_files(root, "items"), days),
        "shards": _older(_files(root, "shards"), days),
        "fetched": _older(_files(root, "fetched") if fetched else (), days),
        "media": _unused_media(root, days, fetched),
    }
    return {kind: _remove(paths, dry_run) for kind, paths in kinds.items()}


def _files(root: Path, folder: str) -> Iterator[Path]:
    """The files that a folder of the cache keeps."""
    files, names = FOLDERS[folder]
    return (path for path in root.glob(f"{folder}/{files}") if re.fullmatch(names, path.name))


def _temporary(root: Path) -> Iterator[Path]:
    """The files that somebody is writing, and the notes of jobs in hand."""
    for folder in ("items", "fetched", "shards", "mapped", "runs", "finished", "lists"):
        paths = root.glob(f"{folder}/{PurePath(FOLDERS[folder].files).parent}/.*")
        yield from (path for path in paths if re.fullmatch(r"\.[0-9a-f]{62,64}(\.\w+)*", path.name))
    yield from _files(root, "held")


def _older(paths: Iterable[Path], days: float) -> Iterator[Path]:
    """Those paths that nobody used for longer than some days."""
    return (path for path in paths if _idle(path) > days)


def _idle(path: Path) -> float:
    """Days since a file, or any in a folder, was read or written; 0 if it is gone."""
    try:
        stats = [(p, p.stat()) for p in (path, *(path.rglob("*") if path.is_dir() else ()))]
    except FileNotFoundError:
        return 0.0
    used: float = max(max(s.st_mtime, s.st_atime if p.is_file() else 0.0) for p, s in stats)
    return (time.time() - used) / DAY


def _unused_media(root: Path, days: float, fetched: bool) -> Iterator[Path]:
    """The old media that no item in use names, and whose bytes no artifact holds by a hard link.

    All that was `fetched` is in use, unless that is to go too. Nothing is looked at before the iteration starts: by
    then the old items are gone.
    """
    receipts = (path for path in _files(root, "fetched") if not fetched or _idle(path) <= days)
    unnamed = set(_older(_files(root, "media"), days)) - _media_of(root, receipts)
    if unnamed:
        unnamed -= _media_of(root, (path for path in root.glob("items/*/*") if _idle(path) <= days))
    for path in _older(sorted(unnamed), days):
        with suppress(FileNotFoundError):
            if path.stat().st_nlink == 1:
                yield path


def _media_of(root: Path, items: Iterable[Path]) -> set[Path]:
    """The media that items name. A look at an item does not count as use."""
    media = set()
    for path in items:
        with suppress(FileNotFoundError, KeyError, ValueError, TypeError):  # gone meanwhile, damaged, not of a medium
            stat = path.stat()
            try:
                with path.open("rb") as f:
                    size = int.from_bytes(f.read(40)[32:], "little")
                    header = f.read(min(size, stat.st_size))
            except PermissionError as e:
                raise AvsetError(f"cannot read {path}, so which media are needed is unknown; ask its owner") from e
            with suppress(PermissionError):
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            fields = json.loads(json.loads(header)["__metadata__"]["item"])[0]
            media.add(kept_media(ItemCache(root), fields))
    return media


def _remove(paths: Iterable[Path], dry_run: bool) -> tuple[int, int]:
    """Files and bytes that went, or would; those of another user stay."""
    files = size = 0
    for path in paths:
        with suppress(OSError):
            sizes = [p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()]
            if not dry_run:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            files, size = files + len(sizes), size + sum(sizes)
    return files, size

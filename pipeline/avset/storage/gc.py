"""Remove from the item cache what nobody used for long, and what killed writers left."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from avset.errors import AvsetError
from avset.storage.cache import ABANDONED, DAY, ItemCache, kept_media

ITEM, MEDIUM = re.compile(r"[0-9a-f]{62}"), re.compile(r"[0-9a-f]{62}\.\w+")


TRAINING, SHARD = re.compile(r"[0-9a-f]{64}\.pt"), re.compile(r"[0-9a-f]{64}\.(h5|rows)")


ANY = re.compile(".*")


def sweep(root: Path, days: float, fetched: bool = False, dry_run: bool = False) -> dict[str, tuple[int, int]]:
    """Remove from the item cache at `root` what was not read or written for `days`: kind -> files, bytes.

    Items, shards, states of trainings, media that no item names, what killed writers left. What was `fetched` may be
    no longer to be had, so it only goes if told to. Only old files go, so writers and readers may be at work.
    """

    def old(paths: Iterable[Path], name: re.Pattern[str] = ANY, than: float = days) -> Iterator[Path]:
        return (path for path in paths if name.fullmatch(path.name) and _idle(path) > than)

    def media() -> Iterator[Path]:
        receipts = (path for path in root.glob("fetched/items/*/*") if not fetched or _idle(path) <= days)
        unnamed = set(old(root.glob("media/*/*"), MEDIUM)) - _media_of(root, receipts)
        if unnamed:
            unnamed -= _media_of(root, (path for path in root.glob("items/*/*") if _idle(path) <= days))
        return (path for path in old(sorted(unnamed)) if _alone(path))

    places = ("items/*", "fetched/items/*", "shards/*/*", "runs", "lists")
    temporary = [path for where in places for path in root.glob(f"{where}/.*")] + list(root.glob("held/*"))
    broken = [path for glob, age in ABANDONED.items() for path in old(root.glob(glob), than=age / DAY)]
    kinds = {
        "temporary files": old(temporary, than=1.0),
        "broken fetches": iter(broken),
        "trainings": old(root.glob("runs/*"), TRAINING),
        "items": old(root.glob("items/*/*"), ITEM),
        "shards": old(root.glob("shards/*/*/*"), SHARD),
        "fetched": old(root.glob("fetched/items/*/*") if fetched else (), ITEM),
        "media": media(),
    }
    return {kind: _remove(paths, dry_run) for kind, paths in kinds.items()}


def _idle(path: Path) -> float:
    """Days since a file, or any in a folder, was read or written; 0 if it is gone."""
    try:
        stats = [(p, p.stat()) for p in (path, *(path.rglob("*") if path.is_dir() else ()))]
    except FileNotFoundError:
        return 0.0
    return (time.time() - max(max(s.st_mtime, s.st_atime if p.is_file() else 0.0) for p, s in stats)) / DAY


def _alone(path: Path) -> bool:
    """Whether no artifact holds the same file by a hard link: then removing it frees its bytes."""
    with suppress(FileNotFoundError):
        return path.stat().st_nlink == 1
    return False


def _media_of(root: Path, items: Iterable[Path]) -> set[Path]:
    """The media that items name. Looking does not count as use."""
    found = set()
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
            found.add(kept_media(ItemCache(root), fields))
    return found


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

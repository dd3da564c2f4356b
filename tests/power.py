"""Cut the power while a stage runs, and after it: `python tests/power.py`, as root on Linux.

The stage works on an ext4 disk in a file. A copy of the file is what a cut leaves of the disk: what the kernel still
held in memory is not in it. `Order` watches the same promise without a disk, in this process.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import crashes
from crashes import Trial, at_moments

from avset.storage.cache import ItemCache

PRIVATE = ("unshare", "--mount")  # a command in which root may mount, and nobody sees it
SIZE = 2**30  # bytes of the disk; its file is sparse
CURE = "find dvc.lock .dvc/cache -type f -size 0 -delete"  # of DVC's own files, see docs/operations.md
OFTEN = 0.2  # the share of moments at which the journal is written, as the kernel does every few seconds


class Order:
    """Notes in `faults` what got a name before the disk held it, and which names the disk was not asked to hold."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.count = 0  # names
        self._held: dict[tuple[int, int], Any] = {}  # what the disk holds of each file and folder
        self._named: dict[tuple[int, int], str] = {}  # folders with a new name, and the last one

    @contextmanager
    def watching(self) -> Iterator["Order"]:
        """Watch this process until the block ends."""
        fsync, calls = os.fsync, {name: getattr(os, name) for name in ("rename", "replace")}

        def watched_fsync(descriptor: int) -> None:
            fsync(descriptor)
            key, content = _content(descriptor)
            self._held[key] = content
            self._named.pop(key, None)

        def moved(call: Callable[..., None], source: Any, target: Any, **more: Any) -> None:
            begun = not passing(Path(target))
            if begun:
                self.count += 1
                self._look(Path(source), Path(target))
            call(source, target, **more)
            if begun:
                self._named[_content(Path(target).parent)[0]] = str(target)

        os.fsync = watched_fsync
        for name, call in calls.items():
            setattr(os, name, partial(moved, call))
        try:
            yield self
        finally:
            os.fsync = fsync
            for name, call in calls.items():
                setattr(os, name, call)
            self.faults += [f"{name}: its name may vanish" for name in self._named.values()]

    def _look(self, source: Path, target: Path) -> None:
        for path in [source, *source.rglob("*")]:
            key, content = _content(path)
            if self._held.get(key) != content:
                self.faults.append(f"{target}: {path} may not be on the disk")


def _content(place: Path | int) -> tuple[tuple[int, int], Any]:
    """A file or folder, by path or open, by its number; and what says that it changed."""
    told = os.stat(place)  # noqa: PTH116
    names = sorted(os.listdir(place)) if stat.S_ISDIR(told.st_mode) else None  # noqa: PTH208
    return (told.st_dev, told.st_ino), names or (told.st_size, told.st_mtime_ns)


def passing(target: Path) -> bool:
    """Whether a name need not be on the disk: of an item, of a note, of what is being made, or of what makes room."""
    item = "items" in target.parts and "fetched" not in target.parts
    note = target.parent.name in ("held", "pace")
    return item or note or any(part.startswith(".") and part.endswith((".new", ".old")) for part in target.parts)


def mount(image: Path, disk: Path) -> None:
    """Put the disk in a file over a folder."""
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)


def new_disk(disk: Path) -> Path:
    """Make a folder a disk of its own, with the same files; returns the file in which it is."""
    image, before = disk.with_name("image"), shutil.copytree(disk, disk.with_name("before"), symlinks=True)
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
    mount(image, disk)
    shutil.copytree(before, disk, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(before)
    return image


def cut(disk: Path, image: Path, copy: Path) -> None:
    """Copy the file in which a disk is, at a moment at which the kernel writes nothing to the disk."""
    device = disk.stat().st_dev
    written = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    while True:
        before = written.read_text().split()
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        after = written.read_text().split()
        if before[4:7] == after[4:7] and before[8] == after[8] == "0":  # writes that are done; requests in flight
            return


def power(root: str, count: int, seed: int, stages: dict[str, Any]) -> dict[str, Any]:
    """Run one stage after the other on a disk. Of each, cut `count` times in the middle and twice after its end.

    After a cut in the middle, an artifact or a file of the cache is whole or not there; after the end all are there.
    Then the next run finishes, and gives the same bytes. Items may be torn, if they say so.
    """
    disk, rng, found = Path(root), random.Random(seed), {}
    image = new_disk(disk)
    for stage, given in stages.items():
        trial = Trial(disk, stage, **given)
        kept = {path: _digest(path) for path in trial.cache.glob("media/*/*")}
        kept |= {path: _digest(path) for path in trial.cache.glob("shards/*/*/*.h5")}
        moments = json.loads(trial.said.with_name("moments").read_text())
        wanted = {number: f"cut {i}" for i, number in enumerate(sorted(rng.sample(moments, min(count, len(moments)))))}

        def visit(number: int, wanted: dict[int, str] = wanted) -> None:
            if rng.random() < OFTEN:
                write_journal(disk)
            if number in wanted:
                cut(disk, image, image.with_name(wanted[number]))

        trial.restore()
        os.sync()
        if (code := trial.forked(lambda visit=visit: at_moments(visit, ()))) != 0:
            trial.fault(f"it ends with {code}")
        ends = ("end", "a while later")
        for name in ends:
            cut(disk, image, image.with_name(name))
            write_journal(disk)
        torn: Counter[str] = Counter()
        for name in [*wanted.values(), *ends]:
            with on(image.with_name(name), disk, trial):
                if name in ends and trial.digest() != trial.good[1]:
                    trial.fault(f"{name}: it ended well, and not all is there")
                torn += torn_items(trial)
                trial.faults += [f"{stage}, {name}: {path} is torn" for path in torn_files(trial.cache, kept)]
                if stage == "dvc":
                    trial.faults += [f"{name}: DVC keeps {path} torn" for path in torn_objects(Path(".dvc/cache"))]
                    subprocess.run(CURE, shell=True)
                trial.recover(name, torn_items=True)
        found[stage] = {"cuts": len(wanted) + len(ends), "torn items": dict(torn), "faults": "\n".join(trial.faults)}
    return found


def write_journal(disk: Path) -> None:
    """Have the disk hold all names, and no more bytes than it does: for ext4 one file that is synced is enough."""
    with (disk / "another file").open("w") as file:
        file.write("?")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def on(copy: Path, disk: Path, trial: Trial) -> Iterator[None]:
    """What a cut left, in the place of the disk. The copy is gone afterwards."""
    os.chdir("/")
    mount(copy, disk)
    os.chdir(trial.project)
    try:
        yield
    finally:
        os.chdir("/")
        subprocess.run(["umount", "--lazy", disk], check=True)
        os.chdir(trial.project)
        copy.unlink()


def torn_items(trial: Trial) -> Counter[str]:
    """How many items are torn: empty, or otherwise."""
    paths = list(trial.cache.glob("items/??/[!.]*"))
    return Counter("otherwise" if path.stat().st_size else "empty" for path in paths if not _whole(path))


def torn_files(cache: Path, kept: dict[Path, str]) -> list[Path]:
    """The torn files in the other folders of the cache; `kept` has digests of those that say nothing of themselves."""
    torn = [path for path, digest in kept.items() if path.exists() and _digest(path) != digest]
    torn += [path for path in cache.glob("fetched/items/??/[!.]*") if not _whole(path)]
    first, last = (slice(32), slice(32, None)), (slice(-32, None), slice(-32))  # where a digest is, and of what
    torn += [path for path in cache.glob("shards/*/*/[!.]*.rows") if not _checked(path, *first)]
    torn += [path for path in cache.glob("runs/[!.]*.pt") if not _checked(path, *last)]
    archives = list(cache.glob("finished/[!.]*.zip"))
    return torn + [path for path in archives if not zipfile.is_zipfile(path) or zipfile.ZipFile(path).testzip()]


def torn_objects(cache: Path) -> list[Path]:
    """The files of artifacts in DVC's cache that are not what their names say. DVC's own files may be torn."""
    paths = [path for path in cache.glob("files/md5/??/*") if path.suffix != ".dir"]
    return [path for path in paths if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checked(path: Path, digest: slice, content: slice) -> bool:
    data = path.read_bytes()
    return hashlib.sha256(data[content]).digest() == data[digest]


def _whole(path: Path) -> bool:
    """Whether an item is whole. A torn one is still there afterwards."""
    data = path.read_bytes()
    whole = ItemCache(path.parents[2]).get(path.parent.name + path.name) is not None
    if not whole:
        path.write_bytes(data)
    return whole


def main() -> None:
    """Cut the stages of a small project; say how often, and what was wrong."""
    from test_crashes import STAGES, draw, of_videos

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="cuts in the middle of each stage")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--stages", nargs="*", default=list(STAGES), help="in the order of the pipeline")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        disk = Path(place) / "disk"
        of_videos(disk / "project", draw(Path(place) / "videos"))
        stages = {name: STAGES[name] for name in given.stages}
        found = crashes.apart("power", disk, PRIVATE, "power", count=given.count, seed=given.seed, stages=stages)
    print(json.dumps(found | {"seed": given.seed}, indent=2))
    sys.exit(any(one["faults"] for one in found.values()))


if __name__ == "__main__":
    main()

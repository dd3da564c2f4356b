"""Lets the system fail where files are read, and looks what becomes of the clip.

    python tests/faults.py

A shim in front of the C library (LD_PRELOAD, Linux with a C compiler) answers `open`, `read` and `pread` of one file by
an error: at once or after some bytes, once or for good. What reads the file must give what it gives without the error,
or say that the system failed: never another result, and no reason that is remembered. A summary of JSON comes last; the
exit code is 1 if anything else came.
"""

import ctypes
import errno
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from avset.compute.limited import Limits

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
static char part[256]; static int code, opening, left; static long after; static char of[65536]; long faults;
void set_fault(const char *p, int c, int o, long a, int n) {
    strncpy(part, p, 255); code = c; opening = o; after = a; left = n; faults = 0;
}
static int fault(void) { if (left > 0) left--; faults++; errno = code; return -1; }
static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < 65536) of[fd] = part[0] && strstr(path, part) != 0;
    return fd;
}
static int refused(const char *path) { return opening && left && part[0] && strstr(path, part); }
#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
    if (refused(path)) return fault(); \
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); return opened(real(path, flags, mode), path); }
OPEN(open) OPEN(open64)
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { \
    va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
    if (refused(path)) return fault(); \
    int (*real)(int, const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
    return opened(real(at, path, flags, mode), path); }
OPENAT(openat) OPENAT(openat64)
static int breaks(int fd, long end) {
    return fd >= 0 && fd < 65536 && of[fd] && !opening && left && end > after;
}
ssize_t read(int fd, void *to, size_t n) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    if (fd >= 0 && fd < 65536 && of[fd] && breaks(fd, lseek(fd, 0, SEEK_CUR) + (long)n)) return fault();
    return real(fd, to, n);
}
#define PREAD(name) ssize_t name(int fd, void *to, size_t n, off_t at) { \
    ssize_t (*real)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, #name); \
    return breaks(fd, at + (long)n) ? fault() : real(fd, to, n, at); }
PREAD(pread) PREAD(pread64)
"""
ERRORS = ("EIO", "ESTALE", "ETIMEDOUT", "EMFILE", "ENFILE", "ENOMEM", "EACCES")
OPEN = "open"
PLACES = (OPEN, 0, 2000, 40000)  # bytes that are read before
UNTRIED = "a store"  # HDF5 keeps what it has read of a file, so a file that failed is not tried again
OFTEN = {"once": 1, "for good": -1}


class Here(Limits):
    """Makes a call in this process, in which the shim breaks reads."""

    def each(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        """What the generator yields."""
        return function(*arguments)


HERE = Here(seconds=0.0, memory=0.0)


def attack(shim: Path, folder: Path, every: bool) -> dict[str, Any]:
    """Every reader, error and place; how they ended. To be run below the shim.

    Not `every`: the first error at every place of every reader, and each other error at one place after the other.
    """
    library = ctypes.CDLL(str(shim))
    seen: dict[str, Counter[str]] = {}
    wrong = []
    for number, (name, (file, read)) in enumerate(readers(folder).items()):
        usual, there = read(), [place for place in PLACES if place == OPEN or place < file.stat().st_size]
        for turn, error in enumerate(ERRORS, number):
            for place in there if every or error == ERRORS[0] else [there[turn % len(there)]]:
                for often, count in OFTEN.items():
                    after = 0 if place == OPEN else place
                    library.set_fault(os.fsencode(file), getattr(errno, error), place == OPEN, after, count)
                    try:
                        outcome = "the same" if read() == usual else "another result"
                    except Exception as e:  # of any kind: that is what is looked for
                        outcome = kind(e)
                    met = ctypes.c_long.in_dll(library, "faults").value
                    library.set_fault(b"", 0, 0, 0, 0)
                    outcome = outcome if met else "not met"
                    seen.setdefault(name, Counter())[outcome] += 1
                    allowed = {"the same", "not met", "the system"} | ({"permissions"} if error == "EACCES" else set())
                    passed = often == "for good" or error == "EACCES" or name == UNTRIED or outcome != "the system"
                    if outcome not in allowed or not passed:
                        wrong.append([name, error, place, often, outcome])
    return {"readers": {name: dict(counts) for name, counts in seen.items()}, "wrong": wrong}


def kind(error: Exception) -> str:
    """What an exception says."""
    from avset.errors import AvsetError, ClipError
    from avset.storage.reading import AGAIN, told

    text = str(error)
    if isinstance(error, ClipError):
        return "the system" if error.reason == "system" else f"{type(error).__name__} {text}"
    if isinstance(error, AvsetError):
        return "permissions" if "see its permissions" in text or "make it readable" in text else (
            "the system" if AGAIN in text else f"{type(error).__name__} {text}"
        )  # fmt: skip
    if isinstance(error, OSError | MemoryError) and told(error):
        return "permissions" if isinstance(error, PermissionError) else "the system"
    return f"{type(error).__name__} {text}"


def readers(folder: Path) -> dict[str, tuple[Path, Callable[[], Any]]]:
    """Name -> the file that is read, and a function that reads it: from the start, as a new process does."""
    import numpy as np
    import soundfile
    from media import make_video
    from test_store import item, make

    from avset.compute.worker import Job, Worker
    from avset.errors import ClipError
    from avset.media.recordings import read_audio
    from avset.params import Download, Frames, Spectrograms
    from avset.sources import Entry
    from avset.sources.clips import Fetch
    from avset.storage import checksums, reading
    from avset.storage.cache import ItemCache
    from avset.storage.items import Item
    from avset.storage.store import Store
    from avset.storage.tables import read_table
    from stages.frames import Decode
    from stages.spectrograms import Analyse

    reading.WAITS = (0.0,) * len(reading.WAITS)
    origins, cache = folder / "origins", ItemCache()
    origins.mkdir()
    mp4, mkv = make_video(origins / "a.mp4", 4.0), make_video(origins / "b.mkv", 4.0, acodec="flac")
    flac = origins / "c.flac"
    soundfile.write(flac, np.random.default_rng(0).normal(size=60000) * 0.1, 22050)
    make(folder / "store", ["a_0", "b_0"])
    cache.put("ab" * 32, item(1))
    store = Store(folder / "store")
    shard, hashes = store.shard("a_0"), {path: checksums.digest_of(path) for path in (mp4, mkv)}

    def new(read: Callable[[], Any]) -> Any:
        checksums.memory.clear()
        checksums.records.clear()
        return plain(read())

    def item_of(mapper: Any, payload: dict[str, Any]) -> Item:
        """What a worker makes of a clip, if the cache would keep it."""
        made = Worker(lambda: mapper).attempt([Job("clip", "00" * 32, payload)])[0]
        cache.put("00" * 32, made)
        if ("00" * 32 in cache) != (not made.reason):
            raise AssertionError(f"{made.reason} {made.detail} is remembered")
        cache.path("00" * 32).unlink(missing_ok=True)
        return answer(made)

    def answer(made: Item) -> Item:
        if made.reason:
            raise ClipError(made.reason, made.detail)
        return Item(made.arrays, {name: value for name, value in made.fields.items() if name != "stamp"})

    def fetch(path: Path) -> Item:
        fetcher = Fetch("folder", {"path": str(origins)}, Download.model_construct(), HERE)
        entry = Entry(path.stem, "train", (), str(path))
        return item_of(lambda jobs: [fetcher.item(entry, "11" * 32)], {})

    def fetched(path: Path) -> Any:
        made = fetch(path)
        forgotten = cache.root / "fetched" / "items" / "11" / ("11" * 31)
        forgotten.unlink(missing_ok=True)
        return made

    grid = Frames.model_construct(count=3, spacing=1.0, size=64)
    sizes = Spectrograms.model_construct(sample_rate=11025, window_length=1022, hop_length=256, precision="float32")
    found: dict[str, tuple[Path, Callable[[], Any]]] = {}
    for path in (mp4, mkv):
        clip = {"media": path, "start": 0.0, "duration": 3.5, "digest": [hashes[path], 0.0, 3.5]}
        found[f"frames of {path.suffix}"] = path, partial(item_of, Decode(grid, HERE), clip)
        found[f"spectrograms of {path.suffix}"] = path, partial(item_of, Analyse(sizes, -60.0, HERE), clip)
        found[f"clips of {path.suffix}"] = path, partial(fetched, path)
    for path in (mp4, mkv, flac):
        found[f"separate {path.suffix}"] = path, partial(read_audio, path)
    found["a store"] = shard, lambda: Store(folder / "store").arrays("a_0")
    found["an index"] = folder / "store" / "index.parquet", lambda: read_table(folder / "store" / "index.parquet")
    found["an item"] = cache.path("ab" * 32), lambda: cache.get("ab" * 32)[0]
    return {name: (path, partial(new, read)) for name, (path, read) in found.items()}


def plain(value: Any) -> Any:
    """A result as something that `==` compares to the byte."""
    if hasattr(value, "tobytes"):
        return value.tobytes()
    if hasattr(value, "dump"):
        return value.dump()
    if isinstance(value, dict | tuple):
        return [plain(one) for one in (sorted(value.items()) if isinstance(value, dict) else value)]
    return value


def run(every: bool) -> dict[str, Any]:
    """Build the shim, and `attack` below it; RuntimeError if there is no compiler or no LD_PRELOAD."""
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place)
        (folder / "shim.c").write_text(SHIM)
        shim = folder / "shim.so"
        try:
            subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, folder / "shim.c", "-ldl"], check=True)
        except (OSError, subprocess.CalledProcessError) as e:
            raise RuntimeError(f"no shim can be built: {e}") from e
        below = {**os.environ, "LD_PRELOAD": str(shim), "AVSET_CACHE": str(folder / "cache")}
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        below["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, __file__, str(shim), str(folder), *(["every"] if every else [])]
        return dict(json.loads(subprocess.run(command, env=below, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(attack(Path(sys.argv[1]), Path(sys.argv[2]), "every" in sys.argv)))
    else:
        told = run(every=True)
        print(json.dumps(told, indent=2))
        sys.exit(bool(told["wrong"]))

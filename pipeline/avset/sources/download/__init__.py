"""Fetch pieces of videos from sites.

A piece is read by range requests. A whole video, or one in segments, goes first into a folder of the item cache,
so that a killed download goes on where it was. Packets are cut out and remuxed without re-encoding.
"""

import fcntl
import io
import math
import random
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from avset.errors import TRANSIENT, ClipError
from avset.params import Download, digest
from avset.sources import Entry, Fetched
from avset.sources.download import sites
from avset.sources.download.excerpt import cut
from avset.sources.download.outcomes import understand
from avset.sources.download.remote import Reader, Remote
from avset.storage.cache import ItemCache
from avset.storage.files import make_folder, share

SUFFIX = ".mkv"
LONGEST_WAIT = 300.0  # s before the next try

Span = tuple[float, float]  # s of the video; the end may be inf


def fetch(entry: Entry, options: Any, target: Path, access: Download) -> Fetched:
    """Write the span of an entry's parts, or all of the video, as Matroska: the packets that the site has.

    `options.height` is the shorter side that is wanted (px). After a network failure or a refused address it is
    tried again with a fresh extraction, up to `access.retries` times, with growing waits. Call `settle` when the
    result is safe. ClipError says what the site said, or what is wrong with its bytes.
    """
    span = min((a for a, _ in entry.parts), default=0.0), max((b for _, b in entry.parts), default=math.inf)
    for attempt in range(access.retries + 1):
        try:
            _wait_for_turn(entry.origin, access.pace)
            return Fetched(_fetch(entry.origin, options.height, span, target, access))
        except Exception as error:
            failure, again = understand(error, _secrets(access))
        if not again or attempt == access.retries:
            raise failure
        time.sleep(min(access.pace * 2**attempt * random.uniform(0.5, 1.5), LONGEST_WAIT))
    raise AssertionError("the last attempt returns or raises")


def _fetch(address: str, height: int, span: Span, target: Path, access: Download) -> float:
    """One attempt. Returns the second of the video at which the timeline of `target` starts."""
    with sites.client(access, height) as client:
        info, formats = sites.extract(client, address, span[0])
        piece = span[1] < math.inf and span[1] - span[0] < (info.get("duration") or math.inf) / 2
        if piece and all(form["protocol"] in sites.DIRECT for form in formats):
            with suppress(io.UnsupportedOperation):  # the server ignores ranges: take all of it
                return _cut_remote([sites.remote(client, form) for form in formats], span, target)
        with _partial(address, height) as folder:
            paths = [sites.save(client, info, form, folder) for form in formats]
            return cut([partial(io.FileIO, path) for path in paths], *span, target)


def _cut_remote(remotes: list[Remote], span: Span, target: Path) -> float:
    """Cut a piece out of remote files, reading little more than it."""
    for remote in remotes:
        remote.block(0)
    try:
        return cut([partial(Reader, remote) for remote in remotes], *span, target)
    finally:
        for remote in remotes:
            remote.check()


@contextmanager
def _partial(address: str, height: int) -> Iterator[Path]:
    """The folder of what was fetched so far of a video, ours alone; gone if the block fails for good."""
    folder = _folder(address, height)
    with _alone(folder.with_suffix(".lock")):
        make_folder(folder)
        try:
            yield folder
        except Exception as error:
            if understand(error)[0].reason not in TRANSIENT:
                shutil.rmtree(folder)
            raise


def settle(entry: Entry, options: Any) -> None:
    """Drop what `fetch` keeps of a whole video until its result is safe, to go on from after a kill."""
    if _folder(entry.origin, options.height).exists():
        with _partial(entry.origin, options.height) as folder:
            shutil.rmtree(folder)


def _folder(address: str, height: int) -> Path:
    return ItemCache().root / "partial" / digest([address, height])


@contextmanager
def _alone(path: Path) -> Iterator[Any]:
    """Wait until no other process has this file locked; then it is ours, open, until the block ends."""
    make_folder(path.parent)
    with path.open("a+") as file:
        with suppress(OSError):  # of another user
            share(path)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _wait_for_turn(address: str, pace: float) -> None:
    """Sleep until the last download from the same host, by any process, started `pace` s ago or more."""
    try:
        host = urlsplit(address).hostname or ""
    except ValueError as error:
        raise ClipError("invalid", "the address is not one") from error
    with _alone(ItemCache().root / "pace" / re.sub(r"[^a-z0-9-]", "_", f"host-{host}")[:100]) as file:
        file.seek(0)
        with suppress(ValueError):
            time.sleep(min(max(float(file.read()) + pace - time.time(), 0.0), pace))
        file.truncate(0)
        file.write(repr(time.time()))


def _secrets(access: Download) -> tuple[str, ...]:
    """What must not stand in a detail."""
    found = {access.cookies, access.proxy}
    with suppress(ValueError):
        proxy = urlsplit(access.proxy or "")
        found |= {proxy.netloc, proxy.hostname, proxy.password}
    return tuple(sorted((text for text in found if text and len(text) > 3), key=len, reverse=True))

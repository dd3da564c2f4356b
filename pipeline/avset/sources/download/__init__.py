"""Fetch pieces of videos from sites.

A piece is read by range requests. A whole video, or one in segments, goes first into a folder of the item cache: after
a kill the download goes on there. Packets are cut out and remuxed without re-encoding.
"""

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

import filelock

from avset.errors import TRANSIENT, ClipError
from avset.params import Download, digest
from avset.sources import Entry, Fetched
from avset.sources.download import sites
from avset.sources.download.excerpt import cut
from avset.sources.download.outcomes import understand
from avset.sources.download.remote import Reader, RemoteFile
from avset.storage.cache import cache_folder
from avset.storage.files import clear, make_folder, own_file, share, write_atomic, writing
from avset.storage.reading import PatientFile

SUFFIX = ".mkv"
LONGEST_WAIT = 300.0  # s before the next try

Span = tuple[float, float]  # s of the video; the end may be inf


def fetch(entry: Entry, options: Any, target: Path, access: Download) -> Fetched:
    """Write the span of an entry's parts, or all of the video, as Matroska: the packets that the site has.

    `options.height` is the shorter side that is wanted (px). After a network failure or a refused address the download
    is tried again with a fresh extraction, up to `access.retries` times, with growing waits. Call `settle` when the
    result is safe. ClipError tells what the site said, or what is wrong with its bytes.
    """
    span = min((a for a, _ in entry.parts), default=0.0), max((b for _, b in entry.parts), default=math.inf)
    for attempt in range(access.retries + 1):
        try:
            _wait_for_turn(entry.origin, access.pace)
            return Fetched(_attempt(entry.origin, options.height, span, target, access))
        except Exception as error:
            failure, again = understand(error, _secrets(access))
        if not again or attempt == access.retries:
            raise failure
        time.sleep(min(access.pace * 2**attempt * random.uniform(0.5, 1.5), LONGEST_WAIT))
    raise AssertionError("the last attempt returns or raises")


def _attempt(address: str, height: int, span: Span, target: Path, access: Download) -> float:
    """One attempt. Returns the second of the video at which the timeline of `target` starts."""
    with sites.client(access, height) as client:
        info, formats = sites.extract(client, address, span[0])
        piece = span[1] < math.inf and span[1] - span[0] < (info.get("duration") or math.inf) / 2
        if piece and all(form["protocol"] in sites.DIRECT for form in formats):
            with suppress(io.UnsupportedOperation):  # the server ignores ranges: fetch the whole file
                return _cut_remote([sites.remote_file(client, form) for form in formats], span, target)
        with _partial(address, height) as folder:
            paths = [sites.save_format(client, info, form, folder) for form in formats]
            return cut([partial(PatientFile, path) for path in paths], *span, target)


def _cut_remote(remotes: list[RemoteFile], span: Span, target: Path) -> float:
    """Cut a piece out of remote files; little more than the piece is read."""
    for remote in remotes:
        sites.refuse_page(remote.block(0))
    try:
        return cut([partial(Reader, remote) for remote in remotes], *span, target)
    finally:
        for remote in remotes:
            remote.check()


@contextmanager
def _partial(address: str, height: int) -> Iterator[Path]:
    """The folder of what was fetched so far of a video, for this process alone. It goes if the block fails for good."""
    folder = _folder(address, height)
    with _locked(folder.with_suffix(".lock")):
        _without_links(folder)
        try:
            yield folder
        except Exception as error:
            if understand(error)[0].reason not in TRANSIENT:
                shutil.rmtree(folder)
            raise


def _without_links(folder: Path) -> None:
    """Make a folder in which all names are files of its own: a link that another user put there would be written to."""
    if folder.is_symlink():
        clear(folder)
    with writing(folder):
        make_folder(folder)
    for path in folder.iterdir():
        if not own_file(path):
            clear(path)


def settle(entry: Entry, options: Any) -> None:
    """Drop what `fetch` kept of a whole video. Call it when the result of `fetch` is safe."""
    if _folder(entry.origin, options.height).exists():
        with _partial(entry.origin, options.height) as folder:
            shutil.rmtree(folder)


def _folder(address: str, height: int) -> Path:
    return cache_folder("partial") / digest([address, height])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process has locked this file; then lock it until the block ends."""
    lock = filelock.FileLock(path)
    with writing(path):
        make_folder(path.parent)
        lock.acquire()
    try:
        with suppress(OSError):  # the file is of another user
            share(path)
        yield
    finally:
        lock.release()


def _wait_for_turn(address: str, pace: float) -> None:
    """Sleep until the last download from the same host, by any process, started `pace` s ago or more."""
    try:
        host = urlsplit(address).hostname or ""
    except ValueError as error:
        raise ClipError("invalid", "the address is not one") from error
    told = cache_folder("pace") / re.sub(r"[^a-z0-9-]", "_", f"host-{host}")[:100]
    with _locked(told.with_name(f"{told.name}.lock")):
        if own_file(told):
            with suppress(ValueError):
                time.sleep(min(max(float(told.read_text()) + pace - time.time(), 0.0), pace))
        write_atomic(told, repr(time.time()).encode(), lasting=False)


def _secrets(access: Download) -> tuple[str, ...]:
    """What must not stand in a detail, the longest first."""
    secrets = {access.cookies, access.proxy}
    with suppress(ValueError):
        proxy = urlsplit(access.proxy or "")
        secrets |= {proxy.netloc, proxy.hostname, proxy.password}
    return tuple(sorted((text for text in secrets if text and len(text) > 3), key=len, reverse=True))

"""A file behind an address as a file object: what is read is fetched in blocks, by HTTP range requests."""

import io
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from avset.errors import ClipError
from avset.storage.files import open_to_append, own_file
from avset.storage.reading import Positioned

BLOCK_BYTES = 1 << 18  # bytes
RUN = 8  # blocks of one request at most: their number doubles while blocks are missed in order
KEPT = 64  # blocks in memory
CHUNK = 1 << 23  # bytes of one request when a whole file is fetched; sites slow down longer requests
READ_BYTES = 1 << 13  # bytes read at once; a connection that breaks loses less
BREAKS = 5  # connections that may break within one range, each after at least one byte


class RemoteFile:
    """A remote file. `request(start, end)` asks for its bytes [start, end), and answers with `status`, `headers`,
    `read(amount)` and `close()`.

    Their exceptions go through, save those in `broken`: the connection broke, and the rest is asked for if at least
    one byte came. ClipError("network") if the lengths are wrong or the file changes; io.UnsupportedOperation if the
    server ignores ranges.
    """

    def __init__(self, request: Callable[[int, int], Any], broken: tuple[type[Exception], ...] = (OSError,)):
        self.request, self.broken = request, broken
        self.requests = self.bytes = 0  # made; received
        self.failure: Exception | None = None  # of a reader
        self.version: tuple[int, str] | None = None  # size in bytes, and what the server calls this version
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next, self._run = -1, 1

    @property
    def size(self) -> int:
        """Bytes of the file."""
        if self.version is None:
            for _ in self.stream(0, 1):
                pass
        assert self.version is not None
        return self.version[0]

    def stream(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes [start, end) of the file in pieces; fewer if the file ends before."""
        position, breaks = start, 0
        while position < (end if self.version is None else min(end, self.version[0])):
            before = position
            try:
                self.requests += 1
                with closing(self.request(position, end)) as response:
                    stop = min(end, self._accept(response, position))
                    while position < stop and (piece := response.read(min(READ_BYTES, stop - position))):
                        position += len(piece)
                        self.bytes += len(piece)
                        yield piece
            except self.broken:
                breaks += 1
                if position == before or breaks > BREAKS:
                    raise
            if position == before:
                raise ClipError("network", f"no bytes came after byte {position}")

    def _accept(self, response: Any, position: int) -> int:
        """The size of the file; an error if the response starts elsewhere, or if the file had another size before."""
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
        if response.status != 206 or content_range is None:
            raise io.UnsupportedOperation("the server gives no ranges of a file")
        size = int(content_range[2])
        if int(content_range[1]) != position or (self.version and size != self.version[0]):
            raise ClipError("network", "the server gave other bytes than those asked for")
        if self.version is None:
            self.version = size, response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        return size

    def block(self, index: int) -> bytes:
        """The block that starts at byte index * BLOCK_BYTES; empty after the end of the file."""
        if index not in self._blocks:
            self._run = min(2 * self._run, RUN) if index == self._next else 1
            stop = next((i for i in range(index + 1, index + self._run) if i in self._blocks), index + self._run)
            data = b"".join(self.stream(index * BLOCK_BYTES, stop * BLOCK_BYTES))
            for i in range(index, stop):
                self._blocks[i] = data[(i - index) * BLOCK_BYTES : (i - index + 1) * BLOCK_BYTES]
            self._next = stop
        self._blocks.move_to_end(index)
        while len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)
        return self._blocks[index]

    def save(self, path: Path) -> None:
        """Append to `path` the bytes of the file that it lacks."""
        have = path.lstat().st_size if own_file(path) else 0
        with open_to_append(path) as file:
            for start in range(have, self.size, CHUNK):
                for piece in self.stream(start, start + CHUNK):
                    file.write(piece)
                    file.flush()  # so that a killed process loses nothing

    def check(self) -> None:
        """Raise the failure of a reader, if there was one."""
        if self.failure is not None:
            raise self.failure


class Reader(Positioned):
    """A position in a remote file; any number of readers share its blocks.

    A C library that reads would drop an exception. So after a failure the reader is at its end: call
    `RemoteFile.check` when the library has finished.
    """

    def __init__(self, remote: RemoteFile):
        self.remote, self.length = remote, remote.size

    def check(self) -> None:
        """Raise the failure of the file, if there was one."""
        self.remote.check()

    def readinto(self, buffer: Any) -> int:
        if self.remote.failure is not None:
            return 0
        index, offset = divmod(self.at, BLOCK_BYTES)
        try:
            piece = self.remote.block(index)[offset : offset + len(buffer)]
        except Exception as error:
            self.remote.failure = error
            return 0
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

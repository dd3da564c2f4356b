import io
from dataclasses import dataclass, field

import pytest

from avset.errors import ClipError
from avset.sources.download.remote import BLOCK_BYTES, BREAKS, Reader, RemoteFile

CONTENT = bytes(range(251)) * 20000  # 5 MB, no two blocks alike


@dataclass
class Answer:
    status: int
    headers: dict
    body: io.BytesIO
    fails: bool = False
    closed: bool = False

    def read(self, amount: int, /) -> bytes:
        piece = self.body.read(amount)
        if not piece and self.fails:
            raise ConnectionResetError("reset")
        return piece

    def close(self) -> None:
        self.closed = True


@dataclass
class Site:
    """Answers requests for ranges; each connection breaks after `most` bytes."""

    content: bytes = CONTENT
    most: int = 1 << 30
    tag: str = "1"
    status: int = 206
    log: list = field(default_factory=list)
    answers: list = field(default_factory=list)

    def request(self, start: int, end: int) -> Answer:
        self.log.append((start, end))
        body = self.content[start:end]
        headers = {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(self.content)}", "ETag": self.tag}
        answer = Answer(self.status, headers, io.BytesIO(body[: self.most]), len(body) > self.most)
        self.answers.append(answer)
        return answer


def test_a_reader_is_a_file():
    site = Site()
    reader = Reader(RemoteFile(site.request))
    file = io.BufferedReader(reader)
    for place, whence in ((0, 0), (3 * BLOCK_BYTES - 5, 0), (-7, 2), (100, 0), (len(CONTENT) + 9, 0)):
        at = file.seek(place, whence)
        assert file.read(1000) == CONTENT[at : at + 1000]
    file.seek(0)
    assert file.read() == CONTENT
    assert all(answer.closed for answer in site.answers)


def test_only_what_is_read_is_fetched_and_once():
    site = Site()
    remote = RemoteFile(site.request)
    one, two = Reader(remote), Reader(remote)
    for reader in (one, two):
        reader.seek(-10, io.SEEK_END)
        reader.read(10)
        reader.seek(0)
        reader.read(10)
    assert remote.bytes <= 2 * BLOCK_BYTES + 1
    assert remote.requests == 3  # the size, the tail, the head
    for reader in (one, two):
        while reader.read(1 << 15):
            pass
    assert remote.bytes <= len(CONTENT) + 1
    assert remote.requests < 3 + len(CONTENT) / BLOCK_BYTES / 2  # longer and longer ones


def test_a_connection_that_breaks_is_taken_up_where_it_broke():
    site = Site(most=100_000)
    remote = RemoteFile(site.request)
    data = b"".join(remote.stream(50, 400_050))
    assert data == CONTENT[50:400_050]
    assert remote.bytes < 400_000 + 1
    assert [start for start, _ in site.log] == sorted(start for start, _ in site.log)


def test_it_gives_up_on_connections_that_bring_nothing_or_too_little():
    with pytest.raises(ConnectionResetError):
        list(RemoteFile(Site(most=0).request).stream(0, 10))
    site = Site(most=10_000)
    with pytest.raises(ConnectionResetError):
        list(RemoteFile(site.request).stream(0, 1_000_000))
    assert len(site.log) == BREAKS + 1


def test_a_body_that_ends_early_without_a_word():
    site = Site(content=CONTENT[:100_000])
    site.content = site.content[:60_000]
    remote = RemoteFile(site.request)
    remote.version = (100_000, "1")
    with pytest.raises(ClipError, match="network"):
        list(remote.stream(0, 100_000))


def test_a_file_that_changes_or_has_no_ranges_is_told():
    site = Site()
    remote = RemoteFile(site.request)
    remote.block(0)
    site.content += b"more"
    with pytest.raises(ClipError, match="network"):
        remote.block(3)
    for wrong in (Site(status=200), Site(status=204)):
        with pytest.raises(io.UnsupportedOperation):
            RemoteFile(wrong.request).block(0)


def test_a_failure_of_a_reader_is_its_end_until_it_is_asked():
    site = Site()
    remote = RemoteFile(site.request)
    reader = Reader(remote)
    assert reader.read(10)
    site.most = 0
    reader.seek(2 * BLOCK_BYTES)
    assert reader.read(10) == b""
    reader.seek(0)
    assert reader.read(10) == b""
    with pytest.raises(ConnectionResetError):
        remote.check()


def test_saving_goes_on_where_it_was(tmp_path):
    site = Site(most=1 << 20)
    path = tmp_path / "whole"
    path.write_bytes(CONTENT[:1_000_000])
    remote = RemoteFile(site.request)
    remote.save(path)
    assert path.read_bytes() == CONTENT
    assert min(start for start, end in site.log if end > 1) == 1_000_000
    asked = len(site.log)
    remote.save(path)
    assert len(site.log) == asked

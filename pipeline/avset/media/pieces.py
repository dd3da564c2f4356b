"""The files in a file of a user: where each begins and ends, and where it says that it ends.

Recordings are joined by writing one behind the other (chained Ogg; `cat`), and copies break off. The readers of
libraries stop at the end of the first part, and take a broken end for the end: here the structure of the file is read,
and no sound.
"""

import io
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avset.storage.reading import PatientFile, Positioned, closing_checked

AT_ONCE = 2**20  # bytes that are read
LEAST = 3000  # bytes of an MP3 behind another, about two frames
SLOPPY = 64  # bytes that may be missing: some writers count their header too
TOLD_LATER = ((0, 0), (0x7FFFEF00, 0x80000000), (0xFFFFFF00, 0xFFFFFFFF), (2**63 - 2**32, 2**64 - 1))  # no lengths
W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
ASF_FILE = b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65"
BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"mfra", b"free", b"skip", b"wide", b"uuid", b"udta"}
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")  # of a frame of MPEG audio
XING = rb"(?:.{9}|.{11}|.{17}|.{19}|.{32}|.{34})(?:Xing|Info)\0\0\0|.{32}VBRI\0"
HEADS = [  # how a file begins, and what begins the next one
    (rb"RIFF.{4}WAVE", rb"RIFF.{4}WAVE(?:fmt |JUNK|bext|LIST|fact)"),
    (rb"(?:RF64|BW64).{4}WAVE", rb"(?:RF64|BW64).{4}WAVEds64"),
    (rb"RIFF.{4}AVI ", rb"RIFF.{4}AVI LIST"),
    (rb"FORM.{4}AIF[FC]", rb"FORM.{4}AIF[FC](?:COMM|FVER|[A-Z]{4}\0\0)"),
    (rb"\.snd", rb"\.snd\0\0.{6}\0\0\0.\0{1,2}.{2,3}\0\0\0"),
    (rb"caff", rb"caff\0\x01\0\0desc"),
    (rb"fLaC", rb"fLaC[\0\x80]\0\0\x22"),
    (re.escape(W64), re.escape(W64)),
    (re.escape(ASF), re.escape(ASF)),
    (rb".{4}ftyp", rb"\0\0\0[\x08-\x80]ftyp[ -~]{4}.{4}(?:[ -~]{4})*\0"),
    (re.escape(EBML), re.escape(EBML) + rb".{1,60}?\x42\x82.(?:webm|matroska)"),
    (rb"MAC ", rb"MAC [\x80-\xff]\x0f\0\0"),
    (rb"TTA1", rb"TTA1[\x01\x02]\0"),
    (rb"ID3|" + SYNC.pattern, SYNC.pattern + rb".{2}(?:" + XING + rb")"),
]
BITRATES = {  # kbit/s of a frame by its four bits: MPEG-1 or not, layer
    (True, 1): range(32, 449, 32),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class Piece:
    """A file in a file, from one byte to another. It says that it ends at `declared`: beyond `end` if it is cut."""

    start: int
    end: int
    declared: int
    samples: int  # where its samples begin, if that is known, else `start`
    patch: tuple[int, bytes] = (0, b"")  # a length that the writer did not know yet: where, and the right bytes
    counted: bool = True  # its header has the number of its samples (an MP3 may have none)


class PieceReader(Positioned):
    """A piece as a file of its own."""

    def __init__(self, path: Path, piece: Piece):
        self._raw, self._piece, self.length = PatientFile(path), piece, piece.end - piece.start
        self._file = io.BufferedReader(self._raw)

    def check(self) -> None:
        """As of a `PatientFile`."""
        self._raw.check()

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        at = self._piece.start + self.at
        self._file.seek(at)
        data = bytearray(self._file.read(max(0, min(len(buffer), self._piece.end - at))))
        where, right = self._piece.patch
        for byte in range(max(where, at), min(where + len(right), at + len(data))):
            data[byte - at] = right[byte - where]
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def pieces(path: Path) -> list[Piece]:
    """The files in a file, in order: most often one, the whole file."""
    with closing_checked(PatientFile(path)) as whole:  # an error of the disk in a mapping would end the process
        size = sum(map(len, iter(lambda: whole.read(AT_ONCE), b"")))
    if not size:
        return [Piece(0, 0, 0, 0)]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == b"OggS":
            starts, declared = _links(data)
            ends = [*starts[1:], size]
            last = len(starts) - 1
            return [
                Piece(a, b, declared if i == last else b, a) for i, (a, b) in enumerate(zip(starts, ends, strict=True))
            ]
        starts = _starts(data)
        return [_piece(data, a, b) for a, b in zip(starts, [*starts[1:], size], strict=True)]


def _links(data: Any) -> tuple[list[int], int]:
    """Where the links of a chained Ogg file begin, and where its last page says that it ends."""
    starts, at, end, opened = [], 0, 0, False
    while at >= 0 and at + 27 <= len(data):
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        first = bool(data[at + 5] & 2)  # the page begins a stream; the streams of a link begin together
        if first and not opened:
            starts.append(at)
        opened, end = first, at + 27 + data[at + 26] + sum(lacing)
        at = data.find(b"OggS\0", end)
    return starts or [0], end


def _starts(data: Any) -> list[int]:
    """Where files begin that stand one behind the other."""
    begins = next((head for mark, head in HEADS if re.match(mark, data[:16], re.DOTALL)), None)
    if begins is None:
        return [0]
    found = [match.start() for match in re.finditer(begins, data, re.DOTALL)]
    if re.match(rb"ID3|\xff", data[:3]):  # the head of an MP3 follows its tags, and is no duty
        first, length = _after_tags(data, 0), 0
        heads, found = sorted({first, *found}), []
        for at, following in zip(heads, [*heads[1:], len(data)], strict=True):
            found.append(at)
            _, length = _mp3_head(data, at)
            end = at + length
            if length and _after_tags(data, end) + LEAST < following and SYNC.match(data, _after_tags(data, end)):
                found.append(end)
        return [0, *found[1:]]
    return [0, *(at for at in found if at > 0)]


def _piece(data: Any, start: int, end: int) -> Piece:
    """What a piece says of its end."""
    head = data[start : start + 16]
    if re.match(rb"ID3|\xff", head):
        frames, length = _mp3_head(data, at := _after_tags(data, start))
        told = at + length if length else max(at, _last_frame_end(data, at, end))
        return Piece(start, end, end if frames else told, at, counted=frames > 0)
    if head[4:8] in BOXES:
        return Piece(start, end, max([end, *_boxes(data, start, end)]), start)
    if head.startswith(EBML):
        return Piece(start, end, max(end, _segment_end(data, start, end)), start)
    if head == ASF:
        at = data.find(ASF_FILE, start, min(end, start + 65536))
        told = at >= 0 and at + 92 <= end and not data[at + 88] & 1  # bit 0: written as it was broadcast
        return Piece(start, end, max(end, start + struct.unpack_from("<Q", data, at + 40)[0]) if told else end, start)
    return _samples_of(data, start, end)


def _samples_of(data: Any, start: int, end: int) -> Piece:
    """A piece with its samples in a chunk. Sizes that mean "not known yet" are set right."""
    chunk = _sample_chunk(data, start, end)
    if chunk is None:
        return Piece(start, end, end, start)
    field, layout, extra, samples = chunk
    size = struct.unpack_from(layout, data, field)[0] % 2**64
    if any(low <= size <= high for low, high in TOLD_LATER):
        size = max(0, end - samples) + extra
        most = 256 ** struct.calcsize(layout) - 1
        return Piece(start, end, end, samples, (field, struct.pack(layout, min(size, most))))
    told = samples + size - extra
    return Piece(start, end, told if told > end + SLOPPY else end, samples)


def _sample_chunk(data: Any, start: int, end: int) -> tuple[int, str, int, int] | None:
    """Of a chunk of samples: where its size is, the size's layout, what the size counts too much, the first sample."""
    head = data[start : start + 16]
    if head[:4] == b".snd" and end - start >= 24:
        return start + 8, ">I", 0, start + struct.unpack_from(">I", data, start + 4)[0]
    kinds = {
        b"RIFF": (12, 4, "<I", 2, b"data", 0),
        b"RF64": (12, 4, "<I", 2, b"data", 0),
        b"BW64": (12, 4, "<I", 2, b"data", 0),
        b"FORM": (12, 4, ">I", 2, b"SSND", 0),
        b"caff": (8, 4, ">q", 1, b"data", 0),
        b"riff": (40, 16, "<Q", 8, b"data", 24),
    }
    if head[:4] not in kinds or (head[:4] == b"RIFF" and head[8:12] != b"WAVE"):
        return None
    first, width, layout, unit, wanted, extra = kinds[head[:4]]
    at, header = start + first, width + struct.calcsize(layout)
    while at + header <= end:
        name, size = data[at : at + width], struct.unpack_from(layout, data, at + width)[0]
        if name.startswith(wanted):
            if head[:4] in (b"RF64", b"BW64") and size == 0xFFFFFFFF:
                return start + 28, "<Q", 0, at + header
            return at + width, layout, extra, at + header
        at += header + -(-max(size - extra, 0) // unit) * unit
    return None


def _boxes(data: Any, start: int, end: int) -> Iterator[int]:
    """Where the outer boxes of an MP4 end."""
    at = start
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1 and at + 16 <= end:
            size = struct.unpack_from(">Q", data, at + 8)[0]
        if size < 8 or kind not in BOXES:  # 0: up to the end of the file
            return
        at += size
        yield at


def _segment_end(data: Any, start: int, end: int) -> int:
    """Where the segment of a Matroska file ends; 0 if it does not say."""
    at = data.find(SEGMENT, start, min(end, start + 4096)) + 4
    width = 9 - data[at].bit_length() if 4 <= at < end else 9
    if width > 8 or at + width > end:
        return 0
    size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width + size if size != (1 << 7 * width) - 1 else 0


def _after_tags(data: Any, at: int) -> int:
    """The byte behind the ID3 tags at a place."""
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 127
        at += 10 + size
    return at


def _mp3_head(data: Any, at: int) -> tuple[int, int]:
    """Frames and bytes of an MP3 as the first frame tells them; 0 where it does not."""
    found = re.search(SYNC.pattern + rb".{2}(?:" + XING + rb")", data[at : at + 4096], re.DOTALL)
    if found is None:
        return 0, 0
    told = at + found.end()
    if data[told - 5 : told - 1] == b"VBRI":  # version, delay, quality, bytes, and frames that libsndfile takes not
        return 0, struct.unpack(">I", data[told + 5 : told + 9].ljust(4, b"\0"))[0]
    flags, *values = struct.unpack_from(">BII", data[told : told + 9].ljust(9, b"\0"))
    frames = values.pop(0) if flags & 1 else 0
    return frames, values.pop(0) if flags & 2 else 0


def _last_frame_end(data: Any, at: int, end: int) -> int:
    """Where the last frame of MPEG audio ends, if its frames follow each other from a place on."""
    while at + 4 <= end and SYNC.match(data[at : at + 2]):
        kind, layer, rates = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3), data[at + 2]
        if rates >> 4 in (0, 15) or rates >> 2 & 3 == 3:  # of a length that is not told, or no frame
            break
        bits = BITRATES[kind == 3, layer][(rates >> 4) - 1] * 1000
        rate = (44100, 48000, 32000)[rates >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[kind]
        padding = rates >> 1 & 1
        if layer == 1:
            at += 4 * (12 * bits // rate + padding)
        else:
            at += (72 if layer == 3 and kind != 3 else 144) * bits // rate + padding
        at = _after_tags(data, at)
    return at

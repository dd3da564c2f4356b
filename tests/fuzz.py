"""Damaged media files, through the functions of the stages: `python tests/fuzz.py --count 500 --seed 0`.

Every file is read twice by a child process: probed, cut into clips, the pictures and the sound of each decoded.
It ends as a clip or by a reason. The table counts crashes, hangs, other exceptions, and what grows.
"""

import argparse
import io
import json
import os
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT = 20.0  # s for one file
MEMORY = 12 * 2**30  # bytes that a child may map
CLIPS = 20  # of a file, from its two ends
KINDS = {  # suffix, codecs and options of the good files
    "mp4": (".mp4", "libx264", "aac", {}),
    "fragments": (".mp4", "libx265", "libopus", {"movflags": "frag_keyframe+empty_moov"}),
    "mov": (".mov", "mjpeg", "pcm_s16le", {"movflags": "disable_chpl"}),
    "mkv": (".mkv", "libx264", "flac", {}),
    "vorbis": (".mkv", "mpeg4", "vorbis", {}),
    "webm": (".webm", "libvpx-vp9", "libopus", {}),
    "live": (".webm", "libvpx", "libopus", {"live": "1"}),
    "av1": (".mp4", "libsvtav1", "libmp3lame", {}),
    "avi": (".avi", "mpeg4", "libmp3lame", {}),
    "raw": (".avi", "rawvideo", "pcm_s16le", {}),
    "ts": (".ts", "libx264", "aac", {}),
    "flv": (".flv", "flv", "libmp3lame", {}),
}
MASTERS = {0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0xE1, 0x1549A966, 0x1F43B675, 0x1C53BB6B, 0x114D9B74, 0xA0, 0xBB, 0xB7}
NESTED = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"mvex", b"moof", b"traf", b"udta", b"mfra"}
EXTREMES = [b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7, b"\0" * 7 + b"\1", b"\0\0\0\1\0\0\0\1",
            struct.pack(">d", float("nan")), struct.pack(">d", float("inf")), struct.pack(">d", -1e300),
            struct.pack("<i", -1) * 2, struct.pack("<ii", 1, 0), struct.pack(">ii", 2**30, 2**30)]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One damaged file."""

    name: str  # the good file and what was done to it
    suffix: str
    data: bytes


@dataclass(frozen=True)
class Element:
    """A structure of a container: where it, its size field and its content start, and where it ends."""

    start: int
    size: int
    body: int
    end: int


def good(folder: Path) -> dict[str, Path]:
    """The files that are damaged later: 1.2 s, 64 x 64 pixels, a tone."""
    from media import make_video

    made = {}
    for name, (suffix, vcodec, acodec, options) in KINDS.items():
        rate = 48000 if acodec == "libopus" else 22050
        pix_fmt = "bgr24" if vcodec == "rawvideo" else None
        size, layout = ((16, 16), "mono") if vcodec == "rawvideo" else ((64, 64), "stereo")
        made[name] = make_video(
            folder / f"{name}{suffix}", 1.2, size=size, sample_rate=rate, layout=layout, vcodec=vcodec, acodec=acodec,
            gop=5, options=options, pix_fmt=pix_fmt,
        )  # fmt: skip
    return made


def elements(data: bytes) -> list[Element]:
    """The structures of a media file, by what its first bytes say it is."""
    if data[4:8] == b"ftyp":
        return list(_boxes(data, 0, len(data)))
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return list(_ebml(data, 0, len(data)))
    if data[:4] == b"RIFF":
        return list(_riff(data, 0, len(data)))
    if data[:3] == b"FLV":
        return list(_tags(data))
    return [Element(at, at + 1, at + 4, at + 188) for at in range(0, len(data), 188)]


def _boxes(data: bytes, at: int, end: int) -> Iterator[Element]:
    while at + 8 <= end:
        stop = min(at + max(int.from_bytes(data[at : at + 4], "big"), 8), end)
        yield Element(at, at, at + 8, stop)
        if data[at + 4 : at + 8] in NESTED:
            yield from _boxes(data, at + 8, stop)
        at = stop


def _vint(data: bytes, at: int) -> int:
    """Length of an EBML number."""
    return 9 - data[at].bit_length() if data[at] else 1


def _ebml(data: bytes, at: int, end: int) -> Iterator[Element]:
    while at + 2 <= end:
        size = at + _vint(data, at)
        body = size + _vint(data, min(size, len(data) - 1))
        value = int.from_bytes(data[size:body], "big") & ~(1 << 7 * (body - size))
        stop = end if value == (1 << 7 * (body - size)) - 1 else min(body + value, end)
        yield Element(at, size, body, stop)
        if int.from_bytes(data[at:size], "big") in MASTERS:
            yield from _ebml(data, body, stop)
        at = max(stop, at + 2)


def _riff(data: bytes, at: int, end: int) -> Iterator[Element]:
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        stop = min(at + 8 + size + size % 2, end)
        yield Element(at, at + 4, at + 8, stop)
        if data[at : at + 4] in (b"RIFF", b"LIST"):
            yield from _riff(data, at + 12, stop)
        at = stop


def _tags(data: bytes) -> Iterator[Element]:
    at = 13
    while at + 11 <= len(data):
        stop = min(at + 15 + int.from_bytes(data[at + 1 : at + 4], "big"), len(data))
        yield Element(at, at + 1, at + 11, stop)
        at = stop


def truncations(name: str, suffix: str, data: bytes) -> Iterator[Case]:
    """Ends at the border of every structure, and right behind its header."""
    cuts = {at for e in elements(data) for at in (e.start, e.body, (e.body + e.end) // 2)}
    for at in sorted(cuts):
        yield Case(f"{name} cut at {at}", suffix, data[:at])


def strangers(folder: Path, port: int) -> Iterator[Case]:
    """What is no media file, files under a wrong name, and playlists that must not be followed."""
    film, whole = folder / "ts.ts", {path.stem: path.read_bytes() for path in folder.iterdir()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as pack:
        pack.writestr("film.mp4", whole["mp4"])
    tests = {
        "empty": b"", "one byte": b"\0", "zeros": bytes(50_000), "text": b"no film at all\n" * 2000,
        "html": b"<!DOCTYPE html><html><body>" + b"<p>sign in</p>" * 500, "zip": archive.getvalue(),
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\2\0\0\0" + bytes(100),
        "noise": random.Random(0).randbytes(50_000), "id3": b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(3000),
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{film}\n#EXT-X-ENDLIST\n".encode(),
        "m3u8 to the net": f"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n".encode(),
        "ffconcat": f"ffconcat version 1.0\nfile '{film}'\n".encode(),
        "ffconcat to the net": f"ffconcat version 1.0\nfile http://127.0.0.1:{port}/a.ts\n".encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "dash": f'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:{port}/</BaseURL></MPD>'.encode(),
        "srt": b"1\n00:00:00,100 --> 00:00:02,000\nla la la\n", "ftyp": b"\0\0\0\x18ftypisom" + bytes(12),
    }  # fmt: skip
    for name, data in tests.items():
        for suffix in (".mp4", ".mkv", ".m3u8" if "m3u8" in name else ".ts"):
            yield Case(f"{name} as {suffix}", suffix, data)
    for name, data in whole.items():
        for suffix in (".avi", ".webm", ".txt", ".png"):
            yield Case(f"whole {name} as {suffix}", suffix, data)
        for other, more in whole.items():
            yield Case(f"{name} then {other}", Path(KINDS[name][0]).suffix, data + more)


def damaged(rng: random.Random, whole: dict[str, bytes]) -> Case:
    """A good file after one to three random wounds."""
    name = rng.choice(sorted(whole))
    data, done = bytearray(whole[name]), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        wound = rng.choice(WOUNDS)
        done.append(wound.__name__)
        parts = elements(bytes(data))
        if not parts:
            break
        wound(rng, data, parts)
    if rng.random() < 0.05:
        other = whole[rng.choice(sorted(whole))]
        data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]
        done.append("spliced")
    return Case(f"{name} {'+'.join(done)}", KINDS[name][0], bytes(data))


def _spot(rng: random.Random, data: bytearray, parts: list[Element]) -> int:
    """A place in a file: in the first kilobytes, in a structure's header, at the end, or anywhere."""
    part = rng.choice(parts)
    places = (rng.randrange(min(len(data), 1500)), min(part.start + rng.randrange(40), len(data) - 1),
              max(len(data) - 1 - rng.randrange(1500), 0), rng.randrange(len(data)))  # fmt: skip
    return rng.choice(places)


def flips(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        data[_spot(rng, data, parts)] ^= 1 << rng.randrange(8)


def storm(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    for _ in range(len(data) // 200):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def field_(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    part = rng.choice([p for p in parts if p.end - p.body < 400] or parts)
    at, value = part.body + 4 * rng.randrange(max((part.end - part.body) // 4, 1)), rng.choice(EXTREMES)
    data[at : at + 4] = value[:4]


def number(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    part = rng.choice([p for p in parts if p.end - p.body in (1, 2, 3, 4, 8)] or parts)
    width = min(part.end - part.body, 8)
    data[part.body : part.body + width] = rng.choice(EXTREMES)[:width] if rng.random() < 0.7 else rng.randbytes(width)


def size(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    part = rng.choice(parts)
    width = min(max(part.body - part.size, 1), 4)
    value = rng.choice(EXTREMES)[:width] if rng.random() < 0.6 else rng.randbytes(width)
    data[part.size : part.size + width] = value


def swap(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    one, two = sorted((rng.choice(parts), rng.choice(parts)), key=lambda p: p.start)
    if one.end <= two.start:
        moved = data[two.start : two.end] + data[one.end : two.start] + data[one.start : one.end]
        data[one.start : two.end] = moved


def double(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    part = rng.choice(parts)
    data[part.end : part.end] = data[part.start : part.end]


def remove(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    part = rng.choice(parts)
    del data[part.start : part.end]


def blank(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    at, length = _spot(rng, data, parts), rng.choice((4, 16, 188, 1000, 5000))
    length = min(length, len(data) - at)
    data[at : at + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))


def hole(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    at = _spot(rng, data, parts)
    del data[at : at + rng.choice((1, 2, 4, 100, 2000))]


def cut(rng: random.Random, data: bytearray, parts: list[Element]) -> None:
    del data[rng.randrange(len(data)) :]


WOUNDS: list[Callable[[random.Random, bytearray, list[Element]], None]]
WOUNDS = [flips, flips, storm, field_, field_, number, number, size, size, swap, double, remove, blank, hole, cut]


def corpus(folder: Path, count: int, seed: int, port: int = 9) -> Iterator[Case]:
    """`count` damaged files, the same for the same seed: a third are strangers and truncations, as long as
    there are any, the others have random wounds."""
    whole = {path.stem: path.read_bytes() for path in sorted(folder.iterdir())}
    rng = random.Random(seed)
    listed = list(strangers(folder, port))
    listed += [case for name, data in whole.items() for case in truncations(name, KINDS[name][0], data)]
    rng.shuffle(listed)
    for number in range(count):
        yield listed.pop() if listed and number % 3 == 0 else damaged(rng, whole)


def outcome(path: Path) -> tuple[str, str, int]:
    """Reason or "clip", what was seen, and the number of clips, as the stages make them."""
    from avset.errors import AvsetError, ClipError
    from avset.media.container import probe
    from avset.media.frames import decode_frames, frame_times
    from avset.media.recordings import read_blocks
    from avset.media.waveforms import decode_audio
    from avset.sources.clips import cells as grid

    with suppress(AvsetError):
        assert all(block.size for block, _ in read_blocks(path))
    try:
        found = probe(path)
        assert all(isinstance(value, int | float) and 0 <= value < 1e13 for value in vars(found).values()), found
        cells = grid(0.0, found.duration, 10.0, 0.3)
    except ClipError as error:
        return error.reason, error.detail, 0
    outcomes = []
    for start, seconds in cells[:CLIPS] + cells[CLIPS:][-CLIPS:]:
        try:
            pictures = decode_frames(path, frame_times(start, seconds, 3, 1.0), 64)
            sound = decode_audio(path, start, seconds, 11025, -60.0)
            assert pictures.shape == (3, 64, 64, 3) and sound.shape == (round(seconds * 11025),)
            outcomes.append(("clip", ""))
        except ClipError as error:
            outcomes.append((error.reason, error.detail))
    return *min(outcomes, key=lambda told: told[0] != "clip"), len(cells)


def child() -> None:
    """Reads paths from stdin, and writes what became of them."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        began = time.monotonic()
        try:
            reason, detail, clips = outcome(Path(json.loads(line)))
        except Exception as error:
            reason, detail, clips = "EXCEPTION", f"{type(error).__name__}: {error}", 0
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        told = {"reason": reason, "detail": detail, "clips": clips, "seconds": time.monotonic() - began,
                "files": len(list(Path("/proc/self/fd").iterdir())), "memory": pages * resource.getpagesize(),
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}  # fmt: skip
        print(json.dumps(told), flush=True)


class Reader:
    """A child process that reads files, started anew when it dies or hangs."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> dict[str, Any]:
        """What became of a file."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, bufsize=1,
            )  # fmt: skip
            self.read(path.with_name("absent"))  # its imports are not the file's time
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        limit = LIMIT if path.name != "absent" else 10 * LIMIT
        line = self.process.stdout.readline() if select.select([self.process.stdout], [], [], limit)[0] else None
        if line:
            return json.loads(line)
        self.close()
        return {"reason": "HANG" if line is None else "CRASH", "detail": "", "clips": 0, "seconds": LIMIT}

    def close(self) -> None:
        """End the child."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@dataclass
class Report:
    """What became of a corpus."""

    files: int = 0
    clips: int = 0
    most: tuple[int, str] = (0, "")  # clips of one file
    reasons: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # crashes, hangs, other exceptions, with the case
    slowest: tuple[float, str] = (0.0, "")
    peak: int = 0  # bytes, of a child
    opened: int = 0  # files that the second reading of all leaves open
    grown: int = 0  # bytes that it adds
    touched: list[str] = field(default_factory=list)  # files that changed, connections

    def table(self) -> str:
        """As text."""
        rows = [("files", self.files), ("clips", self.clips), ("most of one file", "{}, {}".format(*self.most)),
                *sorted((name, number) for name, number in self.reasons.items() if name.islower()),
                ("crashes", self.reasons["CRASH"]), ("hangs", self.reasons["HANG"]),
                ("other exceptions", self.reasons["EXCEPTION"]), ("slowest", "{:.2f} s, {}".format(*self.slowest)),
                ("peak memory", f"{self.peak / 2**20:.0f} MiB"), ("files left open", self.opened),
                ("memory grown", f"{self.grown / 2**20:.1f} MiB"),
                ("touched", ", ".join(self.touched) or "nothing")]  # fmt: skip
        return "\n".join(f"{name:18}{value}" for name, value in rows)


def run(count: int, seed: int, keep: Path | None = None) -> Report:
    """Make the corpus in a folder of its own and read it twice; `keep` gets the files that were not handled."""
    report, reader = Report(), Reader()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, socket.create_server(("127.0.0.1", 0)) as server:
        folder, port = Path(name), server.getsockname()[1]
        (folder / "good").mkdir()
        (folder / "bad").mkdir()
        good(folder / "good")
        cases = list(corpus(folder / "good", count, seed, port))
        paths = [folder / "bad" / f"{i}{case.suffix}" for i, case in enumerate(cases)]
        for path, case in zip(paths, cases, strict=True):
            path.write_bytes(case.data)
        before = _listing(folder)
        levels: list[tuple[int, int]] = []
        for _ in range(2):
            last: dict[str, Any] = {}
            for path, case in zip(paths, cases, strict=True):
                told = reader.read(path)
                last = told if "memory" in told else last
                if not levels:
                    _count(report, case, told, keep, path)
            levels.append((last["files"], last["memory"]))
        report.opened, report.grown = levels[1][0] - levels[0][0], levels[1][1] - levels[0][1]
        report.touched = sorted(f"{path}" for path, _ in before ^ _listing(folder))
        if select.select([server], [], [], 0)[0]:
            report.touched.append("the network")
    reader.close()
    return report


def _count(report: Report, case: Case, told: dict[str, Any], keep: Path | None, path: Path) -> None:
    report.files += 1
    report.reasons[told["reason"]] += 1
    report.clips += told["clips"]
    report.most = max(report.most, (told["clips"], case.name))
    report.slowest = max(report.slowest, (told["seconds"], case.name))
    report.peak = max(report.peak, told.get("peak", 0))
    if told["reason"].isupper():
        report.faults.append(f"{told['reason']} {path.name} ({case.name}): {told['detail']}")
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / path.name).write_bytes(case.data)


def _listing(folder: Path) -> set[tuple[Path, int]]:
    return {(path, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="directory for the files that crash, hang or raise")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    began = time.monotonic()
    report = run(options.count, options.seed, options.keep)
    print(report.table())
    print(f"{'seconds':18}{time.monotonic() - began:.0f}", *report.faults, sep="\n")
    sys.exit(bool(report.faults or report.touched))


if __name__ == "__main__":
    main()

"""Media that are made to harm: small files that would take all memory, or all time."""

import os
import signal
import struct
import time
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from media import make_video

SIDE = 15_800  # px; a picture of 250 megapixels
ALLOWED = 5_700  # px; as large as is allowed: decoded, 260 MB
END = 30 * 10**9  # bytes of a file with a hole


def peak() -> int:
    """MB that this process had in memory at most."""
    told = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(told.split()[1]) // 1000


def pid() -> int:
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def speak() -> str:
    os.write(1, b"a library prints")
    return "heard"


def stay(folder: Path) -> None:
    """Tell by a file that the call has begun, and never come back. (A file without end would fill the memory.)"""
    (folder / str(os.getpid())).touch()
    time.sleep(3600)


def absent(name: str) -> None:
    raise FileNotFoundError(2, "not there", name)


def padded(path: Path, **how: Any) -> Path:
    """A good file that goes on with zeros. They are a hole, and take no room on the disk."""
    with make_video(path, 1.0, size=(64, 64), **how).open("r+b") as file:
        file.truncate(END)
    return path


def _png(side: int) -> bytes:
    """A black square of 8 bytes a pixel, in few bytes: one megabyte of zeros is compressed, and repeated."""
    length, once = side * (8 * side + 1), 2**20
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(once)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(length % once)) + packer.flush()
    adler = (length % 65521) << 16 | 1  # of zeros
    data = b"\x78\xda" + block * (length // once) + rest + struct.pack(">I", adler)
    chunks = [(b"IHDR", struct.pack(">2I5B", side, side, 16, 6, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    told = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(told)


def lying(path: Path, tracks: int, side: int = SIDE) -> Path:
    """A file that declares tracks of 64 x 64 pixels, and has larger pictures inside."""
    honest, picture = path.with_name("honest.mov"), _png(side)
    make_video(honest, 1.0, size=(64, 64), vcodec="png", pix_fmt="gray", acodec="pcm_s16le")
    with av.open(str(honest)) as source, av.open(str(path), "w") as output:
        sound, video = source.streams.audio[0], source.streams.video[0]
        copies = [output.add_stream_from_template(stream) for stream in (sound, *[video] * tracks)]
        for packet in source.demux(sound):
            if packet.size:
                packet.stream = copies[0]
                output.mux(packet)
        for copy in copies[1:]:
            for at in range(2):
                packet = av.Packet(picture)
                packet.pts = packet.dts = at
                packet.time_base, packet.duration, packet.is_keyframe, packet.stream = Fraction(1, 2), 1, True, copy
                output.mux_one(packet)
    return path

"""Small media files for tests: pictures that carry their own number, and a tone with a known onset."""

import math
import struct
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from avset.errors import ClipError
from avset.media import waveforms
from avset.media.frames import decode_frames

GRID = 4  # the picture's centre square has 4 x 4 cells: one row of colours, then twelve bits of the number
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))  # the top row, from left to right
QUIET = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "8"}}
SOUND = {"vorbis": {"strict": "-2"}, "wmav2": {"b": "32000"}}
RATE = 11025  # Hz, of decoded excerpts
SILENCE = -60.0  # dBFS
decode_audio = partial(waveforms.decode_audio, silence=SILENCE)
TONE = 500.0  # Hz
SETS = {"video": "video", "audio": "audio", "subtitle": "subtitles"}
TICKS = 1000  # time stamps are written in milliseconds unless the container has its own clock


def numbered_picture(number: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: grey, with `number` (0..4095) in the largest centred square."""
    cells = np.zeros((GRID, GRID, 3), np.uint8)
    cells[0] = COLOURS
    cells[1:] = 255 * ((number >> np.arange(12)) & 1).reshape(3, GRID, 1)
    side = min(width, height)
    index = np.arange(side) * GRID // side
    picture = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    picture[top : top + side, left : left + side] = cells[index][:, index]
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number in an upright (S, S, 3) centre crop of a numbered picture; fails if it is not upright."""
    side = picture.shape[0]
    at = ((np.arange(GRID) + 0.5) * side / GRID).astype(int)
    cells = picture[at][:, at].astype(int)
    assert np.abs(cells[0] - np.array(COLOURS)).max() < 110, f"not upright or not decoded: {cells[0].tolist()}"
    return int(((cells[1:].mean(2) > 127).reshape(-1) << np.arange(12)).sum())


def tone_samples(duration: float, sample_rate: int, tone: float, amplitude: float, onset: float) -> np.ndarray:
    """(L,) float32: silence up to `onset` s, then a sine of `tone` Hz that starts at phase 0."""
    seconds = np.arange(round(duration * sample_rate)) / sample_rate - onset
    return (amplitude * np.sin(2 * np.pi * tone * seconds) * (seconds >= 0)).astype(np.float32)


def numbers(path: Path, times: Iterable[float], size: int = 64) -> list[int]:
    """The numbers of the pictures on screen."""
    return [read_number(picture) for picture in decode_frames(path, np.array(list(times), float), size)]


def lag(waveform: np.ndarray, start: float, onset: float) -> float:
    """Seconds by which `TONE` comes late against a sine that starts at `onset`; from its phase, so modulo 2 ms."""
    seconds = start + np.arange(len(waveform)) / RATE
    steady = slice(len(waveform) - RATE // 2, None)  # half a second, a whole number of periods
    phasor = np.sum(waveform[steady] * np.exp(-2j * np.pi * TONE * (seconds[steady] - onset)))
    return float(-np.angle(phasor * 1j) / (2 * np.pi * TONE))


def amplitude(waveform: np.ndarray) -> float:
    """Of a sine in the last half second."""
    return math.sqrt(2 * np.mean(np.square(waveform[-RATE // 2 :], dtype=float)))


def first_picture(path: Path) -> float:
    """Seconds on the file's timeline at which the pictures start."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float((stream.start_time or 0) * (stream.time_base or 0)) - max(container.start_time or 0, 0) / 1e6


def reason(call: Callable, *args: object) -> str:
    """Why a call cannot use its clip."""
    with pytest.raises(ClipError) as caught:
        call(*args)
    return caught.value.reason


def make_video(
    path: Path,
    duration: float = 2.0,  # s, of the picture track and of the sound track
    fps: int = 10,
    size: tuple[int, int] = (128, 128),  # width, height as shown
    sample_rate: int = 22050,
    tone: float = 440.0,  # Hz
    *,
    amplitude: float = 0.5,
    onset: float = 0.0,  # s after the start of the sound track
    layout: str = "mono",  # the tone is on every channel, divided by 1, 2, 3, ...
    video: bool = True,
    audio: bool = True,
    vcodec: str = "libx264",
    acodec: str = "aac",
    audio_delay: float = 0.0,  # s: the sound track starts that much later than the pictures
    audio_duration: float | None = None,
    audio_gap: float = 0.0,  # s: the second half of the samples comes that much later
    times: list[float] | None = None,  # s: a variable frame rate
    gop: int = 12,
    rotation: int = 0,  # degrees counter-clockwise by which a player turns the picture
    matrix: tuple[int, int, int, int] | None = None,  # of an MP4: maps stored columns and rows to shown ones
    pixel_aspect: int = 1,  # width of a pixel: the stored picture is that much narrower than `size`
    pix_fmt: str | None = None,
    container: str | None = None,
    options: dict[str, str] | None = None,  # of the container: faststart is on for mp4 and mov
    codec_options: dict[str, str] | None = None,  # of the picture encoder
) -> Path:
    """Picture i shows the number i from times[i] on, or from i / fps on. Returns `path`."""
    default = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov", ".m4a") else {}
    with av.open(path, "w", format=container, options=default | (options or {})) as output:
        if video:
            pictures: Any = output.add_stream(vcodec, rate=fps, options=QUIET.get(vcodec, {}) | (codec_options or {}))
            exchanged = rotation % 180 == 90 or (matrix is not None and not matrix[0])
            pictures.width, pictures.height = size[::-1] if exchanged else size
            pictures.width //= pixel_aspect
            pictures.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
            pictures.pix_fmt = pix_fmt or ("yuvj420p" if vcodec == "mjpeg" else "yuv420p")
            pictures.gop_size, pictures.thread_count = gop, 1
            if times is not None:
                pictures.codec_context.time_base = Fraction(1, TICKS)
            if rotation:
                pictures.set_display_rotation(rotation)
        if audio:
            sound: Any = output.add_stream(acodec, rate=sample_rate, layout=layout, options=SOUND.get(acodec, {}))
        if video:
            stamps = times if times is not None else [i / fps for i in range(round(duration * fps))]
            for number, stamp in enumerate(stamps):
                turned = np.rot90(numbered_picture(number, *size), -rotation // 90)
                stored = np.ascontiguousarray(
                    (turned if matrix is None else unplaced(turned, matrix))[:, ::pixel_aspect]
                )
                frame = av.VideoFrame.from_ndarray(stored, "rgb24")
                frame.time_base = Fraction(1, TICKS) if times is not None else Fraction(1, fps)
                frame.pts = round(stamp / frame.time_base)
                output.mux(pictures.encode(frame))
            output.mux(pictures.encode())
        if audio:
            length = duration if audio_duration is None else audio_duration
            mono = tone_samples(length, sample_rate, tone, amplitude, onset)
            channels = sound.codec_context.layout.nb_channels
            block = np.stack([mono / (c + 1) for c in range(channels)])
            for at in range(0, block.shape[1], 1024):
                piece = np.ascontiguousarray(block[:, at : at + 1024].T.reshape(1, -1))
                samples = av.AudioFrame.from_ndarray(piece, format="flt", layout=layout)
                samples.sample_rate, samples.time_base = sample_rate, Fraction(1, sample_rate)
                late = audio_delay + audio_gap * (at >= block.shape[1] // 2)
                samples.pts = at + round(late * sample_rate)
                output.mux(sound.encode(samples))
            output.mux(sound.encode())
    if matrix is not None:
        data = bytearray(path.read_bytes())
        across, down, row_across, row_down = (65536 * value for value in matrix)
        struct.pack_into(">5i", data, data.index(b"tkhd") + 44, across, down, 0, row_across, row_down)
        path.write_bytes(data)
    return path


def unplaced(shown: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """The stored picture of which column x, row y is shown at column a x + c y, row b x + d y; counted from the end
    where that is negative."""
    a, b, c, d = matrix
    height, width = shown.shape[:2] if a else shown.shape[1::-1]
    y, x = np.indices((height, width))
    column, row = a * x + c * y, b * x + d * y
    return shown[row - (b + d < 0), column - (a + c < 0)]


@dataclass(frozen=True)
class Track:
    """One track of a file for `remux`: of which file, how it is marked, and when it comes."""

    path: Path
    kind: str  # video, audio or subtitle
    shift: float = 0.0  # s
    repeats: int = 1
    period: float = 0.0  # s from one repetition to the next
    then: Path | None = None  # a file whose packets follow, as often
    default: bool | None = None  # None: as the container has it
    cover: bool = False


def remux(target: Path, *tracks: Track, options: dict[str, str] | None = None) -> Path:
    """A file with packets of others, in the order of their time stamps: nothing is encoded anew."""
    packets: list[tuple[float, Any, Any, int]] = []
    with ExitStack() as stack:
        output = stack.enter_context(av.open(str(target), "w", options=options or {}))
        for track in tracks:
            copy = None
            for part, path in enumerate([track.path, track.then] if track.then else [track.path]):
                source = stack.enter_context(av.open(str(path)))
                stream = getattr(source.streams, SETS[track.kind])[0]
                if track.cover and target.suffix == ".mkv":
                    output.add_attachment("cover.jpg", "image/jpeg", bytes(next(source.demux(stream))))
                    break
                copy = copy or output.add_stream_from_template(stream)
                tick = float(stream.time_base)
                found = [
                    p
                    for p in source.demux(stream)
                    if p.size and (track.repeats == 1 or 0 <= p.pts * tick < track.period)
                ]
                for repeat in range(part * track.repeats, (part + 1) * track.repeats):
                    late = round((track.shift + repeat * track.period) / tick)
                    packets += [
                        ((p.pts if p.dts is None else p.dts) * tick + late * tick, p, copy, late) for p in found
                    ]
            if copy and (track.cover or track.default is not None):
                copy.disposition = Disposition.attached_pic if track.cover else Disposition(int(bool(track.default)))
        for _, packet, copy, late in sorted(packets, key=lambda item: item[0]):
            fresh = av.Packet(bytes(packet))
            decoded = packet.pts if packet.dts is None else packet.dts
            fresh.pts, fresh.dts, fresh.duration = packet.pts + late, decoded + late, packet.duration
            fresh.time_base, fresh.is_keyframe, fresh.stream = packet.time_base, packet.is_keyframe, copy
            output.mux_one(fresh)
    return target

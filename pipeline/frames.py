"""Pictures of a media file: probe it, lay the frame grid of a clip, decode by seeking. Door of PyAV, Pillow.

The timeline of a file starts with its earliest track, as in a player: time 0 is the container's start time
where that is positive (an MPEG-TS may start at 1.4 s), else the zero of its clock (codec priming has negative
time stamps and is not shown). Pictures and sound share that timeline.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation
from jaxtyping import Float, UInt8
from PIL import Image

from pipeline.errors import AvsetError, ClipError

TAIL = 0.5  # s; a track may end that much too early: its last picture stays, its sound is padded with zeros
ROUNDING = 5e-4  # s; Matroska rounds time stamps to milliseconds
MOST_OBLONG = 32  # times as long as wide: what is beyond comes from a damaged header
BACK_OFF = (0.0, 1.0, 4.0, 16.0, math.inf)  # s before the time asked for, tried until a seek lands before it
CHROMA = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT)  # alike on all CPUs


@dataclass(frozen=True)
class Media:
    """What a media file declares. The picture's size is as shown: turned upright, with square pixels."""

    duration: float  # s
    width: int  # pixels
    height: int
    fps: float  # mean rate; 0 if unknown
    sample_rate: int  # Hz
    channels: int


@contextmanager
def open_media(path: Path) -> Iterator[Any]:
    """An open PyAV container; what FFmpeg cannot read, here or in the block, raises ClipError("corrupt").

    Only local files are read, whatever a playlist inside the file asks for. Raises ClipError("missing"), and
    AvsetError for what is no property of the file.
    """
    if not path.is_file():
        raise ClipError("missing", f"there is no file {path.name!r}")
    try:  # an absolute path, so that no name is taken for a protocol
        options = {"protocol_whitelist": "file"}
        with av.open(str(path.absolute()), metadata_errors="replace", container_options=options) as container:
            yield container
    except (av.error.PermissionError, av.error.MemoryError) as error:
        raise AvsetError(f"cannot read {str(path)!r}: {error.strerror}; see its permissions, or free memory") from error
    except av.error.FFmpegError as error:
        raise ClipError("corrupt", f"{path.name!r}: {error.strerror}") from error


def track(container: Any, kind: str) -> Any:
    """The first "video" or "audio" stream that plays (cover art does not). ClipError no_video, no_audio."""
    for stream in container.streams:
        if stream.type == kind and not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise ClipError("corrupt", f"the {kind} track has an unknown format")
            stream.codec_context.thread_count = 1  # clips are spread over processes
            return stream
    raise ClipError(f"no_{kind}")


def time_of(frame: Any, container: Any) -> float:
    """Seconds of a decoded frame on the file's timeline."""
    if frame.time is None:
        raise ClipError("corrupt", "a frame has no time stamp")
    return float(frame.time) - origin(container)


def origin(container: Any) -> float:
    """Seconds on the container's clock at which the file's timeline starts."""
    return max(container.start_time or 0, 0) / av.time_base


def declared_end(container: Any, stream: Any) -> float:
    """Seconds on the file's timeline at which a track says it ends; inf if it says nothing (Matroska)."""
    if stream.duration is None:
        return math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin(container)


def decode_from(container: Any, stream: Any, seconds: float) -> Iterator[Any]:
    """Decoded frames of one track in order, the first of them at or before `seconds` if there is one.

    A seek may land too late (reordered pictures, a track without index, missing data): it is repeated
    earlier, at last from the beginning. A file that cannot be sought in is read on from where it is.
    """
    for lead in BACK_OFF:
        target = max(seconds - lead, 0.0)
        clock = target + origin(container) if target > 0 else 0.0
        try:
            container.seek(math.floor(clock / stream.time_base), stream=stream)
        except av.error.FFmpegError:
            if target > 0:
                continue
        frames = (f for p in container.demux(stream) if not p.is_corrupt for f in p.decode())
        first = next(frames, None)
        if target == 0 or (first is not None and time_of(first, container) <= seconds + ROUNDING):
            if first is not None:
                yield first
            yield from frames
            return


def probe(path: Path, sound: bool = True) -> Media:
    """What the file declares; its first picture is decoded. Without `sound` a silent film will do (0 Hz).

    ClipError missing, corrupt, no_video, no_audio; truncated if not even one picture is there.
    """
    with open_media(path) as container:
        pictures, (sample_rate, channels) = track(container, "video"), (0, 0)
        if sound:
            context = track(container, "audio").codec_context
            sample_rate, channels = context.sample_rate, context.layout.nb_channels
        rate = float(pictures.average_rate or pictures.guessed_rate or 0)
        duration = (container.duration or 0) / av.time_base
        first = next(decode_from(container, pictures, 0.0), None)
        if first is None:
            raise ClipError("truncated", "no picture can be decoded")
        width, height = shown_size(first, pictures)
    return Media(duration or _measured_duration(path), width, height, rate, sample_rate, channels)


def _measured_duration(path: Path) -> float:
    """Seconds up to the end of the last packet, for files that declare no duration (browser recordings)."""
    with open_media(path) as container:
        ends = [
            (packet.pts + (packet.duration or 0)) * packet.time_base
            for packet in container.demux()
            if packet.pts is not None
        ]
        return float(max(ends, default=0)) - origin(container)


def frame_times(start: float, duration: float, count: int, spacing: float) -> Float[np.ndarray, "V"]:
    """Seconds of V = count frames, `spacing` s apart, clamped into the excerpt; V // 2 is its centre."""
    grid = start + duration / 2 + (np.arange(count) - count // 2) * spacing
    return np.clip(grid, start, start + duration)


def decode_frames(path: Path, times: Float[np.ndarray, "V"], size: int) -> UInt8[np.ndarray, "V size size 3"]:
    """The RGB picture on screen at each time (s, any order): the last one whose time stamp is not later.

    Upright, shorter side resized to `size` and centre cropped. Before the first picture that one is shown.
    ClipError missing, corrupt, no_video; truncated if the pictures end more than `TAIL` s before a time
    although the file declares more.
    """
    pictures = np.empty((len(times), size, size, 3), np.uint8)
    order = np.argsort(times, kind="stable")
    with open_media(path) as container:
        stream = track(container, "video")
        shown = _on_screen(container, stream, [float(times[i]) for i in order])
        last, square = None, np.empty(0, np.uint8)
        for i, frame in zip(order, shown, strict=True):
            if frame is not last:
                last, square = frame, centre_square(frame, stream, size)
            pictures[i] = square
    return pictures


def _on_screen(container: Any, stream: Any, times: Sequence[float]) -> Iterator[Any]:
    """The frame shown at each of the ascending times; goes on decoding unless a later keyframe is nearer."""
    frames: Iterator[Any] = iter(())
    shown = ahead = None
    for time in times:
        if ahead is None or _keyframe_before(container, stream, time) > ahead.pts:
            frames = decode_from(container, stream, time)
            shown, ahead = None, next(frames, None)
        while ahead is not None and time_of(ahead, container) <= time + ROUNDING:
            shown, ahead = ahead, next(frames, None)
        if ahead is None:
            _check_end(container, stream, shown, time)
        yield shown or ahead


def _keyframe_before(container: Any, stream: Any, time: float) -> float:
    """Ticks of the last keyframe that the container's index has at or before a time; -inf if it has none."""
    ticks = math.floor((time + origin(container)) / stream.time_base)
    found = stream.index_entries.search_timestamp(ticks)
    return float(stream.index_entries[found].timestamp) if found >= 0 else -math.inf


def _check_end(container: Any, stream: Any, last: Any, time: float) -> None:
    """ClipError("truncated") if the pictures stop before `time`, and before the end declared for them."""
    if last is None:
        raise ClipError("truncated", "no picture can be decoded")
    end = time_of(last, container) + float((last.duration or 0) * last.time_base)
    inside = time <= (container.duration or math.inf) / av.time_base + TAIL
    if end + TAIL < (min(time, declared_end(container, stream)) if inside else time):
        raise ClipError("truncated", f"the pictures end at {end:.2f} s, before {time:.2f} s")


def shown_size(frame: Any, stream: Any) -> tuple[int, int]:
    """(width, height) in square pixels of a decoded frame as it is shown, upright. ClipError("corrupt")."""
    width, height = round(frame.width * float(stream.sample_aspect_ratio or 1)), frame.height
    if max(width, height) > MOST_OBLONG * min(width, height):
        raise ClipError("corrupt", f"a picture of {width} x {height} pixels")
    return (height, width) if frame.rotation % 180 == 90 else (width, height)


def centre_square(frame: Any, stream: Any, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A decoded frame as CLIP sees it: bicubic with antialiasing to the shorter side, then the centre."""
    picture = frame.to_image(interpolation=CHROMA, threads=1)
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turn = turns[round(frame.rotation / 90) % 4]
    if turn is not None:
        picture = picture.transpose(turn)
    width, height = shown_size(frame, stream)
    shorter = min(width, height)
    width, height = int(size * width / shorter), int(size * height / shorter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def crop_boxes(boxes: Float[np.ndarray, "n 4"], width: int, height: int) -> Float[np.ndarray, "n 4"]:
    """Boxes (x0, y0, x1, y1) as fractions of the centre square, from fractions of a width x height picture.

    Clipped to the square: a box outside of it keeps no area.
    """
    side = np.array([width, height] * 2) / min(width, height)
    return np.clip(boxes * side - (side - 1) / 2, 0.0, 1.0)

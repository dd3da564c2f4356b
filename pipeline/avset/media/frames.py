"""Pictures of a media file: the frame grid of a clip, decoded by seeking. Door of Pillow."""

import math
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from av.video.reformatter import Interpolation
from jaxtyping import Float, UInt8
from PIL import Image

from avset.errors import ClipError
from avset.media.container import (
    ROUNDING,
    TAIL,
    declared_end,
    declared_length,
    decode_from,
    open_media,
    orientation,
    origin,
    shown_end,
    shown_size,
    time_of,
    track,
)

CHROMA = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT)  # alike on all CPUs

TURNS = (Image.Transpose.TRANSPOSE, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)


def frame_times(start: float, duration: float, count: int, spacing: float) -> Float[np.ndarray, "V"]:
    """Seconds of V = count frames, `spacing` s apart, clamped into the excerpt; frame V // 2 is at its centre."""
    grid = start + duration / 2 + (np.arange(count) - count // 2) * spacing
    return np.clip(grid, start, start + duration)


def decode_frames(path: Path, times: Float[np.ndarray, "V"], size: int) -> UInt8[np.ndarray, "V size size 3"]:
    """The RGB picture on screen at each time (s, any order): the last one whose time stamp is not later.

    Pictures are upright; the shorter side is resized to `size`, then the centre is cropped. Before the time of the
    first picture the first one is shown. ClipError missing, corrupt, no_video; truncated if the pictures end more than
    `TAIL` s before a time although the file declares more.
    """
    pictures = np.empty((len(times), size, size, 3), np.uint8)
    order = np.argsort(times, kind="stable")
    with open_media(path) as container:
        stream = track(container, "video")
        shown = _on_screen(container, stream, [float(times[i]) for i in order])
        last, square = None, np.empty(0, np.uint8)
        for i, frame in zip(order, shown, strict=True):
            if frame.is_corrupt:
                raise ClipError("corrupt", f"the picture at {times[i]:.2f} s is damaged")
            if frame is not last:
                last, square = frame, centre_square(frame, stream, size)
            pictures[i] = square
    return pictures


def moving_pictures(path: Path, longest: int) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]:
    """All pictures of a film, each with the time (s) from which on it is on screen; the first one is from 0 on.

    Pictures are upright and whole, with square pixels. The first one says their size: even, at most `longest` px.
    ClipError missing, corrupt, no_video; truncated if there is not one picture.
    """
    with open_media(path) as container:
        stream, size = track(container, "video"), None
        for time, frame in _from_zero(decode_from(container, stream, 0.0), container):
            if frame.is_corrupt:
                raise ClipError("corrupt", f"the picture at {time:.2f} s is damaged")
            size = size or _even(shown_size(frame, stream), longest)
            picture = _upright(frame)
            yield time, np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC))
        if size is None:
            raise ClipError("truncated", "no picture can be decoded")


def _from_zero(frames: Iterator[Any], container: Any) -> Iterator[tuple[float, Any]]:
    """Frames with their times (s). The one on screen at time 0 is the first; a film that begins later begins there."""
    first = next(frames, None)
    for frame in frames:
        if first is not None and time_of(frame, container) <= ROUNDING:
            first = frame
            continue
        if first is not None:
            yield 0.0, first
            first = None
        yield time_of(frame, container), frame
    if first is not None:
        yield 0.0, first


def _even(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height of a picture that is not larger than `longest` px, as even numbers."""
    scale = min(1.0, longest / max(size))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in size)
    return width, height


def _on_screen(container: Any, stream: Any, times: Sequence[float]) -> Iterator[Any]:
    """The frame shown at each of the ascending times. It decodes on, or seeks if a later keyframe is nearer."""
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
    entry = stream.index_entries.search_timestamp(ticks)
    return float(stream.index_entries[entry].timestamp) if entry >= 0 else -math.inf


def _check_end(container: Any, stream: Any, last: Any, time: float) -> None:
    """ClipError("truncated") if the pictures end before `time`, before their declared end, and before the sound."""
    if last is None:
        raise ClipError("truncated", "no picture can be decoded")
    end = time_of(last, container) + float((last.duration or 0) * last.time_base)
    inside = time <= declared_length(container) + TAIL
    if end + TAIL >= (min(time, declared_end(container, stream)) if inside else time):
        return
    if shown_end(container, end, time) + TAIL < time:
        raise ClipError("truncated", f"the pictures end at {end:.2f} s, before {time:.2f} s")


def _upright(frame: Any) -> Image.Image:
    """A decoded frame, turned as it is shown."""
    picture: Image.Image = frame.to_image(interpolation=CHROMA, threads=1)
    for turn in compress(TURNS, orientation(frame)):
        picture = picture.transpose(turn)
    return picture


def centre_square(frame: Any, stream: Any, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A decoded frame as CLIP sees it: bicubic with antialiasing to the shorter side, then the centre."""
    picture = _upright(frame)
    width, height = shown_size(frame, stream)
    shorter = min(width, height)
    width, height = int(size * width / shorter), int(size * height / shorter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))

"""A picture of a film, read in another process."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.inference.reading import LIMITS
from avset.media.container import probe
from avset.media.frames import decode_frames
from avset.media.targets import check_time
from avset.storage.reading import AGAIN

SIDE = 512  # px of the frame under a heat map


def read_frame(
    file: Path, time: float | None = None, size: int = SIDE, limits: Limits = LIMITS
) -> UInt8[np.ndarray, "size size 3"]:
    """The frame of a video at `time` (s; by default the middle of the video), as a centre square.

    AvsetError if there is no such frame. Another process reads the file, within `limits`.
    """
    check_time(time)
    try:
        return _frame(file, time, size, limits)
    except ClipError as e:
        cure = AGAIN if e.reason == "system" else "give a video with pictures there"
        raise AvsetError(f"cannot take a picture from {str(file)!r} ({e}); {cure}") from e


def picture_size(file: Path, limits: Limits = LIMITS) -> tuple[int, int]:
    """Width and height (px) of the pictures of a film as they are shown. AvsetError if it has none."""
    try:
        found = limits(probe, file, False)
    except ClipError as e:
        cure = AGAIN if e.reason == "system" else "give a film, or ask by a text"
        raise AvsetError(f"cannot take a picture from {str(file)!r} ({e}); {cure}") from e
    return found.width, found.height


def frame_if_any(file: Path, size: int = SIDE, limits: Limits = LIMITS) -> UInt8[np.ndarray, "size size 3"] | None:
    """The frame in the middle of a file; None if its pictures cannot be read, or if there are none."""
    try:
        return _frame(file, None, size, limits)
    except ClipError:
        return None


def _frame(file: Path, time: float | None, size: int, limits: Limits) -> np.ndarray:
    if time is None:
        time = limits(probe, file, False).duration / 2
    frames: np.ndarray = limits(decode_frames, file, np.array([time]), size)
    return frames[0]

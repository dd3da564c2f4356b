"""Where in a picture the thing is that a text names: P_Att of the text over the regions of a frame."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from avset.errors import AvsetError, ClipError
from avset.inference.separate import Separator
from avset.media.container import probe
from avset.media.frames import decode_frames

SIDE = 512  # px of the frame that a heat map is drawn on


def centre_frame(path: Path, time: float | None = None, size: int = SIDE) -> UInt8[np.ndarray, "size size 3"]:
    """The frame of a video at `time` (s; default: its middle), centre square; AvsetError if there is none."""
    if time is not None and not time >= 0:
        raise AvsetError(f"there is no picture at {time:g} s; give a number of seconds from 0 to the video's length")
    try:
        if time is None:
            time = probe(path, sound=False).duration / 2
        return decode_frames(path, np.array([time]), size)[0]
    except ClipError as e:
        raise AvsetError(f"cannot take a picture from {str(path)!r} ({e}); give a video with pictures there") from e


@torch.no_grad()
def attention(
    separator: Separator, frame: UInt8[np.ndarray, "H W 3"], text: str
) -> tuple[Float[np.ndarray, " R"], tuple[int, int]]:
    """Scores of a text over the regions of a frame, and the (rows, columns) that they fill.

    AvsetError if the model's method does not localize.
    """
    method = separator.model.localizing()
    regions = separator.video_query(frame[None])[0, 0]
    target = separator.text_query([text])[0, 0, 0]
    return method.scores(regions, target).cpu().numpy(), separator.encoder.grid

"""Boxes of things in a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from avset.storage.store import Store


def crop_boxes(boxes: Float[np.ndarray, "n 4"], width: int, height: int) -> Float[np.ndarray, "n 4"]:
    """Boxes (x0, y0, x1, y1) as fractions of the centre square, from fractions of a width x height picture.

    Boxes are clipped to the square: a box outside of the square keeps no area.
    """
    side = np.array([width, height] * 2) / min(width, height)
    return np.clip(boxes * side - (side - 1) / 2, 0.0, 1.0)


def centre_boxes(
    boxes: Sequence[dict[str, Any]], sizes: dict[str, list[int]], frames: Store
) -> dict[str, Float[np.ndarray, "n 4"]]:
    """Boxes of each "clip/label" at the time of the clip's centre frame, in fractions of the stored square.

    `sizes` are width and height of each clip's pictures.
    """
    nearest: dict[str, tuple[float, list[list[float]]]] = {}
    boxed = {box["clip_id"] for box in boxes}.intersection(frames.clips)
    centres = {clip: float(times[len(times) // 2]) for clip in boxed for times in [frames.read(clip, "times")]}
    for box in boxes:
        if box["clip_id"] not in centres:
            continue
        distance = abs(box["time_s"] - centres[box["clip_id"]])
        name, corners = f"{box['clip_id']}/{box['label']}", [box[k] for k in ("x0", "y0", "x1", "y1")]
        if name not in nearest or distance < nearest[name][0]:
            nearest[name] = (distance, [corners])
        elif distance == nearest[name][0]:
            nearest[name][1].append(corners)
    found = {}
    for name, (_, corners) in nearest.items():
        cropped = crop_boxes(np.array(corners), *sizes[name.split("/")[0]])
        seen = cropped[(cropped[:, 0] < cropped[:, 2]) & (cropped[:, 1] < cropped[:, 3])]
        if len(seen):
            found[name] = seen
    return found

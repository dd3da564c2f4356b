"""Boxes of things in a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as fn

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


def crops(
    frames: UInt8[Tensor, "*batch H H 3"], boxes: Float[Tensor, "*batch O 4"], side: int
) -> Float[Tensor, "*batch O {side} {side} 3"]:
    """What is inside of boxes, each as a square of `side` px, 0 to 255; of a box without area one colour."""
    flat = frames.flatten(0, -4).permute(0, 3, 1, 2).float()
    inside = (torch.arange(side, device=frames.device) + 0.5) / side
    low, high = boxes.flatten(0, -3)[..., :2, None], boxes.flatten(0, -3)[..., 2:, None]
    x, y = (2 * (low + (high - low) * inside) - 1).to(flat).unbind(2)  # (n, O, side) each
    grid = torch.stack(torch.broadcast_tensors(x[..., None, :], y[..., None]), -1)
    found = fn.grid_sample(flat, grid.flatten(1, 2), padding_mode="border", align_corners=False)
    squares = torch.unflatten(found.permute(0, 2, 3, 1), 1, (boxes.shape[-2], side))
    return torch.unflatten(squares, 0, boxes.shape[:-2])

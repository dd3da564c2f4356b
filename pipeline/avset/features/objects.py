"""Objects of the frames of a clip: boxes with a class, a confidence, and the feature of what is inside."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from avset.features import detector, tower
from avset.features.boxes import crop_boxes, crops
from avset.features.padding import LANES
from avset.features.resnet import ResNet

NOTHING = -1  # the class of a place without an object, whose confidence is 0
Rows = Sequence[dict[str, Any]]  # of boxes: time_s, label, x0, y0, x1, y1, and confidence, if it is known
Found = tuple[Float[np.ndarray, "n 4"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]


@dataclass(frozen=True)
class ObjectMapper:
    """Maps frames (V, H, W, 3) of a clip to its objects, at most `count` of a frame, the most confident first.

    `boxes` (V, O, 4), x0 y0 x1 y1 as fractions of the frame; `classes` (V, O), places in the list of names;
    `confidences` (V, O); `features` (V, O, P), the tower's last map of the crop, mean over its plane. All are zero
    where there is no object, and the class is `NOTHING`.

    tower     folder of the tower artifact
    names     of the classes
    count     O
    side      px of a crop
    noise     standard deviation of each corner of a given box, as a share of the box's size
    least     confidence of what a detector must see to be kept
    weights   file of the detector `architecture`; "": the boxes are given
    """

    tower: Path
    names: tuple[str, ...]
    count: int
    side: int
    noise: float = 0.0
    least: float = 0.0
    architecture: str = ""
    weights: str = ""
    device: str = "cpu"

    @cached_property
    def eye(self) -> ResNet:
        """The tower, loaded at first use."""
        return tower.load(self.tower).to(self.device)

    @cached_property
    def detect(self) -> Any:
        """The detector, loaded at first use."""
        return detector.load(self.architecture, Path(self.weights), self.least).to(self.device)

    def __call__(
        self, clip: str, frames: UInt8[np.ndarray, "V H H 3"], times: Float[np.ndarray, " V"], rows: Rows,
        size: tuple[int, int],
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """The objects of a clip, whose pictures had a width and a height of `size`; `rows` are those that are given."""
        if self.architecture:
            found = [self.seen(frame) for frame in frames]
        else:
            told = [given(rows, time, size, self.names) for time in times.tolist()]
            found = [(self.shaken(own[0], f"{clip} {v}"), own[1], own[2]) for v, own in enumerate(told)]
        filled = [_filled(one, self.count) for one in found]
        boxes, classes, confidences = (np.stack(parts) for parts in zip(*filled, strict=True))
        return {"boxes": boxes, "classes": classes, "confidences": confidences,
                "features": self.features(frames, boxes, confidences)}  # fmt: skip

    def seen(self, frame: UInt8[np.ndarray, "H H 3"]) -> Found:
        """What the detector sees in one frame."""
        boxes, classes, confidences = self.detect(torch.from_numpy(frame).to(self.device))
        return boxes.cpu().numpy(), classes.cpu().numpy(), confidences.cpu().numpy()

    def shaken(self, boxes: Float[np.ndarray, "n 4"], name: str) -> Float[np.ndarray, "n 4"]:
        """The boxes with noise; `name` is all that decides the noise."""
        if not self.noise:
            return boxes
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
        size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        low, high = np.split(np.clip(boxes + self.noise * size * rng.normal(size=boxes.shape), 0, 1), 2, 1)
        moved = np.concatenate([np.minimum(low, high), np.maximum(low, high)], 1)
        kept = np.all(moved[:, 2:] > moved[:, :2], 1, keepdims=True)
        return np.where(kept, moved, boxes)

    @torch.no_grad()
    def features(
        self, frames: UInt8[np.ndarray, "V H H 3"], boxes: Float[np.ndarray, "V O 4"],
        confidences: Float[np.ndarray, "V O"],
    ) -> Float[np.ndarray, "V O P"]:  # fmt: skip
        """Of each object; in batches of one size, so that bytes do not depend on the number of objects."""
        pictures = crops(torch.from_numpy(frames), torch.from_numpy(boxes), self.side).flatten(0, 1)
        found = []
        for batch in pictures.split(LANES):
            whole = torch.cat([batch, batch.new_zeros(LANES - len(batch), *batch.shape[1:])])
            found.append(self.eye(whole.to(self.device)).mean((2, 3))[: len(batch)].cpu())
        values = torch.cat(found).view(*boxes.shape[:2], -1).numpy()
        return np.where(confidences[..., None] > 0, values, np.float32(0))


def given(rows: Rows, time: float, size: tuple[int, int], names: Sequence[str]) -> Found:
    """Of each label the boxes at the time that is nearest to that of a frame, the most confident first."""
    chosen: list[dict[str, Any]] = []
    for name in names:
        own = [row for row in rows if row["label"] == name]
        nearest = min((abs(row["time_s"] - time) for row in own), default=0.0)
        chosen += [row for row in own if abs(row["time_s"] - time) == nearest]
    corners = np.array([[row[side] for side in ("x0", "y0", "x1", "y1")] for row in chosen], np.float32).reshape(-1, 4)
    boxes = crop_boxes(corners, *size).astype(np.float32)
    classes = np.array([names.index(row["label"]) for row in chosen], np.int64)
    confidences = np.array([row.get("confidence", 1.0) for row in chosen], np.float32)
    order = np.argsort(-confidences, kind="stable")
    order = order[np.all(boxes[order, 2:] > boxes[order, :2], 1)]
    return boxes[order], classes[order], confidences[order]


def _filled(
    found: Found, count: int
) -> tuple[Float[np.ndarray, "O 4"], Int[np.ndarray, " O"], Float[np.ndarray, " O"]]:
    """The first `count` objects, and nothing in the other places."""
    boxes, classes, confidences = (part[:count] for part in found)
    lacking = count - len(classes)
    return (np.pad(boxes.astype(np.float32), ((0, lacking), (0, 0))),
            np.pad(classes.astype(np.int64), (0, lacking), constant_values=NOTHING),
            np.pad(confidences.astype(np.float32), (0, lacking)))  # fmt: skip

"""Many drawn pictures at once, with what is on them: to train the demo's encoders on, and to measure any encoder on."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from avset.sources.demo.motion import Motion
from avset.sources.demo.pictures import Painter, Scene
from avset.sources.demo.scenes import LABELS, scene

DRAWN = 128  # pixels of the side, as in the clips


@dataclass(frozen=True)
class Pool:
    """P pictures of side S, what is on them, and where the instruments are (for measuring only)."""

    pictures: UInt8[Tensor, "P 3 S S"]
    scenes: list[Scene]
    boxes: list[list[tuple[float, float, float, float]]]


def draw_pool(count: int, seed: int, duet_share: float, size: int, empty_share: float = 0.0) -> Pool:
    """Scenes in the middle of a random movement, resized to `size` pixels as the loader does.

    `empty_share` of the scenes have no players.
    """
    rng, pictures, scenes, boxes = np.random.default_rng(seed), [], [], []
    for number in range(count):
        kind = rng.random()
        players = 2 if kind < duet_share else 0 if kind >= 1 - empty_share else 1
        drawn = scene([LABELS[k] for k in rng.permutation(len(LABELS))[: max(players, 1)]], seed + number)
        drawn = drawn if players else replace(drawn, players=())
        moves = tuple(_movement(rng) for _ in range(players))
        pixels, places = Painter(drawn, DRAWN).frame(moves)
        pictures.append(np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)))
        scenes.append(drawn)
        boxes.append(places)
    return Pool(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), scenes, boxes)


def _movement(rng: np.random.Generator) -> Motion:
    stroke, pitch, strike, sway = rng.random(4).tolist()
    return Motion(stroke, pitch, strike, 2 * sway - 1, int(rng.integers(2)))

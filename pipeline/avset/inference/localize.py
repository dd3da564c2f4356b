"""Where in a picture the thing is that a text names: P_Att of the text over the regions of a frame."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from avset.inference.separate import Separator


@dataclass(frozen=True)
class Attention:
    """How strongly each region of a frame answers to a text."""

    scores: Float[np.ndarray, " R"]  # before any softmax
    grid: tuple[int, int]  # (rows, columns) of the regions
    heat: Float[np.ndarray, " R"] | None = None  # 0 to 1, on one scale for all pictures; None: no such scale is known

    def strongest(self) -> tuple[int, int]:
        """(row, column) of the region with the highest score, from 0."""
        row, column = divmod(int(self.scores.argmax()), self.grid[1])
        return row, column


@torch.no_grad()
def localize(separator: Separator, frame: UInt8[np.ndarray, "H W 3"], text: str) -> Attention:
    """The attention of a text over the regions of a frame; AvsetError if the model's method does not localize."""
    method = separator.model.localizing()
    regions = separator.video_query(frame[None])[0, 0]
    target = separator.text_query([text])[0, 0, 0]
    scores, known = method.scores(regions, target), separator.model.presence
    heat = known.heat(scores[None], target[None], regions[None])[0].cpu().numpy() if known else None
    return Attention(scores.cpu().numpy(), separator.encoder.grid, heat)

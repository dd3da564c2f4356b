"""Where in a picture the thing is that a query names: P_Att of the query over the regions of a frame."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avset.features.encoder import Encoder
from avset.inference.queries import video_queries
from avset.models.checkpoint import SeparationModel


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
def localize(
    model: SeparationModel, encoder: Encoder, frame: UInt8[np.ndarray, "H W 3"], target: Float[Tensor, " D"]
) -> Attention:
    """The attention of a query over the regions of a frame; AvsetError if the model's method does not localize."""
    method, known = model.localizing(), model.presence
    regions = video_queries(encoder, frame[None], model.settings.positional)[0, 0]
    scores = method.scores(regions, target)
    heat = known.heat(scores[None], target[None], regions[None])[0].cpu().numpy() if known else None
    return Attention(scores.cpu().numpy(), encoder.grid, heat)

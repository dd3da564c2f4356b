"""Queries that are shown and not told: a box of the picture, an example sound."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from avset.errors import AvsetError
from avset.features.attention import SCALES
from avset.features.boxes import crop_boxes

Box = tuple[float, float, float, float]  # x0, y0, x1, y1, from the upper left corner


def in_square(box: Box, width: int, height: int) -> Box:
    """A box of a width x height picture in fractions of its centre square, which is what an encoder sees.

    The box is in fractions of the picture if all its numbers are at most 1, otherwise in pixels. AvsetError if it lies
    outside of the picture or of the square.
    """
    part = np.array([box]) / ([1, 1] * 2 if max(box) <= 1 else [width, height] * 2)
    if part.max() > 1:
        raise AvsetError(f"the box {box} is larger than the picture of {width} x {height} px; give a smaller one")
    x0, y0, x1, y1 = crop_boxes(part, width, height)[0].tolist()
    if x0 >= x1 or y0 >= y1:
        raise AvsetError(f"the box {box} is outside of the picture's centre square, which the model sees; move the box")
    return x0, y0, x1, y1


def box_query(query: Float[Tensor, "1 V R D"], grid: tuple[int, int], box: Box) -> Float[Tensor, "1 V r D"]:
    """The part of a video's query that lies in a box: the regions whose middle is in it, in every frame.

    `grid` are the rows and columns of the R regions; the box is in fractions of the frames. If no middle lies in the
    box, the region that is nearest to the middle of the box.
    """
    x0, y0, x1, y1 = box
    y, x = ((torch.arange(cells) + 0.5) / cells for cells in grid)
    inside = ((y0 <= y) & (y <= y1))[:, None] & ((x0 <= x) & (x <= x1))
    if not inside.any():
        apart = (y[:, None] - (y0 + y1) / 2) ** 2 + (x - (x0 + x1) / 2) ** 2
        inside = apart == apart.min()
    return query[:, :, inside.flatten()]


def like_query(sound: Float[Tensor, " D"], captions: Float[Tensor, "C D"]) -> Float[Tensor, "1 1 1 D"]:
    """The query that an example sound stands for, by its embedding f^A: the captions that Eq. 2 would give to it.

    That is the mean of `captions` by the softmax of 100 x cosine: the decoder was shown captions, and never f^A.
    """
    weights = torch.softmax(SCALES["cosine"] * normalize(captions, dim=-1) @ normalize(sound, dim=-1), 0)
    return (weights @ captions)[None, None, None]

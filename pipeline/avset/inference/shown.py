"""Queries that are shown and not told: a box of the picture, an example sound."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import normalize

from avset.errors import AvsetError
from avset.inference.reading import SILENT
from avset.inference.wishes import Box
from avset.media.waveforms import overlapping
from avset.models.checkpoint import SeparationModel
from avset.models.presence import nearest


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
    return query[:, :, inside.flatten().to(query.device)]


def like_query(sound: Float[Tensor, " D"], captions: Float[Tensor, "C D"]) -> Float[Tensor, "1 1 1 D"]:
    """The query that an example sound stands for, by its embedding f^A: the captions that Eq. 2 would give to it.

    That is the mean of `captions` by the softmax of 100 x cosine: the decoder was shown captions, and never f^A.
    """
    return nearest(sound, captions)[None, None, None]


@torch.no_grad()
def embedding(model: SeparationModel, sound: Iterable[Float32[np.ndarray, " n"]], name: str) -> Float[Tensor, " D"]:
    """f^A of a mono sound at the model's rate, of any length: the mean of the directions of its windows.

    Silent windows do not count; a short sound is repeated. AvsetError if all are silent.
    """
    transform, method = model.settings.transform, model.localizing()
    found: list[Tensor] = []
    for piece in overlapping(sound, transform.length, transform.length):
        if len(piece) and np.square(piece, dtype=np.float64).mean() > SILENT:
            window = torch.from_numpy(np.resize(piece, transform.length))[None].to(model.device)
            magnitude = transform.analyse(window, model.method.grid)[1]
            one = normalize(method.embed(magnitude, torch.ones_like(magnitude)[:, None])[0, 0], dim=-1)
            found = [found[0] + one] if found else [one]
    if not found:
        raise AvsetError(f"the example of {name!r} is silent; give a sound that can be heard")
    return found[0]

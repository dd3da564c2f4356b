"""Masks of a recording of any length, on the model's own grid: windows of one crop, joined to one stream of frames."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as fn

from avset.media.waveforms import overlapping
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Conditions

WINDOWS = 16  # of a long recording, masked at once: the fastest number on one thread and on two


def mask_blocks(
    model: SeparationModel,
    mixture: Iterable[Float32[np.ndarray, " n"]],
    queries: Sequence[Float[Tensor, "_ _ D"]],
    hear: Callable[[Tensor, Tensor], None] | None = None,
) -> Iterator[Float[Tensor, "N P t"]]:
    """Blocks of a mono waveform at the model's sample rate -> masks of its STFT in [0, 1], frame by frame.

    Frame i is centred at sample i * hop_length; P are the bins of the method's own grid. There are frames to the end of
    the waveform, or a little further. Windows of one crop overlap by half, and their
    masks are cross-faded; `WINDOWS` windows are held at once, whatever the length.
    `hear` gets the magnitudes (w, P, T) and the masks (w, N, P, T) of some windows, as the method has them.
    """
    transform, device, grid = model.settings.transform, model.device, model.method.grid
    half = transform.crop // 2  # frames
    step, size = half * transform.hop_length, transform.length
    rise, fall = torch.hann_window(transform.crop, device=device).view(2, half)  # they add up to one
    queries, before, skip = [query.to(device) for query in queries], None, half
    span = (WINDOWS - 1) * step + size
    for piece in overlapping(chain([np.zeros(step, np.float32)], mixture), span, WINDOWS * step):
        count = WINDOWS if len(piece) == span else -(-len(piece) // step)
        padded = fn.pad(torch.from_numpy(piece).to(device), (0, max(0, (count - 1) * step + size - len(piece))))
        with torch.no_grad():  # not around the `yield`: the caller may want gradients of other things
            _, magnitude = transform.analyse(padded.unfold(0, size, step)[:count], grid)
            masks = answers(model, magnitude, queries)
            if hear:
                hear(magnitude, masks)
        first, second = masks[..., :half] * rise, masks[..., half : 2 * half] * fall
        before = torch.zeros_like(second[:1]) if before is None else before
        joined = first + torch.cat([before, second[:-1]])
        before = second[-1:]
        yield joined.permute(1, 2, 0, 3).flatten(2)[..., skip:]
        skip = 0
    assert before is not None
    yield before[0, ..., :1]  # here the next window has no weight


def answers(
    model: SeparationModel, magnitude: Float[Tensor, "w P T"], queries: Sequence[Float[Tensor, "_ _ D"]]
) -> Float[Tensor, "w N P T"]:
    """Masks in [0, 1] of queries on the magnitudes of some windows; queries of one shape are answered in one pass."""
    found: dict[int, Tensor] = {}
    for shape in {query.shape: None for query in queries}:
        numbers = [number for number, query in enumerate(queries) if query.shape == shape]
        together = torch.stack([queries[number] for number in numbers])
        conditions = Conditions.of_queries(together.expand(len(magnitude), *together.shape))
        masks = model.method.masks(magnitude, conditions).clamp(0, 1)
        found |= dict(zip(numbers, masks.unbind(1), strict=True))
    return torch.stack([found[number] for number in range(len(queries))], 1)

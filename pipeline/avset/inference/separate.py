"""A trained model and its encoder: from a recording of any length and a query to a separated sound."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as fn

from avset.errors import AvsetError
from avset.features.encoder import Encoder
from avset.media.waveforms import overlapping
from avset.models.checkpoint import Model
from avset.params import encoder_of

WINDOWS = 16  # of a long recording that are separated at once: fastest on one and on two threads


class Separator:
    """A trained model together with its encoder: what a user holds.

    Three rungs: queries and waveform in `separate` or, block by block, in `stream`; text in `text_query`; pictures in
    `video_query`.
    """

    def __init__(self, model: Model, encoder: Encoder):
        if model.settings.encoder != encoder.digest:
            raise AvsetError(
                f"the model was trained with encoder {model.settings.encoder[:12]}, this one is "
                f"{encoder.digest[:12]}; give the folder of the encoder that belongs to the model"
            )
        self.model, self.encoder = model, encoder

    @classmethod
    def load(cls, model: Path, encoder: Path | None = None) -> "Separator":
        """From folders; the encoder is by default the one of the same data set and scale."""
        return cls(Model.load(model), Encoder.load(encoder or encoder_of(model)))

    @torch.no_grad()
    def text_query(self, texts: Sequence[str]) -> Float[Tensor, "N 1 1 D"]:
        """One query per text."""
        return self.encoder.encode_text(list(texts))[:, None, None]

    @torch.no_grad()
    def video_query(self, frames: Any) -> Float[Tensor, "1 V R D"]:
        """One query from frames uint8 (V, H, W, 3): all their regions."""
        _, regions = self.encoder.forward_image(
            self.encoder.preprocess(frames), positional=self.model.settings.positional
        )
        return regions[None]

    def separate(self, mixture: Float[Tensor, " L"], queries: Float[Tensor, "N V R D"]) -> Float[Tensor, "N L"]:
        """Estimates of a waveform of any length at the model's sample rate: `stream` as one array."""
        found = [estimates for _, estimates in self.stream([mixture.cpu().numpy()], queries)]
        return torch.from_numpy(np.concatenate(found, 1)).to(mixture.device)

    def stream(
        self, mixture: Iterable[Float32[np.ndarray, " n"]], queries: Float[Tensor, "N V R D"]
    ) -> Iterator[tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, "N m"]]]:
        """Blocks of a waveform at the model's sample rate -> blocks of the same waveform and its estimates.

        Windows of one crop, half overlapped, are faded and added; the weights add up to one, so a mask of ones
        gives back the mixture. `WINDOWS` of them are held at once, whatever the length.
        """
        device, size = self.model.mean_region.device, self.model.settings.transform.length
        step = size // 2  # of an odd window the last sample, of no weight, is left out
        rise, fall = torch.hann_window(size + size % 2, device=device)[: 2 * step].view(2, step)
        rise, fall = rise / (rise + fall), fall / (rise + fall)
        queries, before, skip = queries.to(device), torch.zeros(len(queries), 1, step, device=device), step
        span = (WINDOWS - 1) * step + size
        for piece in overlapping(chain([np.zeros(step, np.float32)], mixture), span, WINDOWS * step):
            count = WINDOWS if len(piece) == span else -(-len(piece) // step)
            padded = fn.pad(torch.from_numpy(piece).to(device), (0, (count - 1) * step + size - len(piece)))
            with torch.no_grad():  # not around the generator: its caller may want gradients of other things
                estimates, _ = self.model.separate(padded.unfold(0, size, step), queries.expand(count, *queries.shape))
            first, second = estimates[..., : 2 * step].unflatten(-1, (2, step)).permute(2, 1, 0, 3)
            added = first * rise + torch.cat([before, second[:, :-1]], 1) * fall
            before, here = second[:, -1:], slice(skip, min(count * step, len(piece)))
            skip = 0
            yield piece[here], added.flatten(1)[:, here].cpu().numpy()

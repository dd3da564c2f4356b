"""A trained model and its encoder: from a waveform of any length and queries to separated sounds."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional as fn

from avset.errors import AvsetError
from avset.features.encoder import Encoder
from avset.inference.queries import text_queries, video_queries
from avset.media.waveforms import overlapping
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Conditions
from avset.params import encoder_of

WINDOWS = 16  # of a long recording, separated at once: the fastest number on one thread and on two


class Separator:
    """A trained model together with its encoder: what a user holds.

    `text_query` and `video_query` make queries. `separate` takes an array, `stream` takes blocks; from files to files:
    `avset.inference.files`. AvsetError if the model was trained with another encoder.
    """

    def __init__(self, model: SeparationModel, encoder: Encoder):
        if model.settings.encoder != encoder.digest:
            raise AvsetError(
                f"the model was trained with encoder {model.settings.encoder[:12]}, this one is "
                f"{encoder.digest[:12]}; give the folder of the encoder that belongs to the model"
            )
        self.model, self.encoder = model, encoder

    @classmethod
    def load(cls, model: Path, encoder: Path | None = None) -> "Separator":
        """From folders; without `encoder`, that of the same data set and scale. MissingArtifact if one is not there."""
        return cls(SeparationModel.load(model), Encoder.load(encoder or encoder_of(model)))

    def text_query(self, texts: Sequence[str]) -> Float[Tensor, "N 1 1 D"]:
        """One query per text; AvsetError if the model answers no text."""
        self.model.answering("text")
        return text_queries(self.encoder, texts)

    def video_query(self, frames: UInt8[np.ndarray, "V H W 3"]) -> Float[Tensor, "1 V R D"]:
        """One query of all regions of some frames; AvsetError if the model answers no video, or sees no regions."""
        if "regions" not in self.model.answering("video").method.needs:
            seen = ", ".join(sorted(self.model.method.needs))
            raise AvsetError(f"{self.model.name} answers a video by {seen}, not by regions; give another model")
        return video_queries(self.encoder, frames, self.model.settings.positional)

    def separate(self, mixture: Float[Tensor, " L"], queries: Float[Tensor, "N V R D"]) -> Float[Tensor, "N L"]:
        """Estimates of N sounds in a waveform of any length, at the model's sample rate: `stream` as one array."""
        found = [estimates for _, estimates in self.stream([mixture.cpu().numpy()], queries)]
        return torch.from_numpy(np.concatenate(found, 1)).to(mixture.device)

    def stream(
        self, mixture: Iterable[Float32[np.ndarray, " n"]], queries: Float[Tensor, "N V R D"]
    ) -> Iterator[tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, "N m"]]]:
        """Blocks of a waveform at the model's sample rate -> blocks of the same waveform and its estimates.

        Windows of one crop overlap by half; each is faded in and out, and all are added. The weights add up to one,
        so a mask of ones gives back the mixture. `WINDOWS` windows are held at once, whatever the length.
        """
        device, size = self.model.device, self.model.settings.transform.length
        step, (rise, fall) = size // 2, _fades(size, device)
        queries, before, skip = queries.to(device), torch.zeros(len(queries), 1, step, device=device), step
        span = (WINDOWS - 1) * step + size
        for piece in overlapping(chain([np.zeros(step, np.float32)], mixture), span, WINDOWS * step):
            count = WINDOWS if len(piece) == span else -(-len(piece) // step)
            padded = fn.pad(torch.from_numpy(piece).to(device), (0, (count - 1) * step + size - len(piece)))
            with torch.no_grad():  # not around the `yield`: the caller may want gradients of other things
                conditions = Conditions.of_queries(queries.expand(count, *queries.shape))
                estimates, _ = self.model.separate(padded.unfold(0, size, step), conditions)
            first, second = estimates[..., : 2 * step].unflatten(-1, (2, step)).permute(2, 1, 0, 3)
            added = first * rise + torch.cat([before, second[:, :-1]], 1) * fall
            before, here = second[:, -1:], slice(skip, min(count * step, len(piece)))
            skip = 0
            yield piece[here], added.flatten(1)[:, here].cpu().numpy()


def _fades(size: int, device: torch.device) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"]]:
    """Weights of the first and of the second half of a window; where two windows overlap, they add up to one."""
    step = size // 2  # the last sample of an odd window has no weight, and is left out
    rise, fall = torch.hann_window(size + size % 2, device=device)[: 2 * step].view(2, step)
    return rise / (rise + fall), fall / (rise + fall)

"""A trained model and its encoder: from a recording of any length and a query to a separated sound."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.checkpoints import Model
from pipeline.encoders import Encoder
from pipeline.errors import AvsetError

WINDOWS = 8  # windows of a long recording that are separated at once


class Separator:
    """A trained model together with its encoder: what a user holds.

    Three rungs: queries and waveform in `separate`, text in `text_query`, pictures in `video_query`.
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
        """From folders; the encoder is by default the one of the same data set."""
        return cls(Model.load(model), Encoder.load(encoder or model.parent.parent / "encoder"))

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

    @torch.no_grad()
    def separate(self, mixture: Float[Tensor, " L"], queries: Float[Tensor, "N V R D"]) -> Float[Tensor, "N L"]:
        """Estimates of a waveform of any length at the model's sample rate, in memory that grows by the output only.

        Windows of one crop, half overlapped, are faded and added; the weights add up to one, so a mask of ones
        gives back the mixture.
        """
        size = self.model.settings.transform.length
        step = size // 2
        length = mixture.shape[-1]
        count = max(1, -(-length // step))
        padded = torch.nn.functional.pad(mixture, (step, (count + 1) * step + size - length - step))
        windows = padded.unfold(0, size, step)[: count + 1]
        fade = torch.hann_window(size + size % 2, device=mixture.device)[:size]
        out = torch.zeros(queries.shape[0], padded.shape[0], device=mixture.device)
        total = torch.zeros(padded.shape[0], device=mixture.device)
        for i in range(0, len(windows), WINDOWS):
            batch = windows[i : i + WINDOWS]
            estimates, _ = self.model.separate(batch, queries.expand(len(batch), *queries.shape))
            for j, estimate in enumerate(estimates, i):
                out[:, j * step : j * step + size] += estimate * fade
                total[j * step : j * step + size] += fade
        return (out / total.clamp_min(1e-8))[:, step : step + length]

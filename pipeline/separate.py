"""The one road from a waveform and queries to separated waveforms, for evaluation and for users."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pipeline import attention
from pipeline import spectrograms as sp
from pipeline.encoders import Encoder
from pipeline.errors import AvsetError
from pipeline.models.avset import AVSeT
from pipeline.store import require, write_atomic

WINDOWS = 8  # windows of a long recording that are separated at once


@dataclass(frozen=True)
class Settings:
    """All that a checkpoint needs besides its weights; it travels inside the file."""

    model: dict[str, Any]  # arguments of AVSeT
    transform: sp.Transform
    positional: bool  # of the region features
    similarity: str
    encoder: str  # sha256 of the encoder's weights


class Model(nn.Module):
    """A separation model with its settings and the means that `centered` similarity subtracts."""

    mean_region: Tensor
    mean_caption: Tensor

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.net = AVSeT(**settings.model)
        self.register_buffer("mean_region", torch.zeros(settings.model["dim"]))
        self.register_buffer("mean_caption", torch.zeros(settings.model["dim"]))

    def scores(
        self, regions: Float[Tensor, "*batch R D"], target: Float[Tensor, "*batch D"]
    ) -> Float[Tensor, "*batch R"]:
        """Similarity of regions and a target (a caption, a text, a sound), as the preset says."""
        return attention.similarity(
            regions, target, self.settings.similarity, self.mean_region, self.mean_caption
        )

    def separate(
        self, mixture: Float[Tensor, "B L"], queries: Float[Tensor, "B N V R D"]
    ) -> tuple[Float[Tensor, "B N L"], Float[Tensor, "B N M T"]]:
        """Estimates and their masks, clamped to [0, 1], for waveforms of one crop."""
        spectrum, magnitude = self.settings.transform.analyse(mixture)
        masks = self.net.masks(magnitude, queries).clamp(0, 1)
        return self.settings.transform.apply(masks, spectrum, mixture.shape[-1]), masks

    @torch.no_grad()
    def separate_long(
        self, mixture: Float[Tensor, " L"], queries: Float[Tensor, "N V R D"]
    ) -> Float[Tensor, "N L"]:
        """Estimates of a waveform of any length: windows of one crop, half overlapped, faded and added.

        The fades of neighbours add up to one, so a mask of ones gives back the mixture.
        """
        size = self.settings.transform.length
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
            estimates, _ = self.separate(batch, queries.expand(len(batch), *queries.shape))
            for j, estimate in enumerate(estimates, i):
                out[:, j * step : j * step + size] += estimate * fade
                total[j * step : j * step + size] += fade
        return (out / total.clamp_min(1e-8))[:, step : step + length]

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write `model.safetensors`: weights, settings and facts about the training, in one file."""
        header = {"settings": json.dumps(asdict(self.settings), sort_keys=True)}
        header["facts"] = json.dumps(facts, sort_keys=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.own_state().items()}
        write_atomic(folder / "model.safetensors", save(tensors, metadata=header))

    def own_state(self) -> dict[str, Tensor]:
        """The state without the second name of a shared encoder."""
        shared = self.net.embedder is self.net.encoder
        return {k: v for k, v in self.state_dict().items() if not (shared and k.startswith("net.embedder."))}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `own_state`."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [k for k in missing if not k.startswith("net.embedder.")]
        if missing or unexpected:
            raise AvsetError(f"the checkpoint does not fit its own settings: {(missing + unexpected)[0]}")

    @classmethod
    def load(cls, folder: Path) -> "Model":
        """A model from its folder; it needs no parameters file."""
        path = require(folder / "model.safetensors")
        try:
            with safe_open(str(path), framework="pt") as f:
                told = json.loads(f.metadata()["settings"])
                settings = Settings(**{**told, "transform": sp.Transform(**told["transform"])})
                state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError) as e:
            raise AvsetError(f"{path} is not a checkpoint of this project; train it again") from e
        model = cls(settings)
        model.load_own_state(state)
        return model.eval().requires_grad_(False)


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

    def separate(
        self, waveform: Float[Tensor, " L"], queries: Float[Tensor, "N V R D"]
    ) -> Float[Tensor, "N L"]:
        """Estimates of a waveform of any length at the model's sample rate."""
        return self.model.separate_long(waveform, queries)

"""A separation model with all that it needs to be used: one safetensors file, no parameters file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from avset.errors import AvsetError
from avset.features import attention
from avset.features import spectrograms as sp
from avset.models.avset import AVSeT
from avset.storage.files import require, write_atomic


@dataclass(frozen=True)
class Settings:
    """All that a checkpoint needs besides its weights; it travels inside the file."""

    model: dict[str, Any]  # arguments of AVSeT
    transform: sp.Transform
    positional: bool  # of the region features
    similarity: str
    encoder: str  # identity of the encoder: sha256 of its encoder.json, which holds that of the weights


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
        return attention.similarity(regions, target, self.settings.similarity, self.mean_region, self.mean_caption)

    def separate(
        self, mixture: Float[Tensor, "B L"], queries: Float[Tensor, "B N V R D"]
    ) -> tuple[Float[Tensor, "B N L"], Float[Tensor, "B N M T"]]:
        """Estimates and their masks, clamped to [0, 1], for waveforms of one crop."""
        spectrum, magnitude = self.settings.transform.analyse(mixture)
        masks = self.net.masks(magnitude, queries).clamp(0, 1)
        return self.settings.transform.apply(masks, spectrum, mixture.shape[-1]), masks

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write `model.safetensors`: weights, settings and facts about the training, in one file."""
        told = json.dumps({"settings": asdict(self.settings), "facts": facts}, sort_keys=True)
        header = {"model": told}  # one entry: safetensors writes several in any order
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
                told = json.loads(f.metadata()["model"])["settings"]
                settings = Settings(**{**told, "transform": sp.Transform(**told["transform"])})
                state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError) as e:
            raise AvsetError(f"{path} is not a checkpoint of this project; train it again") from e
        model = cls(settings)
        model.load_own_state(state)
        return model.eval().requires_grad_(False)

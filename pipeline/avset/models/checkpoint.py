"""A method, trained, with all that it needs to be used: one safetensors file, no parameters file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from avset.errors import AvsetError
from avset.features import spectrograms as sp
from avset.models.contract import Conditions, Localizes, Method, Sizes
from avset.models.presence import Presence
from avset.presets import MethodSettings, module_of, settings_type
from avset.storage.checksums import checked, finite
from avset.storage.files import write_atomic
from avset.storage.tensors import named_as


@dataclass(frozen=True)
class Settings:
    """All that a checkpoint needs besides its weights; it travels inside the file."""

    method: MethodSettings
    sizes: Sizes
    positional: bool  # of the region features
    encoder: str  # identity of the encoder: sha256 of its encoder.json, which holds that of the weights

    @property
    def transform(self) -> sp.Transform:
        """The audio front end."""
        return self.sizes.transform

    def plain(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return {"method": self.method.recipe(), "sizes": self.sizes.plain(),
                "positional": self.positional, "encoder": self.encoder}  # fmt: skip

    def unlike(self, other: "Settings") -> list[str]:
        """Where a method of the `other` settings is another one, so that its weights mean something else here.

        How it learned (`teaching` of its kind's settings) does not count, nor does the encoder.
        """
        if other.method.kind != self.method.kind:
            return [f"its kind is {other.method.kind}, here it is {self.method.kind}"]
        ours, theirs = (dict(_built(settings)) for settings in (self, other))
        return [
            f"its {name} is {theirs.get(name)}, here it is {ours.get(name)}"
            for name in sorted({*ours, *theirs})
            if ours.get(name) != theirs.get(name)
        ]

    @classmethod
    def from_plain(cls, told: dict[str, Any]) -> "Settings":
        """The inverse of `plain`."""
        sizes = Sizes(**{**told["sizes"], "transform": sp.Transform(**told["sizes"]["transform"])})
        method = settings_type(told["method"]["kind"]).model_validate(told["method"])
        return cls(method, sizes, told["positional"], told["encoder"])


def _built(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Name and value of all that decides what the weights of a method mean."""
    told = settings.plain()
    teaching: frozenset[str] = getattr(settings.method, "teaching", frozenset())
    yield from ((name, value) for name, value in told["method"].items() if name not in teaching)
    yield from told["sizes"].pop("transform").items()
    yield from told["sizes"].items()
    yield "positional", settings.positional


def needs_of(settings: MethodSettings) -> frozenset[str]:
    """What a method of these settings needs, before there is one: see avset.models.contract."""
    needs: frozenset[str] = import_module(module_of(settings.kind)).Method.needs_of(settings)
    return needs


def method_of(settings: Settings) -> Method:
    """An untrained method of the kind that the settings name."""
    made: Method = import_module(module_of(settings.method.kind)).Method(settings.method, settings.sizes)
    return made


class SeparationModel:
    """A method with its settings, in use: waveforms in, waveforms out; and what it knows of presence, if it does."""

    def __init__(self, settings: Settings, method: Method | None = None, presence: Presence | None = None):
        self.settings, self.method, self.presence = settings, method or method_of(settings), presence
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> "SeparationModel":
        """The same model, moved to a device."""
        self.method.to(device)
        self.presence = self.presence and self.presence.to(device)
        self.device = torch.device(device)
        return self

    @property
    def name(self) -> str:
        """The kind of the method, for messages."""
        return self.settings.method.kind

    def separate(
        self, mixture: Float[Tensor, "B L"], conditions: Conditions
    ) -> tuple[Float[Tensor, "B N L"], Float[Tensor, "B N P T"]]:
        """Estimates and their masks, clamped to [0, 1], for waveforms of one crop.

        The masks are on the grid of the method: P is M or F.
        """
        transform, grid = self.settings.transform, self.method.grid
        spectrum, magnitude = transform.analyse(mixture, grid)
        masks = self.method.masks(magnitude, conditions).clamp(0, 1)
        return transform.apply(masks, spectrum, mixture.shape[-1], grid), masks

    def answering(self, kind: str) -> "SeparationModel":
        """This model; AvsetError if its method answers no query of that kind."""
        if kind not in self.method.answers:
            known = f"it answers {', '.join(self.method.answers)}" if self.method.answers else "it knows no query"
            raise AvsetError(f"{self.name} answers no {kind} query: {known}; give another model")
        return self

    def localizing(self) -> Localizes:
        """The method; AvsetError if it cannot localize."""
        if not isinstance(self.method, Localizes):
            raise AvsetError(f"{self.name} does not know where a sound is; give another model")
        return self.method

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write `model.safetensors`: weights, settings and facts about the training, in one file.

        AvsetError if a weight is not finite.
        """
        told = json.dumps({"settings": self.settings.plain(), "facts": facts}, sort_keys=True)
        header = {"model": told}  # one entry: safetensors writes several in any order
        tensors = {name: tensor.contiguous() for name, tensor in self.method.own_state().items()}
        finite(folder / "model.safetensors", tensors)
        write_atomic(folder / "model.safetensors", save(tensors, metadata=header))

    @classmethod
    def load(cls, folder: Path) -> "SeparationModel":
        """A model from its folder; it needs no parameters file.

        AvsetError if the file is damaged, or none of this version, or if a weight is not finite.
        """
        path = checked(folder / "model.safetensors")
        try:
            with safe_open(str(path), framework="pt") as f:
                settings = Settings.from_plain(json.loads(f.metadata()["model"])["settings"])
                state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        except (SafetensorError, LookupError, TypeError, ValueError) as e:
            raise AvsetError(f"{path} is not a checkpoint of this version; train it again") from e
        finite(path, state)
        method = method_of(settings)
        if strange := method.load_own_state(named_as(method.own_state(), state)):
            raise AvsetError(f"{path} does not fit its own settings ({strange[0]}); train it again")
        return cls(settings, method.eval().requires_grad_(False), Presence.load(folder))

"""The settings of a method: a type for each kind, checked when params.yaml is read. No torch in here.

A kind is a name in `KINDS`, or the dotted name of a module that has `Settings` and `Method`.
"""

from importlib import import_module
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from avset.errors import ParamsError


class Section(BaseModel):
    """A section of params.yaml: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def recipe(self) -> dict[str, Any]:
        """The plain values, for keys and stores."""
        return self.model_dump(mode="json")


class MethodSettings(Section):
    """The settings of a method that learns nothing; a kind adds its own."""

    kind: str


class LearnedSettings(MethodSettings):
    """The settings of a method that learns: the weights of its losses, and its optimiser."""

    losses: Any  # name of each loss -> its weight
    optimizer: Literal["sgd", "adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "step"]
    warmup: int = Field(ge=0)  # steps
    best: Literal["nsdr", "loss"]  # what decides the best checkpoint

    def weights(self) -> dict[str, float]:
        """The weight of each loss."""
        return dict(self.recipe()["losses"])


class AVSeTLosses(Section):
    """Weights of Eq. 5, and of the mask loss with the latent caption as the query."""

    mask: float = Field(ge=0)
    caption: float = Field(ge=0)
    audio_language: float = Field(ge=0)
    trimodal: float = Field(ge=0)


class AVSeTSettings(LearnedSettings):
    """Everything that an ablation of AV-SeT changes. See avset.models.avset for the network's switches."""

    level: Literal["region", "video"]
    norm: Literal["group", "batch"]
    query_norm: Literal["none", "l2"]
    scale: Literal["regions", "sum"]
    shared_encoder: bool
    embedding_input: Literal["masked", "release"]
    init: Literal["uniform", "small"]
    mask_target: Literal["mixture", "sum"]
    losses: AVSeTLosses
    similarity: Literal["cosine", "dot", "centered"]
    kl_reduction: Literal["sum", "mean"]


class NMFSettings(MethodSettings):
    """NMF-MFCC (Spiertz & Gnann 2009)."""

    templates: int = Field(ge=1)  # of the factorisation of a mixture
    updates: int = Field(ge=1)  # multiplicative, for the Euclidean distance
    coefficients: int = Field(ge=1)  # MFCC 1, 2, ... of each template that are clustered
    seed: int


KINDS: dict[str, tuple[type[MethodSettings], str]] = {  # kind -> its settings, and the module that has its `Method`
    "avset": (AVSeTSettings, "avset.models.avset"),
    "nmf_mfcc": (NMFSettings, "avset.models.nmf_mfcc"),
}


def module_of(kind: str) -> str:
    """The dotted name of the module that has the `Method` of a kind."""
    return KINDS[kind][1] if kind in KINDS else kind


def settings_type(kind: Any, key: str = "kind") -> type[MethodSettings]:
    """The type of the settings of a kind; ParamsError, with the name of the `key`, if there is no such kind."""
    if kind in KINDS:
        return KINDS[kind][0]
    if not isinstance(kind, str) or "." not in kind:
        known = ", ".join(sorted(KINDS))
        raise ParamsError(f"{key}: {kind!r} is not one of {known}, and no dotted name of a module of your own")
    try:
        found: type[MethodSettings] = import_module(kind).Settings
        return found
    except (ImportError, AttributeError) as e:
        raise ParamsError(f"{key}: {kind!r} is no module with `Settings` and `Method` ({e})") from e

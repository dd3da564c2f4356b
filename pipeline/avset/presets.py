"""The settings of a method: a type for each kind, checked when params.yaml is read. No torch in here.

A kind is a name in `KINDS`, or the dotted name of a module that has `Settings` and `Method`.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from avset.errors import ParamsError

Seed = Annotated[int, Field(ge=0)]
Misfit = tuple[str, str]  # the dotted name of a parameter, and why its value does not fit the others


class Section(BaseModel):
    """A section of params.yaml: immutable, no unknown keys, no text or truth value where a number belongs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def recipe(self) -> dict[str, Any]:
        """The plain values, for keys and stores."""
        return self.model_dump(mode="json")


class MethodSettings(Section, strict=False):
    """The settings of a method that learns nothing; a kind adds its own."""

    kind: str
    supervision: ClassVar[str] = "none"  # what its training is told: "none", or "labels and boxes"

    def misfits(self, preset: str, p: Any) -> Iterator[Misfit]:
        """What in the parameters `p` (avset.params.Params) the method cannot run with, by the name of its preset."""
        yield from ()


class LearnedSettings(MethodSettings):
    """The settings of a method that learns: the weights of its losses, and its optimiser."""

    teaching: ClassVar[frozenset[str]] = frozenset(
        {"losses", "optimizer", "lr", "weight_decay", "schedule", "warmup", "best"}
    )  # settings of how it learns: in these alone it may differ from the model that its training starts from
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


def unet_misfits(preset: str, norm: str, p: Any) -> Iterator[Misfit]:
    """Sizes that a U-Net of as many levels as `model.channels` and the bottleneck cannot halve, or not normalise."""
    levels, sizes = len(p.model.channels) + 1, (p.model.log_bins, p.model.crop)
    unit: int = 2**levels
    for name, size in zip(("log_bins", "crop"), sizes, strict=True):
        if size % unit:
            near = unit * max(1, round(size / unit))
            why = f"the U-Net of {preset} halves it {levels} times (model.channels, then the bottleneck)"
            yield f"model.{name}", f"{why}, so it must be a multiple of {unit}, like {near}, not {size}"
    if norm == "batch" and p.train.batch_size == 1 and sizes == (unit, unit):
        why = f"presets.{preset}.norm is batch, but a batch has one value of each channel at the bottleneck"
        yield "model.crop", f"{why}; raise train.batch_size, model.crop or model.log_bins, or take norm: group"


class AVSeTLosses(Section):
    """Weights of Eq. 5, and of the mask loss with the latent caption as the query."""

    mask: float = Field(ge=0)
    caption: float = Field(ge=0)
    audio_language: float = Field(ge=0)
    trimodal: float = Field(ge=0)

    @model_validator(mode="after")
    def _some(self) -> "AVSeTLosses":
        if not any(self.recipe().values()):
            raise ValueError("all weights are zero, so nothing would be learned; raise mask")
        return self


class AVSeTSettings(LearnedSettings, strict=True):
    """Everything that an ablation of AV-SeT changes. See avset.models.avset for the network's switches."""

    teaching: ClassVar[frozenset[str]] = LearnedSettings.teaching | {"init", "kl_reduction", "temperature", "negatives"}
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
    temperature: float = Field(default=0.01, gt=0)  # of Eq. 2
    negatives: Literal["all", "batch"] = "all"  # of Eq. 2: the captions of all training clips | of the batch's

    def recipe(self) -> dict[str, Any]:
        """The plain values. What has a default came later, and is left out there: older models keep their identity."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def misfits(self, preset: str, p: Any) -> Iterator[Misfit]:
        """Sizes that the U-Net cannot halve, a batch without statistics, regions drawn where all are pooled."""
        yield from unet_misfits(preset, self.norm, p)
        for name in ("decoded_frames", "decoded_regions"):
            if self.level == "video" and getattr(p.train, name) is not None:
                yield f"train.{name}", f"presets.{preset}.level is video, which pools all regions; leave it empty"


class MaskLoss(Section):
    """The weight of the one loss of a method."""

    mask: float = Field(gt=0)


class SoundOfPixelsSettings(LearnedSettings, strict=True):
    """Sound of Pixels (Zhao et al. 2018)."""

    teaching: ClassVar[frozenset[str]] = LearnedSettings.teaching | {"lr_vision"}
    pixels: Literal["frames", "regions"]  # a tower of its own on frames, or frozen regions (the paper's Table 4)
    maps: int = Field(ge=1)  # K
    norm: Literal["batch", "group"]  # of the U-Net
    mask_target: Literal["binary", "ratio"]  # binary: cross-entropy, masks of 0 and 1 | ratio: weighted L1
    lr_vision: float | None = Field(gt=0)  # of the tower; null: lr
    losses: MaskLoss

    def misfits(self, preset: str, p: Any) -> Iterator[Misfit]:
        """Sizes that the U-Net cannot halve, a learning rate of a tower that is not there."""
        yield from unet_misfits(preset, self.norm, p)
        if self.pixels == "regions" and self.lr_vision is not None:
            yield f"presets.{preset}.lr_vision", "regions are frozen, so there is no tower that learns; leave it empty"


class CoSeparationLosses(Section):
    """Weights of the masks, and of the classes of the separated sounds."""

    mask: float = Field(gt=0)
    classes: float = Field(ge=0)


class AVSGSLosses(CoSeparationLosses):
    """The same, and of the embeddings of a video."""

    orthogonality: float = Field(ge=0)


class SupervisedSettings(LearnedSettings, strict=True):
    """What the strongly supervised systems share."""

    supervision: ClassVar[str] = "labels and boxes"
    objects: int = Field(ge=1)  # of a video, at most
    norm: Literal["batch", "group"]  # of the U-Net

    def misfits(self, preset: str, p: Any) -> Iterator[Misfit]:
        """Sizes that the U-Net cannot halve."""
        yield from unet_misfits(preset, self.norm, p)


class CoSeparationSettings(SupervisedSettings, strict=True):
    """Co-Separation (Gao & Grauman 2019)."""

    teaching: ClassVar[frozenset[str]] = LearnedSettings.teaching | {"lr_vision"}
    lr_vision: float | None = Field(gt=0)  # of the tower; null: lr
    losses: CoSeparationLosses


class AVSGSSettings(SupervisedSettings, strict=True):
    """AVSGS (Chatterjee et al. 2021)."""

    width: int = Field(ge=2)  # of an embedding
    heads: int = Field(ge=1)  # of the attention
    losses: AVSGSLosses

    def misfits(self, preset: str, p: Any) -> Iterator[Misfit]:
        """Those of `SupervisedSettings`, and heads among which half of the width cannot be shared."""
        yield from super().misfits(preset, p)
        if self.width % (2 * self.heads):
            yield (
                f"presets.{preset}.width",
                f"must be a multiple of {2 * self.heads}, twice its heads; not {self.width}",
            )


class NMFSettings(MethodSettings, strict=True):
    """NMF-MFCC (Spiertz & Gnann 2009)."""

    templates: int = Field(ge=1)  # of the factorisation of a mixture
    updates: int = Field(ge=1)  # multiplicative, for the Euclidean distance
    coefficients: int = Field(ge=1, le=25)  # MFCC 1, 2, ... of each template that are clustered; 26 mel bands have 25
    seed: Seed

    def misfits(self, preset: str, p: Any) -> Iterator[Misfit]:
        """Fewer templates than sounds."""
        if self.templates < p.mixtures.n_sources:
            why = f"{self.templates} make no {p.mixtures.n_sources} sounds (mixtures.n_sources); take more"
            yield f"presets.{preset}.templates", why


KINDS: dict[str, tuple[type[MethodSettings], str]] = {  # kind -> its settings, and the module that has its `Method`
    "avset": (AVSeTSettings, "avset.models.avset"),
    "avsgs": (AVSGSSettings, "avset.models.avsgs"),
    "co_separation": (CoSeparationSettings, "avset.models.co_separation"),
    "nmf_mfcc": (NMFSettings, "avset.models.nmf_mfcc"),
    "sound_of_pixels": (SoundOfPixelsSettings, "avset.models.sound_of_pixels"),
}


def module_of(kind: str) -> str:
    """The dotted name of the module that has the `Method` of a kind."""
    return KINDS[kind][1] if kind in KINDS else kind


def settings_type(kind: Any, key: str = "kind") -> type[MethodSettings]:
    """The type of the settings of a kind; ParamsError, with the name of the `key`, if there is no such kind."""
    if isinstance(kind, str) and kind in KINDS:
        return KINDS[kind][0]
    if not isinstance(kind, str) or "." not in kind:
        known = ", ".join(sorted(KINDS))
        raise ParamsError(f"{key}: {kind!r} is not one of {known}, and no dotted name of a module of your own")
    try:
        module = import_module(kind)
        found: type[MethodSettings] = module.Settings
        _ = module.Method
    except Exception as e:  # a module of one's own may raise anything
        raise ParamsError(f"{key}: {kind!r} is no module with `Settings` and `Method` ({e})") from e
    if not (isinstance(found, type) and issubclass(found, MethodSettings)):
        raise ParamsError(f"{key}: {kind}.Settings must derive from avset.presets.MethodSettings")
    return found

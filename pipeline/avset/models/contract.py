"""What every method keeps: `masks` of a mixture; `losses` of a batch, if it learns; what else it knows is optional.

A method is an `nn.Module`. It never sees clips, paths, stores or parameters: what it is made of is its settings (see
avset.presets) and the sizes below. A module that has a class `Method` like this one, and a class `Settings`, is a kind
of method, whoever wrote it.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avset.features.spectrograms import Transform

ORACLE = "oracle"  # the kind of query of a method that answers none: the sources themselves choose its outputs


@dataclass(frozen=True)
class Sizes:
    """What the data and the parameters decide, whatever the method."""

    transform: Transform
    dim: int  # D, of regions and captions
    n_regions: int  # R, of a frame
    channels: list[int]  # of a U-Net's levels above the bottleneck
    tower: str = ""  # architecture of the `tower`, for a method that needs it: see avset.features.resnet
    classes: int = 0  # of objects, for a method that needs these; and
    side: int = 0  # of their crops, px, and
    object_width: int = 0  # P, of their features

    def plain(self) -> dict[str, Any]:
        """The sizes as JSON holds them, without those that the method does not need."""
        return {name: value for name, value in asdict(self).items() if value not in ("", 0)}


@dataclass(frozen=True)
class Conditions:
    """What selects the N sounds of each mixture; `queries` are there for a method that answers some.

    `seen` is there for a method that answers `video` by something else than regions: what it `needs` of each source,
    named and shaped as in a batch of its training.
    """

    n_sources: int
    queries: Float[Tensor, "B N V R D"] | None = None
    seen: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_queries(cls, queries: Float[Tensor, "B N V R D"]) -> "Conditions":
        """One query for each sound."""
        return cls(queries.shape[1], queries)


class Method(nn.Module):
    """A method of separation. A kind derives from it, says in its attributes what it is, and overrides what it does.

    needs    what its training reads beside `sources` (B, N, M, T), `mixture` (B, M, T) and `clip` (B, N), the numbers
             of the clips. Of each source: `regions` (B, N, V, R, D), `frames` (B, N, V, H, W, 3), uint8, and of its
             objects `boxes` (B, N, V, O, 4), `classes`, `confidences` (B, N, V, O), `features` (B, N, V, O, P): see
             avset.features.objects. `captions`
             brings the latent captions of all training clips, `captions` (C, D), and for each clip the number of its
             own, `own` (clips,). `tower` brings the weights of a picture tower to `prepare`.
    answers  the kinds of queries that it answers: `text`, `video`, `caption`; none: see `ORACLE`
    grid     the frequencies of its magnitudes and masks: `log` (M bins), `linear` (F bins)
    learns   whether it has `losses`; its settings are `LearnedSettings` then
    """

    needs: frozenset[str] = frozenset()
    answers: tuple[str, ...] = ()
    grid: ClassVar[Literal["log", "linear"]] = "log"
    learns: ClassVar[bool] = False
    precision: str = "float32"  # of the convolutions in training: float32 | bfloat16

    def __init__(self, settings: Any, sizes: Sizes):
        super().__init__()
        self.settings, self.sizes, self.needs = settings, sizes, self.needs_of(settings)

    @classmethod
    def needs_of(cls, settings: Any) -> frozenset[str]:
        """What a method of these settings needs, for a kind whose settings decide it."""
        return cls.needs

    def masks(self, mixture: Float[Tensor, "B M T"], conditions: Conditions) -> Float[Tensor, "B N M T"]:
        """Ratio masks of N sounds on each mixture's magnitude; what is outside of [0, 1] is clamped by the caller."""
        raise NotImplementedError

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The unweighted losses of one batch, by name. A loss of weight zero may be left out."""
        raise NotImplementedError

    def prepare(self, constants: Mapping[str, Tensor]) -> None:
        """Called once before training, with what is the same in all batches.

        `captions` (C, D) and `own` (clips,) are there for a method that needs captions, `mean_region` (D,) for one
        that needs regions, and for one that needs the tower its weights, `tower.<name>`.
        """

    def begin(self, state: Mapping[str, Tensor]) -> None:
        """Called after `prepare`, in a training that starts from a model: take up the model's `own_state`."""
        self.load_own_state(state)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of parts that have one of their own, by the start of their parameters' names.

        All other parameters learn at `lr` of the settings. The schedule is that of all.
        """
        return {}

    @property
    def validated(self) -> tuple[str, ...]:
        """The kinds of queries that choose the best checkpoint; those that need no label."""
        return tuple(kind for kind in self.answers if kind != "text")

    def own_state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps."""
        return dict(self.state_dict())

    def load_own_state(self, state: Mapping[str, Tensor]) -> list[str]:
        """The inverse of `own_state`; returns the names that are missing or unknown."""
        missing, unknown = self.load_state_dict(state, strict=False)
        return [*missing, *unknown]

    def convolutions(self, device: torch.device) -> AbstractContextManager[Any]:
        """A context in which convolutions are made in `precision`."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


@runtime_checkable
class Localizes(Protocol):
    """A method that knows where in a picture a caption, a text, or a separated sound belongs."""

    def embed(self, mixture: Float[Tensor, "B M T"], masks: Float[Tensor, "B N M T"]) -> Float[Tensor, "B N D"]:
        """Embeddings of the separated sounds, in the space of the regions."""
        ...

    def scores(
        self, regions: Float[Tensor, "*batch R D"], target: Float[Tensor, "*batch D"]
    ) -> Float[Tensor, "*batch R"]:
        """Similarity of each region with a target: a caption, a text, the embedding of a sound."""
        ...


@runtime_checkable
class Points(Protocol):
    """A method that knows where in the centre frame of each source its sound comes from, and nothing of embeddings."""

    def loudness(self, mixture: Float[Tensor, "B M T"], conditions: Conditions) -> Float[Tensor, "B N h w"]:
        """How much sound each cell of each source's centre frame makes."""
        ...

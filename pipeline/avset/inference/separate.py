"""A trained model and its encoder, in use: from a sound of any length, rate and number of channels to the sounds in it.

The ladder: `Separator.separate` takes an array, a file or a file object and returns arrays; `Separator.stream` takes
and gives blocks; `avset.inference.files` goes from file to file, and from files to files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, tee
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from avset.compute.limited import Limits
from avset.errors import AvsetError
from avset.features.encoder import Encoder
from avset.inference.combine import remix
from avset.inference.hub import locate
from avset.inference.localize import Attention, localize
from avset.inference.masks import mask_blocks
from avset.inference.native import NativeTransform, apply_masks
from avset.inference.pair import check_pair, load_pair
from avset.inference.pictures import frame_if_any
from avset.inference.presence import Listener
from avset.inference.queries import Resolved, Wanted, resolved, resolved_all, seen_query, text_queries, video_queries
from avset.inference.reading import LIMITS
from avset.inference.source import Source, heard, opened
from avset.inference.wishes import Number, Query, as_query, check_spans
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Localizes


@dataclass(frozen=True)
class Block:
    """A piece of a recording, and of the N sounds in it."""

    mixture: Float32[np.ndarray, "C m"]
    sounds: Float32[np.ndarray, "N C m"]
    sample_rate: int  # Hz


@dataclass(frozen=True)
class Separated:
    """What was found in a sound, one entry for each query, in their order.

    `sounds` and `residual` add up to the mixture. They have its channels: none (L,) if it was an array of one
    dimension, else (C, L). `masks` are on the grid of the model's STFT of the mono mixture at the model's rate:
    frame t is centred at t * hop_length samples, F are the bins from 0 Hz to half of the rate. The masks are those that
    were applied, before spans.
    """

    queries: tuple[str, ...]
    sounds: Float32[np.ndarray, "N *C L"]
    residual: Float32[np.ndarray, "*C L"]
    sample_rate: int  # Hz, of the sounds
    masks: Float32[np.ndarray, "N F T"]  # in [0, 1]
    presence: Sequence[float] | None = None  # how sure it is that there is such a sound, in [0, 1]; see models/presence
    heat_maps: tuple[Attention | None, ...] | None = None  # over the middle picture, if there is one; None of a picture
    gains: Sequence[Number] | None = None  # of the queries (dB)

    def __getitem__(self, query: str | Query) -> Float32[np.ndarray, "*C L"]:
        """The sound of a query, by its name or by itself; AvsetError if it was not asked for."""
        name = query.label() if isinstance(query, Query) else query
        if name not in self.queries:
            raise AvsetError(f"{name!r} was not asked for; the queries are {', '.join(map(repr, self.queries))}")
        return self.sounds[self.queries.index(name)]

    @property
    def remix(self) -> Float32[np.ndarray, "*C L"]:
        """The mixture with each sound louder or softer by the gain of its query, and all else as it was."""
        sounds = torch.from_numpy(self.sounds)
        mixture = torch.from_numpy(self.sounds.sum(0) + self.residual)
        return remix(mixture, sounds, self.gains or [0.0] * len(sounds)).numpy()

    @property
    def energies(self) -> tuple[float, ...]:
        """The energy of each sound, as a share of the mixture's; 0 of silence."""
        whole = float(np.square(self.sounds.sum(0) + self.residual, dtype=np.float64).sum())
        return tuple(float(np.square(one, dtype=np.float64).sum()) / max(whole, 1e-12) for one in self.sounds)


class Separator:
    """A trained model together with its encoder: what a user holds. `avset.load` makes one of folders.

    AvsetError if the model was trained with another encoder.
    """

    def __init__(self, model: SeparationModel, encoder: Encoder):
        check_pair(model, encoder)
        self.model, self.encoder = model, encoder

    @classmethod
    def load(cls, model: str | PathLike[str], encoder: str | PathLike[str] | None = None) -> "Separator":
        """From folders; without `encoder`, that of the same data set and scale. MissingArtifact if one is not there."""
        return cls(*load_pair(Path(model), Path(encoder) if encoder is not None else None))

    @property
    def sample_rate(self) -> int:
        """Of the model (Hz): what it hears. Sounds keep the rate of their source, unless `model_rate` is asked for."""
        return self.model.settings.transform.sample_rate

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    def to(self, device: torch.device | str) -> "Separator":
        """The same separator, moved to a device; AvsetError if there is no such device."""
        try:
            self.model.to(device)
            self.encoder.to(device)
        except (AssertionError, RuntimeError) as e:
            why = str(e).strip().partition("\n")[0]
            raise AvsetError(f"the device {str(device)!r} cannot be used ({why}); give another one, as 'cpu'") from e
        return self

    def text_query(self, texts: str | Sequence[str]) -> Float[Tensor, "N 1 1 D"]:
        """One query per text; a plain string is one text. AvsetError if the model answers no text."""
        self.model.answering("text")
        return text_queries(self.encoder, texts)

    def video_query(self, frames: UInt8[np.ndarray, "V H W 3"]) -> Float[Tensor, "1 V R D"]:
        """One query of all regions of some frames; AvsetError if the model answers no video, or sees no regions."""
        return seen_query(self.model, self.encoder, frames)

    def separate(
        self,
        source: Source,
        query: Wanted | Sequence[Wanted],
        sample_rate: int | None = None,
        model_rate: bool = False,
        keep_absent: bool = False,
        limits: Limits = LIMITS,
        shares: bool = False,
    ) -> Separated:
        """The sounds that queries name, in a sound that fits into memory.

        source       path of an audio or video file, file object, or array: (L,), (C, L), floats in [-1, 1] or integers
        query        a text, or a `Query`: a box, an example, an exclusion, spans, a gain; or several of them; or what
                     `text_query` and `video_query` make
        sample_rate  of an array (Hz)
        model_rate   mono at the model's rate, instead of the channels and the rate of the source
        keep_absent  also the sounds of queries whose presence is below `models.presence.THRESHOLD`: silence otherwise
        shares       where sounds claim more than there is, each gets its share: masks and the rest add up to one

        AvsetError if the source or a query cannot be used.

        >>> tone = np.sin(np.arange(44100) / 20).astype(np.float32)
        >>> found = separator.separate(np.stack([tone, tone / 2]), ["violin", "drum"], sample_rate=44100)
        >>> found.sounds.shape, found["drum"].shape, found.residual.shape, found.sample_rate
        ((2, 2, 44100), (2, 44100), (2, 44100), 44100)
        >>> louder = avset.Query("violin", without=["drum"], outside=[(0.5, 1.0)], gain=6.0)
        >>> found = separator.separate(tone, [louder, avset.Query("flute", gain=-np.inf)], sample_rate=44100)
        >>> found.queries, found[louder].shape, found.remix.shape
        (('violin not drum not from 0.5 to 1 s', 'flute'), (44100,), (44100,))
        """
        with opened(source, sample_rate, limits) as given:
            told = self.ask(query, given.path, shares, limits)
            frame = self.picture(given.path, limits)
            sound = list(self.as_written(given.blocks, model_rate))
        rate = sound[0][1]
        seconds = sum(block.shape[-1] for block, _ in sound) / rate
        check_spans(told.queries, seconds)
        listener = self.listener(told, frame)
        claimed = list(self.hear(iter(sound), told, listener))
        masks = list(told.combined(iter(claimed), frozenset() if keep_absent else listener.absent()))
        blocks = list(self.apply(iter(sound), iter(masks), told))
        sounds, mixture = (
            np.concatenate(parts, -1) for parts in zip(*((b.sounds, b.mixture) for b in blocks), strict=True)
        )
        if given.flat:
            sounds, mixture = sounds[:, 0], mixture[0]
        frames = int(seconds * self.sample_rate / self.model.settings.transform.hop_length) + 1
        presence = listener.presence()
        return Separated(
            told.names, sounds, mixture - sounds.sum(0), rate, torch.cat(masks, -1)[..., :frames].cpu().numpy(),
            presence and presence[: len(sounds)], self.heat_maps(frame, told), told.gains,
        )  # fmt: skip

    def ask(
        self, query: Wanted | Sequence[Wanted], film: Path | None = None, shares: bool = False, limits: Limits = LIMITS
    ) -> Resolved:
        """Queries as the model takes them, those of pictures by the pictures of `film`; AvsetError if it does not."""
        return resolved_all(self.model, self.encoder, query, film, shares, limits)

    def stream(
        self,
        sound: Iterable[tuple[Float32[np.ndarray, "C n"], int]],
        query: Resolved | Wanted | Sequence[Wanted],
        model_rate: bool = False,
    ) -> Iterator[Block]:
        """`separate` for blocks of a sound, each with its sample rate (Hz), in memory that does not grow.

        About 20 s are read ahead. What is not there, is not known before the end: no sound is silence for that.
        """
        told = query if isinstance(query, Resolved) else self.ask(query)
        native, ours = tee(self.as_written(iter(sound), model_rate))
        yield from self.apply(native, told.combined(self.hear(ours, told)), told)

    def as_written(
        self, sound: Iterator[tuple[Float32[np.ndarray, "C n"], int]], model_rate: bool
    ) -> Iterator[tuple[Float32[np.ndarray, "C n"], int]]:
        """A sound with the channels and the rate of the sounds in it."""
        return ((block[None], self.sample_rate) for block in heard(sound, self.sample_rate)) if model_rate else sound

    def hear(
        self,
        sound: Iterable[tuple[Float32[np.ndarray, "C n"], int]],
        queries: Resolved,
        listener: Listener | None = None,
    ) -> Iterator[Float[Tensor, "_ P _"]]:
        """Blocks of a sound -> blocks of the masks of all queries, excluded ones too, on the model's grid.

        `listener` hears all windows.
        """
        blocks = heard(iter(sound), self.sample_rate)
        return mask_blocks(self.model, blocks, queries.vectors, listener.hear if listener else None)

    def apply(
        self,
        sound: Iterable[tuple[Float32[np.ndarray, "C n"], int]],
        masks: Iterable[Float[Tensor, "N F _"]],
        queries: Resolved,
    ) -> Iterator[Block]:
        """Blocks of a sound and of the masks of its sounds -> blocks of the sounds, within their spans."""
        sound, start = iter(sound), 0
        first, rate = next(sound)
        transform = NativeTransform(self.model.settings.transform, rate)
        blocks = chain([first], (block for block, _ in sound))
        for mixture, sounds in apply_masks(transform, blocks, masks):
            yield Block(mixture, queries.gated(sounds, start, rate), rate)
            start += mixture.shape[-1]

    def localize(self, frame: UInt8[np.ndarray, "H W 3"], query: Wanted) -> Attention:
        """The attention of a text or of an example over a frame; AvsetError if the model's method does not localize."""
        return self.look(query)(frame)

    def look(self, query: Wanted, limits: Limits = LIMITS) -> Callable[[UInt8[np.ndarray, "H W 3"]], Attention]:
        """What gives the attention of a text or of an example over each frame; AvsetError as of `localize`."""
        self.model.localizing()
        told = as_query(query)
        vector = None if told.video or told.box else resolved(self.model, self.encoder, told, limits=limits)
        return self._look(told, vector)

    def looks(self, queries: Resolved) -> list[Callable[[UInt8[np.ndarray, "H W 3"]], Attention]]:
        """`look` of each query."""
        self.model.localizing()
        return [self._look(*pair) for pair in zip(queries.queries, queries.vectors, strict=False)]

    def _look(
        self, query: Query, vector: Float[Tensor, "_ _ D"] | None
    ) -> Callable[[UInt8[np.ndarray, "H W 3"]], Attention]:
        if vector is None or query.video or query.box or vector.shape[:2] != (1, 1):
            raise AvsetError(f"{query.told()!r} says itself where it is; look for a text, or for an example sound")
        return partial(localize, self.model, self.encoder, target=vector[0, 0])

    def picture(self, path: Path | None, limits: Limits = LIMITS) -> UInt8[np.ndarray, "H W 3"] | None:
        """The middle picture of a file; None if it has none, or if the model's method does not look at pictures."""
        return frame_if_any(path, limits=limits) if path and isinstance(self.model.method, Localizes) else None

    def listener(self, queries: Resolved, frame: UInt8[np.ndarray, "H W 3"] | None) -> Listener:
        """What gathers, while a recording is separated, how surely the queries are in it, and in a picture of it."""
        regions = None if frame is None else video_queries(self.encoder, frame[None], self.model.settings.positional)
        return Listener(self.model, queries.vectors, None if regions is None else regions[0, 0])

    def heat_maps(
        self, frame: UInt8[np.ndarray, "H W 3"] | None, queries: Resolved
    ) -> tuple[Attention | None, ...] | None:
        """The attention of queries of one vector over a picture; None if there is no picture."""
        if frame is None:
            return None
        told = zip(queries.queries, queries.vectors, strict=False)
        return tuple(
            None if one.video or one.box or vector.shape[:2] != (1, 1)
            else localize(self.model, self.encoder, frame, vector[0, 0])
            for one, vector in told
        )  # fmt: skip


def load(
    model: str | PathLike[str], encoder: str | PathLike[str] | None = None, device: torch.device | str = "cpu"
) -> Separator:
    """A trained model with its encoder, ready to separate.

    model    a folder, "demo", "hf:OWNER/NAME[@REVISION]", "REPOSITORY#REVISION:PATH": see `avset.storage.hub.fetch`
    encoder  folder of the model's encoder; without it that inside `model`, else that of the same data set and scale
    device   where the model computes

    MissingArtifact if a file is not there; AvsetError if the model cannot be fetched, is damaged, or was trained with
    another encoder, or if there is no such device.

    >>> separator = avset.load("demo")  # comes with the library: it knows drawn players and synthesised sound only
    >>> separator.sample_rate, str(separator.device)
    (11025, 'cpu')
    """
    return Separator.load(locate(fspath(model)), encoder).to(device)

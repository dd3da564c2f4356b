"""A trained model and its encoder, in use: from a sound of any length, rate and number of channels to the sounds in it.

The ladder: `Separator.separate` takes an array, a file or a file object and returns arrays; `Separator.stream` takes
and gives blocks; `avset.inference.files` goes from file to file, and from files to files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from avset.inference.hub import locate
from avset.inference.localize import Attention, localize
from avset.inference.masks import mask_blocks
from avset.inference.native import NativeTransform, apply_masks
from avset.inference.pair import check_pair, load_pair
from avset.inference.pictures import frame_if_any
from avset.inference.presence import Listener
from avset.inference.queries import Query, listed, name_of, resolved, stacked, text_queries, video_queries
from avset.inference.reading import LIMITS
from avset.inference.source import Source, opened
from avset.media.waveforms import resample_blocks
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
    frame t is centred at t * hop_length samples, F are the bins from 0 Hz to half of the rate.
    """

    queries: tuple[str, ...]
    sounds: Float32[np.ndarray, "N *C L"]
    residual: Float32[np.ndarray, "*C L"]
    sample_rate: int  # Hz, of the sounds
    masks: Float32[np.ndarray, "N F T"]  # in [0, 1]
    presence: Sequence[float] | None = None  # how sure it is that there is such a sound, in [0, 1]; see models/presence
    heat_maps: tuple[Attention, ...] | None = None  # over the middle picture, if the source has pictures

    def __getitem__(self, query: str) -> Float32[np.ndarray, "*C L"]:
        """The sound of a query, by its name; AvsetError if it was not asked for."""
        if query not in self.queries:
            raise AvsetError(f"{query!r} was not asked for; the queries are {', '.join(map(repr, self.queries))}")
        return self.sounds[self.queries.index(query)]

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
        if "regions" not in self.model.answering("video").method.needs:
            seen = ", ".join(sorted(self.model.method.needs))
            raise AvsetError(f"{self.model.name} answers a video by {seen}, not by regions; give another model")
        return video_queries(self.encoder, frames, self.model.settings.positional)

    def separate(
        self,
        source: Source,
        query: Query | Sequence[Query],
        sample_rate: int | None = None,
        model_rate: bool = False,
        keep_absent: bool = False,
        limits: Limits = LIMITS,
    ) -> Separated:
        """The sounds that queries name, in a sound that fits into memory.

        source       path of an audio or video file, file object, or array: (L,), (C, L), floats in [-1, 1] or integers
        query        a text, or several; or what `text_query` and `video_query` make
        sample_rate  of an array (Hz)
        model_rate   mono at the model's rate, instead of the channels and the rate of the source
        keep_absent  also the sounds of queries whose presence is below `models.presence.THRESHOLD`: silence otherwise

        AvsetError if the source or a query cannot be used.

        >>> tone = np.sin(np.arange(44100) / 20).astype(np.float32)
        >>> found = separator.separate(np.stack([tone, tone / 2]), ["violin", "drum"], sample_rate=44100)
        >>> found.sounds.shape, found["drum"].shape, found.residual.shape, found.sample_rate
        ((2, 2, 44100), (2, 44100), (2, 44100), 44100)
        """
        names, queries = self.ask(query)
        with opened(source, sample_rate, limits) as given:
            frame = self.picture(given.path, limits)
            listener, masks = self.listener(queries, frame), list[np.ndarray]()
            blocks = list(self.stream(given.blocks, queries, model_rate, masks.append, listener))
        sounds, mixture = (
            np.concatenate(parts, -1) for parts in zip(*((b.sounds, b.mixture) for b in blocks), strict=True)
        )
        if not keep_absent:
            sounds[sorted(listener.absent())] = 0
        if given.flat:
            sounds, mixture = sounds[:, 0], mixture[0]
        seconds = mixture.shape[-1] / blocks[0].sample_rate
        frames = int(seconds * self.sample_rate / self.model.settings.transform.hop_length) + 1
        return Separated(
            names, sounds, mixture - sounds.sum(0), blocks[0].sample_rate, np.concatenate(masks, -1)[..., :frames],
            listener.presence(), self.heat_maps(frame, queries),
        )  # fmt: skip

    def ask(self, query: Query | Sequence[Query]) -> tuple[tuple[str, ...], Float[Tensor, "N V R D"]]:
        """The names of some queries, and the queries as the model takes them; AvsetError if it does not."""
        several = listed(query)
        names = tuple(name_of(one, number) for number, one in enumerate(several, 1))
        return names, stacked([resolved(self.model, self.encoder, one) for one in several])

    def stream(
        self,
        sound: Iterable[tuple[Float32[np.ndarray, "C n"], int]],
        queries: Float[Tensor, "N V R D"],
        model_rate: bool = False,
        keep: Callable[[Float32[np.ndarray, "N F t"]], None] | None = None,
        listener: Listener | None = None,
    ) -> Iterator[Block]:
        """`separate` for blocks of a sound, each with its sample rate (Hz), in memory that does not grow.

        About 20 s are read ahead. `keep` gets the masks, block by block; `listener` hears all windows.
        """
        if model_rate:
            sound = ((block[None], self.sample_rate) for block in self._heard(sound))
        sound = iter(sound)
        first, rate = next(sound)
        native, heard = tee(chain([(first, rate)], sound))
        masks = mask_blocks(self.model, self._heard(heard), queries, listener.hear if listener else None)
        if keep:
            masks = _kept(masks, keep)
        transform = NativeTransform(self.model.settings.transform, rate)
        for mixture, sounds in apply_masks(transform, (block for block, _ in native), masks):
            yield Block(mixture, sounds, rate)

    def _heard(self, sound: Iterable[tuple[np.ndarray, int]]) -> Iterator[Float32[np.ndarray, " n"]]:
        """What the model hears: the mean of the channels at its own rate."""
        return resample_blocks(((block.mean(0), rate) for block, rate in sound), self.sample_rate)

    def localize(self, frame: UInt8[np.ndarray, "H W 3"], query: Query) -> Attention:
        """The attention of a text over the regions of a frame; AvsetError if the model's method does not localize."""
        self.model.localizing()
        return localize(self.model, self.encoder, frame, resolved(self.model, self.encoder, query)[0, 0])

    def picture(self, path: Path | None, limits: Limits = LIMITS) -> UInt8[np.ndarray, "H W 3"] | None:
        """The middle picture of a file; None if it has none, or if the model's method does not look at pictures."""
        return frame_if_any(path, limits=limits) if path and isinstance(self.model.method, Localizes) else None

    def listener(self, queries: Float[Tensor, "N V R D"], frame: UInt8[np.ndarray, "H W 3"] | None) -> Listener:
        """What gathers, while a recording is separated, how surely the queries are in it, and in a picture of it."""
        regions = None if frame is None else video_queries(self.encoder, frame[None], self.model.settings.positional)
        return Listener(self.model, queries, None if regions is None else regions[0, 0])

    def heat_maps(
        self, frame: UInt8[np.ndarray, "H W 3"] | None, queries: Float[Tensor, "N V R D"]
    ) -> tuple[Attention, ...] | None:
        """The attention of queries of one vector over a picture; None if nothing is to be seen."""
        if frame is None or queries.shape[1:3] != (1, 1):
            return None
        return tuple(localize(self.model, self.encoder, frame, q[0, 0]) for q in queries)


def _kept(masks: Iterator[Tensor], keep: Callable[[np.ndarray], None]) -> Iterator[Tensor]:
    for block in masks:
        keep(block.cpu().numpy())
        yield block


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

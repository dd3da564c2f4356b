"""What selects a sound: texts, pictures, boxes and examples as sets of region embeddings (V, R, D); several at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from avset.compute.limited import Limits
from avset.errors import AvsetError
from avset.features.encoder import Encoder
from avset.features.spectrograms import unwarp
from avset.inference.combine import excluding, gate, shared
from avset.inference.pictures import picture_size, read_frame
from avset.inference.reading import LIMITS
from avset.inference.shown import box_query, embedding, like_query
from avset.inference.source import heard, opened
from avset.inference.wishes import Number, Query, exclusions, in_square, labels, listed
from avset.media.targets import check_query
from avset.models.checkpoint import SeparationModel

Wanted = str | Query | Tensor  # a text is a query, and so are region embeddings (V, R, D)


@dataclass(frozen=True)
class Resolved:
    """Queries as a model takes them: N that are wanted, and behind them what these exclude.

    queries   the N queries
    vectors   region embeddings of each of the N + X
    excluded  for each of the N, the numbers of what it excludes
    shares    whether the sounds share what there is: masks of a sum of at most one
    rate      frames of masks per second
    bins      linear bins F that masks of the model's grid become; None: they have these already
    """

    queries: tuple[Query, ...]
    vectors: list[Float[Tensor, "_ _ D"]]
    excluded: tuple[tuple[int, ...], ...]
    shares: bool
    rate: float
    bins: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """What the queries are called."""
        return labels(self.queries)

    @property
    def gains(self) -> list[Number]:
        """Of each sound in the remix (dB)."""
        return [query.gain or 0 for query in self.queries]

    def combined(
        self, masks: Iterator[Float[Tensor, "_ P _"]], absent: frozenset[int] = frozenset()
    ) -> Iterator[Float[Tensor, "N F _"]]:
        """Blocks of the masks of all N + X, on the model's grid -> masks of the N sounds, of F linear bins.

        What is `absent` claims nothing.
        """
        start = 0
        for block in masks:
            claims = block.clone() if self.bins is None else unwarp(block, self.bins)
            claims[sorted(absent)] = 0
            found = claims[: len(self.queries)].clone()
            for number, others in enumerate(self.excluded):
                if others:
                    found[number] = excluding(claims[number], claims[list(others)].sum(0))
            if self.shares:
                open_ = self._gates(start, block.shape[-1], self.rate).to(found)  # outside of its spans nothing claims
                found = shared(found * open_[:, None])
            yield found
            start += block.shape[-1]

    def gated(self, sounds: Float32[np.ndarray, "N C m"], start: int, rate: int) -> Float32[np.ndarray, "N C m"]:
        """Sounds from sample `start` on, silent outside of their spans."""
        if not any(query.inside or query.outside for query in self.queries):
            return sounds
        return sounds * self._gates(start, sounds.shape[-1], rate).numpy()[:, None]

    def _gates(self, start: int, length: int, rate: Number) -> Float[Tensor, "N {length}"]:
        return torch.stack([gate(start, length, rate, query.inside, query.outside) for query in self.queries])


def resolved_all(
    model: SeparationModel, encoder: Encoder, query: Any, film: Path | None = None, shares: bool = False,
    limits: Limits = LIMITS,
) -> Resolved:  # fmt: skip
    """One query or several as the model takes them; `film` has the pictures. AvsetError if it does not take one."""
    queries = listed(query)
    others = exclusions(queries)
    numbers = {key: number for number, key in enumerate(others, len(queries))}
    excluded = [tuple(numbers[other.key] for other in one.unwanted) for one in queries]
    vectors = [resolved(model, encoder, one, film, limits) for one in (*queries, *others.values())]
    transform = model.settings.transform
    bins = None if model.method.grid == "linear" else transform.window_length // 2 + 1
    rate = transform.sample_rate / transform.hop_length
    return Resolved(tuple(queries), vectors, tuple(excluded), shares, rate, bins)


@torch.no_grad()
def text_queries(encoder: Encoder, texts: str | Sequence[str]) -> Float[Tensor, "N 1 1 D"]:
    """One query per text: V = R = 1; a plain string is one text. AvsetError if a text is empty or too long."""
    several = [texts] if isinstance(texts, str) else list(texts)
    for text in several:
        if not isinstance(text, str):
            raise AvsetError(f"a text query is {type(text).__name__}; give words, as 'person playing a violin'")
        check_query(text)
    return encoder.encode_text(several)[:, None, None]


@torch.no_grad()
def video_queries(
    encoder: Encoder, frames: UInt8[np.ndarray, "V H W 3"] | UInt8[Tensor, "V H W 3"], positional: bool
) -> Float[Tensor, "1 V R D"]:
    """One query of all regions of some frames; `positional` as the model was trained."""
    return encoder.forward_image(encoder.preprocess(frames), positional)[1][None]


def seen_query(
    model: SeparationModel, encoder: Encoder, frames: UInt8[np.ndarray, "V H W 3"]
) -> Float[Tensor, "1 V R D"]:
    """`video_queries` for a model; AvsetError if the model answers no video, or sees no regions."""
    if "regions" not in model.answering("video").method.needs:
        seen = ", ".join(sorted(model.method.needs))
        raise AvsetError(f"{model.name} answers a video by {seen}, not by regions; give another model")
    return video_queries(encoder, frames, model.settings.positional)


def resolved(
    model: SeparationModel, encoder: Encoder, query: Query, film: Path | None = None, limits: Limits = LIMITS
) -> Float[Tensor, "_ _ D"]:
    """A query as the model takes it. AvsetError if the model does not answer its kind, or if it is none."""
    if query.text is not None:
        model.answering("text")
        return text_queries(encoder, query.text)[0]
    if query.like is not None:
        return _like(model, query, limits)
    if query.regions is None:
        return _of_picture(model, encoder, query, film, limits)
    regions, dim = query.regions, model.settings.sizes.dim
    if not isinstance(regions, Tensor) or regions.dim() != 3 or regions.shape[-1] != dim or not regions.numel():
        what = f"of shape {tuple(regions.shape)}" if isinstance(regions, Tensor) else f"a {type(regions).__name__}"
        raise AvsetError(f"a query is {what}; give a text, or embeddings (frames, regions, {dim})")
    return regions


def _like(model: SeparationModel, query: Query, limits: Limits) -> Float[Tensor, "1 1 D"]:
    known = model.answering("caption").presence
    if known is None:
        raise AvsetError(f"{model.name} keeps no captions, so an example says nothing to it; train the model again")
    with opened(query.like, query.rate, limits) as given:
        sound = embedding(model, heard(given.blocks, model.settings.transform.sample_rate), query.told())
    return like_query(sound, known.captions)[0]


def _of_picture(
    model: SeparationModel, encoder: Encoder, query: Query, film: Path | None, limits: Limits
) -> Float[Tensor, "1 r D"]:
    if film is None:
        raise AvsetError(f"an array has no pictures for the query {query.told()!r}; give a film, or ask by a text")
    frame = read_frame(film, None if query.time is None else float(query.time), limits=limits)
    found = seen_query(model, encoder, frame[None])
    if query.box:
        found = box_query(found, encoder.grid, in_square(query.box, *picture_size(film, limits)))
    return found[0]

"""What selects a sound: texts and pictures as queries, sets of region embeddings (V, R, D)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avset.errors import AvsetError
from avset.features.encoder import Encoder
from avset.media.targets import check_query
from avset.models.checkpoint import SeparationModel

Query = str | Tensor  # a text, or a set of region embeddings (V, R, D)


@torch.no_grad()
def text_queries(encoder: Encoder, texts: str | Sequence[str]) -> Float[Tensor, "N 1 1 D"]:
    """One query per text: V = R = 1; a plain string is one text. AvsetError if a text is empty or too long."""
    several = listed(texts)
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


def listed(query: Any) -> list[Any]:
    """One query or several as a list: a string is one query, and (N, V, R, D) are N. AvsetError if there is none."""
    one = isinstance(query, str) or (isinstance(query, Tensor) and query.dim() == 3)
    several = [query] if one else list(query)
    if not several:
        raise AvsetError("there is no query; say what to listen for, as 'person playing a violin'")
    return several


def resolved(model: SeparationModel, encoder: Encoder, query: Query) -> Float[Tensor, "V R D"]:
    """A query as the model takes it. AvsetError if the model does not answer its kind, or if it is none."""
    if isinstance(query, str):
        model.answering("text")
        return text_queries(encoder, query)[0]
    if (
        not isinstance(query, Tensor)
        or query.dim() != 3
        or query.shape[-1] != model.settings.sizes.dim
        or not query.numel()
    ):
        what = f"of shape {tuple(query.shape)}" if isinstance(query, Tensor) else f"a {type(query).__name__}"
        raise AvsetError(f"a query is {what}; give a text, or embeddings (frames, regions, {model.settings.sizes.dim})")
    return query


def stacked(queries: Sequence[Float[Tensor, "V R D"]]) -> Float[Tensor, "N V R D"]:
    """Queries to be answered in one pass; AvsetError if they do not have as many frames and regions each."""
    if len(shapes := {tuple(query.shape) for query in queries}) > 1:
        raise AvsetError(f"the queries have different shapes {sorted(shapes)}; give texts alone, or ask one by one")
    return torch.stack(list(queries))


def name_of(query: Query, number: int) -> str:
    """What a query is called: its text, or its number (from 1)."""
    return query if isinstance(query, str) else f"query {number}"

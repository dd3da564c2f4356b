"""What selects a sound: texts and pictures as queries, sets of region embeddings (V, R, D)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avset.features.encoder import Encoder


@torch.no_grad()
def text_queries(encoder: Encoder, texts: Sequence[str]) -> Float[Tensor, "N 1 1 D"]:
    """One query per text: V = R = 1. AvsetError for a text that is longer than the encoder's context."""
    return encoder.encode_text(list(texts))[:, None, None]


@torch.no_grad()
def video_queries(
    encoder: Encoder, frames: UInt8[np.ndarray, "V H W 3"] | UInt8[Tensor, "V H W 3"], positional: bool
) -> Float[Tensor, "1 V R D"]:
    """One query of all regions of some frames; `positional` as the model was trained."""
    return encoder.forward_image(encoder.preprocess(frames), positional)[1][None]

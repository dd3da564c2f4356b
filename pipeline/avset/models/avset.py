"""AV-SeT (paper, Sec. 3.2): a U-Net whose decoder turns every region of a query into a mask.

Every model of this package keeps one contract: `masks(mixture, queries)`, magnitudes in, ratio masks out.
Models never see clips, paths, stores or parameters.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as fn

from avset.features.spectrograms import log_magnitude
from avset.models.unet import Decoder, Encoder


class AVSeT(nn.Module):
    """The separation model M of the paper.

    dim             D, the width of the query embeddings and of the bottleneck
    channels        widths of the U-Net's levels above the bottleneck
    n_regions       regions of a frame that the model is trained on
    norm            normalisation: `group`, or `batch` as in the paper
    level           `region`: a mask per region (Eq. 4); `video`: regions max-pooled to one vector (Table 8)
    query_norm      `none`, or `l2`: query vectors of unit length
    scale           `regions`: a query of any size counts as n_regions regions, so that one text vector has the
                    scale of a whole frame; `sum`: Eq. 4 to the letter, a text is one term of the sum
    shared_encoder  False: separate parameters embed the separated sound (Table 9)
    embedding_input `masked`: log(mask * magnitude); `release`: mask * log(magnitude)
    """

    def __init__(
        self, dim: int, channels: list[int], n_regions: int, norm: str = "group", level: str = "region",
        query_norm: str = "none", scale: str = "regions", shared_encoder: bool = True,
        embedding_input: str = "masked",
    ):  # fmt: skip
        super().__init__()
        widths = [*channels, dim]
        self.encoder = Encoder(widths, norm)
        self.decoder = Decoder(widths, dim, norm)
        self.embedder = self.encoder if shared_encoder else Encoder(widths, norm)
        self.n_regions = n_regions if level == "region" else 1
        self.level, self.query_norm, self.scale = level, query_norm, scale
        self.embedding_input = embedding_input
        start = 0.5 / self.n_regions  # so that the aggregated mask starts at one half
        self.decoder.start_at(math.log(start / (1 - start)))

    def pool(self, queries: Float[Tensor, "B N V R D"]) -> Float[Tensor, "B N v r D"]:
        """Query vectors as the decoder sees them: max-pooled to one at video level, normalised if asked."""
        if self.level == "video":
            queries = queries.amax((2, 3), keepdim=True)
        return fn.normalize(queries, dim=-1) if self.query_norm == "l2" else queries

    def aggregate(self, masks: Float[Tensor, "B N V R M T"]) -> Float[Tensor, "B N M T"]:
        """Eq. 4: sum over the regions of a frame, mean over frames; see `scale` for other sizes of query."""
        if self.scale == "regions":
            return masks.mean((2, 3)) * self.n_regions
        return masks.sum(3).mean(2)

    def decode(self, maps: list[Tensor], queries: list[Tensor]) -> list[Float[Tensor, "B N M T"]]:
        """Aggregated masks of several sets of queries, each (B, N, V, R, D), in one pass of the decoder."""
        pooled = [self.pool(q) for q in queries]
        flat = self.decoder(maps, torch.cat([q.flatten(1, 3) for q in pooled], 1))
        parts = flat.split([q[0, ..., 0].numel() for q in pooled], 1)
        return [self.aggregate(part.unflatten(1, q.shape[1:4])) for part, q in zip(parts, pooled, strict=True)]

    def encode(self, mixture: Float[Tensor, "B M T"]) -> list[Tensor]:
        """The encoder's feature maps of the mixture's magnitude."""
        return self.encoder(log_magnitude(mixture)[:, None])

    def masks(self, mixture: Float[Tensor, "B M T"], queries: Float[Tensor, "B N V R D"]) -> Float[Tensor, "B N M T"]:
        """Ratio masks, not clamped, of N queries on each mixture's log-frequency magnitude."""
        return self.decode(self.encode(mixture), [queries])[0]

    def embed(self, mixture: Float[Tensor, "B M T"], masks: Float[Tensor, "B N M T"]) -> Float[Tensor, "B N D"]:
        """Audio embedding f^A of the separated sounds: the encoder's bottleneck, mean over the plane."""
        mixture = mixture[:, None]
        if self.embedding_input == "release":
            x = masks * log_magnitude(mixture)
        else:
            x = log_magnitude(masks.clamp_min(0) * mixture)
        bottleneck = self.embedder(x.flatten(0, 1)[:, None])[-1]
        return bottleneck.mean((-1, -2)).unflatten(0, masks.shape[:2])

"""AV-SeT (paper, Sec. 3.2): a U-Net whose decoder turns every region of a query into a mask; the losses of Eq. 5."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as fn

from avset.errors import AvsetError
from avset.features import attention
from avset.features.spectrograms import log_magnitude, ratio_mask
from avset.models import losses
from avset.models.contract import Conditions, Sizes
from avset.models.contract import Method as Contract
from avset.models.unet import UNetDecoder, UNetEncoder
from avset.presets import AVSeTSettings

SWITCHES = (
    "norm",
    "level",
    "query_norm",
    "scale",
    "shared_encoder",
    "embedding_input",
    "init",
)  # settings of the network
MEANS = ("mean_region", "mean_caption")  # of the clips to learn from


class AVSeT(nn.Module):
    """The network M of the paper.

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
    init            of the convolutions: `uniform`, or `small`: N(0, 0.001) where a normalisation follows
    """

    def __init__(
        self, dim: int, channels: list[int], n_regions: int, norm: str = "group", level: str = "region",
        query_norm: str = "none", scale: str = "regions", shared_encoder: bool = True,
        embedding_input: str = "masked", init: str = "uniform",
    ):  # fmt: skip
        super().__init__()
        widths = [*channels, dim]
        self.encoder = UNetEncoder(widths, norm)
        self.decoder = UNetDecoder(widths, dim, norm)
        self.embedder = self.encoder if shared_encoder else UNetEncoder(widths, norm)
        self.n_regions = n_regions if level == "region" else 1
        self.level, self.query_norm, self.scale = level, query_norm, scale
        self.embedding_input = embedding_input
        if init == "small":
            self.encoder.start_small()
            self.decoder.start_small()
            if not shared_encoder:
                self.embedder.start_small()
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
        maps: list[Tensor] = self.encoder(log_magnitude(mixture)[:, None])
        return maps

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
        bottleneck: Tensor = self.embedder(x.flatten(0, 1)[:, None])[-1]
        return torch.unflatten(bottleneck.mean((-1, -2)), 0, masks.shape[:2])


def mean_of(captions: Float[Tensor, "C D"]) -> Float[Tensor, " D"]:
    """The mean of captions, in parts if there are very many."""
    if len(captions) <= losses.AT_ONCE:
        return captions.mean(0)
    return torch.stack([part.double().sum(0) for part in torch.split(captions, losses.AT_ONCE)]).sum(0) / len(captions)


class Method(Contract):
    """AV-SeT with its losses, and the means that `centered` similarity subtracts."""

    needs = frozenset({"regions", "captions"})
    answers = ("text", "video", "caption")
    learns = True
    settings: AVSeTSettings
    mean_region: Tensor
    mean_caption: Tensor

    def __init__(self, settings: AVSeTSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        switches = {name: getattr(settings, name) for name in SWITCHES}
        self.net = AVSeT(sizes.dim, sizes.channels, sizes.n_regions, **switches)
        for name in MEANS:
            self.register_buffer(name, torch.zeros(sizes.dim))

    def prepare(self, constants: Mapping[str, Tensor]) -> None:
        """Keep the mean latent caption and the mean region."""
        self.mean_caption.copy_(mean_of(constants["captions"]))
        self.mean_region.copy_(constants["mean_region"])

    def begin(self, state: Mapping[str, Tensor]) -> None:
        """Take up a model's weights; the means stay those of the clips to learn from."""
        super().begin({name: one for name, one in state.items() if name not in MEANS})

    @property
    def validated(self) -> tuple[str, ...]:
        """The video, and the latent caption if it is trained as a query."""
        return ("video", "caption") if self.settings.losses.caption else ("video",)

    def masks(self, mixture: Float[Tensor, "B M T"], conditions: Conditions) -> Float[Tensor, "B N M T"]:
        """Ratio masks, not clamped, of N queries on each mixture's magnitude."""
        if conditions.queries is None:
            raise AvsetError("avset: there is no query; give one for each sound")
        return self.net.masks(mixture, conditions.queries)

    def embed(self, mixture: Float[Tensor, "B M T"], masks: Float[Tensor, "B N M T"]) -> Float[Tensor, "B N D"]:
        """Audio embedding f^A of the separated sounds."""
        return self.net.embed(mixture, masks)

    def scores(
        self, regions: Float[Tensor, "*batch R D"], target: Float[Tensor, "*batch D"]
    ) -> Float[Tensor, "*batch R"]:
        """Similarity of regions and a target, as the setting `similarity` says."""
        return attention.similarity(regions, target, self.settings.similarity, self.mean_region, self.mean_caption)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms of Eq. 5, unweighted; a term of weight zero is not computed.

        Convolutions are made in `precision`; masks, embeddings and losses are float32.
        """
        weights = self.settings.losses
        captions, mixture = batch["captions"], batch["mixture"]
        precision = torch.promote_types(captions.dtype, torch.float32)  # of very many captions it is half
        regions = batch["regions"].to(precision)
        targets = ratio_mask(batch["sources"], mixture, self.settings.mask_target)
        labels = batch["own"][batch["clip"]]
        caption = captions[labels].to(precision)  # (B, N, D)
        queries = [self._decoded(batch, regions)] + ([caption[:, :, None, None]] if weights.caption else [])
        with self.convolutions(mixture.device):
            masks = self.net.decode(self.net.encode(mixture), queries)
        if self.net.scale == "sum":  # of all regions, of which some were decoded
            masks[0] = masks[0] * (regions.shape[3] / queries[0].shape[3])
        terms = {"mask": losses.mask_loss(masks[0], targets, mixture)}
        if weights.caption:
            terms["caption"] = losses.mask_loss(masks[1], targets, mixture)
        if weights.audio_language or weights.trimodal:
            with self.convolutions(mixture.device):
                audio = self.net.embed(mixture, masks[0]).to(masks[0].dtype)  # (B, N, D)
        if weights.audio_language:
            known, own = captions, labels.flatten()
            if self.settings.negatives == "batch":
                numbers, own = torch.unique(own, return_inverse=True)
                known = captions[numbers]
            terms["audio_language"] = losses.audio_language_loss(
                audio.flatten(0, 1), known, own, self.settings.temperature
            )
        if weights.trimodal:
            frames, scale = regions.shape[2], attention.SCALES[self.settings.similarity]
            seen, heard = (
                scale * self.scores(regions, target[:, :, None].expand(-1, -1, frames, -1))
                for target in (caption, audio)
            )
            terms["trimodal"] = losses.trimodal_loss(seen, heard, self.settings.kl_reduction)
        return terms

    def _decoded(self, batch: Mapping[str, Tensor], regions: Float[Tensor, "B N V R D"]) -> Float[Tensor, "B N v r D"]:
        """The regions that the decoder sees at this step: all, or those that were drawn."""
        if "decoded" not in batch:
            return regions
        if self.settings.level == "video":
            raise AvsetError(
                "level: video pools all regions; set train.decoded_frames and train.decoded_regions to null"
            )
        places = batch["decoded"].flatten(2)[..., None].expand(-1, -1, -1, regions.shape[-1])
        return torch.unflatten(regions.flatten(2, 3).gather(2, places), 2, batch["decoded"].shape[2:])

    def own_state(self) -> dict[str, Tensor]:
        """The state without the second name of a shared encoder."""
        return {k: v for k, v in self.state_dict().items() if not self._second(k)}

    def load_own_state(self, state: Mapping[str, Tensor]) -> list[str]:
        """The inverse of `own_state`."""
        return [name for name in super().load_own_state(state) if not self._second(name)]

    def _second(self, name: str) -> bool:
        return self.settings.shared_encoder and name.startswith("net.embedder.")

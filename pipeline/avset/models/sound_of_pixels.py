"""Sound of Pixels (Zhao et al., ECCV 2018): K maps of the sound, weighed by K numbers of each pixel.

With `pixels: regions` the pixels are frozen regions, of which a linear layer makes K numbers (AV-SeT, Table 4).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as fn

from avset.errors import AvsetError
from avset.features.resnet import ResNet
from avset.features.spectrograms import log_magnitude, ratio_mask
from avset.models import losses
from avset.models.contract import Conditions, Sizes
from avset.models.contract import Method as Contract
from avset.models.unet import UNetEncoder, UNetMaps
from avset.presets import SoundOfPixelsSettings

HALF = 0.5  # of the mixture's magnitude: a louder source has the bin; of a mask: a larger one is 1


class Method(Contract):
    """Of source n the mask sigmoid(sum_k s_k v_nk a_k + b).

    a (B, K, M, T) are the U-Net's maps of the mixture. v (B, N, K) is the sigmoid of the numbers of the source's
    pixels, max-pooled over frames and space; s (K,) and b are the synthesiser's.
    """

    answers: tuple[str, ...] = ("video",)
    learns = True
    settings: SoundOfPixelsSettings

    def __init__(self, settings: SoundOfPixelsSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        widths, count = [*sizes.channels, sizes.channels[-1]], settings.maps
        self.whiten = nn.BatchNorm2d(1)
        self.encoder = UNetEncoder(widths, settings.norm)
        self.decoder = UNetMaps(widths, count, settings.norm)
        self.scale, self.bias = nn.Parameter(torch.ones(count)), nn.Parameter(torch.zeros(()))
        if settings.pixels == "regions":
            self.answers = ("text", "video", "caption")
            self.linear = nn.Linear(sizes.dim, count)
        else:
            self.tower = ResNet(sizes.tower, stride=16)
            self.head = nn.Conv2d(self.tower.width, count, 3, padding=1)

    @classmethod
    def needs_of(cls, settings: Any) -> frozenset[str]:
        """Frames and a tower, or regions."""
        return frozenset({"frames", "tower"} if settings.pixels == "frames" else {"regions"})

    @property
    def rates(self) -> dict[str, float]:
        """The tower learns at a rate of its own; its head, which no one has trained yet, at that of the sound."""
        return {} if self.settings.lr_vision is None else {"tower.": self.settings.lr_vision}

    @property
    def validated(self) -> tuple[str, ...]:
        """The video, which is what it is trained on."""
        return ("video",)

    def prepare(self, constants: Mapping[str, Tensor]) -> None:
        """Start the tower with its weights."""
        if self.settings.pixels == "frames":
            self.tower.start(constants)

    def pixels(self, seen: Mapping[str, Tensor]) -> Float[Tensor, "B N V h w K"]:
        """K numbers of each pixel of each source: of `frames` (B, N, V, H, W, 3), or of `regions` (B, N, V, R, D)."""
        if self.settings.pixels == "regions":
            regions = seen["regions"].to(self.scale.dtype)
            rows = math.isqrt(regions.shape[3])
            whole = rows**2 == regions.shape[3]
            return torch.unflatten(self.linear(regions), 3, (rows, rows) if whole else (1, -1))
        frames = seen["frames"]
        numbers: Tensor = self.head(self.tower(frames.flatten(0, 2)))
        return torch.unflatten(numbers.movedim(1, -1), 0, frames.shape[:3])

    def listen(self, mixture: Float[Tensor, "B M T"]) -> Float[Tensor, "B K M T"]:
        """The K maps of the mixture."""
        maps: Tensor = self.decoder(self.encoder(self.whiten(log_magnitude(mixture)[:, None])))
        return maps

    def synthesise(self, maps: Float[Tensor, "B K M T"], vision: Float[Tensor, "B n K"]) -> Float[Tensor, "B n M T"]:
        """Masks before their sigmoid, of K numbers before theirs."""
        weights = vision.sigmoid() * self.scale
        return torch.einsum("bnk,bkmt->bnmt", weights, maps) + self.bias

    def masks(self, mixture: Float[Tensor, "B M T"], conditions: Conditions) -> Float[Tensor, "B N M T"]:
        """Masks in (0, 1), or of 0 and 1 if they are trained as binary ones."""
        vision = self.pixels(self._seen(conditions)).amax((2, 3, 4))
        masks = self.synthesise(self.listen(mixture), vision).sigmoid()
        return (masks > HALF).to(masks) if self.settings.mask_target == "binary" else masks

    def loudness(self, mixture: Float[Tensor, "B M T"], conditions: Conditions) -> Float[Tensor, "B N h w"]:
        """The share of the mixture's magnitude that the mask of each pixel of the centre frame lets through."""
        pixels, maps = self.pixels(self._seen(conditions)), self.listen(mixture)
        centre = pixels[:, :, pixels.shape[2] // 2]  # (B, N, h, w, K)
        found = [
            (self.synthesise(one, of.flatten(0, 1)[None]).sigmoid() * heard).sum((-1, -2)) / heard.sum().clamp_min(1e-8)
            for sources, one, heard in zip(centre, maps[:, None], mixture, strict=True)
            for of in sources
        ]
        return torch.cat(found).view(centre.shape[:-1])

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy on binary masks, or L1 on ratio masks, each bin weighted by the mixture's loudness."""
        mixture, sources = batch["mixture"], batch["sources"]
        with self.convolutions(mixture.device):
            maps, vision = self.listen(mixture), self.pixels(batch).amax((2, 3, 4))
        logits = self.synthesise(maps.to(self.scale.dtype), vision.to(self.scale.dtype))
        if self.settings.mask_target == "ratio":
            return {"mask": losses.mask_loss(logits.sigmoid(), ratio_mask(sources, mixture), mixture)}
        louder = (sources > HALF * mixture[:, None]).to(logits)
        weight = losses.loudness(mixture).expand_as(logits)
        return {"mask": fn.binary_cross_entropy_with_logits(logits, louder, weight)}

    def _seen(self, conditions: Conditions) -> Mapping[str, Tensor]:
        if self.settings.pixels == "regions" and conditions.queries is not None:
            return {"regions": conditions.queries}
        if not conditions.seen:
            raise AvsetError("sound_of_pixels: there is no picture; give the frames of each source")
        return conditions.seen

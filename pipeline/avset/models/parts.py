"""What Co-Separation and its successor AVSGS share: parts of a source's sound, one for each thing that is seen."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as fn

from avset.features.resnet import ResNet
from avset.features.spectrograms import log_magnitude, ratio_mask
from avset.models.contract import Sizes
from avset.models.losses import mask_loss
from avset.models.unet import UNetDecoder, UNetEncoder

SEEN = frozenset({"boxes", "classes", "confidences"})  # what tells which things a source has


class Parts(nn.Module):
    """A U-Net with a vector at its bottleneck, of width `dim`, and a ResNet that tells the class of what it separates.

    Classes are numbered as those of the objects; that of the background comes last. A negative one is no part.
    """

    def __init__(self, sizes: Sizes, dim: int, norm: str):
        super().__init__()
        widths = [*sizes.channels, sizes.channels[-1]]
        self.encoder = UNetEncoder(widths, norm)
        self.decoder = UNetDecoder(widths, dim, norm)
        self.decoder.start_at(math.log(1 / 3))  # a mask of 1/4: a thing and the background make a half
        self.classifier = ResNet(sizes.tower, colours=1)
        self.head = nn.Linear(self.classifier.width, sizes.classes + 1)

    def forward(
        self, mixture: Float[Tensor, "B M T"], vectors: Float[Tensor, "B N o P"], classes: Int[Tensor, "B N o"]
    ) -> Float[Tensor, "B N o M T"]:
        """The mask of each part; zero where there is none."""
        maps = self.encoder(log_magnitude(mixture)[:, None])
        masks: Tensor = torch.unflatten(self.decoder(maps, vectors.flatten(1, 2)), 1, classes.shape[1:])
        return masks * (classes >= 0)[..., None, None]

    def terms(
        self, each: Float[Tensor, "B N o M T"], classes: Int[Tensor, "B N o"], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """L1 of the sum of a source's parts and its ratio mask; cross-entropy of the class of each part's sound."""
        mixture, known = batch["mixture"], classes >= 0
        heard = log_magnitude(each * mixture[:, None, None])[known]
        scores = self.head(self.classifier.maps(heard[:, None]).mean((2, 3)))
        return {"mask": mask_loss(each.sum(2), ratio_mask(batch["sources"], mixture), mixture),
                "classes": fn.cross_entropy(scores.to(mixture.dtype), classes[known])}  # fmt: skip


def things(seen: Mapping[str, Tensor], count: int) -> tuple[Float[Tensor, "B N o 4"], Int[Tensor, "B N o"]]:
    """Boxes and classes of the things of each source, at most `count`; class -1 where there are fewer.

    They are the objects of its centre frame, the most confident one of each class.
    """
    centre = seen["classes"].shape[2] // 2
    boxes, classes, confidences = (seen[name][:, :, centre] for name in ("boxes", "classes", "confidences"))
    same = (classes[..., None] == classes[..., None, :]).tril(-1).any(-1)  # as one before it
    kept: Bool[Tensor, "B N O"] = (confidences > 0) & ~same
    order = torch.argsort((~kept).to(torch.int8), dim=-1, stable=True)[..., :count]
    return boxes.gather(2, order[..., None].expand(-1, -1, -1, 4)), torch.where(kept, classes, -1).gather(-1, order)

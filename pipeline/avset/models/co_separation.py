"""Co-Separation (Gao & Grauman, ICCV 2019): a mask for each thing that is seen; those of a video add up to its sound.

Strongly supervised: boxes and classes of the objects are given. One thing differs. The original shows a random picture
of a scene as the background of each video; here it is the video's own frame, with its things painted over.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as fn

from avset.errors import AvsetError
from avset.features.boxes import crops
from avset.features.resnet import MEAN, ResNet
from avset.models.contract import Conditions, Sizes
from avset.models.contract import Method as Contract
from avset.models.parts import SEEN, Parts, things
from avset.presets import CoSeparationSettings


class Method(Contract):
    """A tower makes a vector of the crop of each thing, with which the U-Net makes a mask."""

    needs = frozenset({"frames", "tower", *SEEN})
    answers = ("video",)
    learns = True
    settings: CoSeparationSettings

    def __init__(self, settings: CoSeparationSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        self.tower = ResNet(sizes.tower)
        self.parts = Parts(sizes, self.tower.width, settings.norm)

    @property
    def rates(self) -> dict[str, float]:
        """The tower learns at a rate of its own."""
        return {} if self.settings.lr_vision is None else {"tower.": self.settings.lr_vision}

    def prepare(self, constants: Mapping[str, Tensor]) -> None:
        """Start the tower with its weights."""
        self.tower.start(constants)

    def masks(self, mixture: Float[Tensor, "B M T"], conditions: Conditions) -> Float[Tensor, "B N M T"]:
        """The sum of the masks of each source's things, without the background; not clamped."""
        if not conditions.seen:
            raise AvsetError("co_separation: there are no objects; give the frames and the boxes of each source")
        return self.each(mixture, conditions.seen)[0][:, :, :-1].sum(2)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of `Parts`, the background among the parts."""
        with self.convolutions(batch["mixture"].device):
            return self.parts.terms(*self.each(batch["mixture"], batch), batch)

    def each(
        self, mixture: Float[Tensor, "B M T"], seen: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "B N o M T"], Int[Tensor, "B N o"]]:
        """Masks and classes of the things of each source, and last of its background."""
        boxes, classes = things(seen, self.settings.objects)
        pictures = self.pictures(seen["frames"][:, :, seen["frames"].shape[2] // 2], boxes, classes)
        classes = fn.pad(classes, (0, 1), value=self.sizes.classes)
        found = self.tower(pictures[classes >= 0]).mean((2, 3))
        vectors = found.new_zeros(*classes.shape, found.shape[-1])
        vectors[classes >= 0] = found
        return self.parts(mixture, vectors, classes), classes

    def pictures(
        self, frames: UInt8[Tensor, "B N H H 3"], boxes: Float[Tensor, "B N o 4"], classes: Int[Tensor, "B N o"]
    ) -> Float[Tensor, "B N o2 side side 3"]:
        """The crop of each thing, and last the whole frame in which they are painted over with the mean colour."""
        side = self.sizes.side
        inside = (torch.arange(frames.shape[2], device=frames.device) + 0.5) / frames.shape[2]
        low, high = boxes[..., :2, None], boxes[..., 2:, None]
        x, y = ((inside >= low) & (inside < high) & (classes >= 0)[..., None, None]).unbind(3)  # (B, N, o, H) each
        covered = (y[..., None] & x[..., None, :]).any(2)[..., None]
        grey = (255 * torch.tensor(MEAN, device=frames.device)).to(frames.dtype)
        whole = boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(*frames.shape[:2], 1, 4)
        return torch.cat([crops(frames, boxes, side), crops(torch.where(covered, grey, frames), whole, side)], 2)

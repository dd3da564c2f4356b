"""ResNets of basic blocks (He et al. 2016), named as by torchvision, so that its ImageNet weights fit.

No classifier: the last feature map is what leaves. With `stride=16` the last stage keeps its plane, and its kernels are
dilated, as in Sound of Pixels.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from avset.errors import AvsetError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
WIDTHS = {  # architecture -> channels of its four stages
    "resnet18": (64, 128, 256, 512),
    "small": (16, 32, 64, 128),
}
TOWER = "tower."  # before the names of its weights
BLOCKS = {"resnet18": 2, "small": 1}  # of a stage


class Block(nn.Module):
    """Two 3 x 3 convolutions, `dilated` apart, and the input added to them."""

    def __init__(self, below: int, width: int, stride: int, dilated: tuple[int, int]):
        super().__init__()
        first, second = dilated
        self.conv1 = nn.Conv2d(below, width, 3, stride, first, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, second, second, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or below != width:
            self.downsample = nn.Sequential(nn.Conv2d(below, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n C H W"]:
        """The map of the next layer."""
        inner: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.downsample(x)).relu()


class ResNet(nn.Module):
    """Pictures -> the last feature map, (n, width, H / stride, W / stride), rounded up.

    architecture  a key of `WIDTHS`
    stride        32, or 16: the last stage is dilated
    colours       of the input of `maps`
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: str, stride: int = 32, colours: int = 3):
        super().__init__()
        widths, count = WIDTHS[architecture], BLOCKS[architecture]
        self.width = widths[-1]
        self.conv1 = nn.Conv2d(colours, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for number, (below, width) in enumerate(pairwise((widths[0], *widths)), 1):
            apart = 2 if number == 4 and stride == 16 else 1
            first = Block(below, width, 1 if number == 1 or apart == 2 else 2, (1, apart))
            rest = [Block(width, width, 1, (apart, apart)) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def start(self, constants: Mapping[str, Tensor]) -> None:
        """Take the weights that are called `tower.<name>` in `constants`; AvsetError if they do not fit."""
        state = {name.removeprefix(TOWER): one for name, one in constants.items() if name.startswith(TOWER)}
        try:
            self.load_state_dict(state)
        except RuntimeError as e:
            reason = str(e).splitlines()[-1].strip()[:200]
            raise AvsetError(f"the weights of the tower do not fit it ({reason}); make the artifact tower anew") from e

    def forward(self, frames: UInt8[Tensor, "n H W 3"] | Float[Tensor, "n H W 3"]) -> Float[Tensor, "n C h w"]:
        """The last feature map of pictures as they are stored, 0 to 255."""
        return self.maps((frames.permute(0, 3, 1, 2).to(self.mean.dtype) / 255 - self.mean) / self.std)

    def maps(self, x: Float[Tensor, "n colours H W"]) -> Float[Tensor, "n C h w"]:
        """The last feature map of anything else."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return x

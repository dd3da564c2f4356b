"""The audio U-Net, with a decoder that shares among all queries what depends on the mixture alone.

A transposed convolution is linear, so over a concatenation it is the sum of two: one over what comes from
below (different for every query), one over the skip (the same for every query of a mixture, computed once).
In the first layer the query is constant over the plane, so its part is a matrix product and a fixed sum of
kernel taps. The result is that of the plain U-Net: outputs, gradients and normalisation statistics.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as fn

STRIDE, PADDING = 2, 1  # every layer is 4 x 4, and halves or doubles the plane


def normalisation(kind: str, channels: int) -> nn.Module:
    """`batch` (the paper's) or `group` (the same for one query as for many: groups of 8 where they fit)."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    raise ValueError(f"norm {kind!r} is neither 'batch' nor 'group'")


class Encoder(nn.Module):
    """(B, 1, M, T) -> one feature map per level, the last one (B, D, M / 2^levels, T / 2^levels)."""

    def __init__(self, channels: list[int], norm: str):
        super().__init__()
        widths = [1, *channels]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(below, width, 4, stride=STRIDE, padding=PADDING),
                normalisation(norm, width),
                nn.LeakyReLU(0.2),
            )
            for below, width in pairwise(widths)
        )

    def forward(self, x: Float[Tensor, "B 1 M T"]) -> list[Tensor]:
        """The feature maps of all levels, from the finest to the bottleneck."""
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class Up(nn.Module):
    """Transposed convolution of the concatenation [below, skip], the skip's part computed once per mixture."""

    def __init__(self, below: int, skip: int, out: int):
        super().__init__()
        self.below = nn.Parameter(torch.empty(below, out, 4, 4))
        self.skip = nn.Parameter(torch.empty(skip, out, 4, 4))
        self.bias = nn.Parameter(torch.zeros(out))
        bound = 1 / math.sqrt((below + skip) * 4)  # four taps of each kernel reach one output
        nn.init.uniform_(self.below, -bound, bound)
        nn.init.uniform_(self.skip, -bound, bound)

    def shared(self, skip: Float[Tensor, "B S h w"]) -> Float[Tensor, "B 1 C h2 w2"]:
        """The skip's part and the bias, to be added to every query's part."""
        return fn.conv_transpose2d(skip, self.skip, self.bias, stride=STRIDE, padding=PADDING)[:, None]

    def forward(
        self, below: Float[Tensor, "B Q P h w"], skip: Float[Tensor, "B S h w"]
    ) -> Float[Tensor, "B Q C h2 w2"]:
        """Both parts, for all Q queries of each mixture."""
        up = fn.conv_transpose2d(below.flatten(0, 1), self.below, stride=STRIDE, padding=PADDING)
        return up.unflatten(0, below.shape[:2]) + self.shared(skip)


class FirstUp(Up):
    """`Up` whose below is a vector tiled over the plane: a matrix product instead of a convolution."""

    def forward(self, below: Float[Tensor, "B Q D"], skip: Float[Tensor, "B S h w"]) -> Float[Tensor, "B Q C h2 w2"]:
        """As `Up`, with the tiled query in the place of the map from below."""
        taps = (below @ self.below.flatten(1)).unflatten(-1, (self.below.shape[1], 16))
        height, width = skip.shape[-2:]
        plane = (taps @ _tap_sums(height, width).to(taps)).unflatten(-1, (2 * height, 2 * width))
        return plane + self.shared(skip)


def _tap_sums(height: int, width: int) -> Float[Tensor, "16 P"]:
    """Which of the 4 x 4 kernel taps reach each output pixel of a constant plane: 0 or 1."""
    kernels = torch.eye(16).view(16, 1, 4, 4)
    sums = fn.conv_transpose2d(torch.ones(1, 1, height, width), kernels.transpose(0, 1), stride=STRIDE, padding=PADDING)
    return sums[0].flatten(1)


class Decoder(nn.Module):
    """Feature maps of a mixture and Q query vectors -> Q masks in (0, 1), before any aggregation."""

    def __init__(self, channels: list[int], dim: int, norm: str):
        super().__init__()
        skips = channels[::-1]  # from the bottleneck (audio, D) to the finest level
        outs = [*skips[1:], 1]
        belows = [dim, *outs[:-1]]
        self.ups = nn.ModuleList(
            (FirstUp if i == 0 else Up)(below, skip, out)
            for i, (below, skip, out) in enumerate(zip(belows, skips, outs, strict=True))
        )
        self.norms = nn.ModuleList(normalisation(norm, width) for width in outs[:-1])

    def start_at(self, logit: float) -> None:
        """Set the last bias: the masks of an untrained decoder are about sigmoid(logit)."""
        nn.init.constant_(self.ups[-1].get_parameter("bias"), logit)

    def forward(self, maps: list[Tensor], queries: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q M T"]:
        """One mask per query vector; `maps` as the encoder returns them."""
        x: Tensor = queries
        for up, norm, skip in zip(self.ups, [*self.norms, None], maps[::-1], strict=True):
            x = up(x, skip)
            if norm is not None:
                x = fn.relu(norm(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        return x.squeeze(2).sigmoid()

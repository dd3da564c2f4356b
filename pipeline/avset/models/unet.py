"""The audio U-Net, with a decoder that shares among all queries what depends on the mixture alone.

A transposed convolution is linear, so over a concatenation it is the sum of two: one over what comes from
below (different for every query), one over the skip (the same for every query of a mixture, computed once).
In the first layer the query is constant over the plane, so its part is a matrix product and a fixed sum of
kernel taps. The result is that of the plain U-Net: outputs, gradients and normalisation statistics.

For the backward pass one map a level is kept, the normalisation's input: its output and the ReLU's are made again,
which costs no convolution. Large sets of queries go through in parts, so that only one part's gradients are there at
a time.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.utils.checkpoint import checkpoint

STRIDE, PADDING = 2, 1  # every layer is 4 x 4, and halves or doubles the plane
PARTS, LARGE = 8, 2**24  # into which queries are split when their finest map has more values than that


def normalisation(kind: str, channels: int) -> nn.Module:
    """`batch` (the paper's) or `group` (the same for one query as for many: groups of 8 where they fit)."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    raise ValueError(f"norm {kind!r} is neither 'batch' nor 'group'")


def start_small(*kernels: Tensor) -> None:
    """Draw kernels from N(0, 0.001).

    Before a normalisation their scale changes no output, but a gradient grows as 1 / scale, and a step's effect as
    1 / scale^2: SGD at 4e-3, the paper's, is tuned to this start.
    """
    for kernel in kernels:
        nn.init.normal_(kernel, std=1e-3)


class UNetEncoder(nn.Module):
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

    def start_small(self) -> None:
        """`start_small` of every layer."""
        start_small(*(level.get_submodule("0").get_parameter("weight") for level in self.levels))

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

    def forward(self, below: Float[Tensor, "B Q P h w"]) -> Float[Tensor, "B Q C h2 w2"]:
        """The part of what comes from below, for all Q queries of each mixture."""
        up: Tensor = fn.conv_transpose2d(below.flatten(0, 1), self.below, stride=STRIDE, padding=PADDING)
        return torch.unflatten(up, 0, below.shape[:2])


class FirstUp(Up):
    """`Up` whose below is a vector tiled over the plane: a matrix product instead of a convolution."""

    def tiled(self, below: Float[Tensor, "B Q D"], height: int, width: int) -> Float[Tensor, "B Q C h2 w2"]:
        """`forward` of the queries tiled over `height` x `width`."""
        taps = torch.unflatten(below @ self.below.flatten(1), -1, (self.below.shape[1], 16))
        return torch.unflatten(taps @ _tap_sums(height, width).to(taps), -1, (2 * height, 2 * width))


def _tap_sums(height: int, width: int) -> Float[Tensor, "16 P"]:
    """Which of the 4 x 4 kernel taps reach each output pixel of a constant plane: 0 or 1."""
    kernels = torch.eye(16).view(16, 1, 4, 4)
    sums = fn.conv_transpose2d(torch.ones(1, 1, height, width), kernels.transpose(0, 1), stride=STRIDE, padding=PADDING)
    return sums[0].flatten(1)


class UNetDecoder(nn.Module):
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

    def start_small(self) -> None:
        """`start_small` of the layers that have a normalisation behind them: all but the last."""
        for up in list(self.ups)[:-1]:
            start_small(up.get_parameter("below"), up.get_parameter("skip"))

    def start_at(self, logit: float) -> None:
        """Set the last bias: the masks of an untrained decoder are about sigmoid(logit)."""
        nn.init.constant_(self.ups[-1].get_parameter("bias"), logit)

    def forward(self, maps: list[Tensor], queries: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q M T"]:
        """One mask per query vector; `maps` as the encoder returns them."""
        shared = [up.shared(skip) for up, skip in zip(self.ups, maps[::-1], strict=True)]  # type: ignore[operator]
        batch, count, size = *queries.shape[:2], queries.shape[1]
        together = any(hasattr(norm, "running_mean") for norm in self.norms)  # their statistics are of all queries
        if batch * count * maps[0][0].numel() > LARGE and not together:
            size = -(-count // PARTS)
        return torch.cat([self._masks(part, maps[-1], shared) for part in torch.split(queries, size, 1)], 1)

    def _masks(
        self, queries: Float[Tensor, "B Q D"], deepest: Float[Tensor, "B S h w"], shared: list[Tensor]
    ) -> Float[Tensor, "B Q M T"]:
        x: Tensor = self.ups[0].tiled(queries, *deepest.shape[-2:]) + shared[0]  # type: ignore[operator]
        for norm, up, skip in zip(self.norms, self.ups[1:], shared[1:], strict=True):
            if torch.is_grad_enabled():
                x = checkpoint(_activate, norm, up, x, use_reentrant=False, context_fn=partial(_once, norm)) + skip
            else:
                x = _activate(norm, up, x) + skip
        return x.squeeze(2).to(torch.promote_types(x.dtype, torch.float32)).sigmoid()


class UNetMaps(nn.Module):
    """Feature maps of a mixture -> `count` maps of its size, without a query, as in Sound of Pixels.

    Each level is enlarged twice by bilinear interpolation, and convolved, 3 x 3; the skip is concatenated.
    """

    def __init__(self, channels: list[int], count: int, norm: str):
        super().__init__()
        skips = channels[::-1]
        outs = [*skips[1:], count]
        belows = [0, *outs[:-1]]
        self.ups = nn.ModuleList(
            nn.Conv2d(below + skip, out, 3, padding=1) for below, skip, out in zip(belows, skips, outs, strict=True)
        )
        self.norms = nn.ModuleList(normalisation(norm, width) for width in outs[:-1])

    def forward(self, maps: list[Tensor]) -> Float[Tensor, "B K M T"]:
        """The maps, before any activation; `maps` as the encoder returns them."""
        x = self._larger(0, maps[-1])
        for number, skip in enumerate(maps[-2::-1], 1):
            x = self._larger(number, torch.cat([self.norms[number - 1](x), skip], 1))
        return x

    def _larger(self, number: int, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B c h2 w2"]:
        up: Tensor = self.ups[number](fn.interpolate(fn.relu(x), scale_factor=STRIDE, mode="bilinear"))
        return up


def _activate(norm: nn.Module, up: nn.Module, x: Float[Tensor, "B Q P h w"]) -> Float[Tensor, "B Q C h2 w2"]:
    """Normalise, rectify, enlarge. Made again in the backward pass as far as the convolution's input."""
    larger: Tensor = up(torch.unflatten(fn.relu_(norm(x.flatten(0, 1))), 0, x.shape[:2]))
    return larger


def _once(norm: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the forward pass and its repetition."""
    return nullcontext(), _Still(norm)


class _Still(AbstractContextManager[None]):
    """Leaves the running statistics of batch normalisation as they are: they have seen this batch already.

    It may be entered again: a graph that is kept is repeated by each backward pass.
    """

    def __init__(self, norm: Any):
        self.norm = norm if hasattr(norm, "momentum") else None

    def __enter__(self) -> None:
        if self.norm:
            self.before = self.norm.momentum, self.norm.num_batches_tracked.clone()
            self.norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        if self.norm:
            self.norm.momentum, seen = self.before
            self.norm.num_batches_tracked.copy_(seen)

"""The audio U-Net, with a decoder that shares among all queries what depends on the mixture alone.

A transposed convolution is linear, so over a concatenation it is the sum of two: one over what comes from
below (different for every query), one over the skip (the same for every query of a mixture, computed once).
In the first layer the query is constant over the plane, so its part is a matrix product and a fixed sum of
kernel taps. The result is that of the plain U-Net: outputs, gradients and normalisation statistics.

For the backward pass one map a level is kept, the normalisation's input: its output and the ReLU's are made again,
which costs no convolution. Large sets of queries go through in parts, so that only one part's gradients are there at
a time. Batch normalisation in training ties the parts: they go through level by level (`Together`).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as fn
from torch.utils.checkpoint import checkpoint

STRIDE, PADDING = 2, 1  # every layer is 4 x 4, and halves or doubles the plane
PARTS, LARGE = 8, 2**24  # into which queries are split when their finest map has more values than that
CACHED = 2**21  # values of a part that a processor's cache holds


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
        batch, count = queries.shape[:2]
        apart = batch * count * maps[0][0].numel() > LARGE and not any(map(ties, self.norms))
        size = -(-count // PARTS) if apart else count
        return torch.cat([self._masks(part, maps[-1], shared) for part in torch.split(queries, size, 1)], 1)

    def _masks(
        self, queries: Float[Tensor, "B Q D"], deepest: Float[Tensor, "B S h w"], shared: list[Tensor]
    ) -> Float[Tensor, "B Q M T"]:
        x: Tensor = self.ups[0].tiled(queries, *deepest.shape[-2:]) + shared[0]  # type: ignore[operator]
        for norm, up, skip in zip(self.norms, self.ups[1:], shared[1:], strict=True):
            if ties(norm):
                below = up.get_parameter("below")
                x = Together.apply(x, norm.weight, norm.bias, below, norm).add_(skip)  # type: ignore[no-untyped-call]
            elif torch.is_grad_enabled():
                x = checkpoint(_activate, norm, up, x, use_reentrant=False) + skip
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


def ties(norm: Any) -> bool:
    """Whether a normalisation takes its statistics from all queries of a batch."""
    return hasattr(norm, "running_mean") and norm.training


class Together(torch.autograd.Function):
    """`_activate` with batch normalisation in training, in parts of some maps.

    The statistics come first, of all parts. Backward, each part's gradient before the normalisation is made in the room
    of the result, with the two sums of the statistics' own gradient: of g, and of g times the normalised x, a channel.
    Then d x = scale * (g - mean of g - normalised x * mean of (g * normalised x)), in place.

    A `norm` that has `summed` adds its sums to those of other processes by it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "B Q P h w"], weight: Tensor, bias: Tensor, kernel: Tensor, norm: Any
    ) -> Float[Tensor, "B Q C h2 w2"]:
        """The maps of the next level, without the skip's part; the running statistics move."""
        size = _at_once(x)
        parts = torch.split(x.flatten(0, 1), size)
        mean, var, count = _statistics(parts, norm)
        ctx.save_for_backward(x, weight, bias, kernel, mean, var)
        ctx.norm, ctx.size, ctx.count = norm, size, count
        out = x.new_empty(*x.shape[:2], kernel.shape[1], *(STRIDE * side for side in x.shape[-2:]))
        for part, room in zip(parts, torch.split(out.flatten(0, 1), size), strict=True):
            y = _rectified(part, mean, var, weight, bias, norm.eps)
            room.copy_(fn.conv_transpose2d(y, kernel.to(y), stride=STRIDE, padding=PADDING))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B Q C h2 w2"]) -> tuple[Tensor | None, ...]:
        """The gradients of x, the normalisation's weight and bias, and the kernel."""
        x, weight, bias, kernel, mean, var = ctx.saved_tensors
        below = torch.empty_like(x, memory_format=torch.contiguous_format)
        of_kernel, own = torch.zeros_like(kernel), torch.stack([mean, mean]).zero_()
        parts = [torch.split(whole.flatten(0, 1), ctx.size) for whole in (x, gradient, below)]
        for part, above, g in zip(*parts, strict=True):
            y = _rectified(part, mean, var, weight, bias, ctx.norm.eps)
            wide, narrow, _ = torch.ops.aten.convolution_backward(
                above, y, kernel.to(y), None, [STRIDE] * 2, [PADDING] * 2, [1, 1], True, [0, 0], 1,
                [True, True, False],
            )  # fmt: skip
            of_kernel += narrow
            torch.mul(wide, y > 0, out=g)
            own += torch.stack([_by_channel(g), _by_channel((part - _plane(mean)).mul_(g))])
        inverse = (var + ctx.norm.eps).rsqrt()
        own[1] *= inverse
        scale, (first, second) = weight * inverse, _summed(ctx.norm, own) / ctx.count
        for part, _, g in zip(*parts, strict=True):
            g -= (part - _plane(mean)).mul_(_plane(second * inverse)).add_(_plane(first))
            g *= _plane(scale)
        return below, own[1], own[0], of_kernel, None


def _at_once(x: Float[Tensor, "B Q P h w"]) -> int:
    """How many maps are a part: on a processor so few that its cache holds them."""
    count = len(x) * x.shape[1]
    if x.numel() <= LARGE:
        return count
    part = -(-count // PARTS)
    return part if x.is_cuda else max(1, min(part, CACHED * count // x.numel()))


def _statistics(parts: Sequence[Tensor], norm: Any) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"], Tensor]:
    """Mean and variance of each channel, and of how many values; `norm` remembers them."""
    sums = torch.stack([_by_channel(part) for part in parts]).sum(0)
    values = sums.new_full((1,), sum(part[:, 0].numel() for part in parts))
    told = _summed(norm, torch.cat([sums, values]))
    mean, count = told[:-1] / told[-1], told[-1]
    squares = torch.stack([_by_channel((part - _plane(mean)).square_()) for part in parts]).sum(0)
    var = _summed(norm, squares) / count
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
    norm.running_var.lerp_((var * count / (count - 1)).to(norm.running_var), norm.momentum)
    return mean, var, count


def _summed(norm: Any, own: Tensor) -> Tensor:
    """Sums over all processes that share the batch."""
    found: Tensor = norm.summed(own) if hasattr(norm, "summed") else own
    return found


def _rectified(part: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The normalised maps without what is negative."""
    return fn.relu_(fn.batch_norm(part, mean.to(weight), var.to(weight), weight, bias, eps=eps))


def _by_channel(maps: Float[Tensor, "n P h w"]) -> Float[Tensor, " P"]:
    """Sums over all but the channels."""
    return maps.sum((0, 2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


def _plane(values: Float[Tensor, " P"]) -> Float[Tensor, "P 1 1"]:
    return values[:, None, None]

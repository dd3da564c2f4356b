"""The region decoder: one mask a region, forward and backward, at the paper's size.

The plain way tiles every region's vector over the bottleneck, repeats the mixture's skips for each region,
concatenates, and convolves all of it.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from bench.measure import Case, Growth

PAPER: dict[str, Any] = {
    "dim": 1024,
    "channels": [64, 128, 256, 512, 1024, 1024],
    "n_regions": 49,
}  # of a 256 x 256 spectrogram
SIDE = 256


class PlainDecoder(nn.Module):
    """Tile, concatenate, convolve: the U-Net decoder as written, every query on its own. Shares `decoder`'s weights."""

    def __init__(self, decoder: Any):
        super().__init__()
        self.decoder = decoder

    def forward(self, maps: list[Tensor], queries: Tensor) -> Tensor:
        """maps as the encoder returns them, queries (B, Q, D) -> masks (B, Q, M, T)."""
        batch, n = queries.shape[:2]
        maps = [m.repeat_interleave(n, 0) for m in maps]
        x = queries.flatten(0, 1)[:, :, None, None].expand(-1, -1, *maps[-1].shape[-2:])
        for i, (up, skip) in enumerate(zip(self.decoder.ups, maps[::-1], strict=True)):
            weight = torch.cat([up.below, up.skip])
            x = fn.conv_transpose2d(torch.cat([x, skip], 1), weight, up.bias, stride=2, padding=1)
            if i < len(self.decoder.norms):
                x = fn.relu(self.decoder.norms[i](x))
        return x.squeeze(1).sigmoid().unflatten(0, (batch, n))


def made_plain(net: Any) -> Any:
    """A copy of a model whose decoder is the plain one."""
    plain = copy.deepcopy(net)
    plain.decoder.forward = PlainDecoder(plain.decoder).forward
    return plain


def step(net: Any, mixture: Tensor, queries: Tensor) -> list[Tensor]:
    """One forward and backward pass; returns the masks and the gradients of all parameters."""
    net.zero_grad(set_to_none=True)
    masks = net.masks(mixture, queries)
    masks.square().mean().backward()
    return [masks.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]


def pair(norm: str, batch: int, regions: int, device: str, n: int = 2) -> tuple[Any, Any, Tensor, Tensor]:
    """The plain model, ours with the same weights, and random inputs for both."""
    from avset.models.avset import AVSeT

    torch.manual_seed(0)
    net = AVSeT(**PAPER, norm=norm).to(device)
    mixture = torch.rand(batch, SIDE, SIDE, device=device)
    return made_plain(net), net, mixture, torch.randn(batch, n, 1, regions, PAPER["dim"], device=device)


def apart(plain: Any, ours: Any, mixture: Tensor, queries: Tensor) -> float:
    """Distance of masks and gradients, all as one vector, over its length."""
    there, here = ([t.double() for t in step(net, mixture, queries)] for net in (plain, ours))
    distance = sum(float((a - b).square().sum()) for a, b in zip(there, here, strict=True))
    return (distance / sum(float(a.square().sum()) for a in there)) ** 0.5


def cases(device: str) -> Iterator[Case]:
    """Both normalisations; float32 (the tests compare in float64)."""
    batch = 2 if device == "cuda" else 1
    for norm in ("group", "batch"):
        plain, ours, mixture, queries = pair(norm, batch, 49, device)
        yield Case(
            "region decoder, forward + backward", f"256 x 256, D = 1024, {2 * batch} x 49, {norm} norm", "steps",
            partial(step, plain, mixture, queries), partial(step, ours, mixture, queries),
            agree=partial(apart, plain, ours, mixture, queries[..., :4, :]), tolerance=1e-4,
            goal=4 if device == "cuda" else 2, memory_goal=1 / 3,
        )  # fmt: skip


def growth(device: str) -> Iterator[Growth]:
    """By regions, mixtures, and the width of the U-Net."""
    _, net, mixture, queries = pair("group", 4, 49, device, n=1)

    def call(regions: int, batch: int) -> partial:
        return partial(step, net, mixture[:batch], queries[:batch, ..., :regions, :])

    by_regions = {f"{r} regions": (call(r, 1), float(r)) for r in (12, 24, 48)}
    note = "the encoder and the skips' part are shared by all regions"
    yield Growth("region decoder", "regions, 1 mixture", "region", by_regions, note)
    yield Growth(
        "region decoder",
        "mixtures, 12 regions",
        "mixture",
        {f"{b} mixtures": (call(12, b), float(b)) for b in (1, 2, 4)},
    )

"""One training on several processes (torch.distributed), or on one: each takes its share of every batch.

The shares are equal, so the mean of the processes' means is the mean over the batch: that of the losses, of
their gradients and of the statistics of batch normalisation. Without a process group this process is alone,
and everything here leaves what it is given as it is.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as fn


def rank() -> int:
    """The number of this process; the one with number 0 keeps states and writes artifacts."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def shares(start: int, stop: int, batch_size: int) -> Iterator[list[int]]:
    """This process's share of each batch of the items `start` to `stop`; `batch_size` is that of all together."""
    own = batch_size // size()
    for first in range(start + rank() * own, stop, batch_size):
        yield list(range(first, first + own))


def own_share(things: list[Any]) -> list[Any]:
    """The things that this process looks at, where each is looked at by one."""
    return things[rank() :: size()]


def gather(value: Any) -> list[Any]:
    """What each process gives, by their numbers."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def mean(values: dict[str, Tensor]) -> dict[str, float]:
    """The mean over the processes of what each of them has."""
    if size() == 1:
        return {name: value.item() for name, value in values.items()}
    together = torch.stack([value.detach() for value in values.values()])
    dist.all_reduce(together)
    return dict(zip(values, (together / size()).tolist(), strict=True))


Scores = Callable[[Any], dict[str, float]]  # of a model, by name


def together(scores: Scores, count: int) -> Scores:
    """Mean scores over all things, from those over the `count` things that each process looks at itself."""
    if size() == 1:
        return scores

    def over_all(model: Any) -> dict[str, float]:
        found = [(n, values) for n, values in gather((count, scores(model) if count else {})) if n]
        total = sum(n for n, _ in found)
        return {name: sum(n * values[name] for n, values in found) / total for name in found[0][1]}

    return over_all


def parallel(module: nn.Module) -> nn.Module:
    """`module`, changed so that the gradients of its parameters are those of the whole batch, in every process.

    Batch normalisation takes its statistics from the whole batch. Gradients are reduced in buckets of one order:
    DistributedDataParallel lays them out anew after its first step unless it looks for unused parameters, and with
    three processes or more another order is another rounding, so that a run that goes on would differ.
    """
    if size() == 1:
        return module
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, BatchNorm(child))
    return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


class BatchNorm(nn.Module):
    """`norm`, with its parameters and buffers, whose statistics in training are those of all processes' inputs.

    torch's own SyncBatchNorm is for accelerators only.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        self.weight, self.bias, self.eps, self.momentum = norm.weight, norm.bias, norm.eps, norm.momentum or 0.0
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Normalise each channel; in training also remember its mean and variance."""
        if not self.training:
            kept = (self.running_mean, self.running_var, self.weight, self.bias)
            return fn.batch_norm(x, *kept, training=False, eps=self.eps)
        own_var, own_mean = torch.var_mean(x, (0, 2, 3), correction=0)
        mean = all_reduce(own_mean) / size()  # type: ignore[no-untyped-call]
        var = all_reduce(own_var + (own_mean - mean).square()) / size()  # type: ignore[no-untyped-call]
        self.remember(mean.detach(), var.detach(), size() * x.numel() // x.shape[1])
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])

    def summed(self, own: Tensor) -> Tensor:
        """Sums over all processes, without a gradient."""
        total = own.clone()
        dist.all_reduce(total)
        return total

    def remember(self, mean: Float[Tensor, " C"], var: Float[Tensor, " C"], count: int) -> None:
        """Move the running statistics towards those of `count` values a channel."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * count / (count - 1), self.momentum)

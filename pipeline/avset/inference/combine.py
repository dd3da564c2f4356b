"""What is made of the masks of several queries, and of the sounds that they separate. Pure functions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from avset.inference.wishes import Number, Span

EDGE = 0.01  # s, of the fade at each end of a span


def excluding(masks: Float[Tensor, "*batch P T"], others: Float[Tensor, "*batch P T"]) -> Float[Tensor, "*batch P T"]:
    """Masks of what is wanted and not of what is not: m m / (m + o), so what both claim is shared.

    On the demo's mixtures the other source's text, so excluded, gains 0.5 dB; m (1 - o) loses 0.4 dB.
    """
    return masks * masks / (masks + others).clamp_min(1e-12)


def shared(masks: Float[Tensor, "*batch N P T"]) -> Float[Tensor, "*batch N P T"]:
    """Masks in [0, 1] whose sum is at most one: where they claim more than there is, each gets its share.

    What they leave is the rest, so the sounds and the rest add up to the mixture.
    """
    return masks / masks.sum(-3, keepdim=True).clamp_min(1)


def remix(
    mixture: Float[Tensor, "*channels L"], estimates: Float[Tensor, "N *channels L"], gains: Sequence[Number]
) -> Float[Tensor, "*channels L"]:
    """The mixture with each of N sounds louder or softer by its gain (dB; -inf: muted); the rest as it was."""
    factors = 10 ** (torch.tensor(gains, dtype=mixture.dtype, device=mixture.device) / 20) - 1
    return mixture + torch.tensordot(factors, estimates, 1)


def gate(
    start: int, length: int, rate: Number, inside: Sequence[Span] = (), outside: Sequence[Span] = ()
) -> Float[Tensor, " {length}"]:
    """Weights in [0, 1] of `length` samples or frames from `start`: one in the spans `inside`, zero in `outside`.

    Spans are in seconds from sample 0. Without `inside` it is one everywhere else. Each end of a span is a straight
    line of `EDGE` seconds, whose middle is the time that was asked for.
    """
    time = torch.arange(start, start + length, dtype=torch.float64) / rate

    def within(spans: Sequence[Span]) -> Tensor:
        found = torch.zeros(length, dtype=torch.float64)
        for begin, end in spans:
            found = torch.maximum(found, (torch.minimum(time - begin, end - time) / EDGE + 0.5).clamp(0, 1))
        return found

    opened = within(inside) if inside else torch.ones(length, dtype=torch.float64)
    return (opened * (1 - within(outside))).float()

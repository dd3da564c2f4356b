"""The training losses: masks (Eq. 11), audio-language (Eq. 2) and tri-modal (Eq. 3) consistency."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as fn

TEMPERATURE = 0.01  # of Eq. 2, CLIP's own
AT_ONCE = 16384  # captions that Eq. 2 compares with at once


def loudness(mixture: Float[Tensor, "B M T"]) -> Float[Tensor, "B 1 M T"]:
    """The weight of each bin in the mask losses, clamp(log(1 + |A_mix|), 1e-3, 10)."""
    return torch.log1p(mixture).clamp(1e-3, 10)[:, None]


def mask_loss(
    masks: Float[Tensor, "B N M T"], targets: Float[Tensor, "B N M T"], mixture: Float[Tensor, "B M T"]
) -> Float[Tensor, ""]:
    """Eq. 11, each bin weighted by the mixture's `loudness`; mean over bins."""
    return (loudness(mixture) * (masks - targets).abs()).mean()


def audio_language_loss(
    audio: Float[Tensor, "n D"],
    captions: Float[Tensor, "C D"],
    labels: Int[Tensor, " n"],
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """Eq. 2: cross-entropy of the cosines with C latent captions, those of all training clips; label = its clip's own.

    A caption that clips share stands in `captions` once: twice, it would be a negative of itself. Of more than
    `AT_ONCE` so many are compared at once, in whatever precision they come: the loss is the same, to rounding.
    """
    if len(captions) > AT_ONCE:
        loss: Tensor = InParts.apply(  # type: ignore[no-untyped-call]
            fn.normalize(audio, dim=-1), captions, labels, temperature
        )
        return loss
    cosine = fn.normalize(audio, dim=-1) @ fn.normalize(captions, dim=-1).T
    return fn.cross_entropy(1 / temperature * cosine, labels)


class InParts(torch.autograd.Function):
    """Eq. 2 of normalised sounds and any number of constant captions, which are read once, in parts.

    The gradient of the mean of log sum_c exp(s_c) - s_own, s = cosine / temperature, by a sound is 1 / (n temperature)
    times the mean caption under the softmax, less its own one. That mean is summed up beside the loss, both against the
    largest score so far.
    """

    @staticmethod
    def forward(
        ctx: Any,
        audio: Float[Tensor, "n D"],
        captions: Float[Tensor, "C D"],
        labels: Int[Tensor, " n"],
        temperature: float,
    ) -> Float[Tensor, ""]:
        """The loss, a scalar."""
        most, total, mean = audio.new_full((len(audio), 1), -torch.inf), audio.new_zeros(len(audio), 1), audio * 0
        for part in torch.split(captions, AT_ONCE):
            known = fn.normalize(part.to(audio.dtype), dim=-1)
            scores = audio @ known.T / temperature
            before, most = most, torch.maximum(most, scores.amax(1, keepdim=True))
            weights, kept = (scores - most).exp_(), (before - most).exp()
            total, mean = total * kept + weights.sum(1, keepdim=True), mean * kept + weights @ known
        own = fn.normalize(captions[labels].to(audio.dtype), dim=-1)
        ctx.save_for_backward((mean / total - own) / (len(audio) * temperature))
        return (most + total.log() - (audio * own).sum(1, keepdim=True) / temperature).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor, None, None, None]:
        """By the sounds."""
        (own,) = ctx.saved_tensors
        return gradient * own, None, None, None


def trimodal_loss(
    caption_scores: Float[Tensor, "*batch R"], audio_scores: Float[Tensor, "*batch R"], reduction: str = "sum"
) -> Float[Tensor, ""]:
    """Eq. 3: KL(P_VC || P_VA) over the regions of each frame, mean over everything else.

    The scores are scaled similarities before the softmax. `reduction="mean"` divides by R as the authors'
    code does, for which the published weight was tuned; `"sum"` is the divergence itself.
    """
    reference = fn.log_softmax(caption_scores.detach(), -1)
    divergence = (reference.exp() * (reference - fn.log_softmax(audio_scores, -1))).sum(-1).mean()
    return divergence / caption_scores.shape[-1] if reduction == "mean" else divergence

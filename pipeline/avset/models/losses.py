"""The training losses: masks (Eq. 11), audio-language (Eq. 2) and tri-modal (Eq. 3) consistency."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as fn

SCALE = 100.0  # 1 / temperature of Eq. 2, CLIP's own


def loudness(mixture: Float[Tensor, "B M T"]) -> Float[Tensor, "B 1 M T"]:
    """The weight of each bin in the mask losses, clamp(log(1 + |A_mix|), 1e-3, 10)."""
    return torch.log1p(mixture).clamp(1e-3, 10)[:, None]


def mask_loss(
    masks: Float[Tensor, "B N M T"], targets: Float[Tensor, "B N M T"], mixture: Float[Tensor, "B M T"]
) -> Float[Tensor, ""]:
    """Eq. 11, each bin weighted by the mixture's `loudness`; mean over bins."""
    return (loudness(mixture) * (masks - targets).abs()).mean()


def audio_language_loss(
    audio: Float[Tensor, "n D"], captions: Float[Tensor, "C D"], labels: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Eq. 2: cross-entropy of the cosines with the C latent captions of all training clips; label = its clip's own.

    A caption that clips share stands in `captions` once: twice, it would be a negative of itself.
    """
    cosine = fn.normalize(audio, dim=-1) @ fn.normalize(captions, dim=-1).T
    return fn.cross_entropy(SCALE * cosine, labels)


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

"""Latent captions: the text embedding nearest to a clip's centre frame, by textual inversion (Eq. 1, App. A.1)."""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avset.errors import ParamsError
from avset.features.encoder import Encoder
from avset.features.padding import padded_size

EVERY = 10  # steps between two points of a cosine curve
OPTIMIZERS: dict[str, Any] = {
    # With these betas Adam forgets the large first gradients within ten steps: a higher cosine in fewer steps.
    "adam": partial(torch.optim.Adam, betas=(0.9, 0.9)),
    "sgd": torch.optim.SGD,
}
SCHEDULES = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}


def seed_of(clip_id: str) -> int:
    """The seed of a clip's first guess: 63 bits of the sha256 of its name."""
    return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big") >> 1


def invert(
    encoder: Encoder,
    targets: Float[Tensor, "B D"],
    *,
    seeds: Sequence[int],
    tokens: int,
    steps: int,
    optimizer: str,
    lr: float,
    schedule: str,
    init_std: float,
    batch_size: int,
) -> dict[str, Tensor]:
    """Maximise the cosine of the text embedding of K free tokens and an image embedding (Eq. 1, Eq. 6).

    targets   image embeddings f_center        seeds      one a clip, of p ~ N(0, init_std)
    tokens    K                                init_std   1 in the release, about 0.02 in CLIP's own tokens
    lr        of the cosine of one clip        schedule   "constant", or "cosine" down to 0

    The loss is minus the *sum* of the cosines, and batches are padded to one constant size (`batch_size`, up
    to a multiple of 16): the caption of a clip depends on its target and its seed alone, to the byte on the CPU.

    So a step of plain SGD is lr * d cosine / d p. The release minimises -100 * *mean* with lr 10: a step is
    1000 / batch size times the same gradient, 62.5 in a batch of 16 and 17.2 in a batch of 58. The captions of the
    release are `optimizer="sgd", schedule="constant", lr=62.5, init_std=1.0, steps=5000`.

    Returns, on the CPU
        caption (B, D)   C* = g^L(p*), un-normalised         tokens (B, K, E)   p*
        cosine (B,)      of target and caption               curve (B, S)       cosine at steps 0, 10, 20, ...
    p* is where the ascent ends, as in the release. With the cosine schedule the end is the best point. With a
    constant rate the end may miss the best point by the length of a step; the curve shows by how much.

    ParamsError: unknown optimizer or schedule. AvsetError: more tokens than the encoder's context.
    """
    for key, name, known in (("optimizer", optimizer, OPTIMIZERS), ("schedule", schedule, SCHEDULES)):
        if name not in known:
            raise ParamsError(f"captions.{key}: {name!r} is not one of {', '.join(known)}")
    batch_size = padded_size(batch_size)
    parts = []
    for start in range(0, len(targets), batch_size):
        wanted = targets[start : start + batch_size].to(encoder.mean)
        guesses = [_guess((tokens, encoder.width), init_std, seed) for seed in seeds[start : start + batch_size]]
        count = len(wanted)
        fill = [0] * (batch_size - count)  # the first clip again; any clip would do
        wanted = torch.cat([wanted, wanted[fill]])
        first = torch.stack(guesses + [guesses[0]] * len(fill)).to(encoder.mean)
        found = ascend(encoder, wanted, first, steps, optimizer, lr, schedule)
        parts.append({k: v[:count].cpu() for k, v in found.items()})
    return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}


def _guess(shape: tuple[int, int], std: float, seed: int) -> Tensor:
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ascend(
    encoder: Encoder, targets: Tensor, first: Tensor, steps: int, optimizer: str, lr: float, schedule: str
) -> dict[str, Tensor]:
    """One batch of inversions; no row depends on another."""
    p = first.clone().requires_grad_()
    mover = OPTIMIZERS[optimizer]([p], lr=lr)
    curve = []
    for step in range(steps + 1):
        caption = encoder.encode_tokens(p)
        cosine = F.cosine_similarity(caption, targets, dim=1)
        if step % EVERY == 0:
            curve.append(cosine.detach())
        if step < steps:
            mover.param_groups[0]["lr"] = lr * SCHEDULES[schedule](step / steps)
            (p.grad,) = torch.autograd.grad(-cosine.sum(), p)
            mover.step()
    found = {"caption": caption, "tokens": p, "curve": torch.stack(curve, dim=1), "cosine": cosine}
    return {name: tensor.detach() for name, tensor in found.items()}


class CaptionMapper:
    """Maps (clip_id, embedding) of some clips to their latent captions.

    The encoder loads at the first call, so a mapper is small on its way to a worker. `encoder` is the folder of
    its artifact, and a caption of a cosine below `low` is flagged. The other parameters are those of `invert`.
    """

    def __init__(self, encoder: Path, low: float, device: str, **how: Any):
        self.folder, self.low, self.device, self.how = encoder, low, device, how

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded at first use."""
        return Encoder.load(self.folder).to(self.device)

    def __call__(self, clips: list[tuple[str, Float[np.ndarray, " D"]]]) -> list[dict[str, Any]]:
        """For each clip `caption` (D,), `tokens` (K, E), `curve` (S,), and facts.

        The facts are `cosine`, `steps`, `seed`, `words` (the words nearest to the tokens, joined by blanks) and
        `low` (whether the cosine is below the threshold).
        """
        targets = torch.from_numpy(np.stack([embedding for _, embedding in clips])).float()
        seeds = [seed_of(clip_id) for clip_id, _ in clips]
        found = invert(self.encoder, targets, seeds=seeds, **self.how)
        words = self.encoder.nearest_words(found["tokens"])
        return [
            {
                **{name: found[name][i].numpy().copy() for name in ("caption", "tokens", "curve")},
                "cosine": (cosine := found["cosine"][i].item()),
                "steps": self.how["steps"],
                "seed": seed,
                "words": " ".join(words[i]),
                "low": cosine < self.low,
            }
            for i, seed in enumerate(seeds)
        ]

"""What separation is worth that nobody learned: the mixture, and oracles that know the true sources or their labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from avset.features.spectrograms import FLOOR, Transform, ratio_mask, warp
from avset.storage.store import Store

MIXTURE, TEMPLATE, FIXED, IDEAL, IDEAL_LINEAR = "mixture", "template", "fixed", "ideal", "ideal_linear"
BOUNDS = (MIXTURE, TEMPLATE, FIXED, IDEAL, IDEAL_LINEAR)  # as tables show them; all but the first are oracles
AT_MOST = 100  # training clips of a label, evenly chosen, that its template is the mean of

Templates = Mapping[str, Float[Tensor, " M"]]  # label -> magnitude
Estimate = Float32[np.ndarray, "N L"]


def still(masks: Float[Tensor, "*batch N P T"], magnitude: Float[Tensor, "*batch P T"]) -> Tensor:
    """Masks that do not move: at each frequency the mean over time, weighted by the energy of the mixture.

    Of the same shape as `masks`. What masks gain over their still ones is the part of them that moves.
    """
    energy = (magnitude**2).unsqueeze(-3) + FLOOR**2  # so that a silent row has its plain mean
    return ((masks * energy).sum(-1, keepdim=True) / energy.sum(-1, keepdim=True)).expand_as(masks)


def templates(clips: Sequence[Mapping[str, Any]], store: Store, transform: Transform) -> dict[str, Tensor]:
    """The mean magnitude spectrum of each label, on the log-frequency axis, over its training clips.

    Clips of several labels are no part of it.

    clips  rows of clips/index.parquet
    """
    there, of = set(store.clips), dict[str, list[str]]()
    for row in clips:
        if row["split"] == "train" and len(row["labels"]) == 1 and row["clip_id"] in there:
            of.setdefault(row["labels"][0], []).append(row["clip_id"])
    found = {}
    for label, names in sorted(of.items()):
        chosen = sorted(names)[:: -(-len(names) // AT_MOST)]
        means = [np.hypot(*_planes(store, clip)).mean(0, dtype=np.float64) for clip in chosen]
        linear = torch.from_numpy(np.mean(means, 0, dtype=np.float64)).float()
        found[label] = warp(linear[:, None], transform.log_bins)[:, 0]
    return found


def _planes(store: Store, clip: str) -> Float32[np.ndarray, "2 T F"]:
    return store.read(clip, "stft").astype(np.float32).transpose(1, 0, 2)


def estimates(
    sources: Estimate, labels: Sequence[str], known: Templates, transform: Transform
) -> dict[str, tuple[Estimate, Estimate | None]]:
    """By bound, its estimates of sources that add up to the mixture; and those of its still masks, where masks move.

    template      own / sum over the sources, of the templates of their labels: an equaliser that cannot listen. It is
                  absent if a source has no label, or its label no template.
    fixed         the ideal mask, still: the best fixed equaliser of each source
    ideal         the ideal ratio mask, on the log-frequency axis
    ideal_linear  the same on all linear bins of the STFT
    """
    waves = torch.from_numpy(sources)
    spectrum, mixture = transform.analyse(waves.sum(0), "linear")
    linear = transform.analyse(waves, "linear")[1]
    log, log_mixture = warp(linear, transform.log_bins), warp(mixture, transform.log_bins)
    ideal, fine = ratio_mask(log, log_mixture).clamp(0, 1), ratio_mask(linear, mixture).clamp(0, 1)

    def made(masks: Tensor, grid: str = "log") -> Estimate:
        return np.asarray(transform.apply(masks, spectrum, waves.shape[-1], grid).numpy())

    fixed = made(still(ideal, log_mixture))
    found: dict[str, tuple[Estimate, Estimate | None]] = {
        MIXTURE: (np.broadcast_to(sources.sum(0), sources.shape), None),
        FIXED: (fixed, None),
        IDEAL: (made(ideal), fixed),
        IDEAL_LINEAR: (made(fine, "linear"), made(still(fine, mixture), "linear")),
    }
    if all(label in known for label in labels):
        own = torch.stack([known[label] for label in labels])
        found[TEMPLATE] = (made((own / (own.sum(0) + FLOOR))[..., None].expand_as(ideal)), None)
    return found

"""Examples as long as their clips: windows of one crop, separated as all mixtures are, and cross-faded."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32

from avset.evaluation.estimates import Texts, estimates
from avset.evaluation.examples import IDEAL, Example
from avset.models.checkpoint import SeparationModel
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture

EDGE = 1e-3  # of the weight of a window: that of its first and last sample
FIRM = 1e6  # weight of the crop that was scored against any window: there it is heard as it was scored
FADE = 0.01  # s, at both of its ends, in which it gains this weight


def whole(shown: Example, mixture: Mixture, model: SeparationModel, corpus: Corpus, texts: dict[str, Texts]) -> Example:
    """An example of a mixture whose sounds and masks go on before and behind the crop that was scored.

    The clips stay as they lie in the mixture, from the first moment that all of them have to the last one. Scores,
    pictures and attention are those of the crop, whose estimates are in the whole as they were scored. `texts` are
    those of each text query.
    """
    transform = model.settings.transform
    frames = [
        (corpus.spectrograms.dataset(clip, "waveform").shape[0] + 1) // transform.hop_length for clip in mixture.clips
    ]
    starts, parts = windows(mixture, frames, transform.crop)
    samples = [start * transform.hop_length for start in starts]
    rate = transform.sample_rate
    fade = round(FADE * rate)
    references, separations = shown.references, dict(shown.separations)
    for kind, own in shown.separations.items():
        if kind != IDEAL:
            made = list(estimates(model, parts, kind, corpus, texts.get(kind, {})))
            references = joined([one.references for one in made], samples, fade)
            sounds = joined([one.estimates for one in made], samples, fade)
            separations[kind] = replace(own, estimates=sounds, masks=joined([one.masks for one in made], starts, 1))
    ideal, masks = transform.ideal(torch.from_numpy(references))
    separations[IDEAL] = replace(shown.separations[IDEAL], estimates=ideal.numpy(), masks=masks.numpy())
    return replace(
        shown, mixture=references.sum(0), references=references, separations=separations,
        scored=(samples[-1] / rate, (samples[-1] + transform.length) / rate),
        starts=[offset * transform.hop_length / rate for offset in parts[0].offsets],
    )  # fmt: skip


def windows(mixture: Mixture, frames: Sequence[int], crop: int) -> tuple[list[int], list[Mixture]]:
    """Starts (hops) of windows that overlap by half or more, and the mixture in each; `frames` are those of the clips.

    The last one is the mixture itself. It is the only one if the clips are no longer, and of a duet, which has no other
    sound.
    """
    before = min(mixture.offsets)
    offsets = [offset - before for offset in mixture.offsets]
    last = min(count - offset for count, offset in zip(frames, offsets, strict=True)) - crop
    if last <= 0 or mixture.duet:
        return [0], [mixture]
    starts = [*range(0, last, crop // 2), last]
    parts = [
        replace(mixture, mixture_id=f"{mixture.mixture_id} {start}", offsets=[start + offset for offset in offsets])
        for start in starts
    ]
    return [*starts, before], [*parts, mixture]


def joined(
    parts: Sequence[Float32[np.ndarray, "*rest n"]], starts: Sequence[int], fade: int
) -> Float32[np.ndarray, "*rest m"]:
    """Parts that begin at some places of one whole, each with less weight towards its ends.

    The last one covers the others, but for `fade` values at both of its ends.
    """
    size = parts[0].shape[-1]
    soft = EDGE + np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    share = (np.minimum(np.arange(size), np.arange(size)[::-1]) + 1) / (fade + 1)  # where the others weigh 1
    firm = np.where(share < 1, share / np.maximum(1 - share, 1 / FIRM), FIRM)
    found, weights = np.zeros((*parts[0].shape[:-1], max(starts) + size)), np.zeros(max(starts) + size)
    for weight, part, start in zip([*[soft] * (len(parts) - 1), firm], parts, starts, strict=True):
        found[..., start : start + size] += weight * part
        weights[start : start + size] += weight
    return (found / weights).astype(np.float32)

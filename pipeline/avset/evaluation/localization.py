"""Where a method finds things in the pictures of the test clips: attention against the true boxes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from avset.evaluation import metrics
from avset.evaluation.duets import Heard
from avset.evaluation.estimates import Estimates, Texts, absent_of
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Localizes
from avset.training.dataset import Corpus

PLACES = pa.schema(
    [("clip_id", pa.string()), ("content", pa.string()), ("label", pa.string()), ("labels", pa.int64()),
     ("attention", pa.string()), ("hit", pa.bool_()), ("other", pa.bool_()), ("iou", pa.float64()),
     ("chance", pa.float64())]
)  # fmt: skip
Map = Float[np.ndarray, " R"]
Look = tuple[str, str, Map]  # what looks, the label that it looks for, where it looks


def attention_by_clip(made: Sequence[Estimates]) -> dict[str, list[Map]]:
    """The attention (R,) of all separated sounds of each clip."""
    sounds = defaultdict(list)
    for one in made:
        if one.attention is not None:
            for n in one.asked:
                sounds[one.mixture.clips[n]].append(one.attention[n])
    return sounds


def attention_rows(
    model: SeparationModel, grid: tuple[int, int], corpus: Corpus, clips: Sequence[str], texts: Texts,
    sounds: Mapping[str, list[Map]], duets: Mapping[str, Heard],
) -> list[dict[str, Any]]:  # fmt: skip
    """Pointing game and cIoU of what looks at each clip: text, caption, separated sound, and two controls.

    The text of each label; the latent caption; the separated `sounds` (scores (R,) by clip) of a clip of one label; of
    a duet, a clip of two, what each text separates from its sound, which `duets` has; `wrong`, the text of a label that
    the clip has not; `norm`, the length of each region, which asks for nothing. `hit` is in the box of the label,
    `other` in that of the other label of a duet. A method that only points has rows of its sounds; one that does
    neither has none.
    """
    looks = _looks if isinstance(model.method, Localizes) else _sounds
    return [
        row for clip in clips for look in looks(model, corpus, clip, texts, sounds, duets)
        if (row := _row(look, grid, corpus, clip)) is not None
    ]  # fmt: skip


def _looks(
    model: SeparationModel, corpus: Corpus, clip: str, texts: Texts, sounds: Mapping[str, list[Map]],
    duets: Mapping[str, Heard],
) -> Iterator[Look]:  # fmt: skip
    """All looks at the centre frame of a clip. A caption belongs to no single box of more than two."""
    method, labels = model.localizing(), corpus.labels[clip]
    regions = torch.from_numpy(corpus.regions.read(clip, "regions")).float()
    centre = regions[len(regions) // 2]
    known = [label for label in labels if label in texts]
    for label in known:
        yield "text", label, method.scores(centre, texts[label][0, 0]).numpy()
        if wrong := absent_of(label, labels, texts):
            yield "wrong", label, method.scores(centre, texts[wrong][0, 0]).numpy()
    if len(labels) not in (1, 2):
        return
    caption = method.scores(centre, torch.from_numpy(corpus.captions.read(clip, "caption")).float()).numpy()
    for label in labels:
        yield "caption", label, caption
        yield "norm", label, centre.norm(dim=-1).numpy()
    if len(labels) == 1:
        yield from _sounds(model, corpus, clip, texts, sounds, duets)
    elif len(known) == 2 and clip in duets and (attention := duets[clip].attention) is not None:
        for label, one in zip(known, attention, strict=True):
            yield "sound", label, one


def _sounds(
    model: SeparationModel, corpus: Corpus, clip: str, texts: Texts, sounds: Mapping[str, list[Map]],
    duets: Mapping[str, Heard],
) -> Iterator[Look]:  # fmt: skip
    """The looks of the separated sounds of a clip of one label."""
    if len(corpus.labels[clip]) == 1:
        yield from (("sound", corpus.labels[clip][0], attention) for attention in sounds.get(clip, []))


def _row(look: Look, grid: tuple[int, int], corpus: Corpus, clip: str) -> dict[str, Any] | None:
    """The scores of a look; None if the label has no box."""
    attention, label, map_ = look
    boxes = corpus.boxes.get(f"{clip}/{label}")
    if boxes is None:
        return None
    others = [corpus.boxes.get(f"{clip}/{name}") for name in corpus.labels[clip] if name != label]
    other = None
    if len(others) == 1 and others[0] is not None:
        other = metrics.pointing(map_, grid, others[0])
    return {"clip_id": clip, "content": corpus.contents[clip], "label": label, "labels": len(corpus.labels[clip]),
            "attention": attention, "hit": metrics.pointing(map_, grid, boxes), "other": other,
            "iou": metrics.ciou(map_, grid, boxes), "chance": metrics.pointing_chance(grid, boxes)}  # fmt: skip

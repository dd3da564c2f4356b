"""Mixtures: rows of a table (clips, offsets, gains), rendered late from stored spectrograms or waveforms.

A mixture is the mean of its N gained sources. What is called a source or a reference from here on is the
gained clip divided by N, so that the sources add up to the mixture.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from avset.errors import AvsetError
from avset.features.samples import from_int16, is_silent
from avset.features.spectrograms import Transform
from avset.params import Mixtures as Sizes
from avset.storage.store import Store


@dataclass(frozen=True)
class Mixture:
    """One row: N clips, where each crop starts (in hops from the clip's start), and its gain."""

    mixture_id: str
    split: str
    clips: list[str]
    labels: list[str]
    offsets: list[int]
    gains: list[float]
    seed: int

    def row(self) -> dict[str, Any]:
        """The mixture as a row of mixtures.parquet."""
        return asdict(self)


def centre_offset(frames: int, crop: int) -> int:
    """Start of the crop in the middle of a clip of `frames` STFT frames: around its centre picture."""
    return max(0, (frames - crop) // 2)


def draw(
    clips: dict[str, str],
    offset_of: Callable[[str], int],
    audible: Callable[[str, int], bool],
    split: str,
    count: int,
    n_sources: int,
    different_category: bool,
    seed: int,
    videos: dict[str, str] | None = None,
) -> list[Mixture]:
    """Draw `count` evaluation mixtures of clips of distinct videos, every clip about equally often, gains one.

    `clips` maps the usable clips to a label; with `different_category` the labels of a mixture differ.
    `videos` maps them to their videos (None: each clip is one). Clips whose crop is not `audible` are never
    drawn: a silent reference has no score. AvsetError if there are too few videos, or categories, for a mixture.
    """
    offsets = {clip: offset_of(clip) for clip in clips}
    usable = [clip for clip in sorted(clips) if audible(clip, offsets[clip])]
    group = clips if different_category else videos or {clip: clip for clip in clips}
    groups = {group[clip] for clip in usable}
    if len(groups) < n_sources:
        what, cure = f"{len(usable)} audible clips of {len(groups)} videos", "add videos"
        if different_category:
            what = f"{len(groups)} categories"
            cure = "add clips, label them, or set mixtures.different_category to false"
        raise AvsetError(f"mixtures: split {split!r} has {what} but mixtures.n_sources = {n_sources}; {cure}")
    rng = np.random.default_rng([seed, sum(split.encode())])
    rows: list[Mixture] = []
    order: list[str] = []
    for i in range(count):
        if not order:
            order = [usable[k] for k in rng.permutation(len(usable))]
        chosen = [order.pop()]
        while len(chosen) < n_sources:
            taken = {group[c] for c in chosen}
            partners = [c for c in usable if group[c] not in taken]
            chosen.append(partners[rng.integers(len(partners))])
        labels, starts = [clips[c] for c in chosen], [offsets[c] for c in chosen]
        rows.append(Mixture(f"{split}-{i:04d}", split, chosen, labels, starts, [1.0] * n_sources, seed))
    return rows


def eligible(rows: Sequence[dict[str, Any]], split: str, different_category: bool) -> dict[str, str]:
    """The clips of a split that may be in a mixture, and the label of each: "" without one.

    `rows` are rows of clips/index.parquet. With `different_category` a clip needs one label, no more; without it a clip
    may also have none, or two.
    """
    labels = {row["clip_id"]: row["labels"] for row in rows if row["split"] == split}
    counts = {1} if different_category else {0, 1, 2}
    return {clip: (own or [""])[0] for clip, own in labels.items() if len(own) in counts}


def draw_split(
    rows: Sequence[dict[str, Any]], store: Store, transform: Transform, sizes: Sizes, split: str, count: int,
    silence: float,
) -> list[Mixture]:  # fmt: skip
    """`draw` the mixtures of a split from the clips of `rows` that `store` has; AvsetError if there are too few.

    A clip whose centre crop is below `silence` (dBFS) is never drawn.
    """
    there = set(store.clips)
    rows = [row for row in rows if row["clip_id"] in there]

    def offset_of(clip: str) -> int:
        return centre_offset(store.dataset(clip, "stft").shape[0], transform.crop)

    def audible(clip: str, offset: int) -> bool:
        start = offset * transform.hop_length
        crop = store.read(clip, "waveform", slice(start, start + transform.length))
        return not is_silent(from_int16(crop), silence)

    videos = {row["clip_id"]: row["media_id"] for row in rows}
    clips = eligible(rows, split, sizes.different_category)
    return draw(clips, offset_of, audible, split, count, sizes.n_sources, sizes.different_category, sizes.seed, videos)


def references(mixture: Mixture, store: Store, length: int, hop_length: int) -> Float32[np.ndarray, "N {length}"]:
    """The N sources of a mixture as waveforms of `length` samples; their sum is the mixture."""
    crops = []
    for clip, offset, gain in zip(mixture.clips, mixture.offsets, mixture.gains, strict=True):
        whole = store.dataset(clip, "waveform")
        start = offset * hop_length
        wave = from_int16(whole[start : start + length])
        crops.append(gain / len(mixture.clips) * np.resize(wave, length))
    return np.stack(crops).astype(np.float32)

"""Mixtures: rows of a table (clips, offsets, gains), rendered late from stored spectrograms or waveforms.

A mixture is the mean of its N gained sources. What is called a source or a reference from here on is the
gained clip divided by N, so that the sources add up to the mixture.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import spectrograms as sp
from pipeline.errors import AvsetError
from pipeline.store import Store
from pipeline.waveforms import from_int16

STRIP = 64  # STFT frames whose magnitudes are made at once


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


def references(mixture: Mixture, store: Store, length: int, hop_length: int) -> Float32[np.ndarray, "N {length}"]:
    """The N sources of a mixture as waveforms of `length` samples; their sum is the mixture."""
    crops = []
    for clip, offset, gain in zip(mixture.clips, mixture.offsets, mixture.gains, strict=True):
        whole = store.dataset(clip, "waveform")
        start = offset * hop_length
        wave = from_int16(whole[start : start + length])
        crops.append(gain / len(mixture.clips) * np.resize(wave, length))
    return np.stack(crops).astype(np.float32)


class TrainingMixtures(Dataset):
    """Random mixtures for training, each a function of (seed, index): resumable, whatever the workers.

    An epoch uses every clip once as the first source; each partner is uniform over the clips of the videos that
    are not yet in the mixture, with no labels. `videos` is the video of each clip (None: each is one).
    Item: log-frequency magnitudes `sources` (N, M, T) and `mixture` (M, T), `regions` (N, V, R, D) in the precision
    that they are stored in, `clip` (N,) numbers of clips. With `decoded`, a number of frames V' and of regions R' of
    each (None: all), also `decoded` (N, V', R'), a random choice of so many as places in the flat (V R).
    """

    def __init__(
        self, clips: Sequence[str], spectrograms: Store, regions: Store, crop: int, log_bins: int, n_sources: int,
        gain: tuple[float, float], seed: int, length: int, videos: Sequence[str] | None = None,
        decoded: tuple[int | None, int | None] = (None, None),
    ):  # fmt: skip
        self.clips, self.spectrograms, self.regions = list(clips), spectrograms, regions
        self.crop, self.log_bins, self.n_sources = crop, log_bins, n_sources
        self.gain, self.seed, self.length, self.decoded = gain, seed, length, decoded
        names, self.videos, counts = np.unique(
            self.clips if videos is None else videos, return_inverse=True, return_counts=True
        )
        self.members = np.split(np.argsort(self.videos, kind="stable"), np.cumsum(counts)[:-1])  # of each video
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, int))
        if len(names) < n_sources:
            have = f"{len(self.clips)} training clips of {len(names)} videos"
            raise AvsetError(f"train: {have}, but a mixture is of {n_sources}; add videos")

    def __len__(self) -> int:
        return self.length

    def choose(self, index: int) -> tuple[np.ndarray, np.random.Generator]:
        """The clips of a mixture, and the generator that goes on to draw their crops and gains."""
        epoch, place = divmod(index, len(self.clips))
        rng = np.random.default_rng([self.seed, 1, index])
        chosen = [int(self._order(epoch)[place])]
        while len(chosen) < self.n_sources:
            taken = np.sort(np.concatenate([self.members[self.videos[clip]] for clip in chosen]))
            missing = self.n_sources - len(chosen)
            for place in rng.choice(len(self.clips) - len(taken), missing, replace=False):
                other = int(place) + int(np.searchsorted(taken - np.arange(len(taken)), place, "right"))
                if self.videos[other] not in self.videos[chosen]:
                    chosen.append(other)
        return np.array(chosen), rng

    def _order(self, epoch: int) -> np.ndarray:
        """The clips as they come first in the mixtures of an epoch."""
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.clips)))
        return self._epoch[1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        chosen, rng = self.choose(index)
        crops, gains = zip(*(self.draw_crop(self.clips[i], rng) for i in chosen), strict=True)
        found = magnitudes([torch.from_numpy(crop) for crop in crops], gains, self.log_bins)
        features = np.stack([self.regions.read(self.clips[i], "regions") for i in chosen])
        item = {"sources": found[:-1], "mixture": found[-1], "regions": torch.from_numpy(features)}
        item["clip"] = torch.from_numpy(chosen)
        if any(self.decoded):
            item["decoded"] = torch.from_numpy(self.draw_regions(features.shape[:3], rng))
        return item

    def draw_regions(self, shape: tuple[int, ...], rng: np.random.Generator) -> Int[np.ndarray, "N v r"]:
        """Places in the flat (V R) of some frames, and of some regions of each, without repetition."""
        sources, frames, regions = shape
        v, r = (min(asked or there, there) for asked, there in zip(self.decoded, shape[1:], strict=True))
        chosen = rng.permuted(np.tile(np.arange(frames), (sources, 1)), axis=1)[:, :v, None]
        within = rng.permuted(np.tile(np.arange(regions), (sources, v, 1)), axis=2)[..., :r]
        return np.sort(chosen * regions + within, axis=2)

    def draw_crop(self, clip: str, rng: np.random.Generator) -> tuple[Float[np.ndarray, "T 2 F"], float]:
        """A random crop at a whole hop, tiled if the clip is shorter, and its gain, divided by N."""
        planes = self.spectrograms.dataset(clip, "stft")
        start = int(rng.integers(max(1, len(planes) - self.crop + 1)))
        crop = planes[start : start + self.crop]
        if len(crop) < self.crop:
            crop = crop[np.arange(self.crop) % len(crop)]
        return crop, rng.uniform(*self.gain) / self.n_sources


def magnitudes(
    planes: Sequence[Float[Tensor, "T 2 F"]], gains: Sequence[float], bins: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n {bins} T"]:
    """Log-frequency magnitudes of N gained sources and, as the last of n = N + 1, of the mixture, their complex sum.

    A few frames at a time: what is in between stays in a processor's cache, several times faster than the whole.
    """
    (frames, _, rows), count = planes[0].shape, len(planes) + 1
    room = torch.empty(count, STRIP, 2, rows, dtype=dtype)
    power, turned = room.new_empty(count, STRIP, rows), room.new_empty(rows, count, STRIP)
    found = room.new_empty(count, bins, frames)
    for start in range(0, frames, STRIP):
        size = min(STRIP, frames - start)
        strip, mixture = room[:, :size], room[-1, :size].zero_()
        for source, plane, gain in zip(strip, planes, gains, strict=False):
            mixture += source.copy_(plane[start : start + size]).mul_(gain)
        real, imaginary = strip.square_().unbind(2)
        torch.add(real, imaginary, out=power[:, :size])
        turned.flatten(1).copy_(power.flatten(0, 1).T)  # of matrices torch is quick
        magnitude = turned[..., :size].sqrt()
        found[..., start : start + size] = (
            sp.warp(magnitude.flatten(1), bins).unflatten(1, (count, size)).transpose(0, 1)
        )
    return found

"""Mixtures: rows of a table (clips, offsets, gains), rendered late from stored spectrograms or waveforms.

A mixture is the mean of its N gained sources. What is called a source or a reference from here on is the
gained clip divided by N, so that the sources add up to the mixture.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import spectrograms as sp
from pipeline.errors import AvsetError
from pipeline.store import Store
from pipeline.waveforms import from_int16


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
) -> list[Mixture]:
    """Draw `count` evaluation mixtures of distinct clips, every clip about equally often, gains one.

    `clips` maps the usable clips to a label; with `different_category` the labels of a mixture differ.
    Clips whose crop is not `audible` are never drawn: a silent reference has no score.
    """
    offsets = {clip: offset_of(clip) for clip in clips}
    usable = [clip for clip in sorted(clips) if audible(clip, offsets[clip])]
    kinds = {clips[clip] for clip in usable} if different_category else set(usable)
    if len(kinds) < n_sources:
        what = "categories" if different_category else "audible clips"
        raise AvsetError(
            f"mixtures: split {split!r} has {len(kinds)} {what} but mixtures.n_sources = {n_sources}; add clips"
            + (", label them, or set mixtures.different_category to false" if different_category else "")
        )
    rng = np.random.default_rng([seed, sum(split.encode())])
    rows: list[Mixture] = []
    order: list[str] = []
    for i in range(count):
        if not order:
            order = [usable[k] for k in rng.permutation(len(usable))]
        chosen = [order.pop()]
        while len(chosen) < n_sources:
            taken = {clips[c] for c in chosen} if different_category else set(chosen)
            partners = [c for c in usable if (clips[c] if different_category else c) not in taken]
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

    An epoch uses every clip once as the first source; partners are uniform over the other clips, with no
    labels. Item: `sources` (N, T, 2, F) gained planes, `regions` (N, V, R, D), `clip` (N,) numbers of clips.
    """

    def __init__(
        self, clips: Sequence[str], spectrograms: Store, regions: Store, crop: int, n_sources: int,
        gain: tuple[float, float], seed: int, length: int,
    ):  # fmt: skip
        self.clips, self.spectrograms, self.regions = list(clips), spectrograms, regions
        self.crop, self.n_sources, self.gain, self.seed, self.length = crop, n_sources, gain, seed, length
        if len(self.clips) < n_sources:
            raise AvsetError(f"train: {len(self.clips)} training clips, but a mixture needs {n_sources}; add clips")

    def __len__(self) -> int:
        return self.length

    def choose(self, index: int) -> tuple[np.ndarray, np.random.Generator]:
        """The clips of a mixture, and the generator that goes on to draw their crops and gains."""
        epoch, place = divmod(index, len(self.clips))
        first = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.clips))[place]
        rng = np.random.default_rng([self.seed, 1, index])
        others = rng.choice(len(self.clips) - 1, self.n_sources - 1, replace=False)
        return np.array([first, *(others + (others >= first))]), rng

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        chosen, rng = self.choose(index)
        crops = [self.draw_crop(self.clips[i], rng) for i in chosen]
        features = [self.regions.read(self.clips[i], "regions") for i in chosen]
        return {
            "sources": torch.from_numpy(np.stack(crops)),
            "regions": torch.from_numpy(np.stack(features)).float(),
            "clip": torch.from_numpy(chosen),
        }

    def draw_crop(self, clip: str, rng: np.random.Generator) -> Float32[np.ndarray, "T 2 F"]:
        """A random crop at a whole hop, gained and divided by N; a short clip is tiled."""
        planes = self.spectrograms.dataset(clip, "stft")
        start = int(rng.integers(max(1, len(planes) - self.crop + 1)))
        crop = planes[start : start + self.crop].astype(np.float32)
        if len(crop) < self.crop:
            crop = crop[np.arange(self.crop) % len(crop)]
        return crop * np.float32(rng.uniform(*self.gain) / self.n_sources)


def magnitudes(
    sources: Float[Tensor, "B N T 2 F"], bins: int
) -> tuple[Float[Tensor, "B N {bins} T"], Float[Tensor, "B {bins} T"]]:
    """Log-frequency magnitudes of the sources and of the mixture, which is their complex sum."""
    spectra = sp.unpack(sources)
    return sp.warp(spectra.abs(), bins), sp.warp(spectra.sum(1).abs(), bins)

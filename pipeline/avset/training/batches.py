"""Random mixtures for training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from avset.errors import AvsetError
from avset.features import spectrograms as sp
from avset.storage.store import Store

STRIP = 64  # STFT frames whose magnitudes are made at once


class TrainingMixtures(Dataset[dict[str, Tensor]]):
    """Random mixtures for training, each a function of (seed, index): resumable, whatever the workers.

    An epoch uses every clip once as the first source; each partner is uniform over the clips of the recordings that
    are not yet in the mixture, with no labels. `contents` is the recording of each clip (None: each is one).
    Item: magnitudes `sources` (N, M, T) and `mixture` (M, T) on `bins` log frequencies (None: on all F linear ones),
    `clip` (N,) numbers of clips, and what `features` has, name -> store: `regions` (N, V, R, D), `frames`
    (N, V, H, W, 3), in the precision that they are stored in. With regions and `decoded`, a number of frames V' and of
    regions R' of each (None: all), also `decoded` (N, V', R'), a random choice of so many as places in the flat (V R).
    """

    def __init__(
        self, clips: Sequence[str], spectrograms: Store, features: Mapping[str, Store], crop: int, bins: int | None,
        n_sources: int, gain: tuple[float, float], seed: int, length: int,
        contents: Sequence[str] | Int[np.ndarray, " n"] | None = None,
        decoded: tuple[int | None, int | None] = (None, None),
    ):  # fmt: skip
        self.clips, self.spectrograms, self.features = list(clips), spectrograms, dict(features)
        self.crop, self.bins, self.n_sources = crop, bins, n_sources
        self.gain, self.seed, self.length, self.decoded = gain, seed, length, decoded
        named = np.arange(len(self.clips)) if contents is None else np.asarray(contents)
        recordings, self.contents = np.unique(named, return_inverse=True)
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(self.contents))])
        self.by_recording = np.argsort(self.contents, kind="stable")
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, int))
        if len(recordings) < n_sources:
            have = f"{len(self.clips)} training clips of {len(recordings)} videos"
            raise AvsetError(f"train: {have}, but a mixture is of {n_sources}; add videos")

    def __len__(self) -> int:
        return self.length

    def choose(self, index: int) -> tuple[np.ndarray, np.random.Generator]:
        """The clips of a mixture, and the generator that goes on to draw their crops and gains."""
        epoch, place = divmod(index, len(self.clips))
        rng = np.random.default_rng([self.seed, 1, index])
        chosen = [int(self._order(epoch)[place])]
        while len(chosen) < self.n_sources:
            taken = np.sort(np.concatenate([self.members(int(self.contents[clip])) for clip in chosen]))
            missing = self.n_sources - len(chosen)
            for place in rng.choice(len(self.clips) - len(taken), missing, replace=False):
                other = int(place) + int(np.searchsorted(taken - np.arange(len(taken)), place, "right"))
                if self.contents[other] not in self.contents[chosen]:
                    chosen.append(other)
        return np.array(chosen), rng

    def members(self, recording: int) -> Int[np.ndarray, " n"]:
        """The clips of a recording."""
        return self.by_recording[self.starts[recording] : self.starts[recording + 1]]

    def _order(self, epoch: int) -> np.ndarray:
        """The clips as they come first in the mixtures of an epoch."""
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.clips)))
        return self._epoch[1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        chosen, rng = self.choose(index)
        crops, gains = zip(*(self.draw_crop(self.clips[i], rng) for i in chosen), strict=True)
        found = item(crops, gains, self.bins, chosen, self.clips, self.features)
        if "regions" in found and any(self.decoded):
            found["decoded"] = torch.from_numpy(self.draw_regions(found["regions"].shape[:3], rng))
        return found

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
        return crop_of(planes, start, self.crop), rng.uniform(*self.gain) / self.n_sources


def crop_of(planes: Any, start: int, frames: int) -> Float[np.ndarray, "T 2 F"]:
    """So many STFT frames of the planes (length, 2, F) of a clip, from a hop on; tiled if there are fewer."""
    crop: Float[np.ndarray, "T 2 F"] = planes[start : start + frames]
    return crop if len(crop) == frames else crop[np.arange(frames) % len(crop)]


def item(
    crops: Sequence[Float[np.ndarray, "T 2 F"]], gains: Sequence[float], bins: int | None,
    chosen: Int[np.ndarray, " N"], clips: Sequence[str], features: Mapping[str, Store],
) -> dict[str, Tensor]:  # fmt: skip
    """One mixture as a batch has it: magnitudes of the crops, the numbers of its clips among `clips`, their features.

    A gain is divided by N already.
    """
    heard = magnitudes([torch.from_numpy(crop) for crop in crops], gains, bins)
    found = {"sources": heard[:-1], "mixture": heard[-1], "clip": torch.from_numpy(chosen)}
    for name, store in features.items():
        found[name] = torch.from_numpy(np.stack([store.read(clips[i], name) for i in chosen]))
    return found


def magnitudes(
    planes: Sequence[Float[Tensor, "T 2 F"]], gains: Sequence[float], bins: int | None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n M T"]:  # fmt: skip
    """Magnitudes of N gained sources and, as the last of n = N + 1, of the mixture, their complex sum.

    On `bins` log frequencies; None: on the F linear ones, M is F then.

    A few frames at a time: what is in between stays in a processor's cache, several times faster than the whole.
    """
    (frames, _, rows), count = planes[0].shape, len(planes) + 1
    room = torch.empty(count, STRIP, 2, rows, dtype=dtype)
    power, turned = room.new_empty(count, STRIP, rows), room.new_empty(rows, count, STRIP)
    found = room.new_empty(count, bins or rows, frames)
    for start in range(0, frames, STRIP):
        size = min(STRIP, frames - start)
        strip, mixture = room[:, :size], room[-1, :size].zero_()
        for source, plane, gain in zip(strip, planes, gains, strict=False):
            mixture += source.copy_(plane[start : start + size]).mul_(gain)
        real, imaginary = strip.square_().unbind(2)
        torch.add(real, imaginary, out=power[:, :size])
        turned.flatten(1).copy_(power.flatten(0, 1).T)  # of matrices torch is quick
        magnitude = turned[..., :size].sqrt().flatten(1)
        warped = sp.warp(magnitude, bins) if bins else magnitude
        found[..., start : start + size] = torch.unflatten(warped, 1, (count, size)).transpose(0, 1)
    return found

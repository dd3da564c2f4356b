"""What training and evaluation read of a data set."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avset.errors import AvsetError
from avset.features import tower
from avset.features.boxes import centre_boxes
from avset.models.losses import AT_ONCE
from avset.params import clips_of, digest, folder_of, target
from avset.storage.artifacts import ARTIFACTS, Record, identity_of
from avset.storage.mapped import mapped
from avset.storage.store import Store
from avset.storage.tables import (
    Rows,
    as_dict,
    astray,
    media_digests,
    read_table,
    sorted_index,
    whole_table,
)
from avset.training.mixtures import Mixture


@dataclass(frozen=True)
class Corpus:
    """A data set: stores, the frozen mixtures, boxes, the index of the clips with labels and splits."""

    spectrograms: Store
    regions: Store
    captions: Store
    frames: Store
    mixtures: list[Mixture]
    mixture_sdr: dict[tuple[str, int], float]  # of source n of a mixture
    boxes: dict[str, Float[np.ndarray, "n 4"]]  # by "clip/label", of the centre frame, fractions of its picture
    index: Rows  # of the clips
    needs: frozenset[str] = frozenset()  # of the method that reads it: see avset.models.contract

    @classmethod
    def load(cls, data: Path, further: bool = False, needs: frozenset[str] = frozenset()) -> "Corpus":
        """From the artifacts in `data`, and the clips beside it; AvsetError if they do not belong together.

        The mixtures are those of validation and test; `further`: with the further sets behind them. With `needs` a
        clip is complete if it has what a method of these needs reads, too.
        """
        stores = {name: Store(data / name) for name in ("spectrograms", "regions", "captions", "frames")}
        frozen = ["mixtures", "sets"] if further else ["mixtures"]
        check(data, stores, frozen)
        clips = Rows(sorted_index(clips_of(data) / "index.parquet"))
        drawn = read_table(clips_of(data) / "boxes.parquet")
        boxed = {box["clip_id"] for box in drawn}
        sizes = {clip: [clips.value(clip, side) for side in ("width", "height")] for clip in boxed}
        boxes = centre_boxes(drawn, sizes, stores["frames"])
        scores = [row for name in frozen for row in read_table(data / name / "scores.parquet")]
        own = {(r["mixture_id"], r["source"]): r["sdr"] for r in scores if r["method"] == "mixture"}
        mixtures = [Mixture(**row) for name in frozen for row in read_table(data / name / "mixtures.parquet")]
        return cls(**stores, mixtures=mixtures, mixture_sdr=own, boxes=boxes, index=clips, needs=needs)

    @cached_property
    def labels(self) -> Mapping[str, list[str]]:
        """Of each clip."""
        return self.index.column("labels")

    @cached_property
    def splits(self) -> Mapping[str, str]:
        """Of each clip."""
        return self.index.column("split")

    @cached_property
    def contents(self) -> Mapping[str, str]:
        """Of each clip, equal where the recordings are the same; without fingerprints, where the videos are."""
        return self.index.column(self._recording)

    @property
    def _recording(self) -> str:
        return "content" if self.index.has("content") else "media_id"

    def training_clips(self) -> list[str]:
        """The clips of the training split that have everything, sorted."""
        found = self.complete()
        split = self.index.many("split", found)
        return [clip for clip, own in zip(found, split, strict=True) if own == "train"]

    def recordings(self, clips: Sequence[str]) -> Int[np.ndarray, " n"]:
        """The recordings of some clips, as numbers."""
        return self.index.numbers(self._recording, self.index.positions(clips))

    def complete(self) -> list[str]:
        """The clips that have everything, sorted."""
        stores = [self.regions, self.captions]
        stores += [self.objects] if "objects" in on_demand(self.needs) else []
        found = self.spectrograms.clips
        for store in stores:
            if (others := store.clips) != found:
                there = set(others)
                found = [clip for clip in found if clip in there]
        return found

    def mixtures_of(self, split: str) -> list[Mixture]:
        """The mixtures of a split whose clips have everything; a line says how many others there are."""
        drawn = [m for m in self.mixtures if m.split == split]
        there = set(self.complete()).intersection(clip for m in drawn for clip in m.clips)
        whole = [m for m in drawn if there.issuperset(m.clips)]
        if len(whole) < len(drawn):
            lost = len(drawn) - len(whole)
            lacks = "no regions, no caption or no objects" if on_demand(self.needs) else "no regions or no caption"
            print(f"mixtures: {split}: {lost} of {len(drawn)} are left out: a clip has {lacks}")
        return whole

    def features(self, needs: Collection[str]) -> dict[str, Store]:
        """The stores of what a method needs of each source of a batch, by name; AvsetError if there is no such thing.

        `captions` and `tower` are no part of it: see `constants` and `beginnings`.
        """
        known = {"regions": self.regions, "frames": self.frames}
        if "objects" in on_demand(needs):
            known |= dict.fromkeys(ARTIFACTS["objects"].arrays, self.objects)
        if unknown := set(needs) - {*known, "captions", "tower"}:
            what = "captions, frames, regions, tower, and " + ", ".join(ARTIFACTS["objects"].arrays)
            raise AvsetError(f"a batch cannot carry {min(unknown)!r}; a method may need {what}")
        return {name: store for name, store in known.items() if name in needs}

    def constants(self, needs: Collection[str], clips: Sequence[str]) -> dict[str, Tensor]:
        """What is the same in all batches of the training `clips`, for a method with these needs.

        See avset.models.contract: `captions` (C, D) and `own` (clips,); `mean_region` (D,).
        """
        found: dict[str, Tensor] = {}
        if "captions" in needs:
            found["captions"], found["own"] = self.bank(clips)
        if "regions" in needs:
            found["mean_region"] = self.mean_region(clips)
        return found

    @property
    def data(self) -> Path:
        """The folder of the artifacts."""
        return self.spectrograms.folder.parent

    @cached_property
    def objects(self) -> Store:
        """The objects of the frames, made on demand; AvsetError if they belong to other frames."""
        store = Store(self.data / "objects")
        check(self.data, {"frames": self.frames, "objects": store}, ())
        return store

    def beginnings(self, needs: Collection[str]) -> dict[str, Tensor]:
        """What only the start of a training needs: the weights of the tower, `tower.<name>`."""
        return tower.constants_of(self.data / "tower") if "tower" in needs else {}

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the regions of a frame."""
        rows, columns = self.regions.record.facts["encoder"]["grid"]
        return rows, columns

    def mean_region(self, clips: Sequence[str], at_most: int = 2000) -> Float[Tensor, " D"]:
        """The mean region embedding of evenly chosen clips."""
        chosen = clips[:: max(1, len(clips) // at_most)]
        means = [self.regions.read(clip, "regions").astype(np.float64).mean((0, 1)) for clip in chosen]
        return torch.from_numpy(np.mean(means, 0)).float()

    def bank(self, clips: Sequence[str]) -> tuple[Float[Tensor, "C D"], Int[Tensor, " n"]]:
        """The latent captions of some clips, each once, and for every clip the number of its own.

        More than `AT_ONCE` are float16, and memory-mapped; their order is that of the store's shards.
        """
        rows = self.captions.rows
        own = rows.numbers("of", rows.positions(clips))
        first = [clips[i] for i in np.unique(own, return_index=True)[1]]
        if len(first) <= AT_ONCE:
            return torch.from_numpy(self.captions.stack(first, "caption")).float(), torch.from_numpy(own)
        order = self.captions.by_shard(first)
        return self._many([first[i] for i in order]), torch.from_numpy(np.argsort(order)[own])

    def _many(self, clips: Sequence[str]) -> Float[Tensor, "C D"]:
        """The captions of very many clips, sorted by shard, in half precision; mapped into memory."""
        size = self.captions.read(clips[0], "caption").size

        def write(file: BinaryIO) -> None:
            for caption in self.captions.each(clips, "caption"):
                file.write(caption.astype(np.float16).data)

        named = hashlib.sha256("\n".join(clips).encode()).hexdigest()
        place = mapped(digest(["captions", self.captions.digest, named]), write)
        if place is not None:
            return torch.from_numpy(np.memmap(place, np.float16, "c", shape=(len(clips), size)))
        found = np.empty((len(clips), size), np.float16)
        for i, caption in enumerate(self.captions.each(clips, "caption")):
            found[i] = caption
        return torch.from_numpy(found)

    @property
    def further(self) -> list[str]:
        """The further sets that have mixtures."""
        return list(dict.fromkeys(m.split for m in self.mixtures if m.split not in ("validation", "test")))

    def inputs(self, artifact: str = "models", needs: Collection[str] = ()) -> dict[str, str]:
        """Parent -> identity, of all that a model is trained on; or of what is in `artifact`, but for the model.

        With what is made on demand, for a method with these `needs`. MissingArtifact names the stage that makes it.
        """
        parents = [name for name in ARTIFACTS[artifact].parents if name != "models"] + on_demand(needs)
        return {name: identity_of(folder_of(self.data, name), name) for name in parents}

    def identity(self) -> str:
        """The identity of everything that training reads."""
        stores = (self.spectrograms, self.regions, self.captions, self.frames)
        index = clips_of(self.data) / "index.parquet"
        told = [store.digest for store in stores] + [repr(self.mixtures)]
        told += [as_dict(index, column) for column in ("split", self._recording)]
        return hashlib.sha256(repr(told).encode()).hexdigest()


def on_demand(needs: Collection[str]) -> list[str]:
    """The artifacts that a method with these needs reads, and others do not."""
    objects = ["objects"] if set(needs) & set(ARTIFACTS["objects"].arrays) else []
    return objects + (["tower"] if "tower" in needs else [])


def check(data: Path, stores: dict[str, Store], frozen: Sequence[str] = ("mixtures",)) -> None:
    """AvsetError if some clip of a store was made of something else than what lies in the store before it.

    Also if embeddings were made by another encoder, or `frozen` mixtures drawn from other spectrograms.
    """
    for stage in (*stores, *frozen):
        for name, told in Record.read(data / stage).inputs.items():
            if told != identity_of(data / name, name):
                raise AvsetError(f"{data / stage} was made with another {data / name}; run `dvc repro {target(stage)}`")
    for stage, store in ((name, stores[name]) for name in ARTIFACTS if name in stores):
        source = ARTIFACTS[stage].of
        index = clips_of(data) / "index.parquet" if source == "clips" else data / source / "index.parquet"
        known = media_digests(index) if source == "clips" else whole_table(index, columns=["clip_id", "digest"])
        if strange := astray(data / stage / "index.parquet", known):
            raise AvsetError(
                f"{data / stage} does not belong to {index.parent}: {len(strange)} of {len(store.rows)} clips were "
                f"made of something else ({', '.join(strange[:3])}); "
                f"run `dvc repro {target(stage)}`, or `dvc checkout` both"
            )

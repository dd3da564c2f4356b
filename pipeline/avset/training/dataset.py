"""What training and evaluation read of a data set."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avset.errors import AvsetError
from avset.features import tower
from avset.features.boxes import centre_boxes
from avset.params import clips_of, digest, folder_of, target
from avset.storage.artifacts import ARTIFACTS, Record, identity_of
from avset.storage.store import Store
from avset.storage.tables import has_column, read_columns, read_table
from avset.training.mixtures import Mixture


@dataclass(frozen=True)
class Corpus:
    """A data set: stores, the frozen mixtures, boxes, labels, splits."""

    spectrograms: Store
    regions: Store
    captions: Store
    frames: Store
    mixtures: list[Mixture]
    mixture_sdr: dict[tuple[str, int], float]  # of source n of a mixture
    boxes: dict[str, Float[np.ndarray, "n 4"]]  # by "clip/label", of the centre frame, fractions of its picture
    labels: dict[str, list[str]]
    splits: dict[str, str]
    contents: dict[str, str]  # of each clip: equal where the recordings are the same
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
        labels: dict[str, list[str]] = {}
        splits: dict[str, str] = {}
        contents: dict[str, str] = {}
        sizes: dict[str, list[int]] = {}
        index = clips_of(data) / "index.parquet"
        recording = "content" if has_column(index, "content") else "media_id"
        for columns in read_columns(index, "clip_id", "labels", "split", recording, "width", "height"):
            for clip, label, split, content, *size in zip(*columns, strict=True):
                labels[clip], splits[clip], contents[clip], sizes[clip] = label, split, content, size
        boxes = centre_boxes(read_table(clips_of(data) / "boxes.parquet"), sizes, stores["frames"])
        scores = [row for name in frozen for row in read_table(data / name / "scores.parquet")]
        own = {(r["mixture_id"], r["source"]): r["sdr"] for r in scores if r["method"] == "mixture"}
        mixtures = [Mixture(**row) for name in frozen for row in read_table(data / name / "mixtures.parquet")]
        return cls(
            **stores, mixtures=mixtures, mixture_sdr=own, boxes=boxes, labels=labels, splits=splits, contents=contents,
            needs=needs,
        )  # fmt: skip

    def complete(self) -> list[str]:
        """The clips that have everything, sorted."""
        stores = [self.spectrograms, self.regions, self.captions]
        stores += [self.objects] if "objects" in on_demand(self.needs) else []
        return sorted(set.intersection(*(set(store.clips) for store in stores)))

    def mixtures_of(self, split: str) -> list[Mixture]:
        """The mixtures of a split whose clips have everything; a line says how many others there are."""
        there = set(self.complete())
        drawn = [m for m in self.mixtures if m.split == split]
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
        """The latent captions of some clips, each once, and for every clip the number of its own."""
        maker = dict(self.captions.rows.columns("clip_id", "of"))
        first: dict[str, str] = {}
        for clip in clips:
            first.setdefault(maker[clip], clip)
        numbers = {name: i for i, name in enumerate(first)}
        captions = torch.from_numpy(self.captions.stack(list(first.values()), "caption")).float()
        return captions, torch.tensor([numbers[maker[clip]] for clip in clips])

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
        told = [store.digest for store in stores] + [repr(self.mixtures), repr(self.splits), repr(self.contents)]
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
    index = read_columns(clips_of(data) / "index.parquet", "clip_id", "sha256", "start_s", "duration_s")
    media = {clip: digest(piece) for columns in index for clip, *piece in zip(*columns, strict=True)}
    content = {name: dict(store.rows.columns("clip_id", "digest")) for name, store in stores.items()}
    for stage, store in ((name, stores[name]) for name in ARTIFACTS if name in stores):
        source = ARTIFACTS[stage].of
        known = media if source == "clips" else content[source]
        shared = "of" in store.rows.table.column_names
        rows = list(store.rows.columns("clip_id", "of" if shared else "clip_id", "input", "status"))
        if strange := [clip for clip, of, made_of, status in rows if status == "ok" and known.get(of) != made_of]:
            folder = clips_of(data) if source == "clips" else data / source
            raise AvsetError(
                f"{data / stage} does not belong to {folder}: {len(strange)} of {len(rows)} clips were made of "
                f"something else ({', '.join(strange[:3])}); run `dvc repro {target(stage)}`, or `dvc checkout` both"
            )

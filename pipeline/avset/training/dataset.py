"""What training and evaluation read of a data set, and a model's estimates on its frozen mixtures."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avset.errors import AvsetError
from avset.features.boxes import crop_boxes
from avset.params import clips_of, digest
from avset.storage.files import require
from avset.storage.store import Store
from avset.storage.tables import read_columns, read_table
from avset.training.mixtures import Mixture


@dataclass(frozen=True)
class Material:
    """What training and evaluation read of a data set: stores, the frozen mixtures, boxes, labels, splits."""

    spectrograms: Store
    regions: Store
    captions: Store
    frames: Store
    mixtures: list[Mixture]
    mixture_sdr: dict[tuple[str, int], float]  # of source n of a mixture
    boxes: dict[str, Float[np.ndarray, "n 4"]]  # by "clip/label", of the centre frame, fractions of its picture
    labels: dict[str, list[str]]
    splits: dict[str, str]
    videos: dict[str, str]  # media_id of each clip

    @classmethod
    def load(cls, data: Path) -> "Material":
        """From the artifacts in `data`, and the clips beside it; AvsetError if they do not belong together."""
        stores = {name: Store(data / name) for name in ("spectrograms", "regions", "captions", "frames")}
        check(data, stores)
        labels: dict[str, list[str]] = {}
        splits: dict[str, str] = {}
        videos: dict[str, str] = {}
        sizes: dict[str, list[int]] = {}
        names = ("clip_id", "labels", "split", "media_id", "width", "height")
        for columns in read_columns(clips_of(data) / "index.parquet", *names):
            for clip, label, split, video, *size in zip(*columns, strict=True):
                labels[clip], splits[clip], videos[clip], sizes[clip] = label, split, video, size
        boxes = centre_boxes(read_table(clips_of(data) / "boxes.parquet"), sizes, stores["frames"])
        scores = read_table(data / "mixtures" / "scores.parquet")
        own = {(r["mixture_id"], r["source"]): r["sdr"] for r in scores if r["method"] == "mixture"}
        mixtures = [Mixture(**row) for row in read_table(data / "mixtures" / "mixtures.parquet")]
        return cls(
            **stores, mixtures=mixtures, mixture_sdr=own, boxes=boxes, labels=labels, splits=splits, videos=videos
        )

    def complete(self) -> list[str]:
        """The clips that have everything, sorted."""
        stores = (self.spectrograms, self.regions, self.captions)
        return sorted(set.intersection(*(set(store.clips) for store in stores)))

    def of(self, split: str) -> list[Mixture]:
        """The mixtures of a split whose clips have everything."""
        there = set(self.complete())
        return [m for m in self.mixtures if m.split == split and there.issuperset(m.clips)]

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

    def identity(self) -> str:
        """The identity of everything that training reads."""
        stores = (self.spectrograms, self.regions, self.captions)
        told = [store.digest for store in stores] + [repr(self.mixtures), repr(self.splits), repr(self.videos)]
        return hashlib.sha256(repr(told).encode()).hexdigest()


def check(data: Path, stores: dict[str, Store]) -> None:
    """AvsetError if some clip of a store was made of something else than what lies in the store before it.

    Also if embeddings were made by another encoder, or mixtures drawn from other spectrograms.
    """
    encoder = hashlib.sha256(require(data / "encoder" / "encoder.json").read_bytes()).hexdigest()
    mixed = json.loads(require(data / "mixtures" / "store.json").read_text())["inputs"]["spectrograms"]
    for stage, name, told, there in (
        ("regions", "encoder", stores["regions"].info["inputs"]["encoder"], encoder),
        ("captions", "encoder", stores["captions"].info["inputs"]["encoder"], encoder),
        ("mixtures", "spectrograms", mixed, stores["spectrograms"].digest),
    ):
        if told != there:
            raise AvsetError(f"{data / stage} was made with another {data / name}; run `dvc repro {stage}`")
    index = read_columns(clips_of(data) / "index.parquet", "clip_id", "sha256", "start_s", "duration_s")
    media = {clip: digest(piece) for columns in index for clip, *piece in zip(*columns, strict=True)}
    content = {name: dict(store.rows.columns("clip_id", "digest")) for name, store in stores.items()}
    for stage, source, known in (
        ("frames", "clips", media),
        ("spectrograms", "clips", media),
        ("regions", "frames", content["frames"]),
        ("captions", "regions", content["regions"]),
    ):
        columns = (
            ("clip_id", "of", "input", "status") if stage == "captions" else ("clip_id", "clip_id", "input", "status")
        )
        rows = list(stores[stage].rows.columns(*columns))
        if strange := [clip for clip, of, made_of, status in rows if status == "ok" and known.get(of) != made_of]:
            folder = clips_of(data) if source == "clips" else data / source
            raise AvsetError(
                f"{data / stage} does not belong to {folder}: {len(strange)} of {len(rows)} clips were made of "
                f"something else ({', '.join(strange[:3])}); run `dvc repro {stage}`, or `dvc checkout` both"
            )


def centre_boxes(
    boxes: Sequence[dict[str, Any]], sizes: dict[str, list[int]], frames: Store
) -> dict[str, Float[np.ndarray, "n 4"]]:
    """Boxes of each "clip/label" at the time of the clip's centre frame, in fractions of the stored square.

    `sizes` are width and height of each clip's pictures.
    """
    nearest: dict[str, tuple[float, list[list[float]]]] = {}
    boxed = {box["clip_id"] for box in boxes}.intersection(frames.clips)
    centres = {clip: float(times[len(times) // 2]) for clip in boxed for times in [frames.read(clip, "times")]}
    for box in boxes:
        if box["clip_id"] not in centres:
            continue
        distance = abs(box["time_s"] - centres[box["clip_id"]])
        name, corners = f"{box['clip_id']}/{box['label']}", [box[k] for k in ("x0", "y0", "x1", "y1")]
        if name not in nearest or distance < nearest[name][0]:
            nearest[name] = (distance, [corners])
        elif distance == nearest[name][0]:
            nearest[name][1].append(corners)
    found = {}
    for name, (_, corners) in nearest.items():
        cropped = crop_boxes(np.array(corners), *sizes[name.split("/")[0]])
        seen = cropped[(cropped[:, 0] < cropped[:, 2]) & (cropped[:, 1] < cropped[:, 3])]
        if len(seen):
            found[name] = seen
    return found

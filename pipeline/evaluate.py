"""Scores of a model on the frozen mixtures, of its attention on the boxes, and whole examples to look at."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import metrics
from pipeline.errors import AvsetError
from pipeline.frames import crop_boxes
from pipeline.metrics import bss_eval
from pipeline.mixtures import Mixture, references
from pipeline.separate import Model, Separator
from pipeline.store import Store, read_table

BATCH = 8  # mixtures separated at once


@dataclass(frozen=True)
class Material:
    """What training and evaluation read of a data set: stores, the frozen mixtures, boxes, labels, splits."""

    spectrograms: Store
    regions: Store
    captions: Store
    frames: Store
    mixtures: list[Mixture]
    mixture_sdr: dict[tuple[str, int], float]  # of source n of a mixture
    boxes: dict[
        str, Float[np.ndarray, "n 4"]
    ]  # by "clip/label", of the centre frame, fractions of its picture
    labels: dict[str, list[str]]
    splits: dict[str, str]

    @classmethod
    def load(cls, data: Path) -> "Material":
        """From the artifacts in `data`, the folder of a data set."""
        stores = {name: Store(data / name) for name in ("spectrograms", "regions", "captions", "frames")}
        rows = {row["clip_id"]: row for row in read_table(data / "clips" / "index.parquet")}
        boxes = centre_boxes(read_table(data / "clips" / "boxes.parquet"), rows, stores["frames"])
        scores = read_table(data / "mixtures" / "scores.parquet")
        own = {(r["mixture_id"], r["source"]): r["sdr"] for r in scores if r["method"] == "mixture"}
        mixtures = [Mixture(**row) for row in read_table(data / "mixtures" / "mixtures.parquet")]
        labels = {clip: list(row["labels"]) for clip, row in rows.items()}
        splits = {clip: row["split"] for clip, row in rows.items()}
        return cls(**stores, mixtures=mixtures, mixture_sdr=own, boxes=boxes, labels=labels, splits=splits)

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
        return torch.from_numpy(
            np.mean([self.regions.read(c, "regions").astype(np.float64).mean((0, 1)) for c in chosen], 0)
        ).float()

    def digest(self) -> str:
        """The identity of everything that training reads."""
        stores = (self.spectrograms, self.regions, self.captions)
        told = [store.digest for store in stores] + [repr(self.mixtures), repr(self.splits)]
        return hashlib.sha256(repr(told).encode()).hexdigest()


def centre_boxes(
    boxes: Sequence[dict[str, Any]], clips: dict[str, dict[str, Any]], frames: Store
) -> dict[str, Float[np.ndarray, "n 4"]]:
    """Boxes of each "clip/label" at the time of the clip's centre frame, in fractions of the stored square."""
    nearest: dict[str, tuple[float, list[list[float]]]] = {}
    centres = {
        clip: float(times[len(times) // 2]) for clip in frames.clips for times in [frames.read(clip, "times")]
    }
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
        row = clips[name.split("/")[0]]
        cropped = crop_boxes(np.array(corners), row["width"], row["height"])
        seen = cropped[(cropped[:, 0] < cropped[:, 2]) & (cropped[:, 1] < cropped[:, 3])]
        if len(seen):
            found[name] = seen
    return found


class Validation:
    """NSDR on the frozen mixtures of a split, by kinds of query that need no label; "nsdr" is their mean."""

    def __init__(self, material: Material, split: str, kinds: Sequence[str]):
        self.material, self.kinds, self.mixtures = material, kinds, material.of(split)
        if not self.mixtures:
            raise AvsetError(
                f"no mixture of split {split!r} has all its clips; raise mixtures.{split}, or add clips"
            )

    def __call__(self, model: Model) -> dict[str, float]:
        runs = [list(estimates(model, self.mixtures, kind, self.material, {})) for kind in self.kinds]
        gains = []
        for same in zip(*runs, strict=True):
            mixture, sources, _ = same[0]
            found = bss_eval(sources, np.stack([parts["estimates"] for _, _, parts in same]), "shared")
            own = [self.material.mixture_sdr[mixture.mixture_id, n] for n in range(len(sources))]
            gains.append((found["sdr"] - own).mean(-1))
        means = dict(zip(self.kinds, np.mean(gains, 0).tolist(), strict=True))
        return {**means, "nsdr": float(np.mean(list(means.values())))}


def queries(
    kind: str, mixtures: Sequence[Mixture], material: Material, texts: dict[str, Tensor]
) -> Float[Tensor, "B N V R D"]:
    """The queries of some mixtures: `video` (all regions), `caption` (latent), else the text of each label."""

    def one(clip: str, label: str) -> Tensor:
        if kind == "video":
            return torch.from_numpy(material.regions.read(clip, "regions")).float()
        if kind == "caption":
            return torch.from_numpy(material.captions.read(clip, "caption")).float()[None, None]
        return texts[label]

    return torch.stack(
        [torch.stack([one(c, label) for c, label in zip(m.clips, m.labels, strict=True)]) for m in mixtures]
    )


def estimates(
    model: Model, mixtures: Sequence[Mixture], kind: str, material: Material, texts: dict[str, Tensor]
) -> Iterator[tuple[Mixture, np.ndarray, dict[str, np.ndarray]]]:
    """Per mixture: the references (N, L), and the model's estimates (N, L), masks (N, M, T) and attention
    (N, R) of each separated sound over the centre frame of its own clip."""
    transform = model.settings.transform
    device = next(model.parameters()).device
    for i in range(0, len(mixtures), BATCH):
        batch = mixtures[i : i + BATCH]
        sources = np.stack(
            [references(m, material.spectrograms, transform.length, transform.hop_length) for m in batch]
        )
        mixed = torch.from_numpy(sources).sum(1).to(device)
        with torch.no_grad():
            found, masks = model.separate(mixed, queries(kind, batch, material, texts).to(device))
            sounds = model.net.embed(transform.analyse(mixed)[1], masks)
            regions = queries("video", batch, material, {}).to(device)
            seen = model.scores(regions[:, :, regions.shape[2] // 2], sounds)
        for j, mixture in enumerate(batch):
            parts = {"estimates": found[j], "masks": masks[j], "attention": seen[j]}
            yield mixture, sources[j], {k: v.float().cpu().numpy() for k, v in parts.items()}


def texts_of(separator: Separator, labels: Sequence[str], prompt: str) -> dict[str, Tensor]:
    """Text queries (1, 1, D) by label."""
    names = sorted(set(labels) - {""})
    return (
        dict(zip(names, separator.text_query([prompt.format(label=n) for n in names]), strict=True))
        if names
        else {}
    )


def look(
    model: Model,
    grid: tuple[int, int],
    material: Material,
    clips: Sequence[str],
    texts: dict[str, Tensor],
    sounds: dict[str, list[np.ndarray]],
) -> list[dict[str, Any]]:
    """Pointing game and cIoU of the attention of the text, the caption and the separated sounds of each clip.

    `texts` (1, 1, D) by label, `sounds` scores (R,) by clip. Each label of a clip is asked for by text; a
    caption and a sound belong to no single box of several, so they are scored on clips of one label.
    """
    rows = []
    for clip in clips:
        regions = torch.from_numpy(material.regions.read(clip, "regions")).float()
        centre, labels = regions[len(regions) // 2], material.labels[clip]
        found = [("text", label, model.scores(centre, texts[label][0, 0]).numpy()) for label in labels]
        if len(labels) == 1:
            caption = torch.from_numpy(material.captions.read(clip, "caption")).float()
            found.append(("caption", labels[0], model.scores(centre, caption).numpy()))
            found += [("sound", labels[0], scores) for scores in sounds.get(clip, [])]
        for attention, label, scores in found:
            boxes = material.boxes.get(f"{clip}/{label}")
            if boxes is not None:
                rows.append(
                    {"clip_id": clip, "label": label, "attention": attention,
                     "hit": metrics.pointing(scores, grid, boxes), "iou": metrics.ciou(scores, grid, boxes),
                     "chance": metrics.pointing_chance(grid, boxes)}
                )  # fmt: skip
    return rows


def encoder_facts(
    material: Material, clips: Sequence[str], texts: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """How well the frozen encoder and the captions know the labels: accuracy of the nearest text of the centre
    frame's embedding (zero-shot) and of the latent caption, on the clips of one label; cosine of the captions."""
    single = [clip for clip in clips if len(material.labels[clip]) == 1]
    cosines = [material.captions.rows[clip]["cosine"] for clip in clips]
    facts = {"captions": {"cosine": float(np.mean(cosines)), "n": len(clips)}}
    if single and texts:
        names = list(texts)
        asked = torch.nn.functional.normalize(torch.cat([texts[name][0] for name in names]), dim=-1)
        truth = torch.tensor([names.index(material.labels[clip][0]) for clip in single])

        def accuracy(store: Store, name: str) -> float:
            found = torch.from_numpy(np.stack([store.read(clip, name) for clip in single])).float()
            return float(((found @ asked.T).argmax(1) == truth).double().mean())

        facts["captions"]["accuracy"] = accuracy(material.captions, "caption")
        facts["encoder"] = {"zero_shot": accuracy(material.regions, "embedding"), "n": len(single)}
    return facts


class Examples:
    """examples.h5: some mixtures whole, with every query's estimates, for the page."""

    def __init__(
        self, path: Path, material: Material, separator: Separator, mixtures: Sequence[Mixture],
        texts: dict[str, Tensor],
    ):  # fmt: skip
        self.file, self.material, self.separator = h5py.File(path, "w"), material, separator
        for mixture in mixtures:
            self._add(self.file.create_group(mixture.mixture_id), mixture, texts)

    def __enter__(self) -> "Examples":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _add(self, group: h5py.Group, mixture: Mixture, texts: dict[str, Tensor]) -> None:
        """A mixture, its references, pictures, ideal masks, and where the encoder alone looks."""
        material, transform = self.material, self.separator.model.settings.transform
        pairs = list(zip(mixture.clips, mixture.labels, strict=True))
        boxes = [material.boxes.get(f"{clip}/{label}", np.zeros((0, 4))).tolist() for clip, label in pairs]
        told = {
            "labels": mixture.labels,
            "clip_ids": mixture.clips,
            "grid": self.separator.encoder.grid,
            "boxes": boxes,
        }
        group.attrs.update({k: json.dumps(v) for k, v in told.items()})
        group.attrs["sample_rate"] = transform.sample_rate
        sources = references(mixture, material.spectrograms, transform.length, transform.hop_length)
        waves = torch.from_numpy(sources)
        group["mixture"], group["references"] = sources.sum(0), sources
        group["mixture_magnitude"] = transform.analyse(waves.sum(0))[1].numpy()
        ideal, masks = transform.ideal(waves)
        group["ideal/estimates"], group["ideal/masks"] = ideal.numpy(), masks.numpy()
        pictures = [material.frames.read(clip, "frames") for clip in mixture.clips]
        group["frames"] = np.stack([p[len(p) // 2] for p in pictures])
        regions = queries("video", [mixture], material, {})[0]
        centre, scores = regions[:, regions.shape[1] // 2], self.separator.model.scores
        captions = queries("caption", [mixture], material, {})[0, :, 0, 0]
        group["caption_attention"] = scores(centre, captions).numpy()
        if all(label in texts for label in mixture.labels):
            asked = queries("text", [mixture], material, texts)[0, :, 0, 0]
            group["text_attention"] = scores(centre, asked).numpy()

    def add_query(
        self, mixture: Mixture, kind: str, parts: dict[str, np.ndarray], asked: Sequence[str]
    ) -> None:
        """What one kind of query separated from a mixture, if it is one of the examples."""
        if mixture.mixture_id in self.file:
            group = self.file[mixture.mixture_id].create_group(kind)
            group.attrs["queries"] = json.dumps(list(asked))
            for name, value in parts.items():
                group[name] = value

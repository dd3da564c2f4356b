"""Attention of a model on the boxes, what the encoder knows by itself, and whole examples to look at."""

import json
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from avset.evaluation import metrics
from avset.evaluation.estimates import queries
from avset.features.encoder import Encoder
from avset.models.checkpoint import Model
from avset.storage.store import Store
from avset.training.dataset import Material
from avset.training.mixtures import Mixture, references


def texts_of(encoder: Encoder, labels: Sequence[str], prompt: str) -> dict[str, Tensor]:
    """Text queries (1, 1, D) by label."""
    names = sorted(set(labels) - {""})
    if not names:
        return {}
    with torch.no_grad():
        found = encoder.encode_text([prompt.format(label=name) for name in names])
    return dict(zip(names, found[:, None, None], strict=True))


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


def encoder_facts(material: Material, clips: Sequence[str], texts: dict[str, Tensor]) -> dict[str, dict[str, float]]:
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
        self, file: h5py.File, material: Material, model: Model, grid: tuple[int, int],
        mixtures: Sequence[Mixture], texts: dict[str, Tensor],
    ):  # fmt: skip
        self.file, self.material, self.model, self.grid = file, material, model, grid
        for mixture in mixtures:
            self._add(self.file.create_group(mixture.mixture_id), mixture, texts)

    def _add(self, group: h5py.Group, mixture: Mixture, texts: dict[str, Tensor]) -> None:
        """A mixture, its references, pictures, ideal masks, and where the encoder alone looks."""
        material, transform = self.material, self.model.settings.transform
        pairs = list(zip(mixture.clips, mixture.labels, strict=True))
        boxes = [material.boxes.get(f"{clip}/{label}", np.zeros((0, 4))).tolist() for clip, label in pairs]
        told = {
            "labels": mixture.labels,
            "clip_ids": mixture.clips,
            "grid": self.grid,
            "boxes": boxes,
        }
        group.attrs.update({k: json.dumps(v) for k, v in told.items()})
        group.attrs["sample_rate"] = transform.sample_rate
        sources = references(mixture, material.spectrograms, transform.length, transform.hop_length)
        waves = torch.from_numpy(sources)
        group["mixture"], group["references"] = sources.sum(0), sources
        ideal, masks = transform.ideal(waves)
        group["ideal/estimates"], group["ideal/masks"] = ideal.numpy(), masks.numpy()
        pictures = [material.frames.read(clip, "frames") for clip in mixture.clips]
        group["frames"] = np.stack([p[len(p) // 2] for p in pictures])
        regions = queries("video", [mixture], material, {})[0]
        centre, scores = regions[:, regions.shape[1] // 2], self.model.scores
        captions = queries("caption", [mixture], material, {})[0, :, 0, 0]
        group["caption_attention"] = scores(centre, captions).numpy()
        if all(label in texts for label in mixture.labels):
            asked = queries("text", [mixture], material, texts)[0, :, 0, 0]
            group["text_attention"] = scores(centre, asked).numpy()

    def add_query(self, mixture: Mixture, kind: str, parts: dict[str, np.ndarray], asked: Sequence[str]) -> None:
        """What one kind of query separated from a mixture, if it is one of the examples."""
        if mixture.mixture_id in self.file:
            group = self.file[mixture.mixture_id].create_group(kind)
            group.attrs["queries"] = json.dumps(list(asked))
            for name, value in parts.items():
                group[name] = value

"""A model's estimates on frozen mixtures."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avset.errors import AvsetError
from avset.evaluation.metrics import bss_eval
from avset.models.checkpoint import Model
from avset.training.dataset import Material
from avset.training.mixtures import Mixture, references

BATCH = 8  # mixtures separated at once


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


class Validation:
    """NSDR on the frozen mixtures of a split, by kinds of query that need no label; "nsdr" is their mean."""

    def __init__(self, material: Material, split: str, kinds: Sequence[str]):
        self.material, self.kinds, self.mixtures = material, kinds, material.of(split)
        if not self.mixtures:
            raise AvsetError(f"no mixture of split {split!r} has all its clips; raise mixtures.{split}, or add clips")

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

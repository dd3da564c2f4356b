"""What is measured on the frozen validation mixtures while a model is trained, and what decides its best state."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from avset.errors import AvsetError
from avset.evaluation.estimates import BATCH, estimates
from avset.evaluation.metrics import bss_eval
from avset.models.checkpoint import SeparationModel
from avset.models.contract import ORACLE
from avset.training.batches import crop_of, item
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture


class Validation:
    """NSDR on the frozen mixtures of a split, by kinds of query that need no label; "nsdr" is their mean.

    For settings with `best: loss` also "loss", the weighted sum of the method's losses on the same mixtures.
    """

    def __init__(self, corpus: Corpus, split: str, kinds: Sequence[str]):
        self.corpus, self.kinds, self.mixtures = corpus, kinds or [ORACLE], corpus.mixtures_of(split)
        if not self.mixtures:
            raise AvsetError(f"no mixture of split {split!r} has all its clips; raise mixtures.{split}, or add clips")
        self.clips = sorted({clip for mixture in self.mixtures for clip in mixture.clips})

    def __call__(self, model: SeparationModel) -> dict[str, float]:
        runs = [list(estimates(model, self.mixtures, kind, self.corpus, {})) for kind in self.kinds]
        gains = []
        for same in zip(*runs, strict=True):
            mixture, sources = same[0].mixture, same[0].references
            scored = bss_eval(sources, np.stack([one.estimates for one in same]), "shared")
            own = [self.corpus.mixture_sdr[mixture.mixture_id, n] for n in range(len(sources))]
            gains.append((scored["sdr"] - own).mean(-1))
        means = dict(zip(self.kinds, np.mean(gains, 0).tolist(), strict=True))
        found = {**means, "nsdr": float(np.mean(list(means.values())))}
        return found | ({"loss": self.loss(model)} if model.method.settings.best == "loss" else {})

    def loss(self, model: SeparationModel) -> float:
        """The mean over the mixtures of the method's losses, weighed and summed.

        What is constant in training is that of the clips of these mixtures here: Eq. 2 has their captions as negatives.
        """
        method, device = model.method, model.device
        constants = {k: v.to(device) for k, v in self.corpus.constants(method.needs, self.clips).items()}
        weights, total = method.settings.weights(), 0.0
        with torch.no_grad():
            for start in range(0, len(self.mixtures), BATCH):
                part = self.mixtures[start : start + BATCH]
                batch = default_collate([self._item(model, mixture) for mixture in part])
                terms = method.losses({**{k: v.to(device) for k, v in batch.items()}, **constants})
                total += len(part) * sum(weights[name] * float(value) for name, value in terms.items())
        return total / len(self.mixtures)

    def _item(self, model: SeparationModel, mixture: Mixture) -> dict[str, Tensor]:
        method, transform, store = model.method, model.settings.transform, self.corpus.spectrograms
        crops = [crop_of(store.dataset(clip, "stft"), start, transform.crop)
                 for clip, start in zip(mixture.clips, mixture.offsets, strict=True)]  # fmt: skip
        bins = transform.log_bins if method.grid == "log" else None
        chosen = np.array([self.clips.index(clip) for clip in mixture.clips])
        gains = [gain / len(mixture.clips) for gain in mixture.gains]
        return item(crops, gains, bins, chosen, self.clips, self.corpus.features(method.needs))

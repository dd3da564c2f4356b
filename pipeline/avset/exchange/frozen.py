"""The frozen mixtures of a data set at a scale, without features and models: what any system can be compared on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32

from avset.evaluation.evaluate import phrases_of
from avset.features.spectrograms import Transform
from avset.params import Params
from avset.storage.artifacts import identity_of
from avset.storage.store import Store
from avset.storage.tables import read_table
from avset.training.dataset import check
from avset.training.mixtures import Mixture, references
from avset.values import choose

ARTIFACTS = ("mixtures", "sets")


@dataclass(frozen=True)
class Frozen:
    """The mixtures of all splits, what they and the oracles score, and the identities of both artifacts."""

    p: Params
    store: Store
    transform: Transform
    mixtures: list[Mixture]
    scores: list[dict[str, Any]]
    identities: dict[str, str]

    @classmethod
    def load(cls, p: Params) -> "Frozen":
        """From the artifacts of the parameters; AvsetError if they do not belong together."""
        store, sizes = Store(p.data / "spectrograms"), p.spectrograms
        check(p.data, {"spectrograms": store}, ARTIFACTS)
        transform = Transform(sizes.sample_rate, sizes.window_length, sizes.hop_length, p.model.log_bins, p.model.crop)
        mixtures = [Mixture(**row) for name in ARTIFACTS for row in read_table(p.data / name / "mixtures.parquet")]
        scores = [row for name in ARTIFACTS for row in read_table(p.data / name / "scores.parquet")]
        identities = {name: identity_of(p.data / name, name) for name in ARTIFACTS}
        return cls(p, store, transform, mixtures, scores, identities)

    @cached_property
    def splits(self) -> list[str]:
        """Validation, test, and the further sets that have mixtures."""
        return list(dict.fromkeys(one.split for one in self.mixtures))

    def of(self, splits: Sequence[str]) -> list[Mixture]:
        """The mixtures of some splits; ParamsError names a split that has none."""
        chosen = {choose(split, self.splits, "--split") for split in splits}
        return [one for one in self.mixtures if one.split in chosen]

    def identity(self, splits: Sequence[str]) -> dict[str, str]:
        """The identities of the artifacts that some splits are in."""
        used = {"mixtures" if split in ("validation", "test") else "sets" for split in splits}
        return {name: self.identities[name] for name in ARTIFACTS if name in used}

    def sources(self, mixture: Mixture) -> Float32[np.ndarray, "N L"]:
        """The references of a mixture; their sum is the mixture."""
        return references(mixture, self.store, self.transform.length, self.transform.hop_length)

    @cached_property
    def own_sdr(self) -> dict[tuple[str, int], float]:
        """The SDR of the untouched mixture as each of its sources, in dB."""
        return {(row["mixture_id"], row["source"]): row["sdr"] for row in self.scores if row["method"] == "mixture"}

    @cached_property
    def phrases(self) -> dict[str, dict[str, str]]:
        """By text query what it says for each label."""
        return phrases_of(self.p.evaluate, [label for one in self.mixtures for label in one.labels])


def file_of(mixture_id: str, source: int) -> str:
    """The name of the file of a source, and of its estimate, without suffix."""
    return f"{mixture_id}-{source}"

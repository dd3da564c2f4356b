"""The artifacts of a data set, one row each, and the record of identity that lies beside every one of them.

A new artifact is a row here and a stage. Building, checking that artifacts belong together, coverage, `avset store`
and the tables of docs/artifacts.md read these rows.
"""

import hashlib
import json
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from avset.errors import AvsetError
from avset.params import digest
from avset.storage.checksums import RECORD, as_text, checked, damaged, seal, unsealed
from avset.storage.items import SCHEMA

PRESENCE = "presence.safetensors"  # of a model that can tell what is not there
Dimensions = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Artifact:
    """What one stage makes: `stage` reads `parents`. Letters of dimensions are those of `avset`."""

    name: str
    stage: str
    parents: tuple[str, ...]
    arrays: Dimensions = field(default_factory=dict)  # of a clip, in HDF5 shards
    of: str = ""  # the parent that has, clip by clip, what this one is made of
    files: tuple[str, ...] = ()  # besides record.json, and index.parquet and shards/ where there are arrays
    identity: tuple[str, ...] = (RECORD,)  # the files that name the content, once they are known
    demanded: bool = False  # whether only some methods need it, so that it may be missing
    also: tuple[str, ...] = ()  # files that some only have

    @property
    def per_clip(self) -> bool:
        """Whether there is an index.parquet with a row for every clip."""
        return bool(self.arrays) or self.name == "clips"


def _store(name: str, parents: tuple[str, ...], of: str, demanded: bool = False, **arrays: tuple[str, ...]) -> Artifact:
    return Artifact(name, name, parents, arrays, of, ("index.parquet", "shards"), (RECORD, "index.parquet"), demanded)


ARTIFACTS = {
    artifact.name: artifact
    for artifact in (
        Artifact("clips", "clips", (), files=("index.parquet", "boxes.parquet", "media.parquet", "media"),
                 identity=("index.parquet", "boxes.parquet")),
        _store("frames", ("clips",), "clips", frames=("V", "H", "W", "C"), times=("V",)),
        _store("spectrograms", ("clips",), "clips", stft=("T", "plane", "F"), waveform=("L",)),
        Artifact("encoder", "encoder", (), files=("encoder.json", "weights.safetensors"), identity=("encoder.json",)),
        Artifact("tower", "tower", (), files=("tower.json", "weights.safetensors"), identity=("tower.json",),
                 demanded=True),
        _store("objects", ("clips", "frames", "tower"), "frames", True, boxes=("V", "O", "side"), classes=("V", "O"),
               confidences=("V", "O"), features=("V", "O", "P")),
        _store("regions", ("frames", "encoder"), "frames", regions=("V", "R", "D"), embedding=("D",)),
        _store("captions", ("clips", "regions", "encoder"), "regions", caption=("D",), tokens=("K", "E"), curve=("S",)),
        Artifact("mixtures", "mixtures", ("clips", "spectrograms"), files=("mixtures.parquet", "scores.parquet"),
                 identity=(RECORD, "mixtures.parquet", "scores.parquet")),
        Artifact("sets", "sets", ("clips", "spectrograms"), files=("mixtures.parquet", "scores.parquet"),
                 identity=(RECORD, "mixtures.parquet", "scores.parquet")),
        Artifact("models", "train",
                 ("captions", "clips", "encoder", "frames", "mixtures", "regions", "spectrograms"),
                 files=("model.safetensors",), identity=("model.safetensors",),
                 also=(PRESENCE, "curves")),
        Artifact("scores", "evaluate",
                 ("captions", "clips", "encoder", "frames", "mixtures", "models", "regions", "sets",
                  "spectrograms"),
                 files=("scores.parquet", "localization.parquet", "duets.parquet", "presence.parquet", "examples.h5",
                        "facts.json"),
                 identity=(RECORD, "scores.parquet", "localization.parquet", "presence.parquet")),
    )
}  # fmt: skip

REPORTS = Artifact("reports", "report", (), files=("coverage.json", "metrics.json"), identity=("metrics.json",))
EVERY = ChainMap(ARTIFACTS, {REPORTS.name: REPORTS})  # with those of reports/, which no stage reads


@dataclass(frozen=True)
class Record:
    """What made an artifact: the same form beside every one. No time, no place, no digest of the code.

    version    of the stage's recipe (see `compute.identity`), which decides reuse; empty where nothing is reused
    recipe     the parameters that change the content
    inputs     artifacts that it was made of as a whole -> their identity; what a clip is made of stands in its row
    libraries  name -> the versions that computed it
    facts      what else one may want to know of it
    """

    artifact: str
    version: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, folder: Path, known: Mapping[str, str] | None = None) -> None:
        """Write the record of the artifact in `folder`, the last of its files, with the checksums of the others.

        `known` has the sha256 of files that need not be read for it.
        """
        seal(folder, asdict(self), known)

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """The record in `folder`; MissingArtifact if there is none, AvsetError if it is not as it was written."""
        try:
            return cls(**unsealed(folder))
        except TypeError as e:
            raise damaged(folder / RECORD, e) from e

    @cached_property
    def base(self) -> str:
        """What the keys of all items of the artifact are made of."""
        return digest([self.schema, self.artifact, self.version, self.recipe, self.inputs])

    def key_of(self, clip: str, input: str) -> str:
        """The name of a clip's item in the cache: everything that decides its value."""
        return digest([self.base, clip, input])

    def differs(self, other: "Record") -> list[str]:
        """Which of the entries that decide the content differ between two records."""
        return [
            name for name in ("schema", "version", "recipe", "inputs") if getattr(self, name) != getattr(other, name)
        ]


def identity_of(folder: Path, name: str) -> str:
    """The identity of the artifact `name` in `folder`: sha256 of the files that its row names, without checksums."""
    if name not in EVERY:
        raise AvsetError(f"{folder} is of a kind that this version does not know, {name!r}; is it of a newer one?")
    content = b"".join(
        as_text(unsealed(folder)) if file == RECORD else checked(folder / file).read_bytes()
        for file in EVERY[name].identity
    )
    return hashlib.sha256(content).hexdigest()


def encoder_facts(folder: Path) -> dict[str, Any]:
    """What encoder.json says: architecture, preprocessing, sha256 of the weights."""
    return dict(json.loads(checked(folder / "encoder.json").read_bytes()))

"""The listening examples that evaluation leaves behind: one HDF5 group per mixture, written and read whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from avset.errors import AvsetError
from avset.params import CONTROLS
from avset.storage.checksums import checked
from avset.storage.hdf5 import new_hdf5, open_hdf5
from avset.storage.reading import passing

QUERIES = ("text", "word", "video", "caption")  # the order in which kinds of queries are shown
IDEAL = "ideal"  # the group of the ideal ratio masks
ATTRIBUTES = ("labels", "clip_ids", "grid", "boxes", "scored", "starts")  # of a group, as JSON


@dataclass(frozen=True)
class Separation:
    """What one kind of query made of a mixture; `attention` is the separated sounds' over the regions, from 0 to 1.

    Heat is from 0 to 1, on one scale for all pictures: see `avset.models.presence`. A source that the kind
    cannot ask for (a text, without a label) has NaN as `nsdr`, and zeros elsewhere.
    """

    queries: list[str]
    estimates: Float[ndarray, "N L"]
    masks: Float[ndarray, "N M T"]
    attention: Float[ndarray, "N R"] | None
    nsdr: Float[ndarray, " N"] | None  # dB

    def asked(self, source: int) -> bool:
        """Whether a source was asked for."""
        return self.nsdr is None or not np.isnan(self.nsdr[source])


@dataclass(frozen=True)
class Example:
    """One mixture with its N sources; boxes are x0, y0, x1, y1 as fractions of the frame's picture.

    It may be longer than what was `scored`; frames and boxes are of the middle of each clip.
    """

    mixture_id: str
    labels: list[str]
    clip_ids: list[str]
    grid: tuple[int, int]  # rows, columns of the regions
    boxes: list[list[list[float]]]
    sample_rate: int  # Hz
    mixture: Float[ndarray, " L"]
    references: Float[ndarray, "N L"]
    frames: UInt8[ndarray, "N H W 3"]
    attention: Mapping[str, Float[ndarray, "N R"]]  # heat of text (NaN without a label), caption: of no sound
    separations: dict[str, Separation]  # by kind of query, and `IDEAL`
    scored: tuple[float, float]  # s: the part of the mixture that its scores are of
    starts: list[float]  # s: where in each clip its source begins


def ordered(kinds: Mapping[str, object]) -> list[str]:
    """Kinds of queries in the order of `QUERIES`, others behind them by name, then the controls; without `IDEAL`."""
    places = {kind: n for n, kind in enumerate(QUERIES)} | dict.fromkeys(CONTROLS, len(QUERIES) + 1)
    return sorted(set(kinds) - {IDEAL}, key=lambda kind: (places.get(kind, len(QUERIES)), kind))


def leading(shown: Example) -> str:
    """The first kind of query that asked for every source; the first one if there is none."""
    kinds, sources = ordered(shown.separations), range(len(shown.labels))
    return next((kind for kind in kinds if all(map(shown.separations[kind].asked, sources))), kinds[0])


def write(path: Path, shown: Sequence[Example]) -> None:
    """Write the examples as a new file. The order of the writes decides its bytes: mixtures first, then each query."""
    with new_hdf5(path) as file:
        for example in shown:
            _write_mixture(file.create_group(example.mixture_id), example)
        for kind in dict.fromkeys(kind for example in shown for kind in example.separations):
            for example in shown:
                if kind != IDEAL and kind in example.separations:
                    _write_separation(file[example.mixture_id].create_group(kind), example.separations[kind])


def _write_mixture(group: h5py.Group, example: Example) -> None:
    """A mixture with all that needs no query."""
    for key in ATTRIBUTES:
        group.attrs[key] = json.dumps(getattr(example, key))
    group.attrs["sample_rate"] = example.sample_rate
    group["mixture"], group["references"] = example.mixture, example.references
    if ideal := example.separations.get(IDEAL):
        group[f"{IDEAL}/estimates"], group[f"{IDEAL}/masks"] = ideal.estimates, ideal.masks
    group["frames"] = example.frames
    for kind in ("caption", "text"):
        if kind in example.attention:
            group[f"{kind}_attention"] = example.attention[kind]


def _write_separation(group: h5py.Group, separation: Separation) -> None:
    group.attrs["queries"] = json.dumps(separation.queries)
    for name in ("estimates", "masks", "attention", "nsdr"):
        if (value := getattr(separation, name)) is not None:
            group[name] = value


def read(path: Path) -> list[Example]:
    """All examples of the file, sorted by mixture id.

    Raises:
        MissingArtifact: there is no such file.
        AvsetError: the file is damaged; a group lacks something or cannot be read; the text names it.
    """
    try:
        with open_hdf5(checked(path)) as file:
            return [_example(name, file[name]) for name in sorted(file)]
    except (KeyError, OSError, ValueError) as error:
        if passing(error):
            raise
        raise AvsetError(f"{path} is not a file of examples ({error}): run `dvc repro evaluate -f`") from error


def _example(name: str, group: h5py.Group) -> Example:
    attributes = {key: json.loads(group.attrs[key]) for key in ATTRIBUTES}
    rows, columns = attributes.pop("grid")
    begin, end = attributes.pop("scored")
    attention = {k: group[f"{k}_attention"][()] for k in ("text", "caption") if f"{k}_attention" in group}
    return Example(
        mixture_id=name,
        grid=(rows, columns),
        scored=(begin, end),
        sample_rate=int(group.attrs["sample_rate"]),
        mixture=group["mixture"][()],
        references=group["references"][()],
        frames=group["frames"][()],
        attention=attention,
        separations={k: _separation(k, v) for k, v in group.items() if isinstance(v, h5py.Group)},
        **attributes,
    )


def _separation(kind: str, group: h5py.Group) -> Separation:
    estimates = group["estimates"][()]
    queries = json.loads(group.attrs["queries"]) if "queries" in group.attrs else [""] * len(estimates)
    attention, nsdr = (group[k][()] if k in group else None for k in ("attention", "nsdr"))
    return Separation(queries, estimates, group["masks"][()], attention, nsdr)

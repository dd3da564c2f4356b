"""Videos to begin with: of the test clips of a model's own data if they are there, else drawn by the demo source."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from avset.sources import Entry, demo
from avset.storage.tables import read_columns

COUNT = 4
DRAWN = {"duration": 4.0, "train_per_label": 1, "validation_per_label": 0, "test_per_label": 0, "duets": 0,
         "test_duets": COUNT}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A video, and what is to be heard in it. `path` gives its file; one that is drawn is drawn into a folder."""

    labels: tuple[str, ...]
    path: Callable[[Path], Path]


def examples(clips: Path) -> list[Example]:
    """Clips with several sounds first, each of other sounds."""
    index, found = clips / "index.parquet", dict[tuple[str, ...], Path]()
    pieces = read_columns(index, "labels", "media", "status", "split") if index.is_file() else ()
    rows = [(tuple(labels or ()), media) for piece in pieces for labels, media, *usable in zip(*piece, strict=True)
            if usable == ["ok", "test"]]  # fmt: skip
    for labels, media in sorted(rows, key=lambda row: -len(row[0])):
        if labels and (clips / media).is_file():
            found.setdefault(labels, clips / media)
    return [Example(labels, partial(_there, file)) for labels, file in found.items()][:COUNT] or _drawn()


def _there(file: Path, _: Path) -> Path:
    return file


def _drawn() -> list[Example]:
    options = demo.Options.model_validate(DRAWN)
    duets = [entry for entry in demo.listing(options).entries if len(entry.labels) > 1]
    return [Example(entry.labels, partial(_draw, entry, options)) for entry in duets]


def _draw(entry: Entry, options: demo.Options, folder: Path) -> Path:
    demo.fetch(entry, options, file := folder / f"example{demo.SUFFIX}")
    return file

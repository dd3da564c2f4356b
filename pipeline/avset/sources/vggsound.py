"""VGGSound: 10 s of videos with one of 309 labels, narrowed down to 15 musical instruments."""

import json
from typing import Any

from pydantic import Field

from avset.errors import AvsetError
from avset.sources import Box, Entry, Listing
from avset.sources.download import SUFFIX, fetch
from avset.sources.lists import open_list
from avset.sources.lists.funnel import Caps, Names, at_most, known_name, listing_of, narrowed, split_of, unite
from avset.sources.lists.rows import Online, Reading, is_label

__all__ = ["SUFFIX", "Options", "fetch", "listing", "truth"]

SECONDS = 10.0  # of every clip
COLUMNS = ("id", "start", "label", "split")
INSTRUMENTS: dict[str, Any] = {
    "accordion": "playing accordion",
    "banjo": "playing banjo",
    "cello": "playing cello",
    "drum": ["playing drum kit", "playing snare drum", "playing bass drum"],
    "flute": "playing flute",
    "guitar": [
        "playing acoustic guitar",
        "playing electric guitar",
        "playing bass guitar",
        "playing steel guitar, slide guitar",
    ],
    "harmonica": "playing harmonica",
    "harp": "playing harp",
    "horn": "playing french horn",
    "oboe": "playing oboe",
    "piano": "playing piano",
    "saxophone": "playing saxophone",
    "trombone": "playing trombone",
    "trumpet": "playing trumpet",
    "violin": "playing violin, fiddle",
}


class Options(Online):
    """Which list, and what is taken of it. A list is an address, or a file."""

    table: str = Field(
        default="https://www.robots.ox.ac.uk/~vgg/data/vggsound/vggsound.csv",
        description="CSV of id, start in s, label, train or test",
    )
    classes: dict[str, Names] | None = Field(
        default=INSTRUMENTS,
        validate_default=True,
        min_length=1,
        description="our label -> labels in VGGSound; null: all, as they are",
    )
    validation: float = Field(default=0.1, ge=0, lt=1, description="fraction of train, by a hash of the ids")
    max_per_class: Caps = Caps()
    boxes: str | None = Field(
        default=None, description="JSON of VGG-SS: where the things are that sound, in the middle of 5158 test clips"
    )


def listing(options: Options) -> Listing:
    """One entry per video that has a label of a class, sorted by media_id.

    AvsetError names a list that is not the right one, or a label of your own `classes` that no row has.
    """
    wanted = _wanted(options)
    reading = Reading(options.table, "table", "row of " + ", ".join(COLUMNS))
    entries, seen = _read(reading, options, wanted)
    if options.classes and "classes" in options.model_fields_set:
        for name in wanted:
            known_name(name, seen, f"classes.{wanted[name][0]}")
    funnel = {"table": {"rows": reading.rows, **reading.passed_over}}
    lists = {"table": entries}
    lists = narrowed(funnel, "repeated", lists, unite(lists))
    if options.max_per_class != Caps():
        lists = narrowed(funnel, "over max_per_class", lists, at_most(lists, options.max_per_class))
    return listing_of(funnel, lists)


def _wanted(options: Options) -> dict[str, list[str]]:
    """The labels of a class, each with our names of it."""
    wanted: dict[str, list[str]] = {}
    for label, names in (options.classes or {}).items():
        for name in names:
            wanted.setdefault(name, []).append(label)
    return wanted


def truth(options: Options) -> dict[str, list[Box]]:
    """The boxes of VGG-SS by media_id, on the timeline of the origin; of labels of a class alone.

    AvsetError if the list is not that of VGG-SS.
    """
    if not options.boxes:
        return {}
    wanted = _wanted(options)
    found: dict[str, list[Box]] = {}
    try:
        with open_list(options.boxes, "boxes") as file:
            rows = json.load(file)
        for row in rows:
            video, _, start = row["file"].rpartition("_")
            boxes = [[min(max(float(side), 0.0), 1.0) for side in corners] for corners in row["bbox"]]
            for label in wanted.get(row["class"], []) if options.classes else [row["class"]]:
                own = [Box(int(start) + SECONDS / 2, label, *sides) for sides in boxes]
                found.setdefault(video, []).extend(box for box in own if box.x0 < box.x1 and box.y0 < box.y1)
    except (KeyError, TypeError, ValueError) as e:
        raise AvsetError(
            f"clips.options.boxes: {options.boxes} is not the list of VGG-SS ({e}); take vggss.json"
        ) from e
    return found


def _read(reading: Reading, options: Options, wanted: dict[str, list[str]]) -> tuple[list[Entry], set[str]]:
    """The rows that have a label of a class, those that cannot be read, and all labels of the list."""
    entries = []
    seen: set[str] = set()
    weights = {"validation": options.validation, "train": 1 - options.validation}
    for where, row, fields in reading.table(COLUMNS):
        try:
            video, start, name, split = fields
            first = float(start)
            if split not in ("train", "test") or not is_label(name):
                raise ValueError
        except ValueError:
            entries.append(reading.fault(where, row, "train"))
            continue
        seen.add(name)
        labels = tuple(wanted.get(name, ())) if options.classes else (name,)
        if not labels:
            reading.passed_over["without a class"] += 1
            continue
        split = split if split == "test" else split_of(video, weights)
        entries.append(reading.entry(options, where, row, video, split, labels, [(first, first + SECONDS)]))
    return entries, seen

"""AudioSet: 10 s of videos with labels of an ontology, narrowed down to 15 musical instruments (Sec. 4, App. A.5)."""

from typing import Any

from pydantic import Field

from avset.errors import AvsetError
from avset.sources import Entry, Listing
from avset.sources.download import SUFFIX, fetch
from avset.sources.lists import read_tree, refused, shown
from avset.sources.lists.funnel import Caps, Funnel, Names, at_most, known_name, listing_of, narrowed, split_of, unite
from avset.sources.lists.rows import Online, Reading

__all__ = ["SUFFIX", "Options", "fetch", "listing"]

HOME = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
INSTRUMENTS: dict[str, Any] = {
    "accordion": "Accordion",
    "banjo": "Banjo",
    "cello": "Cello",
    "drum": "Drum",
    "flute": "Flute",
    "guitar": "Guitar",
    "harmonica": "Harmonica",
    "harp": "Harp",
    "horn": "French horn",
    "oboe": "Oboe",
    "piano": "Piano",
    "saxophone": "Saxophone",
    "trombone": "Trombone",
    "trumpet": "Trumpet",
    "violin": "Violin, fiddle",
}


class Options(Online):
    """Which lists, and what is taken of them. A list is an address, or a file."""

    train: str | None = Field(
        default=f"{HOME}/unbalanced_train_segments.csv",
        description="list to train on; null for a first try: then 8 of 10 videos of the balanced list",
    )
    balanced: str = Field(
        default=f"{HOME}/balanced_train_segments.csv",
        description="list of the validation and test videos, half each by a hash of their ids",
    )
    evaluation: str | None = Field(
        default=None,
        description="list to test on (eval_segments.csv of the same address); then balanced is for validation",
    )
    labels: str = Field(default=f"{HOME}/class_labels_indices.csv", description="names of the labels in the lists")
    ontology: str | None = Field(
        default="https://raw.githubusercontent.com/audioset/ontology/master/ontology.json",
        description="their descendants, and more names; null: neither",
    )
    classes: dict[str, Names] = Field(
        default=INSTRUMENTS, validate_default=True, min_length=1, description="our label -> display names in AudioSet"
    )
    descendants: bool = Field(default=True, description="a class includes what the ontology has below its names")
    single: bool = Field(default=True, description="only videos of exactly one of the classes")
    max_per_class: Caps = Caps()


def listing(options: Options) -> Listing:
    """One entry per video of the lists that has a label of a class, sorted by media_id.

    A hash of the id shares out the balanced list: 8 : 1 : 1 parts for train, validation and test, without the splits
    that have a list of their own. AvsetError names an unknown class, or a list that is not the right one.
    """
    wanted = wanted_labels(options)
    shares = {"test": 1.0, "validation": 1.0, "train": 8.0}
    lists = {}
    for name, split, place in (("evaluation", "test", options.evaluation), ("train", "train", options.train)):
        if place is not None:
            lists[name] = place, {split: shares.pop(split)}
    lists["balanced"] = options.balanced, shares
    funnel: Funnel = {}
    entries = {}
    for name, (place, weights) in lists.items():
        reading = Reading(place, name, "row of " + ", ".join(COLUMNS))
        entries[name] = _read(reading, options, wanted, weights)
        funnel[name] = {"rows": reading.rows, **reading.passed_over}
    left = narrowed(funnel, "repeated", entries, unite(entries))
    if options.single:
        one = {k: [e for e in several if e.fault or len(e.labels) == 1] for k, several in left.items()}
        left = narrowed(funnel, "of several classes", left, one)
    if options.max_per_class != Caps():
        left = narrowed(funnel, "over max_per_class", left, at_most(left, options.max_per_class))
    return listing_of(funnel, left)


def wanted_labels(options: Options) -> dict[str, list[str]]:
    """Label of the lists (/m/...) -> our classes that include it."""
    mids, children = {}, {}
    reading = Reading(options.labels, "labels", "row of index, mid, display_name")
    for where, row, fields in reading.table(("index", "mid", "display_name")):
        if not fields:
            raise reading.refused(f"{where}, {shown(row)}, is no {reading.form}")
        mids[fields[2]] = fields[1]
    for node in _ontology(options):
        mids.setdefault(node["name"], node["id"])
        children[node["id"]] = node["child_ids"]
    wanted: dict[str, list[str]] = {}
    for label, names in options.classes.items():
        todo = [mids[known_name(name, mids, f"classes.{label}")] for name in names]
        seen: set[str] = set()
        while todo:
            mid = todo.pop()
            if mid not in seen:
                seen.add(mid)
                todo += children.get(mid, []) if options.descendants else []
        for mid in seen:
            wanted.setdefault(mid, []).append(label)
    return wanted


def _ontology(options: Options) -> list[dict[str, Any]]:
    if options.ontology is None:
        if options.descendants:
            raise AvsetError("clips.options.ontology is null; name it, or set clips.options.descendants to false")
        return []
    tree = read_tree(options.ontology, "ontology")
    if not isinstance(tree, list) or not all(isinstance(node, dict) for node in tree):
        raise refused(options.ontology, "ontology", "it is no list of nodes")
    for node in tree:
        children = node.get("child_ids")
        names = [node.get("id"), node.get("name"), *(children if isinstance(children, list) else [None])]
        if not all(isinstance(name, str) for name in names):
            raise refused(options.ontology, "ontology", "not every node has an id, a name and child_ids")
    return tree


def _read(reading: Reading, options: Options, wanted: dict[str, list[str]], weights: dict[str, float]) -> list[Entry]:
    """The rows of a list that have a label of a class, and those that cannot be read."""
    entries = []
    order = list(options.classes)
    for where, row, fields in reading.table(COLUMNS):
        if not fields or fields[3][:1] != "/":
            entries.append(reading.fault(where, row, split_of(row, weights)))
            continue
        mids = [mid.strip() for mid in fields[3].split(",")]
        if wanted.keys().isdisjoint(mids):
            reading.passed_over["without a class"] += 1
            continue
        classes = {label for mid in mids for label in wanted.get(mid, ())}
        labels = tuple(label for label in order if label in classes)
        try:
            part = float(fields[1]), float(fields[2])
        except ValueError:
            entries.append(reading.fault(where, row, split_of(fields[0], weights), labels))
            continue
        entries.append(reading.entry(options, where, row, fields[0], split_of(fields[0], weights), labels, [part]))
    return entries

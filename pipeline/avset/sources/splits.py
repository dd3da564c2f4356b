"""The split of every medium once its content is known: a content is in one split, and no split is too small."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from avset.errors import AvsetError
from avset.sources import SPLITS, Entry
from avset.sources.lists.funnel import position
from avset.sources.lists.rows import PRECEDENCE

SHOWN = 10  # names in a message
LEAST_SOURCES = 2  # of a mixture


@dataclass(frozen=True)
class Need:
    """What a mixture needs of every split: so many recordings; with `labelled`, of so many labels."""

    count: int
    labelled: bool


@dataclass
class Recording:
    """What the media of one content have in common. `split` is the first of PRECEDENCE that a list gives to one."""

    content: str
    members: list[Entry]
    split: str = ""

    def __post_init__(self) -> None:
        given = [entry.split for entry in self.members if not entry.free]
        self.split = min(given or [entry.split for entry in self.members], key=PRECEDENCE.index)

    @property
    def free(self) -> bool:
        """Whether no list says its split."""
        return all(entry.free for entry in self.members)

    @property
    def label(self) -> str:
        """Its label; "" if no medium of it has exactly one."""
        return next((entry.labels[0] for entry in self.members if len(entry.labels) == 1), "")


def recordings(entries: Iterable[Entry], contents: Mapping[str, str]) -> list[Recording]:
    """The recordings of the media that have a content, each in one split; in the order of their positions."""
    members: dict[str, list[Entry]] = {}
    for entry in entries:
        if content := contents.get(entry.media_id):
            members.setdefault(content, []).append(entry)
    ordered = sorted(members, key=lambda content: (position(content), content))
    return [Recording(content, members[content]) for content in ordered]


def fill(found: list[Recording], need: Need) -> None:
    """Move free recordings into splits that have less than they need; those nearest in position first."""
    filling = _Filling(found, need)
    for split in PRECEDENCE:
        while filling.size(split) < need.count and any(filling.give(split, deep) for deep in (False, True)):
            pass


def check(found: list[Recording], need: Need) -> None:
    """AvsetError if a split has less than it needs: it says what is missing, and cures."""
    sizes = {split: _Filling(found, need).size(split) for split in SPLITS}
    if short := [split for split in SPLITS if sizes[split] < need.count]:
        what = "recordings of different labels" if need.labelled else "distinct recordings"
        have = ", ".join(f"{split} {size}" for split, size in sizes.items())
        raise AvsetError(
            f"clips: {' and '.join(short)} would have less than the {need.count} {what} that a mixture needs in every "
            f"split ({have}; in all {len(found)}); {', or '.join(_cures(found, need))}"
        )


def settle(rows: Iterable[dict[str, Any]], found: Iterable[Recording]) -> None:
    """Write split and content into rows of the index; what failed has no content."""
    of = {entry.media_id: one for one in found for entry in one.members}
    for row in rows:
        if one := of.get(row["media_id"]):
            row["split"] = one.split
            row["content"] = one.content if row["status"] == "ok" else None


def funnel(found: list[Recording]) -> dict[str, dict[str, int]]:
    """How many media there are, and how many of them repeat the recording of another; {} if none does."""
    media = sum(len(one.members) for one in found)
    repeated = media - len(found)
    return {"recordings": {"rows": media, "repeated": repeated, "distinct": len(found)}} if repeated else {}


def moved(found: Iterable[Recording]) -> dict[str, list[str]]:
    """Medium -> the split that a list gives it, and that of its recording, where these differ."""
    return {
        entry.media_id: [entry.split, one.split]
        for one in found
        for entry in one.members
        if not entry.free and entry.split != one.split
    }


def as_text(found: list[Recording]) -> list[str]:
    """Lines on the recordings that several media hold, and on the media that leave the split of their list for it."""
    same, left = [one.members for one in found if len(one.members) > 1], moved(found)
    holders = [" = ".join(repr(entry.media_id) for entry in members) for members in same]
    movers = [f"{name!r} from {before} to {after}" for name, (before, after) in left.items()]
    return [
        f"{what} ({len(texts)}): {', '.join(texts[:SHOWN])}" + ", ..." * (len(texts) > SHOWN)
        for what, texts in (
            ("recordings under several names, which are not mixed with each other", holders),
            ("videos that change their split, since a recording is in one split", movers),
        )
        if texts
    ]


class _Filling:
    """Recordings on their way to splits that need them. What counts is a kind: a label, or each recording itself."""

    def __init__(self, found: list[Recording], need: Need):
        self.need = need
        kinds = [(one, one.label if need.labelled else str(number)) for number, one in enumerate(found)]
        self.kinds = [(one, kind) for one, kind in kinds if kind]
        self.counts = {split: Counter(kind for one, kind in self.kinds if one.split == split) for split in SPLITS}

    def size(self, split: str) -> int:
        """How many kinds a split has."""
        return len(+self.counts[split])

    def give(self, split: str, deep: bool, asked: Collection[str] = ()) -> bool:
        """Move one recording of a kind that a split lacks into it; `deep`: the giver may ask another split for one."""
        tried = set()
        for one, kind in self.kinds[:: -1 if split == "train" else 1]:
            giver = one.split
            spare = self.counts[giver][kind] > 1
            if not one.free or (giver, kind) in tried or self.counts[split][kind] or (giver in asked and not spare):
                continue
            tried.add((giver, kind))
            enough = min(self.need.count, self.size(giver))
            self._move(one, kind, split)
            if self.size(giver) >= enough or (deep and self.give(giver, True, (split, *asked))):
                return True
            self._move(one, kind, giver)
        return False

    def _move(self, one: Recording, kind: str, split: str) -> None:
        self.counts[one.split][kind] -= 1
        one.split = split
        self.counts[split][kind] += 1


def _cures(found: list[Recording], need: Need) -> list[str]:
    """The first three that apply."""
    cures = ["add videos" + (" of other labels" if need.labelled else "")]
    if need.labelled:
        without = sum(not one.label for one in found)
        cures += [f"give one label to each of the {without} recordings that have none or several"] * bool(without)
        cures.append("set mixtures.different_category of the data set to false")
    if not all(one.free for one in found):
        cures.append("leave splits of the table empty, so that videos may be moved")
    if need.count > LEAST_SOURCES:
        cures.append("lower mixtures.n_sources")
    return [*cures, "set clips.options.path to a larger directory", "name more suffixes in clips.options.extensions"][
        :3
    ]

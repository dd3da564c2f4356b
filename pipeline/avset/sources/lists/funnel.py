"""From the rows of several lists to one entry per video: classes, splits, repetitions.

The funnel tells what became of every row: list -> "rows" that were read, then how many of them are "used", "invalid",
or were passed over for each reason. So the rows are the sum of all others.
"""

import difflib
import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field

from avset.errors import AvsetError
from avset.sources import Entry, Listing
from avset.sources.lists.rows import PRECEDENCE, spans

Lists = dict[str, list[Entry]]
Funnel = dict[str, dict[str, int]]
Names = Annotated[
    list[str], Field(min_length=1), BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]  # one or several


class Caps(BaseModel, extra="forbid"):
    """At most so many videos of every class, by split; null: all."""

    train: int | None = Field(default=None, ge=1)
    validation: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)


def known_name(name: str, known: Collection[str], option: str) -> str:
    """`name` if it is known; else an AvsetError that lists the nearest known names."""
    if name not in known:
        near = ", ".join(repr(other) for other in difflib.get_close_matches(name, known, cutoff=0.4)) or "none"
        raise AvsetError(f"clips.options.{option}: {name!r} is not in the list; near are {near}")
    return name


def position(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:6], "big") / 2**48


def split_of(name: str, weights: dict[str, float]) -> str:
    """The split of a video, by a hash of its id: other videos do not change it. The weights need not sum to 1."""
    at = position(name) * sum(weights.values())
    border = 0.0
    for split, weight in weights.items():
        border += weight
        if at < border:
            return split
    return split


def unite(lists: Lists) -> Lists:
    """The lists, in which every video now stands once: in the list that gives it the first split of PRECEDENCE.

    So no video is in two splits. The labels of a video are united, and so are its parts.
    """
    together: dict[str, list[tuple[str, Entry]]] = {}
    for name, entries in lists.items():
        for entry in entries:
            together.setdefault(entry.media_id, []).append((name, entry))
    united: Lists = {name: [] for name in lists}
    for same in together.values():
        name, entry = min(same, key=lambda pair: PRECEDENCE.index(pair[1].split))
        if len(same) > 1:
            labels = tuple(dict.fromkeys(label for _, other in same for label in other.labels))
            whole = any(not other.parts for _, other in same)
            parts = () if whole else spans(part for _, other in same for part in other.parts)
            entry = replace(entry, labels=labels, parts=parts)
        united[name].append(entry)
    return united


def at_most(lists: Lists, caps: Caps) -> Lists:
    """At most `caps` videos of every class in a split: those first in the order of a hash of their ids.

    So a larger cap only adds videos, and the order of the lists does not matter. A video of several classes must be
    among the first of each class. Rows with a fault do not count.
    """
    ranks: Counter[tuple[str, str]] = Counter()
    over = set()
    usable = [entry for entries in lists.values() for entry in entries if not entry.fault]
    for entry in sorted(usable, key=lambda entry: (position(entry.media_id), entry.media_id)):
        cap = getattr(caps, entry.split)
        ranks.update((entry.split, label) for label in entry.labels)
        if cap is not None and any(ranks[entry.split, label] > cap for label in entry.labels):
            over.add(entry.media_id)
    return {name: [entry for entry in entries if entry.media_id not in over] for name, entries in lists.items()}


def narrowed(funnel: Funnel, reason: str, before: Lists, after: Lists) -> Lists:
    """Note in the funnel why entries of the lists are left out; returns the lists without them."""
    for name, entries in before.items():
        funnel[name][reason] = len(entries) - len(after[name])
    return after


def listing_of(funnel: Funnel, lists: Lists, splits: dict[str, str] | None = None) -> Listing:
    """The listing of some lists, and of `splits` the number of videos that are used.

    AvsetError if nothing usable is left.
    """
    for name, left in lists.items():
        invalid = sum(bool(entry.fault) for entry in left)
        funnel[name] |= {"invalid": invalid, "used": len(left) - invalid}
    entries = sorted((entry for entries in lists.values() for entry in entries), key=lambda entry: entry.media_id)
    if splits is not None:
        used = sum(entry.media_id in splits for entry in entries)
        funnel["splits"] |= {"without a usable row": len(splits) - used, "used": used}
    if all(entry.fault for entry in entries):
        steps = (f"{name}: {', '.join(f'{n} {step}' for step, n in left.items())}" for name, left in funnel.items())
        raise AvsetError(f"no video is left of the lists ({'; '.join(steps)}); change clips.options")
    return Listing(entries, funnel)

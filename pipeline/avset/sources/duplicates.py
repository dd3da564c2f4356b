"""Which media hold the same recording: the same bytes, or the same sound and the same pictures.

Not all pairs are compared. Two media are if they share a key: a word of their sounds, or a part of a picture where the
sounds are steady. Of the words of a medium those with the lowest hashes are its keys, so that two versions of one sound
choose alike. A key that many media share links each of them to the next few of them. So the work grows with the number
of media, not with its square.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from avset.media.fingerprint import PICTURES, Fingerprint, same_pictures, same_sound

KEYS = 32  # of a medium, at most
TELLING = 3  # bits that a word must have set
MANY = 16  # media with the same key; if there are more, a medium is compared with the NEXT ones of them alone
NEXT = 2
PARTS = 64  # in which the keys are sorted, one after the other: memory
AT_ONCE = 1 << 16  # pairs
SCATTER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 by the golden ratio: Fibonacci hashing


class Groups:
    """Numbers in groups that are joined pair by pair. A group is known by its smallest number."""

    def __init__(self, count: int):
        self._above = list(range(count))

    def first(self, number: int) -> int:
        """The smallest number of the group."""
        while self._above[number] != number:
            self._above[number] = number = self._above[self._above[number]]
        return number

    def join(self, a: int, b: int) -> None:
        """Make the groups of two numbers one."""
        a, b = self.first(a), self.first(b)
        self._above[max(a, b)] = min(a, b)


def contents(rows: Iterable[dict[str, Any]], prints: Mapping[str, Fingerprint]) -> dict[str, str]:
    """The content of every medium that has a clip in `rows` of the index: the first medium of the same recording."""
    digests = {row["media_id"]: row["sha256"] for row in rows if row["status"] == "ok"}
    names = sorted(digests)
    groups, seen = Groups(len(names)), dict[str, int]()
    for number, name in enumerate(names):
        groups.join(seen.setdefault(digests[name], number), number)
    known = [i for i in sorted(seen.values()) if len(prints[names[i]].pictures) == PICTURES]
    found = [prints[names[i]] for i in known]
    for a, b in _pairs(found):
        x, y = known[a], known[b]
        if groups.first(x) != groups.first(y) and same_sound(found[a], found[b]):
            groups.join(x, y)
    return {name: names[groups.first(number)] for number, name in enumerate(names)}


def _pairs(prints: list[Fingerprint]) -> Iterator[tuple[int, int]]:
    """The pairs of media that share a key and most pictures."""
    if not prints:
        return
    keys = [_keys(one) for one in prints]
    media = np.repeat(np.arange(len(keys)), [len(own) for own in keys])
    every, pictures = np.concatenate(keys), np.stack([one.pictures for one in prints])
    for part in range(PARTS):
        here = every >> 24 & (PARTS - 1) == part
        pairs = _linked(every[here], media[here])
        for at in range(0, len(pairs), AT_ONCE):
            a, b = pairs[at : at + AT_ONCE].T
            same = same_pictures(pictures[a], pictures[b])
            yield from zip(a[same].tolist(), b[same].tolist(), strict=True)


def _keys(one: Fingerprint) -> UInt64[np.ndarray, "K"]:
    """The keys of a medium, each once."""
    if one.steady:
        quarters = one.pictures[:, None] >> np.arange(0, 64, 16, dtype=np.uint64) & np.uint64(0xFFFF)
        return np.unique(~((quarters << np.uint64(2) | np.arange(4, dtype=np.uint64)) * SCATTER))
    telling = np.unique(one.sound[np.bitwise_count(one.sound) >= TELLING]).astype(np.uint64)
    return np.sort(telling * SCATTER)[:KEYS]


def _linked(keys: UInt64[np.ndarray, "K"], media: Int64[np.ndarray, "K"]) -> Int64[np.ndarray, "N 2"]:
    """Pairs of media with the same key, each once: all of them, or of a common key every medium with the NEXT ones."""
    order = np.lexsort((media, keys))
    keys, media, size = keys[order], media[order], np.int64(media.max(initial=0) + 1)
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    common, codes = counts[place] > MANY, [np.empty(0, np.int64)]
    for ahead in range(1, min(MANY, len(keys))):
        same = np.flatnonzero((keys[:-ahead] == keys[ahead:]) & ~(common[:-ahead] & (ahead > NEXT)))
        codes.append(media[same] * size + media[same + ahead])
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), size), 1)

"""Mixtures: rows of a table (clips, offsets, gains), rendered late from stored spectrograms or waveforms.

A mixture is the mean of its N gained sources. What is called a source or a reference from here on is the
gained clip divided by N, so that the sources add up to the mixture.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Int16

from avset.errors import AvsetError
from avset.features.samples import from_int16, is_silent
from avset.features.spectrograms import Transform
from avset.params import FurtherSet
from avset.params import Mixtures as Sizes
from avset.storage.store import Store


@dataclass(frozen=True)
class Mixture:
    """One row: N clips, where each crop starts (in hops from the clip's start), and its gain.

    `labels` has "" for a clip without a label, or with several; `contents` the recording that each clip is cut from.
    A duet is one clip N times, with the label of each player. Its crops are no sound of the store but `sounds`, what
    each player plays: int16 (N, L), row by row.
    """

    mixture_id: str
    split: str
    clips: list[str]
    contents: list[str]
    labels: list[str]
    offsets: list[int]
    gains: list[float]
    seed: int
    sounds: bytes = field(default=b"", repr=False)

    def row(self) -> dict[str, Any]:
        """The mixture as a row of mixtures.parquet, where only further sets have `sounds`."""
        return {name: value for name, value in asdict(self).items() if name != "sounds" or value}

    @property
    def duet(self) -> bool:
        """Whether its sources are the players of one clip."""
        return bool(self.sounds)


@dataclass(frozen=True)
class Candidate:
    """A clip that may be in a mixture: the recording that it is cut from, and its labels."""

    clip: str
    content: str
    labels: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its label; "" if it has none, or several."""
        return self.labels[0] if len(self.labels) == 1 else ""


class TooFew(AvsetError):
    """The clips of a split make no mixture."""


Stems = Callable[[dict[str, Any]], Int16[np.ndarray, "N L"]]  # what each player of a clip plays, by its row
Meet = Callable[[Candidate, Candidate], bool]  # whether two clips may be in one mixture
Moments = Callable[[str, np.random.Generator], Iterator[int]]  # the audible offsets of a clip, as they are to be tried


def distinct(one: Candidate, other: Candidate) -> bool:
    """Of two recordings."""
    return one.content != other.content


def unlike(one: Candidate, other: Candidate) -> bool:
    """Of two recordings, and with no label in common."""
    return distinct(one, other) and not set(one.labels) & set(other.labels)


def alike(one: Candidate, other: Candidate) -> bool:
    """Of two recordings, with one and the same label."""
    return distinct(one, other) and one.label != "" and one.label == other.label


def centre_offset(frames: int, crop: int) -> int:
    """Start of the crop in the middle of a clip of `frames` STFT frames: around its centre picture."""
    return max(0, (frames - crop) // 2)


def starts(frames: int, crop: int, offsets: str, rng: np.random.Generator) -> list[int]:
    """Where a crop may start in a clip of `frames` STFT frames, as they are to be tried."""
    if offsets == "random":
        return [int(start) for start in rng.permutation(max(1, frames - crop + 1))]
    return [centre_offset(frames, crop)]


def draw(
    clips: Sequence[Candidate],
    moments: Moments,
    split: str,
    count: int,
    sizes: Sizes,
    meet: Meet,
) -> list[Mixture]:
    """Draw `count` distinct evaluation mixtures, every clip about equally often; fewer if no more are possible.

    A mixture is the set of its clips with their offsets: none is drawn twice. Every set of clips comes once before one
    comes again, at other offsets.
    """
    rng = np.random.default_rng([sizes.seed, sum(split.encode())])
    rows: list[Mixture] = []
    seen: set[frozenset[tuple[str, int]]] = set()
    while len(rows) < count:
        before = len(rows)
        for chosen in _sets(clips, sizes.n_sources, meet, rng):
            starts = _unseen([one.clip for one in chosen], moments, seen, rng)
            if starts is not None:
                seen.add(frozenset(zip((one.clip for one in chosen), starts, strict=True)))
                rows.append(_mixture(f"{split}-{len(rows):04d}", split, chosen, starts, sizes, rng))
            if len(rows) == count:
                break
        if len(rows) == before:
            break
    return rows


def _mixture(
    name: str, split: str, chosen: Sequence[Candidate], starts: list[int], sizes: Sizes, rng: np.random.Generator
) -> Mixture:
    clips, contents = [one.clip for one in chosen], [one.content for one in chosen]
    gains = [float(rng.uniform(*sizes.gain)) for _ in chosen]
    return Mixture(name, split, clips, contents, [one.label for one in chosen], starts, gains, sizes.seed)


def _sets(
    clips: Sequence[Candidate], n_sources: int, meet: Meet, rng: np.random.Generator
) -> Iterator[list[Candidate]]:
    """All sets of clips that may meet, in random order, each once; every clip is first about equally often."""
    seen: set[frozenset[str]] = set()

    def complete(chosen: list[Candidate]) -> Iterator[list[Candidate]]:
        if len(chosen) == n_sources:
            yield chosen
            return
        for k in rng.permutation(len(clips)):
            if all(meet(one, clips[k]) for one in chosen):
                yield from complete([*chosen, clips[k]])

    first = list(clips)
    while first:
        left = []
        for k in rng.permutation(len(first)):
            keyed = ((frozenset(one.clip for one in made), made) for made in complete([first[k]]))
            if new := next(((key, made) for key, made in keyed if key not in seen), None):
                seen.add(new[0])
                left.append(first[k])
                yield new[1]
        first = left


def _unseen(
    clips: Sequence[str], moments: Moments,
    seen: set[frozenset[tuple[str, int]]], rng: np.random.Generator,
) -> list[int] | None:  # fmt: skip
    """Offsets at which these clips were not mixed before; None if there are no more."""

    def complete(starts: list[int]) -> Iterator[list[int]]:
        if len(starts) == len(clips):
            yield starts
            return
        for start in moments(clips[len(starts)], rng):
            yield from complete([*starts, start])

    return next((s for s in complete([]) if frozenset(zip(clips, s, strict=True)) not in seen), None)


def content_of(row: dict[str, Any]) -> str:
    """What the recordings of a row of clips/index.parquet are told apart by: their content, else the video's name."""
    return str(row.get("content") or row["media_id"])


def candidates(rows: Sequence[dict[str, Any]], different_category: bool) -> tuple[list[Candidate], dict[str, int]]:
    """The clips of some rows of clips/index.parquet that may be in a mixture, sorted; and why how many others may not.

    With `different_category` a clip needs one label, no more; without it a clip may also have none, or two. Of clips
    that hold the same piece of the same recording one stands for all, a labelled one if there is any.
    """
    counts = {1} if different_category else {0, 1, 2}
    left_out = {"labels": 0, "copies": 0}
    found: dict[tuple[str, Any], Candidate] = {}
    for row in sorted(rows, key=lambda row: (len(row["labels"]) != 1, row["clip_id"])):
        piece = (content_of(row), row.get("start_s", row["clip_id"]))
        if len(row["labels"]) not in counts:
            left_out["labels"] += 1
        elif piece in found:
            left_out["copies"] += 1
        else:
            found[piece] = Candidate(row["clip_id"], piece[0], tuple(row["labels"]))
    return sorted(found.values(), key=lambda one: one.clip), left_out


def draw_split(
    rows: Sequence[dict[str, Any]], store: Store, transform: Transform, sizes: Sizes, split: str, count: int,
    silence: float, category: str | None = None,
) -> tuple[list[Mixture], dict[str, int]]:  # fmt: skip
    """`draw` the mixtures of a split from the clips of `rows` that `store` has; and the ledger of the split's clips.

    Sources have no label in common, if labels allow that. With a `category` the split is a further set of the test
    clips: `different` labels, the `same` one, or `any`; it may stay empty. A crop below `silence` (dBFS) is never
    drawn: a silent reference has no score. The ledger: mixtures `asked` for and `drawn`; `clips` = those left out for
    their `labels`, as `copies` of others, as `silent`, and those `usable` ones, of so many `videos`, distinct
    recordings.

    AvsetError if there are too few videos, or categories, for a mixture.
    """
    there, of = set(store.clips), "test" if category else split
    rows = [row for row in rows if row["clip_id"] in there and row["split"] == of]

    @cache
    def audible(clip: str, offset: int) -> bool:
        start = offset * transform.hop_length
        crop = store.read(clip, "waveform", slice(start, start + transform.length))
        return not is_silent(from_int16(crop), silence)

    def moments(clip: str, rng: np.random.Generator) -> Iterator[int]:
        frames = store.dataset(clip, "stft").shape[0]
        return (start for start in starts(frames, transform.crop, sizes.offsets, rng) if audible(clip, start))

    clips, left_out = candidates(rows, sizes.different_category)
    usable = [one for one in clips if next(moments(one.clip, np.random.default_rng(0)), None) is not None]
    if category == "same":
        drawn = _draw_alike(usable, moments, split, count, sizes)
    elif category == "any":
        drawn = draw(usable, moments, split, count, sizes, distinct)
    else:
        drawn = _draw_unlike(usable, moments, split, count, sizes)
    ledger = {"asked": count, "drawn": len(drawn), "clips": len(rows), **left_out}
    ledger |= {"silent": len(clips) - len(usable), "usable": len(usable), "videos": len({c.content for c in usable})}
    _tell(split, ledger, sizes, "of one label" if category == "same" else "distinct")
    return drawn, ledger


def draw_set(
    rows: Sequence[dict[str, Any]], store: Store, transform: Transform, sizes: Sizes, name: str, told: FurtherSet,
    silence: float, stems: Stems | None = None,
) -> tuple[list[Mixture], dict[str, int], str]:  # fmt: skip
    """`draw_split` of a further set of test mixtures; and why it has none, if the clips make none.

    Duets need `stems`, what each player of a clip plays: int16 (N, L) of a row of `rows`.
    """
    own = {"n_sources": told.n_sources, "seed": told.seed, "different_category": told.category != "any"}
    own_sizes = sizes.model_copy(update=own)
    try:
        if told.category == "duet":
            drawn, ledger = draw_duets(rows, store, transform, own_sizes, name, told.count, silence, stems)
        else:
            drawn, ledger = draw_split(rows, store, transform, own_sizes, name, told.count, silence, told.category)
    except TooFew as e:  # and no other error: a damaged store is no empty set
        drawn, ledger, why = [], {}, str(e)
    else:
        why = "" if drawn else f"mixtures: set {name!r}: no {told.n_sources} test recordings make a mixture of it"
    if why:
        print(f"{why}; it stays empty", flush=True)
    return drawn, ledger, why


def draw_duets(
    rows: Sequence[dict[str, Any]], store: Store, transform: Transform, sizes: Sizes, name: str, count: int,
    silence: float, stems: Stems | None,
) -> tuple[list[Mixture], dict[str, int]]:  # fmt: skip
    """Test clips of `n_sources` labels, each at a moment when all of its players are heard; again if `count` asks.

    Gains are 1. TooFew if there is no such clip; the ledger is that of `draw_split`.
    """
    there = set(store.clips)
    test = [row for row in rows if row["clip_id"] in there and row["split"] == "test"]
    several = [row for row in test if len(row["labels"]) == sizes.n_sources]
    if stems is None:
        raise TooFew(f"mixtures: set {name!r}: the source of the clips does not know what each player of a clip plays")
    if not several:
        raise TooFew(f"mixtures: set {name!r}: there is no test clip of {sizes.n_sources} labels")
    rng = np.random.default_rng([sizes.seed, sum(name.encode())])
    crops = {row["clip_id"]: _crops_of_all(stems(row), row, store, transform, sizes, silence, rng) for row in several}
    drawn: list[Mixture] = []
    before = -1
    while before < len(drawn) < count:
        before = len(drawn)
        for row in several:
            if len(drawn) < count and (found := next(crops[row["clip_id"]], None)):
                start, crop = found
                clips, contents = [row["clip_id"]] * len(crop), [content_of(row)] * len(crop)
                told = list(row["labels"]), [start] * len(crop), [1.0] * len(crop), sizes.seed
                drawn.append(Mixture(f"{name}-{len(drawn):04d}", name, clips, contents, *told, crop.tobytes()))
    heard = {one.contents[0] for one in drawn}
    ledger = {"asked": count, "drawn": len(drawn), "clips": len(several), "labels": 0, "copies": 0}
    ledger |= {"silent": len(several) - len(heard), "usable": len(heard), "videos": len(heard)}
    _tell(name, ledger, sizes, "distinct")
    return drawn, ledger


def _crops_of_all(
    sounds: Int16[np.ndarray, "N L"], row: dict[str, Any], store: Store, transform: Transform, sizes: Sizes,
    silence: float, rng: np.random.Generator,
) -> Iterator[tuple[int, Int16[np.ndarray, "N l"]]]:  # fmt: skip
    """Offset and crop of all sounds of a clip, wherever none of them is silent."""
    frames = store.dataset(row["clip_id"], "stft").shape[0]
    for start in starts(frames, transform.crop, sizes.offsets, rng):
        crop = sounds[:, start * transform.hop_length :][:, : transform.length]
        crop = np.stack([np.resize(sound, transform.length) for sound in crop])
        if not any(is_silent(from_int16(sound), silence) for sound in crop):
            yield start, crop


def _draw_unlike(usable: Sequence[Candidate], moments: Moments, split: str, count: int, sizes: Sizes) -> list[Mixture]:
    """Mixtures without a common label; if those are impossible and `different_category` is false, whatever the labels.

    AvsetError if none is possible.
    """
    videos, categories = {one.content for one in usable}, {one.label or one.clip for one in usable}
    what, cure = f"{len(usable)} audible clips of {len(videos)} videos", "add videos"
    if sizes.different_category and len(categories) < sizes.n_sources:
        what = f"{len(categories)} categories"
        cure = "add clips, label them, or set mixtures.different_category to false"
    enough = len(categories) >= sizes.n_sources
    drawn = draw(usable, moments, split, count, sizes, unlike) if enough else []
    if not drawn and not sizes.different_category and len(videos) >= sizes.n_sources:
        print(f"mixtures: {split}: the clips have too few categories, so sources of one category are mixed")
        drawn = draw(usable, moments, split, count, sizes, distinct)
    if not drawn:
        raise TooFew(f"mixtures: split {split!r} has {what} but mixtures.n_sources = {sizes.n_sources}; {cure}")
    return drawn


def _draw_alike(usable: Sequence[Candidate], moments: Moments, split: str, count: int, sizes: Sizes) -> list[Mixture]:
    """Mixtures of one label each; none if no label has enough recordings."""
    videos = Counter(label for label, _ in {(one.label, one.content) for one in usable})
    several = [one for one in usable if videos[one.label] >= sizes.n_sources]
    return draw(several, moments, split, count, sizes, alike)


def _tell(split: str, ledger: dict[str, int], sizes: Sizes, what: str) -> None:
    """Lines about what was left out, and about mixtures that were asked for and are not possible."""
    whys = {"labels": "without one label", "copies": "copies of others", "silent": "silent"}
    if left := [f"{ledger[key]} {why}" for key, why in whys.items() if ledger[key]]:
        out = ledger["clips"] - ledger["usable"]
        print(f"mixtures: {split}: {out} of {ledger['clips']} clips are left out: {', '.join(left)}")
    if ledger["drawn"] < ledger["asked"]:
        cure = "add videos" + (", or set mixtures.offsets to random" if sizes.offsets == "centre" else "")
        print(
            f"mixtures: {split}: {ledger['drawn']} of {ledger['asked']} mixtures: {ledger['usable']} clips of "
            f"{ledger['videos']} videos make no more that are {what}; {cure}"
        )


def references(mixture: Mixture, store: Store, length: int, hop_length: int) -> Float32[np.ndarray, "N {length}"]:
    """The N sources of a mixture as waveforms of `length` samples; their sum is the mixture."""
    if mixture.duet:
        played = from_int16(np.frombuffer(mixture.sounds, np.int16).reshape(len(mixture.clips), length))
        shares = np.array(mixture.gains, np.float32)[:, None] / np.float32(len(mixture.clips))
        return np.asarray(played * shares, np.float32)
    crops = []
    for clip, offset, gain in zip(mixture.clips, mixture.offsets, mixture.gains, strict=True):
        whole = store.dataset(clip, "waveform")
        start = offset * hop_length
        wave = from_int16(whole[start : start + length])
        crops.append(gain / len(mixture.clips) * np.resize(wave, length))
    return np.stack(crops).astype(np.float32)


def codec_sdr(drawn: Sequence[Mixture], store: Store, hop_length: int) -> float:
    """How well the stored, decoded sound of duets is the sum of their players' (dB, mean over the duets).

    A common gain does not count.
    """
    found = []
    for one in drawn:
        if one.duet:
            played = references(one, store, len(one.sounds) // 2 // len(one.clips), hop_length).sum(0, dtype=np.float64)
            start = one.offsets[0] * hop_length
            heard = from_int16(store.read(one.clips[0], "waveform", slice(start, start + len(played)))).astype(float)
            played = played[: len(heard)]  # a short clip is repeated
            rest = heard - played * (heard @ played) / (played @ played)
            found.append(10 * np.log10((heard @ heard - rest @ rest) / (rest @ rest)))
    return float(np.mean(found))

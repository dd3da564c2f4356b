"""Mixtures that others have published, as lists of names: which of them the clips here make, and why not the others.

A list says which sources meet. Crops and gains are drawn as `mixtures` says, unless the list says more.

Forms, told apart by the first line:
    audiosep_music      idx,caption,src_wav,noise_wav: `Y<video>_<k>.wav`, the k-th 10 s of a video
    audiosep_vggsound   file_id,mix_wav,s0_wav,s0_text,s1_wav,s1_text: `<video>_<start in s>+++...`, 10 s each
    iquery              no header: `/<label>/<video>.wav, /<label>/<video>.wav`
    general             clip_0,clip_1,..., and if known label_0, start_0 (s), gain_0, ...
"""

import csv
import hashlib
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from avset.errors import AvsetError
from avset.features.samples import from_int16, is_silent
from avset.features.spectrograms import Transform
from avset.params import FurtherSet
from avset.params import Mixtures as Sizes
from avset.storage.store import Store
from avset.training.mixtures import Mixture, content_of, starts

PIECE = 10.0  # s of AudioSep's and VGGSound's pieces
MUSIC_HEADER = ["idx", "caption", "src_wav", "noise_wav"]
VGGSOUND_HEADER = ["file_id", "mix_wav", "s0_wav", "s0_text", "s1_wav", "s1_text"]


@dataclass(frozen=True)
class Named:
    """A source as a list names it."""

    text: str  # as it stands there
    name: str  # of a clip, of a recording, or of its file
    label: str = ""  # if the list tells one
    span: tuple[float, float] | None = None  # s of what is named, in which its crop lies; None: anywhere
    gain: float | None = None  # None: drawn


@dataclass(frozen=True)
class MixtureList:
    """A list: `rows` has the sources of each of its mixtures, none where the row cannot be used."""

    path: Path
    form: str
    sha256: str
    rows: list[list[Named]]


class LeftOut(Exception):
    """A row that makes no mixture here."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def read(path: Path) -> MixtureList:
    """Read a list; AvsetError if it is not there, of no known form, or has no row that can be used."""
    try:
        data = path.read_bytes()
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        why = getattr(e, "strerror", None) or e
        raise AvsetError(f"cannot read the list of mixtures {str(path)!r}: {why}; give a CSV file in UTF-8") from e
    lines = [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]
    form, sources = _form_of(lines[0] if lines else [], path)
    rows = [_row(line, sources) for line in (lines if form == "iquery" else lines[1:])]
    if not any(rows):
        raise AvsetError(f"no row of {str(path)!r} is a mixture of the form {form}; give another list")
    return MixtureList(path, form, hashlib.sha256(data).hexdigest(), rows)


Sources = Callable[[list[str]], list[Named]]  # of a row; ValueError if it cannot be used


def _form_of(first: list[str], path: Path) -> tuple[str, Sources]:
    """The form that the first line of a list tells, and what reads its rows."""
    if first == MUSIC_HEADER:
        return "audiosep_music", _of_music
    if first == VGGSOUND_HEADER:
        return "audiosep_vggsound", _of_vggsound
    if first and first[0].startswith("/"):
        return "iquery", lambda line: [_of_class_folder(text) for text in line]
    columns = {name: at for at, name in enumerate(first)}
    known = {f"{part}_{n}" for n in range(len(first)) for part in ("clip", "label", "start", "gain")}
    if {"clip_0", "clip_1"} <= columns.keys() <= known and len(columns) == len(first):
        return "general", lambda line: _of_columns(line, columns)
    wanted = "clip_0,clip_1 (and label_0, start_0, gain_0, ...), AudioSep's, or iQuery's pairs of /label/video.wav"
    raise AvsetError(f"{str(path)!r} is no list of mixtures that is known; its first line must be {wanted}")


def _row(line: list[str], sources: Sources) -> list[Named]:
    """The sources of a row; none if it cannot be used."""
    try:
        found = sources(line)
    except ValueError:
        return []
    return found if len(found) > 1 else []


def _of_music(line: list[str]) -> list[Named]:
    """The first source has the caption; the list does not tell the other one's."""
    _, caption, *files = line
    return [_of_piece(text, label) for text, label in zip(files, (caption, ""), strict=True)]


def _of_piece(text: str, label: str) -> Named:
    found = re.fullmatch(r"Y(.{11})_(\d+)\.wav", text)
    if not found:
        raise ValueError(text)
    start = PIECE * int(found[2])
    return Named(text, found[1], label, (start, start + PIECE))


def _of_vggsound(line: list[str]) -> list[Named]:
    names, _, _, first, _, second = line
    found = []
    for text, label in zip(names.split("+++"), (first, second), strict=True):
        video, _, start = text.rpartition("_")
        found.append(Named(text, video, label, (float(start), float(start) + PIECE)))
    return found


def _of_class_folder(text: str) -> Named:
    found = re.fullmatch(r"/([^/]+)/([^/]+)\.wav", text)
    if not found:
        raise ValueError(text)
    return Named(text, found[2], found[1].replace("_", " "))


def _of_columns(line: list[str], columns: dict[str, int]) -> list[Named]:
    cells = {name: line[at] for name, at in columns.items() if at < len(line)}
    found = []
    for n in range(len(columns)):
        if name := cells.get(f"clip_{n}"):
            start, gain = (
                float(cells[f"{part}_{n}"]) if cells.get(f"{part}_{n}") else None for part in ("start", "gain")
            )
            if not (0 <= (start or 0.0) < math.inf and 0 < (1.0 if gain is None else gain) < math.inf):
                raise ValueError(name)
            span = None if start is None else (start, start)
            found.append(Named(name, name, cells.get(f"label_{n}", ""), span, gain))
    return found


def draw_listed(
    clips: Sequence[dict[str, Any]], store: Store, transform: Transform, sizes: Sizes, name: str, told: FurtherSet,
    silence: float, listed: MixtureList,
) -> tuple[list[Mixture], dict[str, int], str, dict[str, Any]]:  # fmt: skip
    """The mixtures of a list that the test clips make, at most `told.count`, evenly chosen; a row that stands twice is
    two of them, as published. `mixture_id` has the number of the row, from 0.

    clips  rows of clips/index.parquet

    Returns with them the ledger of `draw_split`, where `clips` are the names of the list; why there is no mixture; and
    the facts: path, form, sha256 and number of rows of the list, why how many rows are `left_out`, and why how many
    names are `missing`.
    """
    drawing = _Drawing(clips, store, transform, sizes, name, told, silence)
    left_out: Counter[str] = Counter()
    made = []
    for number, sources in enumerate(listed.rows):
        try:
            made.append(drawing.mixture(number, sources))
        except LeftOut as e:
            left_out[e.reason] += 1
    drawn = [made[i * len(made) // told.count] for i in range(told.count)] if len(made) > told.count else made
    left_out["over count"] = len(made) - len(drawn)
    missing = Counter(reason for reason in drawing.outcomes.values() if reason)
    usable = len(drawing.outcomes) - missing.total()
    videos = {content for one in made for content in one.contents}
    ledger = {"asked": min(told.count, len(listed.rows)), "drawn": len(drawn), "clips": len(drawing.outcomes)}
    ledger |= {"labels": 0, "copies": 0, "silent": missing["silent"], "usable": usable, "videos": len(videos)}
    gone = dict(sorted((+left_out).items()))
    facts = {"path": str(listed.path), "form": listed.form, "sha256": listed.sha256, "rows": len(listed.rows)}
    facts |= {"left_out": gone, "missing": dict(sorted(missing.items()))}
    why = "" if drawn else f"mixtures: set {name!r}: no row of {listed.path} is of clips that are there for testing"
    rows = in_words(gone)
    print(f"mixtures: {name}: {len(drawn)} of the {len(listed.rows)} rows of {listed.path}{rows and f'; not {rows}'}")
    if missing:
        print(
            f"mixtures: {name}: {missing.total()} of {len(drawing.outcomes)} names are not usable: {in_words(missing)}"
        )
    return drawn, ledger, why, facts


def in_words(reasons: dict[str, int]) -> str:
    """Reasons, the most frequent one first: "12 unknown, 3 train"."""
    return ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))


class _Drawing:
    """The mixtures of one list; `outcomes` says why a name of it cannot be used ("": it can)."""

    def __init__(
        self, clips: Sequence[dict[str, Any]], store: Store, transform: Transform, sizes: Sizes, name: str,
        told: FurtherSet, silence: float,
    ):  # fmt: skip
        self.store, self.transform, self.sizes, self.name, self.told = store, transform, sizes, name, told
        self.silence, self.outcomes = silence, dict[str, str]()
        self.known: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in clips:
            for one in _names_of(row):
                self.known[one].append(row)
        self.failed = {clip: reason for clip, reason in store.rows.columns("clip_id", "reason") if reason}

    def mixture(self, number: int, sources: Sequence[Named]) -> Mixture:
        """The mixture of a row; LeftOut if there is none."""
        if not sources:
            raise LeftOut("invalid")
        rng = np.random.default_rng([self.told.seed, sum(self.name.encode()), number])
        found = [self._found(one, rng) for one in sources]
        for one, (_, reason) in zip(sources, found, strict=True):
            self.outcomes[one.text] = reason
        if why := next((reason for _, reason in found if reason), ""):
            raise LeftOut(why)
        if len(sources) != self.told.n_sources:
            raise LeftOut("n_sources")
        rows, offsets = [row for (row, _), _ in found], [offset for (_, offset), _ in found]
        contents = [content_of(row) for row in rows]
        labels = [_label_of(one, row["labels"]) for one, row in zip(sources, rows, strict=True)]
        if len(set(contents)) < len(contents):
            raise LeftOut("one recording")
        several = {"different": len(labels), "same": 1, "any": 0}[self.told.category]
        if several and ("" in labels or len(set(labels)) != several):
            raise LeftOut("labels")
        gains = [float(rng.uniform(*self.sizes.gain)) if one.gain is None else one.gain for one in sources]
        clips = [row["clip_id"] for row in rows]
        return Mixture(f"{self.name}-{number:04d}", self.name, clips, contents, labels, offsets, gains, self.told.seed)

    def _found(self, one: Named, rng: np.random.Generator) -> tuple[tuple[dict[str, Any], int], str]:
        """The row of the clip of a source and the offset of its crop (hops), or why there is none."""
        try:
            row, span = self._clip(one)
            return (row, self._offset(row, span, rng)), ""
        except LeftOut as e:
            return ({}, 0), e.reason

    def _clip(self, one: Named) -> tuple[dict[str, Any], tuple[float, float] | None]:
        """The row of the clip that holds a source, and where in it the crop lies (s); LeftOut if there is none.

        Of a recording without a span it is the clip in its middle.
        """
        there = self.known.get(one.name, [])
        if len({row["media_id"] for row in there}) != 1:
            raise LeftOut("ambiguous" if there else "unknown")
        cut = [row for row in there if row["status"] == "ok"]
        if not cut:
            raise LeftOut(there[0]["reason"])
        began = cut[0]["origin_start_s"] if one.name == cut[0]["clip_id"] else 0.0
        span = one.span and (began + one.span[0], began + one.span[1])
        row = _at(cut, sum(span) / 2) if span else _middle(cut)
        if row is None:
            raise LeftOut("elsewhere")
        if row["split"] != "test":
            raise LeftOut(row["split"])
        if row["clip_id"] in self.failed:
            raise LeftOut(self.failed[row["clip_id"]])
        return row, span and (span[0] - row["origin_start_s"], span[1] - row["origin_start_s"])

    def _offset(self, row: dict[str, Any], span: tuple[float, float] | None, rng: np.random.Generator) -> int:
        """Where an audible crop of a clip starts (hops); LeftOut("silent") if there is none."""
        crop, hop, rate = self.transform.crop, self.transform.hop_length, self.transform.sample_rate
        frames = self.store.dataset(row["clip_id"], "stft").shape[0]
        first, last = 0, frames
        if span:
            first, last = (round(time * rate / hop) for time in span)
            first, last = min(max(first, 0), max(frames - crop, 0)), min(last + 1, frames)
        for start in starts(max(last - first, 1), crop, self.sizes.offsets, rng):
            at = (first + start) * hop
            wave = self.store.read(row["clip_id"], "waveform", slice(at, at + self.transform.length))
            if not is_silent(from_int16(wave), self.silence):
                return first + start
        raise LeftOut("silent")


def _at(rows: Sequence[dict[str, Any]], time: float) -> dict[str, Any] | None:
    """The clip of a recording that holds a time (s); None if there is none."""
    return next((row for row in rows if 0 <= time - row["origin_start_s"] < row["duration_s"]), None)


def _middle(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The clip nearest to the middle of all clips of a recording."""
    middles = [row["origin_start_s"] + row["duration_s"] / 2 for row in rows]
    middle = (min(middles) + max(middles)) / 2
    return min(zip(rows, middles, strict=True), key=lambda pair: abs(pair[1] - middle))[0]


def _names_of(row: dict[str, Any]) -> set[str]:
    """What a list may call the clip of a row: itself, its recording, or the file of that."""
    file = PurePosixPath(row["origin"])
    return {
        row["clip_id"],
        row["media_id"],
        *([file.name, file.stem] if file.suffix and "://" not in row["origin"] else []),
    }


def _label_of(one: Named, labels: Sequence[str]) -> str:
    """The label of a source: that of its clip; of several, the one that the list tells."""
    return labels[0] if len(labels) == 1 else one.label if one.label in labels else ""

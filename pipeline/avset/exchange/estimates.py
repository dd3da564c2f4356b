"""A folder of somebody's estimates: which file is of which source, and its sound as the frozen mixtures have theirs.

<mixture_id>-<source>.wav            of the query that the command names
<query>/<mixture_id>-<source>.wav    of this query
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from avset.errors import AvsetError
from avset.evaluation.metrics import SILENCE
from avset.exchange.export import FACTS, MIXTURES, REFERENCES, TABLE
from avset.exchange.frozen import Frozen, file_of
from avset.inference.files import LIMITS, limited_blocks
from avset.media.targets import WRITABLE
from avset.media.waveforms import LEAST_RATE, MOST_RATE, resample
from avset.models.contract import ORACLE
from avset.params import KINDS_OF_QUERY, NAME
from avset.sources.names import is_rubbish

SLACK = 0.1  # s by which an estimate may be longer or shorter: codecs and frames of models pad
ROUNDING = 2  # samples that a change of the rate may add
REASONS = {  # why an estimate is not scored as it is
    "missing": "there is no file",
    "several": "several files have its name",
    "unreadable": "the file cannot be read to its end",
    "not_finite": "it has samples that are not numbers",
    "length": f"its length is off by more than {SLACK} s",
    "silent": "it is silent",
    "fitted": f"its length is off by less than {SLACK} s: cut, or filled with zeros, and scored",
}
ASKED = {"video", "caption", ORACLE}  # kinds of queries beside texts
SCORED = {"fitted"}  # with these reasons an estimate has a score of its own; all others count as silence


class Place(NamedTuple):
    """A source of a mixture, asked for by a kind of query."""

    query: str
    mixture_id: str
    source: int


@dataclass(frozen=True)
class Estimates:
    """The files of a folder by the place that their name tells; `strange` files tell none."""

    files: dict[Place, list[Path]] = field(default_factory=lambda: defaultdict(list))
    strange: list[str] = field(default_factory=list)


class Unusable(Exception):
    """An estimate that cannot be scored: a key of `REASONS`, and what was seen."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(detail or REASONS[reason])
        self.reason, self.detail = reason, detail or REASONS[reason]


def find(folder: Path, query: str, frozen: Frozen) -> Estimates:
    """The estimates in a folder; AvsetError if it is none, or has no estimate at all."""
    if not is_query(query):
        raise AvsetError(
            f"--query: {query!r} is no name of letters, digits, - and _, or that of another row; rename it"
        )
    if not folder.is_dir():
        raise AvsetError(f"there is no folder {str(folder)!r}; give that of the estimates")
    known = {file_of(one.mixture_id, n): (one.mixture_id, n) for one in frozen.mixtures for n in range(len(one.clips))}
    ours = {FACTS, TABLE, MIXTURES, REFERENCES} if (folder / FACTS).is_file() else set()
    found = Estimates()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        *above, name = path.relative_to(folder).parts
        if is_rubbish("/".join((*above, name))) or ours & {(*above, name)[0]}:
            continue
        asked = above[0] if above else query
        if len(above) > 1 or path.suffix.lower() not in WRITABLE or path.stem not in known or not is_query(asked):
            found.strange.append("/".join((*above, name)))
        else:
            found.files[Place(asked, *known[path.stem])].append(path)
    if not found.files:
        example = f"{next(iter(known), 'test-0000-0')}.wav"
        seen = f"; {found.strange[0]!r} is none" if found.strange else ""
        raise AvsetError(
            f"{str(folder)!r} has no estimate{seen}; name the files as manifest.csv of `avset mixtures export` does, "
            f"as {example!r}"
        )
    return found


def is_query(name: str) -> bool:
    """Whether a name can be that of a kind of query; not that of another row, or of a control."""
    return bool(re.fullmatch(NAME, name)) and (name in ASKED or name not in KINDS_OF_QUERY)


def heard(files: list[Path], rate: int, length: int) -> tuple[Float32[np.ndarray, " {length}"], int]:
    """The estimate in a file, mono, at a rate (Hz) and with so many samples; and how many it had too many (below zero:
    too few), which were cut, or filled with zeros.

    Unusable if there is no such sound.
    """
    if len(files) != 1:
        raise Unusable("several" if files else "missing", ", ".join(str(path) for path in files))
    sound = _at_rate(_mono(files[0], length / rate), rate)
    if not np.isfinite(sound).all():
        raise Unusable("not_finite")
    if abs(off := len(sound) - length) > SLACK * rate:
        raise Unusable("length", f"it has {len(sound) / rate:.3f} s, the mixture has {length / rate:.3f} s")
    fitted = np.zeros(length, np.float32)
    fitted[: len(sound)] = sound[:length]
    if np.abs(fitted).max() <= SILENCE:
        raise Unusable("silent")
    return fitted, off if abs(off) > ROUNDING else 0


def _mono(path: Path, seconds: float) -> tuple[Float32[np.ndarray, " n"], int]:
    """The mean of the channels of a file, and its rate (Hz); it is not read far beyond `seconds`."""
    blocks: list[np.ndarray] = []
    try:
        for block, rate in limited_blocks(path, LIMITS):
            if not LEAST_RATE <= rate <= MOST_RATE:
                raise Unusable("unreadable", f"its sample rate is {rate} Hz")
            blocks.append(block.mean(0))
            if sum(map(len, blocks)) > (seconds + 2 * SLACK) * rate:
                break
    except AvsetError as e:
        text = str(e)
        raise Unusable("not_finite" if "not numbers" in text else "unreadable", text) from e
    return np.concatenate(blocks), rate


def _at_rate(sound: tuple[Float32[np.ndarray, " n"], int], rate: int) -> Float32[np.ndarray, " m"]:
    samples, own = sound
    return samples if own == rate else resample(samples, own, rate)


def asked_of(found: Mapping[Place, list[Path]], frozen: Frozen, splits: list[str]) -> dict[str, list[Place]]:
    """By query the places that it must have an estimate of, in the order of the mixtures.

    Those of all mixtures of a split, if it has one of the split. A source without a label has no text: it is asked for
    if there is a file of it, or by pictures.
    """
    asked: dict[str, list[Place]] = {}
    split_of = {one.mixture_id: one.split for one in frozen.mixtures}
    there = {(place.query, split_of[place.mixture_id]) for place in found}
    for query in dict.fromkeys(place.query for place in found):
        asked[query] = [
            place
            for one in frozen.of([split for split in splits if (query, split) in there])
            for n, label in enumerate(one.labels)
            if (place := Place(query, one.mixture_id, n)) in found or label or query in ("video", "caption")
        ]
    return asked

"""Scores of somebody's estimates on the frozen mixtures: the rows that a method of ours has, by the same metric.

An estimate that cannot be used counts as a silent one, `metrics.SILENT` dB three times: nothing leaves a mean.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from avset.errors import AvsetError
from avset.evaluation import estimates as models
from avset.evaluation import scores
from avset.evaluation.bounds import still
from avset.evaluation.metrics import SILENT
from avset.exchange.estimates import REASONS, ROUNDING, SCORED, Place, Unusable, asked_of, find, heard
from avset.exchange.frozen import Frozen
from avset.features.spectrograms import Transform, ratio_mask
from avset.models.contract import ORACLE
from avset.params import NAME, NO_METHODS
from avset.report.numbers import rounded, separation_means
from avset.report.tables import numbers_as_text, separation_rows
from avset.storage.artifacts import Record
from avset.storage.checksums import RECORD
from avset.storage.files import fresh_folder, write_json
from avset.storage.tables import read_table, write_table
from avset.training.mixtures import Mixture

SHOWN = 20  # estimates that are told one by one
WRITTEN = {"scores.parquet", "facts.json", RECORD}
KEYS = ("nsdr", "nsdr_sem", "nsdr_median", "moving", "sdr", "sir", "sar", "n", "of", "videos", "silent")
Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """The scores of a system: rows of scores.parquet; estimates with a reason of `REASONS`; files of no source."""

    name: str
    splits: list[str]
    rows: list[Row]
    told: list[Row]
    strange: list[str]


def score(frozen: Frozen, folder: Path, name: str, query: str = "text", splits: Sequence[str] = ()) -> Scored:
    """Score the estimates in a folder.

    name    of the system, in the tables
    query   what the files in the folder itself were asked for by; those in a folder of it by the name of that folder
    splits  what is scored; empty: all splits of which there is an estimate

    AvsetError if no file is an estimate, or none of one of the splits, or if the name is taken. A query named `oracle`
    knows no order: the best assignment counts.
    """
    _check_name(name, frozen)
    found = find(folder, query, frozen)
    of = {one.mixture_id: one.split for one in frozen.mixtures}
    there = {of[place.mixture_id] for place in found.files}
    asked = {one.split for one in frozen.of(splits)} or there
    if lost := sorted(asked - there):
        raise AvsetError(f"{str(folder)!r} has no estimate of {', '.join(lost)}, only of {', '.join(sorted(there))}")
    chosen = [split for split in frozen.splits if split in asked]
    rows: list[Row] = []
    told: list[Row] = []
    for kind, places in asked_of(found.files, frozen, chosen).items():
        for part in _parts(places):
            rows += _rows(frozen, name, kind, part, found.files, told)
    unasked = [place for place in found.files if of[place.mixture_id] not in chosen]
    strange = found.strange + [str(path.relative_to(folder)) for one in unasked for path in found.files[one]]
    return Scored(name, chosen, rows, told, strange)


def _check_name(name: str, frozen: Frozen) -> None:
    taken = {*NO_METHODS, *frozen.splits, *frozen.p.methods}
    if not re.fullmatch(NAME, name) or name in taken:
        why = "is taken" if name in taken else "must have letters, digits, - and _ only"
        raise AvsetError(f"the name of the system, {name!r}, {why}; give another with --name")


def _parts(places: Sequence[Place]) -> Iterator[list[list[Place]]]:
    """The places of each mixture, of some mixtures at a time."""
    of_mixture = [list(several) for _, several in groupby(places, lambda place: place.mixture_id)]
    for i in range(0, len(of_mixture), scores.AT_ONCE):
        yield of_mixture[i : i + scores.AT_ONCE]


def _rows(
    frozen: Frozen, name: str, query: str, part: Sequence[list[Place]], files: dict[Place, list[Path]], told: list[Row]
) -> list[Row]:
    """The rows of some mixtures; what must be said of an estimate is added to `told`."""
    by_name = {one.mixture_id: one for one in frozen.mixtures}
    mixtures = [by_name[places[0].mixture_id] for places in part]
    asked = [[place.source for place in places] for places in part]
    pairs = []
    for mixture, places in zip(mixtures, part, strict=True):
        sources = frozen.sources(mixture)
        made = np.zeros_like(sources)
        for place in places:
            made[place.source] = _heard(place, files.get(place, []), frozen.transform, told)
        if query == ORACLE:
            made = _assigned(mixture, sources, made)
        pairs.append((sources, np.stack([made, _resting(sources, made, frozen.transform)])))
    found = [scores.each(one) for one in scores.score(pairs, workers=frozen.p.runtime.workers)]
    own, resting = ([one[i] for one in found] for i in (0, 1))
    return scores.rows_of(name, query, mixtures, own, frozen.own_sdr, asked, resting)


def _heard(place: Place, files: list[Path], transform: Transform, told: list[Row]) -> Float32[np.ndarray, " L"]:
    """An estimate, or silence where it cannot be used; then, or if its length was off, a row is added to `told`."""
    try:
        sound, off = heard(files, transform.sample_rate, transform.length)
    except Unusable as e:
        told.append({**place._asdict(), "reason": e.reason, "detail": e.detail})
        return np.zeros(transform.length, np.float32)
    if abs(off) > ROUNDING:
        detail = f"{'cut' if off > 0 else 'filled'} by {abs(off) / transform.sample_rate:.3f} s"
        told.append({**place._asdict(), "reason": "fitted", "detail": detail})
    return sound


def _assigned(
    mixture: Mixture, sources: Float32[np.ndarray, "N L"], made: Float32[np.ndarray, "N L"]
) -> Float32[np.ndarray, "N L"]:
    """The estimates in the order of the highest mean SDR."""
    count = len(sources)
    one = models.Estimates(mixture, list(range(count)), sources, made, np.zeros((count, 1, 1), np.float32), None)
    return next(models.ordered_by_sources(iter([one]))).estimates


def _resting(
    sources: Float32[np.ndarray, "N L"], made: Float32[np.ndarray, "N L"], transform: Transform
) -> Float32[np.ndarray, "N L"]:
    """What the masks of the estimates, |estimate| / |mixture| at most 1, make of the mixture if they do not move."""
    spectrum, magnitude = transform.analyse(torch.from_numpy(sources.sum(0)), "linear")
    masks = ratio_mask(transform.analyse(torch.from_numpy(made), "linear")[1], magnitude).clamp(0, 1)
    return np.asarray(transform.apply(still(masks, magnitude), spectrum, made.shape[-1], "linear").numpy())


def means(scored: Scored, frozen: Frozen, beside: bool = True) -> dict[str, dict[str, Any]]:
    """By split the numbers of a table: of the system, and `beside` it of our methods that were scored on the same."""
    rows = {scored.name: scored.rows, **(_ours(frozen) if beside else {})}
    told = [{"mixture_id": one.mixture_id, "split": one.split, "contents": one.contents, "labels": one.labels}
            for one in frozen.mixtures]  # fmt: skip
    return {
        split: separation_means(rows, frozen.scores, [one | {"split": "test"} for one in told if one["split"] == split])
        for split in scored.splits
    }


def _ours(frozen: Frozen) -> dict[str, list[Row]]:
    """The scores of our methods; a line tells of those that are not on these mixtures."""
    found = {}
    for method in frozen.p.methods:
        folder = frozen.p.data / "scores" / method
        if (folder / RECORD).exists():
            if frozen.identities.items() <= Record.read(folder).inputs.items():
                found[method] = read_table(folder / "scores.parquet")
            else:
                print(f"score: {method} was scored on other mixtures, and is left out; run `dvc repro evaluate`")
    return found


def summary(scored: Scored, frozen: Frozen) -> dict[str, Any]:
    """All that is known of the scores, for JSON."""
    entries = [
        {"split": split, "query": query, **{key.removeprefix("nsdr_"): numbers.get(key) for key in KEYS}}
        for split, of_split in means(scored, frozen, beside=False).items()
        for method, query, numbers in separation_rows(rounded(of_split))
        if method == scored.name
    ]
    counts = dict(Counter(one["reason"] for one in scored.told))
    return {
        "name": scored.name, "dataset": frozen.p.dataset, "scale": frozen.p.scale, "identities": frozen.identities,
        "scores": entries, "reasons": counts, "told": scored.told, "strange": scored.strange,
    }  # fmt: skip


def as_text(scored: Scored, frozen: Frozen) -> str:
    """The tables, one of each split: the system beside our methods, the mixture and the oracles."""
    parts = [f"{split}\n{numbers_as_text(rounded(of_split))}" for split, of_split in means(scored, frozen).items()]
    return "\n".join(parts)


def notes(scored: Scored) -> list[str]:
    """What must be said of the estimates and files, in lines."""
    lines = []
    for one in scored.told[:SHOWN]:
        worth = "" if one["reason"] in SCORED else f"; it counts as silence, {SILENT:g} dB"
        where = f"{one['mixture_id']}, source {one['source']}, {one['query']}"
        lines.append(f"{where}: {one['reason']}: {one['detail']}{worth}")
    counts = Counter(one["reason"] for one in scored.told)
    if len(scored.told) > SHOWN:
        lines.append(f"... and {len(scored.told) - SHOWN} more, which --json tells")
    lines += [f"{n} of {len(scored.rows)} estimates: {reason}: {REASONS[reason]}" for reason, n in counts.items()]
    lines += [
        f"{name}: not scored: its name, or its folder's, is that of no estimate" for name in scored.strange[:SHOWN]
    ]
    if len(scored.strange) > SHOWN:
        lines.append(f"... and {len(scored.strange) - SHOWN} more files are not scored")
    return lines


def check_output(folder: Path, overwrite: bool) -> None:
    """AvsetError if the scores must not be written into a folder."""
    if not folder.exists():
        return
    if not folder.is_dir() or (strange := sorted({path.name for path in folder.iterdir()} - WRITTEN)):
        what = f"{strange[0]!r} is in it" if folder.is_dir() else "it is a file"
        raise AvsetError(f"cannot write the scores into {folder}: {what}; give a new folder")
    if not overwrite:
        raise AvsetError(f"{folder} is there already; give a new folder, or allow it with --overwrite")


def write(scored: Scored, frozen: Frozen, folder: Path, overwrite: bool = False) -> None:
    """Write the scores as an artifact: scores.parquet, facts.json, record.json, for a row of tables/tables.yaml."""
    check_output(folder, overwrite)
    with fresh_folder(folder) as fresh:
        write_table(fresh / "scores.parquet", scored.rows, scores.SCORES)
        write_json(fresh / "facts.json", {"told": scored.told, "strange": scored.strange})
        Record("scores", recipe={"name": scored.name}, inputs=frozen.identities).write(fresh)

"""coverage.json: how many clips each stage could use, and why it could not use the others."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avset.errors import REASONS
from avset.storage.tables import read_columns

UNLABELLED = "unlabelled"  # the class of clips without a label
OTHERS = ("lists", "ledger", "sets", "mixture_lists")  # entries of coverage.json that are of no stage
Group = tuple[str, tuple[str, ...]]  # of a clip: its split and its labels
Counts = Mapping[str, Any]  # of one stage, split or label: `ok`, `failed`, `reasons`


def count_clips(indices: Mapping[str, Path]) -> dict[str, Any]:
    """Per stage: clips ok and failed, and the failures by reason; the same by split and by label.

    `indices` has the `index.parquet` of each stage; that of `clips` knows splits and labels. A clip counts under each
    of its labels, or as `UNLABELLED`.
    """
    numbers: dict[Group, int] = {}  # groups are numbered: there are far fewer groups than clips
    group_of: dict[str, int] = {}
    for clips, splits, labels in read_columns(indices["clips"], "clip_id", "split", "labels"):
        groups = zip(splits, map(tuple, labels), strict=True)
        group_of.update(zip(clips, (numbers.setdefault(group, len(numbers)) for group in groups), strict=True))
    return {stage: _count_stage(group_of, list(numbers), path) for stage, path in indices.items()}


def _count_stage(group_of: Mapping[str, int], groups: Sequence[Group], index: Path) -> dict[str, Any]:
    outcomes: Counter[tuple[int | None, str]] = Counter()
    for clips, reasons in read_columns(index, "clip_id", "reason"):
        outcomes.update(zip(map(group_of.get, clips), reasons, strict=True))
    by_split, by_label = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    for (number, reason), n in outcomes.items():
        split, labels = ("unknown", ()) if number is None else groups[number]
        by_split[split][reason] += n
        for label in set(labels) or {UNLABELLED}:
            by_label[label][reason] += n
    return {
        **_counts(sum(by_split.values(), Counter())),
        "splits": {k: _counts(v) for k, v in sorted(by_split.items())},
        "labels": {k: _counts(v) for k, v in sorted(by_label.items())},
    }


def _counts(reasons: Counter[str]) -> dict[str, Any]:
    failed = {k: n for k, n in sorted(reasons.items()) if k}  # a clip without a reason is ok
    return {"ok": reasons[""], "failed": sum(failed.values()), "reasons": failed}


def counts_by_stage(coverage: Mapping[str, Any]) -> dict[str, Counts]:
    """The counts of each stage, without the source's lists, the ledger, the further sets and the lists of mixtures."""
    return {stage: counts for stage, counts in coverage.items() if stage not in OTHERS}


def reached(counts: Counts) -> int:
    """Clips that reached a stage: a clip that failed earlier is not counted against the stage."""
    return counts["ok"] + counts["failed"] - counts["reasons"].get("upstream", 0)


def own_failures(counts: Counts) -> dict[str, int]:
    """The failures of a stage by reason, most frequent first, without the failures of earlier stages."""
    return dict(Counter({reason: n for reason, n in counts["reasons"].items() if reason != "upstream"}).most_common())


def class_rows(counts: Counts) -> list[tuple[str, Counts]]:
    """(label, counts) of a stage: most clips first, clips without a label last; no row if no clip has a label."""
    labels = counts.get("labels", {})
    rows = sorted(labels.items(), key=lambda pair: (pair[0] == UNLABELLED, -reached(pair[1]), pair[0]))
    return rows if labels.keys() - {UNLABELLED} else []


def reason_rows(coverage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(reason, its meaning) of all reasons that occur."""
    seen = {reason for counts in counts_by_stage(coverage).values() for reason in own_failures(counts)}
    seen |= {reason for line in coverage.get("ledger", ()) for reason in line["failed"]} & REASONS.keys()
    return [(reason, REASONS.get(reason, "")) for reason in sorted(seen, key=lambda r: ([*REASONS, r].index(r), r))]


def funnel_rows(coverage: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, int]]]]:
    """(list, its rows and what became of them) of the source's lists; JSON has no order, so most rows come first."""

    def place(step: tuple[str, int]) -> tuple[int, bool]:
        return -step[1], step[0] != "rows"

    return [(name, sorted(steps.items(), key=place)) for name, steps in coverage.get("lists", {}).items()]

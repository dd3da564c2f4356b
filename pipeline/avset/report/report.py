"""The report: metrics and coverage as JSON, tables for plots, small pictures, and the listening page.

Reads artifacts on disk and nothing else, and writes the same bytes for the same artifacts.
"""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from avset.console import aligned
from avset.errors import AvsetError
from avset.evaluation import examples, metrics
from avset.evaluation.examples import Example
from avset.report import page, plots, tables
from avset.storage.files import write_json
from avset.storage.tables import read_columns, read_table

Row = dict[str, Any]


Kind = tuple[str, tuple[str, ...]]  # of a clip: its split, its labels


DIGITS = 4  # of every number in a JSON file


BOUNDS = ("mixture", "ideal")  # what no method may fall below, what no mask can exceed


def build(
    dataset: str,
    scores: Path,
    mixtures: Path,
    methods: Sequence[str],
    coverage: Mapping[str, Path],
    facts: Mapping[str, Any],
    out: Path,
    funnel: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Write the report of `methods` on a data set into `out`; returns the content of `metrics.json`.

    `scores` has a folder per method (`scores.parquet`, `localization.parquet`, `examples.h5`), `mixtures` the
    `scores.parquet` of the untouched mixtures and of the ideal masks; `coverage` gives the `index.parquet` of
    each stage, `clips` among them; `facts` are merged into the metrics; `funnel` tells how the source's lists
    were narrowed down (list -> step -> rows). The pictures and the page's examples are the first method's.
    Localisation and examples may be absent.

    Raises:
        MissingArtifact: a table is not there; the text names the command that makes it.
        AvsetError: a fact would overwrite a metric, or a table has no rows.
    """
    if not methods:
        raise AvsetError("there is nothing to report: name at least one method")
    found = {m: read_table(scores / m / "scores.parquet") for m in methods}
    places = {m: read_table(p) for m in methods if (p := scores / m / "localization.parquet").exists()}
    numbers = separation(found, read_table(mixtures / "scores.parquet"))
    numbers = rounded(_merged(_merged(numbers, localization(places, methods[0])), facts))
    covered = cover(coverage) | ({"lists": funnel} if funnel else {})
    heard = {m: examples.read(p) for m in methods if (p := scores / m / "examples.h5").exists()}
    (out / "html").mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", numbers)
    write_json(out / "coverage.json", covered)
    _write_curves(out, numbers)
    if shown := heard.get(methods[0]):
        (out / "example.png").write_bytes(plots.example(typical(shown)))
        (out / "localization.png").write_bytes(plots.localization(shown))
        (out / "queries.png").write_bytes(plots.queries(typical(shown)))
    html = page.render(dataset, numbers, covered, heard)
    (out / "html" / "index.html").write_text(html, encoding="utf-8")
    return numbers


def separation(found: Mapping[str, list[Row]], bounds: list[Row]) -> dict[str, Any]:
    """Scores by method and kind of query, and by class below them; `bounds` has `mixture` and `ideal`."""
    out: dict[str, Any] = {}
    for method, rows in found.items():
        if method in {*BOUNDS, "localization"}:
            raise AvsetError(f"a method cannot be called {method!r}: that name is taken in metrics.json")
        if not rows:
            raise AvsetError(f"{method} has no scores: run `dvc repro -f evaluate`")
        kinds = examples.ordered(dict.fromkeys(r["query"] for r in rows))
        out[method] = {k: _scores([r for r in rows if r["query"] == k]) for k in kinds}
    scored = {r["mixture_id"] for rows in found.values() for r in rows}
    for bound in BOUNDS:
        rows = [r for r in bounds if r["method"] == bound and r["mixture_id"] in scored]
        if not rows:
            raise AvsetError(f"the mixtures have no scores of {bound!r}: run `dvc repro -f mixtures`")
        out[bound] = _scores(rows)
    return out


def _scores(rows: list[Row]) -> dict[str, Any]:
    gains = metrics.summary([r["nsdr"] for r in rows])
    classes = {label: [r["nsdr"] for r in rows if r["label"] == label] for label in {r["label"] for r in rows}}
    return {
        "nsdr": gains["mean"],
        "nsdr_median": gains["median"],
        "nsdr_sem": gains["sem"],
        **{k: metrics.summary([r[k] for r in rows])["mean"] for k in ("sdr", "sir", "sar")},
        "n": len(rows),
        "silent": sum(r["silent"] for r in rows),
        "per_class": {k: {"nsdr": fmean(v), "n": len(v)} for k, v in sorted(classes.items())},
    }


def localization(places: Mapping[str, list[Row]], first: str) -> dict[str, Any]:
    """Pointing game, cIoU@0.5 and mean IoU by what looks: the encoder with a text or a latent caption, or the
    separated sound; of the `first` method, and the sound's under the names of the others."""
    out: dict[str, Any] = {}
    for method, rows in places.items():
        looks = {k: [r for r in rows if r["attention"] == k] for k in tables.LOOKS[:-1]}
        if method == first:
            found = {k: _looks(v) for k, v in looks.items() if v}
            chance = {"chance": {"pointing": fmean(r["chance"] for r in rows)}} if rows else {}
            out["localization"] = found | chance
        elif looks["sound"]:
            out[method] = {"localization": {"sound": _looks(looks["sound"])}}
    return out


def _looks(rows: list[Row]) -> dict[str, float]:
    return {
        "pointing": fmean(r["hit"] for r in rows),
        "ciou": fmean(r["iou"] >= 0.5 for r in rows),
        "iou": fmean(r["iou"] for r in rows),
        "n": len(rows),
    }


def cover(indices: Mapping[str, Path]) -> dict[str, Any]:
    """Per stage: clips ok and failed, and the failures by reason; the same by split and by label.

    `indices` has the `index.parquet` of each stage; that of `clips` knows splits and labels. A clip counts
    under each of its labels, and as `tables.UNLABELLED` without one.
    """
    kinds: dict[Kind, int] = {}  # numbered: far fewer than clips
    known: dict[str, int] = {}
    for clips, splits, labels in read_columns(indices["clips"], "clip_id", "split", "labels"):
        found = zip(splits, map(tuple, labels), strict=True)
        known.update(zip(clips, (kinds.setdefault(kind, len(kinds)) for kind in found), strict=True))
    return {stage: _covered(known, list(kinds), path) for stage, path in indices.items()}


def _covered(known: Mapping[str, int], kinds: Sequence[Kind], index: Path) -> dict[str, Any]:
    fates: Counter[tuple[int | None, str]] = Counter()
    for clips, reasons in read_columns(index, "clip_id", "reason"):
        fates.update(zip(map(known.get, clips), reasons, strict=True))
    by_split, by_label = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    for (number, reason), n in fates.items():
        split, labels = ("unknown", ()) if number is None else kinds[number]
        by_split[split][reason] += n
        for label in set(labels) or {tables.UNLABELLED}:
            by_label[label][reason] += n
    return {
        **_fates(sum(by_split.values(), Counter())),
        "splits": {k: _fates(v) for k, v in sorted(by_split.items())},
        "labels": {k: _fates(v) for k, v in sorted(by_label.items())},
    }


def _fates(reasons: Counter[str]) -> dict[str, Any]:
    failed = {k: n for k, n in sorted(reasons.items()) if k}  # a clip without a reason is ok
    return {"ok": reasons[""], "failed": sum(failed.values()), "reasons": failed}


def typical(shown: Sequence[Example]) -> Example:
    """The example of median NSDR under the first kind of query: neither the best nor the worst one."""

    def gain(example: Example) -> float:
        found = example.separations[examples.ordered(example.separations)[0]].nsdr
        return 0.0 if found is None else float(found.mean())

    return sorted(shown, key=lambda e: (gain(e), e.mixture_id))[len(shown) // 2]


def rounded(value: Any) -> Any:
    """Numbers to `DIGITS` decimals at any depth; what is not finite becomes None, JSON's null."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0 if math.isfinite(value) else None
    return value


def table(numbers: Mapping[str, Any]) -> str:
    """The metrics as plain text: separation between its two bounds, localisation, then the facts."""
    lines: list[tuple[str, ...]] = [
        ("separation [dB]", "query", "NSDR", "±", "median", "SDR", "SIR", "SAR", "n", "silent")
    ]
    for method, kind, s in tables.ranking(numbers):
        values = [s[k] for k in ("nsdr", "nsdr_sem", "nsdr_median", "sdr", "sir", "sar")]
        lines.append((method, kind, *map(tables.decibel, values), str(s["n"]), str(s["silent"])))
    text = aligned(lines)
    if looks := tables.looking(numbers):
        heads = [("localisation", "", "pointing", "cIoU@0.5", "IoU", "n")]
        keys = ("pointing", "ciou", "iou")
        text += "\n" + aligned(
            heads + [(m, k, *(tables.share(s.get(x)) for x in keys), str(s.get("n", ""))) for m, k, s in looks]
        )
    if rest := tables.facts(numbers):
        text += "\n" + aligned([("facts", "", ""), *((k, "", str(v)) for k, v in rest)])
    return text


def _merged(into: Mapping[str, Any], more: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    out = dict(into)
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(out.get(key, {}), Mapping):
            out[key] = _merged(out.get(key, {}), value, f"{path}{key}.")
        elif key in out:
            raise AvsetError(f"the fact {path}{key} would overwrite a metric: give it another name")
        else:
            out[key] = value
    return out


def _write_curves(out: Path, numbers: Mapping[str, Any]) -> None:
    entries = [(m, k, s) for m, k, s in tables.ranking(numbers) if m != "mixture"]
    by_method = [(m, k, s["nsdr"], s["nsdr_sem"]) for m, k, s in entries]
    by_class = [(m, k, c, v["nsdr"], v["n"]) for m, k, s in entries for c, v in s["per_class"].items()]
    for name, head, rows in (
        ("nsdr_by_method", ("method", "query", "nsdr", "sem"), by_method),
        ("nsdr_by_class", ("method", "query", "label", "nsdr", "n"), by_class),
    ):
        with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *rows])

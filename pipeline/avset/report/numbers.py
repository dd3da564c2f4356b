"""Means of separation and localisation over the test mixtures, and what of them is in metrics.json."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from avset.errors import AvsetError
from avset.evaluation import metrics
from avset.evaluation.examples import ordered

Row = dict[str, Any]  # of scores.parquet, of localization.parquet or of mixtures.parquet
BOUNDS = ("mixture", "ideal")  # no method should fall below the first, no mask can exceed the second
APART = "same_category"  # the split of mixtures of one category, and the entry of their means
ATTENTIONS = ("text", "caption", "sound", "chance")  # what is asked where a source is
BRIEF = {  # what metrics.json keeps of an entry, by the key of the entry or of one above it; "": of all others
    "": {"nsdr", "sdr", "sir", "sar", "n"},
    "mixture": {"nsdr", "sdr", "sir", "sar", "n", "of", "videos"},
    "localization": {"pointing", "ciou"},
    APART: {"nsdr", "n"},
}
DECIMALS = 4  # of every number in a file


def separation_means(scores: Mapping[str, list[Row]], bounds: list[Row], mixtures: list[Row]) -> dict[str, Any]:
    """Mean scores by method and kind of query, and by class below them; `bounds` has `mixture` and `ideal`.

    `mixtures` are all that were drawn. Those of one category are apart, under `same_category`. Entries that were not
    asked for the same sources have their NSDR on the `shared` ones, too: only those can be compared.

    AvsetError: a method has the name of another entry, or there are no rows of a method or of a bound.
    """
    for method, rows in scores.items():
        if method in {*BOUNDS, APART, "localization"}:
            raise AvsetError(f"a method cannot be called {method!r}: that name is taken in metrics.json")
        if not rows:
            raise AvsetError(f"{method} has no scores: run `dvc repro -f evaluate`")
    out = _means(scores, bounds, [one for one in mixtures if one["split"] == "test"])
    apart = [one for one in mixtures if one["split"] == APART]
    scored = {r["mixture_id"] for rows in scores.values() for r in rows}
    return out | ({APART: _means(scores, bounds, apart)} if scored & {one["mixture_id"] for one in apart} else {})


def _means(scores: Mapping[str, list[Row]], bounds: list[Row], mixtures: list[Row]) -> dict[str, Any]:
    """The tree of the means over some mixtures."""
    videos = {one["mixture_id"]: one["contents"] for one in mixtures}
    of = sum(map(len, videos.values()))
    rows: dict[tuple[str, ...], list[Row]] = {}  # by the path of their entry
    for method, all_rows in scores.items():
        mine = [r for r in all_rows if r["mixture_id"] in videos]
        for kind in ordered(dict.fromkeys(r["query"] for r in mine)):
            rows[method, kind] = [r for r in mine if r["query"] == kind]
    scored = {r["mixture_id"] for found in rows.values() for r in found}
    for bound in BOUNDS:
        rows[bound,] = [r for r in bounds if r["method"] == bound and r["mixture_id"] in scored]
        if not rows[bound,]:
            raise AvsetError(f"the mixtures have no scores of {bound!r}: run `dvc repro -f mixtures`")
    shared = set.intersection(*({_source(r) for r in found} for found in rows.values()))
    partial = any(len(found) > len(shared) for found in rows.values())
    out: dict[str, Any] = {}
    for (*above, name), found in rows.items():
        node = out.setdefault(above[0], {}) if above else out
        node[name] = _separation(found, videos) | {"of": of}
        if partial and shared:
            node[name]["shared"] = fmean(r["nsdr"] for r in found if _source(r) in shared)
            node[name]["shared_n"] = len(shared)
    labels = [[label for label in one["labels"] if label] for one in mixtures]
    out["mixture"] |= {"mixtures": len(mixtures), "alike": sum(len(set(own)) < len(own) for own in labels)}
    return out


def _source(row: Row) -> tuple[str, int]:
    return row["mixture_id"], row["source"]


def _separation(rows: list[Row], videos: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    gains = metrics.summary([r["nsdr"] for r in rows], [videos[r["mixture_id"]] for r in rows])
    classes = {label: [r for r in rows if r["label"] == label] for label in {r["label"] for r in rows}}
    return {
        "nsdr": gains["mean"],
        "nsdr_median": gains["median"],
        "nsdr_sem": gains["sem"],
        **{k: fmean(r[k] for r in rows) for k in ("sdr", "sir", "sar")},
        "n": len(rows),
        "videos": gains["videos"],
        "silent": sum(r["silent"] for r in rows),
        "per_class": {k: _of_class(v, videos) for k, v in sorted(classes.items())},
    }


def _of_class(rows: list[Row], videos: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Mean NSDR of the sources of a class, their number, and that of the videos that they are cut from."""
    own = {videos[r["mixture_id"]][r["source"]] for r in rows}
    return {"nsdr": fmean(r["nsdr"] for r in rows), "n": len(rows), "videos": len(own)}


def localization_means(places: Mapping[str, list[Row]]) -> dict[str, Any]:
    """Pointing game, cIoU@0.5 and mean IoU by attention: of a text, of a latent caption, of the separated sound.

    Text and caption do not depend on the method, so only the first method that localizes has all three, under
    `localization`; the sound's are also under the name of each other method.
    """
    out: dict[str, Any] = {}
    first = next((method for method, rows in places.items() if rows), next(iter(places), None))
    for method, rows in places.items():
        by_attention = {k: [r for r in rows if r["attention"] == k] for k in ATTENTIONS[:-1]}
        if method == first:
            means = {k: _localization(v) for k, v in by_attention.items() if v}
            chance = {"chance": {"pointing": fmean(r["chance"] for r in rows)}} if rows else {}
            out["localization"] = means | chance
        elif by_attention["sound"]:
            out[method] = {"localization": {"sound": _localization(by_attention["sound"])}}
    return out


def _localization(rows: list[Row]) -> dict[str, float]:
    return {
        "pointing": fmean(r["hit"] for r in rows),
        "ciou": fmean(r["iou"] >= 0.5 for r in rows),
        "iou": fmean(r["iou"] for r in rows),
        "n": len(rows),
        "videos": len({r["content"] for r in rows}),
    }


def in_brief(means: Mapping[str, Any], kept: str = "") -> dict[str, Any]:
    """What metrics.json keeps of the means, about fifteen numbers a method; the CSV files have the others."""
    out: dict[str, Any] = {}
    for key, value in means.items():
        if isinstance(value, Mapping):
            if key != "per_class":
                out[key] = in_brief(value, kept or (key if key in BRIEF else ""))
        elif key in BRIEF[kept]:
            out[key] = value
    return out


def merged(numbers: Mapping[str, Any], facts: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Both trees as one. AvsetError: a fact has the place of another number."""
    out = dict(numbers)
    for key, value in facts.items():
        if isinstance(value, Mapping) and isinstance(out.get(key, {}), Mapping):
            out[key] = merged(out.get(key, {}), value, f"{path}{key}.")
        elif key in out:
            raise AvsetError(f"the fact {path}{key} would overwrite a metric: give it another name")
        else:
            out[key] = value
    return out


def rounded(value: Any) -> Any:
    """Numbers to `DECIMALS` decimals at any depth; a number that is not finite becomes None, JSON's null."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return round(value, DECIMALS) + 0.0 if math.isfinite(value) else None
    return value

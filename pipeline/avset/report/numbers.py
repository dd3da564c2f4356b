"""Means of separation and localisation over the test mixtures, and what of them is in metrics.json."""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from statistics import fmean
from typing import Any

import numpy as np

from avset.errors import AvsetError
from avset.evaluation import metrics
from avset.evaluation.bounds import BOUNDS, TEMPLATE
from avset.evaluation.examples import ordered
from avset.models.presence import THRESHOLD

Row = dict[str, Any]  # of scores.parquet, of localization.parquet, of duets.parquet or of mixtures.parquet
ATTENTIONS = ("text", "caption", "sound", "wrong", "norm", "chance")  # what is asked where a source is
OF_A_METHOD = ("sound",)  # those that are not the same for all methods
DUETS = "duets"  # the entry of the localisation in clips of two labels
ANSWERS = "answers"  # the entry of a method's answers in real duets
EVIDENCE = ("sound", "picture", "energy")  # what tells that a thing is there; see avset.evaluation.presence
BRIEF = {  # what metrics.json keeps of an entry, by the key of the entry or of one above it; "": of all others
    "": {"nsdr", "moving", "sdr", "sir", "sar", "n"},
    "mixture": {"nsdr", "sdr", "sir", "sar", "n", "of", "videos"},
    "localization": {"pointing", "other", "ciou"},
    "answers": {"likeness", "residual", "distance", "n"},
    "presence": {"auc", "alone", "nonsense", "kept", "silenced"},
}
BRIEF_OF_SET = {"nsdr", "moving", "n"}  # the same, of a further set
DECIMALS = 4  # of every number in a file


def separation_means(scores: Mapping[str, list[Row]], bounds: list[Row], mixtures: list[Row]) -> dict[str, Any]:
    """Mean scores by method and kind of query, and by class below them; `bounds` has those of `BOUNDS`.

    `mixtures` are all that were drawn. Those of a further set are apart, under its name. Entries that were not asked
    for the same sources have their NSDR on the `shared` ones, too: only those can be compared.

    AvsetError: a method has the name of another entry, or there are no rows of a method or of a bound.
    """
    further = further_sets(mixtures)
    for method, rows in scores.items():
        if method in {*BOUNDS, *further, "localization"}:
            raise AvsetError(f"a method cannot be called {method!r}: that name is taken in metrics.json")
        if not rows:
            raise AvsetError(f"{method} has no scores: run `dvc repro -f evaluate`")
    out = _means(scores, bounds, [one for one in mixtures if one["split"] == "test"])
    scored = {r["mixture_id"] for rows in scores.values() for r in rows}
    for name in further:
        apart = [one for one in mixtures if one["split"] == name]
        if scored & {one["mixture_id"] for one in apart}:
            out[name] = _means(scores, bounds, apart)
    return out


def further_sets(mixtures: list[Row]) -> list[str]:
    """The names of the further sets that have mixtures."""
    return list(dict.fromkeys(one["split"] for one in mixtures if one["split"] not in ("validation", "test")))


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
        if not rows[bound,] and bound != TEMPLATE:
            raise AvsetError(f"the mixtures have no scores of {bound!r}: run `dvc repro -f mixtures`")
    rows = {path: found for path, found in rows.items() if found}
    compared = [{_source(r) for r in found} for path, found in rows.items() if path != (TEMPLATE,)]
    shared = set.intersection(*compared)
    partial = any(len(found) > len(shared) for found in rows.values())
    out: dict[str, Any] = {}
    for (*above, name), found in rows.items():
        node = out.setdefault(above[0], {}) if above else out
        node[name] = _separation(found, videos) | {"of": of}
        if partial and shared <= {_source(r) for r in found} and shared:
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
        "moving": fmean(r["moving"] for r in rows),
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
    """Pointing game, cIoU@0.5 and mean IoU by attention (`ATTENTIONS`) in clips of one label; and in duets, apart.

    In duets `other` is the share of hits in the box of the other label. What looks does not depend on the method, but
    for the separated sound. So only the first method that localizes has all, under `localization`; the sound's are also
    under the name of each other method.
    """
    out: dict[str, Any] = {}
    first = next((method for method, rows in places.items() if rows), next(iter(places), None))
    for method, rows in places.items():
        looks = ATTENTIONS[:-1] if method == first else OF_A_METHOD
        found = _by_attention([r for r in rows if r["labels"] == 1], looks)
        if duets := _by_attention([r for r in rows if r["labels"] == 2 and r["other"] is not None], looks):
            found[DUETS] = duets
        if method == first:
            out["localization"] = found
        elif found:
            out[method] = {"localization": found}
    return out


def _by_attention(rows: list[Row], looks: Sequence[str]) -> dict[str, Any]:
    """The means of some clips by what looks; with chance, if all looks are asked for."""
    by_attention = {k: [r for r in rows if r["attention"] == k] for k in looks}
    means: dict[str, Any] = {k: _localization(v) for k, v in by_attention.items() if v}
    if means and looks != OF_A_METHOD:
        means["chance"] = {"pointing": fmean(r["chance"] for r in rows)}
    return means


def _localization(rows: list[Row]) -> dict[str, float]:
    others = [r["other"] for r in rows if r["other"] is not None]
    return {
        "pointing": fmean(r["hit"] for r in rows),
        **({"other": fmean(others)} if others else {}),
        "ciou": fmean(r["iou"] >= 0.5 for r in rows),
        "iou": fmean(r["iou"] for r in rows),
        "n": len(rows),
        "videos": len({r["content"] for r in rows}),
    }


def duet_means(duets: Mapping[str, list[Row]]) -> dict[str, Any]:
    """By method and query (`text`, and the control `absent`) the means over the pairs of labels of real duets.

    `likeness` and `distance` are over the pairs that have one.
    """
    out: dict[str, Any] = {}
    for method, rows in duets.items():
        for query in dict.fromkeys(row["query"] for row in rows):
            mine = [row for row in rows if row["query"] == query]
            known = {key: [row[key] for row in mine if row[key] is not None]
                     for key in ("likeness", "weaker", "residual", "distance", "random")}  # fmt: skip
            means = {key: fmean(values) for key, values in known.items() if values}
            counts = {"n": len(mine), "videos": len({row["content"] for row in mine})}
            out.setdefault(method, {}).setdefault(ANSWERS, {})[query] = means | counts
    return out


def presence_means(heard: Mapping[str, list[Row]]) -> dict[str, Any]:
    """By method and evidence how well present things are told from absent ones; only of methods that have rows.

    `auc` is of the present and absent labels in mixtures, `alone` in single sources; `nonsense` is of present labels
    against words that name no sound. `kept` is the share of the present things that have at least `THRESHOLD`,
    `silenced` that of the absent ones that have less, and `silenced_nonsense` that of nonsense.
    """
    return {
        method: {"presence": {name: _presence(rows, name) for name in EVIDENCE if rows[0][name] is not None}}
        for method, rows in heard.items() if rows
    }  # fmt: skip


def _share(true: np.ndarray) -> float:
    return float(true.mean()) if len(true) else math.nan


def _presence(rows: list[Row], evidence: str) -> dict[str, float]:
    def scores(truth: str, sources: int = 0) -> np.ndarray:
        return np.array([r[evidence] for r in rows if r["truth"] == truth and sources in (0, min(r["sources"], 2))])

    found = {
        "auc": metrics.auc(scores("present", 2), scores("absent", 2)),
        "alone": metrics.auc(scores("present", 1), scores("absent", 1)),
        "nonsense": metrics.auc(scores("present"), scores("nonsense")),
    }
    if evidence != "energy":
        found |= {
            "kept": _share(scores("present") >= THRESHOLD),
            "silenced": _share(scores("absent") < THRESHOLD),
            "silenced_nonsense": _share(scores("nonsense") < THRESHOLD),
        }
    return found | {truth: len(scores(truth)) for truth in ("present", "absent")}


def in_brief(
    means: Mapping[str, Any], further: Sequence[str] = (), kept: AbstractSet[str] = BRIEF[""]
) -> dict[str, Any]:
    """What metrics.json keeps of the means, some twenty numbers a method; the CSV files have the others."""
    out: dict[str, Any] = {}
    for key, value in means.items():
        if key in further:
            out[key] = in_brief(value, (), BRIEF_OF_SET)
        elif isinstance(value, Mapping):
            if key != "per_class":
                out[key] = in_brief(value, (), kept if kept is BRIEF_OF_SET else BRIEF.get(key, kept))
        elif key in kept:
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

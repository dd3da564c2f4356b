"""metrics.json: means of separation and localisation over the test mixtures, and facts beside them."""

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from avset.errors import AvsetError
from avset.evaluation import metrics
from avset.evaluation.examples import ordered

Row = dict[str, Any]  # of scores.parquet or of localization.parquet
BOUNDS = ("mixture", "ideal")  # no method should fall below the first, no mask can exceed the second
ATTENTIONS = ("text", "caption", "sound", "chance")  # what is asked where a source is
DECIMALS = 4  # of every number in a JSON file


def separation_means(scores: Mapping[str, list[Row]], bounds: list[Row]) -> dict[str, Any]:
    """Mean scores by method and kind of query, and by class below them; `bounds` has `mixture` and `ideal`.

    AvsetError: a method has the name of another entry, or there are no rows of a method or of a bound.
    """
    out: dict[str, Any] = {}
    for method, rows in scores.items():
        if method in {*BOUNDS, "localization"}:
            raise AvsetError(f"a method cannot be called {method!r}: that name is taken in metrics.json")
        if not rows:
            raise AvsetError(f"{method} has no scores: run `dvc repro -f evaluate`")
        kinds = ordered(dict.fromkeys(r["query"] for r in rows))
        out[method] = {k: _separation([r for r in rows if r["query"] == k]) for k in kinds}
    scored = {r["mixture_id"] for rows in scores.values() for r in rows}
    for bound in BOUNDS:
        rows = [r for r in bounds if r["method"] == bound and r["mixture_id"] in scored]
        if not rows:
            raise AvsetError(f"the mixtures have no scores of {bound!r}: run `dvc repro -f mixtures`")
        out[bound] = _separation(rows)
    return out


def _separation(rows: list[Row]) -> dict[str, Any]:
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
    }


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

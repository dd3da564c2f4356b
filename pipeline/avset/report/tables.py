"""The tables of the report: which rows they have, in which order, and how a number is written."""

from collections.abc import Iterator, Mapping
from typing import Any

from avset.console import aligned
from avset.evaluation.examples import ordered
from avset.report.numbers import ATTENTIONS, BOUNDS

DISPLAY_NAMES = {
    "text": "text query",
    "word": "one word",
    "video": "video query",
    "caption": "latent caption",
    "sound": "separated sound",
    "chance": "a random cell",
    "mixture": "untouched mixture",
    "ideal": "ideal mask",
    "oracle": "best assignment (oracle)",
    "none": "no query",
    "avset": "AV-SeT",
    "av_mix_and_separate": "AV-Mix-and-Separate",
    "sound_of_pixels": "Sound of Pixels",
    "nmf_mfcc": "NMF-MFCC",
    "co_separation": "Co-Separation",
    "avsgs": "AVSGS",
}
Numbers = Mapping[str, Any]  # the content of metrics.json, or a part of it


def separation_rows(numbers: Numbers) -> list[tuple[str, str, Numbers]]:
    """(method, kind of query, scores): the mixture, all methods, the ideal mask; the bounds have no query."""
    methods = [(m, v) for m, v in numbers.items() if m not in BOUNDS and isinstance(v, Mapping)]
    kinds = [(m, k, v[k]) for m, v in methods for k in ordered(v) if "nsdr_sem" in _mapping(v[k])]
    return [("mixture", "", numbers["mixture"]), *kinds, ("ideal", "", numbers["ideal"])]


def oracle_note(numbers: Numbers) -> str:
    """What must be said of methods that know no query; nothing if there are none."""
    names = dict.fromkeys(display_name(method) for method, kind, _ in separation_rows(numbers) if kind == "oracle")
    if not names:
        return ""
    knows = "knows" if len(names) == 1 else "know"
    return (
        f"{', '.join(names)} {knows} no query. The true sources assign the outputs, by the permutation of the highest "
        "SDR: an oracle."
    )


def localization_rows(numbers: Numbers) -> list[tuple[str, str, Numbers]]:
    """(method, attention, scores) of the localisation, chance last; rows of the first method have no name."""
    tables = {"": numbers.get("localization")}
    tables |= {m: _mapping(v).get("localization") for m, v in numbers.items()}
    rows = [(m, k, s) for m, scores in tables.items() for k, s in _mapping(scores).items() if k in ATTENTIONS]
    return sorted(rows, key=lambda row: ATTENTIONS.index(row[1]))


def fact_rows(numbers: Numbers) -> list[tuple[str, Any]]:
    """(dotted name, value) of all numbers that are neither separation nor localisation scores."""
    scored = {m for m, _, _ in separation_rows(numbers)} | {"localization"}
    return [pair for key, value in numbers.items() if key not in scored for pair in _leaves(value, key)]


def numbers_as_text(numbers: Numbers) -> str:
    """The metrics as plain text: separation between the two bounds, localisation, then the facts."""
    lines: list[tuple[str, ...]] = [
        ("separation [dB]", "query", "NSDR", "±", "median", "SDR", "SIR", "SAR", "n", "silent")
    ]
    for method, kind, s in separation_rows(numbers):
        values = [s[k] for k in ("nsdr", "nsdr_sem", "nsdr_median", "sdr", "sir", "sar")]
        lines.append((method, kind, *map(format_decibel, values), str(s["n"]), str(s["silent"])))
    text = aligned(lines)
    if note := oracle_note(numbers):
        text += f"{note}\n"
    if rows := localization_rows(numbers):
        head = ("localisation", "", "pointing", "cIoU@0.5", "IoU", "n")
        keys = ("pointing", "ciou", "iou")
        lines = [(m, k, *(format_share(s.get(x)) for x in keys), str(s.get("n", ""))) for m, k, s in rows]
        text += "\n" + aligned([head, *lines])
    if facts := fact_rows(numbers):
        text += "\n" + aligned([("facts", "", ""), *((k, "", str(v)) for k, v in facts)])
    return text


def display_name(key: str) -> str:
    """A method, a kind of query or an attention in words."""
    return DISPLAY_NAMES.get(key, key.replace("_", " "))


def format_decibel(value: float | None) -> str:
    """Two decimals; a dash for a value that is not finite (a mixture has no artefacts, so no SAR)."""
    return "–" if value is None or abs(value) >= 99.9 else f"{value:.2f}"


def format_percent(part: int, whole: int) -> str:
    """Per cent with one decimal; 0 and 100 only for none and all."""
    if not whole or part in (0, whole):
        return str(100 * part // whole) if whole else "–"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f}"


def format_count(value: int) -> str:
    """A whole number with commas, nothing for none."""
    return f"{value:,}" if value else ""


def format_share(value: float | None) -> str:
    """A share of one with three decimals, or nothing."""
    return "" if value is None else f"{value:.3f}"


def _mapping(value: Any) -> Numbers:
    return value if isinstance(value, Mapping) else {}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{path}.{key}")

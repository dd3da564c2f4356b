"""The tables of the report: which rows they have, in which order, and how a number is written."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from avset.errors import REASONS
from avset.evaluation.examples import ordered

NAMES = {
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


PUBLISHED = {  # NSDR, SIR, SAR in dB: the paper's Tables 1 (solos), 2, 3 and 7
    "music": [
        ("AV-SeT", "video", 7.98, 13.92, 12.35),
        ("AV-SeT", "text", 6.45, 11.18, 10.77),
        ("Sound of Pixels", "video", 7.30, 11.90, 11.90),
        ("AV-Mix-and-Separate", "video", 3.16, 6.74, 8.89),
        ("NMF-MFCC", "", 0.92, 5.68, 6.84),
        ("Co-Separation", "video", 7.38, 13.70, 10.82),
        ("AVSGS", "video", 9.04, 14.45, 12.24),
    ],
    "solos": [
        ("AV-SeT", "video", 8.58, 14.16, 12.35),
        ("AV-SeT", "text", 6.92, 12.07, 10.41),
        ("Sound of Pixels", "video", 6.28, 10.84, 10.13),
        ("AV-Mix-and-Separate", "video", 2.94, 5.81, 8.33),
        ("NMF-MFCC", "", 0.68, 4.75, 5.12),
        ("Co-Separation", "video", 7.11, 12.09, 10.05),
        ("AVSGS", "video", 9.20, 14.05, 12.17),
    ],
    "audioset": [
        ("AV-SeT", "video", 4.15, 7.62, 13.20),
        ("AV-SeT", "text", 2.36, 4.71, 10.28),
        ("Sound of Pixels", "video", 1.66, 3.58, 11.50),
        ("AV-Mix-and-Separate", "video", 1.68, 3.30, 12.20),
        ("NMF-MFCC", "", 0.25, 4.19, 5.78),
        ("Co-Separation", "video", 4.26, 7.07, 13.00),
        ("AVSGS", "video", 5.28, 8.27, 13.04),
    ],
}


UNLABELLED = "unlabelled"  # the class of clips without a label


LOOKS = ("text", "caption", "sound", "chance")  # what is asked where the source is


Scores = Mapping[str, Any]


def ranking(numbers: Scores) -> list[tuple[str, str, Scores]]:
    """(method, kind of query, scores): the mixture, all methods, the ideal mask; the bounds have no query."""
    methods = [(m, v) for m, v in numbers.items() if m not in ("mixture", "ideal") and isinstance(v, Mapping)]
    kinds = [(m, k, v[k]) for m, v in methods for k in ordered(v) if "nsdr_sem" in _mapping(v[k])]
    return [("mixture", "", numbers["mixture"]), *kinds, ("ideal", "", numbers["ideal"])]


def oracle(numbers: Scores) -> str:
    """What must be said of methods that know no query; nothing if there are none."""
    names = dict.fromkeys(named(method) for method, kind, _ in ranking(numbers) if kind == "oracle")
    if not names:
        return ""
    knows = "knows" if len(names) == 1 else "know"
    return (
        f"{', '.join(names)} {knows} no query. The true sources assign the outputs, by the permutation of the highest "
        "SDR: an oracle."
    )


def looking(numbers: Scores) -> list[tuple[str, str, Scores]]:
    """(method, what looks, scores) of the localisation, chance last; the first method's go without a name."""
    tables = {"": numbers.get("localization")}
    tables |= {m: _mapping(v).get("localization") for m, v in numbers.items()}
    found = [(m, k, s) for m, scores in tables.items() for k, s in _mapping(scores).items() if k in LOOKS]
    return sorted(found, key=lambda row: LOOKS.index(row[1]))


def facts(numbers: Scores) -> list[tuple[str, Any]]:
    """(dotted name, value) of all numbers that are neither separation nor localisation scores."""
    known = {m for m, _, _ in ranking(numbers)} | {"localization"}
    return [pair for key, value in numbers.items() if key not in known for pair in _walk(value, key)]


def published(dataset: str) -> list[tuple[str, str, float, float, float]]:
    """The paper's (system, kind of query, NSDR, SIR, SAR) on the data set of that name, if it has any."""
    return next((rows for name, rows in PUBLISHED.items() if dataset.lower().startswith(name)), [])


def stages(covered: Scores) -> dict[str, Scores]:
    """What coverage.json knows of each stage."""
    return {stage: counts for stage, counts in covered.items() if stage != "lists"}


def tried(counts: Scores) -> int:
    """Clips that reached a stage: those that failed earlier are not counted against it."""
    return counts["ok"] + counts["failed"] - counts["reasons"].get("upstream", 0)


def own(counts: Scores) -> dict[str, int]:
    """The failures of a stage by reason, most frequent first, without those of earlier stages."""
    return dict(Counter({reason: n for reason, n in counts["reasons"].items() if reason != "upstream"}).most_common())


def by_class(counts: Scores) -> list[tuple[str, Scores]]:
    """(label, counts) of a stage, most clips first, those without a label last; none if all are without one."""
    labels = counts.get("labels", {})
    found = sorted(labels.items(), key=lambda pair: (pair[0] == UNLABELLED, -tried(pair[1]), pair[0]))
    return found if labels.keys() - {UNLABELLED} else []


def meanings(covered: Scores) -> list[tuple[str, str]]:
    """(reason, what it means) of all reasons that occur."""
    found = {reason for counts in stages(covered).values() for reason in own(counts)}
    return [(reason, REASONS.get(reason, "")) for reason in sorted(found, key=lambda r: ([*REASONS, r].index(r), r))]


def funnels(covered: Scores) -> list[tuple[str, list[tuple[str, int]]]]:
    """(list, its steps with the rows left) of the source's lists: JSON has no order, but no step adds a row."""

    def place(step: tuple[str, int]) -> tuple[int, bool]:
        return -step[1], step[0] != "rows"

    return [(name, sorted(steps.items(), key=place)) for name, steps in covered.get("lists", {}).items()]


def named(key: str) -> str:
    """A method or a kind of query in words."""
    return NAMES.get(key, key.replace("_", " "))


def decibel(value: float | None) -> str:
    """Two decimals; a dash for what has no finite value (a mixture has no artefacts, so no SAR)."""
    return "–" if value is None or abs(value) >= 99.9 else f"{value:.2f}"


def percent(part: int, whole: int) -> str:
    """Per cent with one decimal; 0 and 100 only for none and all."""
    if not whole or part in (0, whole):
        return str(100 * part // whole) if whole else "–"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f}"


def thousands(value: int) -> str:
    """A whole number with commas, nothing for none."""
    return f"{value:,}" if value else ""


def share(value: float | None) -> str:
    """A share of one with three decimals, or nothing."""
    return "" if value is None else f"{value:.3f}"


def _mapping(value: Any) -> Scores:
    return value if isinstance(value, Mapping) else {}


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, inner in value.items():
        yield from _walk(inner, f"{path}.{key}")

"""The tables of the report: which rows they have, in which order, and how a number is written."""

from collections.abc import Iterator, Mapping
from typing import Any

from avset.console import aligned
from avset.evaluation.bounds import BOUNDS, MIXTURE
from avset.evaluation.examples import QUERIES, ordered
from avset.models.presence import THRESHOLD
from avset.params import CONTROLS
from avset.report.numbers import ANSWERS, ATTENTIONS, DUETS, EVIDENCE

DISPLAY_NAMES = {
    "text": "text query",
    "word": "one word",
    "video": "video query",
    "caption": "latent caption",
    "sound": "separated sound",
    "other": "control: other source",
    "absent": "control: absent class",
    "wrong": "control: absent class",
    "norm": "control: length of a region",
    "picture": "sound and picture",
    "energy": "energy alone",
    "chance": "a random cell",
    "mixture": "untouched mixture",
    "template": "class templates (oracle)",
    "fixed": "best fixed equaliser (oracle)",
    "ideal": "ideal mask (oracle)",
    "ideal_linear": "ideal mask, linear bins (oracle)",
    "same_category": "one category",
    "three": "three sources",
    "oracle": "best assignment (oracle)",
    "none": "no query",
    "avset": "AV-SeT",
    "av_mix_and_separate": "AV-Mix-and-Separate",
    "sound_of_pixels": "Sound of Pixels",
    "nmf_mfcc": "NMF-MFCC",
    "co_separation": "Co-Separation",
    "avsgs": "AVSGS",
}
FACTS = {
    "captions.accuracy": "share of latent captions to which the text of their own label is nearest",
    "captions.cosine": "cosine of latent captions and what they were made for, mean",
    "captions.n": "test clips with a latent caption",
    "encoder.zero_shot": "share of centre frames to which the text of their own label is nearest",
    "encoder.n": "test clips of one label",
    "encoder.of": "test clips",
}
PRESENCE = {  # column -> its heading
    "auc": "AUC",
    "alone": "alone",
    "nonsense": "nonsense",
    "kept": "kept",
    "silenced": "silenced",
    "silenced_nonsense": "nonsense silenced",
}
Numbers = Mapping[str, Any]  # all numbers of a report, or a part of them


def separation_rows(numbers: Numbers) -> list[tuple[str, str, Numbers]]:
    """(method, kind of query, scores): the mixture, all methods, the oracles; the bounds have no query."""
    methods = [(m, v) for m, v in numbers.items() if m not in (*BOUNDS, *further(numbers)) and isinstance(v, Mapping)]
    kinds = [(m, k, v[k]) for m, v in methods for k in ordered(v) if "nsdr_sem" in _mapping(v[k])]
    oracles = [(bound, "", numbers[bound]) for bound in BOUNDS if bound != MIXTURE and bound in numbers]
    return [(MIXTURE, "", numbers[MIXTURE]), *kinds, *oracles]


def further(numbers: Numbers) -> list[str]:
    """The entries that are those of a further set of mixtures: each has bounds of its own."""
    return [name for name, entry in numbers.items() if MIXTURE in _mapping(entry)]


def bounds_note() -> str:
    """What must be said of the rows without a query, and of the column of what moves."""
    return (
        "The last rows are oracles: template knows the classes of both sources, and cannot listen; fixed is the best "
        "equaliser of each source that does not move; ideal and ideal_linear are the ideal ratio masks on the model's "
        "bins and on all bins of the transform. Moving is what the masks gain over the same masks averaged over time, "
        "weighted by energy: below zero, an equaliser does better."
    )


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
    """(method, attention, scores) of the localisation in clips of one label, chance last.

    Rows of the first method have no name.
    """
    tables = {"": numbers.get("localization")}
    tables |= {m: _mapping(v).get("localization") for m, v in numbers.items()}
    rows = [(m, k, s) for m, scores in tables.items() for k, s in _mapping(scores).items() if k in ATTENTIONS]
    return sorted(rows, key=lambda row: ATTENTIONS.index(row[1]))


def duet_rows(numbers: Numbers) -> list[tuple[str, str, Numbers]]:
    """The rows of `localization_rows` in duets."""
    inner = {m: {"localization": _mapping(_mapping(v).get("localization")).get(DUETS)} for m, v in numbers.items()}
    return localization_rows(inner | {"localization": _mapping(numbers.get("localization")).get(DUETS)})


def answer_rows(numbers: Numbers) -> list[tuple[str, str, Numbers]]:
    """(method, query, means) of the answers in real duets."""
    return [(m, k, s) for m, v in numbers.items() if m not in further(numbers)
            for k, s in _mapping(_mapping(v).get(ANSWERS)).items()]  # fmt: skip


def answers_note() -> str:
    """What must be said of the answers in real duets."""
    return (
        "Of clips with several players. No true source is needed, and real duets have none: so these numbers say "
        "whether two answers differ, and not whether they are right. Each text is asked of the clip's own sound. "
        "Likeness: the cosine of the two sounds; 1: the same sound. Weaker: the level of the weaker one against the "
        "other, dB. Residual: the energy of the clip less all answers, against the clip's, dB; far below 0 they add up "
        "to it. Distance: between the cells where the two sounds look, in sides of the picture, beside that of two "
        "random cells. The control asks by classes that are not in the clip: what it reaches as well is no sign that a "
        "text was understood."
    )


def presence_rows(numbers: Numbers) -> list[tuple[str, str, Numbers]]:
    """(method, evidence, scores) of how well present things are told from absent ones."""
    found = {m: _mapping(_mapping(v).get("presence")) for m, v in numbers.items()}
    return [(m, name, scores[name]) for m, scores in found.items() for name in EVIDENCE if name in scores]


def presence_note() -> str:
    """What must be said of the table of presence."""
    return (
        "Is what a text names in the sound at all? AUC: how often a label that is there has a higher score than one "
        "that is not, in mixtures and in sources alone; and than words that name no sound (nonsense). Kept and "
        f"silenced: the shares of present and of absent labels, and of nonsense, on their side of {THRESHOLD:g}. The "
        "scores were calibrated on the validation mixtures, with latent captions and without a label, so that 98 % of "
        "the captions that are there have more than a half. Texts have lower scores."
    )


def fact_rows(numbers: Numbers) -> list[tuple[str, Any]]:
    """(dotted name, value) of all numbers that are neither separation nor localisation scores."""
    scored = {m for m, _, _ in separation_rows(numbers)} | {"localization", *further(numbers)}
    return [pair for key, value in numbers.items() if key not in scored for pair in _leaves(value, key)]


def fact_name(key: str) -> str:
    """A fact in words."""
    return FACTS.get(key, key.replace(".", ": ").replace("_", " "))


def notes(numbers: Numbers) -> list[str]:
    """What must be said of the rows of `separation_rows`: who knows no query, and which rows cannot be compared."""
    rows, mixture = separation_rows(numbers), numbers["mixture"]
    found = [note] if (note := oracle_note(numbers)) else []
    if mixture["n"] < mixture["of"]:
        lost = mixture["of"] - mixture["n"]
        found.append(f"{lost} of {mixture['of']} sources were not scored: their mixtures have clips without features.")
    if "shared" in mixture:
        less = dict.fromkeys(display_name(kind) for _, kind, s in rows if kind and s["n"] < mixture["n"])
        found.append(
            f"{', '.join(less)}: not asked of all sources, because a text needs a source with one label, and phrases "
            "one for it; so the means are not of the same sources. Compare the column shared, the NSDR on the "
            f"{mixture['shared_n']} sources that every row has."
        )
    known = {*QUERIES, *CONTROLS, "oracle", "none"}
    if others := dict.fromkeys(display_name(kind) for _, kind, _ in rows if kind and kind not in known):
        found.append(f"{', '.join(others)}: an encoder that was never shown these words cannot know what they mean.")
    if mixture["alike"]:
        found.append(
            f"In {mixture['alike']} of {mixture['mixtures']} mixtures two sources are of one category, and no text can "
            "tell them apart."
        )
    if any(s["nsdr_sem"] is None for _, _, s in rows):
        found.append("There are too few videos to know a standard error (–).")
    return found


def numbers_as_text(numbers: Numbers) -> str:
    """All numbers as plain text: separation between the bounds, set by set, localisation, then the facts."""
    text = _separation_as_text("separation [dB]", numbers) + f"{bounds_note()}\n"
    for name in further(numbers):
        text += "\n" + _separation_as_text(f"{display_name(name)} [dB]", numbers[name])
    for title, rows in (("localisation", localization_rows(numbers)), ("in duets", duet_rows(numbers))):
        if rows:
            head = (title, "", "pointing", "other's box", "cIoU@0.5", "IoU", "n", "videos")
            keys = ("pointing", "other", "ciou", "iou")
            lines = [
                (m, k, *(format_share(s.get(x)) for x in keys), *(str(s.get(x, "")) for x in ("n", "videos")))
                for m, k, s in rows
            ]
            text += "\n" + aligned([head, *lines])
    if rows := answer_rows(numbers):
        titles = ("real duets", "", "likeness", "weaker", "residual", "distance", "random", "n", "videos")
        text += "\n" + aligned([titles, *((m, k, *answer_cells(s)) for m, k, s in rows)]) + f"{answers_note()}\n"
    if rows := presence_rows(numbers):
        told = [(m, name, *(format_share(s.get(key)) for key in PRESENCE)) for m, name, s in rows]
        text += "\n" + aligned([("presence", "by", *PRESENCE.values()), *told]) + f"{presence_note()}\n"
    if facts := fact_rows(numbers):
        text += "\n" + aligned([("facts", "", ""), *((k, "", str(v)) for k, v in facts)])
    return text


def answer_cells(means: Numbers) -> list[str]:
    """Likeness, weaker and residual (dB), distance and that of random cells, pairs, videos."""
    shares = [format_share(means.get(key)) for key in ("likeness", "distance", "random")]
    levels = [f"{means[key]:.1f}" for key in ("weaker", "residual")]
    return [shares[0], *levels, *shares[1:], str(means["n"]), str(means["videos"])]


def _separation_as_text(title: str, numbers: Numbers) -> str:
    """A table of separation with its notes."""
    shared = ["shared"] if "shared" in numbers["mixture"] else []
    lines = [(title, "query", "NSDR", "±", *shared, "moving", "median", "SDR", "SIR", "SAR", "n", "videos", "silent")]
    for method, kind, s in separation_rows(numbers):
        values = [s.get(k) for k in ("nsdr", "nsdr_sem", *shared, "moving", "nsdr_median", "sdr", "sir", "sar")]
        counts = (format_part(s["n"], s["of"]), str(s["videos"]), str(s["silent"]))
        lines.append((method, kind, *map(format_decibel, values), *counts))
    return aligned(lines) + "".join(f"{note}\n" for note in notes(numbers))


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


def format_part(part: int, whole: int) -> str:
    """ "130 of 132"; one number if that is all."""
    return str(part) if part == whole else f"{part} of {whole}"


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

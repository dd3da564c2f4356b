"""The ledger: from the rows of the lists to the queries that were scored, nothing goes in that does not come out.

A line says how many went into a step, how many came out, and why the others did not: `in` = `ok` + all of `failed`.
What a line takes in is what the line named `of` gave, where both count the same things.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avset.params import CONTROLS
from avset.storage.artifacts import ARTIFACTS, Record
from avset.storage.checksums import RECORD
from avset.storage.tables import read_columns

Line = dict[str, Any]
NO_LISTS = {"splits", "recordings"}  # entries of the funnel whose rows are no media: names in a table, and contents


def line(step: str, of: str, unit: str, came: int, ok: int, failed: Mapping[str, int]) -> Line:
    """A line; what neither came out nor has a reason is `unaccounted`."""
    told = {reason: n for reason, n in sorted(failed.items()) if n}
    if lost := came - ok - sum(told.values()):
        told["unaccounted"] = lost
    return {"step": step, "of": of, "unit": unit, "in": came, "ok": ok, "failed": told}


def ledger(
    indices: Mapping[str, Path], funnel: Mapping[str, Mapping[str, int]], mixtures: Path, scores: Mapping[str, Path]
) -> list[Line]:
    """The lines, in the order of the stages.

    indices   the `index.parquet` of each stage, `clips` among them
    funnel    list -> "rows", and what became of them, of which "used" are media
    mixtures  folder of the frozen mixtures
    scores    method -> folder of its scores
    """
    lines = list_lines(funnel)
    given = sum(one["ok"] for one in lines) if lines else None
    lines += clip_lines(indices["clips"], given)
    counts = {one["step"]: one["ok"] for one in lines}
    for stage in ARTIFACTS:
        if stage in indices and stage != "clips":
            of = ARTIFACTS[stage].of
            lines.append(_stage_line(stage, of, counts.get(of), indices[stage]))
            counts[stage] = lines[-1]["ok"]
    if (mixtures / "mixtures.parquet").exists() and (mixtures / RECORD).exists():
        drawn = _mixtures(mixtures / "mixtures.parquet")
        lines += mixture_lines(drawn, Record.read(mixtures).recipe)
        lines += [one for method, folder in scores.items() for one in query_lines(method, folder, drawn)]
    return lines


def list_lines(funnel: Mapping[str, Mapping[str, int]]) -> list[Line]:
    """A line for each list of the source: its rows, the media that they name, and why the others name none."""
    return [
        line(name, "", "rows", rows["rows"], rows["used"], {k: n for k, n in rows.items() if k not in ("rows", "used")})
        for name, rows in funnel.items()
        if name not in NO_LISTS
    ]


def clip_lines(index: Path, given: int | None) -> list[Line]:
    """The line of the media, and that of the clips of those media that have one; `given`: media of the lists.

    Invalid rows are media of the index, but not of the lists.
    """
    of: dict[str, Counter[str]] = {}
    for media, reasons in read_columns(index, "media_id", "reason"):
        for name, reason in zip(media, reasons, strict=True):
            if given is None or reason != "invalid":
                of.setdefault(name, Counter())[reason] += 1
    usable = [reasons for reasons in of.values() if reasons[""]]
    lost = Counter(reasons.most_common(1)[0][0] for reasons in of.values() if not reasons[""])
    parts = sum(usable, Counter[str]())
    failed = {reason: n for reason, n in parts.items() if reason}
    came = len(of) if given is None else given
    return [
        line("media", "" if given is None else "lists", "media", came, len(usable), lost),
        line("clips", "media", "clips", parts.total(), parts[""], failed),
    ]


def _stage_line(stage: str, of: str, given: int | None, index: Path) -> Line:
    reasons = Counter(reason for (column,) in read_columns(index, "reason") for reason in column)
    failed = {reason: n for reason, n in reasons.items() if reason not in ("", "upstream")}
    came = reasons[""] + sum(failed.values()) if given is None else given
    return line(stage, of, "clips", came, reasons[""], failed)


def _mixtures(table: Path) -> dict[str, tuple[str, list[str]]]:
    """Mixture -> its split and its labels."""
    columns = read_columns(table, "mixture_id", "split", "labels")
    return {name: (split, labels) for rows in columns for name, split, labels in zip(*rows, strict=True)}


def mixture_lines(drawn: Mapping[str, tuple[str, list[str]]], recipe: Mapping[str, Any]) -> list[Line]:
    """A line for each split: mixtures asked for, and mixtures drawn."""
    counts = Counter(split for split, _ in drawn.values())
    asked = {split: recipe[split] for split in ("validation", "test") if split in recipe}
    return [
        line(f"mixtures.{split}", "", "mixtures", n, counts[split], {"not possible": n - counts[split]})
        for split, n in asked.items()
    ]


def query_lines(method: str, folder: Path, drawn: Mapping[str, tuple[str, list[str]]]) -> list[Line]:
    """The test mixtures that a method was scored on, and for each kind of query the sources that have a score.

    A mixture whose clips lack regions or a caption is `incomplete`; a source that has no label has no text, nor has
    one beside it: `unlabelled`. A control, or a query of phrases, may have no words for a label: `no_phrase`.
    """
    rows: dict[str, Counter[str]] = {}
    for columns in read_columns(folder / "scores.parquet", "query", "mixture_id"):
        for query, name in zip(*columns, strict=True):
            rows.setdefault(query, Counter())[name] += 1
    test = {name: labels for name, (split, labels) in drawn.items() if split == "test"}
    scored = {name for names in rows.values() for name in names} & test.keys()
    lines = [
        line(f"{method}.mixtures", "mixtures.test", "mixtures", len(test), len(scored),
             {"incomplete": len(test) - len(scored)})
    ]  # fmt: skip
    came = sum(len(test[name]) for name in scored)
    if not any(label for labels in test.values() for label in labels):
        rows = {**{prompt: Counter() for prompt in Record.read(folder).recipe["prompts"]}, **rows}
    picky = {*CONTROLS, *Record.read(folder).recipe.get("phrases", ())}
    for query, names in rows.items():
        asked = sum(names[name] for name in scored)
        nameless = sum(len(test[name]) - names[name] for name in scored if not all(test[name]))
        failed = {"unlabelled": nameless} | ({"no_phrase": came - asked - nameless} if query in picky else {})
        lines.append(line(f"{method}.{query}", "", "queries", came, asked, failed))
    return lines

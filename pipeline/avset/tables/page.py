"""The page of results: the same rows as Markdown, CSV and HTML."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from avset.console import as_csv
from avset.report.page import render
from avset.report.tables import display_name, format_decibel, format_share

Row = Mapping[str, Any]
Table = Mapping[str, Any]


def decibel(value: float | None) -> str:
    """Two decimals, or nothing."""
    return "" if value is None else format_decibel(value)


def whole(value: float | int | None) -> str:
    """A number without decimals, or nothing."""
    return "" if value is None else f"{value:.0f}"


def difference(row: Row, found: str, digits: int) -> str:
    """The difference to the row of reference, its p, and whether it holds: "+2.10 (p 0.004, holds)"."""
    value, p, holds = (row.get(f"{found}_{key}") for key in ("difference", "p", "holds"))
    if value is None:
        return ""
    if p is None:
        return f"{value:+.{digits}f}"
    told = "< 0.001" if p < 0.001 else f"{p:.3f}"
    return f"{value:+.{digits}f} (p {told}{', holds' if holds else ''})"


def _of(key: str, write: Callable[[Any], str] = str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(key) is None else write(row[key])


COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {  # name -> its heading, and a row's cell
    "name": ("", _of("name")),
    "encoder": ("encoder", _of("encoder")),
    "supervision": ("supervision", _of("supervision")),
    "method": ("preset", _of("method")),
    "query": ("query", _of("query", display_name)),
    "nsdr": ("NSDR", _of("nsdr", decibel)),
    "sem": ("± mixtures", _of("sem", decibel)),
    "sd": ("± seeds", _of("sd", decibel)),
    "sir": ("SIR", _of("sir", decibel)),
    "sar": ("SAR", _of("sar", decibel)),
    "paper": ("paper: NSDR / SIR / SAR", _of("paper", lambda several: " / ".join(map(decibel, several)))),
    "separation": ("difference", lambda row: difference(row, "separation", 2)),
    "own": ("own box", _of("own", format_share)),
    "other": ("other’s box", _of("other", format_share)),
    "places": ("difference of own – other", lambda row: difference(row, "places", 3)),
    "moving": ("moving", _of("moving", decibel)),
    "n": ("sources", _of("n", whole)),
    "silent": ("silent", _of("silent", whole)),
    "seeds": ("seeds", _of("seeds", whole)),
    "steps": ("steps", _of("steps", whole)),
    "seconds": ("s", _of("seconds", whole)),
}
LEFT = ("name", "encoder", "supervision", "method", "query")
COMMON = ("supervision", "method", "query", "n", "silent", "seeds", "steps")  # told once where all rows have the same
KEYS = (  # of a row, in CSV
    "name", "encoder", "supervision", "method", "query", "nsdr", "sem", "sd", "sir", "sar", "moving", "n", "silent",
    "separation_difference", "separation_p", "separation_holds", "own", "other", "duets", "places_difference",
    "places_p", "places_holds", "seeds", "steps", "seconds",
)  # fmt: skip
NOTES = (
    "NSDR, SIR and SAR in dB, means over all sources of the frozen mixtures and over the seeds. ± mixtures: standard "
    "error, clustered by video; ± seeds: standard deviation of the means of the seeds. Moving: what the masks gain "
    "over the same masks averaged over time. Steps and s: those of a training; no time stands where one was restored "
    "or taken up.",
    "Difference: to the row of reference, on the same sources. p: sign-flip test over mixtures, clustered by video, "
    "raised by Holm over the rows of a table. A difference holds if p is below 0.05 and all seeds agree on its sign.",
)


def scored(table: Table) -> list[Row]:
    """The rows of a table that have numbers."""
    return [row for row in table["rows"] if not row["missing"]]


def columns_of(table: Table) -> list[str]:
    """The columns in which the rows with numbers differ, or that have a number of their own, in their order."""
    rows = scored(table)

    def wanted(key: str) -> bool:
        values = {cell(row, key) for row in rows}
        return len(values) > 1 if key in COMMON else bool(values - {""})

    return [key for key in COLUMNS if key in ("name", "nsdr") or wanted(key)]


def cell(row: Row, key: str) -> str:
    """A cell as text; of a row that is missing, the first words of why in the place of its NSDR."""
    if key == "nsdr" and row["missing"]:
        return str(row["missing"]).partition(":")[0]
    return COLUMNS[key][1](row)


def heading(table: Table) -> str:
    """The title, with the numbers of the paper's tables."""
    numbers = ", ".join(map(str, table["numbers"]))
    return f"{table['title']} (Table {numbers})" if numbers else table["title"]


def notes_of(table: Table) -> list[str]:
    """What must be said of a table: of its rows, what all of them share, and which are missing."""
    lines = [table["note"]] if table["note"] else []
    lines.append(f"Reference: {table['reference']}.")
    if table["split"] != "test":
        lines.append(f"On the further set {table['split']}.")
    rows, keys = scored(table), columns_of(table)
    if shared := [f"{COLUMNS[key][0]} {cell(rows[0], key)}" for key in COMMON if rows and key not in keys]:
        lines.append(f"All rows: {', '.join(one for one in shared if not one.endswith(' '))}.")
    told = [(r["name"], why) for r in table["rows"] for why in (r["missing"], *r["partial"]) if why]
    return lines + list(dict.fromkeys(f"Missing: {name}: {why}." for name, why in told))


def as_markdown(dataset: str, tables: Sequence[Table]) -> str:
    """The page as Markdown."""
    parts = [f"# Tables: {dataset}", *NOTES]
    for table in tables:
        keys = columns_of(table)
        lines = [[COLUMNS[key][0] for key in keys], [":--" if key in LEFT else "--:" for key in keys]]
        lines += [[cell(row, key).replace("|", "\\|") for key in keys] for row in table["rows"]]
        drawn = "\n".join(f"| {' | '.join(one)} |" for one in lines)
        parts += [f"## {heading(table)}", " ".join(notes_of(table)), drawn]
    return "\n\n".join(parts) + "\n"


def as_table(tables: Sequence[Table]) -> str:
    """All rows as CSV, numbers unrounded; a row that is missing says why."""
    papers = ("paper_nsdr", "paper_sir", "paper_sar")
    rows = [
        [
            table["name"],
            *(row.get(key) for key in KEYS),
            *(row["paper"] or [None] * 3),
            row["missing"] or "; ".join(row["partial"]),
        ]
        for table in tables
        for row in table["rows"]
    ]
    return as_csv([["table", *KEYS, *papers, "missing"], *rows])


def as_html(dataset: str, tables: Sequence[Table]) -> str:
    """The page as HTML, in the look of the report's."""
    return render(
        "tables.html", dataset=dataset, tables=tables, notes=NOTES, columns=COLUMNS, left=LEFT, columns_of=columns_of,
        cell=cell, heading=heading, notes_of=notes_of,
        top=max([row["nsdr"] for table in tables for row in table["rows"] if row.get("nsdr") is not None] + [1e-9]),
    )  # fmt: skip

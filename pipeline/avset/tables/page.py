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


def probability(value: float | None) -> str:
    """Three decimals, or nothing; what is below is told so."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def verdict(value: bool | None) -> str:
    """Whether a difference holds."""
    return "" if value is None else "holds" if value else "no"


def whole(value: float | int | None) -> str:
    """A number without decimals, or nothing."""
    return "" if value is None else f"{value:.0f}"


COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {  # key of a row -> its heading, and how a value is written
    "name": ("", str),
    "encoder": ("encoder", str),
    "supervision": ("supervision", str),
    "method": ("preset", str),
    "query": ("query", display_name),
    "nsdr": ("NSDR", decibel),
    "sem": ("± mixtures", decibel),
    "sd": ("± seeds", decibel),
    "sir": ("SIR", decibel),
    "sar": ("SAR", decibel),
    "moving": ("moving", decibel),
    "paper": ("paper: NSDR / SIR / SAR", lambda several: " / ".join(map(decibel, several)) if several else ""),
    "separation_difference": ("difference", decibel),
    "separation_p": ("p", probability),
    "separation_holds": ("holds", verdict),
    "own": ("own box", format_share),
    "other": ("other’s box", format_share),
    "places_difference": ("own – other, difference", format_share),
    "places_p": ("p", probability),
    "places_holds": ("holds", verdict),
    "n": ("sources", whole),
    "silent": ("silent", whole),
    "seeds": ("seeds", whole),
    "steps": ("steps", whole),
    "seconds": ("s", whole),
}
LEFT = ("name", "encoder", "supervision", "method", "query")
NOTES = (
    "NSDR, SIR and SAR in dB, means over all sources of the frozen mixtures and over the seeds. ± mixtures: standard "
    "error, clustered by video; ± seeds: standard deviation of the means of the seeds. Moving: what the masks gain "
    "over the same masks averaged over time. Steps and s: those of a training; no time stands where one was restored "
    "or taken up.",
    "Difference: to the row of reference, on the same sources. p: sign-flip test over mixtures, clustered by video, "
    "raised by Holm over the rows of a table. A difference holds if p is below 0.05 and all seeds agree on its sign.",
)


def columns_of(table: Table) -> list[str]:
    """The columns that a table fills, in their order."""
    rows = table["rows"]
    always = ("name", "query", "nsdr")
    return [key for key in COLUMNS if key in always or any(row.get(key) not in (None, "") for row in rows)]


def cell(row: Row, key: str) -> str:
    """A cell as text."""
    value = row.get(key)
    return "" if value is None else COLUMNS[key][1](value)


def heading(table: Table) -> str:
    """The title, with the numbers of the paper's tables."""
    numbers = ", ".join(map(str, table["numbers"]))
    return f"{table['title']} (Table {numbers})" if numbers else table["title"]


def notes_of(table: Table) -> list[str]:
    """What must be said of a table."""
    lines = [table["note"]] if table["note"] else []
    lines.append(f"Reference: {table['reference']}.")
    if table["split"] != "test":
        lines.append(f"On the further set {table['split']}.")
    return lines + [f"Missing: {row['name']}: {row['missing']}." for row in table["rows"] if row["missing"]]


def as_markdown(dataset: str, tables: Sequence[Table]) -> str:
    """The page as Markdown."""
    parts = [f"# Tables: {dataset}", *NOTES]
    for table in tables:
        keys = columns_of(table)
        lines = [[COLUMNS[key][0] for key in keys], [":--" if key in LEFT else "--:" for key in keys]]
        lines += [[cell(row, key).replace("|", "\\|") for key in keys] for row in table["rows"] if not row["missing"]]
        parts += [
            f"## {heading(table)}",
            " ".join(notes_of(table)),
            "\n".join(f"| {' | '.join(one)} |" for one in lines),
        ]
    return "\n\n".join(parts) + "\n"


def as_table(tables: Sequence[Table]) -> str:
    """All rows as CSV, numbers unrounded; a row that is missing says why."""
    keys = [key for key in COLUMNS if key != "paper"]
    papers = ("paper_nsdr", "paper_sir", "paper_sar")
    rows = [
        [table["name"], *(row.get(key) for key in keys), *(row["paper"] or [None] * 3), row["missing"]]
        for table in tables
        for row in table["rows"]
    ]
    return as_csv([["table", *keys, *papers, "missing"], *rows])


def as_html(dataset: str, tables: Sequence[Table]) -> str:
    """The page as HTML, in the look of the report's."""
    return render(
        "tables.html", dataset=dataset, tables=tables, notes=NOTES, columns=COLUMNS, left=LEFT, columns_of=columns_of,
        cell=cell, heading=heading, notes_of=notes_of,
        top=max([row["nsdr"] for table in tables for row in table["rows"] if row.get("nsdr") is not None] + [1e-9]),
    )  # fmt: skip

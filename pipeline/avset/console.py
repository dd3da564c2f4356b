"""What all commands share: the help option, plain tables, paths as users write them, terminals of few letters."""

import codecs
import csv
import io
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}  # context settings of every typer application
TYPED: dict[str, Any] = {"parser": lambda text: typed_path(text), "metavar": "PATH"}  # of a typer parameter
PLAIN = str.maketrans("–—±×·…“”‘’→", "--~x..\"\"''>")  # for a terminal of ASCII; one for one: columns stay columns

FORMULA = re.compile(r"'*\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # how a cell begins that spreadsheets compute
NUMBER = r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?"


def typed_path(text: str | Path) -> Path:
    """A path as a user wrote it; `~` is the home folder."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - the other one raises if there is no such user


def speak_plainly() -> None:
    """Let no character end a command: what a terminal cannot show is told in ASCII."""
    codecs.register_error("avset", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="avset")


def complain(error: object) -> None:
    """An error as a line on stderr, red on a terminal."""
    text = f"error: {error}"
    print(f"\033[31m{text}\033[0m" if sys.stderr.isatty() else text, file=sys.stderr)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = error.object[error.start : error.end].translate(PLAIN)
    return shown.encode("ascii", "backslashreplace").decode(), error.end


def as_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV that a spreadsheet may open: a text that would be a formula there gets an apostrophe before it.

    Numbers stay as they are. Who takes one apostrophe off such cells has the text again.
    """
    lines = []
    for row in rows:
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(map(_no_formula, row))  # so \r is quoted, and \n
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str) or re.fullmatch(NUMBER, cell):
        return cell
    return f"'{cell}" if FORMULA.match(cell) else cell


def aligned(lines: Sequence[Sequence[str]], left: int = 2, rule: bool = True) -> str:
    """Lines of cells as text in columns, with a rule below the first line; the first `left` columns are flush left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    if rule:
        rows.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(row.rstrip() for row in rows) + "\n"

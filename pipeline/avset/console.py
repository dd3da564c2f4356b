"""What all commands share: the names of the help option, and tables as plain text."""

from collections.abc import Sequence

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}  # context settings of every typer application


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

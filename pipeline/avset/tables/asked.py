"""tables/tables.yaml -> the tables that are asked for: rows of a method with changed parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from avset.errors import ParamsError
from avset.presets import Section
from avset.values import checked, choose, read

FILE = Path("tables/tables.yaml")
Scores = Annotated[list[float], Field(min_length=3, max_length=3)]  # NSDR, SIR, SAR in dB


class Row(Section):
    """A row: a method, and what is changed for it."""

    name: str = Field(min_length=1)
    method: str = ""  # a preset; empty: that of the table
    set: dict[str, Any] = Field(
        default_factory=dict
    )  # key of params.yaml -> value; `preset.` stands for the row's own preset
    query: str = ""  # empty: that of the table
    paper: dict[str, Scores] = Field(default_factory=dict)  # data set -> what the paper published
    scores: str = ""  # folder that `avset score --output` wrote: a system that is none of our methods

    @model_validator(mode="after")
    def _of_one_system(self) -> "Row":
        if self.scores and (self.method or self.set):
            raise ValueError("a row with scores has no method, and sets no parameter")
        return self


class Table(Section):
    """A table: its rows, what they are scored by, and the row with which the others are compared."""

    title: str = Field(min_length=1)
    numbers: list[int] = Field(default_factory=list)  # of the paper's tables
    note: str = ""
    method: str = ""  # a preset; empty: `Asked.method`
    query: str = "video"
    split: str = "test"  # or a further set
    duets: bool = False  # with the localisation in duets
    encoders: bool = False  # each row once more with every encoder of `Asked.encoders`
    published: bool = False  # with the paper's numbers of systems, see avset.report.published
    others: bool = False  # a row for each preset that no row names
    reference: str  # name of a row
    rows: list[Row] = Field(min_length=1)


class Asked(Section):
    """All tables."""

    method: str  # the preset that ablations change
    encoders: list[str] = Field(default_factory=list)  # folders of further encoders: encoder.json, encoder.safetensors
    tables: dict[str, Table] = Field(min_length=1)


def load(path: Path = FILE, method: str = "") -> Asked:
    """Read and check tables.yaml; `method` takes the place of its own. ParamsError names what is wrong."""
    tree = read(path)
    try:
        asked = checked(Asked, tree, path.name)
    except ParamsError as e:
        raise ParamsError(str(e).replace("missing from params.yaml", f"missing from {path}")) from None
    asked = asked.model_copy(update={"method": method or asked.method})
    for name, table in asked.tables.items():
        names = [row.name for row in table.rows]
        if twice := sorted({one for one in names if names.count(one) > 1}):
            raise ParamsError(f"{path.name}: {name} has two rows of the name {twice[0]!r}; rename one")
        choose(table.reference, names, f"{path.name}: tables.{name}.reference")
    return asked


def choose_tables(asked: Asked, only: str) -> dict[str, Table]:
    """The tables of a list of names, or of the paper's numbers, with commas; "": all. ParamsError if one is unknown."""
    if not only.strip(" ,"):
        return dict(asked.tables)
    by_word = {name: [name] for name in asked.tables}
    for name, table in asked.tables.items():
        for number in table.numbers:
            by_word.setdefault(str(number), []).append(name)
    words = [word.strip() for word in only.split(",") if word.strip()]
    chosen = {name for word in words for name in by_word[choose(word, by_word, "--only")]}
    return {name: table for name, table in asked.tables.items() if name in chosen}


def rows_of(table: Table, presets: Sequence[str]) -> list[Row]:
    """The rows of a table; where it asks for the others, with those of the presets that none of its rows names."""
    if not table.others:
        return table.rows
    named = {row.method or table.method for row in table.rows if not row.scores}
    return [*table.rows, *(Row(name=name.replace("_", " "), method=name) for name in presets if name not in named)]


def flat(tree: Any, path: str = "") -> list[str]:
    """The dotted names of all keys of a tree."""
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else ():
        here = f"{path}.{key}" if path else str(key)
        found += [here, *flat(value, here)]
    return found


def value_of(tree: Any, key: str) -> Any:
    """The value of a dotted key; KeyError if there is none."""
    for part in key.split("."):
        if not isinstance(tree, dict):
            raise KeyError(key)
        tree = tree[part]
    return tree

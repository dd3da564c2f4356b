"""The numbers of the tables: means over mixtures and seeds, how sure they are, and which differences hold."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from avset.errors import AvsetError
from avset.evaluation import metrics
from avset.report.published import PUBLISHED
from avset.storage.files import write_atomic
from avset.storage.tables import read_table
from avset.tables import make
from avset.tables.asked import FILE, load
from avset.tables.make import cost_of
from avset.tables.nodes import PLAN, WRITTEN, Plan
from avset.tables.page import as_html, as_markdown, as_table
from avset.tables.paired import holm, paired_test
from avset.tables.plan import made_of
from avset.values import read

ORACLE = "oracle"  # the query of methods that know none
LEVEL = 0.05  # a difference holds below it
Unit = tuple[str, Any]  # a mixture and the place of a source, or a clip and a label
Values = dict[Unit, float]
Row = dict[str, Any]


def repro(made: Plan) -> None:
    """Make everything that is not made, and the page. Where that fails, or is interrupted, the page is of the rest.

    AvsetError if a node fails.
    """
    try:
        make.repro(made)
    except (AvsetError, KeyboardInterrupt):
        write(made.folder, make.changed(made))
        raise


def write(folder: Path, changed: Collection[str] = ()) -> str:
    """Write results.md, results.csv and results.html of the plan in a folder; returns the Markdown.

    The page has the cells that are there, and says why the others are not. A cell that has one of the nodes of
    `changed` before it is no longer what its code and data say, and counts as not made.

    AvsetError if parameters or tables are no longer those of the plan.
    """
    told = json.loads((folder / PLAN).read_bytes())
    top = folder.absolute().parents[2]
    if made_of(read(top / "params.yaml"), load(top / FILE, told["method"])) != told["made_of"]:
        raise AvsetError("tables: params.yaml or tables.yaml changed since the plan was made; run `avset tables`")
    tables = [results_of(table, folder, told["dataset"], changed) for table in told["tables"]]
    pages = as_markdown(told["dataset"], tables), as_table(tables), as_html(told["dataset"], tables)
    for name, page in zip(WRITTEN, pages, strict=True):
        write_atomic(folder / name, page.encode())
    return pages[0]


def results_of(table: Mapping[str, Any], folder: Path, dataset: str, changed: Collection[str] = ()) -> dict[str, Any]:
    """A table of plan.json with the numbers of its rows; of a row with cells that are not made, the others'."""
    rows = [_row(row, table, folder, dataset, changed) for row in table["rows"]]
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        own = [row for row in rows if row["encoder"] == encoder]
        reference = next(row for row in own if row["name"] == table["reference"])
        for found in ("separation", "places") if table["duets"] else ("separation",):
            _compare(own, reference, found)
    numbers = [{key: value for key, value in row.items() if key not in ("separation", "places")} for row in rows]
    return {**table, "rows": numbers}


def why_not(cell: Mapping[str, Any], folder: Path, changed: Collection[str] = ()) -> str:
    """Why a cell has no numbers: not made, failed in a stage; "" if it has some."""
    if (folder / cell["scores"]).exists() and not {*cell["nodes"]} & {*changed}:
        return ""
    failed = ((name, make.failure_of(folder, name)) for name in cell["nodes"])
    found = next(((name, why) for name, why in failed if why), None)
    if found:
        return f"failed: {found[0].partition('-')[0]}: {found[1].rstrip('.')}"
    return "not made" if not (folder / cell["scores"]).exists() else "not made: its code or its data changed since"


def _row(row: Mapping[str, Any], table: Mapping[str, Any], folder: Path, dataset: str, changed: Collection[str]) -> Row:
    """The numbers of a row; of one that is missing, why; of one whose cells are there in part, why not the others."""
    known = PUBLISHED.get(dataset, []) if table["published"] else []
    system = next(
        (list(told) for name, kind, *told in known if name == row["name"] and kind in (row["query"], "")), None
    )
    lacks = {cell["seed"]: why for cell in row["cells"] if (why := why_not(cell, folder, changed))}
    cells = [cell for cell in row["cells"] if cell["seed"] not in lacks]
    missing = row["missing"] or ("" if cells else next(iter(lacks.values())))
    out: Row = {
        **{key: row[key] for key in ("name", "encoder", "method", "query", "steps")}, "missing": missing,
        "partial": [f"seed {seed}: {why}" for seed, why in lacks.items() if cells],
        "paper": row["paper"] or system,
        "supervision": "" if missing else _supervision(row),
        "seeds": len(cells), "seconds": None, "separation": None, "places": None,
    }  # fmt: skip
    if missing:
        return out
    folders = [folder / cell["scores"] for cell in cells]
    kinds = {one["query"] for one in _scores(folders[0])}
    out["query"] = row["query"] if row["query"] in kinds else ORACLE
    if out["query"] not in kinds:
        return out | {"missing": f"{row['method'] or row['name']} answers no {row['query']} query"}
    costs = [cost_of(folder / cell["cost"]) for cell in cells] if row["steps"] else []
    timed = [seconds for seconds in costs if seconds is not None]
    out["seconds"] = fmean(timed) if timed else None
    mixtures = _mixtures(*(folder / path for path in cells[0]["mixtures"]))
    return (
        out
        | _separation(folders, out["query"], table["split"], mixtures)
        | (_places(folders) if table["duets"] and row["method"] else {})
    )


def _supervision(row: Mapping[str, Any]) -> str:
    """What the training of a row's method is told; "" of a row that has no method of ours."""
    if row["missing"] or not row["method"]:
        return ""
    return "labels and boxes" if "objects" in row["needs"] else "none"


@cache
def _scores(folder: Path) -> list[Row]:
    return read_table(folder / "scores.parquet")


@cache
def _mixtures(*folders: Path) -> dict[str, Row]:
    """The frozen mixtures by name, further sets too."""
    return {one["mixture_id"]: one for folder in folders for one in read_table(folder / "mixtures.parquet")}


def _separation(folders: Sequence[Path], query: str, split: str, mixtures: Mapping[str, Row]) -> Row:
    """Means over the sources of all mixtures, each source's scores averaged over the seeds first."""
    rows = [
        [one for one in _scores(folder) if one["query"] == query and mixtures[one["mixture_id"]]["split"] == split]
        for folder in folders
    ]
    if not rows[0]:
        return {"missing": f"no mixture of {split} was asked for by {query}"}
    by_seed = [{(one["mixture_id"], one["source"]): one for one in own} for own in rows]
    means = {
        key: fmean(one[key] for own in rows for one in own) for key in ("nsdr", "sir", "sar", "moving")
    }  # fmt: skip
    gains = [{unit: one["nsdr"] for unit, one in own.items()} for own in by_seed]
    videos = {name: one["contents"] for name, one in mixtures.items()}
    return means | {
        "sem": standard_error(averaged(gains), videos), "sd": spread(gains), "n": len(rows[0]),
        "silent": sum(one["silent"] for own in rows for one in own), "separation": (gains, videos),
    }  # fmt: skip


def _places(folders: Sequence[Path]) -> Row:
    """Where the separated sound looks in duets: the share in its own box, and in the other's."""
    own, other, values = [], [], []
    videos: dict[str, list[str]] = {}
    for folder in folders:
        rows = [one for one in read_table(folder / "localization.parquet")
                if one["labels"] == 2 and one["attention"] == "sound" and one["other"] is not None]  # fmt: skip
        own += [one["hit"] for one in rows]
        other += [one["other"] for one in rows]
        values.append({(one["clip_id"], one["label"]): float(one["hit"]) - float(one["other"]) for one in rows})
        videos |= {one["clip_id"]: [one["content"]] for one in rows}
    if not own:
        return {}
    return {"own": fmean(own), "other": fmean(other), "duets": len(values[0]), "places": (values, videos)}


def averaged(by_seed: Sequence[Values]) -> Values:
    """The mean over seeds of each unit that all seeds have."""
    shared = set.intersection(*(set(one) for one in by_seed))
    return {unit: fmean(one[unit] for one in by_seed) for unit in sorted(shared)}


def by_group(values: Values) -> dict[str, float]:
    """The mean of the sources of each mixture, or of the labels of each clip."""
    groups = defaultdict[str, list[float]](list)
    for (group, _), value in values.items():
        groups[group].append(value)
    return {group: fmean(several) for group, several in groups.items()}


def standard_error(values: Values, videos: Mapping[str, Sequence[str]]) -> float | None:
    """Of the mean over mixtures that share videos; None if it cannot be known."""
    error = metrics.standard_error(np.array(list(values.values())), [videos[group] for group, _ in values])
    return None if math.isnan(error) else error


def spread(by_seed: Sequence[Values]) -> float | None:
    """The standard deviation of the means of the seeds; None for one seed."""
    return stdev(fmean(one.values()) for one in by_seed) if len(by_seed) > 1 else None


def compare(
    one: Sequence[Values], other: Sequence[Values], videos: Mapping[str, Sequence[str]]
) -> tuple[float, float, bool] | None:
    """The mean difference of two rows on the units that both have, the p of `paired_test`, whether it is steady.

    Values are by seed. A difference is steady if it has one sign in all seeds. None if no unit is in both.
    """
    first, second = averaged(one), averaged(other)
    if not (shared := sorted(first.keys() & second.keys())):
        return None
    groups = by_group({unit: first[unit] - second[unit] for unit in shared})
    p = paired_test(np.array(list(groups.values())), [list(videos[group]) for group in groups])
    pairs = [(one[i % len(one)], other[i % len(other)]) for i in range(max(len(one), len(other)))]
    signs = {np.sign(fmean(a[unit] - b[unit] for unit in shared)) for a, b in pairs}
    return fmean(groups.values()), p, len(signs) == 1


def _compare(rows: Iterable[Row], reference: Row, found: str) -> None:
    """Compare rows with the row of reference: `<found>_difference`, `_p` (by Holm), `_holds`."""
    if not reference.get(found):
        return
    others = [(row, compare(row[found][0], reference[found][0], row[found][1])) for row in rows
              if row is not reference and row.get(found)]  # fmt: skip
    told = [(row, *known) for row, known in others if known]
    for (row, difference, _, steady), p in zip(told, holm([p for _, _, p, _ in told]), strict=True):
        sure = not math.isnan(p)
        row[f"{found}_difference"], row[f"{found}_p"] = difference, p if sure else None
        row[f"{found}_holds"] = p < LEVEL and steady if sure else None

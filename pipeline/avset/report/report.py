"""The report: metrics and coverage as JSON, tables for plots, small pictures, and the listening page.

Reads artifacts on disk and nothing else, and writes the same bytes for the same artifacts.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avset.console import as_csv
from avset.errors import AvsetError
from avset.evaluation import examples
from avset.evaluation.examples import Example
from avset.report import plots
from avset.report.coverage import count_clips
from avset.report.curves import CURVES, training_rows
from avset.report.ledger import ledger
from avset.report.numbers import (
    duet_means,
    further_sets,
    in_brief,
    localization_means,
    merged,
    presence_means,
    rounded,
    separation_means,
)
from avset.report.page import Filming, render_page
from avset.report.tables import duet_rows, further, localization_rows, separation_rows
from avset.storage.files import write_atomic, write_json
from avset.storage.tables import read_table

WRITTEN = (
    "metrics.json", "coverage.json", "nsdr_by_method.csv", "nsdr_by_set.csv", "nsdr_by_class.csv", "example.png",
    "localization.png", "queries.png", "localization.csv", "training.csv", "html/index.html", "record.json",
)  # fmt: skip


def write_report(
    dataset: str,
    scores: Path,
    models: Path,
    mixtures: Path,
    methods: Sequence[str],
    indices: Mapping[str, Path],
    facts: Mapping[str, Any],
    out: Path,
    funnel: Mapping[str, Mapping[str, int]] | None = None,
    drawn: Mapping[str, Mapping[str, int]] | None = None,
    sets: Path | None = None,
    empty: Mapping[str, str] | None = None,
    lists: Mapping[str, Mapping[str, Any]] | None = None,
    films: Filming | None = None,
) -> dict[str, Any]:
    """Write the report of `methods` on a data set into `out`; returns its numbers, of which `metrics.json` has some.

    scores    folder with a folder per method: `scores.parquet`, and if there are any, `localization.parquet`,
              `duets.parquet`, `presence.parquet` and `examples.h5`
    models    folder with a folder per method; where it has `curves/`, they are in `training.csv`
    mixtures  folder with `mixtures.parquet`, and the `scores.parquet` of the untouched mixtures and of the oracles
    methods   the pictures, and the examples that the page shows in full, are of the first one; those of the
              localisation of the first one that localizes
    indices   the `index.parquet` of each stage, `clips` among them
    facts     numbers to merge into the metrics
    funnel    how the source's lists were narrowed down: list -> step -> rows
    drawn     what became of the clips of each split when mixtures were drawn: split -> what -> number
    sets      folder with the same as `mixtures`, of the further sets
    empty     why a further set has no mixtures: set -> a sentence
    films     gives the films of clips for the page: see `avset.report.films`
    lists     what a published list of mixtures has, and what became of its rows: set -> the facts of `sets`

    Raises:
        MissingArtifact: a table is not there; the text names the command that makes it.
        AvsetError: a fact would overwrite a metric, or a table has no rows.
    """
    if not methods:
        raise AvsetError("there is nothing to report: name at least one method")
    by_method = {m: read_table(scores / m / "scores.parquet") for m in methods}
    places = {m: read_table(p) for m in methods if (p := scores / m / "localization.parquet").exists()}
    duets = {m: read_table(p) for m in methods if (p := scores / m / "duets.parquet").exists()}
    frozen = [mixtures] if sets is None else [mixtures, sets]
    bounds, mixed = (
        [row for folder in frozen for row in read_table(folder / f"{name}.parquet")] for name in ("scores", "mixtures")
    )
    present = {m: read_table(p) for m in methods if (p := scores / m / "presence.parquet").exists()}
    means = merged(separation_means(by_method, bounds, mixed), merged(localization_means(places), duet_means(duets)))
    means = merged(means, presence_means(present))
    numbers = rounded(merged(means, facts))
    coverage = count_clips(indices) | ({"lists": funnel} if funnel else {})
    if empty:
        coverage["sets"] = dict(empty)
    if lists:
        coverage["mixture_lists"] = dict(lists)
    coverage["ledger"] = ledger(indices, funnel or {}, mixtures, {m: scores / m for m in methods})
    heard = {m: examples.read(p) for m in methods if (p := scores / m / "examples.h5").exists()}
    (out / "html").mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", rounded(merged(in_brief(means, further_sets(mixed)), facts)))
    write_json(out / "coverage.json", coverage)
    _write_tables(out, numbers)
    _write_csv(out / "training.csv", ("method", "step", *CURVES), training_rows(models, methods))
    if first := heard.get(methods[0]):
        write_atomic(out / "example.png", plots.example_figure(typical_example(first)))
        write_atomic(out / "localization.png", plots.localization_figure(_localizing(heard) or first))
        write_atomic(out / "queries.png", plots.queries_figure(typical_example(first)))
    told: dict[str, Any] = {"films": films} if films else {}
    html = render_page(dataset, numbers, coverage, heard, drawn=drawn or {}, empty=empty or {}, **told)
    write_atomic(out / "html" / "index.html", html.encode())
    return numbers


def _localizing(heard: Mapping[str, Sequence[Example]]) -> Sequence[Example] | None:
    """The examples of the first method whose separated sounds have an attention."""
    for shown in heard.values():
        if any(one.attention is not None for example in shown for one in example.separations.values()):
            return shown
    return None


def typical_example(shown: Sequence[Example]) -> Example:
    """The example of median NSDR under the first kind of query: neither the best nor the worst one."""

    def gain(example: Example) -> float:
        nsdr = example.separations[examples.leading(example)].nsdr
        known = [] if nsdr is None else nsdr[~np.isnan(nsdr)]
        return float(np.mean(known)) if len(known) else 0.0

    return sorted(shown, key=lambda e: (gain(e), e.mixture_id))[len(shown) // 2]


def _write_tables(out: Path, numbers: Mapping[str, Any]) -> None:
    entries = _entries(numbers)
    duets = [(m, f"duets: {k}", s) for m, k, s in duet_rows(numbers)]
    by_class = [(m, k, {"label": c, **v}) for m, k, s in entries for c, v in s["per_class"].items()]
    scores = ("nsdr", "nsdr_sem", "nsdr_median", "moving", "sdr", "sir", "sar", "n", "of", "videos", "silent", "shared")
    for table, kind, keys, rows in (
        ("nsdr_by_method", "query", scores, entries),
        ("nsdr_by_class", "query", ("label", "nsdr", "n", "videos"), by_class),
        (
            "localization",
            "attention",
            ("pointing", "other", "ciou", "iou", "n", "videos"),
            [*localization_rows(numbers), *duets],
        ),
    ):
        names, lines = [key.removeprefix("nsdr_") for key in keys], [(m, k, *map(s.get, keys)) for m, k, s in rows]
        _write_csv(out / f"{table}.csv", ("method", kind, *names), lines)
    sets = [(name, m, k, *map(s.get, scores)) for name in further(numbers) for m, k, s in _entries(numbers[name])]
    names = [key.removeprefix("nsdr_") for key in scores]
    _write_csv(out / "nsdr_by_set.csv", ("set", "method", "query", *names), sets)


def _entries(numbers: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """The rows of a table of separation, but for the untouched mixture."""
    return [(m, k, s) for m, k, s in separation_rows(numbers) if m != "mixture"]


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    write_atomic(path, as_csv([head, *rows]).encode())

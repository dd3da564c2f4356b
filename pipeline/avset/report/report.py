"""The report: metrics and coverage as JSON, tables for plots, small pictures, and the listening page.

Reads artifacts on disk and nothing else, and writes the same bytes for the same artifacts.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avset.errors import AvsetError
from avset.evaluation import examples
from avset.evaluation.examples import Example
from avset.report import plots
from avset.report.coverage import count_clips
from avset.report.ledger import ledger
from avset.report.numbers import localization_means, merged, rounded, separation_means
from avset.report.page import render_page
from avset.report.tables import separation_rows
from avset.storage.files import write_json
from avset.storage.tables import read_table

WRITTEN = (
    "metrics.json", "coverage.json", "nsdr_by_method.csv", "nsdr_by_class.csv", "example.png", "localization.png",
    "queries.png", "html/index.html",
)  # fmt: skip


def write_report(
    dataset: str,
    scores: Path,
    mixtures: Path,
    methods: Sequence[str],
    indices: Mapping[str, Path],
    facts: Mapping[str, Any],
    out: Path,
    funnel: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Write the report of `methods` on a data set into `out`; returns the content of `metrics.json`.

    scores    folder with a folder per method: `scores.parquet`, and if there are any, `localization.parquet` and
              `examples.h5`
    mixtures  folder with the `scores.parquet` of the untouched mixtures and of the ideal masks
    methods   the pictures, and the examples that the page shows in full, are of the first one; those of the
              localisation of the first one that localizes
    indices   the `index.parquet` of each stage, `clips` among them
    facts     numbers to merge into the metrics
    funnel    how the source's lists were narrowed down: list -> step -> rows

    Raises:
        MissingArtifact: a table is not there; the text names the command that makes it.
        AvsetError: a fact would overwrite a metric, or a table has no rows.
    """
    if not methods:
        raise AvsetError("there is nothing to report: name at least one method")
    by_method = {m: read_table(scores / m / "scores.parquet") for m in methods}
    places = {m: read_table(p) for m in methods if (p := scores / m / "localization.parquet").exists()}
    separation = separation_means(by_method, read_table(mixtures / "scores.parquet"))
    numbers = rounded(merged(merged(separation, localization_means(places)), facts))
    coverage = count_clips(indices) | ({"lists": funnel} if funnel else {})
    coverage["ledger"] = ledger(indices, funnel or {}, mixtures, {m: scores / m for m in methods})
    heard = {m: examples.read(p) for m in methods if (p := scores / m / "examples.h5").exists()}
    (out / "html").mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", numbers)
    write_json(out / "coverage.json", coverage)
    _write_tables(out, numbers)
    if first := heard.get(methods[0]):
        (out / "example.png").write_bytes(plots.example_figure(typical_example(first)))
        (out / "localization.png").write_bytes(plots.localization_figure(_localizing(heard) or first))
        (out / "queries.png").write_bytes(plots.queries_figure(typical_example(first)))
    html = render_page(dataset, numbers, coverage, heard)
    (out / "html" / "index.html").write_text(html, encoding="utf-8")
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
        nsdr = example.separations[examples.ordered(example.separations)[0]].nsdr
        return 0.0 if nsdr is None else float(nsdr.mean())

    return sorted(shown, key=lambda e: (gain(e), e.mixture_id))[len(shown) // 2]


def _write_tables(out: Path, numbers: Mapping[str, Any]) -> None:
    entries = [(m, k, s) for m, k, s in separation_rows(numbers) if m != "mixture"]
    by_method = [(m, k, s["nsdr"], s["nsdr_sem"]) for m, k, s in entries]
    by_class = [(m, k, c, v["nsdr"], v["n"]) for m, k, s in entries for c, v in s["per_class"].items()]
    for name, head, rows in (
        ("nsdr_by_method", ("method", "query", "nsdr", "sem"), by_method),
        ("nsdr_by_class", ("method", "query", "label", "nsdr", "n"), by_class),
    ):
        with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *rows])

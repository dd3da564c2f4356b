"""training.csv: the loss of every method that learns, and its validation NSDR, by step."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

CURVES = {"loss": "train/loss", "nsdr": "validation/nsdr"}  # column -> the file that `train` wrote, of `dvclive`


def training_rows(models: Path, methods: Sequence[str]) -> Iterator[tuple[str, int, str, str]]:
    """(method, step, loss, NSDR in dB) of every validation; "" where a method has no such value.

    `models` is the folder with a folder per method. A method without `curves/` learns nothing, and has no rows.
    """
    for method in methods:
        folder = models / method / "curves" / "plots" / "metrics"
        loss, nsdr = (_read(folder / f"{file}.tsv", column) for column, file in CURVES.items())
        for step in sorted({*loss, *nsdr}):
            yield method, step, loss.get(step, ""), nsdr.get(step, "")


def _read(path: Path, column: str) -> dict[int, str]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["step"]): row[column] for row in csv.DictReader(file, delimiter="\t")}

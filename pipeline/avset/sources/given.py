"""Boxes that somebody else made: a table of clip, time, label, box, as CSV or Parquet."""

import csv
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from avset.errors import AvsetError
from avset.storage.tables import read_table

SIDES = ("x0", "y0", "x1", "y1")
COLUMNS = ("clip_id", "time_s", "label", *SIDES)  # and confidence, if it is known


def boxes_of(path: Path, clips: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Clip -> its boxes: `COLUMNS`, and `confidence` (1 where the table has none).

    Times are s on the timeline of the clip's media file, sides are fractions of the picture. AvsetError names the row
    that cannot be used. Rows of clips that are not there are told, and left out.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    strange = 0
    for number, row in enumerate(_rows(path), 2):
        try:
            box: dict[str, Any] = {"label": str(row["label"]), "confidence": float(row.get("confidence") or 1.0)}
            box |= {name: float(row[name]) for name in ("time_s", *SIDES)}
            if not all(math.isfinite(box[name]) for name in ("time_s", "confidence", *SIDES)) or not box["label"]:
                raise ValueError("a number that is none, or no label")
            if not (box["x0"] < box["x1"] and box["y0"] < box["y1"] and 0 < box["confidence"] <= 1):
                raise ValueError("no area, or a confidence outside of 0 to 1")
        except (KeyError, TypeError, ValueError) as e:
            why = f"it lacks {e}" if isinstance(e, KeyError) else str(e)
            raise AvsetError(f"{path}, row {number}: no box ({why}); columns are {', '.join(COLUMNS)}") from e
        if row["clip_id"] in clips:
            found.setdefault(row["clip_id"], []).append(box)
        else:
            strange += 1
    if strange:
        print(f"objects: {strange} rows of {path} are of clips that are not there")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the table as they stand."""
    if not path.is_file():
        raise AvsetError(
            f"objects: {str(path)!r} is not there; give a CSV or Parquet file, truth, or torchvision:<name>"
        )
    if path.suffix == ".parquet":
        return read_table(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as e:
        raise AvsetError(f"{path} cannot be read as a table ({e})") from e
    if rows and (missing := [name for name in COLUMNS if name not in rows[0]]):
        raise AvsetError(f"{path} has no column {missing[0]}; columns are {', '.join(COLUMNS)}")
    return rows

"""Media files of a source, and the clips cut from them."""

import hashlib
import math
import os
import shutil
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import ClipError, ParamsError
from pipeline.frames import probe
from pipeline.parallel import Job
from pipeline.sources import Entry
from pipeline.store import Item, ItemCache

INDEX = pa.schema(
    [("clip_id", pa.string()), ("media_id", pa.string()), ("status", pa.string()), ("reason", pa.string()),
     ("detail", pa.string()), ("split", pa.string()), ("labels", pa.list_(pa.string())), ("origin", pa.string()),
     ("media", pa.string()), ("start_s", pa.float64()), ("duration_s", pa.float64()), ("width", pa.int64()),
     ("height", pa.int64()), ("fps", pa.float64()), ("sample_rate", pa.int64()), ("channels", pa.int64()),
     ("sha256", pa.string())]
)  # fmt: skip
COUNTS = {"train_per_label", "validation_per_label", "test_per_label", "duets"}  # how many media, never which
BOXES = pa.schema([("clip_id", pa.string()), ("time_s", pa.float64()), ("label", pa.string())])
for _side in ("x0", "y0", "x1", "y1"):
    BOXES = BOXES.append(pa.field(_side, pa.float64()))


def load_source(name: str, values: dict[str, Any]) -> tuple[Any, Any]:
    """The module of a source and its checked options; ParamsError names the option that is wrong."""
    from pydantic import ValidationError

    source = import_module(f"pipeline.sources.{name}")
    try:
        return source, source.Options.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(source.Options.model_fields)
        raise ParamsError(f"clips.options.{key}: {first['msg']}; options of {name}: {known}") from e


def job_of(entry: Entry, recipe: dict[str, Any]) -> dict[str, Any]:
    """The payload of a job that fetches one media file; a local origin is identified by its size and time."""
    origin = Path(entry.origin)
    stat = origin.stat() if origin.is_file() else None
    told = {**asdict(entry), "labels": list(entry.labels), **recipe}
    return {"entry": entry, "digest": [told, [stat.st_size, stat.st_mtime_ns] if stat else None]}


def kept_media(cache: ItemCache, sha256: str, suffix: str) -> Path:
    """Where the cache keeps a media file, by its content."""
    return cache.root / "media" / sha256[:2] / (sha256[2:] + suffix)


def drop_damaged(cache: ItemCache, key: str) -> None:
    """Remove an item of the cache whose media file is gone or has changed, so that it is fetched again."""
    found = cache.get(key)  # removes one that is damaged itself
    if found is not None and not found[0].reason:
        fields = found[0].fields
        kept = kept_media(cache, fields["sha256"], fields["suffix"])
        if not kept.is_file() or _sha256(kept) != fields["sha256"]:
            cache.path(key).unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Fetch:
    """Mapper: fetch a media file into the cache, probe it. Fields: what was found, its sha256, its boxes."""

    def __init__(self, name: str, values: dict[str, Any]):
        self.source, self.options = load_source(name, values)
        self.cache = ItemCache()

    def __call__(self, jobs: list[Job]) -> list[Item]:
        return [self.fetch(job.payload["entry"]) for job in jobs]

    def fetch(self, entry: Entry) -> Item:
        """The item of one media file; its ClipError is the item of a failure."""
        suffix = self.source.SUFFIX or Path(entry.origin).suffix.lower()
        self.cache.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache.root, prefix=".fetch-") as folder:
            target = Path(folder) / f"media{suffix}"
            try:
                fetched = self.source.fetch(entry, self.options, target)
                found = asdict(probe(target))
            except ClipError as e:
                return Item.failed(e)
            sha256 = _sha256(target)
            kept = kept_media(self.cache, sha256, suffix)
            kept.parent.mkdir(parents=True, exist_ok=True)
            target.replace(kept)
        return Item(fields={**found, "sha256": sha256, "suffix": suffix, "boxes": [asdict(b) for b in fetched.boxes]})


def place(kept: Path, target: Path) -> None:
    """A media file of the cache in an artifact: a hard link where that is possible, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(kept, target)
    except OSError:
        shutil.copyfile(kept, target)


def cut(duration: float, length: float | None, min_seconds: float) -> list[tuple[float, float]]:
    """Start and duration (s) of the clips of a medium: whole, or a grid whose last cell may be half a length.

    A medium that is shorter than `min_seconds` has none: ClipError("too_short").
    """
    if not math.isfinite(duration) or duration < min_seconds:
        raise ClipError("too_short", f"{duration:.2f} s, shorter than clips.min_seconds = {min_seconds}")
    if length is None or duration <= length:
        return [(0.0, duration)]
    cells = [(i * length, min(length, duration - i * length)) for i in range(math.ceil(duration / length))]
    return [cell for cell in cells if cell[1] >= max(min_seconds, length / 2)]


def rows_of(entry: Entry, item: Item, length: float | None, min_seconds: float) -> list[dict[str, Any]]:
    """The index rows of one medium: its clips, or one row with the reason why there are none."""
    row = {
        "media_id": entry.media_id,
        "split": entry.split,
        "labels": list(entry.labels),
        "origin": entry.origin,
    }
    found = item.fields
    try:
        if item.reason:
            raise ClipError(item.reason, item.detail)
        cells = cut(found["duration"], length, min_seconds)
    except ClipError as e:
        failed = {
            "clip_id": clip_id(entry.media_id, 0.0),
            "status": "failed",
            "reason": e.reason,
            "detail": e.detail,
        }
        return [{**row, **failed}]
    shared = {k: found[k] for k in ("width", "height", "fps", "sample_rate", "channels", "sha256")}
    media = f"media/{entry.media_id}{found['suffix']}"
    return [
        {**row, **shared, "clip_id": clip_id(entry.media_id, start), "status": "ok", "reason": "", "detail": "",
         "media": media, "start_s": start, "duration_s": seconds}
        for start, seconds in cells
    ]  # fmt: skip


def clip_id(media_id: str, start: float) -> str:
    """`<media_id>_<start in ms>`."""
    return f"{media_id}_{round(start * 1000)}"


def boxes_of(row: dict[str, Any], item: Item) -> list[dict[str, Any]]:
    """The boxes of a medium that fall into one of its clips."""
    start, end = row["start_s"], row["start_s"] + row["duration_s"]
    return [{"clip_id": row["clip_id"], **box} for box in item.fields["boxes"] if start <= box["time_s"] <= end]

"""What was fetched once is not fetched again: not by a colleague who has pulled the clips, not by tidied code."""

import random
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from avset.compute.identity import Recipe
from avset.compute.worker import Job
from avset.errors import AvsetError
from avset.sources import Box
from avset.sources.clips import Fetch
from avset.sources.names import hashed
from avset.storage.cache import ItemCache, fetched_items, kept_media
from avset.storage.checksums import sha256_of
from avset.storage.files import link
from avset.storage.items import Item
from avset.storage.previous import previous
from avset.storage.tables import read_table

_BOX = pa.struct([(k, pa.string() if k == "label" else pa.float64()) for k in Box.__dataclass_fields__])
MEDIA = pa.schema(
    [("media_id", pa.string()), ("kept", pa.string()), ("reason", pa.string()), ("detail", pa.string()),
     ("sha256", pa.string()), ("suffix", pa.string()), ("start_s", pa.float64()), ("boxes", pa.list_(_BOX))]
)  # fmt: skip


def media_rows(jobs: list[Job]) -> list[dict[str, Any]]:
    """The rows of media.parquet: what became of every medium that was asked for, under its name in the cache."""
    cache, rows = fetched_items(ItemCache()), []
    for job in sorted(jobs, key=lambda job: job.clip_id):
        if kept := cache.get(job.payload["kept"]):
            item = kept[0]
            row = {"media_id": job.clip_id, "kept": job.payload["kept"], "reason": item.reason, "detail": item.detail}
            names = (("sha256", "sha256"), ("suffix", "suffix"), ("start", "start_s"), ("boxes", "boxes"))
            rows.append(row | {column: item.fields.get(name) for name, column in names})
    return rows


def inherit(folder: Path, jobs: list[Job]) -> None:
    """Take over from the clips that were in `folder` before what the cache lacks of the media of some jobs."""
    root = ItemCache()
    cache = fetched_items(root)
    forgotten = root.forgotten()
    missing = {job.payload["kept"] for job in jobs if job.payload["kept"] not in cache}
    if not missing:
        return
    with suppress(AvsetError), previous(folder) as before:  # what is damaged is fetched again
        if before is None or not (before / "media.parquet").exists():
            return
        for row in read_table(before / "media.parquet"):
            if row["kept"] not in missing:
                continue
            if row["reason"]:
                if row["kept"] not in forgotten:
                    cache.put(row["kept"], Item(reason=row["reason"], detail=row["detail"]))
                continue
            named = (before / "media" / f"{name}{row['suffix']}" for name in (row["media_id"], hashed(row["media_id"])))
            there = (path.resolve() for path in named if path.exists())
            medium = next((path for path in there if sha256_of(path) == row["sha256"]), None)
            if medium is not None:
                fields = {**{k: row[k] for k in ("sha256", "suffix", "boxes")}, "start": row["start_s"]}
                target = kept_media(root, fields)
                if not target.exists():
                    link(medium, target)
                stat = target.stat()
                cache.put(row["kept"], Item(fields=fields | {"stamp": [stat.st_size, stat.st_mtime_ns]}))
    inherited = sum(key in cache for key in missing)
    print(f"clips: {inherited} media are those of the clips that were here before", file=sys.stderr, flush=True)


def adopt(jobs: list[Job], fetch: Fetch, recipe: Recipe, drawing: Recipe | None, count: int) -> None:
    """Give the code as it is the versions that it had before, if some media come out as they were.

    Media are probed anew, and drawn anew if our own code draws them; what came from elsewhere is not fetched again.
    AvsetError names a medium that differs, or says that there is nothing to compare with.
    """
    cache = ItemCache()
    known = [job for job in jobs if job.key in cache and job.payload["kept"] in fetched_items(cache)]
    if not known:
        raise AvsetError(
            f"clips: no medium of version {recipe.number} is here to compare with; run the stage with the former "
            "code, or raise the version with `python -m stages.clips --new-version`"
        )
    drawn = random.sample(known, min(count, len(known)))
    for job in drawn:
        old, new = cache.get(job.key), fetch.anew(job.payload["entry"], job.payload["kept"], drawing is not None)
        if old is None or _content(old[0]) != _content(new):
            raise AvsetError(
                f"clips: {job.clip_id} made anew differs; the code is not that of version {recipe.number}: mend it, or "
                "raise the version with `python -m stages.clips --new-version`"
            )
    for one in filter(None, (recipe, drawing)):
        one.adopt()
    print(f"clips: {len(drawn)} of {len(known)} media made anew are the same; the code keeps version {recipe.number}")


def _content(item: Item) -> bytes:
    return replace(item, fields={k: v for k, v in item.fields.items() if k != "stamp"}).dump()

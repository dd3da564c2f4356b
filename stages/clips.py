"""clips: media files and the list of clips cut from them.

Makes data/<dataset>/clips/: media/, index.parquet (every clip, with the reason if it failed), boxes.parquet
(ground truth where the source has it), store.json.
"""

import json
import sys
from collections import Counter
from functools import partial
from typing import Annotated, Literal

import typer

from avset.compute.build import gate
from avset.compute.identity import code_digest
from avset.compute.making import making
from avset.compute.run import compute
from avset.sources import clips
from avset.sources.dry_run import as_text, estimate, in_a_line
from avset.storage.cache import ItemCache, fetched, kept_media
from avset.storage.files import write_json
from avset.storage.items import Item
from avset.storage.tables import write_table
from stages import PARAMS, ParamsFile, begin, command

Retry = Annotated[
    Literal["transient", "all"] | None,
    typer.Option(
        help="Fetch again what failed: for reasons that may pass (network, refusals, region, age, live), or all."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be fetched, from how many rows; fetch nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON.")]


def main(path: ParamsFile = PARAMS, retry: Retry = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Fetch the media of the source, probe them, cut them into clips."""
    p = begin("clips", path)
    source, options = clips.load_source(p.clips.source, p.clips.options)
    listing = source.listing(options)
    entries = {entry.media_id: entry for entry in listing.entries}
    code = code_digest("clips")
    drawn = code_digest("clips", "pipeline/avset/sources/demo") if p.clips.source == "demo" else ""
    jobs = clips.jobs_of(listing.entries, options, code, drawn)
    folder, cache, access = p.clips_folder, ItemCache(), p.runtime.download
    runtime, watch = p.runtime.model_copy(update={"device": "cpu"}), clips.Breaker(access.give_up_after)
    if dry_run or clips.online(options):
        there = {job.clip_id for job in jobs if job.payload["kept"] in fetched(cache)}
        expected = estimate(listing, there, p.clips, access, options)
    if dry_run:
        print(json.dumps(expected, indent=2) if as_json else as_text(expected))
        return
    if clips.online(options):
        print(f"clips: {in_a_line(expected)}", file=sys.stderr, flush=True)
        runtime = runtime.model_copy(update={"workers": access.workers})
    with making(folder) as fresh:
        clips.forget(cache, jobs, retry)
        fetch = partial(clips.Fetch, p.clips.source, p.clips.options, access)
        worth = 2 if clips.online(options) else 0
        forgotten = compute("clips", jobs, fetch, runtime, worth=worth, watch=watch)
        rows, boxes, keys = [], [], {job.clip_id: job.key for job in jobs}
        for name, entry in sorted(entries.items()):
            kept = cache.get(keys[name]) if name in keys else None
            item = kept[0] if kept else forgotten.get(name, Item(reason="error"))
            found = clips.rows_of(entry, item, p.clips.length, p.clips.min_seconds)
            rows += found
            if media := next((row["media"] for row in found if row["status"] == "ok"), None):
                clips.place(kept_media(cache, item.fields), fresh / media)
                boxes += [box for row in found if row["status"] == "ok" for box in clips.boxes_of(row, item)]
        write_table(fresh / "index.parquet", rows, clips.INDEX)
        write_table(fresh / "boxes.parquet", boxes, clips.BOXES)
        told = {"stage": "clips", "recipe": p.clips.recipe(), "code": code, "funnel": listing.funnel}
        write_json(fresh / "store.json", told)
    gate("clips", Counter((row["reason"], row["detail"]) for row in rows), p.clips.min_success)


if __name__ == "__main__":
    command(main)

"""clips: media files and the list of clips cut from them.

Makes data/<dataset>/clips/: media/, index.parquet (every clip, with the reason if it failed), boxes.parquet
(ground truth where the source has it), store.json.
"""

import json
import sys
from collections import Counter
from typing import Annotated, Literal

import typer

from avset.compute.build import gate
from avset.compute.identity import code_digest
from avset.compute.making import making
from avset.sources import clips
from avset.sources.dry_run import as_text, estimate, in_a_line
from avset.storage.cache import ItemCache
from avset.storage.files import write_json
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
    code = code_digest("clips")
    drawn = code_digest("clips", "pipeline/avset/sources/demo") if p.clips.source == "demo" else ""
    jobs = clips.jobs_of(listing.entries, options, code, drawn)
    if dry_run or clips.online(options):
        expected = estimate(listing, clips.in_cache(jobs), p.clips, p.runtime.download, options)
    if dry_run:
        print(json.dumps(expected, indent=2) if as_json else as_text(expected))
        return
    if clips.online(options):
        print(f"clips: {in_a_line(expected)}", file=sys.stderr, flush=True)
    with making(p.data / "clips") as fresh:
        clips.forget(ItemCache(), jobs, retry)
        failures = clips.fetch_all(jobs, p.clips, options, p.runtime)
        rows, boxes = clips.collect(listing.entries, jobs, failures, p.clips, fresh)
        write_table(fresh / "index.parquet", rows, clips.INDEX)
        write_table(fresh / "boxes.parquet", boxes, clips.BOXES)
        told = {"stage": "clips", "recipe": p.clips.recipe(), "code": code, "funnel": listing.funnel}
        write_json(fresh / "store.json", told)
    gate("clips", Counter((row["reason"], row["detail"]) for row in rows), p.clips.min_success)


if __name__ == "__main__":
    command(main)

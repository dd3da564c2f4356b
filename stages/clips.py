"""clips: media files and the list of clips cut from them.

Makes data/<dataset>/clips/: media/, index.parquet (every clip, with the reason if it failed), boxes.parquet
(ground truth where the source has it), media.parquet (what became of every medium), record.json.
"""

import json
import sys
from collections import Counter
from typing import Annotated

import typer

from avset.compute.build import gate
from avset.compute.identity import Recipe
from avset.compute.making import making
from avset.sources import clips, duplicates, reuse, splits
from avset.sources.dry_run import as_text, estimate, in_a_line
from avset.sources.inputs import unwatched
from avset.storage.artifacts import Record
from avset.storage.cache import ItemCache
from avset.storage.tables import write_table
from avset.values import told_of
from stages import PARAMS, Adopt, NewVersion, ParamsFile, begin, command, limits_of

Retry = Annotated[
    list[str] | None,
    typer.Option(
        metavar="REASON",
        help="Fetch again what failed for this reason (removed, corrupt, ...), for one that may pass (transient: "
        "network, refusals, unavailable, region, age, live), or for any (all). Several are allowed.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be fetched, from how many rows; fetch nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON.")]


def main(
    path: ParamsFile = PARAMS,
    retry: Retry = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    adopt: Adopt = 0,
    new_version: NewVersion = False,
) -> None:
    """Fetch the media of the source, probe them, cut them into clips."""
    again = clips.reasons_of(retry or [])
    p = begin("clips", path, new_version=new_version)
    limits = limits_of(p)
    source, options = clips.load_source(p.clips.source, p.clips.options)
    for option, place in unwatched(options, p.dataset).items():
        print(
            f"clips: DVC does not watch {place} (clips.options.{option}); put it in inputs/{p.dataset}", file=sys.stderr
        )
    listing = source.listing(options)
    recipe, drawing = Recipe("clips"), clips.drawing(p.clips.source)
    if new_version and drawing:
        drawing.renew()
    truth = source.truth(options) if hasattr(source, "truth") else {}
    jobs = clips.jobs_of(listing.entries, options, recipe.version, drawing.version if drawing else "")
    if dry_run or clips.online(options):
        expected = estimate(listing, clips.in_cache(jobs), p.clips, p.runtime.download, options, limits)
    if dry_run:
        print(json.dumps(expected, indent=2) if as_json else as_text(expected))
        return
    if clips.online(options):
        print(f"clips: {in_a_line(expected)}", file=sys.stderr, flush=True)
    reuse.inherit(p.clips_folder, jobs)
    if adopt:
        reuse.adopt(
            jobs, clips.Fetch(p.clips.source, p.clips.options, p.runtime.download, limits), recipe, drawing, adopt
        )
        return
    for one in filter(None, (recipe, drawing)):
        one.check()
    need = splits.Need(p.mixtures.n_sources, p.mixtures.different_category)
    with making(p.clips_folder) as fresh:
        before = clips.forget(ItemCache(), jobs, again)
        if before or again:
            print(f"clips: {len(before)} media are fetched again", file=sys.stderr, flush=True)
        failures = clips.fetch_all(jobs, p.clips, options, p.runtime, limits, before)
        rows, boxes, prints = clips.collect(listing.entries, jobs, failures, p.clips, fresh, truth)
        found = splits.recordings(listing.entries, duplicates.contents(rows, prints))
        if listing.filled:
            splits.fill(found, need)
        splits.settle(rows, found)
        for line in splits.as_text(found):
            print(f"clips: {line}", file=sys.stderr, flush=True)
        write_table(fresh / "index.parquet", rows, clips.INDEX)
        write_table(fresh / "boxes.parquet", boxes, clips.BOXES)
        write_table(fresh / "media.parquet", reuse.media_rows(jobs), reuse.MEDIA)
        facts = {"funnel": listing.funnel | splits.funnel(found), "moved": splits.moved(found)}
        Record("clips", recipe.version, told_of(p.clips.recipe(), "{id}"), facts=facts).write(fresh)
    gate("clips", Counter((row["reason"], row["detail"]) for row in rows), p.clips.min_success)
    if listing.filled:
        splits.check(found, need)


if __name__ == "__main__":
    command(main)

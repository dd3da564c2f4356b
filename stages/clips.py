"""clips: media files and the list of clips cut from them.

Makes data/<dataset>/clips/: media/, index.parquet (every clip, with the reason if it failed), boxes.parquet
(ground truth where the source has it), store.json.
"""

import shutil
from functools import partial
from typing import Any

from pipeline import clips, params
from pipeline.parallel import Job, compute
from pipeline.store import Item, ItemCache, write_json, write_table
from stages import PARAMS, ParamsFile, begin, code_digest, command, gate, only_writer


def main(path: ParamsFile = PARAMS) -> None:
    """Fetch the media of the source, probe them, cut them into clips."""
    p = begin("clips", path)
    source, options = clips.load_source(p.clips.source, p.clips.options)
    entries = {entry.media_id: entry for entry in source.listing(options).entries}
    code = code_digest("clips")
    recipe: dict[str, Any] = {}
    if p.clips.source == "demo":  # media that are a function of the source's own code
        drawn = code_digest("clips", "pipeline/sources/demo")
        recipe = {"options": options.model_dump(mode="json", exclude=clips.COUNTS), "code": drawn}
    payloads = {name: clips.job_of(entry, recipe) for name, entry in entries.items()}
    jobs = [Job(name, params.digest(["clips", code, payload["digest"]]), payload) for name, payload in payloads.items()]
    folder, cache = p.data / "clips", ItemCache()
    with only_writer(folder):
        for job in jobs:
            clips.drop_damaged(cache, job.key)
        forgotten = compute("clips", jobs, partial(clips.Fetch, p.clips.source, p.clips.options), p.runtime)
        fresh = folder.with_name(".clips.new")
        shutil.rmtree(fresh, ignore_errors=True)
        rows, boxes = [], []
        for job in sorted(jobs, key=lambda job: job.clip_id):
            item = (cache.get(job.key) or (forgotten.get(job.clip_id, Item(reason="error")), ""))[0]
            found = clips.rows_of(entries[job.clip_id], item, p.clips.length, p.clips.min_seconds)
            rows += found
            if found[0]["status"] == "ok":
                kept = clips.kept_media(cache, item.fields["sha256"], item.fields["suffix"])
                clips.place(kept, fresh / found[0]["media"])
                boxes += [box for row in found for box in clips.boxes_of(row, item)]
        write_table(fresh / "index.parquet", rows, clips.INDEX)
        write_table(fresh / "boxes.parquet", boxes, clips.BOXES)
        write_json(fresh / "store.json", {"stage": "clips", "recipe": p.clips.recipe(), "code": code})
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)
    gate("clips", rows, p.clips.min_success)


if __name__ == "__main__":
    command(main)

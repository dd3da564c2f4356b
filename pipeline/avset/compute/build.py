"""The whole of a per-clip stage: jobs, what the cache lacks, the store, the gate on failures."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from avset import params
from avset.compute.identity import code_digest
from avset.compute.making import only_writer
from avset.compute.run import Job, Mapper, Worker, compute
from avset.errors import REASONS, AvsetError
from avset.params import Params
from avset.storage.artifacts import encoder_facts
from avset.storage.cache import ItemCache
from avset.storage.inspect import _shard
from avset.storage.items import SCHEMA, Item
from avset.storage.shards import Kept, Part, assemble, spread
from avset.storage.store import Store
from avset.storage.tables import read_columns


def _arrays(store: Store, clip: str) -> dict[str, np.ndarray]:
    with _shard(store, clip) as file:
        return {name: np.asarray(array[()]) for name, array in file[clip].items()}


def recompute(store: Store, jobs: list[Job], factory: Callable[[], Mapper]) -> dict[str, float]:
    """The largest absolute difference of each array between the store and what the mapper makes of `jobs` now.

    Infinite where a clip has the array on one side only, or in another shape. The item cache is not asked.
    """
    largest: dict[str, float] = {}
    for job, item in zip(jobs, Worker(factory).attempt(jobs), strict=True):
        stored = _arrays(store, job.clip_id) if store.rows[job.clip_id]["status"] == "ok" else {}
        for name in stored.keys() | item.arrays.keys():
            x, y = stored.get(name), item.arrays.get(name)
            apart = np.inf
            if x is not None and y is not None and x.shape == y.shape:
                apart = float(np.abs(x.astype(float) - y.astype(float)).max(initial=0))
            largest[name] = max(largest.get(name, 0.0), apart)
    return dict(sorted(largest.items()))


def build(
    stage: str,
    p: Params,
    clips: dict[str, dict[str, Any] | None],
    factory: Callable[[], Mapper],
    recipe: dict[str, Any],
    inputs: dict[str, str],
    dimensions: dict[str, tuple[str, ...]],
    batch_size: int = 1,
    of: dict[str, str] | None = None,
    verify: int = 0,
) -> None:
    """The whole of a per-clip stage: compute what the cache lacks, assemble the store, gate on failures.

    `clips` maps every clip to the payload of its job, whose "digest" identifies its input (None: it failed
    upstream); `recipe` is what else decides a value, `inputs` what the whole stage reads (the encoder, ...).
    Where several clips share an item, `of` names for each clip (but those that failed upstream) the one whose job
    makes it; the index has it as a column. With `verify` so many random clips are made anew and compared with the
    store, and nothing is written.
    """
    identity = {"recipe": recipe, "code": code_digest(stage), "inputs": inputs}
    base = params.digest([SCHEMA, stage, identity])
    jobs = {
        clip: Job(clip, params.digest([base, clip, payload["digest"]]), payload)
        for clip, payload in clips.items()
        if payload is not None and (of is None or of[clip] == clip)
    }
    if verify:
        return compare(p.data / stage, identity, list(jobs.values()), factory, verify)

    makers = {clip: clip if of is None else of.get(clip, clip) for clip in clips}
    parts = dict.fromkeys(clips, Part())
    for clip, maker in makers.items():
        if job := jobs.get(maker):
            parts[clip] = Part(job.key, input_of(job.payload["digest"]), None if of is None else maker)
    with only_writer(p.data / stage):
        shards, kept, cache = spread(clips, parts), Kept(stage, dimensions), ItemCache()
        kept.look(shards)
        needed = {makers[clip] for shard in shards if shard.rows is None for clip in shard.parts} & jobs.keys()
        elsewhere = kept.find({jobs[clip].key: clip for clip in needed if jobs[clip].key not in cache})
        todo = [jobs[clip] for clip in sorted(needed) if jobs[clip].key not in elsewhere]
        forgotten = compute(stage, todo, factory, p.runtime, batch_size, cached=len(jobs) - len(todo))

        def item_of(clip: str) -> tuple[Item, str]:
            if (maker := makers[clip]) not in jobs:
                return Item(reason="upstream"), ""
            key = jobs[maker].key
            found = kept.item(key, elsewhere[key]) if key in elsewhere else cache.get(key)
            if found is None and maker not in forgotten:  # damaged in the cache: once more
                forgotten.update(compute(stage, [jobs[maker]], factory, p.runtime))
                found = cache.get(key)
            return found or (forgotten[maker], "")

        encoder = {"encoder": encoder_facts(p.data / "encoder")} if "encoder" in inputs else {}
        index = assemble(p.data / stage, stage, shards, item_of, identity | encoder, dimensions)
    gate(
        stage, Counter(zip(index["reason"].to_pylist(), index["detail"].to_pylist(), strict=True)), p.clips.min_success
    )


def input_of(told: Any) -> str:
    """The digest of what a clip is computed from, as the index of a store tells it."""
    return told if isinstance(told, str) else params.digest(told)


def compare(folder: Path, identity: dict[str, Any], jobs: list[Job], factory: Callable[[], Mapper], count: int) -> None:
    """Make some clips of a store anew and print the largest difference; AvsetError if it is not of this identity."""
    store = Store(folder)
    if other := [name for name, value in identity.items() if store.info[name] != value]:
        raise AvsetError(f"{folder} was made with other {', '.join(other)}; run `dvc repro {folder.name}`")
    usable = set(store.clips)
    there = [job for job in jobs if job.clip_id in usable]
    drawn = random.sample(there, min(count, len(there)))
    for name, apart in recompute(store, drawn, factory).items():
        print(f"{folder}: {name} of {len(drawn)} clips made anew differs by at most {apart:g}")


def media_payloads(p: Params) -> dict[str, dict[str, Any] | None]:
    """The jobs of a stage that reads media: every clip, None where it failed in the clips stage."""
    folder = p.clips_folder
    payloads: dict[str, dict[str, Any] | None] = {}
    names = ("clip_id", "status", "media", "sha256", "start_s", "duration_s")
    for columns in read_columns(folder / "index.parquet", *names):
        for clip, status, media, *piece in zip(*columns, strict=True):
            told = {"media": folder / (media or ""), "digest": piece, "start": piece[1], "duration": piece[2]}
            payloads[clip] = told if status == "ok" else None
    return payloads


def store_payloads(store: Store) -> dict[str, dict[str, Any] | None]:
    """The jobs of a stage that reads another's store: every clip, None where it failed there."""
    rows = store.rows.columns("clip_id", "status", "digest")
    return {clip: {"digest": content} if status == "ok" else None for clip, status, content in rows}


def gate(stage: str, outcomes: Counter[tuple[str, str]], min_success: float) -> None:
    """AvsetError if too few clips got through this stage: clips by reason ("": none) and detail."""
    tried = sum(count for (reason, _), count in outcomes.items() if reason != "upstream")
    ok = sum(count for (reason, _), count in outcomes.items() if not reason)
    if ok == 0 or ok < min_success * tried:
        reasons = sorted(
            {f"{reason} ({detail or REASONS[reason]})" for reason, detail in outcomes if reason not in ("", "upstream")}
        )
        raise AvsetError(
            f"{stage}: {ok} of {tried} clips succeeded, fewer than clips.min_success = {min_success}; "
            f"reasons: {'; '.join(reasons[:5]) or 'no clip at all'}"
        )

"""The whole of a per-clip stage: jobs, what the cache lacks, the store, the gate on failures."""

import hashlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from avset.compute.identity import Recipe
from avset.compute.making import only_ours, only_writer
from avset.compute.run import Job, Mapper, Worker, compute
from avset.errors import REASONS, AvsetError
from avset.params import Params, digest, target
from avset.storage.artifacts import ARTIFACTS, Record, encoder_facts, identity_of
from avset.storage.cache import ItemCache
from avset.storage.items import Item
from avset.storage.previous import previous
from avset.storage.shards import Kept, Part, Shard, assemble, spread
from avset.storage.store import Store
from avset.storage.tables import Lazy, Rows, sorted_index

TOLERANCE = (
    0.01  # of the largest number of an array: another processor rounds otherwise, and a captions' search adds up
)
Payloads = Mapping[str, dict[str, Any] | None]  # of the jobs of all clips; None: the clip failed in an earlier stage


def build(
    stage: str,
    p: Params,
    clips: Payloads,
    factory: Callable[[], Mapper],
    recipe: dict[str, Any],
    batch_size: int = 1,
    of: dict[str, str] | None = None,
    verify: int = 0,
    adopt: int = 0,
) -> None:
    """The whole of a per-clip stage: compute what the cache lacks, assemble the store, gate on failures.

    `clips` maps every clip to the payload of its job, whose "digest" identifies its input; `recipe` is what else
    decides a value. Where several clips share an item, `of` names for each clip (but those that failed upstream) the
    clip whose job makes the item; the index has it as a column.
    With `verify` so many random clips are made anew and compared with the store, and nothing is written. With
    `adopt` so many are made anew; if all are the same to the byte, the code as it is takes over what was kept.
    """
    plan = Plan(stage, p, clips, factory, recipe, batch_size, of)
    if verify:
        plan.verify(verify)
    elif adopt:
        plan.adopt(adopt)
    else:
        plan.make()


class Plan:
    """What a per-clip stage is to make: the record of its store, its jobs, and the part of every clip."""

    def __init__(
        self, stage: str, p: Params, clips: Payloads, factory: Callable[[], Mapper], recipe: dict[str, Any],
        batch_size: int, of: dict[str, str] | None,
    ):  # fmt: skip
        self.stage, self.p, self.factory, self.batch_size = stage, p, factory, batch_size
        self.artifact, self.folder, self.code = ARTIFACTS[stage], p.data / stage, Recipe(stage)
        inputs = {
            name: identity_of(p.data / name, name) for name in self.artifact.parents if not ARTIFACTS[name].per_clip
        }
        facts = {"encoder": encoder_facts(p.data / "encoder")} if "encoder" in inputs else {}
        self.record = Record(stage, self.code.version, recipe, inputs, facts=facts)
        self.clips, self.of, self.parts = clips, of, Lazy(clips, self.part)
        self.kept, self.cache = Kept(stage, self.artifact.arrays), ItemCache()

    def key_of(self, clip: str, input: str) -> str:
        """The name of a clip's item in the cache: everything that decides its value."""
        return self.record.key_of(clip, input)

    def maker(self, clip: str) -> str:
        """The clip whose job makes the item of a clip."""
        return clip if self.of is None else self.of.get(clip, clip)

    def job(self, clip: str) -> Job | None:
        """The job of a clip; None if it failed upstream, or if another one makes its item."""
        payload = self.clips.get(clip) if self.of is None or self.of.get(clip) == clip else None
        if payload is None:
            return None
        input = input_of(payload)
        return Job(clip, self.key_of(clip, input), payload, input)

    def part(self, clip: str) -> Part:
        """What the place of a clip is filled with."""
        maker = self.maker(clip)
        job = self.job(maker)
        return Part(job.key, job.input, None if self.of is None else maker) if job else Part()

    def jobs(self) -> list[Job]:
        """All jobs."""
        return [job for job in map(self.job, self.clips) if job]

    def make(self) -> None:
        """Compute what is missing, assemble the store; AvsetError if the code is not that of its version."""
        self.code.check()
        with only_writer(self.folder):
            only_ours(self.folder)
            shards = spread(self.parts, self.parts)
            elsewhere = self.find(shards)
            needed = self.needed(shards)
            jobs = map(self.job, sorted(clip for clip, key in needed.items() if key not in elsewhere))
            todo = [job for job in jobs if job]
            before = self.before(shards, needed, elsewhere)
            forgotten = compute(self.stage, todo, self.factory, self.p.runtime, self.batch_size, before=before)

            def item_of(clip: str) -> tuple[Item, str]:
                if (job := self.job(maker := self.maker(clip))) is None:
                    return Item(reason="upstream"), ""
                known = self.item(job.key, elsewhere)
                if known is None and maker not in forgotten:  # damaged in the cache: once more
                    forgotten.update(compute(self.stage, [job], self.factory, self.p.runtime))
                    known = self.cache.get(job.key)
                return known or (forgotten[maker], "")

            index = assemble(self.folder, self.record, shards, item_of, self.artifact.arrays)
        outcomes = zip(index["reason"].to_pylist(), index["detail"].to_pylist(), strict=True)
        gate(self.stage, Counter(outcomes), self.p.clips.min_success)

    def find(self, shards: list[Shard]) -> dict[str, Path]:
        """Look up the shards that are kept; key -> kept shard, of the items that the others need and the cache lacks.

        If that leaves something to compute, the store that was here before is asked first.
        """
        self.kept.look(shards)
        elsewhere, missing = self._elsewhere(shards)
        if not missing:
            return elsewhere
        with suppress(AvsetError), previous(self.folder) as store:  # one that is damaged is made anew
            if store is None or Record.read(store).differs(self.record):
                return elsewhere
            self.kept.inherit(store, self.key_of)
        self.kept.look(shards)
        return self._elsewhere(shards)[0]

    def _elsewhere(self, shards: list[Shard]) -> tuple[dict[str, Path], bool]:
        wanted = {key: clip for clip, key in self.needed(shards).items() if key not in self.cache}
        elsewhere = self.kept.find(wanted)
        return elsewhere, len(elsewhere) < len(wanted)

    def needed(self, shards: list[Shard]) -> dict[str, str]:
        """The clips whose items go into shards that are to be written, and the keys of the items."""
        parts = ((clip, part) for shard in shards if shard.rows is None for clip, part in shard.parts.items())
        return {part.of or clip: part.key for clip, part in parts if part.key}

    def before(self, shards: list[Shard], needed: Mapping[str, str], elsewhere: dict[str, Path]) -> Counter[str]:
        """Reason -> jobs whose items are in kept shards, whole ones and others; "" for those that did not fail."""
        found = Counter(self.kept.reason(key, path) for key, path in elsewhere.items())
        for shard in shards:
            if shard.rows is not None:
                rows = zip(*(shard.rows[name].to_pylist() for name in ("clip_id", "reason", "input")), strict=True)
                found.update(
                    reason for clip, reason, made in rows if made and self.maker(clip) == clip and clip not in needed
                )
        return found

    def item(self, key: str, elsewhere: dict[str, Path]) -> tuple[Item, str] | None:
        """An item and the digest of its content, from a kept shard or from the cache."""
        return self.kept.item(key, elsewhere[key]) if key in elsewhere else self.cache.get(key)

    def verify(self, count: int) -> None:
        """Make some clips of the store anew and print the largest difference.

        AvsetError if it is more than the last bits, see `TOLERANCE`, or if the store is another's.
        """
        store = Store(self.folder)
        if other := store.record.differs(self.record):
            raise AvsetError(
                f"{self.folder} was made with other {', '.join(other)}; run `dvc repro {target(self.stage)}`"
            )
        usable = set(store.clips)
        there = [job for job in self.jobs() if job.clip_id in usable]
        drawn = random.sample(there, min(count, len(there)))
        found = recompute(store, drawn, self.factory)
        for name, (apart, allowed) in found.items():
            told = f"{name} of {len(drawn)} clips made anew differs by at most {apart:g}"
            print(f"{self.folder}: {told} (allowed: {allowed:g})")
        if wrong := [name for name, (apart, allowed) in found.items() if not apart <= allowed]:
            raise AvsetError(
                f"{self.folder}: {', '.join(wrong)} differ by more than {TOLERANCE:.0%} of the largest number, so the "
                f"store is not of this code and these inputs; run `avset store verify` on it and on those before it"
            )

    def adopt(self, count: int) -> None:
        """Give the code as it is the version that it had before, if some clips come out the same to the byte.

        AvsetError with the largest difference if one does not, or if there is no item to compare with.
        """
        shards = spread(self.parts, self.parts)  # of which none is looked up: every item is wanted
        self.find(shards)
        for shard in shards:
            shard.rows = None
        elsewhere = self._elsewhere(shards)[0]
        known = [job for job in self.jobs() if job.key in elsewhere or job.key in self.cache]
        if not known:
            raise AvsetError(
                f"{self.stage}: no item of version {self.code.number} is here to compare with; bring the store with "
                f"`dvc pull {self.stage}`, or raise the version with `python -m stages.{self.stage} --new-version`"
            )
        drawn = random.sample(known, min(count, len(known)))
        pairs = []
        for job, item in zip(drawn, Worker(self.factory).attempt(drawn), strict=True):
            old = self.item(job.key, elsewhere)
            if old is not None and hashlib.sha256(item.dump()).hexdigest() != old[1]:
                pairs.append((old[0], item))
        if pairs:
            raise AvsetError(
                f"{self.stage}: {len(pairs)} of {len(drawn)} clips made anew differ ({largest_difference(pairs)}); the "
                f"code is not that of version {self.code.number}: mend it, or raise the version with "
                f"`python -m stages.{self.stage} --new-version`"
            )
        self.code.adopt()
        print(
            f"{self.stage}: {len(drawn)} of {len(known)} clips made anew are the same to the byte; the code as it is "
            f"has version {self.code.number} now, and all items, shards and stores of that version stay"
        )


def input_of(payload: dict[str, Any]) -> str:
    """The digest of what a clip is computed from, as the index of a store tells it."""
    told = payload["digest"]
    return told if isinstance(told, str) else digest(told)


def apart(x: np.ndarray | None, y: np.ndarray | None) -> float:
    """The largest absolute difference; infinite where one is missing, or of another shape."""
    if x is None or y is None or x.shape != y.shape:
        return np.inf
    return float(np.abs(x.astype(float) - y.astype(float)).max(initial=0))


def largest_difference(pairs: list[tuple[Item, Item]]) -> str:
    """In words, of items that should be the same: outcomes, arrays, fields."""
    words: dict[str, float | str] = {}
    for old, new in pairs:
        if old.reason != new.reason:
            words["outcome"] = f"{old.reason or 'ok'} before, {new.reason or 'ok'} now"
        elif old.fields != new.fields or old.detail != new.detail:
            names = [name for name in old.fields | new.fields if old.fields.get(name) != new.fields.get(name)]
            words.setdefault("fields", ", ".join(names) or "detail")
        for name in old.arrays.keys() | new.arrays.keys():
            if difference := apart(old.arrays.get(name), new.arrays.get(name)):
                words[name] = max(float(words.get(name, 0.0)), difference)
    return ", ".join(f"{k}: {f'at most {v:g}' if isinstance(v, float) else v}" for k, v in sorted(words.items()))


def recompute(store: Store, jobs: list[Job], factory: Callable[[], Mapper]) -> dict[str, tuple[float, float]]:
    """The largest difference of each array between the store and what the mapper makes of `jobs` now, and the allowed.

    Infinite where a clip has the array on one side only, or in another shape. The item cache is not asked.
    """
    largest: dict[str, tuple[float, float]] = {}
    for job, item in zip(jobs, Worker(factory).attempt(jobs), strict=True):
        stored = store.arrays(job.clip_id) if store.rows[job.clip_id]["status"] == "ok" else {}
        for name in stored.keys() | item.arrays.keys():
            before, allowed = largest.get(name, (0.0, 0.0))
            old, new = stored.get(name), item.arrays.get(name)
            size = 0.0 if old is None else apart(old, np.zeros_like(old))
            largest[name] = (max(before, apart(old, new)), max(allowed, TOLERANCE * size))
    return dict(sorted(largest.items()))


def media_payloads(p: Params) -> Payloads:
    """The jobs of a stage that reads media: every clip, None where it failed in the clips stage."""
    folder = p.clips_folder
    rows = Rows(sorted_index(folder / "index.parquet"))

    def payload(clip: str) -> dict[str, Any] | None:
        place = rows.position(clip)
        if rows.at(place, "status") != "ok":
            return None
        media, *piece = (rows.at(place, name) for name in ("media", "sha256", "start_s", "duration_s"))
        return {"media": folder / media, "digest": piece, "start": piece[1], "duration": piece[2]}

    return Lazy(rows, payload)


def store_payloads(store: Store) -> Payloads:
    """The jobs of a stage that reads another's store: every clip, None where it failed there."""

    def payload(clip: str) -> dict[str, Any] | None:
        place = store.rows.position(clip)
        return {"digest": store.rows.at(place, "digest")} if store.rows.at(place, "status") == "ok" else None

    return Lazy(store.rows, payload)


def gate(stage: str, outcomes: Counter[tuple[str, str]], min_success: float) -> None:
    """Tell on stderr what failed; AvsetError if too few clips got through: clips by reason ("": none) and detail."""
    counts = Counter[str]()
    for (reason, _), n in outcomes.items():
        counts[reason] += n
    if failed := ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()) if reason):
        print(f"{stage}: of {counts.total()} clips {counts['']} ok, {failed}", file=sys.stderr, flush=True)
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

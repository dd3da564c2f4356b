"""Media files of a source, and the clips cut from them."""

import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from avset.compute.identity import Recipe
from avset.compute.limited import Limits
from avset.compute.run import Job, compute
from avset.errors import REASONS, REFUSED, TRANSIENT, AvsetError, ClipError
from avset.media.container import TAIL, probe
from avset.media.fingerprint import Fingerprint, fingerprint
from avset.params import Clips, Download, Runtime, checked, digest
from avset.sources import Box, Entry
from avset.sources.download import settle
from avset.sources.names import told_apart
from avset.storage.cache import ABANDONED, DAY, FETCHING, ItemCache, fetched_items, kept_media
from avset.storage.checksums import digest_of
from avset.storage.files import link, make_folder, place, share
from avset.storage.items import Item
from avset.storage.reading import patiently
from avset.values import told

INDEX = pa.schema(
    [("clip_id", pa.string()), ("media_id", pa.string()), ("status", pa.string()), ("reason", pa.string()),
     ("detail", pa.string()), ("split", pa.string()), ("labels", pa.list_(pa.string())), ("origin", pa.string()),
     ("media", pa.string()), ("start_s", pa.float64()), ("origin_start_s", pa.float64()), ("duration_s", pa.float64()),
     ("width", pa.int64()), ("height", pa.int64()), ("fps", pa.float64()), ("sample_rate", pa.int64()),
     ("channels", pa.int64()), ("sha256", pa.string()), ("content", pa.string())]
)  # fmt: skip
BOXES = pa.schema([("clip_id", pa.string()), ("time_s", pa.float64()), ("label", pa.string())])
for _side in ("x0", "y0", "x1", "y1"):
    BOXES = BOXES.append(pa.field(_side, pa.float64()))


OF_ENCODERS = {"descriptions", "likeness", "pools", "train_encoder"}  # modules of the demo that draw no clips


def load_source(name: str, values: dict[str, Any]) -> tuple[Any, Any]:
    """The module of a source and its checked options; ParamsError names the option that is wrong."""
    source = import_module(f"avset.sources.{name}")
    return source, checked(source.Options, values, "clips.options")


def drawing(name: str) -> Recipe | None:
    """The recipe of a source whose media are drawn by code of its own; None of one that fetches them."""
    modules = Path(__file__).with_name(name).glob("*.py") if name == "demo" else ()
    drawn = [path for path in modules if path.stem not in OF_ENCODERS]
    return Recipe("clips", name, drawn) if drawn else None


def online(options: Any) -> bool:
    """Whether a source fetches its media from the net."""
    return hasattr(options, "address")


WORTH_ONLINE = 2  # media that a process must have to be worth its start: a download takes long


def hull(entry: Entry) -> tuple[float, float] | None:
    """From the start of the first part of a video to the end of the last (s); None: all of it."""
    return (min(a for a, _ in entry.parts), max(b for _, b in entry.parts)) if entry.parts else None


def identity(entry: Entry, options: Any, drawn: str) -> list[Any]:
    """What decides the bytes of a medium: an address and a piece, a file's size and time, or the code that draws it."""
    if online(options):
        return [entry.origin, hull(entry), options.height]
    origin = Path(entry.origin)
    if origin.is_file():
        stat = origin.stat()
        return [entry.origin, stat.st_size, stat.st_mtime_ns]
    how = options.drawn() if drawn else options.model_dump(mode="json")  # without a file, and not drawn: it is missing
    return [entry.media_id, list(entry.labels), how, drawn]


def jobs_of(entries: list[Entry], options: Any, code: str, drawn: str) -> list[Job]:
    """The jobs that fetch and probe the media of some entries.

    `kept` in a job names the medium whatever the code is: a medium is fetched once, and probed anew by other code.
    """
    jobs = []
    for entry in entries:
        if not entry.fault:
            told = identity(entry, options, drawn)
            payload = {"entry": entry, "kept": digest(["media", told])}
            jobs.append(Job(entry.media_id, digest(["clips", code, told]), payload))
    return jobs


def in_cache(jobs: list[Job]) -> set[str]:
    """The media among those of some jobs that were fetched before, or failed for good."""
    cache = fetched_items(ItemCache())
    return {job.clip_id for job in jobs if job.payload["kept"] in cache}


def intact(cache: ItemCache, fields: dict[str, Any]) -> bool:
    """Whether the media file of an item is as it was. Its content is read only if its size or time is another.

    OSError if the system cannot read it now: then nobody knows.
    """
    path = kept_media(cache, fields)
    try:
        stat = patiently(path.stat)
        return [stat.st_size, stat.st_mtime_ns] == fields["stamp"] or bool(digest_of(path) == fields["sha256"])
    except FileNotFoundError:
        return False


def reasons_of(retry: Collection[str]) -> set[str]:
    """The reasons that the names after --retry stand for; AvsetError lists the known ones."""
    known = {"transient": TRANSIENT, "all": set(REASONS)} | {reason: {reason} for reason in REASONS}
    if unknown := [name for name in retry if name not in known]:
        raise AvsetError(f"--retry: {unknown[0]!r} is no reason; give one or several of {', '.join(known)}")
    return {reason for name in retry for reason in known[name]}


def forget(cache: ItemCache, jobs: list[Job], again: Collection[str] = ()) -> dict[str, str]:
    """Drop from the cache what is to be fetched again; media_id -> the reason that it had ("": it is damaged).

    That are damaged media, failures for the reasons `again`, and those "unavailable" that were asked for on another
    day: the words of the site were not sure. What killed downloads left long ago goes too.
    """
    forgotten, dropped = cache.forgotten(), {}
    for job in jobs:
        for items, key in _places(cache, job):
            kept = items.get(key)  # this removes an item that is damaged itself
            if kept is None:
                continue
            item = kept[0]
            old = item.reason == "unavailable" and time.time() - items.path(key).stat().st_mtime > DAY
            told = _failure(job, item) in again or job.payload["kept"] in forgotten
            if old or told or not (item.reason or intact(cache, item.fields)):
                dropped[job.clip_id] = item.reason
    for job in jobs:
        if job.clip_id in dropped:
            for items, key in _places(cache, job):
                items.path(key).unlink(missing_ok=True)
        if job.payload["kept"] in forgotten:
            (cache.root / "forgotten" / job.payload["kept"]).unlink(missing_ok=True)
    for pattern, age in ABANDONED.items():
        for folder in cache.root.glob(pattern):
            with suppress(FileNotFoundError):  # another process fetches
                if time.time() - folder.stat().st_mtime > age:
                    shutil.rmtree(folder, ignore_errors=True)
    return dropped


def _failure(job: Job, item: Item) -> str:
    """The reason of an item; "truncated" if its medium ends early, which costs it a clip."""
    if item.reason or "declared" not in item.fields:
        return item.reason
    return "truncated" if any(missing for *_, missing in parts_in(job.payload["entry"], item.fields)) else ""


def _places(cache: ItemCache, job: Job) -> tuple[tuple[ItemCache, str], tuple[ItemCache, str]]:
    """Where the cache keeps what was probed of a medium, and what was fetched."""
    return (cache, job.key), (fetched_items(cache), job.payload["kept"])


class Fetch:
    """Mapper: fetches a medium into the cache and probes it.

    Fields: those of `probe`, its sha256, its boxes. Arrays: those of its fingerprint.
    """

    def __init__(self, name: str, values: dict[str, Any], access: Download, limits: Limits):
        self.source, self.options = load_source(name, values)
        self.access, self.limits, self.cache = access, limits, ItemCache()

    def __call__(self, jobs: list[Job]) -> list[Item]:
        return [self.item(job.payload["entry"], job.payload["kept"]) for job in jobs]

    def item(self, entry: Entry, key: str) -> Item:
        """The item of one medium, fetched if the cache does not have it; a ClipError becomes its failure."""
        known = fetched_items(self.cache).get(key)
        if known and (known[0].reason or intact(self.cache, known[0].fields)):
            kept = known[0]
        else:
            kept = self._fetch(entry)
            fetched_items(self.cache).put(key, kept)
            if online(self.options) and kept.reason not in TRANSIENT:
                settle(entry, self.options)
        return self._probed(kept)

    def anew(self, entry: Entry, key: str, drawn: bool) -> Item:
        """The item of a medium that was fetched before, made once more: `drawn` again, else probed again."""
        known = None if drawn else fetched_items(self.cache).get(key)
        return self._probed(known[0] if known else self._fetch(entry))

    def _probed(self, kept: Item) -> Item:
        if kept.reason:
            return kept
        path = kept_media(self.cache, kept.fields)
        try:
            medium = self.limits(probe, path)
            return Item(asdict(self.limits(fingerprint, path, medium.duration)), {**kept.fields, **asdict(medium)})
        except ClipError as e:
            return Item.failed(e)

    def _fetch(self, entry: Entry) -> Item:
        suffix = self.source.SUFFIX or Path(entry.origin).suffix.lower()
        make_folder(self.cache.root)
        with tempfile.TemporaryDirectory(dir=self.cache.root, prefix=FETCHING) as folder:
            target = Path(folder) / f"media{suffix}"
            try:
                result = self.source.fetch(entry, self.options, target, self.access)
            except ClipError as e:
                return Item.failed(e)
            fields = {"sha256": digest_of(target), "suffix": suffix, "start": result.start}
            kept = kept_media(self.cache, fields)
            make_folder(kept.parent)
            place(target, kept)
            share(kept)
        stat = kept.stat()
        boxes = [asdict(box) for box in result.boxes]
        return Item(fields={**fields, "boxes": boxes, "stamp": [stat.st_size, stat.st_mtime_ns]})


CLOSED = {*REFUSED, "network"}  # failures that are never about the video
RARE = 0.1  # share of a failure; a row of what is not more frequent ends the stage as refusals do


class Breaker:
    """Watches the outcomes of downloads, and ends the stage with an AvsetError when the site seems closed to us.

    A refusal or a dead connection is about us: `limit` of them in a row are enough. Any other failure may be the truth
    about a video, or words about us that were misread: one tells nothing, a row tells. Of old lists a fourth is gone,
    so a row that is likely must pass, and a longer one where more is gone. A row is the failures since the last
    success; s is the share of their reasons among all outcomes before the row, to which 1 failure of 4 is added for a
    start. By chance a row of n has the probability s^n. The stage ends if n >= limit and s^n <= RARE^limit: with the
    limit 12, after 12 in a row of what one video in ten has, 20 of a fourth, 40 of a half, 263 of nine in ten.

    Nothing that ended the stage is remembered, see `undo`. Nobody was asked for media that the cache has: they are
    outcomes before the row. A failure that a medium had `before` it was asked again says nothing new.
    """

    def __init__(self, limit: int, jobs: list[Job] | None = None, before: Mapping[str, str] | None = None):
        self.limit, self.before, cache = limit, before or {}, fetched_items(ItemCache())
        self.known = in_cache(jobs or [])
        self.asked = {job.clip_id: job for job in jobs or []}  # whose outcome is not before the row
        self.usual: Counter[str] = Counter()  # outcomes before the row
        for clip in self.known:
            kept = cache.get(self.asked.pop(clip).payload["kept"])
            self.usual[kept[0].reason if kept else ""] += 1
        self.row: list[tuple[str, str]] = []  # media and reasons
        self.refused = 0  # refusals at the end of the row
        self.closed: set[str] = set()  # reasons of the row that ended the stage

    def __call__(self, receipts: list[tuple[str, str, str]]) -> None:
        for clip, reason, detail in receipts:
            if clip in self.known or (reason and reason == self.before.get(clip)):
                continue
            self.row.append((clip, reason))
            if not reason:
                self.usual.update(reason for _, reason in self.row)
                for settled, _ in self.row:
                    self.asked.pop(settled, None)
                self.row.clear()
            self.refused = self.refused + 1 if reason in CLOSED else 0
            if self.refused >= self.limit or self._improbable():
                self.closed = {reason for _, reason in self.row}
                number = self.refused if self.refused >= self.limit else len(self.row)
                raise AvsetError(
                    f"clips: the last {number} videos failed, at the end by {reason} ({detail or REASONS[reason]}); "
                    "the site, or the way to it, seems closed for now. What was fetched is kept, and these videos are "
                    "asked for again: run again later, or from elsewhere, or with runtime.download.cookies; if they "
                    "are gone indeed, raise runtime.download.give_up_after"
                )

    def _improbable(self) -> bool:
        """Whether chance does not make a row like this one."""
        n, reasons = len(self.row), {reason for _, reason in self.row}
        share = (sum(self.usual[reason] for reason in reasons) + 1) / (self.usual.total() + 4)
        return n >= self.limit and n * math.log(share) <= self.limit * math.log(RARE)

    def undo(self) -> None:
        """Drop from the cache the failures of the row that ended the stage, and those that other workers added."""
        for clip, job in self.asked.items() if self.closed else ():
            for items, key in _places(ItemCache(), job):
                kept = items.get(key)
                if kept and kept[0].reason in self.closed - {self.before.get(clip)}:
                    items.path(key).unlink(missing_ok=True)


def fetch_all(
    jobs: list[Job],
    clips: Clips,
    options: Any,
    runtime: Runtime,
    limits: Limits,
    before: Mapping[str, str] | None = None,
) -> dict[str, Item]:
    """Fetch and probe the media that the cache lacks; returns the failures that it does not remember.

    `before` has the failures that are asked again. AvsetError if the site seems closed, see `Breaker`.
    """
    access, remote = runtime.download, online(options)
    workers = access.workers if remote else runtime.workers
    runtime = runtime.model_copy(update={"device": "cpu", "workers": workers})
    fetch, worth = partial(Fetch, clips.source, clips.options, access, limits), WORTH_ONLINE if remote else 0
    if not remote:
        return compute("clips", jobs, fetch, runtime, worth=worth)
    breaker = Breaker(access.give_up_after, jobs, before)
    try:
        return compute("clips", jobs, fetch, runtime, worth=worth, watch=breaker)
    finally:
        breaker.undo()


def collect(
    entries: Iterable[Entry], jobs: list[Job], failures: dict[str, Item], clips: Clips, folder: Path,
    truth: Mapping[str, list[Box]] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Fingerprint]]:  # fmt: skip
    """The index rows and the boxes of the clips of some media, and the fingerprints of the media that have a clip.

    `folder` gets these media. The items of the media are in the cache, or among the `failures` that it does not
    remember. `truth` has boxes of media that others have drawn, on the timeline of the origin.
    """
    cache, keys, entries = ItemCache(), {job.clip_id: job.key for job in jobs}, list(entries)
    rows, boxes, prints = [], [], {}
    names = told_apart(entry.media_id for entry in entries)
    for entry in sorted(entries, key=lambda entry: entry.media_id):
        kept = cache.get(keys[entry.media_id]) if entry.media_id in keys else None
        item = kept[0] if kept else failures.get(entry.media_id, Item(reason="error"))
        own = index_rows(entry, item, clips.length, clips.min_seconds, names[entry.media_id])
        usable = [row for row in own if row["status"] == "ok"]
        rows += own
        drawn = (truth or {}).get(entry.media_id, [])
        boxes += [box for row in usable for box in boxes_of(row, item, drawn)]
        if usable:
            link(kept_media(cache, item.fields), folder / usable[0]["media"], lasting=False)
            prints[entry.media_id] = Fingerprint(**item.arrays)
    return rows, boxes, prints


def cells(start: float, end: float, length: float | None, min_seconds: float) -> list[tuple[float, float]]:
    """Start and duration (s) of the clips of a span: the whole span, or a grid whose last cell may be half as long.

    ClipError("too_short") if the span is shorter than `min_seconds`.
    """
    duration = end - start
    if duration <= 0:
        raise ClipError("too_short", f"it would start at {start:.2f} s, but the video ends at {end:.2f} s")
    if duration < min_seconds:
        raise ClipError("too_short", f"{duration:.2f} s, shorter than clips.min_seconds = {min_seconds}")
    if length is None or duration <= length:
        return [(start, duration)]
    cells = [(start + i * length, min(length, duration - i * length)) for i in range(math.ceil(duration / length))]
    return [cell for cell in cells if cell[1] >= max(min_seconds, length / 2)]


def index_rows(
    entry: Entry, item: Item, length: float | None, min_seconds: float, name: str = ""
) -> list[dict[str, Any]]:
    """The index rows of one medium: one of each clip, and one with the reason for each part that gave no clip.

    `name` is that of its file, without suffix; its media_id if that is empty.
    """
    row = {"media_id": entry.media_id, "split": entry.split, "labels": list(entry.labels)}
    row["origin"] = told(entry.origin, entry.media_id)
    medium = item.fields

    def failed(start: float, reason: str, detail: str) -> dict[str, Any]:
        outcome = {"status": "failed", "reason": reason, "detail": detail}
        return {**row, "clip_id": clip_id(entry.media_id, start), "origin_start_s": start, **outcome}

    if entry.fault or item.reason:
        first = hull(entry) or (0.0, 0.0)
        return [failed(first[0], *(("invalid", entry.fault) if entry.fault else (item.reason, item.detail)))]
    shared = {k: medium[k] for k in ("width", "height", "fps", "sample_rate", "channels", "sha256")}
    shared |= {"status": "ok", "reason": "", "detail": "", "media": f"media/{name or entry.media_id}{medium['suffix']}"}
    rows = []
    for start, end, missing in parts_in(entry, medium):
        try:
            for at, seconds in cells(start, end, length, min_seconds):
                times = {"start_s": max(at - medium["start"], 0.0), "origin_start_s": at, "duration_s": seconds}
                rows.append({**row, **shared, "clip_id": clip_id(entry.media_id, at), **times})
        except ClipError as e:
            if not missing:
                rows.append(failed(start, e.reason, e.detail))
        if missing:
            rows.append(failed(max(start, end), "truncated", f"the media end at {end:.2f} s, {missing:.2f} s early"))
    return rows


def parts_in(entry: Entry, medium: dict[str, Any]) -> Iterator[tuple[float, float, float]]:
    """The parts of a video that its medium holds: start, end, and how much of the end is missing (s of the origin).

    Only what the video declares but does not have is missing; it is not missing beyond the end of the video.
    """
    start, end, declared = medium["start"], medium["start"] + medium["duration"], medium["start"] + medium["declared"]
    for first, last in entry.parts or ((max(start, 0.0), declared),):
        missing = min(last, declared) - max(end, first)
        yield first, min(last, end), missing if missing > TAIL else 0.0


def clip_id(media_id: str, start: float) -> str:
    """`<media_id>_<start in ms>`, on the timeline of the origin."""
    return f"{media_id}_{round(start * 1000)}"


def boxes_of(row: dict[str, Any], item: Item, drawn: Sequence[Box] = ()) -> list[dict[str, Any]]:
    """The boxes of a medium whose time is in one of its clips; `drawn` ones are on the timeline of the origin."""
    start, end = row["start_s"], row["start_s"] + row["duration_s"]
    began = row["origin_start_s"] - row["start_s"]
    boxes = item.fields["boxes"] + [asdict(box) | {"time_s": box.time_s - began} for box in drawn]
    return [{"clip_id": row["clip_id"], **box} for box in boxes if start <= box["time_s"] <= end]

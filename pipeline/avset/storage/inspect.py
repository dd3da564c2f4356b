"""Look after stores: list them, say what made one, what differs between two, and whether one is intact."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from avset.errors import AvsetError
from avset.params import clips_of
from avset.storage.files import require
from avset.storage.hdf5 import open_hdf5
from avset.storage.shards import item_of
from avset.storage.store import Store
from avset.storage.tables import read_columns

MEDIUM = ("sha256", "start_s", "duration_s", "split", "labels")  # what a row of clips is


BROKEN = (OSError, KeyError, RuntimeError, ValueError)  # what a damaged file raises, depending on where it is


NAMES = 10  # clips named of each kind of difference


def summaries(data: Path) -> list[dict[str, Any]]:
    """The `summary` of the clips of a data set, and of every store in `data`, its folder at some scale."""
    clips = clips_of(data)
    inside = [] if clips.exists() and not data.exists() else require(data).iterdir()
    folders = [clips, *sorted(folder for folder in inside if not folder.name.startswith("."))]
    return [summary(f) for f in folders if (f / "index.parquet").exists() or (f / "shards").exists()]


def summary(folder: Path) -> dict[str, Any]:
    """stage, ok and failed (clips), bytes, digest (as `Store.digest`), lacks (files of it that are not there)."""
    files = [folder / "store.json", folder / "index.parquet"]
    lacks = [path.name for path in files if not path.exists()]
    digest, counts, parts = "", Counter[str](), set[str]()
    if not lacks:
        digest = hashlib.sha256(files[0].read_bytes() + files[1].read_bytes()).hexdigest()
        try:
            column = "media" if json.loads(files[0].read_text())["stage"] == "clips" else "shard"
            for statuses, places in read_columns(files[1], "status", column):
                counts.update(statuses)
                parts |= {at if column == "media" else f"shards/{at}.h5" for at in places if at is not None}
        except BROKEN:
            lacks.append("readable index")
    lacks += sorted(part for part in parts if not (folder / part).exists())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    told = {"stage": folder.name, "ok": counts["ok"], "failed": counts["failed"]}
    return {**told, "bytes": size, "digest": digest, "lacks": lacks}


def describe(folder: Path) -> dict[str, Any]:
    """The `summary` of a store, its identity, clips by reason, and the arrays of its first clip: shape, type, axes."""
    arrays = {}
    with _readable(folder):
        store = Store(folder)
        if store.info["stage"] != "clips" and store.clips:
            with _shard(store, store.clips[0]) as file:
                for name, array in file[store.clips[0]].items():
                    axes = " ".join(axis.label for axis in array.dims)
                    arrays[name] = f"{'x'.join(map(str, array.shape))} {array.dtype} ({axes})"
    reasons = Counter(reason for (reason,) in store.rows.columns("reason") if reason)
    return {**summary(folder), "reasons": dict(sorted(reasons.items())), "identity": store.info, "arrays": arrays}


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN as e:
        raise AvsetError(f"{folder} is damaged ({e}); bring it back with `dvc checkout`, or make it again") from e


def _shard(store: Store, clip: str) -> h5py.File:
    return open_hdf5(store.folder / "shards" / f"{store.rows[clip]['shard']}.h5")


def diff(a: Path, b: Path) -> dict[str, Any]:
    """What differs between two stores of a stage; empty where nothing does.

    identity: entry -> [in A, in B]. clips: kind of difference ->
    count and first names; of the clips whose outcome or content differs, `input` names those made of something else.
    AvsetError if they are of different stages.
    """
    one, two = dict(flat(_told(a))), dict(flat(_told(b)))
    stage = one["stage"]
    if stage != two["stage"]:
        raise AvsetError(f"{a} holds {stage}, {b} holds {two['stage']}; compare two stores of the same stage")
    keys = sorted(one.keys() | two.keys())
    told = {key: [one.get(key, "(none)"), two.get(key, "(none)")] for key in keys}
    before, after = _outcomes(a), _outcomes(b)
    both = before.keys() & after.keys()
    outcome = {c for c in both if before[c][0] != after[c][0]}
    content = {c for c in both - outcome if before[c][1] != after[c][1]}
    kinds = {"only in A": before.keys() - both, "only in B": after.keys() - both, "content": content}
    named = {kind: sorted(clips) for kind, clips in kinds.items()}
    named["outcome"] = [f"{c}: {before[c][0] or 'ok'}, {after[c][0] or 'ok'}" for c in sorted(outcome)]
    named["input"] = [c for c in sorted(outcome | content) if before[c][2] != after[c][2]]
    clips = {kind: {"count": len(found), "first": found[:NAMES]} for kind, found in named.items() if found}
    entries = {key: values for key, values in told.items() if values[0] != values[1]}
    return {key: value for key, value in (("identity", entries), ("clips", clips)) if value}


def _told(folder: Path) -> dict[str, Any]:
    with _readable(folder):
        return json.loads(require(folder / "store.json").read_text())


def flat(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested objects."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _outcomes(folder: Path) -> dict[str, tuple[str, Any, str]]:
    """Clip -> its reason, content and input; the clips stage has no digests: what decides a value is the content."""
    content = MEDIUM if _told(folder)["stage"] == "clips" else ("digest", "input")
    found = {}
    with _readable(folder):
        for columns in read_columns(folder / "index.parquet", "clip_id", "reason", *content):
            for clip, reason, *told in zip(*columns, strict=True):
                found[clip] = (reason, told, "") if content == MEDIUM else (reason, *told)
    return found


def verify(folder: Path, count: int, seed: int = 0) -> tuple[int, dict[str, str]]:
    """How many clips were read and hashed, at most `count`, drawn at random; and what is wrong, by clip.

    Every clip must be where the index says. What was drawn must hash to the digest in the index: arrays and
    fields of a clip are all of its item; of the clips stage, the media file.
    """
    with _readable(folder):
        store = Store(folder)
    clips = store.info["stage"] == "clips"
    damaged = _lost_media(store) if clips else _misplaced(store)
    signed = [clip for clip, sign in store.rows.columns("clip_id", "media" if clips else "digest") if sign]
    drawn = random.Random(seed).sample(signed, min(count, len(signed)))
    for clip in sorted(set(drawn) - damaged.keys()):
        try:
            if not (_medium_intact if clips else _item_intact)(store, clip):
                damaged[clip] = "its content is not that of the index"
        except BROKEN as e:
            damaged[clip] = f"cannot be read: {e}"
    return len(drawn), dict(sorted(damaged.items()))


def _lost_media(store: Store) -> dict[str, str]:
    media = store.rows.columns("clip_id", "media")
    return {clip: "its medium is not there" for clip, path in media if path and not (store.folder / path).exists()}


def _misplaced(store: Store) -> dict[str, str]:
    """Clips that are not in their shard, and groups of a shard that are not in the index."""
    found: dict[str, str] = {}
    shards: dict[str, list[str]] = {}
    for clip, status, shard in store.rows.columns("clip_id", "status", "shard"):
        if status == "ok":
            shards.setdefault(shard, []).append(clip)
    for shard, clips in shards.items():
        try:
            with _shard(store, clips[0]) as file:
                names = set(file)
        except BROKEN as e:
            found |= dict.fromkeys(clips, f"shard {shard} cannot be opened: {e}")
            continue
        found |= {clip: f"not in its shard, {shard}" for clip in clips if clip not in names}
        found |= {name: f"in shard {shard}, but not in the index" for name in names if name not in store.rows}
    return found


def _medium_intact(store: Store, clip: str) -> bool:
    row = store.rows[clip]
    with (store.folder / row["media"]).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() == row["sha256"]


def _item_intact(store: Store, clip: str) -> bool:
    with _shard(store, clip) as file:
        return item_of(store.rows[clip], file) is not None

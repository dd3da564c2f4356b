"""Look after artifacts: list them, say what made one, what differs between two, and whether one is intact."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from avset.errors import AvsetError
from avset.params import choose, folder_of
from avset.storage.artifacts import ARTIFACTS, EVERY, Artifact, Record, identity_of
from avset.storage.checksums import RECORD, damaged, damages, names, sha256_of
from avset.storage.files import require
from avset.storage.hdf5 import UNREADABLE, open_hdf5
from avset.storage.shards import item_of
from avset.storage.store import Store
from avset.storage.tables import read_columns

MEDIUM = ("sha256", "start_s", "duration_s", "split", "labels")  # what a row of clips is
FAILURE = ("stage", "file", "clip", "reason", "detail")
NAMES = 10  # clips named of each kind of difference


def artifact_of(folder: Path) -> Artifact:
    """The row of the artifact in a folder, by the record, or by the folder's name without one; AvsetError if none."""
    path = folder.absolute()
    told = [Record.read(folder).artifact] if (folder / RECORD).exists() else []
    for name in (*told, path.name, path.parent.name):
        if name in EVERY:
            return EVERY[name]
    raise AvsetError(f"{folder} is no artifact; give the folder of one of {', '.join(EVERY)}")


def summaries(data: Path) -> list[dict[str, Any]]:
    """The `summary` of every artifact of a data set at a scale, in `data`; one for each method of models, scores."""
    folders = {name: folder_of(data, name) for name in ARTIFACTS}
    if not any(folder.is_dir() for folder in folders.values()):
        require(data)
    rows = []
    for name, folder in folders.items():
        inner = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
        if folder.is_dir():
            rows += [summary(path) for path in (inner if name in ("models", "scores") else [folder])]
    return rows


def summary(folder: Path) -> dict[str, Any]:
    """What one sees of an artifact from outside.

    artifact, ok and failed (clips; None where it has none), bytes, digest (its identity), lacks (files not there).
    """
    artifact = artifact_of(folder)
    name = artifact.name if folder.absolute().name == artifact.name else f"{artifact.name}/{folder.name}"
    parts = {RECORD, *artifact.files} - {"shards", "media"}
    lacks = [part for part in sorted(parts) if not (folder / part).exists()]
    counts, digest = Counter[str](), ""
    if not {*artifact.identity, *(["index.parquet"] if artifact.per_clip else [])}.intersection(lacks):
        try:
            digest = identity_of(folder, artifact.name)
            counts, clips = _counts(folder, artifact)
            lacks += sorted(part for part in clips if not (folder / part).exists())
        except AvsetError:
            lacks.append("intact files")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    ok, failed = (counts["ok"], counts["failed"]) if artifact.per_clip else (None, None)
    return {"artifact": name, "ok": ok, "failed": failed, "bytes": size, "digest": digest, "lacks": lacks}


def _counts(folder: Path, artifact: Artifact) -> tuple[Counter[str], set[str]]:
    """Clips by status, and the files that the index names."""
    counts, parts = Counter[str](), set[str]()
    column = "shard" if artifact.arrays else "media"
    if artifact.per_clip:
        for statuses, places in read_columns(folder / "index.parquet", "status", column):
            counts.update(statuses)
            parts |= {f"shards/{at}.h5" if artifact.arrays else at for at in places if at is not None}
    return counts, parts


def failures(data: Path, stage: str | None = None) -> list[dict[str, str]]:
    """The clips that failed at a stage, or at any: stage, file (its name in the source), clip, reason, detail.

    A clip that failed at an earlier stage is told there alone. `data` is the folder of a data set at a scale.
    ParamsError if there is no such stage, MissingArtifact if it was not run.
    """
    per_clip = [name for name, artifact in ARTIFACTS.items() if artifact.per_clip]
    wanted = [choose(stage, per_clip, "stage")] if stage else per_clip
    found: list[tuple[str, str, str, str]] = []
    for name in wanted:
        folder = folder_of(data, name)
        if stage or name == "clips" or (folder / "index.parquet").exists():
            with _readable(folder):
                for columns in read_columns(folder / "index.parquet", "clip_id", "reason", "detail"):
                    found += [(name, *row) for row in zip(*columns, strict=True) if row[1] not in ("", "upstream")]
    failed = {clip for _, clip, _, _ in found}
    files: dict[str, str] = {}
    for columns in read_columns(folder_of(data, "clips") / "index.parquet", "clip_id", "origin", "media_id"):
        files.update((clip, origin or name) for clip, origin, name in zip(*columns, strict=True) if clip in failed)
    rows = ((name, files.get(clip, clip), clip, reason, detail) for name, clip, reason, detail in found)
    return [dict(zip(FAILURE, row, strict=True)) for row in rows]


def describe(folder: Path) -> dict[str, Any]:
    """The `summary` of an artifact, its record, and what is in it.

    Per clip: clips by reason, and of the first clip's arrays shape, type and axes. Else: what each file holds.
    """
    artifact = artifact_of(folder)
    with _readable(folder):
        record, told = asdict(Record.read(folder)), dict[str, Any]()
        if artifact.per_clip:
            store = Store(folder)
            reasons = Counter(reason for (reason,) in store.rows.columns("reason") if reason)
            told["reasons"] = dict(sorted(reasons.items()))
            if artifact.arrays and store.clips:
                with open_hdf5(store.shard(store.clips[0])) as file:
                    told["arrays"] = {name: _shape(array) for name, array in file[store.clips[0]].items()}
        else:
            told["files"] = {name: _content(folder / name) for name in artifact.files if (folder / name).is_file()}
    seen = {name: value for name, value in summary(folder).items() if value is not None}
    return {**seen, "record": record, **told}


def _shape(array: h5py.Dataset) -> str:
    return f"{'x'.join(map(str, array.shape))} {array.dtype} ({' '.join(axis.label for axis in array.dims)})"


def _content(path: Path) -> str:
    """What a file holds, in words; one of `UNREADABLE`, or a SafetensorError, if it cannot be read."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return f"{len(table)} rows of {', '.join(table.column_names)}"
    if path.suffix == ".safetensors":
        with safe_open(str(path), "np") as file:
            return f"{len(file.keys())} tensors"
    if path.suffix == ".h5":
        with open_hdf5(path) as file:
            return f"{len(file)} groups"
    return f"{len(json.loads(path.read_bytes()))} entries"


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (*UNREADABLE, SafetensorError) as e:
        raise damaged(folder, e) from e


def diff(a: Path, b: Path) -> dict[str, Any]:
    """What differs between two artifacts of a kind; empty where nothing does.

    record: entry -> [in A, in B]. clips: kind of difference -> count and first names; of the clips whose outcome or
    content differs, `input` names those made of something else. files: those of other bytes, where there are no clips.
    AvsetError if they are of different kinds.
    """
    artifact, other = artifact_of(a), artifact_of(b)
    if artifact is not other:
        raise AvsetError(f"{a} holds {artifact.name}, {b} holds {other.name}; compare two of the same kind")
    with _readable(a):
        one = dict(flat(asdict(Record.read(a))))
    with _readable(b):
        two = dict(flat(asdict(Record.read(b))))
    pairs = {key: [one.get(key, "(none)"), two.get(key, "(none)")] for key in sorted(one.keys() | two.keys())}
    entries = {key: values for key, values in pairs.items() if values[0] != values[1]}
    clips = _clips_apart(a, b, artifact) if artifact.per_clip else {}
    files = [] if artifact.per_clip else [name for name in artifact.files if _bytes_of(a / name) != _bytes_of(b / name)]
    told = (("record", entries), ("clips", clips), ("files", files))
    return {key: value for key, value in told if value}


def _bytes_of(path: Path) -> str:
    """sha256 of a file, or of all files of a folder; empty if it is not there."""
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return " ".join(sha256_of(part) for part in paths if part.is_file())


def _clips_apart(a: Path, b: Path, artifact: Artifact) -> dict[str, Any]:
    before, after = _outcomes(a, artifact), _outcomes(b, artifact)
    both = before.keys() & after.keys()
    outcome = {c for c in both if before[c][0] != after[c][0]}
    content = {c for c in both - outcome if before[c][1] != after[c][1]}
    kinds = {"only in A": before.keys() - both, "only in B": after.keys() - both, "content": content}
    named = {kind: sorted(clips) for kind, clips in kinds.items()}
    named["outcome"] = [f"{c}: {before[c][0] or 'ok'}, {after[c][0] or 'ok'}" for c in sorted(outcome)]
    named["input"] = [c for c in sorted(outcome | content) if before[c][2] != after[c][2]]
    return {kind: {"count": len(clips), "first": clips[:NAMES]} for kind, clips in named.items() if clips}


def flat(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested objects."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _outcomes(folder: Path, artifact: Artifact) -> dict[str, tuple[str, Any, str]]:
    """Clip -> its reason, content and input; the clips stage has no digests: what decides a value is the content."""
    content = ("digest", "input") if artifact.arrays else MEDIUM
    outcomes = {}
    with _readable(folder):
        for columns in read_columns(folder / "index.parquet", "clip_id", "reason", *content):
            for clip, reason, *told in zip(*columns, strict=True):
                outcomes[clip] = (reason, *told) if artifact.arrays else (reason, told, "")
    return outcomes


def verify(folder: Path, count: int | None = None, seed: int = 0) -> tuple[str, dict[str, str]]:
    """What was read, in words, and what is wrong, by clip or file.

    Every file must be as the record promises, and every clip where the index says. Of `count` clips (None: of all),
    drawn at random, what is read must hash to the digest in the index: arrays and fields of a clip are all of its item;
    of the clips stage, the media file.
    """
    artifact, wrong = artifact_of(folder), damages(folder)
    if not artifact.per_clip:
        return f"{len(list(names(folder)))} files read", wrong or dict(_unreadable(folder, artifact))
    if {RECORD, "index.parquet"} & wrong.keys():
        return "0 clips read and hashed", wrong
    store = Store(folder)
    wrong |= _misplaced(store) if artifact.arrays else _lost_media(store)
    signed = [clip for clip, sign in store.rows.columns("clip_id", "digest" if artifact.arrays else "media") if sign]
    drawn = signed if count is None else random.Random(seed).sample(signed, min(count, len(signed)))
    for clip in sorted(set(drawn) - wrong.keys()):
        try:
            if not (_item_intact if artifact.arrays else _medium_intact)(store, clip):
                wrong[clip] = "its content is not that of the index"
        except UNREADABLE as e:
            wrong[clip] = f"cannot be read: {e}"
    return f"{len(drawn)} clips read and hashed", dict(sorted(wrong.items()))


def _unreadable(folder: Path, artifact: Artifact) -> Iterator[tuple[str, str]]:
    for name in artifact.files:
        try:
            if not (folder / name).is_dir():
                _content(folder / name)
        except (*UNREADABLE, SafetensorError) as e:
            yield name, f"cannot be read: {e}"


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
            with open_hdf5(store.shard(clips[0])) as file:
                names = set(file)
        except UNREADABLE as e:
            found |= dict.fromkeys(clips, f"shard {shard} cannot be opened: {e}")
            continue
        found |= {clip: f"not in its shard, {shard}" for clip in clips if clip not in names}
        found |= {name: f"in shard {shard}, but not in the index" for name in names if name not in store.rows}
    return found


def _medium_intact(store: Store, clip: str) -> bool:
    row = store.rows[clip]
    return bool(sha256_of(store.folder / row["media"]) == row["sha256"])


def _item_intact(store: Store, clip: str) -> bool:
    with open_hdf5(store.shard(clip)) as file:
        return item_of(store.rows[clip], file) is not None

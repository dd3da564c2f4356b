"""Items survive exactly, stores are the same bytes whatever their history."""

import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from no_locks import FLOCK
from toy import ROOT

from avset.errors import AvsetError, ClipError, MissingArtifact
from avset.storage import tables
from avset.storage.artifacts import Record
from avset.storage.cache import ItemCache
from avset.storage.files import require, write_atomic
from avset.storage.items import Item
from avset.storage.mapped import mapped
from avset.storage.shards import assemble, spread
from avset.storage.store import Store
from avset.storage.tables import Rows, read_table, sorted_index, write_table

DIMENSIONS = {"x": ("T", "D"), "y": ("L",)}


def item(seed: int) -> Item:
    rng = np.random.default_rng(seed)
    arrays = {"x": rng.normal(size=(3, 4)).astype(np.float16), "y": rng.integers(-9, 9, 7).astype(np.int16)}
    return Item(arrays, {"cosine": 0.5 + seed, "words": "a b"})


def tree_digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*")) if p.is_file()
    }  # fmt: skip


def make(folder: Path, clips: list[str]) -> None:
    items = {clip: item(i) for i, clip in enumerate(sorted(clips))}
    items["bad_0"] = Item.failed(ClipError("corrupt", "no header"))
    assemble(
        folder,
        Record("frames", recipe={"a": 1}),
        spread(items),
        lambda clip: (items[clip], hashlib.sha256(items[clip].dump()).hexdigest()),
        DIMENSIONS,
    )


def test_an_item_comes_back_as_it_was():
    cache = ItemCache()
    cache.put("ab" * 32, item(1))
    found, digest = cache.get("ab" * 32)
    assert found.fields == item(1).fields
    assert found.arrays.keys() == {"x", "y"}
    assert found.arrays["x"].dtype == np.float16
    assert all(np.array_equal(found.arrays[k], v) for k, v in item(1).arrays.items())
    assert digest == hashlib.sha256(item(1).dump()).hexdigest()


def test_a_damaged_item_is_removed_and_never_served():
    cache = ItemCache()
    key = "cd" * 32
    cache.put(key, item(1))
    data = bytearray(cache.path(key).read_bytes())
    data[-1] ^= 1
    cache.path(key).write_bytes(data)
    assert key in cache
    assert cache.get(key) is None
    assert key not in cache


def test_an_item_holds_its_key_and_its_input_and_is_served_under_no_other_key():
    cache, (one, two) = ItemCache(), ("ab" * 32, "cd" * 32)
    cache.put(one, item(1), "input of one")
    cache.put(two, item(2), "input of two")
    assert b'{"input": "input of one", "key": "' + one.encode() in cache.path(one).read_bytes()
    data = cache.path(one).read_bytes()
    cache.path(one).write_bytes(cache.path(two).read_bytes())
    cache.path(two).write_bytes(data)
    assert cache.get(one) is None and cache.get(two) is None
    assert one not in cache and two not in cache, "both are made again"


def test_an_item_of_before_it_held_its_key_is_still_read():
    cache, made = ItemCache(), b"av 1, torch 2"
    data = item(1).dump() + made + len(made).to_bytes(2, "big")
    write_atomic(cache.path("ab" * 32), hashlib.sha256(data).digest() + data)
    found, _ = cache.get("ab" * 32)
    assert found.made == made.decode() and found.fields == item(1).fields


@pytest.mark.parametrize(
    ("reason", "kept"), [("corrupt", True), ("silent", True), ("worker_died", False), ("error", False)]
)
def test_only_failures_of_the_clip_are_remembered(reason: str, kept: bool):
    cache = ItemCache()
    cache.put("ef" * 32, Item(reason=reason))
    assert ("ef" * 32 in cache) is kept


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_says_so(private_cache: Path):
    private_cache.chmod(0o500)
    with pytest.raises(AvsetError, match="AVSET_CACHE"):
        ItemCache().put("ab" * 32, item(1))


def test_a_store_reads_back_with_labels_and_reasons(tmp_path: Path):
    make(tmp_path / "toy", ["b_0", "a_0"])
    store = Store(tmp_path / "toy")
    assert store.clips == ["a_0", "b_0"]
    assert np.array_equal(store.read("b_0", "x"), item(1).arrays["x"])
    assert np.array_equal(store.read("b_0", "y", slice(2, 4)), item(1).arrays["y"][2:4])
    assert [d.label for d in store.dataset("a_0", "x").dims] == ["T", "D"]
    failed = Item.failed(ClipError("corrupt", "no header"))
    assert store.rows["bad_0"] == {
        "clip_id": "bad_0", "status": "failed", "reason": "corrupt", "detail": "no header", "shard": "1000",
        "digest": hashlib.sha256(failed.dump()).hexdigest(), "input": "", "made": "", "cosine": None, "words": None,
    }  # fmt: skip
    assert store.record.recipe == {"a": 1}


def test_bytes_depend_on_the_content_only(tmp_path: Path):
    clips = [f"clip{i}_0" for i in range(40)]
    make(tmp_path / "one", clips)
    make(tmp_path / "two", clips[::-1])
    make(tmp_path / "three", [*clips, "more_0"])
    make(tmp_path / "three", clips)
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two") == tree_digest(tmp_path / "three")
    assert Store(tmp_path / "one").digest == Store(tmp_path / "two").digest


def test_a_new_clip_touches_one_shard(tmp_path: Path):
    clips = [f"clip{i}_0" for i in range(100)]
    items = {clip: item(i) for i, clip in enumerate([*clips, "new_0"])}
    for name, members in (("before", clips), ("after", [*clips, "new_0"])):
        assemble(tmp_path / name, Record("frames"), spread(members), lambda c: (items[c], ""), DIMENSIONS)
    before, after = tree_digest(tmp_path / "before"), tree_digest(tmp_path / "after")
    changed = [k for k in after if before.get(k) != after[k]]
    assert len([k for k in changed if k.startswith("shards/")]) == 1


def test_a_missing_artifact_names_its_stage(tmp_path: Path):
    with pytest.raises(MissingArtifact, match="dvc repro regions"):
        require(Path("data/nowhere/demo/regions/record.json"))
    with pytest.raises(MissingArtifact, match="dvc repro train"):
        require(Path("data/nowhere/demo/models/avset/model.safetensors"))
    with pytest.raises(MissingArtifact, match="dvc repro clips"):
        read_table(Path("data/none/clips/index.parquet"))


def test_tables_keep_lists(tmp_path: Path):
    rows = [{"a": [1, 2], "b": "x"}, {"a": [], "b": "y"}]
    write_table(tmp_path / "t.parquet", rows)
    assert read_table(tmp_path / "t.parquet") == rows


def test_errors_cross_process_borders():
    import pickle

    error = pickle.loads(pickle.dumps(ClipError("silent", "-80 dBFS")))
    assert (error.reason, error.detail) == ("silent", "-80 dBFS")
    assert json.dumps(str(error)) == '"silent: -80 dBFS"'


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in FLOCK, reason="filters Linux' system calls")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_store_is_intact_on_a_file_system_without_locks(tmp_path: Path, error: int):
    items = {clip: item(i) for i, clip in enumerate(("a_0", "b_0", "c_0"))}
    told = {clip: (one, hashlib.sha256(one.dump()).hexdigest()) for clip, one in items.items()}
    assemble(tmp_path / "toy", Record("frames"), spread(items), told.__getitem__, DIMENSIONS)
    command = [sys.executable, ROOT / "tests" / "no_locks.py", tmp_path / "toy", str(error)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, '["3 clips read and hashed", {}]\n'), done.stderr


def test_the_rows_of_a_large_index_are_mapped_and_are_the_same(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [{"clip_id": f"c{i:03d}_0", "status": "ok", "labels": ["a", "b"][: i % 3], "n": i} for i in range(300)]
    write_table(tmp_path / "index.parquet", rows[::-1])
    small = Rows(sorted_index(tmp_path / "index.parquet"))
    monkeypatch.setattr(tables, "LARGE", 0)
    for _ in ("written", "mapped"):
        large = Rows(sorted_index(tmp_path / "index.parquet"))
        assert list(large.values()) == list(small.values()) == rows
        assert large.column("labels")["c007_0"] == ["a"]
    assert len(list(private_cache.glob("mapped/*"))) == 1


def test_a_mapped_file_is_made_once_and_anew_if_it_is_damaged(private_cache: Path):
    made: list[int] = []

    def write(file: BinaryIO) -> None:
        made.append(file.write(b"content"))

    for damage, times in ((b"", 1), (b"", 1), (b"x", 2)):
        if damage:
            kept = private_cache / "mapped" / "key"
            kept.write_bytes(damage + kept.read_bytes()[1:])
        path = mapped("key", write)
        assert path is not None and path.read_bytes()[:7] == b"content" and len(made) == times
    (private_cache / "mapped" / "key").unlink()
    (private_cache / "mapped").rmdir()
    (private_cache / "mapped").write_bytes(b"no folder")
    assert mapped("key", write) is None

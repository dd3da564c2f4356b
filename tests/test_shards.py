"""Shards: where clips lie, what is kept of them, and that adding and removing clips costs what it should."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_store import DIMENSIONS, item, tree_digest

from avset.errors import AvsetError
from avset.params import digest
from avset.storage import shards
from avset.storage.artifacts import Record
from avset.storage.cache import ItemCache
from avset.storage.items import Item
from avset.storage.shards import BITS, CAPACITY, Kept, Part, assemble, bits_of, spread
from avset.storage.store import Store

RECORD = Record("frames", recipe={"a": 1})


def names(count: int, start: int = 0) -> list[str]:
    return [f"clip{i}_0" for i in range(start, start + count)]


def content(clip: str) -> Item:
    return replace(item(int(clip[4:-2])), made="numpy 2.0")


def make(folder: Path, clips: list[str], ask: Callable[[str], None] = lambda clip: None) -> list[str]:
    """Assemble a store whose shards are kept; returns the shards that were written."""
    plan, kept = (
        spread(clips, {clip: Part(digest(clip), f"input of {clip}") for clip in clips}),
        Kept("toy", DIMENSIONS),
    )
    kept.look(plan)

    def item_of(clip: str) -> tuple[Item, str]:
        ask(clip)
        found = content(clip)
        return found, shards.hashlib.sha256(found.dump()).hexdigest()

    assemble(folder, RECORD, plan, item_of, DIMENSIONS)
    return [shard.name for shard in plan if shard.rows is None]


def test_a_clip_lies_where_its_hash_says_and_shards_have_a_limit():
    clips = names(3000)
    plan = spread(reversed(clips))
    assert sorted(clip for shard in plan for clip in shard.parts) == sorted(clips)
    assert [shard.name for shard in plan] == sorted(shard.name for shard in plan)
    bits = {clip: bits_of(clip) for clip in clips}
    for shard in plan:
        assert len(shard.parts) <= CAPACITY and list(shard.parts) == sorted(shard.parts)
        assert all(bits[clip].startswith(shard.name) for clip in shard.parts)
        sibling = sum(one.startswith(shard.name[:-1]) for one in bits.values())
        assert len(shard.name) == BITS or sibling > CAPACITY, "split without need"


def test_a_store_says_where_its_clips_lie(tmp_path: Path):
    assert len(make(tmp_path / "toy", names(3))) == 3
    store = Store(tmp_path / "toy")
    row = store.rows["clip2_0"]
    assert row["input"] == "input of clip2_0" and row["made"] == "numpy 2.0"
    assert (tmp_path / "toy" / "shards" / f"{row['shard']}.h5").exists()
    assert store.record.libraries == {"numpy": "2.0"}
    assert np.array_equal(store.read("clip2_0", "x"), item(2).arrays["x"])


def test_mixed_versions_are_told(tmp_path: Path):
    items = {"a_0": replace(item(1), made="av 1, numpy 2.0"), "b_0": replace(item(1), made="av 1, numpy 2.1")}
    assemble(tmp_path / "toy", Record("frames"), spread(items), lambda clip: (items[clip], ""), DIMENSIONS)
    assert Store(tmp_path / "toy").record.libraries == {"av": "1", "numpy": "2.0, 2.1"}


def test_what_a_clip_tells_is_kept_though_another_of_its_shard_failed(tmp_path: Path):
    """The first row of a shard has fewer fields than the others when its clip failed upstream."""
    clips = sorted(clip for clip in names(400) if bits_of(clip)[:BITS] == "0101")
    first, *others = clips
    parts = {clip: Part(digest(clip), "", "its maker") for clip in others} | {first: Part()}
    items = {clip: replace(content(clip), fields={"score": 0.5, "frames": 3}) for clip in others}
    items[first] = Item(reason="upstream")
    plan, kept = spread(parts, parts), Kept("toy", DIMENSIONS)
    for _ in ("written", "taken from the cache"):
        kept.look(plan)
        index = assemble(tmp_path / "toy", Record("frames"), plan, lambda clip: (items[clip], ""), DIMENSIONS)
        told = {row.pop("clip_id"): row for row in index.to_pylist()}
        assert all((told[c]["of"], told[c]["score"], told[c]["frames"]) == ("its maker", 0.5, 3) for c in others)
        assert (told[first]["of"], told[first]["score"], told[first]["reason"]) == (None, None, "upstream")
    assert plan[0].rows is not None


def test_k_clips_more_write_k_shards_at_most_and_look_at_no_other_item(tmp_path: Path):
    make(tmp_path / "toy", names(300))
    before = tree_digest(tmp_path / "toy")
    asked: list[str] = []
    written = make(tmp_path / "toy", names(303), asked.append)
    after = tree_digest(tmp_path / "toy")
    new = {bits_of(clip)[:BITS] for clip in names(3, 300)}
    assert set(written) == new == {bits_of(clip)[:BITS] for clip in asked}
    assert {f"shards/{name}.h5" for name in new} == {f for f in after if "shards/" in f and after[f] != before[f]}
    assert make(tmp_path / "toy", names(300), pytest.fail) == []
    assert tree_digest(tmp_path / "toy") == before


def test_a_shard_that_is_too_full_splits_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "CAPACITY", 20)
    clips: list[str] = []
    for clip in names(400):
        if max((len(shard.parts) for shard in spread(clips)), default=0) == 20:
            break
        clips.append(clip)
    full = max(spread(clips), key=lambda shard: len(shard.parts)).name
    extra = next(clip for clip in names(10**4, 400) if bits_of(clip).startswith(full))
    make(tmp_path / "toy", clips)
    before = tree_digest(tmp_path / "toy")
    assert make(tmp_path / "toy", [*clips, extra]) == [full + "0", full + "1"]
    after = tree_digest(tmp_path / "toy")
    gone, new = (one.keys() - other.keys() for one, other in ((before, after), (after, before)))
    assert gone == {f"shards/{full}.h5"} and new == {f"shards/{full}{bit}.h5" for bit in "01"}
    assert all(after[name] == before[name] for name in before.keys() & after.keys() if "shards/" in name)


def test_a_store_and_the_cache_share_one_file(tmp_path: Path, private_cache: Path):
    make(private_cache / "toy", names(5))
    for path in (private_cache / "toy" / "shards").iterdir():
        assert path.stat().st_nlink == 2


def test_a_kept_shard_that_was_changed_is_written_anew(tmp_path: Path, private_cache: Path):
    make(tmp_path / "toy", names(40))
    before = tree_digest(tmp_path / "toy")
    kept = sorted(private_cache.glob("shards/toy/*/*.h5"))
    for path, damage in zip(kept, (b"", b"x" * 100, path_with_one_bit_flipped(kept[2])), strict=False):
        path.write_bytes(damage)
    kept[3].unlink()
    kept[4].with_suffix(".rows").write_bytes(b"no table" * 9)
    kept[5].with_suffix(".rows").unlink()
    assert len(make(tmp_path / "toy", names(40))) == 6
    assert tree_digest(tmp_path / "toy") == before
    assert make(tmp_path / "toy", names(40), pytest.fail) == []


def path_with_one_bit_flipped(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    return bytes(data)


def test_items_are_read_from_shards_that_have_them(tmp_path: Path):
    """Whatever the shards of the store to be; every field is as it was."""
    make(tmp_path / "toy", names(60))
    wanted = {digest(clip): clip for clip in [*names(60), "strange_0"]}
    assert Kept("other", DIMENSIONS).find(wanted) == {}
    kept = Kept("toy", DIMENSIONS)
    found = kept.find(wanted)
    assert [clip for key, clip in wanted.items() if key not in found] == ["strange_0"]
    for key, path in found.items():
        clip = wanted[key]
        assert bits_of(clip).startswith(path.parent.name)
        again, its_digest = kept.item(key, path)
        assert (again.fields, again.made) == (content(clip).fields, "numpy 2.0")
        assert its_digest == shards.hashlib.sha256(content(clip).dump()).hexdigest()
        assert all(np.array_equal(again.arrays[k], v) and again.arrays[k].dtype == v.dtype
                   for k, v in content(clip).arrays.items())  # fmt: skip
    assert kept.item(digest("strange_0"), path) is None
    path.write_bytes(b"damaged")
    assert Kept("toy", DIMENSIONS).item(key, path) is None and path not in Kept("toy", DIMENSIONS).find(wanted).values()


def test_a_failure_that_is_tried_again_keeps_no_shard(tmp_path: Path, private_cache: Path):
    plan = spread(["a_0", "b_0"], {clip: Part(clip, clip) for clip in ("a_0", "b_0")})
    items = {"a_0": Item(reason="worker_died"), "b_0": Item(reason="corrupt")}
    Kept("toy", DIMENSIONS).look(plan)
    assemble(tmp_path / "toy", Record("frames"), plan, lambda clip: (items[clip], ""), DIMENSIONS)
    kept = {path.parent.name for path in private_cache.glob("shards/toy/*/*.rows")}
    assert kept == {bits_of("b_0")[:BITS]} != {bits_of("a_0")[:BITS]}


def test_another_disk_gets_a_copy(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch):
    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    make(tmp_path / "one", names(9))
    monkeypatch.setattr(os, "link", link)
    assert make(tmp_path / "two", names(9), pytest.fail) == []
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    assert {path.stat().st_nlink for path in (tmp_path / "two" / "shards").iterdir()} == {1}


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fsync(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(AvsetError, match=r"cannot write .*: No space left on device; free space"):
        make(tmp_path / "toy", names(9))
    assert not (tmp_path / "toy").exists()


def test_a_group_keeps_its_rights_in_the_cache(private_cache: Path, tmp_path: Path):
    private_cache.chmod(0o2770)
    before = os.umask(0o077)
    try:
        make(tmp_path / "toy", names(3))
        ItemCache().put("ab" * 32, item(1))
    finally:
        os.umask(before)
    paths = list(private_cache.rglob("*"))
    assert len(paths) > 9
    for path in paths:
        assert path.stat().st_mode & 0o7777 == (0o2770 if path.is_dir() else 0o660), path


def test_few_shards_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("avset.storage.store.OPEN", 2)
    make(tmp_path / "toy", names(40))
    store, before = Store(tmp_path / "toy"), len([*Path("/proc/self/fd").iterdir()])
    for clip in names(40):
        assert np.array_equal(store.read(clip, "x"), content(clip).arrays["x"])
    assert len([*Path("/proc/self/fd").iterdir()]) <= before + 2

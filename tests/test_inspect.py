"""Stores looked after: what is listed, what differs, what is damaged, what may go."""

import csv
import io
import json
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import toy
from test_store import DIMENSIONS, item

from avset import params
from avset.__main__ import main
from avset.compute.build import media_payloads, recompute
from avset.compute.run import Job
from avset.errors import AvsetError, ClipError
from avset.params import clips_of, digest
from avset.sources.clips import forget
from avset.storage import inspect as stores
from avset.storage.artifacts import Record, identity_of
from avset.storage.cache import ItemCache
from avset.storage.files import write_json
from avset.storage.gc import sweep
from avset.storage.items import Item
from avset.storage.shards import assemble, spread
from avset.storage.store import Store
from avset.storage.tables import read_table, write_table
from stages import limits_of
from stages.frames import Decode

STAGES = ("clips", "captions", "frames", "regions", "spectrograms")
CLIPS = 37
DAY = 86400


@pytest.fixture
def data(toy_data: Path, tmp_path: Path) -> Path:
    """The folder of the toy data set, to be damaged."""
    return toy.clone(toy_data / "data" / "demo", tmp_path / "data" / "demo") / "demo"


def store_of(data: Path, stage: str) -> Path:
    """The store of a stage, clips among them."""
    return clips_of(data) if stage == "clips" else data / stage


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str]:
    """Exit code and output of `python -m avset store`."""
    monkeypatch.setattr("sys.argv", ["avset", "store", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out + said.err


def make(folder: Path, items: dict[str, Item], **identity: object) -> Path:
    def item_of(clip: str) -> tuple[Item, str]:
        content = items[clip]
        return content, "" if content.reason == "upstream" else digest(content.dump().hex())

    assemble(folder, Record("frames", **identity), spread(items), item_of, DIMENSIONS)
    return folder


def test_all_stores_are_listed_and_complete(toy_data: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    listed = {s["artifact"]: s for s in stores.summaries(toy_data / "data" / "demo" / "demo")}
    assert not any(told["lacks"] for told in listed.values())
    assert {"encoder", "mixtures"} <= listed.keys()
    found = {stage: listed[stage] for stage in STAGES}
    for stage, told in found.items():
        folder = store_of(toy_data / "data" / "demo" / "demo", stage)
        assert (told["ok"], told["failed"], told["lacks"]) == (CLIPS, 0, [])
        assert told["digest"] == Store(folder).digest
        assert told["bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    monkeypatch.chdir(toy_data)
    code, said = run(monkeypatch, capsys, "ls")
    assert code == 0 and said.count(" yes\n") == len(listed)
    assert found["regions"]["digest"][:12] in said
    assert json.loads(run(monkeypatch, capsys, "ls", "data/demo/demo", "--json")[1]) == list(listed.values())


def test_what_a_store_lacks_is_named(data: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    medium = read_table(clips_of(data) / "index.parquet")[3]["media"]
    shard = sorted((data / "frames" / "shards").iterdir())[2]
    for path in (clips_of(data) / medium, shard, data / "regions" / "record.json"):
        path.unlink()
    (data / "captions" / "index.parquet").write_bytes(b"PAR1")
    lacks = {s["artifact"]: s["lacks"] for s in stores.summaries(data)}
    assert lacks["clips"] == [medium] and lacks["frames"] == [f"shards/{shard.name}"]
    assert lacks["regions"] == ["record.json"] and lacks["captions"] == ["intact files"]
    code, said = run(monkeypatch, capsys, "ls", data)
    assert code == 0 and f"no: {medium} missing (1)" in said
    for command in (("info",), ("verify",), ("diff", data / "captions")):
        code, said = run(monkeypatch, capsys, *command, data / "captions")
        assert code == 1 and "index.parquet" in said and "it has 4 bytes, not the " in said


def test_info_tells_identity_reasons_and_arrays(tmp_path: Path, toy_data: Path, monkeypatch, capsys):
    silent, upstream = Item.failed(ClipError("silent")), Item(reason="upstream")
    folder = make(tmp_path / "toy", {"a_0": silent, "b_0": item(1), "c_0": upstream, "d_0": silent}, recipe={"k": 7})
    told = stores.describe(folder)
    assert told["arrays"] == {"x": "3x4 float16 (T D)", "y": "7 int16 (L)"}
    assert told["reasons"] == {"silent": 2, "upstream": 1} and (told["ok"], told["failed"]) == (1, 3)
    code, said = run(monkeypatch, capsys, "info", folder)
    assert code == 0 and "record.recipe.k: 7\n" in said and "reasons.silent: 2\n" in said
    assert "arrays" not in stores.describe(toy_data / "data" / "demo" / "clips")


def test_failures_are_told_by_the_users_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Each where it failed, and not again at the stages that follow."""
    data = tmp_path / "data" / "folder" / "demo"
    clips = [
        {"clip_id": "a_0", "media_id": "a", "origin": "videos/My film, 2.mp4", "reason": "corrupt", "detail": "odd\n1"},
        {"clip_id": "b_0", "media_id": "b", "origin": "videos/\u00df.mp4", "reason": "", "detail": ""},
        {"clip_id": "c_0", "media_id": "c", "origin": "", "reason": "", "detail": ""},
    ]  # fmt: skip
    write_table(clips_of(data) / "index.parquet", clips)
    assert [(one["stage"], one["file"]) for one in stores.failures(data)] == [("clips", "videos/My film, 2.mp4")]
    rows = [("a_0", "upstream", ""), ("b_0", "silent", "-80 dB"), ("c_0", "error", "x")]
    write_table(
        data / "spectrograms" / "index.parquet",
        [dict(zip(("clip_id", "reason", "detail"), r, strict=True)) for r in rows],
    )
    found = stores.failures(data)
    assert found[1:] == stores.failures(data, "spectrograms") == [
        {"stage": "spectrograms", "file": "videos/\u00df.mp4", "clip": "b_0", "reason": "silent", "detail": "-80 dB"},
        {"stage": "spectrograms", "file": "c", "clip": "c_0", "reason": "error", "detail": "x"},
    ]  # fmt: skip
    code, said = run(monkeypatch, capsys, "failures", "--data", data)
    stages = [line.split()[0] for line in said.splitlines()]
    assert code == 0 and stages == ["stage", "-" * len("spectrograms"), "clips", "spectrograms", "spectrograms"]
    assert "videos/My film, 2.mp4  a_0   corrupt  odd 1\n" in said
    assert json.loads(run(monkeypatch, capsys, "failures", "--data", data, "--json")[1]) == found
    told = run(monkeypatch, capsys, "failures", "clips", "--data", data, "--csv")[1]
    assert list(csv.DictReader(io.StringIO(told))) == found[:1]
    code, said = run(monkeypatch, capsys, "failures", "frame", "--data", data)
    assert code == 1 and "did you mean frames?" in said and len(said.splitlines()) == 1
    code, said = run(monkeypatch, capsys, "failures", "regions", "--data", data)
    assert code == 1 and "is not there" in said and len(said.splitlines()) == 1
    write_table(clips_of(data) / "index.parquet", clips[1:])
    assert run(monkeypatch, capsys, "failures", "clips", "--data", data) == (0, "no failure\n")


def test_diff_finds_each_kind_of_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    shared = {f"s{i:02}_0": item(i) for i in range(20)}
    failed = Item.failed(ClipError("silent"))
    a = make(tmp_path / "a", shared | {"old_0": item(1), "x_0": item(2)}, recipe={"k": 3, "lr": 1}, version="1-c")
    b = make(tmp_path / "b", {c: item(99) if c < "s12" else v for c, v in shared.items()} | {"x_0": failed},
             recipe={"k": 5, "lr": 1}, version="1-c", inputs={"encoder": "e"})  # fmt: skip
    assert stores.diff(a, b) == {
        "record": {"inputs.encoder": ["(none)", "e"], "recipe.k": [3, 5]},
        "clips": {
            "only in A": {"count": 1, "first": ["old_0"]},
            "content": {"count": 12, "first": [f"s{i:02}_0" for i in range(10)]},
            "outcome": {"count": 1, "first": ["x_0: ok, silent"]},
        },
    }
    assert stores.diff(b, a)["clips"]["only in B"]["first"] == ["old_0"]
    code, said = run(monkeypatch, capsys, "diff", a, b)
    assert code == 1 and "record.recipe.k: 3, 5\n" in said and "clips.content.count: 12\n" in said
    assert run(monkeypatch, capsys, "diff", a, a) == (0, "no difference\n")
    assert run(monkeypatch, capsys, "diff", a, a, "--json") == (0, "{}\n")


def test_diff_says_whether_weights_or_input_are_others(data: Path, toy_data: Path, monkeypatch, capsys):
    theirs, (first, second) = toy_data / "data" / "demo" / "demo", Store(data / "regions").clips[:2]
    told = json.loads((data / "encoder" / "encoder.json").read_text())
    write_json(data / "encoder" / "encoder.json", told | {"sha256": "0" * 64})
    toy.seal(data / "encoder")
    ours = {"encoder": identity_of(data / "encoder", "encoder")}
    facts = {"encoder": told | {"sha256": "0" * 64}}
    replace(Record.read(data / "captions"), inputs=ours, facts=facts).write(data / "captions")
    rows = {row["clip_id"]: row for row in read_table(data / "captions" / "index.parquet")}
    rows[first]["digest"] = rows[second]["digest"] = rows[second]["input"] = "f" * 64
    write_table(data / "captions" / "index.parquet", list(rows.values()))
    toy.seal(data / "captions")
    found = stores.diff(theirs / "captions", data / "captions")
    assert found["record"].keys() == {"facts.encoder.sha256", "inputs.encoder"}
    assert found["record"]["facts.encoder.sha256"] == [told["sha256"], "0" * 64]
    assert found["clips"]["content"] == {"count": 2, "first": [first, second]}
    assert found["clips"]["input"] == {"count": 1, "first": [second]}
    with pytest.raises(AvsetError, match="same kind"):
        stores.diff(data / "regions", data / "captions")


def test_diff_of_clips_looks_at_media_and_splits(data: Path, toy_data: Path):
    theirs, index = toy_data / "data" / "demo" / "demo", clips_of(data) / "index.parquet"
    rows = read_table(index)
    rows[4]["split"], rows[6]["sha256"] = "elsewhere", "0" * 64
    write_table(index, rows)
    toy.seal(clips_of(data))
    names = [rows[4]["clip_id"], rows[6]["clip_id"]]
    assert stores.diff(clips_of(theirs), clips_of(data)) == {"clips": {"content": {"count": 2, "first": names}}}
    assert stores.diff(theirs / "frames", data / "frames") == {}


@pytest.mark.parametrize("stage", STAGES)
def test_what_the_stages_made_is_intact(toy_data: Path, stage: str):
    """Every digest can be made again from arrays and index."""
    assert stores.verify(store_of(toy_data / "data" / "demo" / "demo", stage), 10**6) == (
        f"{CLIPS} clips read and hashed",
        {},
    )


def test_failed_clips_are_hashed_too_and_the_draw_follows_its_seed(tmp_path: Path):
    items = {f"c{i}_0": item(i) for i in range(9)} | {"bad_0": Item.failed(ClipError("silent", "-80 dB"))}
    cache, keys = ItemCache(), {clip: digest(clip) for clip in items}
    for clip, made in items.items():
        cache.put(keys[clip], made)
    assemble(
        tmp_path / "toy",
        Record("frames"),
        spread(items),
        lambda clip: cache.get(keys[clip]) or pytest.fail(),
        DIMENSIONS,
    )
    index = tmp_path / "toy" / "index.parquet"
    assert stores.verify(tmp_path / "toy", 99) == ("10 clips read and hashed", {})
    rows = read_table(index)
    write_table(index, [r | {"detail": "-20 dBFS"} if r["reason"] else r | {"cosine": 0.1} for r in rows])
    toy.seal(tmp_path / "toy")
    assert stores.verify(tmp_path / "toy", 99)[1].keys() == items.keys()
    drawn = [tuple(stores.verify(tmp_path / "toy", 3, seed)[1]) for seed in range(9)]
    assert {len(names) for names in drawn} == {3} and len(set(drawn)) > 1
    assert drawn == [tuple(stores.verify(tmp_path / "toy", 3, seed)[1]) for seed in range(9)]


def test_damage_is_named(data: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    folder = data / "regions"
    store = Store(folder)
    by_shard: dict[str, list[str]] = {}
    for clip in store.clips:
        by_shard.setdefault(store.rows[clip]["shard"], []).append(clip)
    (one, (flipped, lost, *_)), (two, cut) = sorted(by_shard.items(), key=lambda s: -len(s[1]))[:2]
    with h5py.File(folder / "shards" / f"{one}.h5", "r+") as file:
        file[flipped]["embedding"][0] += 1
        file.move(lost, "stray_0")
    path = folder / "shards" / f"{two}.h5"
    path.write_bytes(path.read_bytes()[:-100])
    read, damaged = stores.verify(folder, 99)
    assert read == f"{CLIPS} clips read and hashed" and damaged.keys() == {
        flipped, lost, "stray_0", *cut, f"shards/{one}.h5", f"shards/{two}.h5",
    }  # fmt: skip
    assert damaged[flipped] == "its content is not that of the index"
    assert damaged["stray_0"] == f"in shard {one}, but not in the index"
    code, said = run(monkeypatch, capsys, "verify", folder, "--count", 0)
    assert code == 1 and f"{lost}: not in its shard" in said and flipped not in said
    assert run(monkeypatch, capsys, "verify", data / "frames", "--count", 5)[0] == 0


def test_damaged_media_are_named(data: Path):
    media = {row["clip_id"]: clips_of(data) / row["media"] for row in read_table(clips_of(data) / "index.parquet")}
    gone, changed = list(media)[:2]
    media[gone].unlink()
    content = media[changed].read_bytes()
    media[changed].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert stores.verify(clips_of(data), 99)[1] == {
        gone: "its medium is not there", changed: "its content is not that of the index",
    }  # fmt: skip


def test_recomputing_tells_the_largest_difference(data: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(toy_data)
    p = params.load()
    jobs = [Job(clip, "", payload) for clip, payload in list(media_payloads(p).items())[:4] if payload]
    mapper = partial(Decode, p.frames, limits_of(p))
    store = Store(data / "frames")
    assert {name: apart for name, (apart, _) in recompute(store, jobs, mapper).items()} == {"frames": 0, "times": 0}
    later = [Job(job.clip_id, "", {**job.payload, "start": job.payload["start"] + 0.25}) for job in jobs[1:2]]
    apart, allowed = recompute(store, later, mapper)["times"]
    assert apart == 0.25 and allowed == pytest.approx(0.01 * store.read(jobs[1].clip_id, "times").max())
    gone = Job(jobs[1].clip_id, "", {**jobs[1].payload, "start": 1e6})
    assert {apart for apart, _ in recompute(store, [gone], mapper).values()} == {np.inf}


def aged(path: Path, days: float, content: bytes = b"12345") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(content)
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def receipt(cache: ItemCache, kept: ItemCache, name: str, days: float) -> Path:
    """A medium in the cache, and the item in `kept` that names it."""
    fields = {"sha256": digest(name), "suffix": ".mkv"}
    medium = cache.root / "media" / fields["sha256"][:2] / (fields["sha256"][2:] + ".mkv")
    kept.put(digest(["of", name]), Item(fields=fields))
    aged(kept.path(digest(["of", name])), days)
    return aged(medium, 99)


@pytest.fixture
def cache(private_cache: Path) -> dict[str, Path]:
    """An item cache with something of every kind and age."""
    items = ItemCache()
    fetched = ItemCache(private_cache / "fetched")
    for i in range(3):
        items.put(digest(i), item(i))
    read = aged(items.path(digest(2)), 99)
    os.utime(read, (time.time() - 2 * DAY, read.stat().st_mtime))
    linked = aged(private_cache / "media" / "ab" / f"{'d' * 62}.mkv", 99)
    os.link(linked, private_cache.parent / f"{private_cache.name}.mkv")
    found = {
        "new": items.path(digest(0)), "old": aged(items.path(digest(1)), 31), "read": read, "linked": linked,
        "temporary": aged(private_cache / "items" / "ab" / f".{'c' * 62}.123", 2),
        "writing": aged(private_cache / "items" / "ab" / f".{'c' * 62}.124", 0.5),
        "training": aged(private_cache / "runs" / f"{'a' * 64}.pt", 31),
        "model": aged(private_cache / "finished" / f"{'a' * 64}.zip", 31),
        "used model": aged(private_cache / "finished" / f"{'b' * 64}.zip", 29),
        "fetch": aged(private_cache / ".fetch-abcdefgh" / "media.mkv", 3),
        "fetching": aged(private_cache / ".fetch-abc_efg0" / "media.mkv", 0.1),
        "partial": aged(private_cache / "partial" / ("c" * 64) / "media.part", 20),
        "named": receipt(items, fetched, "named", 99), "probed": receipt(items, items, "probed", 1),
        "unnamed": aged(private_cache / "media" / "ab" / f"{'e' * 62}.mkv", 31),
        "fresh": aged(private_cache / "media" / "ab" / f"{'f' * 62}.mkv", 1),
        "strange": aged(private_cache / "items" / "ab" / "notes.txt", 99),
        "shard": aged(private_cache / "shards" / "toy" / "0110" / f"{'a' * 64}.h5", 31),
        "mapped": aged(private_cache / "mapped" / ("d" * 64), 31),
        "rows": aged(private_cache / "shards" / "toy" / "0110" / f"{'a' * 64}.rows", 31),
        "kept": aged(private_cache / "shards" / "toy" / "0110" / f"{'b' * 64}.h5", 29),
        "receipt": fetched.path(digest(["of", "named"])),
    }  # fmt: skip
    for name in ("fetch", "fetching", "partial"):
        aged(found[name].parent, 99)
    return found


OLD = {"old", "shard", "rows", "mapped", "temporary", "training", "model", "fetch", "unnamed"}


def test_only_what_is_old_goes(cache: dict[str, Path], private_cache: Path):
    stamps = {name: path.stat().st_atime for name, path in cache.items()}
    size = cache["old"].stat().st_size
    would = sweep(private_cache, 30.0, dry_run=True)
    assert all(path.exists() for path in cache.values())
    assert would == {
        "temporary files": (1, 5), "broken fetches": (1, 5), "mapped files": (1, 5),
        "trainings": (1, 5), "models": (1, 5), "shared models": (0, 0), "items": (1, size),
        "shards": (2, 10), "fetched": (0, 0), "media": (1, 5),
    }  # fmt: skip
    assert {name: path.stat().st_atime for name, path in cache.items()} == stamps, "looking is no use"
    assert sweep(private_cache, 30.0) == would
    assert {name for name, path in cache.items() if not path.exists()} == OLD
    assert set(sweep(private_cache, 30.0).values()) == {(0, 0)}


def test_files_of_a_user_in_the_folder_of_the_cache_stay(cache: dict[str, Path], private_cache: Path):
    """$AVSET_CACHE may be a folder that has a life of its own."""
    names = ("thesis.tex", ".bashrc", "partial/thesis/one.tex", "partial/b.tex", "held/mail", "items/ab/.profile",
             "runs/.old.pt", "lists/.x", ".fetch-mail/inbox", "finished/model.zip", "media/ab/song.mkv")  # fmt: skip
    own = [aged(private_cache / name, 999) for name in names]
    for folder in ("partial/thesis", ".fetch-mail"):
        aged(private_cache / folder, 999)
    sweep(private_cache, 30.0, fetched=True)
    forget(ItemCache(), [])
    assert all(path.exists() for path in own) and not cache["old"].exists() and not cache["fetch"].exists()


def test_fetched_media_go_when_told_to(cache: dict[str, Path], private_cache: Path):
    assert sweep(private_cache, 30.0, fetched=True, dry_run=True)["media"] == (2, 10)
    sweep(private_cache, 30.0, fetched=True)
    assert {name for name, path in cache.items() if not path.exists()} == OLD | {"named", "receipt"}


def test_the_command_says_how_much(cache: dict[str, Path], private_cache: Path, monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, "gc", "--dry-run", "--days", 30)
    assert code == 0 and f"{private_cache}: 0.0 MB would go" in said and "items" in said
    assert cache["old"].exists()
    assert run(monkeypatch, capsys, "gc")[0] == 0 and not cache["old"].exists()
    assert run(monkeypatch, capsys, "gc", "--days", 0)[0] == 2
    shutil.rmtree(private_cache)
    assert run(monkeypatch, capsys, "gc")[0] == 0

"""Media to clips: cutting, what is missing, what is fetched again and what never is, and when to stop asking."""

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import toy
from media import make_video
from toy import ROOT

from avset.compute.limited import Limits
from avset.compute.run import Job, deadline
from avset.errors import AvsetError, ClipError
from avset.params import load
from avset.sources import SPLITS, Entry, Listing, clips, dry_run, folder
from avset.storage import reading
from avset.storage.artifacts import Record
from avset.storage.cache import ItemCache, fetched_items, kept_media
from avset.storage.files import link, write_atomic
from avset.storage.items import Item
from avset.storage.tables import read_table

ACCESS = load(ROOT / "params.yaml").runtime.download
LIMITS = Limits(60.0, 2.0)
VIDEO = Entry("abc", "train", ("flute",), "somewhere")


def item(duration: float, start: float = 0.0, declared: float | None = None) -> Item:
    shape = {"width": 64, "height": 48, "fps": 10.0, "sample_rate": 22050, "channels": 1}
    found = {"duration": duration, "declared": duration if declared is None else declared, "start": start}
    return Item(fields={**shape, **found, "sha256": "0" * 64, "suffix": ".mkv", "boxes": []})


def cut(entry: Entry, item: Item, length: float | None = 10.0) -> list[tuple]:
    rows = clips.index_rows(entry, item, length, 1.0)
    assert all(row["clip_id"] == f"abc_{round(row['origin_start_s'] * 1000)}" for row in rows)
    assert len({row["clip_id"] for row in rows}) == len(rows)
    return [(row["origin_start_s"], row.get("start_s"), row.get("duration_s"), row["reason"]) for row in rows]


def test_a_video_is_cut_on_a_grid():
    assert cut(VIDEO, item(25.0)) == [(0.0, 0.0, 10.0, ""), (10.0, 10.0, 10.0, ""), (20.0, 20.0, 5.0, "")]
    assert cut(VIDEO, item(24.0))[1:] == [(10.0, 10.0, 10.0, "")]
    assert cut(VIDEO, item(25.0), None) == [(0.0, 0.0, 25.0, "")]
    assert cut(VIDEO, item(0.5)) == [(0.0, None, None, "too_short")]
    assert cut(VIDEO, item(12.05, start=-0.05)) == [(0.0, 0.05, 10.0, "")], "sound that starts before time 0"


def test_parts_lie_where_the_video_has_them():
    """The medium is the piece from 28 s on of a video: a part at 30 s starts 2 s into the file."""
    entry = replace(VIDEO, parts=((30.0, 40.0), (50.0, 75.0)))
    assert cut(entry, item(48.0, start=28.0)) == [
        (30.0, 2.0, 10.0, ""), (50.0, 22.0, 10.0, ""), (60.0, 32.0, 10.0, ""), (70.0, 42.0, 5.0, ""),
    ]  # fmt: skip


def test_a_part_beyond_the_end_of_the_video_is_too_short():
    entry = replace(VIDEO, parts=((0.0, 10.0), (30.0, 40.0), (95.0, 105.0)))
    assert cut(entry, item(37.0)) == [
        (0.0, 0.0, 10.0, ""), (30.0, 30.0, 7.0, ""), (95.0, None, None, "too_short"),
    ]  # fmt: skip
    detail = clips.index_rows(entry, item(37.0), 10.0, 1.0)[-1]["detail"]
    assert "95.00" in detail and "37.00" in detail


def test_what_a_file_declares_but_does_not_have_is_one_row():
    assert cut(VIDEO, item(17.0, declared=3600.0)) == [
        (0.0, 0.0, 10.0, ""), (10.0, 10.0, 7.0, ""), (17.0, None, None, "truncated"),
    ]  # fmt: skip
    assert cut(VIDEO, item(0.2, declared=1e9)) == [(0.2, None, None, "truncated")]
    entry = replace(VIDEO, parts=((0.0, 10.0), (30.0, 40.0)))
    assert cut(entry, item(12.0, declared=60.0)) == [(0.0, 0.0, 10.0, ""), (30.0, None, None, "truncated")]
    assert cut(entry, item(9.8, declared=10.0))[0] == (0.0, 0.0, 9.8, "")


def test_a_row_that_cannot_be_used_and_a_failure_are_one_row_each():
    assert cut(replace(VIDEO, fault="line 3: no id"), Item()) == [(0.0, None, None, "invalid")]
    parts = ((30.0, 40.0), (50.0, 60.0))
    assert cut(replace(VIDEO, parts=parts), Item(reason="private")) == [(30.0, None, None, "private")]


def filled(tmp_path: Path, *names: str) -> tuple[list[Job], folder.Options]:
    """The jobs of a folder of videos, all of them fetched into the cache."""
    for name in names:
        make_video(tmp_path / "videos" / name, 1.0) if "bad" not in name else (tmp_path / "videos" / name).touch()
    options = folder.Options(path=str(tmp_path / "videos"))
    jobs = clips.jobs_of(folder.listing(options).entries, options, "code", "")
    fetch = clips.Fetch("folder", {"path": options.path}, ACCESS, LIMITS)
    for job, item in zip(jobs, fetch(jobs), strict=True):
        ItemCache().put(job.key, item)
    return jobs, options


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return tmp_path


def test_a_medium_is_fetched_once_whatever_our_code(videos: Path, monkeypatch: pytest.MonkeyPatch):
    jobs, options = filled(videos, "a.mp4")
    again = clips.jobs_of([job.payload["entry"] for job in jobs], options, "other code", "")
    assert again[0].key != jobs[0].key and again[0].payload["kept"] == jobs[0].payload["kept"]
    monkeypatch.setattr(folder, "fetch", lambda *_: pytest.fail("fetched twice"))
    item = clips.Fetch("folder", {"path": options.path}, ACCESS, LIMITS)(again)[0]
    assert item.fields["duration"] == pytest.approx(1.0, abs=0.05)


def test_labels_and_splits_are_no_part_of_a_medium(videos: Path):
    jobs, options = filled(videos, "a.mp4")
    other = replace(jobs[0].payload["entry"], labels=("horn",), split="test")
    assert clips.jobs_of([other], options, "code", "")[0].key == jobs[0].key


def test_damaged_media_are_fetched_again_and_others_are_not(videos: Path):
    jobs, _ = filled(videos, "a.mp4", "b.mp4", "c.mp4")
    cache = ItemCache()
    media = [kept_media(cache, cache.get(job.key)[0].fields) for job in jobs[:1]]
    assert not clips.forget(cache, jobs)
    os.utime(media[0])  # another time, the same content
    assert not clips.forget(cache, jobs)
    media[0].write_bytes(media[0].read_bytes()[:-1] + b"?")
    assert clips.forget(cache, jobs) == dict.fromkeys("abc", ""), "all three are the same file, kept once"
    assert all(job.key not in cache and job.payload["kept"] not in fetched_items(cache) for job in jobs)


FAILED = {"gone": "removed", "hidden": "private", "stream": "live", "unsure": "unavailable"}


def remember(**reasons: str) -> list[Job]:
    """Jobs of media that the cache remembers as failures."""
    for name, reason in reasons.items():
        for items, key in ((ItemCache(), name), (fetched_items(ItemCache()), f"kept-{name}")):
            items.put(key, Item(reason=reason))
    return [Job(name, name, {"kept": f"kept-{name}"}) for name in reasons]


@pytest.mark.parametrize(
    ("retry", "names"),
    [((), ""), (["transient"], "stream unsure"), (["removed"], "gone"), (["private", "live"], "hidden stream"),
     (["corrupt", "transient"], "bad stream unsure"), (["all"], "bad gone hidden stream unsure")],
)  # fmt: skip
def test_failures_are_retried_as_asked(videos: Path, retry: list[str], names: str):
    jobs = filled(videos, "a.mp4", "bad.mp4")[0] + remember(**FAILED)
    told = {"bad": "corrupt", **FAILED}
    assert clips.forget(ItemCache(), jobs, clips.reasons_of(retry)) == {name: told[name] for name in names.split()}
    kept = fetched_items(ItemCache())
    assert {job.clip_id for job in jobs if job.key in ItemCache()} == {"a", *told} - set(names.split())
    assert all((job.key in ItemCache()) == (job.payload["kept"] in kept) for job in jobs)


def test_media_that_end_early_are_retried_as_truncated():
    fields = {"sha256": "0" * 64, "suffix": ".mkv", "start": 0.0, "duration": 5.0, "stamp": []}
    path = kept_media(ItemCache(), fields)
    path.parent.mkdir(parents=True)
    path.touch()
    stamp = [path.stat().st_size, path.stat().st_mtime_ns]
    jobs = [Job(f"video{n}", f"video{n}", {"kept": f"kept{n}", "entry": VIDEO}) for n in (5, 9)]
    for job, declared in zip(jobs, (5.0, 9.0), strict=True):
        ItemCache().put(job.key, Item(fields={**fields, "declared": declared, "stamp": stamp}))
    assert not clips.forget(ItemCache(), jobs, clips.reasons_of(["corrupt"]))
    assert clips.forget(ItemCache(), jobs, clips.reasons_of(["truncated"])) == {"video9": ""}


def test_a_reason_that_is_none_is_told_with_those_that_are():
    with pytest.raises(AvsetError, match=r"'remvoed' is no reason; .*transient, all.* removed, private"):
        clips.reasons_of(["removed", "remvoed"])


def test_what_was_not_sure_is_asked_again_on_another_day():
    jobs = remember(**FAILED)
    for path in ItemCache().root.rglob("*"):
        os.utime(path, (time.time() - 23 * 3600,) * 2)
    assert not clips.forget(ItemCache(), jobs)
    for path in ItemCache().root.rglob("*"):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert clips.forget(ItemCache(), jobs) == {"unsure": "unavailable"}


def folder_project(root: Path, rows: str) -> Path:
    """A project of the videos in `root`, with a table."""
    (root / "table.csv").write_text(f"file,label,split\n{rows}")
    tree = toy.params(dataset="folder")
    options = {"path": str(root / "videos"), "table": str(root / "table.csv"), "validation": 0.01, "test": 0.01}
    tree["datasets"]["folder"]["clips"] |= {"options": options, "length": 1.0, "min_success": 0.9}
    return toy.project(root / "project", tree)


def test_a_recording_under_two_names_is_one_content_in_one_split(videos: Path, capsys: pytest.CaptureFixture[str]):
    """By bytes, and by sound and pictures; another tone under the same pictures is another recording."""
    for number in range(6):
        make_video(videos / "videos" / f"v{number}.mp4", 2.0, tone=200.0 * 1.4**number)
    shutil.copy(videos / "videos" / "v0.mp4", videos / "videos" / "copy.mp4")
    make_video(videos / "videos" / "again.mkv", 1.8, tone=200.0, acodec="flac", vcodec="mpeg4")
    make_video(videos / "videos" / "._v0.mp4", 1.0)
    project = folder_project(videos, "v0.mp4,flute,train\ncopy.mp4,flute,test\n")
    toy.run(project, videos / "cache", "clips")
    said = capsys.readouterr().err
    assert "'again' = 'copy' = 'v0'" in said and "'v0' from train to test" in said
    folder = project / "data" / "folder" / "clips"
    rows = read_table(folder / "index.parquet")
    assert {row["media_id"] for row in rows if row["content"] == "again"} == {"again", "copy", "v0"}
    assert {row["split"] for row in rows if row["content"] == "again"} == {"test"}
    assert len({row["content"] for row in rows}) == 6
    assert {len({row["content"] for row in rows if row["split"] == split}) for split in SPLITS} == {2}
    facts = Record.read(folder).facts
    assert facts["moved"] == {"v0": ["train", "test"]}
    assert facts["funnel"] == {
        "files": {"rows": 9, "no videos": 1, "used": 8}, "recordings": {"rows": 8, "repeated": 2, "distinct": 6},
    }  # fmt: skip


def test_too_few_recordings_end_the_stage_with_cures(videos: Path):
    make_video(videos / "videos" / "a.mp4")
    for name in "bcdef":
        shutil.copy(videos / "videos" / "a.mp4", videos / "videos" / f"{name}.mp4")
    with pytest.raises(AvsetError, match=r"less than the 2 distinct.* in all 1\); add videos, or .*, or "):
        toy.run(folder_project(videos, ""), videos / "cache", "clips")
    assert (videos / "project" / "data" / "folder" / "clips" / "index.parquet").exists(), "it tells what failed"


def test_folders_of_killed_fetches_go_after_two_days(videos: Path):
    root = ItemCache().root
    for name, days in ((".fetch-newnewne", 1), (".fetch-oldoldol", 3)):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (time.time() - days * 86400,) * 2)
    clips.forget(ItemCache(), [])
    assert [path.name for path in root.glob(".fetch-*")] == [".fetch-newnewne"]


def test_the_breaker_ends_what_is_refused_to_everybody():
    breaker, bot = clips.Breaker(3), ("a", "bot_check", "are you a bot?")
    refused, gone, fine = ("d", "rate_limited", ""), ("c", "removed", ""), ("e", "", "")
    for outcome in (bot, ("b", "network", ""), fine, bot, refused, gone, bot, fine, bot):
        breaker([outcome])
    breaker([("f", "network", "")])
    with pytest.raises(AvsetError, match=r"3 videos.*bot_check.*are you a bot.*kept"):
        breaker([bot])


def outcomes(share: float, number: int, reason: str = "removed") -> list[tuple[str, str, str]]:
    """Receipts, `share` of which are this failure, spread evenly; the last one is a success."""
    failed = [int((i + 1) * share) > int(i * share) for i in range(number)]
    return [(f"v{i}", reason if bad else "", "") for i, bad in enumerate([*failed, False])]


@pytest.mark.parametrize(
    ("share", "reason", "passes", "ends"),
    [(0.25, "removed", 12, 25), (0.25, "unavailable", 12, 25), (0.5, "removed", 35, 45), (0.02, "private", 11, 12),
     (0.0, "too_short", 11, 12), (0.9, "removed", 200, 300)],
)  # fmt: skip
def test_a_row_of_one_failure_is_judged_by_its_usual_share(share: float, reason: str, passes: int, ends: int):
    for number, closed in ((passes, False), (ends, True)):
        breaker = clips.Breaker(12)
        breaker(outcomes(share, 400, reason))
        row = [(f"w{i}", reason, "said") for i in range(number)]
        with pytest.raises(AvsetError, match=rf"{reason} \(said\)") if closed else nullcontext():
            breaker(row)


def test_failures_of_two_kinds_are_one_row_and_chance_makes_none():
    breaker = clips.Breaker(12)
    breaker(outcomes(0.3, 5000))
    draw = random.Random(0)
    breaker([(f"u{i}", draw.choice(["removed", "", ""]), "") for i in range(5000)])
    with pytest.raises(AvsetError, match=r"the last \d+ videos failed"):
        breaker([(f"w{i}", ("private", "removed")[i % 2], "") for i in range(30)])


def test_what_ended_the_stage_is_asked_again_and_what_was_known_before_stays():
    """Of a retry: what fails as before says nothing; a row of new failures goes, with what came after it."""
    known = remember(old="removed", seen="removed")
    later = {f"later{i}": "removed" for i in range(60)}
    asked = [Job(name, name, {"kept": f"kept-{name}"}) for name in ("fine", "before", "same", *later)]
    breaker = clips.Breaker(12, known + asked, {"same": "removed"})
    assert breaker.usual == {"removed": 2}
    remember(before="removed", same="removed", **later)
    breaker([("old", "removed", ""), ("before", "removed", ""), ("fine", "", "")])
    breaker([("same", "removed", "")] * 100)
    with pytest.raises(AvsetError, match="asked for again"):
        breaker([(name, "removed", "") for name in later])
    breaker.undo()
    left = {job.clip_id for job in known + asked if job.key in ItemCache()}
    assert left == {"old", "seen", "before", "same"}
    assert left == {job.clip_id for job in known + asked if job.payload["kept"] in fetched_items(ItemCache())}


def test_a_deadline_interrupts_and_leaves_other_alarms_alone():
    with pytest.raises(ClipError, match="timeout"), deadline(0.05):
        time.sleep(5)
    with pytest.raises(ClipError), deadline(0.05):  # swallowed once, it comes again
        try:
            time.sleep(5)
        except ClipError:
            time.sleep(5)
    with deadline(30.0):
        pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 100, "the limit of the test itself still runs"


def told(entries: list[Entry], kept: set[str], **length: Any) -> dict[str, Any]:
    class Options:
        address, height = "http://localhost/{id}", 360

    given = load(ROOT / "params.yaml").clips.model_copy(update={"length": 10.0, **length})
    return dry_run.estimate(
        Listing(entries, {"list": {"rows": 9, "kept": len(entries)}}), kept, given, ACCESS, Options(), LIMITS
    )


def test_a_survey_counts_and_estimates():
    ten = [
        replace(VIDEO, media_id=f"v{i}", parts=((30.0, 55.0),), split="test" if i > 7 else "train") for i in range(10)
    ]
    found = told([*ten, replace(VIDEO, media_id="row", fault="no id")], {"v0", "v1"})
    assert found["videos"] == {"listed": 11, "invalid": 1, "in_cache": 2, "to_fetch": 8}
    assert found["splits"] == {"train": 8, "test": 2} and found["labels"] == {"flute": {"train": 8, "test": 2}}
    assert found["estimate"]["clips"] == 20 and found["estimate"]["media_hours"] == pytest.approx(250 / 3600)
    assert found["estimate"]["gigabytes"] == pytest.approx(8 * 30 * dry_run.MEDIA_RATE / 1e9)
    busy = max(
        8 * ACCESS.pace, 8 * dry_run.EXTRACTION / ACCESS.workers, 8 * 30 * dry_run.MEDIA_RATE / dry_run.LINE_RATE
    )
    assert found["estimate"]["hours"] == pytest.approx(busy / 3600)
    text = dry_run.as_text(found)
    assert "list what rows list rows 9" in " ".join(text.split()) and "8 to fetch" in text
    assert "invalid rows:\n  no id" in text and found["invalid"] == ["no id"]
    many = dry_run.as_text({**found, "invalid": [f"line {n}" for n in range(25)]})
    assert "line 9\n  and 15 more" in many


def test_a_system_without_timers_has_no_deadline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(signal, "setitimer")
    with deadline(0.05):
        time.sleep(0.2)


@pytest.fixture(params=["as it is", "ext4 that does not tell cases apart"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder of this disk, and one of a disk that takes `AbC` for `aBc`, where the machine can have one."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "as it is":
        yield place
        return
    image, folder = tmp_path / "image", place / "folder"
    made = [["truncate", "-s", "64M", image], ["mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8", image],
            ["mount", "-o", "loop", image, place]]  # fmt: skip
    try:
        for command in made:
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"needs root, mkfs.ext4 and a kernel whose ext4 knows casefold: {e}")
    try:
        folder.mkdir()
        subprocess.run(["chattr", "+F", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_names_that_look_the_same_are_two_files_on_every_disk(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AVSET_CACHE", str(disk / "cache"))
    given = load(ROOT / "params.yaml")
    videos = {
        make_video(tmp_path / f"{name}.mp4", 1.0, tone=tone).stem: tone
        for name, tone in (("AbC", 440.0), ("aBc", 880.0), ("other", 220.0))
    }
    own = given.clips.model_copy(update={"source": "folder", "options": {"path": str(tmp_path)}})
    _, options = clips.load_source("folder", own.options)
    entries = [Entry(name, "train", (), str(tmp_path / f"{name}.mp4")) for name in videos]
    jobs = clips.jobs_of(entries, options, "", "")
    clips.fetch_all(jobs, own, options, given.runtime.model_copy(update={"executor": "inline"}), LIMITS)
    for target in (disk / "clips", disk / "again"):  # each is linked twice, over files that share the cache's bytes
        rows, _, _ = clips.collect(entries, jobs, {}, own, target)
        media = {row["media_id"]: row["media"] for row in rows}
        assert media["other"] == "media/other.mp4" and len({name.casefold() for name in media.values()}) == 3
        for name, path in media.items():
            assert (target / path).read_bytes() == (tmp_path / f"{name}.mp4").read_bytes()
        clips.collect(entries, jobs, {}, own, target)
    for path in (disk / "cache" / "media").rglob("*.mp4"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name + path.stem


def test_what_is_linked_is_never_written_through(tmp_path: Path):
    """Not even if a disk takes two names for one."""
    kept, other, target = (tmp_path / name for name in ("kept", "other", "target"))
    kept.write_bytes(b"kept")
    other.write_bytes(b"other")
    link(kept, target)
    link(other, target)
    assert (kept.read_bytes(), target.read_bytes()) == (b"kept", b"other")
    write_atomic(target, b"third")
    assert (other.read_bytes(), target.read_bytes()) == (b"other", b"third")


def test_a_medium_that_was_cut_off_is_fetched_again_when_that_is_forgotten():
    cache, fields = ItemCache(), {"sha256": "0" * 64, "suffix": ".mp4", "start": 0.0}
    path = kept_media(cache, fields)
    write_atomic(path, b"x")
    stat = path.stat()
    job = Job("cut", "1" * 64, {"kept": "2" * 64, "entry": VIDEO})
    fetched_items(cache).put(job.payload["kept"], Item(fields=fields | {"stamp": [stat.st_size, stat.st_mtime_ns]}))
    assert clips.forget(cache, [job]) == {}
    cache.forget(job.payload["kept"])
    assert clips.forget(cache, [job]) == {"cut": ""} and cache.forgotten() == set()
    assert job.payload["kept"] not in fetched_items(cache)


def test_a_medium_that_cannot_be_read_now_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch):
    cache, fields = ItemCache(), {"sha256": "0" * 64, "suffix": ".mp4", "stamp": [0, 0]}
    assert not clips.intact(cache, fields)
    write_atomic(kept_media(cache, fields), b"x")
    monkeypatch.setattr(reading, "WAITS", (0.0,))
    monkeypatch.setattr(hashlib, "file_digest", Mock(side_effect=OSError(errno.ESTALE, "Stale file handle")))
    with pytest.raises(OSError, match="Stale"):
        clips.intact(cache, fields)

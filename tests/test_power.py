"""What was written is there after a power cut: the disk holds it before it gets its name."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import power
import pytest
from crashes import apart
from power import CURE, Order
from test_crashes import STAGES, draw, of_videos, repository

from avset.compute.making import making
from avset.errors import AvsetError
from avset.media.writers import write_audio
from avset.report.plots import save_png
from avset.storage import finished
from avset.storage.cache import ItemCache, fetched_items
from avset.storage.files import link, write_atomic
from avset.storage.hdf5 import new_hdf5
from avset.storage.items import Item

ROOT = Path(__file__).parents[1]
cutting = pytest.mark.skipif(
    os.geteuid() != 0
    or not shutil.which("mkfs.ext4")
    or subprocess.run([*power.PRIVATE, "losetup", "-f"], capture_output=True, check=False).returncode != 0,
    reason="needs root, mkfs.ext4 and a free loop device",
)


def artifact(folder: Path) -> None:
    """A made one, over one that was there, with a file of another name in the cache."""
    for _ in range(2):
        with making(folder / "artifact") as fresh:
            (fresh / "deep").mkdir()
            (fresh / "deep" / "index").write_text("x")
            with new_hdf5(fresh / "shard.h5") as file:
                file["x"] = np.arange(3)
            link(fresh / "shard.h5", folder / "cache" / "shard.h5")
            write_atomic(fresh / "record.json", b"{}")


def kept(folder: Path) -> None:
    finished.keep(folder, "0" * 64)
    with making(folder / "again") as fresh:
        finished.restore("0" * 64, fresh)


WRITERS: dict[str, Callable[[Path], None]] = {
    "an artifact": artifact,
    "a finished model": kept,
    "a file": lambda folder: write_atomic(folder / "new" / "file", b"x"),
    "a medium": lambda folder: fetched_items(ItemCache()).put("0" * 64, Item(fields={"suffix": ".mp4"})),
    "a sound": lambda folder: write_audio(folder / "new" / "a.flac", np.zeros(99, np.float32), 8000),
    "a picture": lambda folder: save_png(folder / "a.png", np.zeros((2, 2, 3), np.uint8)),
}


@pytest.mark.parametrize("what", WRITERS)
def test_the_disk_holds_it_before_its_name(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").write_text("x")
    with Order().watching() as order:
        WRITERS[what](tmp_path)
    assert order.faults == []
    assert order.count > 0


def test_what_is_not_synced_is_seen(tmp_path: Path):
    """The watch itself: a folder with a file that the disk may not hold, and a name that it was not asked to hold."""
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "index").write_text("x")
    with Order().watching() as order:
        (tmp_path / "fresh").rename(tmp_path / "artifact")
    assert len(order.faults) == 3


@pytest.mark.parametrize("fixture", ["toy_data", pytest.param("scored", marks=pytest.mark.slow)])
def test_every_stage_has_it_on_the_disk(fixture: str, request: pytest.FixtureRequest):
    folder: Path = request.getfixturevalue(fixture)
    assert (folder.parent / "faults").read_text() == ""


def test_an_item_waits_for_no_disk_and_an_empty_one_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("it waits"))
    cache, key = ItemCache(), "ab" + "0" * 62
    (cache.root / "items" / "ab").mkdir(parents=True)
    cache.put(key, Item(fields={"x": 1}))
    assert key in cache and cache.get(key) is not None
    cache.path(key).write_bytes(b"")
    assert key not in cache
    assert cache.get(key) is None


@pytest.mark.parametrize(
    ("error", "of_folders", "fails"), [("EIO", False, True), ("EIO", True, True), ("EINVAL", True, False)]
)
def test_a_disk_that_fails_is_said(
    tmp_path: Path, error: str, of_folders: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
):
    """And a file system that syncs no folders is no such disk."""

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(getattr(errno, error), error)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(AvsetError, match=r"cannot write .*file: EIO; ") if fails else nullcontext():
        write_atomic(tmp_path / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ([] if fails and not of_folders else ["file"])


def test_the_cure_is_in_the_documentation():
    assert CURE in (ROOT / "docs" / "operations.md").read_text()


@cutting
@pytest.mark.slow
def test_after_a_power_cut_all_is_whole_or_not_there(tmp_path: Path):
    of_videos(tmp_path / "disk" / "project", draw(tmp_path / "videos"))
    stages = {name: STAGES[name] for name in ("clips", "frames")}
    found = apart("power", tmp_path / "disk", power.PRIVATE, "power", count=1, seed=1, stages=stages)
    assert "\n".join(one["faults"] for one in found.values()).strip() == ""
    assert [one["cuts"] for one in found.values()] == [3, 3]


@cutting
@pytest.mark.slow
def test_after_a_power_cut_dvc_goes_on_with_one_command(tmp_path: Path):
    repository(tmp_path / "disk")
    found = apart("power", tmp_path / "disk", power.PRIVATE, "power", count=1, seed=1, stages={"dvc": {}})
    assert found["dvc"]["faults"] == ""

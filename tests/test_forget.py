"""Failures that are remembered, and forgotten when told to: then the clip is tried again, whoever remembered it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toy

import stages.frames
from avset.__main__ import main
from avset.errors import AvsetError, ClipError
from avset.storage.artifacts import Record
from avset.storage.cache import ItemCache, fetched_items
from avset.storage.forget import forget
from avset.storage.items import Item
from avset.storage.store import Store
from avset.storage.tables import read_table

FRAMES = Path("data/demo/demo/frames")
FAILED = ("cello-train-000_0", "cello-test-000_0")


def tolerant(toy_data: Path, folder: Path) -> Path:
    """A copy of the toy project in which clips may fail."""
    return toy.project(toy.clone(toy_data, folder), toy.params(datasets__demo__clips__min_success=0.5))


def nothing(cache: Path) -> None:
    """Items, shards and the store remember."""


def items_alone(cache: Path) -> None:
    shutil.rmtree(cache / "shards", ignore_errors=True)


def shards_alone(cache: Path) -> None:
    shutil.rmtree(cache / "items", ignore_errors=True)


def store_alone(cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)


@pytest.mark.parametrize(
    "swept", [nothing, *(pytest.param(one, marks=pytest.mark.slow) for one in (items_alone, shards_alone)), store_alone]
)
def test_a_failure_is_remembered_until_it_is_forgotten(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swept: Callable[[Path], None],
    capsys: pytest.CaptureFixture,
):  # fmt: skip
    project, cache = tolerant(toy_data, tmp_path / "project"), tmp_path / "cache"
    whole = Store(project / FRAMES)
    shutil.rmtree(project / FRAMES)
    real = stages.frames.Decode.decode

    def fails(self: stages.frames.Decode, media: Path, *told: object, **more: object) -> Item:
        if f"{media.stem}_0" in FAILED:
            raise ClipError("corrupt", "as if the disk had a bad day")
        return real(self, media, *told, **more)

    with monkeypatch.context() as patched:
        patched.setattr(stages.frames.Decode, "decode", lambda self, media, **more: fails(self, media, **more))
        toy.run(project, cache, "frames")
    swept(cache)

    def failures() -> set[str]:
        toy.run(project, cache, "frames")
        return {row["clip_id"] for row in read_table(project / FRAMES / "index.parquet") if row["reason"]}

    assert failures() == set(FAILED)
    swept(cache)
    with toy.inside(project, cache):
        monkeypatch.setattr("sys.argv", ["avset", "store", "forget", "frames", FAILED[0], "--reason", "corrupt"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0 and "frames: 1 failures are forgotten" in capsys.readouterr().out
    assert failures() == {FAILED[1]}
    with toy.inside(project, cache):
        assert forget(FRAMES) == [FAILED[1]]
        assert ItemCache().forgotten() != set()
    assert failures() == set()
    now = Store(project / FRAMES)
    assert now.digest == whole.digest and np.array_equal(now.read(FAILED[0], "frames"), whole.read(FAILED[0], "frames"))
    with toy.inside(project, cache):
        assert ItemCache().forgotten() == set() and forget(FRAMES) == []
        with pytest.raises(AvsetError, match="remembers no such failure of nobody_0"):
            forget(FRAMES, clips=["nobody_0"])


def test_a_medium_that_failed_is_fetched_again(toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project, cache = tolerant(toy_data, tmp_path / "project"), tmp_path / "cache"
    folder = project / "data" / "demo" / "clips"
    rows = {row["media_id"]: row for row in read_table(folder / "media.parquet")}
    name = "cello-train-000"
    shutil.copytree(toy_data.parent / "cache", cache)
    fetched = fetched_items(ItemCache(cache))
    fetched.put(rows[name]["kept"], Item(reason="removed"))
    for path in (cache / "items").rglob("*"):  # what was probed
        if path.is_file() and rows[name]["sha256"].encode() in path.read_bytes():
            path.unlink()
    toy.run(project, cache, "clips")
    reason = {row["media_id"]: row["reason"] for row in read_table(folder / "index.parquet")}
    assert reason[name] == "removed" and Record.read(folder).artifact == "clips"
    toy.run(project, cache, "clips")
    with toy.inside(project, cache):
        assert forget(folder) == [f"{name}_0"]
    toy.run(project, cache, "clips")
    assert not any(row["reason"] for row in read_table(folder / "index.parquet"))

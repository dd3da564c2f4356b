"""One bad clip never stops a stage: errors, deaths and damage are rows; finished work is not done again."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import ROOT

from pipeline.errors import AvsetError, ClipError
from pipeline.parallel import Job, compute
from pipeline.params import load
from pipeline.store import Item, ItemCache

INLINE = load(ROOT / "params.yaml").runtime.model_copy(update={"executor": "inline", "workers": 2})
RAY = INLINE.model_copy(update={"executor": "ray"})


class Square:
    """Squares numbers; what it does on a job is in the job's payload. Counts its work in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, jobs: list[Job]) -> list[Item]:
        for job in jobs:
            do = job.payload.get("do")
            if do == "fail":
                raise ClipError("corrupt", f"{job.clip_id} is broken")
            if do == "bug":
                raise ZeroDivisionError("oops")
            if do == "full":
                raise AvsetError("the disk is full; free space")
            if do == "die":
                os._exit(1)
        for job in jobs:
            (self.folder / f"{job.clip_id}.{os.getpid()}").touch()
        return [Item({"y": np.array([job.payload["x"] ** 2])}) for job in jobs]


class Broken(Square):
    """A mapper that cannot be made."""

    def __init__(self) -> None:
        raise OSError("no such encoder")


def jobs(n: int, **special: str) -> list[Job]:
    return [Job(f"c{i}", f"{i:064x}", {"x": i, "do": special.get(f"c{i}", "")}) for i in range(n)]


def run(folder: Path, todo: list[Job], runtime: Any = INLINE, batch_size: int = 1) -> dict[str, Item]:
    from functools import partial

    return compute("toy", todo, partial(Square, folder), runtime, batch_size)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_errors_find_their_clip_and_the_rest_goes_on(tmp_path: Path, batch_size: int):
    todo = jobs(7, c2="fail", c5="bug")
    forgotten = run(tmp_path, todo, batch_size=batch_size)
    found = {job.clip_id: ItemCache().get(job.key) for job in todo}
    assert found["c2"][0].reason == "corrupt"
    assert found["c5"] is None, "a bug is tried again at the next run"
    assert forgotten["c5"].detail == "ZeroDivisionError: oops"
    assert [int(found[f"c{i}"][0].arrays["y"][0]) for i in (0, 1, 3, 4, 6)] == [0, 1, 9, 16, 36]


def test_what_is_no_clips_fault_ends_the_work_and_what_was_done_is_kept(tmp_path: Path):
    todo = jobs(5, c3="full")
    with pytest.raises(AvsetError, match="the disk is full"):
        run(tmp_path, todo)
    assert [job.clip_id for job in todo if job.key in ItemCache()] == ["c0", "c1", "c2"]
    assert run(tmp_path, jobs(5)) == {}


def test_finished_work_is_not_done_again(tmp_path: Path):
    run(tmp_path, jobs(3))
    before = sorted(p.name for p in tmp_path.iterdir())
    run(tmp_path, jobs(5, c3="fail"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, f"c4.{os.getpid()}"])
    run(tmp_path, jobs(5, c3=""))  # the failure of c3 is remembered under its key
    assert not list(tmp_path.glob("c3.*"))


def test_nothing_pending_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tmp_path, jobs(3))
    monkeypatch.setattr("pipeline.parallel._by_ray", lambda *_: pytest.fail("ray was started"))
    assert run(tmp_path, jobs(3), RAY) == {}


@pytest.mark.slow
def test_processes_give_the_same_items_and_outlive_their_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.parallel.WORTH", 1)
    todo = jobs(9, c1="fail", c4="die", c7="bug")
    forgotten = run(tmp_path, todo, INLINE.model_copy(update={"executor": "processes"}), batch_size=2)
    assert {clip: item.reason for clip, item in forgotten.items()} == {
        "c1": "corrupt", "c4": "worker_died", "c7": "error",
    }  # fmt: skip
    assert f".{os.getpid()}" not in {p.suffix for p in tmp_path.iterdir()}
    found = {job.clip_id: ItemCache().get(job.key) for job in todo}
    assert [int(found[f"c{i}"][0].arrays["y"][0]) for i in (0, 2, 3, 5, 6, 8)] == [0, 4, 9, 25, 36, 64]
    assert found["c1"][0].reason == "corrupt"
    assert found["c4"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_gives_the_same_items_and_outlives_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import ray

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # so that the workers know Square

    todo = jobs(9, c1="fail", c4="die")
    try:
        forgotten = run(tmp_path, todo, RAY, batch_size=2)
        with pytest.raises(AvsetError, match="workers cannot start"):
            compute("toy", [Job("c", "f" * 64)], Broken, RAY)
    finally:
        ray.shutdown()
    assert forgotten["c4"].reason == "worker_died"
    pids = {p.suffix for p in tmp_path.iterdir()}
    assert f".{os.getpid()}" not in pids
    through_ray = {job.clip_id: ItemCache().get(job.key) for job in todo if job.clip_id != "c4"}
    for job in todo:
        ItemCache().path(job.key).unlink(missing_ok=True)
    run(tmp_path, [job for job in todo if job.clip_id != "c4"])
    for job in todo:
        if job.clip_id != "c4":
            assert ItemCache().get(job.key)[1] == through_ray[job.clip_id][1]

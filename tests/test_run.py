"""One bad clip never stops a stage: errors, deaths and damage are rows; finished work is not done again."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import ROOT

from avset.compute import run as parallel
from avset.compute.run import Job, Worker, compute
from avset.errors import AvsetError, ClipError
from avset.params import load
from avset.storage.cache import ItemCache
from avset.storage.items import Item

INLINE = load(ROOT / "params.yaml").runtime.model_copy(update={"executor": "inline", "workers": 2})
PROCESSES = INLINE.model_copy(update={"executor": "processes"})
RAY = INLINE.model_copy(update={"executor": "ray"})


def until(happened: Callable[[], Any], seconds: float = 300) -> Any:
    """What `happened` returns as soon as it is true; fails if it never is."""
    for _ in range(int(seconds / 0.01)):  # by its own sleeps: while the machine stood still nothing could happen
        if found := happened():
            return found
        time.sleep(0.01)
    pytest.fail("it never happened")


class Square:
    """Squares numbers; what it does on a job is in the job's payload. Tells in a folder what it begins."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, jobs: list[Job]) -> list[Item]:
        for job in jobs:
            (self.folder / f"{job.clip_id}.{os.getpid()}.{time.monotonic_ns()}").touch()
        return [self.item(job) for job in jobs]

    def item(self, job: Job) -> Item:
        do = job.payload["do"]
        if do == "fail":
            raise ClipError("corrupt", f"{job.clip_id} is broken")
        if do == "bug":
            raise ZeroDivisionError("oops")
        if do == "full":
            raise AvsetError("the disk is full; free space")
        if do == "full beside c9":
            until(lambda: any(self.folder.glob("c9.*")))
            raise AvsetError("the disk is full; free space")
        if do == "slow":
            until(lambda: any(self.folder.glob("c8.*")))
            time.sleep(0.5)
        if do == "die":
            os._exit(1)
        if do == "killed once" and len(list(self.folder.glob(f"{job.clip_id}.*"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "stuck":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as a call into C that never comes back
            (self.folder / "stuck").touch()
            time.sleep(3600)
        return Item({"y": np.array([job.payload["x"] ** 2])})


class Reading(Square):
    """Computes the k-th job only while the next one is being read."""

    def read(self, jobs: list[Job]) -> list[Job]:
        (self.folder / f"read.{jobs[0].clip_id}").touch()
        return jobs

    def __call__(self, jobs: list[Job]) -> list[Item]:
        following = jobs[-1].payload["x"] + 1
        if following < jobs[0].payload["of"]:
            until((self.folder / f"read.c{following}").exists)
        return super().__call__(jobs)


class Broken(Square):
    """A mapper that cannot be made."""

    def __init__(self) -> None:
        raise OSError("no such encoder")


class Deadly(Square):
    """A mapper that takes the whole process with it."""

    def __init__(self) -> None:
        os._exit(3)


def jobs(n: int, **special: str) -> list[Job]:
    return [Job(f"c{i}", f"{i:064x}", {"x": i, "of": n, "do": special.get(f"c{i}", "")}) for i in range(n)]


def run(folder: Path, todo: list[Job], runtime: Any = INLINE, batch_size: int = 1, **more: Any) -> dict[str, Item]:
    return compute("toy", todo, partial(Square, folder), runtime, batch_size, worth=1, **more)


def begun(folder: Path) -> Counter[str]:
    """How often each clip was begun, and "" by how many processes."""
    told = [p.name.split(".")[:2] for p in folder.glob("c*.*")]
    return Counter([clip for clip, _ in told]) + Counter({"": len({pid for _, pid in told})})


def kept(todo: list[Job]) -> dict[str, Any]:
    """What the cache has: a clip's number, or the reason why it has none."""
    found = {job.clip_id: ItemCache().get(job.key) for job in todo}
    return {clip: one[0].reason or int(one[0].arrays["y"][0]) for clip, one in found.items() if one}


def squares(n: int, *but: int) -> dict[str, int]:
    return {f"c{i}": i * i for i in range(n) if i not in but}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_errors_find_their_clip_and_the_rest_goes_on(tmp_path: Path, batch_size: int):
    todo = jobs(7, c2="fail", c5="bug")
    forgotten = run(tmp_path, todo, batch_size=batch_size)
    assert kept(todo) == {**squares(7, 2, 5), "c2": "corrupt"}, "a bug is tried again at the next run"
    assert forgotten["c5"].detail == "ZeroDivisionError: oops"


def test_what_is_no_clips_fault_ends_the_work_and_what_was_done_is_kept(tmp_path: Path):
    todo = jobs(5, c3="full")
    with pytest.raises(AvsetError, match="the disk is full"):
        run(tmp_path, todo)
    assert kept(todo) == squares(3)
    assert run(tmp_path, jobs(5)) == {}


def test_finished_work_is_not_done_again_and_what_failed_before_is_told(tmp_path: Path, capsys: pytest.CaptureFixture):
    run(tmp_path, jobs(3))
    run(tmp_path, jobs(5, c3="fail"))
    assert "5/5 clips (3 cached), failed: 1 corrupt;" in capsys.readouterr().err
    run(tmp_path, jobs(5), before=Counter({"": 3, "silent": 2}))  # the failure of c3 is remembered under its key
    assert "10/10 clips (10 cached), failed: 1 corrupt, 2 silent (3 of them before);" in capsys.readouterr().err
    assert begun(tmp_path) == {"": 1, **{f"c{i}": 1 for i in range(5)}}
    assert kept(jobs(5))["c3"] == "corrupt"


@pytest.mark.parametrize("executor", ["_by_ray", "_by_processes"])
def test_nothing_pending_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str):
    run(tmp_path, jobs(3))
    monkeypatch.setattr(parallel, executor, lambda *_: pytest.fail("workers were started"))
    assert run(tmp_path, jobs(3), RAY if executor == "_by_ray" else PROCESSES) == {}


def test_the_next_batch_is_read_and_the_last_one_kept_while_one_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    computing, put = [threading.Event() for _ in range(5)], ItemCache.put

    class Telling(Reading):
        def __call__(self, jobs: list[Job]) -> list[Item]:
            computing[jobs[0].payload["x"]].set()
            return super().__call__(jobs)

    def late(cache: ItemCache, key: str, item: Item, *told: str) -> None:
        if (following := int(key, 16) + 1) < 5:
            assert computing[following].wait(300), "nothing was computed while it was to be kept"
        put(cache, key, item, *told)

    monkeypatch.setattr(ItemCache, "put", late)
    assert compute("toy", jobs(5), partial(Telling, tmp_path), INLINE) == {}
    assert kept(jobs(5)) == squares(5)


def test_an_error_while_reading_is_that_of_its_clip(tmp_path: Path):
    class Unreadable(Square):
        def read(self, jobs: list[Job]) -> list[Job]:
            if any(job.clip_id == "c3" for job in jobs):
                raise OSError("bad sector")
            return jobs

    forgotten = compute("toy", jobs(6), partial(Unreadable, tmp_path), INLINE, 2)
    assert {clip: item.detail for clip, item in forgotten.items()} == {"c3": "OSError: bad sector"}
    assert kept(jobs(6)) == squares(6, 3)


def test_a_clip_that_reads_or_computes_for_too_long_is_a_timeout(tmp_path: Path):
    class Slow(Square):
        def read(self, jobs: list[Job]) -> list[Job]:
            if any(job.clip_id == "c1" for job in jobs):
                time.sleep(2)
            return jobs

    forgotten = compute("toy", jobs(3), partial(Slow, tmp_path), INLINE.model_copy(update={"time_limit": 1.0}))
    assert {clip: item.reason for clip, item in forgotten.items()} == {"c1": "timeout"}
    with Worker(partial(Square, tmp_path), 1.0) as worker:
        assert [item.reason for item in worker.attempt(jobs(2, c1="stuck"))] == ["", "timeout"]


@pytest.mark.parametrize("frames", [*range(1, 40), 100, 128, 129, 1000])
def test_frames_of_several_clips_fill_the_batches_of_the_encoder(frames: int):
    from stages.regions import clips_at_once  # imports torch, which workers here do without

    def filled(clips: int) -> float:
        return clips * frames / (32 * int(np.ceil(clips * frames / 32)))

    clips = clips_at_once(frames, 32)
    assert clips == 1 or clips * frames <= 128, "bounded memory"
    assert filled(clips) == max(filled(n) for n in range(1, 129) if n == 1 or n * frames <= 128)
    assert clips == {1: 32, 3: 32, 5: 19, 20: 3, 1000: 1}.get(frames, clips)


@pytest.mark.slow
def test_processes_give_the_same_items_and_outlive_their_workers(tmp_path: Path):
    todo = jobs(11, c1="fail", c4="die", c7="bug", c9="killed once")
    forgotten = run(tmp_path, todo, PROCESSES, batch_size=2)
    assert {clip: item.reason for clip, item in forgotten.items()} == {
        "c1": "corrupt", "c4": "worker_died", "c7": "error",
    }  # fmt: skip
    assert "exit code 1" in forgotten["c4"].detail
    assert f".{os.getpid()}" not in {p.suffix for p in tmp_path.iterdir()}
    assert kept(todo) == {**squares(11, 1, 4, 7), "c1": "corrupt"}


@pytest.mark.slow
def test_a_process_reads_ahead_and_computes_where_signals_arrive(tmp_path: Path):
    def take(receipts: list, workers: int) -> None:
        taken.extend(receipts)
        assert len(list(tmp_path.glob("read.*"))) - len(taken) <= 2, "one computed, one read"

    taken, late = [], jobs(9, c4="stuck")  # with two workers, who reads next is chance
    with_limit = PROCESSES.model_copy(update={"time_limit": 2.0})
    parallel._by_processes(iter([[job] for job in late]), 9, 1, partial(Reading, tmp_path), with_limit, take)
    assert [receipt[:2] for receipt in taken] == [(f"c{i}", "timeout" if i == 4 else "") for i in range(9)]
    assert kept(late) == squares(9, 4)


@pytest.mark.slow
def test_what_ends_the_work_lets_the_other_processes_keep_theirs(tmp_path: Path):
    with pytest.raises(AvsetError, match="the disk is full"):
        run(tmp_path, jobs(30, c8="full beside c9", c9="slow"), PROCESSES)
    assert set(kept(jobs(30))) == begun(tmp_path).keys() - {"c8", ""}, "all that was begun is kept"
    for mapper, said in ((Broken, "workers cannot start.*OSError: no such encoder"), (Deadly, "cannot live.*code 3")):
        with pytest.raises(AvsetError, match=said):
            compute("toy", jobs(30), mapper, PROCESSES, worth=1)


COMMAND = """
import sys
from functools import partial
from pathlib import Path
from stages import command
from test_run import INLINE, Square, compute, jobs

def main(executor: str, folder: Path, stuck: str = "") -> None:
    runtime = INLINE.model_copy(update={"executor": executor})
    compute("toy", jobs(40, **({stuck: "stuck"} if stuck else {})), partial(Square, folder), runtime, worth=1)

command(main)
"""


def start(folder: Path, executor: str, stuck: str = "") -> subprocess.Popen:
    """The toy stage as a command of its own, in a process group of its own."""
    command = [sys.executable, "-c", COMMAND, executor, str(folder), *(["--stuck", stuck] if stuck else [])]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "pipeline")))
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)


def relatives(cache: str) -> set[int]:
    """All processes that were started for a test, by the cache in their environment; but this one."""
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"AVSET_CACHE={cache}\0".encode() in environ.read_bytes():
                found.add(int(environ.parent.name))
        except OSError:
            continue
    return found - {os.getpid()}


def deaf(process: int) -> bool:
    """Whether a process would not notice SIGINT."""
    status = dict(line.split(":\t") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return bool((int(status["SigBlk"], 16) | int(status["SigIgn"], 16)) & 1 << (signal.SIGINT - 1))


def interrupted(folder: Path, cache: Path, executor: str, group: bool) -> str:
    """Stop the toy stage by Ctrl-C when its 31st clip is stuck; returns what it said."""
    running = start(folder, executor, "c30")
    try:
        until(lambda: ((folder / "stuck").exists() and len(kept(jobs(40))) >= 29) or running.poll() is not None)
        assert group is False or all(deaf(process) for process in relatives(str(cache)) - {running.pid})
        (os.killpg if group else os.kill)(running.pid, signal.SIGINT)
        said = running.communicate(timeout=300)[1]
        assert running.returncode == 130, said
        until(lambda: not relatives(str(cache)))
    finally:
        for process in relatives(str(cache)):
            os.kill(process, signal.SIGKILL)
        running.communicate()
    assert "Traceback" not in said and said.count("\n") <= 2, said
    assert "; interrupted; what is done is kept, the same command goes on" in said
    before = begun(folder)
    again = start(folder, "inline")
    assert again.wait(300) == 0, again.communicate()
    again.communicate()
    assert kept(jobs(40)) == squares(40)
    twice = {clip for clip, n in begun(folder).items() if clip and n > before[clip] > 0}
    assert "c30" in twice and len(twice) <= 4, "only what was in flight is done again"
    return said


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_ctrl_c_says_one_line_and_leaves_nobody_behind(tmp_path: Path, private_cache: Path, executor: str, group: bool):
    interrupted(tmp_path, private_cache, executor, group)

"""Ray: several machines (raylets, on this one) do what one process does, also when one of them goes away."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toy
from test_run import RAY, Broken, Reading, Square, begun, interrupted, jobs, kept, relatives, squares, start, until

from avset.compute import ray_worker as actors
from avset.compute.crew import Crew
from avset.compute.run import Job, compute
from avset.errors import AvsetError
from avset.storage.cache import ItemCache
from avset.storage.items import Item

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
SIZE = {"num_cpus": 1, "object_store_memory": actors.STORE}
MANY = RAY.model_copy(update={"workers": 5})  # more than the cluster has room for
PATHS = os.pathsep.join(map(str, (Path(__file__).parent, toy.ROOT / "pipeline")))
QUICK = {f"RAY_health_check_{k}": v for k, v in {"period_ms": "1000", "failure_threshold": "4"}.items()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head that computes nothing, and two machines; started elsewhere, and with another cache, than the tests."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (QUICK | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": PATHS}).items():
            patch.setenv(name, value)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("AVSET_CACHE", str(tmp_path_factory.mktemp("another")))
        started = Cluster(initialize_head=True, head_node_args={**SIZE, "num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(2):
                started.add_node(**SIZE)
            yield started
        finally:
            started.shutdown()


@pytest.fixture
def driver(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The cluster, which the test may join by $RAY_ADDRESS from a folder of its own."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.chdir(tmp_path)
    try:
        yield cluster
    finally:
        ray.shutdown()


@pytest.fixture
def machines_lost(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every death of a worker, in order, whether its machine was held to be gone."""
    told, lose = [], Crew.lose
    monkeypatch.setattr(
        Crew, "lose", lambda crew, worker, death: told.append(death.machine) or lose(crew, worker, death)
    )
    return told


class Squarely(Reading):
    """Reads ahead, and takes its time."""

    def __call__(self, jobs: list[Job]) -> list[Item]:
        time.sleep(0.05)
        return Square.__call__(self, jobs)


def test_the_stages_of_a_data_set_make_the_same_stores(driver: Any, toy_data: Path, tmp_path: Path):
    per_clip = ("spectrograms", "captions")  # one that reads media, one that computes in batches
    tree = toy.params(runtime__executor="ray", runtime__workers=2)
    folder = toy.project(tmp_path / "project", tree)
    (folder / "data/demo/demo").mkdir(parents=True)
    for made in ("clips", "demo/encoder", "demo/regions"):
        (folder / "data/demo" / made).symlink_to(toy_data / "data/demo" / made)
    toy.run(folder, tmp_path / "cache", *per_clip)
    for stage in per_clip:
        ours, theirs = (root / "data/demo/demo" / stage for root in (folder, toy_data))
        files = sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
        assert all((ours / file).read_bytes() == (theirs / file).read_bytes() for file in files), stage


def test_a_machine_that_goes_midway_costs_what_it_held(driver: Any, tmp_path: Path, machines_lost: list[bool]):
    def watch(receipts: list) -> None:
        nonlocal done
        done += len(receipts)
        if done - len(receipts) < 20 <= done:
            driver.remove_node(sorted(driver.worker_nodes, key=str)[0], allow_graceful=False)

    done, todo = 0, jobs(60, c5="fail", c50="die")
    try:
        forgotten = compute("toy", todo, partial(Squarely, tmp_path), MANY, 2, watch=watch)
    finally:
        driver.add_node(**SIZE)
    assert {clip: item.reason for clip, item in forgotten.items()} == {"c5": "corrupt", "c50": "worker_died"}
    assert kept(todo) == {**squares(60, 5, 50), "c5": "corrupt"}
    assert machines_lost.count(False) == 2, "c50 killed two"
    assert any(machines_lost), "with it went also workers that had not started"
    counts = begun(tmp_path)
    again = [clip for clip, n in counts.items() if clip and n > 1]
    assert counts[""] >= 3, "c50 killed two"
    assert 1 <= len(again) <= 4 + 4, "what the machine held, and what c50 was with"


def test_a_worker_that_is_killed_blames_no_clip(driver: Any, tmp_path: Path, machines_lost: list[bool]):
    def watch(receipts: list) -> None:
        nonlocal done
        done += len(receipts)
        if done in (10, 30):
            newest = max(tmp_path.glob(f"{receipts[-1][0]}.*"), key=lambda path: path.stat().st_mtime)
            os.kill(int(newest.name.split(".")[1]), signal.SIGKILL)

    done = 0
    assert compute("toy", jobs(50), partial(Squarely, tmp_path), MANY, watch=watch) == {}
    assert kept(jobs(50)) == squares(50)
    assert machines_lost == [False, False]
    counts = begun(tmp_path)
    assert counts[""] >= 3 and sum(n - 1 for clip, n in counts.items() if clip) <= 2 * 2


def test_what_the_cluster_cannot_give_is_said_at_once(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for gpus, said in ((1.0, "no machine of the Ray cluster has a CPU and 1 GPU"), (1.5, "a worker gets whole GPUs")):
        with pytest.raises(AvsetError, match=said):
            compute("toy", jobs(3), partial(Square, tmp_path), RAY.model_copy(update={"gpus_per_worker": gpus}))
    with pytest.raises(AvsetError, match=r"^the workers cannot start, no clip is to blame: OSError: no such encoder$"):
        compute("toy", jobs(3), Broken, RAY)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "only_here.py").write_text("def mapper():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    with pytest.raises(AvsetError, match=r"^the workers cannot start, .*: No module named 'only_here'$"):
        compute("toy", jobs(3), importlib.import_module("only_here").mapper, RAY)
    with pytest.raises(AvsetError, match=r"^the disk is full; free space$"):
        compute("toy", jobs(20, c8="full"), partial(Square, tmp_path), RAY)
    assert set(kept(jobs(20))) == begun(tmp_path).keys() - {"c8", ""}, "all that was begun is kept"


class Gpus(Square):
    """Tells which GPUs its worker sees, and waits until so many workers have."""

    def __call__(self, jobs: list[Job]) -> list[Item]:
        (self.folder / f"{os.getpid()}:{os.environ['CUDA_VISIBLE_DEVICES']}").touch()
        until(lambda: len(list(self.folder.iterdir())) >= jobs[0].payload["of"])
        return super().__call__(jobs)


def test_each_worker_has_its_gpu_or_its_fraction_of_one(driver: Any, tmp_path: Path, capsys: pytest.CaptureFixture):
    machine = driver.add_node(**{**SIZE, "num_cpus": 4}, num_gpus=2)  # Ray takes our word for it
    try:
        for each, seen in ((1.0, ["0", "1"]), (0.5, ["0", "0", "1", "1"]), (0.0, [""])):
            runtime = RAY.model_copy(update={"gpus_per_worker": each, "workers": 2 * len(seen)})
            todo = [Job(j.clip_id, f"{len(seen)}{j.key[1:]}", {**j.payload, "of": len(seen)}) for j in jobs(8)]
            folder = tmp_path / str(each)
            folder.mkdir()
            assert compute("toy", todo, partial(Gpus, folder), runtime) == {}
            told = [path.name.split(":")[1] for path in folder.iterdir() if ":" in path.name]
            assert sorted(told) == seen or (not each and set(told) == {""})
            assert ("2 GPUs of the cluster idle: runtime.gpus_per_worker is 0" in capsys.readouterr().err) is (
                each == 0
            )
    finally:
        driver.remove_node(machine)


def test_a_machine_without_the_shared_folders_is_named(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    @contextmanager
    def unseen(folder: Path) -> Iterator[str]:
        yield str(folder / ".here-nobody")

    monkeypatch.setattr(actors, "marker_file", unseen)
    with pytest.raises(
        AvsetError, match=rf"\d does not see what others write to {tmp_path}/data/\.locks; all machines"
    ):
        compute("toy", jobs(3), partial(Square, tmp_path), RAY)


def test_code_comes_from_the_folder_of_the_driver(driver: Any, tmp_path: Path):
    (tmp_path / "own.py").write_text("from pathlib import Path\n\ndef where():\n    return str(Path().absolute())\n")
    (tmp_path / "main.py").write_text(
        "import own\nfrom avset.storage.items import Item\nfrom test_run import RAY, compute, jobs\n"
        "class Where:\n    def __call__(self, jobs):\n        return [Item(fields={'at': own.where()}) for _ in jobs]\n"
        "print(compute('toy', jobs(2), Where, RAY))\n"
    )
    env = {**os.environ, "PYTHONPATH": PATHS}
    subprocess.run([sys.executable, "-m", "main"], check=True, env=env)
    assert {ItemCache().get(job.key)[0].fields["at"] for job in jobs(2)} == {str(tmp_path)}


def test_an_address_where_nobody_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(
        AvsetError, match=r"cannot join the Ray cluster at RAY_ADDRESS=127\.0\.0\.1:1 from here: .*refused"
    ):
        compute("toy", jobs(3), partial(Square, tmp_path), RAY)


@pytest.fixture
def alone(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a driver that starts Ray itself; nobody is left of it afterwards."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    for process in relatives(str(private_cache)):
        os.kill(process, signal.SIGKILL)


def test_ctrl_c_ends_ray_too(alone: Path, private_cache: Path):
    interrupted(alone, private_cache, "ray", group=True)


def test_without_its_raylet_the_work_ends_with_a_sentence_and_goes_on_when_run_again(alone: Path, private_cache: Path):
    def raylet() -> int:
        programs = {p: Path(f"/proc/{p}/cmdline").read_bytes().split(b"\0")[0] for p in relatives(str(private_cache))}
        return next(process for process, program in programs.items() if program.endswith(b"/raylet"))

    running = start(alone, "ray", "c30")
    until(lambda: ((alone / "stuck").exists() and len(kept(jobs(40))) >= 29) or running.poll() is not None)
    os.kill(raylet(), signal.SIGKILL)
    said = running.communicate(timeout=300)[1]
    assert running.returncode == 1
    assert "error: Ray's process on this machine (raylet) ended; what is done is kept" in said
    until(lambda: not relatives(str(private_cache)))
    before = begun(alone)
    again = start(alone, "ray")
    assert again.wait(300) == 0, again.communicate()
    again.communicate()
    assert kept(jobs(40)) == squares(40)
    assert len([clip for clip, n in begun(alone).items() if clip and n > before[clip] > 0]) <= 4

"""Whatever is killed, full, damaged or in use: the next run finishes, repeats only what was in flight, same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import crashes
import psutil
import pytest
import toy
from crashes import apart, environment, named, project

from avset.errors import AvsetError
from avset.sources import Entry, demo
from avset.storage.artifacts import ARTIFACTS
from avset.storage.cache import ItemCache
from avset.storage.items import Item
from avset.storage.store import Store

CLIPS = {name: number for number, name in enumerate("abcdefgh")}  # b and e share a shard
STAGES = (
    {name: {"artifact": name if name == "clips" else f"demo/{name}"} for name in toy.STAGES}
    | {
        name: {"artifact": f"demo/{folder}/avset", "arguments": ["avset"]}
        for name, folder in (("train", "models"), ("evaluate", "scores"))
    }
    | {"report": {"artifact": "../../reports/demo/demo"}}
)
LIKE = ("frames", "encoder", "regions", "captions", "mixtures", "evaluate")  # built as spectrograms, clips or sets are
PRIVATE = ("unshare", "-rm")  # a command in which we may mount, and nobody sees it
MOUNTS = shutil.which("unshare") is not None and not subprocess.run([*PRIVATE, "true"], capture_output=True).returncode
mounting = pytest.mark.skipif(
    not MOUNTS,
    reason="needs the right to mount in a namespace of its own (unshare -rm)",
)


@pytest.fixture(autouse=True)
def small_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact of the small stage is one of ours, for these tests alone."""
    monkeypatch.setitem(ARTIFACTS, "toy", crashes.TOY)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the small stage, in which we are; it has run, in this process."""
    folder = project(tmp_path / "project", CLIPS)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AVSET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("avset.compute.run.WORTH_A_PROCESS", 1)
    crashes.main()
    return folder


def made(folder: Path) -> dict[str, bytes]:
    """The files of the small stage's store."""
    found = (folder / "data" / "demo" / "demo" / "toy").rglob("*")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def worked(folder: Path) -> Counter[str]:
    """How often each clip was given to a mapper; the next count begins at none."""
    names = named(folder / crashes.MADE)
    (folder / crashes.MADE).unlink(missing_ok=True)
    return Counter(names)


def again(folder: Path) -> Counter[str]:
    """Run once more, without the store and the shards that the cache has: the clips that it worked on."""
    shutil.rmtree(folder.parent / "cache" / "shards", ignore_errors=True)
    shutil.rmtree(folder / "data" / "demo" / "demo" / "toy", ignore_errors=True)
    worked(folder)
    crashes.main()
    return worked(folder)


@contextmanager
def started(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process in the folder of the small stage, in a session of its own: the stage itself, or a command. Nothing
    of it is left when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-m", *(command or ["crashes"])], cwd=folder, env=environment(folder.parent), text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            for left in members(process.pid):
                left.kill()


def members(session: int) -> list[psutil.Process]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kept(root: Path) -> list[Path]:
    """The items in the cache."""
    return list((root / "cache").glob("items/??/[!.]*"))


def wait(until: Callable[[], Any], seconds: float = 300) -> bool:
    """Whether it becomes true within some time."""
    over = time.monotonic() + seconds
    while not (found := until()) and time.monotonic() < over:
        time.sleep(0.02)
    return bool(found)


def finishes(folder: Path) -> str:
    """Run the small stage in a process; what it says."""
    with started(folder) as process:
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store that a run makes which nobody disturbs."""
    folder = project(tmp_path_factory.mktemp("undisturbed") / "project", CLIPS)
    finishes(folder)
    return made(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "most"), [({}, 50), ({"a": 0, "b": 8, "h": 7}, 10)])
def test_killed_at_any_moment_a_stage_goes_on(tmp_path: Path, before: dict[str, int], most: int):
    """Into an empty folder with an empty cache; and at some over a store of other clips."""
    if before:
        finishes(project(tmp_path / "project", before))
    project(tmp_path / "project", {name: CLIPS[name] for name in ("abe" if before else "be")})
    found = apart("killed", tmp_path, everywhere=True, most=most)
    assert found["faults"] == ""
    assert found["times"] >= min(most, 20)


def draw(folder: Path) -> Path:
    """Seven short videos of three labels in three splits, in a folder with a table."""
    folder.mkdir(exist_ok=True)
    rows = ["file,label,split"]
    for split, labels in (
        ("train", ("cello", "flute", "tuba")),
        *((s, ("cello", "tuba")) for s in ("validation", "test")),
    ):
        for label in labels:
            name = f"{label}-{split}"
            demo.fetch(Entry(name, split, (label,), "demo"), demo.Options(duration=2.0), folder / f"{name}.mp4")
            rows.append(f"{name}.mp4,{label},{split}")
    (folder / "table.csv").write_text("\n".join(rows))
    return folder


def of_videos(folder: Path, videos: Path) -> Path:
    """A project of the seven videos, whose stages take as little time as they can."""
    tree = toy.params(
        datasets__demo__clips__source="folder", datasets__demo__clips__min_success=0.1,
        datasets__demo__clips__options={"path": str(videos), "table": str(videos / "table.csv")},
        scales__demo__captions__steps=5, scales__demo__mixtures__validation=1, scales__demo__mixtures__test=1,
        scales__demo__train__steps=2, scales__demo__train__validate_every=1, scales__demo__evaluate__examples=1,
        runtime__executor="inline", runtime__min_free_gb=0,
    )  # fmt: skip
    return toy.project(folder, tree)


@pytest.mark.slow
def test_every_stage_goes_on_after_a_kill_and_says_that_the_disk_is_full(tmp_path: Path):
    """Killed midway through the changes that it makes to files; each of two disks has half the room that it needs."""
    of_videos(tmp_path / "project", draw(tmp_path / "videos"))
    found = apart("each", tmp_path, PRIVATE if MOUNTS else (), stages=STAGES, like=LIKE, disks=MOUNTS)
    assert "\n".join(one["faults"] for one in found.values()).strip() == ""
    assert all(one["killed"] == (stage not in LIKE) for stage, one in found.items())
    assert all(one["full"] or stage in LIKE or not MOUNTS for stage, one in found.items())
    assert found["train"]["torn"] == 2, "states that a killed training left"


@pytest.mark.slow
def test_workers_end_with_their_stage(tmp_path: Path, undisturbed: dict[str, bytes]):
    folder = project(tmp_path / "project", CLIPS, held="efgh", executor="processes", workers=2)
    with started(folder) as process:
        assert wait(lambda: len(kept(tmp_path)) >= 2 and {*named(folder / crashes.MADE)} & {*"efgh"})
        process.kill()
        process.wait()
        (folder / crashes.HELD).unlink()
        assert wait(lambda: not members(process.pid)), "orphans"
    finished = len(kept(tmp_path))
    assert 2 <= finished < len(CLIPS)
    worked(folder)
    assert f"({finished} cached)" in finishes(folder)
    assert worked(folder).total() == len(CLIPS) - finished
    assert made(folder) == undisturbed


@pytest.mark.slow
def test_the_processes_of_scoring_end_with_it(tmp_path: Path):
    noise = "numpy.random.default_rng(0).normal(size=(2, 9000))"
    (tmp_path / "scoring.py").write_text(
        "import numpy\nfrom avset.evaluation import scores\n"
        f"if __name__ == '__main__':\n    scores.score([({noise}, {noise})] * 4000, workers=2)\n"
    )
    with started(tmp_path, "scoring") as process:
        assert wait(lambda: len(psutil.Process(process.pid).children()) == 3), "two, and one that tracks them"
        process.kill()
        process.wait()
        assert wait(lambda: not members(process.pid)), "orphans"


@pytest.mark.slow
def test_what_the_machine_kills_is_no_clips_fault(tmp_path: Path, undisturbed: dict[str, bytes]):
    """As a kernel without memory does: one worker, once."""
    folder = project(tmp_path / "project", CLIPS, held="abcdefgh", executor="processes", workers=2)
    with started(folder) as process:
        assert wait((folder / crashes.MADE).exists)
        children = psutil.Process(process.pid).children()
        next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
        (folder / crashes.HELD).unlink()
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "failed: none" in said.splitlines()[-1], said
    assert made(folder) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("worth", [1, 50])
def test_a_clip_that_kills_its_worker_twice_is_named_and_the_rest_goes_on(
    tmp_path: Path, undisturbed: dict[str, bytes], worth: int
):
    """With so few clips that a process is not worth its start the stage is the worker: it dies the first time, and
    knows the next time."""
    folder = project(tmp_path / "project", CLIPS, worth=worth, executor="processes", workers=2)
    (folder / crashes.POISON).write_text("c")
    if worth > 1:
        with started(folder) as process:
            assert process.wait(300) == -signal.SIGABRT
    finishes(folder)
    assert worked(folder)["c"] == 2
    finishes(folder)
    assert 1 <= worked(folder).pop("c") <= 2
    rows = Store(folder / "data" / "demo" / "demo" / "toy").rows
    assert {clip: row["reason"] for clip, row in rows.items() if row["reason"]} == {"c": "worker_died"}
    (folder / crashes.POISON).unlink()
    finishes(folder)
    assert worked(folder) == {"c": 1}
    assert made(folder) == undisturbed


def repository(root: Path, **options: Any) -> Path:
    """The small stage in a DVC repository."""
    folder = project(root / "project", CLIPS, **options)
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=folder, env=environment(root), check=True
    )
    own = (toy.ROOT / ".dvc" / "config").read_text()
    (folder / ".dvc" / "config").write_text(own.replace("[core]", "[core]\n    no_scm = true"))
    return folder


@pytest.mark.slow
def test_dvc_goes_on_wherever_it_was_killed(tmp_path: Path):
    """With its stage: files of locks, hashes and runs that DVC left block nothing, at some of its moments."""
    repository(tmp_path)
    found = apart("killed", tmp_path, stage="dvc", most=2)
    assert found["faults"] == ""
    assert found["times"] == 2


@pytest.mark.slow
def test_a_stage_that_outlives_its_dvc_is_named_and_two_are_told_apart(tmp_path: Path, undisturbed: dict[str, bytes]):
    folder = repository(tmp_path, held="h")
    repro = ("dvc", "repro")
    with started(folder, *repro) as first:
        assert wait((folder / crashes.MADE).exists)
        with started(folder, *repro) as second:
            assert "is busy" in second.communicate(timeout=300)[0]
        assert second.returncode != 0
        first.kill()
        first.wait()
        with started(folder, *repro) as third:
            said = third.communicate(timeout=300)[0]
        assert third.returncode != 0 and "another process is making data/demo/demo/toy; wait for it" in said
        (folder / crashes.HELD).unlink()
        assert wait(lambda: not members(first.pid)) and made(folder)
    with started(folder, *repro) as last:
        said = last.communicate(timeout=300)[0]
    assert last.returncode == 0, said
    assert worked(folder) == dict.fromkeys(CLIPS, 1)
    assert made(folder) == undisturbed


@pytest.mark.slow
def test_two_at_once(tmp_path: Path, undisturbed: dict[str, bytes]):
    """In one workspace the second is refused by name; two workspaces fill one cache together."""
    folder, other = (
        project(tmp_path / name, CLIPS, held="e", executor="processes", workers=2) for name in ("project", "other")
    )
    with started(folder) as first, started(other) as beside:
        assert wait(lambda: (folder / crashes.MADE).exists() and (other / crashes.MADE).exists())
        with started(folder) as second:
            said = second.communicate(timeout=300)[0]
        assert second.returncode == 1
        assert said.strip() == "error: another process is making data/demo/demo/toy; wait for it, or end it"
        for place in (folder, other):
            (place / crashes.HELD).unlink()
        outcomes = [process.communicate(timeout=300)[0] for process in (first, beside)]
    assert [first.returncode, beside.returncode] == [0, 0], outcomes
    assert made(folder) == made(other) == undisturbed


@mounting
@pytest.mark.slow
@pytest.mark.parametrize("place", ["cache", "project/data"])
def test_a_disk_that_is_full_at_any_byte(tmp_path: Path, place: str):
    project(tmp_path / "project", {name: CLIPS[name] for name in "abe"})
    found = apart("full", tmp_path, PRIVATE, place=place)
    assert found["faults"] == ""
    assert found["times"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["failing", "limited"])
def test_a_disk_that_refuses(tmp_path: Path, how: str):
    """Each call that makes something; or each size of file. This needs no rights."""
    project(tmp_path / "project", {name: CLIPS[name] for name in "be"})
    found = apart(how, tmp_path)
    assert found["faults"] == ""
    assert found["times"] > 4


@mounting
@pytest.mark.slow
def test_a_cache_that_can_only_be_read(tmp_path: Path):
    """A colleague's: it is enough where all is there, and else that is said."""
    project(tmp_path / "project", {name: CLIPS[name] for name in "abe"})
    found = apart("read_only", tmp_path, PRIVATE)
    assert found["faults"] == ""
    assert found["codes"] == {"nothing": 0, "the store": 0, "the shards": 0, "an item": 1, "bytes of an item": 1}


def damage(path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spoil a file."""
    data = bytearray(path.read_bytes())
    kind, _, at = how.partition(" ")
    if kind == "cut":
        del data[int(at) :]
    elif kind == "flip":
        data[int(float(at) * len(data))] ^= 4
    path.unlink()
    if kind == "folder":
        (path / "inside").mkdir(parents=True)
    elif kind == "nonsense":
        with monkeypatch.context() as patch:
            patch.setattr(Item, "dump", lambda _: b"no item at all, but with a digest")
            ItemCache().put(path.parent.name + path.name, Item())
    else:
        path.write_bytes(data)
    if kind == "locked":
        path.chmod(0)


DAMAGES = [
    *(f"cut {n}" for n in (0, 1, 10, 31, 32, 40, 200)),
    *(f"flip {x / 8}" for x in range(8)),
    "nonsense",
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_item_is_made_again(small: Path, how: str, monkeypatch: pytest.MonkeyPatch):
    whole = made(small)
    first = min(ItemCache().root.glob("items/*/*"))
    found = ItemCache().get(first.parent.name + first.name)
    assert found
    damage(first, how, monkeypatch)
    assert again(small) == {"abcdefgh"[found[0].fields["number"]]: 1}
    assert made(small) == whole
    assert again(small) == {}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("folder", "directory; "),
        pytest.param("locked", "denied; ", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read it")),
    ],
)
def test_what_is_there_and_cannot_be_read_is_named(small: Path, how: str, said: str, monkeypatch: pytest.MonkeyPatch):
    whole, first = made(small), min(ItemCache().root.glob("items/*/*"))
    damage(first, how, monkeypatch)
    with pytest.raises(AvsetError, match=f"{first}.*{said}"):
        again(small)
    shutil.rmtree(first) if first.is_dir() else first.unlink()
    assert again(small).total() == 1
    assert made(small) == whole


@pytest.mark.parametrize("items", [True, False])
@pytest.mark.parametrize("suffix", [".h5", ".rows"])
def test_a_damaged_shard_of_the_cache_is_made_again(
    small: Path, suffix: str, items: bool, monkeypatch: pytest.MonkeyPatch
):
    """From its items if they are there."""
    whole, rows = made(small), Store(small / "data" / "demo" / "demo" / "toy").rows
    for how in DAMAGES[:-1]:
        shutil.rmtree(small / "data" / "demo" / "demo" / "toy")
        if not items:
            shutil.rmtree(ItemCache().root / "items", ignore_errors=True)
        shard = min(ItemCache().root.glob(f"shards/toy/*/*{suffix}"))
        damage(shard, how, monkeypatch)
        worked(small)
        crashes.main()
        lost = {} if items else {clip: 1 for clip, row in rows.items() if row["shard"] == shard.parent.name}
        assert made(small) == whole, how
        assert worked(small) <= Counter(lost), how

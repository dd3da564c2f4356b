"""A small stage to be disturbed, and how to disturb one: kill it whenever files change, or take away its disk.

`python -m crashes` is the stage: it draws arrays by the numbers in clips.yaml into data/demo/demo/toy, and does what
every stage does. A `Trial` forks, so it is for a process of its own: see `apart`.
"""

import ctypes
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import toy
import yaml

import stages
from avset import params
from avset.compute import run as parallel
from avset.compute.build import build
from avset.compute.identity import RECIPES, code_digest
from avset.compute.run import Job
from avset.storage.artifacts import ARTIFACTS, Artifact
from avset.storage.cache import ItemCache
from avset.storage.files import write_json
from avset.storage.items import Item

FRAMES = ARTIFACTS["frames"]
TOY = Artifact("toy", "toy", (), {"x": ("T", "D"), "y": ("L",)}, files=FRAMES.files, identity=FRAMES.identity)
CHANGES = {"open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.utime"}
MAKING = {"open", "os.link", "os.mkdir", "os.rename", "os.symlink"}  # those of them that need room
OURS = (
    "pipeline/avset/storage/shards.py",
    "pipeline/avset/storage/files.py",
    "pipeline/avset/compute/build.py",
)  # code in which a kill comes at any line
MADE = Path("made")  # the clips that were worked on, a line each
POISON, HELD = Path("poison"), Path("held")  # clips that end their process; that wait until the file is gone
LONGEST = 300  # s that a disturbed run, or the next one, may take
DISK, PAGE = 64 * 2**20, 4096  # bytes
CALL = (
    "import importlib, json, sys; (module, name), given = json.load(sys.stdin); "
    "print(json.dumps(getattr(importlib.import_module(module), name)(**given)))"
)


class Draw:
    """Mapper: arrays drawn by a number."""

    def __call__(self, jobs: list[Job]) -> list[Item]:
        return [self.item(job.clip_id, **job.payload) for job in jobs]

    def item(self, clip: str, digest: int) -> Item:
        """Two arrays and a field; see MADE, POISON and HELD."""
        with MADE.open("a") as f:
            f.write(f"{clip}\n")
        if clip in named(POISON):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.abort()
        while clip in named(HELD):
            time.sleep(0.02)
        rng = np.random.default_rng(digest)
        return Item({"x": rng.normal(size=(40, 30)), "y": rng.integers(-9, 9, 70)}, {"number": digest})


def named(path: Path) -> list[str]:
    """The clips that a file names; none if it is not there."""
    with suppress(FileNotFoundError):
        return path.read_text().split()
    return []


@cache
def settings(folder: Path) -> params.Params:
    """The parameters of a project, read once in a process: they take longer than the small stage."""
    return params.load(folder / "params.yaml")


def main() -> None:
    """Draw the arrays of every clip."""
    told = yaml.safe_load(Path("clips.yaml").read_text())
    parallel.WORTH_A_PROCESS, p = told["worth"], settings(Path.cwd())
    clips: dict[str, Any] = {name: {"digest": number} for name, number in told["clips"].items()}
    ARTIFACTS["toy"] = TOY
    build("toy", p, clips, Draw, {})


def project(folder: Path, clips: dict[str, int], worth: int = 1, held: str = "", **runtime: Any) -> Path:
    """A folder in which the small stage runs; `worth` is parallel.WORTH_A_PROCESS, `held` are the clips in HELD."""
    tree = toy.params(datasets__demo__clips__min_success=0.5)
    tree["runtime"] |= {"executor": "inline", "min_free_gb": 0, **runtime}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pipeline").exists():  # params.yaml names the files of its methods
        (folder / "pipeline").symlink_to(toy.ROOT / "pipeline")
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    (folder / "clips.yaml").write_text(yaml.safe_dump({"clips": clips, "worth": worth}))
    (folder / HELD).write_text(" ".join(held))
    stage = {"cmd": "python -m crashes", "deps": ["clips.yaml"], "outs": ["data/demo/demo/toy"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": stage}}))
    code = code_digest([])
    write_json(folder / RECIPES, {"toy": {"version": 1, "born": code, "code": code}})
    return folder


def environment(root: Path) -> dict[str, str]:
    """That of the processes of a trial in `root`: its item cache, our modules."""
    paths = os.pathsep.join(map(str, (toy.ROOT / "tests", toy.ROOT / "pipeline", toy.ROOT)))
    told = {"AVSET_CACHE": str(root / "cache"), "PYTHONPATH": paths, "DVC_NO_ANALYTICS": "1"}
    told |= {"DVC_SITE_CACHE_DIR": str(root / "project" / "site")}
    return {**os.environ, **told, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def apart(name: str, root: Path, within: Sequence[str] = (), module: str = "crashes", **given: Any) -> Any:
    """A function of this module or another, called in a process of its own; `within` is a command that starts it."""
    done = subprocess.run(
        [*within, sys.executable, "-c", CALL], input=json.dumps([[module, name], {"root": str(root), **given}]),
        env=environment(root), cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


class Trial:
    """A stage in `root`/project, with the item cache `root`/cache: what a disturbed run leaves to the next one.

    Making one runs the stage once, undisturbed. `faults` are what was wrong after a disturbance; there should be none.
    """

    def __init__(
        self,
        root: Path,
        stage: str = "toy",
        arguments: Sequence[str] = (),
        artifact: str = "demo/toy",
        lines: tuple[str, ...] = (),
    ):
        self.project, self.cache, self.before, self.said = (root / n for n in ("project", "cache", "before", "said"))
        self.stage, self.arguments, self.artifact = stage, arguments, self.project / "data" / "demo" / artifact
        self.lines = lines
        self.faults: list[str] = []
        self.folders = {self.cache: self.before / "cache", self.project: self.before / "project"}
        os.chdir(self.project)
        settings(Path.cwd())
        if stage in (*toy.STAGES, "train", "evaluate", "report"):
            import_module(f"stages.{stage}")
        shutil.rmtree(self.before, ignore_errors=True)
        for folder, kept in self.folders.items():
            folder.mkdir(exist_ok=True)
            shutil.copytree(folder, kept, symlinks=True)
        self.good = [self.digest()]
        assert self.forked(self.watch) == 0, self.said.read_text()
        self.good.append(self.digest())
        for module in (root / "modules").read_text().split():  # so that the next processes have them from this one
            with suppress(Exception):
                import_module(module)

    def run(self) -> None:
        """The stage as a command, in this process; `dvc` is a stage too."""
        sys.argv = [self.stage, *self.arguments]
        if self.stage == "dvc":
            from dvc.cli import main as dvc

            for begun in Path(".dvc/cache/runs").glob("*/*"):  # DVC noted a run and wrote nothing: it stops at that
                with suppress(OSError):
                    begun.rmdir()
            sys.exit(dvc(["repro"]))
        stages.command(main if self.stage == "toy" else import_module(f"stages.{self.stage}").main)

    def digest(self) -> dict[str, str]:
        """What the stage has made: names and digests of files."""
        found = sorted(path for path in self.artifact.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def restore(self) -> None:
        """All files as they were before the first run."""
        for folder, kept in self.folders.items():
            clear(folder)
            shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)

    def forked(self, prepare: Callable[[], Any]) -> int:
        """Run in a process of its own; its exit code, or minus the signal that ended it. What it says is in `said`."""
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        code: Any = 70
        signal.alarm(LONGEST)
        try:
            with self.said.open("w") as f:
                os.dup2(f.fileno(), 1)
                os.dup2(f.fileno(), 2)
            prepare()
            self.run()
        except SystemExit as e:
            code = e.code or 0
        except BaseException:
            traceback.print_exc()
        with suppress(OSError):
            self.said.with_name("modules").write_text("\n".join(sys.modules))
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            ctypes.CDLL(None).exit(code)  # libraries in C close what they have open
        os._exit(70)

    def files(self) -> list[tuple[str, int]]:
        """The names and sizes of all files, folders too."""
        try:
            paths = [path for folder in self.folders for path in sorted(folder.rglob("*"))]
            return [(str(path), path.lstat().st_size) for path in paths]
        except FileNotFoundError:  # gone meanwhile, by another thread
            return []

    def watch(self) -> None:
        """Note the numbers of the moments at which the files differ from the moment before, see `at_moments`."""
        last, changed, looking = self.files(), list[int](), threading.Lock()

        def visit(number: int) -> None:
            nonlocal last
            if looking.acquire(blocking=False):
                if (now := self.files()) != last:
                    changed.append(number)
                    last = now
                    self.said.with_name("moments").write_text(json.dumps(changed))
                looking.release()

        at_moments(visit, self.lines)

    def kill(self, most: int) -> int:
        """Kill the stage at its moments, or evenly at `most` of them, and `recover`. Returns how often."""
        moments = json.loads(self.said.with_name("moments").read_text())
        times = min(most, len(moments))
        for moment in (moments[(2 * i + 1) * len(moments) // (2 * times)] for i in range(times)):
            self.restore()
            self.killed_at(moment)
            self.recover(f"killed at moment {moment} of {moments[-1]}")
        return times

    def killed_at(self, moment: int | str) -> None:
        """Run until a moment, see `watch`, or until the cache has a file of such a name."""

        def visit(number: int) -> None:
            if number == moment or (isinstance(moment, str) and list(self.cache.glob(moment))):
                os.kill(os.getpid(), signal.SIGKILL)

        if (code := self.forked(lambda: at_moments(visit, self.lines))) != -signal.SIGKILL:
            self.fault(f"moment {moment}: not killed, but {code}")

    def starve(self, prepare: Callable[[], Any], what: str) -> bool:
        """Run where something cannot be written: whether the stage could not go on, and said so in one sentence."""
        code = self.forked(prepare)
        said = self.said.read_text()
        if code == 0 and self.digest() != self.good[1]:
            self.fault(f"{what}: it went on to other bytes")
        if code and (code != 1 or "Traceback" in said or said.count("error: ") != 1 or ";" not in said):
            self.fault(f"{what}: exit {code}, no sentence with a cure")
        return code != 0

    def recover(self, what: str, torn_items: bool = False) -> None:
        """Nothing that is there is half; the next run finishes, does nothing twice, and gives the same bytes.

        With `torn_items`, items that say of themselves that they are half are no fault.
        """
        if self.digest() not in [{}, *self.good]:
            self.fault(f"{what}: {self.artifact.name} is half there")
        finished = {path: path.stat().st_mtime_ns for path in self.cache.glob("**/items/??/[!.]*")}
        torn = {path for path in finished if not ItemCache(path.parents[2]).get(path.parent.name + path.name)}
        if torn and not torn_items:
            self.fault(f"{what}: half there is {torn}")
        finished = {path: then for path, then in finished.items() if path not in torn}
        if code := self.forked(lambda: None):
            return self.fault(f"{what}: the next run ends with {code}")
        if self.digest() != self.good[1]:
            self.fault(f"{what}: the next run gives other bytes")
        if any(not path.exists() or path.stat().st_mtime_ns != then for path, then in finished.items()):
            self.fault(f"{what}: the next run computes what was finished")
        if left := [*self.artifact.parent.glob(".*.new"), *self.artifact.parent.glob(".*.old")]:
            self.fault(f"{what}: it leaves {left}")

    def fault(self, what: str) -> None:
        """Note a fault, with the last that the stage said."""
        self.faults.append(f"{self.stage}: {what}: {' '.join(self.said.read_text().split())[-300:]}")


def clear(folder: Path) -> None:
    """Remove all in a folder but disks."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            clear(path)
            if not path.is_mount():
                path.rmdir()


def at_moments(visit: Callable[[int], None], lines: tuple[str, ...], changes: set[str] = CHANGES) -> None:
    """From now on call `visit` before whatever changes files here, and at each line of the source files `lines`.

    It gets the number of the moment. What it does itself is no moment.
    """
    numbers, inside, folder = count(1), threading.local(), str(Path.cwd().parent)

    def moment() -> None:
        if not getattr(inside, "visit", False):
            inside.visit = True
            visit(next(numbers))
            inside.visit = False

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in changes or (event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        if isinstance(arguments[0], str | os.PathLike) and str(Path(folder, arguments[0])).startswith(folder):
            moment()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            moment()
        return trace if frame.f_code.co_filename.endswith(lines) else None

    sys.addaudithook(audit)
    if lines:
        sys.settrace(trace)


def killed(root: str, most: int = 10**6, everywhere: bool = False, **stage: Any) -> dict[str, Any]:
    """Kill a stage at moments, with `everywhere` also between the lines of OURS; leaves it done."""
    trial = Trial(Path(root), **stage, lines=OURS if everywhere else ())
    return {"times": trial.kill(most), "faults": "\n".join(trial.faults)}


def failing(root: str) -> dict[str, Any]:
    """Refuse each call of the small stage that makes a file, a folder, or a name, as a full disk does."""
    trial, times = Trial(Path(root)), 0
    hit = trial.said.with_name("hit")
    for moment in count(1):

        def visit(number: int, moment: int = moment) -> None:
            if number == moment:
                hit.touch()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        trial.restore()
        times += trial.starve(partial(at_moments, visit, (), MAKING), f"full at moment {moment}")
        if not hit.exists():
            break
        hit.unlink()
        trial.recover(f"full at moment {moment}")
    return {"times": times, "faults": "\n".join(trial.faults)}


def limited(root: str) -> dict[str, Any]:
    """Let no file of the small stage become as large as it should, for every size that one has."""
    trial = Trial(Path(root))
    sizes = {path.stat().st_size for folder in (trial.cache, trial.artifact) for path in folder.rglob("*.*")}
    sizes |= {path.stat().st_size for path in trial.cache.glob("items/*/*")}
    for size in sorted(sizes):
        trial.restore()
        limits = (size - 1, resource.RLIM_INFINITY)
        if not trial.starve(partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits), f"{size} bytes"):
            trial.fault(f"{size} bytes: it never was refused")
        trial.recover(f"{size} bytes")
    return {"times": len(sizes), "faults": "\n".join(trial.faults)}


def mount(disk: Path) -> None:
    """Make a folder a small disk of its own, with the same files."""
    disk.mkdir(parents=True, exist_ok=True)
    before = shutil.copytree(disk, disk.with_name(f"{disk.name} before"), symlinks=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", disk], check=True)
    shutil.copytree(before, disk, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(before)


def free(disk: Path) -> int:
    """Bytes that are free on a disk."""
    return os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize


def full_at(trial: Trial, disk: Path, room: int) -> bool:
    """Run a stage with so many bytes free on a disk: whether there were too few; then make room and `recover`."""
    trial.restore()
    ballast, what = disk / "ballast", f"{room} bytes free in {disk.name}"
    with ballast.open("wb") as f:
        os.posix_fallocate(f.fileno(), 0, free(disk) - room)
    refused = trial.starve(lambda: None, what)
    ballast.unlink()
    trial.recover(what)
    return refused


def full(root: str, place: str) -> dict[str, Any]:
    """Run the small stage with ever more room in the folder `place` of `root`, until there is enough."""
    disk, times = Path(root) / place, 0
    mount(disk)
    trial = Trial(Path(root))
    while full_at(trial, disk, times * PAGE):
        times += 1
    return {"times": times, "faults": "\n".join(trial.faults)}


def each(root: str, stages: dict[str, Any], like: Sequence[str], disks: bool) -> dict[str, Any]:
    """Disturb one stage after the other; those in `like` are only run, as others that are built like them are not.

    Kill it once; damage the states of a killed training; with `disks` give it half the room that it needs in the
    cache, and in the workspace. How often each of these was done.
    """
    found, places = {}, tuple(Path(root) / name for name in ("cache", "project/data", "project/reports"))
    for disk in places if disks else ():
        mount(disk)
    for name, given in stages.items():
        room = {disk: free(disk) for disk in places if disks}
        trial = Trial(Path(root), name, **given)
        needs = {disk: had - free(disk) for disk, had in room.items()}
        tried = {disk: need // 2 for disk, need in needs.items() if need or name == "train"}  # its state is gone then
        times = {"killed": 0, "torn": 0, "full": 0}
        if name not in like:
            times["killed"] = trial.kill(1)
            times["torn"] = torn(trial) if name == "train" else 0
            times["full"] = sum(full_at(trial, disk, room) for disk, room in tried.items())
        found[name] = {**times, "faults": "\n".join(trial.faults)}
    return found


def read_only(root: str) -> dict[str, Any]:
    """Run the small stage with a cache that cannot be written, where less and less of it is there: exit codes."""
    codes, trial = {}, Trial(Path(root))
    trial = Trial(Path(root))  # now all is done before it begins
    items = sorted(trial.cache.glob("items/*/*"))
    lacks: dict[str, list[Path]] = {"nothing": [], "the store": [trial.artifact]}
    lacks["the shards"] = [trial.artifact, trial.cache / "shards"]
    lacks["an item"] = [*lacks["the shards"], items[0]]
    lacks["bytes of an item"] = lacks["the shards"]
    for what, gone in lacks.items():
        trial.restore()
        for path in gone:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if what == "bytes of an item":
            items[0].write_bytes(items[0].read_bytes()[:-1])
        subprocess.run(["mount", "--bind", trial.cache, trial.cache], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", trial.cache], check=True)
        codes[what] = int(trial.starve(lambda: None, f"a read-only cache without {what}"))
        subprocess.run(["umount", trial.cache], check=True)
        if what != "bytes of an item":
            trial.recover(what)
    return {"codes": codes, "faults": "\n".join(trial.faults)}


def torn(trial: Trial) -> int:
    """Damage the state that a killed training left, in several ways: in how many."""
    times = 0
    for damage in (lambda b: b[: len(b) // 2], lambda b: b[: len(b) // 2] + b"?" + b[len(b) // 2 + 1 :]):
        trial.restore()
        trial.killed_at("runs/[!.]*.pt")
        for path in trial.cache.glob("runs/[!.]*.pt"):
            path.write_bytes(damage(path.read_bytes()))
            times += 1
        trial.recover(f"state {times} is damaged")
    return times


if __name__ == "__main__":
    stages.command(main)

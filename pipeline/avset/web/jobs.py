"""Separations that were asked for: one at a time, in the order in which they came. The others wait."""

import secrets
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from avset.errors import AvsetError

BROKEN = "the separation failed for a reason that is no fault of the file; whoever serves this page sees it"


@dataclass(frozen=True)
class Allowed:
    """What one may ask for, and how long it is kept."""

    megabytes: float = 200.0  # of a file
    minutes: float = 5.0  # of a sound
    queries: int = 6
    letters: int = 200  # of a query
    unfinished: int = 16  # separations, of all who ask
    patience: float = 30.0  # s without a byte of a file that comes
    kept: float = 300.0  # s after somebody asked for it last


class Busy(AvsetError):
    """Too many separations wait."""


@dataclass(eq=False)
class Job:
    """A separation, with a folder of its own. Who knows `key` may see it; nobody can guess it."""

    folder: Path
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = "coming"  # then waiting, running, done or failed
    told: dict[str, Any] = field(default_factory=dict)  # of what is done or failed
    asked: float = field(default_factory=time.monotonic)  # when somebody asked for it last

    @property
    def unfinished(self) -> bool:
        """Whether somebody waits for it."""
        return self.state in ("coming", "waiting", "running")


class Jobs:
    """All separations of a server, and their folders in one temporary folder."""

    def __init__(self, allowed: Allowed):
        self.allowed = allowed
        self._root = Path(tempfile.mkdtemp(prefix="avset-web-"))
        self._worker = ThreadPoolExecutor(1, "separation")
        self._jobs: dict[str, Job] = {}  # in the order in which they came
        self._lock = Lock()

    def open(self) -> Job:
        """A new one, to be filled and started; Busy if too many are unfinished."""
        with self._lock:
            if sum(job.unfinished for job in self._jobs.values()) >= self.allowed.unfinished:
                raise Busy(f"{self.allowed.unfinished} separations are waiting already; try again in a minute")
            job = Job(Path(tempfile.mkdtemp(dir=self._root)))
            self._jobs[job.key] = job
            return job

    def start(self, job: Job, work: Callable[[], dict[str, Any]]) -> None:
        """Do its work when all before it are done. What `work` returns is told; of an AvsetError its text."""
        job.state = "waiting"
        self._worker.submit(self._run, job, work)

    def find(self, key: str) -> Job | None:
        """By its key; None if it is gone."""
        if job := self._jobs.get(key):
            job.asked = time.monotonic()
        return job

    def status(self, job: Job) -> dict[str, Any]:
        """How it stands: its state, of one that waits how many are before it, and what is told of it."""
        if job.state != "waiting":
            return {"state": job.state, **job.told}
        with self._lock:
            earlier = list(self._jobs.values())
        before = earlier[: earlier.index(job)] if job in earlier else []
        return {"state": "waiting", "before": sum(other.state in ("waiting", "running") for other in before)}

    def remove(self, job: Job) -> None:
        """Forget it, and remove its files. One that runs goes on to its end, and leaves nothing."""
        with self._lock:
            self._remove(job)

    def sweep(self) -> None:
        """Forget those that nobody has asked for since long, and remove their files."""
        old = time.monotonic() - self.allowed.kept
        with self._lock:
            for job in [
                job for job in self._jobs.values() if job.asked < old and job.state not in ("coming", "running")
            ]:
                self._remove(job)

    def close(self) -> None:
        """Let what runs end, and remove all files."""
        self._worker.shutdown(cancel_futures=True)
        shutil.rmtree(self._root, ignore_errors=True)

    def _run(self, job: Job, work: Callable[[], dict[str, Any]]) -> None:
        if job.key not in self._jobs:
            return
        job.state = "running"
        try:
            job.told, state = work(), "done"
        except AvsetError as e:
            job.told, state = {"error": str(e)}, "failed"
        except Exception:
            traceback.print_exc()
            job.told, state = {"error": BROKEN}, "failed"
        job.asked, job.state = time.monotonic(), state
        with self._lock:
            if job.key not in self._jobs:
                shutil.rmtree(job.folder, ignore_errors=True)

    def _remove(self, job: Job) -> None:
        self._jobs.pop(job.key, None)
        shutil.rmtree(job.folder, ignore_errors=True)

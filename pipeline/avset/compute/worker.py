"""A worker makes the items of its jobs. While it computes one batch, it reads the next one and keeps the last one.

A mapper is made once per worker and maps a list of jobs to a list of items of the same length. If the mapper has a
method `read`, it maps what `read` makes of the jobs instead. Only jobs travel to a worker and only receipts come back:
the worker itself writes items to the cache.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avset.errors import AvsetError, ClipError
from avset.storage.cache import ItemCache
from avset.storage.files import FULL, writing
from avset.storage.items import Item
from avset.storage.reading import told


@dataclass(frozen=True)
class Job:
    """One clip's work: `key` names the result in the cache, `payload` is small and picklable."""

    clip_id: str
    key: str
    payload: dict[str, Any] = field(default_factory=dict)
    input: str = ""  # digest of what the item is made of


Mapper = Callable[[Any], list[Item]]  # of jobs, or of what its method `read` made of them
Factory = Callable[[], Mapper]  # is called once in each worker, so it is picklable
Receipts = list[tuple[str, str, str]]  # clip_id, reason (empty: ok), detail


class Died(Exception):
    """A worker is gone with the jobs that it held. If its whole machine is gone, no clip is to blame."""

    def __init__(self, how: str, machine: bool = False):
        super().__init__(how)
        self.machine = machine


class Worker:
    """A mapper, and the cache that it writes to.

    One thread computes: the number of threads changes the last bits of a sum, and threads wait for one another in
    small operations. Several cores are for several workers.
    """

    def __init__(self, factory: Factory, time_limit: float = 0.0):
        self.mapper, self.cache, self.time_limit = factory(), ItemCache(), time_limit
        self.read: Any = getattr(self.mapper, "read", None)
        self.reader, self.writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.ahead: tuple[list[Job], Future[Any] | None] = ([], None)
        self.keeping: Future[Receipts] | None = None
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.reader.shutdown(wait=False, cancel_futures=True)
        self.writer.shutdown()

    def step(self, jobs: list[Job]) -> Receipts:
        """Begin to read `jobs`, and compute those of the step before. Returns the receipts of the jobs computed last.

        A mapper without `read` computes `jobs` at once. A step without jobs moves the earlier ones on.
        """
        batch, loading = jobs, None
        if self.read:
            (batch, loading), self.ahead = self.ahead, (jobs, self.reader.submit(self.read, jobs) if jobs else None)
        try:
            items = self.attempt(batch, loading) if batch else []
        finally:
            receipts = self.keeping.result() if self.keeping else []
            self.keeping = None
        if batch:
            self.keeping = self.writer.submit(self.keep, batch, items)
        return receipts

    def keep(self, jobs: list[Job], items: list[Item]) -> Receipts:
        """Write items to the cache."""
        receipts = []
        for job, item in zip(jobs, items, strict=True):
            self.cache.put(job.key, item, job.input)
            receipts.append((job.clip_id, item.reason, item.detail))
        return receipts

    def attempt(self, jobs: list[Job], loading: Future[Any] | None = None) -> list[Item]:
        """The items of some jobs, made all at once. If that fails, each is made alone: an error is of one clip."""
        try:
            with deadline(self.time_limit * len(jobs)):
                items = self.mapper(self.load(jobs, loading) if self.read else jobs)
        except ClipError as e:
            items = [Item.failed(e)] if len(jobs) == 1 else []
        except AvsetError:  # no clip is to blame, but a full disk or a missing package
            raise
        except Exception as e:  # a bug, or a fault of the machine: the next run tries again
            if isinstance(e, OSError) and e.errno in FULL:
                with writing(Path(e.filename or self.cache.root)):
                    raise
            reason = "system" if isinstance(e, OSError | MemoryError) and told(e) else "error"
            items = [Item(reason=reason, detail=f"{type(e).__name__}: {e}")] if len(jobs) == 1 else []
        return items or [item for job in jobs for item in self.attempt([job])]

    def load(self, jobs: list[Job], loading: Future[Any] | None) -> Any:
        """What `read` makes of some jobs. If its thread hangs, the next jobs get a new thread."""
        if loading is None or loading.cancelled():
            loading = self.reader.submit(self.read, jobs)
        try:
            return loading.result()
        finally:
            if not loading.done():
                self.reader.shutdown(wait=False, cancel_futures=True)
                self.reader = ThreadPoolExecutor(1)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise ClipError("timeout") in the block after so many seconds; 0: never.

    The error interrupts Python code and waiting, but no single call into C. Only a main thread gets signals, and only
    where the system has timers (not on Windows): elsewhere the block may take as long as it likes.
    """
    main = threading.current_thread() is threading.main_thread()
    if not seconds or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_: Any) -> None:
        raise ClipError("timeout", f"longer than {seconds:g} s, see runtime.time_limit")

    start, handler = time.monotonic(), signal.signal(signal.SIGALRM, late)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, if some code swallows the first error
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), every)


def start_worker(factory: Factory, time_limit: float) -> Worker:
    """A worker in another process than its crew; AvsetError if its mapper cannot be made."""
    try:
        return Worker(factory, time_limit)
    except AvsetError:
        raise
    except Exception as e:
        raise AvsetError(f"the workers cannot start, no clip is to blame: {type(e).__name__}: {e}") from e

"""A worker: makes the items of its jobs, reading the next batch and keeping the last one while it computes.

A mapper is made once per worker and maps a list of jobs to a list of items of the same length. If it has a method
`read`, it maps what that makes of the jobs instead. Only jobs travel to a worker and only receipts come back: the
worker itself writes items to the cache.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process, resource_tracker
from pathlib import Path
from typing import Any

from pipeline.errors import AvsetError, ClipError
from pipeline.store import FULL, Item, ItemCache, writing

GRACE = 3.0  # s that a process has to clean up when it is told to go


@dataclass(frozen=True)
class Job:
    """One clip's work: `key` names the result in the cache, `payload` is small and picklable."""

    clip_id: str
    key: str
    payload: dict[str, Any] = field(default_factory=dict)


Mapper = Callable[[Any], list[Item]]  # of jobs, or of what its method `read` made of them
Receipts = list[tuple[str, str, str]]  # clip_id, reason (empty: ok), detail


class Died(Exception):
    """A worker is gone with what it held. If its whole machine is gone, no clip is to blame."""

    def __init__(self, how: str, machine: bool = False):
        super().__init__(how)
        self.machine = machine


class Worker:
    """A mapper and the cache it writes to. One thread computes: the number of threads changes the last bits of a
    sum, and small operations on many threads wait for one another; several cores are for several workers."""

    def __init__(self, factory: Callable[[], Mapper], time_limit: float = 0.0):
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
        """Begin to read these jobs, compute those of the step before; the receipts of those computed before that.

        What a mapper without `read` gets is computed at once. No jobs: what was taken in before moves on.
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
            self.cache.put(job.key, item)
            receipts.append((job.clip_id, item.reason, item.detail))
        return receipts

    def attempt(self, jobs: list[Job], loading: Future[Any] | None = None) -> list[Item]:
        """The items of some jobs, all at once; if that fails one by one, so that an error finds its clip."""
        try:
            with deadline(self.time_limit * len(jobs)):
                items = self.mapper(self.load(jobs, loading) if self.read else jobs)
        except ClipError as e:
            items = [Item.failed(e)] if len(jobs) == 1 else []
        except AvsetError:  # no clip is to blame: a full disk, a package that is missing
            raise
        except Exception as e:  # a bug, or a fault of the machine: named, kept going, tried again next time
            if isinstance(e, OSError) and e.errno in FULL:
                with writing(Path(e.filename or self.cache.root)):
                    raise
            detail = f"{type(e).__name__}: {e}"
            items = [Item(reason="error", detail=detail)] if len(jobs) == 1 else []
        return items or [item for job in jobs for item in self.attempt([job])]

    def load(self, jobs: list[Job], loading: Future[Any] | None) -> Any:
        """What `read` makes of some jobs. A thread that hangs is left behind: it keeps nobody else waiting."""
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
    """ClipError("timeout") in the block after so many seconds (0: never); in a main thread only, as signals are.

    It interrupts Python and waiting, not a single call into C that never comes back.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise ClipError("timeout", f"longer than {seconds:g} s, see runtime.time_limit")

    start, handler = time.monotonic(), signal.signal(signal.SIGALRM, late)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, should some code swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), every)


def begin(factory: Callable[[], Mapper], time_limit: float) -> Worker:
    """A worker far from whoever wants it; AvsetError if its mapper cannot be made."""
    try:
        return Worker(factory, time_limit)
    except AvsetError:
        raise
    except Exception as e:
        raise AvsetError(f"the workers cannot start, no clip is to blame: {type(e).__name__}: {e}") from e


class Process:
    """A worker in a process of its own, and the way to it: one answer to each message."""

    def __init__(self, factory: Callable[[], Mapper], time_limit: float):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, factory, time_limit), daemon=True)
        resource_tracker.ensure_running()  # else `start` does so, and lets SIGINT through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for us: it inherits this
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def send(self, jobs: list[Job]) -> None:
        """Have the worker make a step; `receive` has its receipts, as it has those of the start: none."""
        with suppress(BrokenPipeError):  # `receive` will say so
            self.pipe.send(jobs)

    def receive(self) -> Receipts:
        """The receipts that the worker answered; Died if it is gone, an AvsetError if it raised one."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise Died(f"its process ended with exit code {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def finish(self) -> None:
        """Let the worker keep what it is computing, and go."""
        with suppress(OSError, EOFError):
            self.pipe.send(None)
            while True:
                self.pipe.recv()


def answered(workers: Iterable[Process]) -> list[Process]:
    """The workers that have an answer, as soon as one has; no order among them."""
    pipes = {worker.pipe: worker for worker in workers}
    return [pipes[pipe] for pipe in connection.wait(list(pipes))]  # type: ignore[index]


def dismiss(workers: Iterable[Process]) -> None:
    """End the processes of workers, busy or not."""
    workers = list(workers)
    for worker in workers:
        worker.process.terminate()
    over = time.monotonic() + GRACE
    for worker in workers:
        worker.process.join(max(over - time.monotonic(), 0))
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def end_with_parent() -> None:
    """End this process at once when the one that started it is gone, even if that was killed."""
    parent = parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _serve(pipe: Any, factory: Callable[[], Mapper], time_limit: float) -> None:
    """The life of a worker's process: steps, until it is told to go or nobody is there any more."""
    end_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through every `finally`
    with suppress(EOFError, OSError):
        try:
            with begin(factory, time_limit) as worker:
                pipe.send([])
                while (jobs := pipe.recv()) is not None:
                    pipe.send(worker.step(jobs))
        except Exception as e:
            pipe.send(e)

"""Fill the item cache: in this process, in several, or by Ray actors; a worker that dies takes no stage with it.

A mapper is made once per worker and maps a list of jobs to a list of items of the same length. Only jobs
travel to a worker and only receipts come back: the worker itself writes items to the cache.
"""

import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from pipeline.errors import AvsetError, ClipError
from pipeline.params import Runtime
from pipeline.store import Item, ItemCache

WORTH = 50  # batches that a process must have to be worth its start
DEATHS = 2  # a clip on which a worker died so often is given up for this run


@dataclass(frozen=True)
class Job:
    """One clip's work: `key` names the result in the cache, `payload` is small and picklable."""

    clip_id: str
    key: str
    payload: dict[str, Any] = field(default_factory=dict)


Mapper = Callable[[list[Job]], list[Item]]
Receipts = list[tuple[str, str, str]]  # clip_id, reason (empty: ok), detail


class Worker:
    """A mapper and the cache it writes to. One thread each: the number of threads changes the last bits of a
    sum, and small operations on many threads wait for one another; several cores are for several workers."""

    def __init__(self, factory: Callable[[], Mapper], time_limit: float = 0.0):
        self.mapper, self.cache, self.time_limit = factory(), ItemCache(), time_limit
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)

    def ready(self) -> bool:
        """Whether the mapper could be made."""
        return True

    def work(self, jobs: list[Job]) -> Receipts:
        """Compute and keep the items of some jobs; an error becomes the item of the job that raised it."""
        receipts = []
        for job, item in zip(jobs, self.attempt(jobs), strict=True):
            self.cache.put(job.key, item)
            receipts.append((job.clip_id, item.reason, item.detail))
        return receipts

    def attempt(self, jobs: list[Job]) -> list[Item]:
        """All jobs at once; if that fails, one by one, so that an error finds its clip."""
        try:
            with deadline(self.time_limit * len(jobs)):
                items = self.mapper(jobs)
        except ClipError as e:
            items = [Item.failed(e)] if len(jobs) == 1 else []
        except AvsetError:  # no clip is to blame: a full disk, a package that is missing
            raise
        except Exception as e:  # a bug, or a fault of the machine: named, kept going, tried again next time
            detail = f"{type(e).__name__}: {e}"
            items = [Item(reason="error", detail=detail)] if len(jobs) == 1 else []
        return items or [item for job in jobs for item in self.attempt([job])]


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


def compute(
    stage: str,
    jobs: Sequence[Job],
    factory: Callable[[], Mapper],
    runtime: Runtime,
    batch_size: int = 1,
    worth: int = 0,
    watch: Callable[[Receipts], None] = lambda receipts: None,
    cached: int = 0,
) -> dict[str, Item]:
    """Put into the cache what it lacks of `jobs`. Returns the failures that the cache does not remember.

    `worth` is how many batches a process needs to be worth its start, where that is not `WORTH`.
    `watch` sees all receipts, and ends the work by raising, as an AvsetError of a mapper does that is no ClipError;
    what is in flight is finished and kept. `cached` counts clips that are done besides these jobs.
    """
    cache = ItemCache()
    pending = [job for job in jobs if job.key not in cache]
    batches = [pending[i : i + batch_size] for i in range(0, len(pending), batch_size)]
    progress = Progress(stage, cached + len(jobs), cached + len(jobs) - len(pending))
    forgotten: dict[str, Item] = {}

    def take(receipts: Receipts) -> None:
        progress.add(receipts)
        for clip, reason, detail in receipts:
            if reason:
                forgotten[clip] = Item(reason=reason, detail=detail)
        watch(receipts)

    if batches and runtime.executor == "ray":
        _by_ray(batches, factory, runtime, take)
    elif runtime.executor == "processes" and min(runtime.workers, len(batches) // (worth or WORTH)) > 1:
        _by_processes(batches, factory, runtime, take)
    elif batches:
        _inline(batches, factory, runtime, take)
    progress.end()
    return forgotten


def _inline(batches: list[list[Job]], factory: Callable, runtime: Runtime, take: Callable) -> None:
    worker = Worker(factory, runtime.time_limit)
    for batch in batches:
        take(worker.work(batch))


_worker: "Worker | None" = None  # of a pool's process


def _begin(factory: Callable[[], Mapper], time_limit: float) -> None:
    global _worker
    _worker = Worker(factory, time_limit)


def _work(batch: list[Job]) -> Receipts:
    assert _worker is not None
    return _worker.work(batch)


def _by_processes(batches: list[list[Job]], factory: Callable, runtime: Runtime, take: Callable) -> None:
    """A pool of processes. When one dies the whole pool is gone, so each job in flight is tried once more alone."""

    def pool(workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, get_context("spawn"), _begin, (factory, runtime.time_limit))

    queue: deque[list[Job]] = deque(batches)
    suspects: list[Job] = []
    while queue:
        flying: dict[Future[Receipts], list[Job]] = {}
        with pool(runtime.workers) as workers:
            try:
                while queue or flying:
                    while queue and len(flying) < 2 * runtime.workers:
                        batch = queue.popleft()
                        flying[workers.submit(_work, batch)] = batch
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        take(future.result())
                        del flying[future]
            except BrokenProcessPool:
                suspects = [job for batch in flying.values() for job in batch]
            except BaseException:
                workers.shutdown(cancel_futures=True)
                raise
        while suspects:
            job = suspects.pop()
            with pool(1) as alone:
                try:
                    take(alone.submit(_work, [job]).result())
                except BrokenProcessPool:
                    take([(job.clip_id, "worker_died", "its process ended twice")])


def _by_ray(batches: list[list[Job]], factory: Callable, runtime: Runtime, take: Callable) -> None:
    """A bounded loop over actors: it knows which batch each one holds, so a death is blamed on the right one."""
    import ray

    if not ray.is_initialized():
        _start_ray(ray, runtime)
    options = {"num_cpus": 1, "num_gpus": runtime.gpus_per_worker, "max_restarts": 0, "max_task_retries": 0}
    actor = ray.remote(Worker).options(**options)
    queue, deaths = deque(batches), Counter[str]()
    flying: dict[Any, tuple[Any, list[Job]]] = {}
    idle: list[Any] = [actor.remote(factory, runtime.time_limit) for _ in range(min(runtime.workers, len(batches)))]
    try:
        ray.get(idle[0].ready.remote())
    except ray.exceptions.RayError as e:
        raise AvsetError(f"the workers cannot start, no clip is to blame: {' '.join(str(e).split())[-300:]}") from e
    try:
        while queue or flying:
            while queue and idle:
                worker, batch = idle.pop(), queue.popleft()
                flying[worker.work.remote(batch)] = (worker, batch)
            (reference,), _ = ray.wait(list(flying), num_returns=1)
            worker, batch = flying.pop(reference)
            try:
                take(ray.get(reference))
                idle.append(worker)
            except ray.exceptions.RayActorError as e:
                idle.append(actor.remote(factory, runtime.time_limit))
                if len(batch) == 1:
                    deaths[batch[0].clip_id] += 1
                if len(batch) == 1 and deaths[batch[0].clip_id] >= DEATHS:
                    take([(batch[0].clip_id, "worker_died", " ".join(str(e).split())[:200])])
                else:  # find the culprit: one by one from now on
                    queue.extend([job] for job in batch)
    finally:
        for worker in [*idle, *(worker for worker, _ in flying.values())]:
            ray.kill(worker)


def _start_ray(ray: Any, runtime: Runtime) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
    else:
        ray.init(num_cpus=runtime.workers, include_dashboard=False, log_to_driver=True)


class Progress:
    """Lines on stderr, at most one in `every` seconds: done, failed, rate, time left."""

    every = 5.0

    def __init__(self, stage: str, total: int, cached: int):
        self.stage, self.total, self.cached, self.done = stage, total, cached, 0
        self.reasons: Counter[str] = Counter()
        self.start = self.last = time.monotonic()

    def add(self, receipts: Receipts) -> None:
        """Count receipts, and say so if it is time."""
        self.done += len(receipts)
        self.reasons.update(reason for _, reason, _ in receipts if reason)
        if time.monotonic() - self.last > self.every:
            self.last = time.monotonic()
            rate = self.done / (self.last - self.start)
            left = (self.total - self.cached - self.done) / rate
            self.say(f"{rate:.1f} clips/s, {left:.0f} s left")

    def end(self) -> None:
        """The last line."""
        self.say(f"{time.monotonic() - self.start:.1f} s")

    def say(self, text: str) -> None:
        """One line of progress."""
        failed = ", ".join(f"{n} {reason}" for reason, n in sorted(self.reasons.items())) or "none"
        counts = f"{self.cached + self.done}/{self.total} clips ({self.cached} cached), failed: {failed}"
        print(f"{self.stage}: {counts}; {text}", file=sys.stderr, flush=True)

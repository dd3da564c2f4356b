"""Fill the item cache: in this process, or by Ray actors that die without taking the stage with them.

A mapper is made once per worker and maps a list of jobs to a list of items of the same length. Only jobs
travel to a worker and only receipts come back: the worker itself writes items to the cache.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import AvsetError, ClipError
from pipeline.params import Runtime
from pipeline.store import Item, ItemCache

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

    def __init__(self, factory: Callable[[], Mapper]):
        self.mapper, self.cache = factory(), ItemCache()
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
            items = self.mapper(jobs)
        except ClipError as e:
            items = [Item.failed(e)] if len(jobs) == 1 else []
        except Exception as e:  # a bug, or a fault of the machine: named, kept going, tried again next time
            detail = f"{type(e).__name__}: {e}"
            items = [Item(reason="error", detail=detail)] if len(jobs) == 1 else []
        return items or [item for job in jobs for item in self.attempt([job])]


def compute(
    stage: str, jobs: Sequence[Job], factory: Callable[[], Mapper], runtime: Runtime, batch_size: int = 1
) -> dict[str, Item]:
    """Put into the cache what it lacks of `jobs`. Returns the failures that the cache does not remember."""
    cache = ItemCache()
    pending = [job for job in jobs if job.key not in cache]
    batches = [pending[i : i + batch_size] for i in range(0, len(pending), batch_size)]
    progress = Progress(stage, len(jobs), len(jobs) - len(pending))
    forgotten: dict[str, Item] = {}

    def take(receipts: Receipts) -> None:
        progress.add(receipts)
        for clip, reason, detail in receipts:
            if reason:
                forgotten[clip] = Item(reason=reason, detail=detail)

    if batches:
        (_by_ray if runtime.executor == "ray" else _inline)(batches, factory, runtime, take)
    progress.end()
    return forgotten


def _inline(batches: list[list[Job]], factory: Callable, runtime: Runtime, take: Callable) -> None:
    worker = Worker(factory)
    for batch in batches:
        take(worker.work(batch))


def _by_ray(batches: list[list[Job]], factory: Callable, runtime: Runtime, take: Callable) -> None:
    """A bounded loop over actors: it knows which batch each one holds, so a death is blamed on the right one."""
    import ray

    if not ray.is_initialized():
        _start_ray(ray, runtime)
    options = {"num_cpus": 1, "num_gpus": runtime.gpus_per_worker, "max_restarts": 0, "max_task_retries": 0}
    actor = ray.remote(Worker).options(**options)
    queue, deaths = deque(batches), Counter[str]()
    flying: dict[Any, tuple[Any, list[Job]]] = {}
    idle: list[Any] = [actor.remote(factory) for _ in range(min(runtime.workers, len(batches)))]
    try:
        ray.get(idle[0].ready.remote())
    except ray.exceptions.RayError as e:
        raise AvsetError(f"the workers cannot start, no clip is to blame: {' '.join(str(e).split())[-300:]}") from e
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
            idle.append(actor.remote(factory))
            if len(batch) == 1:
                deaths[batch[0].clip_id] += 1
            if len(batch) == 1 and deaths[batch[0].clip_id] >= DEATHS:
                take([(batch[0].clip_id, "worker_died", " ".join(str(e).split())[:200])])
            else:  # find the culprit: one by one from now on
                queue.extend([job] for job in batch)
    for worker in idle:
        ray.kill(worker)


def _start_ray(ray: Any, runtime: Runtime) -> None:
    import os

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

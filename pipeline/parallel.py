"""Fill the item cache: in this process, in several, or by Ray actors; a worker that dies takes no stage with it."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from pipeline import params, workers
from pipeline.errors import AvsetError
from pipeline.params import Runtime
from pipeline.store import Item, ItemCache, make_folder
from pipeline.workers import Died, Job, Mapper, Process, Receipts, Worker, deadline

__all__ = ["Job", "Mapper", "Receipts", "Worker", "compute", "deadline"]

WORTH = 50  # batches that a process must have to be worth its start
DEATHS = 2  # a clip that was there when so many workers died, and alone with the last, is given up for this run
IN_A_ROW = 20  # so many deaths with nothing done in between, suspects aside, are the fault of no clip


def compute(
    stage: str,
    jobs: Sequence[Job],
    factory: Callable[[], Mapper],
    runtime: Runtime,
    batch_size: int = 1,
    worth: int = 0,
    watch: Callable[[Receipts], None] | None = None,
    cached: int = 0,
) -> dict[str, Item]:
    """Put into the cache what it lacks of `jobs`. Returns the failures that the cache does not remember.

    `worth` is how many batches a process needs to be worth its start, where that is not `WORTH`.
    `watch` sees all receipts, and ends the work by raising, as an AvsetError of a mapper does that is no ClipError;
    what is in flight is finished and kept. `cached` counts clips that are done besides these jobs.
    """
    cache = ItemCache()
    pending = [job for job in jobs if job.key not in cache]
    note = cache.root / "held" / params.digest([str(Path.cwd()), stage])
    noted = set(note.read_text().split()) if note.exists() and runtime.executor != "ray" else set()
    suspects, pending = [job for job in pending if job.key in noted], [job for job in pending if job.key not in noted]
    batches = (pending[i : i + batch_size] for i in range(0, len(pending), batch_size))
    count = -(-len(pending) // batch_size)
    progress = Progress(stage, cached + len(jobs), cached + len(jobs) - len(pending) - len(suspects))
    forgotten: dict[str, Item] = {}

    def take(receipts: Receipts, workers: int = 1) -> None:
        progress.add(receipts, workers)
        for clip, reason, detail in receipts:
            if reason:
                forgotten[clip] = Item(reason=reason, detail=detail)
        if watch:
            watch(receipts)

    many = runtime.executor == "processes" and min(runtime.workers, count // (worth or WORTH)) > 1
    fill = _by_ray if runtime.executor == "ray" else _by_processes if many else _inline
    if watch and fill is _inline:  # it sees every batch before the next one begins
        batches = (step for batch in batches for step in (batch, []))
    steps = noting(batches, note, noted) if fill is _inline else batches
    try:
        if pending:
            fill(steps, len(pending), min(runtime.workers, count), factory, runtime, take)
        if suspects:
            _apart(suspects, factory, runtime, take)
    except KeyboardInterrupt:
        progress.say("interrupted; what is done is kept, the same command goes on")
        raise
    finally:
        died = {clip for clip, item in forgotten.items() if item.reason == "worker_died"}
        remember(note, [job.key for job in jobs if job.clip_id in died])
    progress.end()
    return forgotten


def noting(batches: Iterable[list[Job]], note: Path, noted: Collection[str]) -> Iterator[list[Job]]:
    """Batches as they are, with a note of those that a worker has in hand: a clip that kills a worker that is this
    process kills the stage, and the next run is to give it to another one."""
    held = deque[list[Job]](maxlen=3)
    for batch in batches:
        held.append(batch)
        remember(note, [*noted, *(job.key for batch in held for job in batch)])
        yield batch


def remember(note: Path, keys: list[str]) -> None:
    """Write down some keys, where that is possible; no file where there is none."""
    with suppress(OSError):
        if keys:
            make_folder(note.parent)
            note.write_text("\n".join(keys))
        else:
            note.unlink(missing_ok=True)


def _inline(batches: Iterator, jobs: int, count: int, factory: Callable, runtime: Runtime, take: Callable) -> None:
    with Worker(factory, runtime.time_limit) as worker:
        for batch in chain(batches, [[], []]):
            take(worker.step(batch))


def _by_processes(
    batches: Iterator, jobs: int, count: int, factory: Callable, runtime: Runtime, take: Callable
) -> None:
    crew = Crew(batches, jobs, lambda: Process(factory, runtime.time_limit), workers.answered, take)
    _at_work(crew, count)


def _apart(suspects: list[Job], factory: Callable, runtime: Runtime, take: Callable) -> None:
    """Jobs that were in hand when a worker died, one by one in a process that may die too."""
    crew = Crew(iter(()), len(suspects), lambda: Process(factory, runtime.time_limit), workers.answered, take)
    crew.suspects.extend(suspects)
    crew.deaths.update(job.clip_id for job in suspects)
    _at_work(crew, 1)


def _at_work(crew: "Crew", count: int) -> None:
    """A crew of processes does its work; none of them is left, however that ends."""
    try:
        crew.work(count)
    finally:
        workers.dismiss(crew.held)


def _by_ray(batches: Iterator, jobs: int, count: int, factory: Callable, runtime: Runtime, take: Callable) -> None:
    from pipeline import actors

    with actors.joined(factory, runtime) as (hire, answered):
        Crew(batches, jobs, hire, answered, take).work(count)


class Distant(Protocol):
    """A worker elsewhere. It has one message at a time, and its start is answered as a step without jobs is."""

    def send(self, jobs: list[Job]) -> None:
        """Have it make a step."""

    def receive(self) -> Receipts | None:
        """What the step gave, None if that is not known yet; Died, or an AvsetError of the mapper."""

    def finish(self) -> None:
        """Let it keep what it is computing."""


class Crew:
    """Workers that share batches, three of them in each at most: one being read, one computed, one kept.

    When a worker dies, the jobs that it held go to a worker alone, one by one, when the rest is done: who kills that
    one too is to blame. What a lost machine held is given out again as it was.
    """

    def __init__(self, batches: Iterator[list[Job]], jobs: int, hire: Callable, answered: Callable, take: Callable):
        self.batches, self.left, self.hire, self.answered, self.take = batches, jobs, hire, answered, take
        self.held: dict[Any, deque[list[Job]]] = {}  # of every worker
        self.busy: set[Any] = set()
        self.begun: set[Any] = set()
        self.again: deque[list[Job]] = deque()
        self.suspects: deque[Job] = deque()
        self.deaths: Counter[str] = Counter()
        self.in_a_row = 0

    def work(self, count: int) -> None:
        """All batches by `count` workers; those that are there go on without those that are not."""
        for _ in range(count):
            self.add()
        try:
            while self.left:
                self.feed()
                for worker in self.answered(self.busy):
                    self.hear(worker)
        except AvsetError:
            self.finish()
            raise
        self.finish()

    def add(self) -> None:
        """One worker more."""
        worker = self.hire()
        self.held[worker] = deque()
        self.busy.add(worker)

    def finish(self) -> None:
        """Wait until all have kept what they are computing."""
        for worker in self.begun:
            worker.finish()

    def feed(self) -> None:
        """A message to every worker that waits for one, if there is something to do."""
        for worker in self.begun - self.busy:
            held = self.held[worker]
            batch = [] if self.alone(held) else self.draw(suspects=not held)
            if batch:
                held.append(batch)
            if held:
                worker.send(batch)
                self.busy.add(worker)

    def alone(self, held: deque[list[Job]]) -> bool:
        """Whether a worker has a suspect to itself."""
        return any(self.deaths[batch[0].clip_id] for batch in held)

    def draw(self, suspects: bool) -> list[Job]:
        """The next batch; none if nothing is left, or suspects only."""
        batch = self.again.popleft() if self.again else next(self.batches, [])
        if not batch and suspects and self.suspects:
            batch = [self.suspects.popleft()]
        return batch

    def hear(self, worker: Any) -> None:
        """What a worker answered."""
        try:
            receipts = worker.receive()
        except Died as death:
            self.lose(worker, death)
            return
        if receipts is None:
            return
        self.busy.remove(worker)
        self.begun.add(worker)
        if receipts:
            self.held[worker].popleft()
            self.in_a_row = 0
            self.done(receipts)

    def done(self, receipts: Receipts) -> None:
        """Count and pass on."""
        self.left -= len(receipts)
        self.take(receipts, len(self.begun))

    def lose(self, worker: Any, death: Died) -> None:
        """A worker is gone: what of its work is not in the cache is to be done again, by another one."""
        lost, started = self.held.pop(worker), worker in self.begun
        self.busy.discard(worker)
        self.begun.discard(worker)
        self.in_a_row += not death.machine and not self.alone(lost)
        if (not started and not self.held) or self.in_a_row >= IN_A_ROW:
            raise AvsetError(f"the workers cannot live, no clip is to blame: {death}")
        if started or death.machine:
            self.add()
        cache = ItemCache()
        for batch in lost:
            rest = []
            for job in batch:
                if found := cache.get(job.key):
                    self.done([(job.clip_id, found[0].reason, found[0].detail)])
                else:
                    rest.append(job)
            self.sort_out(rest, death)

    def sort_out(self, jobs: list[Job], death: Died) -> None:
        """Where the jobs of a lost batch go: out again, to the suspects, or to the end."""
        if jobs and death.machine and not self.deaths[jobs[0].clip_id]:
            self.again.append(jobs)
            return
        for job in jobs:
            self.deaths[job.clip_id] += not death.machine
            if self.deaths[job.clip_id] < DEATHS:
                self.suspects.append(job)
            else:
                self.done([(job.clip_id, "worker_died", f"twice; the last time {death}")])


class Progress:
    """Lines on stderr, at most one in `every` seconds: done, failed, rate of the last minute, time left."""

    every, marks = 5.0, 12

    def __init__(self, stage: str, total: int, cached: int):
        self.stage, self.total, self.cached, self.done = stage, total, cached, 0
        self.reasons: Counter[str] = Counter()
        self.start = time.monotonic()
        self.past: deque[tuple[float, int]] = deque(maxlen=self.marks)  # when, and how many were done

    def add(self, receipts: Receipts, workers: int = 1) -> None:
        """Count receipts, and say so if it is time."""
        self.done += len(receipts)
        self.reasons.update(reason for _, reason, _ in receipts if reason)
        if not self.past and self.done:  # the start of the workers is over
            self.past.append((time.monotonic(), self.done))
        elif self.past and (now := time.monotonic()) - self.past[-1][0] > self.every:
            then, before = self.past[0]
            self.past.append((now, self.done))
            rate = max(self.done - before, 1) / (now - then)
            left = duration((self.total - self.cached - self.done) / rate)
            self.say(f"{rate:.1f} clips/s by {workers} worker{'s' * (workers != 1)}, {left} left")

    def end(self) -> None:
        """The last line."""
        self.say(f"{time.monotonic() - self.start:.1f} s")

    def say(self, text: str) -> None:
        """One line of progress."""
        failed = ", ".join(f"{n} {reason}" for reason, n in sorted(self.reasons.items())) or "none"
        counts = f"{self.cached + self.done}/{self.total} clips ({self.cached} cached), failed: {failed}"
        print(f"{self.stage}: {counts}; {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time to wait, in the unit that one thinks in."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{int(unit == 'h')}f} {unit}"
    return f"{seconds:.0f} s"

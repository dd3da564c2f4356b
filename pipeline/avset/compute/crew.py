"""Workers that share batches; a worker that dies does not end the stage."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar, runtime_checkable

from avset.compute.worker import Died, Job, Receipts
from avset.errors import AvsetError
from avset.storage.cache import ItemCache

DEATHS = 2  # of workers that held a job; after so many the job is given up for this run
IN_A_ROW = 20  # deaths with nothing done between them; after so many no clip is to blame. Suspects do not count


@runtime_checkable
class Distant(Protocol):
    """A worker elsewhere. It gets one message at a time; the start of a worker counts as a step without jobs."""

    def send(self, jobs: list[Job]) -> None:
        """Have the worker make a step."""

    def receive(self) -> Receipts | None:
        """The receipts of the step; None if they are not known yet. Died, or an AvsetError of the mapper."""

    def finish(self) -> None:
        """Let the worker keep what it is computing."""


D = TypeVar("D", bound=Distant)
Hire = Callable[[], D]  # starts a worker
Answered = Callable[[Iterable[D]], Iterable[D]]  # waits until some of these workers have an answer: which
Take = Callable[[Receipts, int], None]  # is told the receipts of jobs that are done, and how many workers there are


class Crew(Generic[D]):
    """Workers that share batches. A worker has three batches at most: one is read, one computed, one kept.

    When a worker dies, its jobs become suspects. When the rest is done, each suspect goes to a worker that has nothing
    else: if this worker dies too, the suspect is to blame. If a whole machine is lost, its batches are given out again
    as they were.
    """

    def __init__(self, batches: Iterator[list[Job]], jobs: int, hire: Hire[D], answered: Answered[D], take: Take):
        self.batches, self.left = batches, jobs
        self.hire, self.answered, self.take = hire, answered, take
        self.held: dict[D, deque[list[Job]]] = {}  # the batches of every worker
        self.started: set[D] = set()
        self.busy: set[D] = set()  # the workers that owe an answer
        self.again: deque[list[Job]] = deque()  # batches of lost machines
        self.suspects: deque[Job] = deque()
        self.deaths: Counter[str] = Counter()  # of workers that held a clip
        self.in_a_row = 0

    def work(self, count: int) -> None:
        """Do all batches by `count` workers. A worker that has started does not wait for the others."""
        for _ in range(count):
            self.add()
        try:
            while self.left:
                self.send_batches()
                for worker in self.answered(self.busy):
                    self.receive(worker)
        except AvsetError:
            self.finish()
            raise
        self.finish()

    def add(self) -> None:
        """Start one more worker."""
        worker = self.hire()
        self.held[worker] = deque()
        self.busy.add(worker)

    def finish(self) -> None:
        """Wait until all workers have kept what they are computing."""
        for worker in self.started:
            worker.finish()

    def send_batches(self) -> None:
        """Send every idle worker its next batch, or a step without jobs if it still holds some."""
        for worker in self.started - self.busy:
            held = self.held[worker]
            batch = [] if self.suspected(held) else self.next_batch(suspects=not held)
            if batch:
                held.append(batch)
            if held:
                worker.send(batch)
                self.busy.add(worker)

    def suspected(self, held: deque[list[Job]]) -> bool:
        """Whether the batches of a worker are a suspect, which gets no company."""
        return any(self.deaths[batch[0].clip_id] for batch in held)

    def next_batch(self, suspects: bool) -> list[Job]:
        """The next batch; one suspect if nothing else is left and `suspects` may be taken; else no jobs."""
        batch = self.again.popleft() if self.again else next(self.batches, [])
        if not batch and suspects and self.suspects:
            batch = [self.suspects.popleft()]
        return batch

    def receive(self, worker: D) -> None:
        """Take the answer of a worker."""
        try:
            receipts = worker.receive()
        except Died as death:
            self.lose(worker, death)
            return
        if receipts is None:
            return
        self.busy.remove(worker)
        self.started.add(worker)
        if receipts:
            self.held[worker].popleft()
            self.in_a_row = 0
            self.done(receipts)

    def done(self, receipts: Receipts) -> None:
        """Count receipts and pass them on."""
        self.left -= len(receipts)
        self.take(receipts, len(self.started))

    def lose(self, worker: D, death: Died) -> None:
        """Give the jobs of a dead worker to others, save those whose item is in the cache."""
        lost, started = self.held.pop(worker), worker in self.started
        self.busy.discard(worker)
        self.started.discard(worker)
        self.in_a_row += not death.machine and not self.suspected(lost)
        if (not started and not self.held) or self.in_a_row >= IN_A_ROW:
            raise AvsetError(f"the workers cannot live, no clip is to blame: {death}")
        if started or death.machine:
            self.add()
        cache = ItemCache()
        for batch in lost:
            rest = []
            for job in batch:
                if kept := cache.get(job.key):
                    self.done([(job.clip_id, kept[0].reason, kept[0].detail)])
                else:
                    rest.append(job)
            self.sort_out(rest, death)

    def sort_out(self, jobs: list[Job], death: Died) -> None:
        """Put the jobs of a lost batch among those to be done again or the suspects, or give them up."""
        if jobs and death.machine and not self.deaths[jobs[0].clip_id]:
            self.again.append(jobs)
            return
        for job in jobs:
            self.deaths[job.clip_id] += not death.machine
            if self.deaths[job.clip_id] < DEATHS:
                self.suspects.append(job)
            else:
                self.done([(job.clip_id, "worker_died", f"twice; the last time {death}")])

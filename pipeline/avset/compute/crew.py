"""Workers that share batches; one that dies takes no stage with it."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from avset.compute.worker import Died, Job, Receipts
from avset.errors import AvsetError
from avset.storage.cache import ItemCache

DEATHS = 2  # a clip that was there when so many workers died, and alone with the last, is given up for this run


IN_A_ROW = 20  # so many deaths with nothing done in between, suspects aside, are the fault of no clip


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

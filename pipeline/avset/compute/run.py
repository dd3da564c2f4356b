"""Fill the item cache: in this process, in several, or by Ray actors; a worker that dies does not end the stage."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from avset import params
from avset.compute.crew import Crew, Take
from avset.compute.process import Process, answered, dismiss
from avset.compute.progress import Progress
from avset.compute.worker import Factory, Job, Mapper, Receipts, Worker, deadline
from avset.errors import AvsetError
from avset.params import Runtime
from avset.storage.cache import ItemCache, cache_folder
from avset.storage.files import write_atomic
from avset.storage.items import Item

__all__ = ["Job", "Mapper", "Receipts", "Worker", "compute", "deadline"]
GIVE_UP_AFTER = 12  # clips that the machine cannot read
WORTH_A_PROCESS = 50  # batches; with fewer a process is not worth its start


def compute(
    stage: str,
    jobs: Sequence[Job],
    factory: Factory,
    runtime: Runtime,
    batch_size: int = 1,
    worth: int = 0,
    watch: Callable[[Receipts], None] | None = None,
    before: Counter[str] | None = None,
) -> dict[str, Item]:
    """Put into the cache what it lacks of `jobs`. Returns the failures that the cache does not remember.

    `worth` replaces `WORTH_A_PROCESS`. `watch` sees all receipts. `before` counts the clips that are done besides these
    jobs, by reason ("": they did not fail). An AvsetError of `watch` or of a mapper ends the work, unless it is a
    ClipError; the jobs in hand are finished and kept.
    """
    run = _Run(stage, jobs, runtime.executor != "ray", watch, before or Counter())
    pending = run.pending
    batches = (pending[i : i + batch_size] for i in range(0, len(pending), batch_size))
    count = -(-len(pending) // batch_size)
    many = runtime.executor == "processes" and min(runtime.workers, count // (worth or WORTH_A_PROCESS)) > 1
    fill = _by_ray if runtime.executor == "ray" else _by_processes if many else _inline
    steps = run.noted(batches) if fill is _inline else batches
    try:
        if pending:
            fill(steps, len(pending), min(runtime.workers, count), factory, runtime, run.take)
        if run.suspects:
            _alone(run.suspects, factory, runtime, run.take)
    except KeyboardInterrupt:
        run.progress.say("interrupted; what is done is kept, the same command goes on")
        raise
    finally:
        run.close()
    run.progress.end()
    return run.failures


class _Run:
    """What one call of `compute` has to do, its failures, and its note: a file with the keys of suspects.

    A clip that kills this process ends the stage. So a process notes the jobs that it holds, and they are suspects of
    the next run. Which jobs killed a worker is noted too.
    """

    def __init__(
        self,
        stage: str,
        jobs: Sequence[Job],
        noting: bool,
        watch: Callable[[Receipts], None] | None,
        before: Counter[str],
    ):
        cache = ItemCache()
        self.stage, self.jobs, self.watch = stage, jobs, watch
        self.note = cache_folder("held") / params.digest([str(Path.cwd()), stage])
        self.keys = set(self.note.read_text().split()) if noting and self.note.exists() else set()
        known = [cache.reason(job.key) for job in jobs]
        lacking = [job for job, reason in zip(jobs, known, strict=True) if reason is None]
        self.suspects = [job for job in lacking if job.key in self.keys]
        self.pending = [job for job in lacking if job.key not in self.keys]
        self.failures: dict[str, Item] = {}
        self.row = 0  # failures of the system, one after the other
        self.progress = Progress(
            stage, before.total() + len(jobs), before + Counter(reason for reason in known if reason is not None)
        )

    def take(self, receipts: Receipts, workers: int = 1) -> None:
        """Count receipts, remember the failures among them, and pass the receipts to `watch`."""
        self.progress.add(receipts, workers)
        for clip, reason, detail in receipts:
            if reason:
                self.failures[clip] = Item(reason=reason, detail=detail)
            self.row = self.row + 1 if reason == "system" else 0
            if self.row >= GIVE_UP_AFTER:
                raise AvsetError(
                    f"{self.stage}: the machine could not read the last {self.row} clips ({detail}); nothing of it is "
                    "remembered: see to its disks, its memory and its number of open files, and run again"
                )
        if self.watch:
            self.watch(receipts)

    def noted(self, batches: Iterable[list[Job]]) -> Iterator[list[Job]]:
        """The batches, each noted while a worker holds it. `watch` sees what one gave before the next one begins."""
        steps = (step for batch in batches for step in (batch, [])) if self.watch else batches
        held = deque[list[Job]](maxlen=3)
        for step in steps:
            held.append(step)
            self.write([*self.keys, *(job.key for batch in held for job in batch)])
            yield step

    def close(self) -> None:
        """Note the jobs that killed a worker, and no others."""
        died = {clip for clip, item in self.failures.items() if item.reason == "worker_died"}
        self.write([job.key for job in self.jobs if job.clip_id in died])

    def write(self, keys: list[str]) -> None:
        """Write the note, where that is possible; without keys there is no file."""
        with suppress(OSError, AvsetError):
            if keys:
                write_atomic(self.note, "\n".join(keys).encode(), lasting=False)
            else:
                self.note.unlink(missing_ok=True)


def _inline(
    batches: Iterator[list[Job]], jobs: int, count: int, factory: Factory, runtime: Runtime, take: Take
) -> None:
    with Worker(factory, runtime.time_limit) as worker:
        for batch in chain(batches, [[], []]):
            take(worker.step(batch), 1)


def _by_processes(
    batches: Iterator[list[Job]], jobs: int, count: int, factory: Factory, runtime: Runtime, take: Take
) -> None:
    crew = Crew(batches, jobs, lambda: Process(factory, runtime.time_limit), answered, take)
    _work_of_processes(crew, count)


def _alone(suspects: list[Job], factory: Factory, runtime: Runtime, take: Take) -> None:
    """Do suspects one by one, in a process that may die."""
    crew = Crew(iter(()), len(suspects), lambda: Process(factory, runtime.time_limit), answered, take)
    crew.suspects.extend(suspects)
    crew.deaths.update(job.clip_id for job in suspects)
    _work_of_processes(crew, 1)


def _work_of_processes(crew: Crew[Process], count: int) -> None:
    """Let a crew of processes work. However that ends, no process is left."""
    try:
        crew.work(count)
    finally:
        dismiss(crew.held)


def _by_ray(
    batches: Iterator[list[Job]], jobs: int, count: int, factory: Factory, runtime: Runtime, take: Take
) -> None:
    from avset.compute import ray_worker

    with ray_worker.joined_cluster(factory, runtime) as (hire, answered):
        Crew(batches, jobs, hire, answered, take).work(count)

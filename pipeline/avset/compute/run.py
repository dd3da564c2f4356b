"""Fill the item cache: in this process, in several, or by Ray actors; a worker that dies takes no stage with it."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from avset import params
from avset.compute.crew import Crew
from avset.compute.process import Process, answered, dismiss
from avset.compute.progress import Progress
from avset.compute.worker import Job, Mapper, Receipts, Worker, deadline
from avset.params import Runtime
from avset.storage.cache import ItemCache
from avset.storage.files import make_folder
from avset.storage.items import Item

__all__ = ["Job", "Mapper", "Receipts", "Worker", "compute", "deadline"]


WORTH = 50  # batches that a process must have to be worth its start


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
    crew = Crew(batches, jobs, lambda: Process(factory, runtime.time_limit), answered, take)
    _at_work(crew, count)


def _apart(suspects: list[Job], factory: Callable, runtime: Runtime, take: Callable) -> None:
    """Jobs that were in hand when a worker died, one by one in a process that may die too."""
    crew = Crew(iter(()), len(suspects), lambda: Process(factory, runtime.time_limit), answered, take)
    crew.suspects.extend(suspects)
    crew.deaths.update(job.clip_id for job in suspects)
    _at_work(crew, 1)


def _at_work(crew: "Crew", count: int) -> None:
    """A crew of processes does its work; none of them is left, however that ends."""
    try:
        crew.work(count)
    finally:
        dismiss(crew.held)


def _by_ray(batches: Iterator, jobs: int, count: int, factory: Callable, runtime: Runtime, take: Callable) -> None:
    from avset.compute import ray_worker

    with ray_worker.joined(factory, runtime) as (hire, answered):
        Crew(batches, jobs, hire, answered, take).work(count)

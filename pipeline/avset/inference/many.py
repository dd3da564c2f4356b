"""From files to files: many recordings, one after the other or by several processes."""

import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from avset.errors import AvsetError
from avset.inference.files import Clip, SeparatedFile, carry_out
from avset.inference.plans import Plan, inputs_of, plan_all, targets_of
from avset.inference.queries import Wanted
from avset.inference.separate import Separator, load
from avset.inference.wishes import Query, exclusions, labels, listed, results


@dataclass(frozen=True)
class How:
    """How files are separated, whatever the file."""

    queries: tuple[Query, ...]
    model_rate: bool = False
    clip: Clip = "clamp"
    keep_absent: bool = False
    shares: bool = False


Progress = Callable[[Plan, float], None]  # gets the seconds of a file that are done
Done = tuple[Plan, SeparatedFile | AvsetError]
Loading = tuple[Path, Path, str]  # folders of the model and of the encoder, device


def separate_files_to_files(
    separator: Separator,
    files: Sequence[Path],
    query: Wanted | Sequence[Wanted],
    template: str,
    resume: bool = False,
    shares: bool = False,
) -> dict[Path, SeparatedFile | AvsetError]:
    """Separate files, all files in folders, and all that patterns name; what was found, or was wrong, by file.

    `template` is the path of an output, in which {folder}, {name}, {query} and {number} stand for what they say, or a
    folder. With `resume`, a file of which all outputs are there is left out. AvsetError if nothing can be done.
    """
    queries, inputs = tuple(listed(query)), inputs_of(files)
    targets = targets_of(inputs, results(queries, shares), template)
    plans = plan_all(inputs, targets, resume=resume, queries=queries)
    refused = {path: AvsetError(why) for path, why in plans.refused.items()}
    return refused | {
        made.file: done for made, done in carry_out_all(separator, plans.todo, How(queries, shares=shares))
    }


def carry_out_all(
    separator: Separator, plans: Sequence[Plan], how: How, progress: Progress | None = None
) -> Iterator[Done]:
    """Carry out plans one after the other. A file that cannot be separated does not end the others."""
    for made in plans:
        told = None if progress is None else (lambda seconds, made=made: progress(made, seconds))
        try:
            options = how.model_rate, how.clip, told, how.keep_absent
            yield made, carry_out(separator, made, how.queries, *options, shares=how.shares)
        except AvsetError as e:
            yield made, e


def carry_out_by(jobs: int, plans: Sequence[Plan], how: How, loading: Loading, threads: int) -> Iterator[Done]:
    """`carry_out_all` by several processes, each with a model of its own; in the order in which they are done."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, fresh, initializer=_begin, initargs=(threads,)) as processes:
        waiting = {processes.submit(_one, made, how, loading): made for made in plans}
        try:
            for finished in as_completed(waiting):
                yield waiting[finished], finished.result()
        except BrokenExecutor as e:
            raise AvsetError("a process ended by itself; the memory may be full: lower --jobs, then --resume") from e
        finally:
            processes.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for a process that works
    torch.set_num_threads(threads)


def _one(made: Plan, how: How, loading: Loading) -> SeparatedFile | AvsetError:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ((_, done),) = carry_out_all(_loaded(loading), [made], how)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return done


@cache
def _loaded(loading: Loading) -> Separator:
    return load(*loading)


def report(made: Plan, done: SeparatedFile | AvsetError, how: How) -> dict[str, Any]:
    """What was done with a file, as JSON holds it."""
    if isinstance(done, AvsetError):
        return {"file": str(made.file), "error": str(done)}
    told = asdict(done)
    energies, presence, where = (told.pop(name) for name in ("energies", "presence", "places"))
    remixed = how.queries[0].gain is not None
    sounds = [
        {
            "query": name,
            "path": None if remixed else str(made.outputs[number]),
            "gain": query.gain if query.gain is None or math.isfinite(query.gain) else str(query.gain),  # dB
            "energy": energies[number],
            "presence": presence[number] if presence else None,
            "where": where[number] if where else None,
        }
        for number, (name, query) in enumerate(zip(labels(how.queries), how.queries, strict=True))
    ]
    rest = str(made.residual) if made.residual else None
    found = {"file": str(made.file), **told, "sounds": sounds, "residual": rest}
    if excluded := [one.told() for one in exclusions(how.queries).values()]:
        scores = presence[len(how.queries) :] if presence else [None] * len(excluded)
        found["excluded"] = dict(zip(excluded, scores, strict=True))
    return found | {"remix": str(made.outputs[0])} if remixed else found

"""The command `avset separate` shows what the library does. What can be known is told before torch is loaded."""

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avset.compute.progress import duration
from avset.console import complain
from avset.errors import AvsetError
from avset.inference.plans import Input, Plan, Plans, inputs_of, plan_all, targets_of
from avset.inference.reading import spool
from avset.inference.wishes import REMIXED, Query, exclusions, labels, results

PIPE = Path("-")
BAR = 30  # letters


@dataclass(frozen=True)
class Asked:
    """The words of the command line."""

    files: Sequence[Path]
    queries: Sequence[Query]
    shares: bool
    output: str
    residual: str | None
    overwrite: bool
    resume: bool
    model_rate: bool
    bits: int | None
    clip: Any
    keep_absent: bool
    heat_map: bool
    jobs: int
    device: str
    as_json: bool
    quiet: bool
    verbose: bool


def separate_files(asked: Asked, folders: Callable[[], tuple[Path, Path]]) -> int:
    """Separate the files; 1 if one of them failed, else 0. `folders` finds the model and its encoder."""
    _check(asked)
    with ExitStack() as files:
        if asked.output == str(PIPE):
            folder = files.enter_context(tempfile.TemporaryDirectory(prefix="avset-"))
            asked = replace(asked, output=f"{folder}/out.wav")
            failed = _separate(asked, folders, files, to_pipe=True)
            if not failed:
                shutil.copyfileobj(files.enter_context(Path(asked.output).open("rb")), sys.stdout.buffer)
                sys.stdout.buffer.flush()
            return failed
        return _separate(asked, folders, files)


def _check(asked: Asked) -> None:
    """AvsetError if options do not go together."""
    if asked.overwrite and asked.resume:
        raise AvsetError("--overwrite and --resume do not go together; give one of them")
    several = len(results(asked.queries)) > 1 or len(asked.files) > 1
    if asked.output == str(PIPE) and (asked.as_json or asked.resume or several):
        raise AvsetError("stdout takes one sound and nothing else; give -o a name for more")
    if asked.residual and asked.queries[0].gain is not None:
        raise AvsetError(REMIXED)
    if asked.files.count(PIPE) and (len(asked.files) > 1 or sys.stdin.isatty()):
        raise AvsetError("stdin is one file by itself; pipe a recording into it, or give the names of files")


def _separate(asked: Asked, folders: Callable[[], tuple[Path, Path]], files: ExitStack, to_pipe: bool = False) -> int:
    inputs = [Input(files.enter_context(_stdin()))] if PIPE in asked.files else inputs_of(asked.files)
    targets = targets_of(inputs, results(asked.queries, asked.shares), asked.output)
    rests = [one for (one,) in targets_of(inputs, ["rest"], asked.residual)] if asked.residual else []
    plans = plan_all(inputs, targets, rests, asked.overwrite, asked.resume, asked.bits, asked.model_rate,
                     queries=asked.queries, heat_map=asked.heat_map)  # fmt: skip
    model, encoder = folders()
    say = _Teller(asked, plans, to_pipe)
    from avset.inference.many import How, carry_out_all, carry_out_by, report  # torch: what is wrong was told by now
    from avset.inference.separate import load

    how = How(tuple(asked.queries), asked.model_rate, asked.clip, asked.keep_absent, asked.shares)
    jobs = min(asked.jobs, len(plans.todo))
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        work = carry_out_by(jobs, plans.todo, how, (model, encoder, asked.device), threads)
    elif plans.todo:
        work = carry_out_all(load(model, encoder, asked.device), plans.todo, how, say.progress)
    else:
        work = iter(())
    for made, done in work:
        say.one(made, done, report(made, done, how))
    return say.end()


@contextmanager
def _stdin() -> Iterator[Path]:
    """What comes from stdin, as a file."""
    with tempfile.TemporaryDirectory(prefix="avset-") as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            spool(sys.stdin.buffer, file)
        yield path


class _Teller:
    """What the user sees: a line for each sound, or JSON at the end; on a terminal a bar with the time left."""

    def __init__(self, asked: Asked, plans: Plans, to_pipe: bool):
        self._asked, self._out = asked, sys.stderr if to_pipe else sys.stdout
        self._reports: list[dict[str, Any]] = [{"file": str(path), "skipped": True} for path in plans.done]
        self._start, self._before = time.monotonic(), 0.0  # seconds of sound in the files that are done
        self._all = sum(made.format.seconds for made in plans.todo)
        self.failed = 0
        for path in plans.done:
            self._say(f"{path}: all of it is there already")
        for path, why in plans.refused.items():
            self._fail(path, why)
        for made in plans.todo if asked.verbose else ():
            found = made.format
            told = f"{found.seconds:.1f} s, {_heard(found.channels)} at {found.sample_rate} Hz"
            print(f"{made.file}: {told}, {_bits(made.bits)}", file=sys.stderr)

    def progress(self, made: Plan, seconds: float) -> None:
        """Draw the bar."""
        if self._asked.quiet or not sys.stderr.isatty() or not 0 < self._all < math.inf:
            return
        part = min((self._before + seconds) / self._all, 1.0)
        left = duration((time.monotonic() - self._start) * (1 - part) / max(part, 1e-6))
        bar = ("#" * round(BAR * part)).ljust(BAR, ".")
        print(f"\r[{bar}] {part:4.0%}  {left} left  {made.file.name:.40}\033[K", end="", file=sys.stderr, flush=True)

    def one(self, made: Plan, done: Any, report: dict[str, Any]) -> None:
        """Tell of a file that is done."""
        from avset.models.presence import THRESHOLD

        self._before += made.format.seconds
        if not self._asked.quiet and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if isinstance(done, AvsetError):
            self._fail(made.file, str(done))
            return
        self._reports.append(report)
        if done.clipped:
            self._note("louder than full scale in places, clipped there; --clip rescale keeps it whole")
        if done.gain < 1:
            self._note(f"rescaled by {done.gain:.3f}, or it would be louder than full scale")
        queries, how = self._asked.queries, f"{done.seconds:.1f} s at {done.sample_rate} Hz, {_heard(done.channels)}"
        shown = ["stdout"] if self._out is sys.stderr else list(map(str, made.outputs))
        remixed = queries[0].gain is not None
        if remixed:
            self._say(f"{shown[0]}: {how}, a remix")
        for number, (name, energy) in enumerate(zip(labels(queries), done.energies, strict=True)):
            told = f"  {name}, {queries[number].gain:+g} dB" if remixed else f"{shown[number]}: {how}"
            sure = f", presence {done.presence[number]:.2f}" if done.presence else ""
            self._say(f"{told}, {energy:.0%} of the mixture's energy{sure}")
        if not done.presence or self._asked.keep_absent:
            return
        wanted = [(one.told(number), f"{shown[0]} has it as it was" if remixed else f"{shown[number - 1]} is silent")
                  for number, one in enumerate(queries, 1)]  # fmt: skip
        excluded = [(other.told(), "nothing is left out for it") for other in exclusions(queries).values()]
        for (name, so), score in zip(wanted + excluded, done.presence, strict=True):
            if score < THRESHOLD:
                self._note(f"{name!r} is hardly there, so {so}; see --keep-absent")

    def end(self) -> int:
        """The last words; 1 if a file failed, else 0."""
        if self._asked.as_json:
            print(
                json.dumps(
                    {"queries": labels(self._asked.queries), "shares": self._asked.shares, "files": self._reports},
                    indent=2,
                )
            )
        return int(self.failed > 0)

    def _fail(self, path: Path, why: str) -> None:
        self.failed += 1
        self._reports.append({"file": str(path), "error": why})
        complain(why)

    def _note(self, text: str) -> None:
        if not self._asked.quiet:
            print(f"note: {text}", file=sys.stderr)

    def _say(self, text: str) -> None:
        if not (self._asked.quiet or self._asked.as_json):
            print(text, file=self._out, flush=True)


def _heard(channels: int) -> str:
    return {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")


def _bits(bits: int) -> str:
    return "floating point" if bits == 32 else f"{bits} bits"

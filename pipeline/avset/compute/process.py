"""A worker in a process of its own."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process, resource_tracker
from typing import Any

from avset.compute.worker import Died, Factory, Job, Receipts, start_worker

GRACE = 3.0  # s that a process has to clean up when it is told to end


class Process:
    """The way to a worker in a process of its own: one answer to each message. See crew.Distant."""

    def __init__(self, factory: Factory, time_limit: float):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, factory, time_limit), daemon=True)
        with interrupts_blocked():  # Ctrl-C is for this process alone
            self.process.start()
        theirs.close()

    def send(self, jobs: list[Job]) -> None:
        """Have the worker make a step; `receive` returns the answer."""
        with suppress(BrokenPipeError):  # then `receive` raises Died
            self.pipe.send(jobs)

    def receive(self) -> Receipts:
        """The receipts of a step, none of the start. Died if the worker is gone, or the AvsetError that it raised."""
        try:
            answer: Receipts | Exception = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise Died(f"its process ended with exit code {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def finish(self) -> None:
        """Let the worker keep what it is computing, and end."""
        with suppress(OSError, EOFError):
            self.pipe.send(None)
            while True:
                self.pipe.recv()


def answered(workers: Iterable[Process]) -> list[Process]:
    """Wait until a worker has an answer. Returns all that have one, in any order."""
    pipes = {worker.pipe: worker for worker in workers}
    return [pipes[pipe] for pipe in connection.wait(list(pipes))]  # type: ignore[index]


def dismiss(workers: Iterable[Process]) -> None:
    """End the processes of workers, also of busy ones."""
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
    """End this process as soon as its parent is gone, also if the parent was killed."""
    parent = parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes that start in the block are born with SIGINT blocked.

    Where the system has no signal masks (Windows), SIGINT may end a process until `_serve` ignores it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else `Process.start` starts it, and unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Any, factory: Factory, time_limit: float) -> None:
    """The life of a worker's process: steps, until it is told to end or its parent is gone."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # runs every `finally`
    with suppress(EOFError, OSError):
        try:
            with start_worker(factory, time_limit) as worker:
                pipe.send([])
                while (jobs := pipe.recv()) is not None:
                    pipe.send(worker.step(jobs))
        except Exception as e:
            pipe.send(e)

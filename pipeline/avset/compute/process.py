"""A worker in a process of its own."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process, resource_tracker
from typing import Any

from avset.compute.worker import Died, Job, Mapper, Receipts, begin

GRACE = 3.0  # s that a process has to clean up when it is told to go


class Process:
    """A worker in a process of its own, and the way to it: one answer to each message."""

    def __init__(self, factory: Callable[[], Mapper], time_limit: float):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, factory, time_limit), daemon=True)
        resource_tracker.ensure_running()  # else `start` does so, and lets SIGINT through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for us: it inherits this
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def send(self, jobs: list[Job]) -> None:
        """Have the worker make a step; `receive` has its receipts, as it has those of the start: none."""
        with suppress(BrokenPipeError):  # `receive` will say so
            self.pipe.send(jobs)

    def receive(self) -> Receipts:
        """The receipts that the worker answered; Died if it is gone, an AvsetError if it raised one."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise Died(f"its process ended with exit code {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def finish(self) -> None:
        """Let the worker keep what it is computing, and go."""
        with suppress(OSError, EOFError):
            self.pipe.send(None)
            while True:
                self.pipe.recv()


def answered(workers: Iterable[Process]) -> list[Process]:
    """The workers that have an answer, as soon as one has; no order among them."""
    pipes = {worker.pipe: worker for worker in workers}
    return [pipes[pipe] for pipe in connection.wait(list(pipes))]  # type: ignore[index]


def dismiss(workers: Iterable[Process]) -> None:
    """End the processes of workers, busy or not."""
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
    """End this process at once when the one that started it is gone, even if that was killed."""
    parent = parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _serve(pipe: Any, factory: Callable[[], Mapper], time_limit: float) -> None:
    """The life of a worker's process: steps, until it is told to go or nobody is there any more."""
    end_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through every `finally`
    with suppress(EOFError, OSError):
        try:
            with begin(factory, time_limit) as worker:
                pipe.send([])
                while (jobs := pipe.recv()) is not None:
                    pipe.send(worker.step(jobs))
        except Exception as e:
            pipe.send(e)

"""Functions that open strangers' files, called in a process of their own: with a limit of memory and one of time.

The process stays for the next call. A call that is late ends with its process, whatever code it is in; one that needs
more memory fails, as the kernel gives it no more. The limit of memory needs Linux, that of time works everywhere.
"""

import atexit
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avset.errors import AvsetError, ClipError

COMMAND = "from avset.compute.limited import serve; serve()"
PIPE = 2**20  # bytes on their way, where a pipe can be so large: fewer turns of the two processes
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a thread of a library has memory of its own


@dataclass(frozen=True)
class Limits:
    """What a call may take: seconds until it has an answer, and GB of memory of its process."""

    seconds: float
    memory: float  # GB

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns or raises. ClipError timeout, too_large; worker_died if two processes died of it."""
        try:
            return self._once(function, arguments)
        except ClipError as e:
            if e.reason != "worker_died":
                raise
        return self._once(function, arguments)

    def _once(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        (answer,) = self.each(alone, function, arguments)
        return answer

    def each(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        """What the generator `function` yields; each has `seconds`. Errors as of a call, after one death."""
        process, reusable = _idle() or Process(), False
        try:
            process.send((self.memory, str(Path.cwd()), function, arguments))
            while (answer := process.receive(self.seconds)).more:
                yield answer.value
            reusable = answer.reusable
        finally:
            if reusable:
                _IDLE.append(process)
            else:
                process.end()
        if answer.value is not None:
            raise answer.value


def alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[Any]:
    """A function as a generator of one value."""
    yield function(*arguments)


@dataclass(frozen=True)
class Answer:
    """A value, and there may be more; or the end, with the error if there was one."""

    value: Any
    more: bool = True
    reusable: bool = True  # the process can take another call


class Process:
    """The way to a process that serves calls, see `serve`."""

    def __init__(self) -> None:
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
            pipesize=PIPE,
            start_new_session=True,  # Ctrl-C is for this process alone
        )

    def send(self, call: tuple[Any, ...]) -> None:
        """Have the process make a call."""
        with suppress(BrokenPipeError):  # then `receive` tells
            _dump(call, self.process.stdin)

    def receive(self, seconds: float) -> Answer:
        """The next answer. ClipError timeout if it takes longer, worker_died if the process is gone."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            answer: Answer = _load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            if late.is_set():
                raise ClipError("timeout", f"longer than {seconds:g} s") from error
            code = self.process.wait()
            if code == 1:  # Python itself: `serve` catches what calls raise
                raise AvsetError("the process that reads media cannot start, no clip is to blame; see above") from error
            raise ClipError("worker_died", f"the process that read it ended with exit code {code}") from error
        finally:
            timer.cancel()
        return answer

    def end(self) -> None:
        """End the process, also a busy one."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


_IDLE: list[Process] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDLE.clear)  # they are the parent's


def _idle() -> Process | None:
    """A process that waits for a call; None if there is none that lives."""
    while _IDLE:
        process = _IDLE.pop()
        if process.process.poll() is None:
            return process
        process.end()
    return None


@atexit.register
def _end_all() -> None:
    while _IDLE:
        _IDLE.pop().end()


def _dump(value: Any, pipe: Any) -> None:
    """Write a value; its arrays as they lie in memory, without a copy."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, 5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pickle.dump((head, [view.nbytes for view in views]), pipe)
    for view in views:
        pipe.write(view)
    pipe.flush()


def _load(pipe: Any) -> Any:
    """The inverse of `_dump`; EOFError if the pipe ends."""
    head, sizes = pickle.load(pipe)
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        if pipe.readinto(buffer) < len(buffer):
            raise EOFError
    return pickle.loads(head, buffers=buffers)


def serve() -> None:
    """The life of the process: calls, until its parent is gone or the memory was not enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    end = Answer(None, more=False)
    while end.reusable:
        call = calls.get()
        end = _answer(answers, *call) if isinstance(call, tuple) else Answer(call, more=False)
        _dump(end, answers)
    os._exit(0)


def _listen(calls: Any) -> None:
    """Pass on the calls. When the parent is gone this process ends at once, also in the middle of a call."""
    try:
        while True:
            try:
                calls.put(_load(sys.stdin.buffer))
            except (ImportError, AttributeError) as error:  # the function is not there
                calls.put(error)
    except BaseException:
        os._exit(0)


def _answer(pipe: Any, memory: float, folder: str, function: Callable[..., Iterator[Any]], arguments: Any) -> Answer:
    """Write what a call gives. Returns its end."""
    try:
        os.chdir(folder)
        _allow(memory)
        for value in function(*arguments):
            _dump(Answer(value), pipe)
    except Exception as e:
        _allow(None)
        if _lacks_memory(e):
            full = ClipError("too_large", f"it needs more than {memory:g} GB of memory")
            return Answer(full, more=False, reusable=False)
        return Answer(_sendable(e), more=False)
    return Answer(None, more=False)


def _allow(memory: float | None) -> None:
    """Limit what this process may write to: its own pages, not the files that it maps (RLIMIT_DATA). None: no limit."""
    if sys.platform == "linux":
        import resource

        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = resource.RLIM_INFINITY if memory is None else int(memory * 1e9)
        given = [limit for limit in (most, wanted) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(given, default=resource.RLIM_INFINITY), most))


def _lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that there is no memory."""
    while error and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _sendable(error: Exception) -> Exception:
    """An error as it is, or, if it cannot travel, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

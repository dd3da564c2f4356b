"""One function in several processes of this machine at once, which are a torch process group. See ray_train, too."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from avset.compute.process import end_with_parent, interrupts_blocked
from avset.errors import AvsetError

Result = TypeVar("Result")


def run(work: Callable[[str], Result], workers: int, device: str) -> Result:
    """Run `work` of a torch device in this process, as the first of a group, and in `workers` - 1 others.

    On cuda each has a GPU, or they share those that there are. Only the first speaks, and its result is returned. One
    alone is no group. AvsetError if `work` raises one in any process, or if a process is lost.
    """
    if workers == 1:
        return work(device)
    with TemporaryDirectory() as folder, others(work, workers, device, Path(folder) / "meet") as peers:
        try:
            for error in filter(None, [peer.answer() for peer in peers]):
                raise error
            result = member(work, 0, workers, device, Path(folder) / "meet")
        except AvsetError:
            raise
        except Exception as e:  # of this process, or because another one is gone
            for error in filter(None, [peer.answer() for peer in peers]):
                if isinstance(error, AvsetError):
                    raise error from e
                e.add_note(f"another worker: {error}")
            raise
        for error in filter(None, [peer.answer() for peer in peers]):
            raise error
    return result


class Peer:
    """Another process of the group."""

    def __init__(self, *arguments: Any):
        context = get_context("spawn")
        self.pipe, self.theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.theirs, *arguments), daemon=True)

    def launch(self) -> None:
        """Start the process, which loads what it needs."""
        with interrupts_blocked():  # Ctrl-C is for the first process alone
            self.process.start()
        self.theirs.close()

    def answer(self) -> Exception | None:
        """Wait for None, which says that the process is ready or has ended well, or for the error that ended it.

        An AvsetError if the process was lost.
        """
        try:
            told: Exception | None = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return AvsetError(
                f"train: a worker was lost (exit code {self.process.exitcode}), for want of memory perhaps; the run is "
                "kept since the last validation: run again"
            )
        return told


@contextmanager
def others(work: Callable[[str], object], workers: int, device: str, meet: Path) -> Iterator[list[Peer]]:
    """The processes but the first; they are ended with the block."""
    peers = [Peer(work, rank, workers, device, meet) for rank in range(1, workers)]
    try:
        for peer in peers:
            peer.launch()
        yield peers
    finally:
        for peer in peers:
            if peer.process.pid:
                peer.process.kill()
                peer.process.join()


def member(work: Callable[[str], Result], rank: int, workers: int, device: str, meet: Path) -> Result:
    """`work` as the process `rank` of the group whose processes find each other by the file `meet`."""
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count() if device == "cuda" else 0
    own = f"cuda:{rank % gpus}" if gpus else device
    if gpus:
        torch.cuda.set_device(own)
    backend = "cpu:gloo,cuda:nccl" if gpus >= workers else "gloo"  # NCCL wants a GPU for each
    dist.init_process_group(backend, init_method=f"file://{meet}", rank=rank, world_size=workers)
    try:
        return work(own)
    finally:
        dist.destroy_process_group()


def _serve(pipe: Any, work: Callable[[str], object], *place: Any) -> None:
    """The life of a process but the first: its part of the work, and the exception that ended it, if one did."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch.distributed  # noqa: F401  before it says that it is ready

    pipe.send(None)
    error: Exception | None = None
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        try:
            member(work, *place)
        except Exception as e:
            error = e if isinstance(e, AvsetError) else RuntimeError(f"{type(e).__name__}: {e}")
    pipe.send(error)
    pipe.close()
    sys.exit(0)

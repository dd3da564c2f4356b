"""One function in several processes at once, on GPUs and machines, by Ray Train; a lost process ends no training."""

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from avset.compute.ray_worker import connect, machines
from avset.errors import AvsetError
from avset.storage.cache import cache_root

WAIT_FOR_ROOM = 10  # min until a busy cluster must have room
Work = Callable[[str], object]  # of a torch device


def run(work: Work, workers: int, cpus: int, device: str, state: Path) -> None:
    """Run `work` in `workers` processes that are a torch process group, each with `cpus` CPUs and, on cuda, a GPU.

    The cluster is the one at $RAY_ADDRESS, else one of this machine alone. When a process is lost, all start again;
    `work` keeps the file `state` and goes on from it. AvsetError if the cluster has no room for so many, if `work`
    raises one, or if processes are lost twice while `state` stays as it is.
    """
    import ray

    ours = not ray.is_initialized()
    alone = ours and os.environ.get("RAY_ADDRESS", "local") in ("", "local")
    folder = state.with_name(f".{state.stem}").absolute()  # all workers see it; it is removed in the end
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if ours:
            connect(workers * cpus)
        gpu = wants_gpu([machine["Resources"] for machine in machines()], workers, cpus, device)
        print(f"train: starts {workers} workers{', each with a GPU' * gpu}", file=sys.stderr, flush=True)
        with relayed(folder / "said") as said:
            make = partial(_trainer, partial(_work, work, gpu, Path.cwd(), said), workers, cpus, gpu, folder)
            persevere(lambda: run_trainer(make(), alone), state)
    finally:
        if ours:
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def wants_gpu(resources: list[dict[str, float]], workers: int, cpus: int, device: str) -> bool:
    """Whether workers get GPUs of machines with these Ray resources; AvsetError if there is no room for them."""
    gpu = device == "cuda" or (device == "auto" and any(machine.get("GPU") for machine in resources))
    room = sum(int(min(m.get("CPU", 0) // cpus, m.get("GPU", 0) if gpu else workers)) for m in resources)
    if room < workers:
        each = f"{cpus} CPU (train.threads){' and a GPU (runtime.device)' * gpu}"
        raise AvsetError(f"train.workers is {workers}, but the cluster has room for {room}, of {each} each; lower it")
    return gpu


@contextmanager
def relayed(path: Path) -> Iterator[Path]:
    """Until the block ends, copy to stderr what any machine writes to a file."""
    path.touch()
    over = Event()

    def relay() -> None:
        with path.open(encoding="utf-8") as text:
            while not over.wait(0.5):
                print(text.read(), end="", file=sys.stderr, flush=True)
            print(text.read(), end="", file=sys.stderr, flush=True)

    thread = Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        over.set()
        thread.join()


def persevere(attempt: Callable[[], None], state: Path) -> None:
    """Repeat `attempt` until it ends without a lost worker. Ray Train's own limit counts losses of days ago too."""
    from ray.train import ControllerError, WorkerGroupError

    reached = -1
    while True:
        try:
            return attempt()
        except ControllerError as e:
            reason = str(e.controller_failure).partition(". ")[0]
            raise AvsetError(f"no room for train.workers: {reason}, again and again; free machines, run again") from e
        except WorkerGroupError as e:
            failures = e.worker_failures.values()
            for failure in failures:
                if isinstance(failure, AvsetError):
                    raise failure from None
            before, reached = reached, state.stat().st_mtime_ns if state.exists() else 0
            if reached == before:
                if not any(type(failure).__module__.startswith("ray.") for failure in failures):
                    raise  # a bug: nobody died
                raise AvsetError(
                    "train: a worker died twice with no validation in between, for want of memory perhaps; the run is "
                    "kept: free memory, or lower train.validate_every, and run again"
                ) from e
            print("train: a worker was lost; all go on from the last validation", file=sys.stderr, flush=True)


def run_trainer(trainer: Any, alone: bool) -> None:
    """`trainer.fit()`, so that Ctrl-C ends it.

    In the main thread `fit` handles Ctrl-C itself and tidies up the cluster. The cluster of this machine `alone` needs
    no tidying: then `fit` runs in another thread, and Ctrl-C ends this one.
    """
    if not alone:
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit()
        except SystemExit:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGINT, handler)
        return
    end: Future[None] = Future()

    def elsewhere() -> None:
        try:
            trainer.fit()
            end.set_result(None)
        except BaseException as e:
            end.set_exception(e)

    Thread(target=elsewhere, daemon=True).start()
    while not end.done():
        wait([end], timeout=1)  # s: a signal that comes just before a wait begins does not end it
    end.result()


def _trainer(work: Callable[[], None], workers: int, cpus: int, gpu: bool, folder: Path) -> Any:
    import ray.train.torch

    api: Any = ray.train  # Ray's types are those of its first version
    environment = {
        "AVSET_CACHE": str(cache_root().absolute()),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else Ray prints everything twice
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    return api.torch.TorchTrainer(
        work,
        scaling_config=api.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus}),
        run_config=api.RunConfig(
            storage_path=str(folder),
            failure_config=api.FailureConfig(max_failures=0, controller_failure_limit=WAIT_FOR_ROOM),
            worker_runtime_env={"env_vars": environment},
        ),
    )


def _work(work: Work, gpu: bool, root: Path, said: Path) -> None:
    """Run `work` in the project's folder. What the first worker says goes to the file `said`, the rest nowhere."""
    import ray.train.torch

    for place in (root, said):
        if not place.exists():
            name = socket.gethostname()
            raise AvsetError(f"{name} does not see {place}; all machines must share it under that name")
    os.chdir(root)
    first = ray.train.get_context().get_world_rank() == 0
    with Path(said if first else os.devnull).open("a", buffering=1, encoding="utf-8") as text, redirect_stderr(text):
        work(str(ray.train.torch.get_device()) if gpu else "cpu")

"""Workers that are Ray actors: on this machine, or on all machines of the cluster at $RAY_ADDRESS."""

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from avset.compute.worker import Died, Job, Mapper, Receipts, begin
from avset.errors import AvsetError
from avset.params import Runtime
from avset.storage.cache import ItemCache
from avset.storage.files import make_folder

PATIENCE = 10.0  # s without an answer after which we look why


STORE = 80 * 2**20  # bytes of Ray's object store: ours travel through the cache


class Remote:
    """What runs in an actor."""

    def begin(self, root: str, cache: str, marks: list[str], factory: Callable[[], Mapper], time_limit: float) -> str:
        """Make the worker as if it were where it was asked for; returns the name of this machine to Ray.

        AvsetError if the folders are not the same as there, or if the mapper cannot be made.
        """
        import ray

        here = ray.get_runtime_context().get_node_id()
        for mark in marks:
            if not Path(mark).exists():
                raise AvsetError(
                    f"{ray.util.get_node_ip_address()} does not see what others write to {Path(mark).parent}; "
                    "all machines must share it under that name, see docs/cluster.md"
                )
        os.chdir(root)
        os.environ["AVSET_CACHE"] = cache
        if not ray.get_gpu_ids():  # Ray itself hides them, or not, by how it was started
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.worker = begin(factory, time_limit)
        return here

    def step(self, jobs: list[Job]) -> Receipts:
        """A step of the worker."""
        return self.worker.step(jobs)

    def finish(self) -> None:
        """Wait until what was computed is kept."""
        self.worker.__exit__()

    def ping(self) -> None:
        """Answer."""


class Actor:
    """A worker in a Ray actor, and the way to it: one answer to each message."""

    def __init__(self, actor: Any, *told: Any):
        self.actor, self.node, self.lost = actor, "", False
        self.answer = actor.begin.remote(*told)

    def send(self, jobs: list[Job]) -> None:
        """Have the worker make a step; `receive` has its receipts, as it has those of the start: none."""
        self.answer = self.actor.step.remote(jobs)

    def receive(self) -> Receipts | None:
        """The receipts that the worker answered; None if Ray does not know yet whether it is there.

        Died if it is not. AvsetError if the worker raised one, or if Ray itself is gone from this machine.
        """
        import ray

        try:
            found = ray.get(self.answer)
        except ray.exceptions.ActorUnavailableError as e:
            if not self._machine_lives():
                raise Died(brief(e), machine=True) from None
            self.lost, self.answer = True, self.actor.ping.remote()
            return None
        except ray.exceptions.RayActorError as e:
            if e.actor_init_failed:
                raise AvsetError(f"the workers cannot start, no clip is to blame: {brief(e)}") from e
            with_machine = "its node has died" in str(e)  # also of an actor that waited there for its turn
            raise Died(brief(e), with_machine or not self._machine_lives()) from None
        except ray.exceptions.OutOfMemoryError as e:
            raise Died(brief(e)) from None
        except ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, ray.exceptions.RaySystemError):  # it cannot read what it was sent
                raise AvsetError(f"the workers cannot start, no clip is to blame: {brief(e.cause)}") from e
            raise (e.cause if isinstance(e.cause, Exception) else e) from None
        except ray.exceptions.RayError as e:
            raise AvsetError(f"Ray gave up, no clip is to blame: {brief(e)}") from e
        if self.lost:  # it was away for a while; what became of its step is unknown
            ray.kill(self.actor)
            raise Died("it could not be reached", machine=True)
        if not self.node:
            self.node = found
            return []
        return found

    def _machine_lives(self) -> bool:
        living = {machine["NodeID"] for machine in machines()}
        return not self.node or self.node in living

    def finish(self) -> None:
        """Let the worker keep what it is computing."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.get(self.actor.finish.remote())


def machines() -> list[dict[str, Any]]:
    """The living nodes of the cluster; AvsetError if this machine is no more one of them."""
    import ray

    living = [node for node in ray.nodes() if node["Alive"]]
    if ray.get_runtime_context().get_node_id() not in {node["NodeID"] for node in living}:
        raise AvsetError("Ray's process on this machine (raylet) ended; what is done is kept, the same command goes on")
    return living


@contextmanager
def joined(
    factory: Callable[[], Mapper], runtime: Runtime
) -> Iterator[tuple[Callable[[], Actor], Callable[[Iterable[Actor]], list[Actor]]]]:
    """Join Ray for the time of some work: a function that hires a worker, and one that waits for answers."""
    import ray

    if not ray.is_initialized():
        connect(runtime.workers)
    gpus = runtime.gpus_per_worker if runtime.device != "cpu" else 0.0
    idle = sum(machine["Resources"].get("GPU", 0) for machine in room(gpus))
    if idle and not gpus and runtime.device != "cpu":
        print(f"{idle:g} GPUs of the cluster idle: runtime.gpus_per_worker is 0", file=sys.stderr, flush=True)
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Remote)
    root, cache, hired = Path.cwd(), ItemCache().root.absolute(), list[Actor]()

    def hire() -> Actor:
        room(gpus)
        hired.append(Actor(remote.remote(), str(root), str(cache), marks, factory, runtime.time_limit))
        return hired[-1]

    def answered(workers: Iterable[Actor]) -> list[Actor]:
        asked = {worker.answer: worker for worker in workers}
        ready, _ = ray.wait(list(asked), num_returns=1, timeout=PATIENCE)
        if ready:
            ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        elif not any(worker.node for worker in asked.values()):
            room(gpus)
            print(f"{len(asked)} workers wait for room in the Ray cluster", file=sys.stderr, flush=True)
        return [asked[reference] for reference in ready]

    with ExitStack() as stack:
        marks = [stack.enter_context(mark(folder)) for folder in (root / "data" / ".locks", cache)]
        try:
            yield hire, answered
        finally:
            for worker in hired:
                ray.kill(worker.actor)


def connect(workers: int) -> None:
    """Join the cluster at $RAY_ADDRESS, else one of this machine alone with a CPU for each worker.

    Ray's own chatter goes to its logs alone. AvsetError if the cluster is not there, or of other versions.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS", "local") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": STORE}
    try:
        if ":" in address:
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), PATIENCE).close()  # Ray itself would try for minutes
        ray.init(address, **options)
    except (Exception, SystemExit) as e:
        where = "start Ray" if address == "local" else f"join the Ray cluster at RAY_ADDRESS={address} from here"
        raise AvsetError(f"cannot {where}: {brief(e)}") from e


def room(gpus: float) -> list[dict[str, Any]]:
    """The machines of the cluster; AvsetError if none of them has what a worker needs, used or not."""
    if gpus > 1 and gpus % 1:
        raise AvsetError(f"runtime.gpus_per_worker is {gpus:g}; a worker gets whole GPUs, or a fraction of one")
    living = machines()
    have = [machine["Resources"] for machine in living]
    if not any(one.get("CPU", 0) >= 1 and one.get("GPU", 0) >= gpus for one in have):
        needed = f"a CPU and {gpus:g} GPU (runtime.gpus_per_worker)" if gpus else "a CPU"
        raise AvsetError(f"no machine of the Ray cluster has {needed} for a worker; add one that has, or ask for less")
    return living


@contextmanager
def mark(folder: Path) -> Iterator[str]:
    """The path of a file that exists for now, for others to see that this is the same folder."""
    make_folder(folder)
    with NamedTemporaryFile(dir=folder, prefix=".here-") as file:
        yield file.name


def brief(error: BaseException) -> str:
    """What an error of Ray says, without where and whose."""
    told = " ".join(str(error).split()).partition(" traceback: ")[0]
    return told.rpartition("The actor is dead because ")[2][:200]

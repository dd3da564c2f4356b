"""Workers that are Ray actors: on this machine, or on all machines of the cluster at $RAY_ADDRESS."""

import os
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from avset.compute.crew import Answered, Hire
from avset.compute.worker import Died, Factory, Job, Receipts, start_worker
from avset.errors import AvsetError
from avset.params import Runtime
from avset.storage.cache import cache_root
from avset.storage.files import make_folder

ANSWER_WITHIN = 10.0  # s; after that the crew looks why no worker answers
STORE = 80 * 2**20  # bytes of Ray's object store; items do not pass through it


class ActorWorker:
    """The worker that runs in a Ray actor."""

    def start(self, root: str, cache: str, markers: list[str], factory: Factory, time_limit: float) -> str:
        """Make the worker, in the project's folder and with the cache of its crew. Returns Ray's id of this machine.

        AvsetError if this machine does not see the crew's folders, or if the mapper cannot be made.
        """
        import ray

        for marker in markers:
            if not Path(marker).exists():
                address: Any = ray.util.get_node_ip_address  # untyped
                raise AvsetError(
                    f"{address()} does not see what others write to {Path(marker).parent}; "
                    "all machines must share it under that name, see docs/cluster.md"
                )
        os.chdir(root)
        os.environ["AVSET_CACHE"] = cache
        if not ray.get_gpu_ids():  # whether Ray hides the GPUs depends on how Ray was started
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.worker = start_worker(factory, time_limit)
        return str(ray.get_runtime_context().get_node_id())

    def step(self, jobs: list[Job]) -> Receipts:
        """Make a step."""
        return self.worker.step(jobs)

    def finish(self) -> None:
        """Keep what was computed."""
        self.worker.__exit__()

    def ping(self) -> None:
        """Answer, to show that the worker is there."""


class Actor:
    """The way to a worker in a Ray actor: one answer to each message. See crew.Distant.

    `actor` is Ray's handle of an ActorWorker; `arguments` are those of `ActorWorker.start`.
    """

    def __init__(self, actor: Any, *arguments: Any):
        self.actor, self.node, self.lost = actor, "", False
        self.answer = actor.start.remote(*arguments)

    def send(self, jobs: list[Job]) -> None:
        """Have the worker make a step; `receive` returns the answer."""
        self.answer = self.actor.step.remote(jobs)

    def receive(self) -> Receipts | None:
        """The receipts of a step, none of the start; None if Ray does not know yet whether the worker is there.

        Died if the worker is gone. AvsetError if the worker raised one, or if Ray itself is gone from this machine.
        """
        import ray

        try:
            answer: Any = ray.get(self.answer)
        except ray.exceptions.ActorUnavailableError as e:
            if not self._machine_lives():
                raise Died(brief(e), machine=True) from None
            self.lost, self.answer = True, self.actor.ping.remote()
            return None
        except ray.exceptions.RayActorError as e:
            if e.actor_init_failed:
                raise AvsetError(f"the workers cannot start, no clip is to blame: {brief(e)}") from e
            with_machine = "its node has died" in str(e)  # so too if the actor had not started there
            raise Died(brief(e), with_machine or not self._machine_lives()) from None
        except ray.exceptions.OutOfMemoryError as e:
            raise Died(brief(e)) from None
        except ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, ray.exceptions.RaySystemError):  # the actor cannot read its message
                raise AvsetError(f"the workers cannot start, no clip is to blame: {brief(e.cause)}") from e
            raise (e.cause if isinstance(e.cause, Exception) else e) from None
        except ray.exceptions.RayError as e:
            raise AvsetError(f"Ray gave up, no clip is to blame: {brief(e)}") from e
        if self.lost:  # Ray did not reach the worker for a while: whether the step was made is unknown
            ray.kill(self.actor)
            raise Died("it could not be reached", machine=True)
        if not self.node:
            self.node = str(answer)
            return []
        receipts: Receipts = answer
        return receipts

    def _machine_lives(self) -> bool:
        living = {machine["NodeID"] for machine in machines()}
        return not self.node or self.node in living

    def finish(self) -> None:
        """Let the worker keep what it is computing."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.get(self.actor.finish.remote())


def machines() -> list[dict[str, Any]]:
    """The living nodes of the cluster; AvsetError if this machine is no longer one of them."""
    import ray

    nodes: Any = ray.nodes  # untyped
    living = [node for node in nodes() if node["Alive"]]
    if ray.get_runtime_context().get_node_id() not in {node["NodeID"] for node in living}:
        raise AvsetError("Ray's process on this machine (raylet) ended; what is done is kept, the same command goes on")
    return living


@contextmanager
def joined_cluster(factory: Factory, runtime: Runtime) -> Iterator[tuple[Hire[Actor], Answered[Actor]]]:
    """Join Ray until the block ends. Yields two functions: one hires a worker, one waits for answers."""
    import ray

    if not ray.is_initialized():
        connect(runtime.workers)
    gpus = runtime.gpus_per_worker if runtime.device != "cpu" else 0.0
    idle = sum(machine["Resources"].get("GPU", 0) for machine in machines_with_room(gpus))
    if idle and not gpus and runtime.device != "cpu":
        print(f"{idle:g} GPUs of the cluster idle: runtime.gpus_per_worker is 0", file=sys.stderr, flush=True)
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)(ActorWorker)
    root, cache, hired = Path.cwd(), cache_root().absolute(), list[Actor]()

    def hire() -> Actor:
        machines_with_room(gpus)
        hired.append(Actor(remote.remote(), str(root), str(cache), markers, factory, runtime.time_limit))
        return hired[-1]

    def answered(workers: Iterable[Actor]) -> list[Actor]:
        asked = {worker.answer: worker for worker in workers}
        ready, _ = ray.wait(list(asked), num_returns=1, timeout=ANSWER_WITHIN)
        if ready:
            ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        elif not any(worker.node for worker in asked.values()):
            machines_with_room(gpus)
            print(f"{len(asked)} workers wait for room in the Ray cluster", file=sys.stderr, flush=True)
        return [asked[reference] for reference in ready]

    with ExitStack() as stack:
        markers = [stack.enter_context(marker_file(folder)) for folder in (root / "data" / ".locks", cache)]
        try:
            yield hire, answered
        finally:
            for worker in hired:
                ray.kill(worker.actor)


def connect(workers: int) -> None:
    """Join the cluster at $RAY_ADDRESS; else start one of this machine alone, with a CPU for each worker.

    Ray writes its messages to its logs alone. AvsetError if the cluster is not there, or of other versions.
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
            socket.create_connection((host, int(port)), ANSWER_WITHIN).close()  # Ray itself would try for minutes
        ray.init(address, **options)
    except (Exception, SystemExit) as e:
        where = "start Ray" if address == "local" else f"join the Ray cluster at RAY_ADDRESS={address} from here"
        raise AvsetError(f"cannot {where}: {brief(e)}") from e


def machines_with_room(gpus: float) -> list[dict[str, Any]]:
    """The machines of the cluster; AvsetError if none of them has what a worker needs, be it in use or not."""
    if gpus > 1 and gpus % 1:
        raise AvsetError(f"runtime.gpus_per_worker is {gpus:g}; a worker gets whole GPUs, or a fraction of one")
    living = machines()
    have = [machine["Resources"] for machine in living]
    if not any(one.get("CPU", 0) >= 1 and one.get("GPU", 0) >= gpus for one in have):
        needed = f"a CPU and {gpus:g} GPU (runtime.gpus_per_worker)" if gpus else "a CPU"
        raise AvsetError(f"no machine of the Ray cluster has {needed} for a worker; add one that has, or ask for less")
    return living


@contextmanager
def marker_file(folder: Path) -> Iterator[str]:
    """The path of a file that exists until the block ends: another machine that sees the file sees the same folder."""
    make_folder(folder)
    with NamedTemporaryFile(dir=folder, prefix=".here-") as file:
        yield file.name


def brief(error: BaseException) -> str:
    """What an error of Ray says, without the actor and the traceback."""
    told = " ".join(str(error).split()).partition(" traceback: ")[0]
    return told.rpartition("The actor is dead because ")[2][:200]

"""Several processes train as one would: the same gradients, the same statistics, the same going on."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import toy
from test_train import PRESETS, constants, make_model, settings, two_kinds
from torch.utils.data import default_collate

from avset import params
from avset.compute import group, ray_train
from avset.compute.ray_worker import STORE
from avset.errors import AvsetError, ParamsError
from avset.training import distributed, train
from avset.training.batches import TrainingMixtures

SIZE, BATCH = 3, 6  # of two processes the sums are the same in any order
TERMS = ("mask", "caption", "audio_language", "trimodal")
PRESET = PRESETS["avset"].model_copy(update={"warmup": 0})


def weighted(**weights: float) -> Any:
    return PRESET.losses.model_copy(update=dict.fromkeys(TERMS, 0.0) | weights)


CASES = {  # each term alone, all, batch normalisation in both encoders, parameters that no loss reaches
    **{term: {"losses": weighted(**{term: 1.0})} for term in TERMS},
    "all": {},
    "batch": {"norm": "batch", "shared_encoder": False, "optimizer": "sgd", "lr": 4e-3},
    "unreached": {"shared_encoder": False, "losses": weighted(mask=1.0)},
}
RUNS = ("all", "batch")
PRESETS_OF = {name: PRESET.model_copy(update=changes) for name, changes in CASES.items()}


def gradients(data: TrainingMixtures, name: str) -> dict[str, torch.Tensor]:
    """Of the batch, or of this process's share, in float64: gradients, means of the terms, statistics."""
    method, told = make_model(PRESETS_OF[name]).method.double().train(), constants(data)
    objective = distributed.parallel(train.Objective(method, told | {"captions": told["captions"].double()}))
    (share,) = distributed.shares(0, BATCH, BATCH)
    batch = default_collate([data[i] for i in share])
    terms = objective({k: v.double() if v.is_floating_point() else v for k, v in batch.items()})
    terms["loss"].backward()
    found = {k: p.grad for k, p in method.named_parameters() if p.grad is not None} | dict(method.named_buffers())
    return found | {k: torch.tensor(v) for k, v in distributed.mean(terms).items()}


def fit(data: TrainingMixtures, name: str, state: Path | None = None, stop: int = 0) -> dict[str, Any]:
    """A run of 8 steps with validations each 2, in which Ctrl-C may come at one: what it left, and its curves."""
    log: list = []

    def validate(model: Any) -> dict[str, float]:
        if stop and len(log) == stop:
            raise KeyboardInterrupt
        return {"nsdr": float(len(log))}

    told, model = settings(8, 2).model_copy(update={"batch_size": BATCH}), make_model(PRESETS_OF[name])
    run = train.fit(model, data, constants(data), told, validate, lambda *values: log.append(values), state)
    return {"model": run.method.state_dict(), "log": log}


def resumed(data: TrainingMixtures, name: str, state: Path) -> dict[str, Any]:
    try:
        fit(data, name, state, stop=2)
    except KeyboardInterrupt:
        return fit(data, name, state)
    raise AssertionError("it was not interrupted")


def scores(count: int) -> dict[str, float]:
    """The mean of 0, 1, ... and of their squares."""
    things = distributed.own_share([float(i) for i in range(count)])
    mean = lambda model: {"x": sum(things) / len(things), "xx": sum(x * x for x in things) / len(things)}  # noqa: E731
    return distributed.together(mean, len(things))(None)


def refusal(data: TrainingMixtures, state: Path) -> str:
    """What is said if only the first process sees a state."""
    elsewhere = state if dist.get_rank() == 0 else state.with_name("not-there.pt")
    try:
        fit(data, "mask", elsewhere)
    except AvsetError as e:
        return str(e)
    return ""


def work(rank: int, folder: Path, data: TrainingMixtures) -> None:
    """Everything that the tests look at, by one of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE)
    told: dict[str, Any] = {"gradients": {name: gradients(data, name) for name in CASES}}
    told["fit"] = {name: fit(data, name) for name in RUNS}
    told["resumed"] = {name: resumed(data, name, folder / f"{name}.pt") for name in RUNS}
    told["scores"] = {count: scores(count) for count in (2, 7)}
    told["refusal"] = refusal(data, folder / "all.pt")
    torch.save(told, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingMixtures:
    return two_kinds(tmp_path_factory.mktemp("distributed") / "store")


@pytest.fixture(scope="module")
def members(data: TrainingMixtures, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process of a group has found."""
    folder = tmp_path_factory.mktemp("group")
    torch.multiprocessing.spawn(work, (folder, data), SIZE)
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_gradients_are_those_of_the_whole_batch(members: list, data: TrainingMixtures, name: str):
    """And so are the means of the terms and the statistics of batch normalisation; what no loss reaches has none."""
    expected = gradients(data, name)
    for found in (told["gradients"][name] for told in members):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-14, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_in_float32_is_that_of_one_process(members: list, data: TrainingMixtures, name: str):
    """AdamW divides a gradient by its size, so a weight whose gradient is but rounding may move by lr either way."""
    alone, preset = fit(data, name), PRESETS_OF[name]
    apart = 8 * preset.lr if preset.optimizer == "adamw" else 1e-5
    for found in (told["fit"][name] for told in members):
        for (step, values), (expected_step, expected) in zip(found["log"], alone["log"], strict=True):
            assert step == expected_step and values == pytest.approx(expected, rel=1e-5)
        for key, value in alone["model"].items():
            torch.testing.assert_close(found["model"][key], value, rtol=1e-5, atol=apart, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_group_ends_as_an_undisturbed_one(members: list, name: str):
    for told in members:
        assert told["resumed"][name]["log"] == told["fit"][name]["log"] == members[0]["fit"][name]["log"]
        for key, value in members[0]["fit"][name]["model"].items():
            assert torch.equal(told["fit"][name]["model"][key], value), key
            assert torch.equal(told["resumed"][name]["model"][key], value), key


@pytest.mark.slow
def test_validation_is_shared_out(members: list):
    """Also if there are fewer things than processes."""
    for told in members:
        assert told["scores"] == {2: {"x": 0.5, "xx": 0.5}, 7: {"x": 3.0, "xx": 13.0}} == {n: scores(n) for n in (2, 7)}


@pytest.mark.slow
def test_a_state_that_not_all_see_is_refused(members: list):
    for told in members:
        assert "not every worker sees" in told["refusal"] and "AVSET_CACHE" in told["refusal"]


def test_alone_nothing_is_changed(data: TrainingMixtures):
    model = make_model(PRESETS_OF["batch"]).method
    before = dict(model.named_modules())
    assert distributed.parallel(model) is model and dict(model.named_modules()) == before
    assert [*distributed.shares(12, 24, 6)] == [[*range(12, 18)], [*range(18, 24)]]


def machines(*sizes: tuple[int, int]) -> list[dict[str, float]]:
    return [{"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {}) for cpus, gpus in sizes]


def test_workers_get_gpus_where_there_are_some():
    assert not ray_train.wants_gpu(machines((4, 0)), 2, 2, "auto")
    assert ray_train.wants_gpu(machines((8, 2), (8, 2)), 4, 2, "auto")
    assert not ray_train.wants_gpu(machines((8, 2)), 4, 2, "cpu")


@pytest.mark.parametrize(
    ("there", "workers", "cpus", "device", "room"),
    [
        (machines((3, 0), (3, 0)), 3, 2, "auto", "2, of 2 CPU"),  # a worker is on one machine
        (machines((16, 2), (16, 0)), 4, 2, "auto", "2, of 2 CPU .* and a GPU"),  # rather than slowly on CPUs
        (machines((16, 0)), 2, 2, "cuda", "0, of 2 CPU .* and a GPU"),
        ([{"memory": 1.0}], 2, 1, "cpu", "0, of 1 CPU"),
    ],
)
def test_a_cluster_without_room_says_so(there: list, workers: int, cpus: int, device: str, room: str):
    with pytest.raises(AvsetError, match=f"train.workers is {workers}, but the cluster has room for {room}"):
        ray_train.wants_gpu(there, workers, cpus, device)


class Trainers:
    """In the place of Ray's: each fit does the next of some things, which may be to raise."""

    def __init__(self, *things: Callable[[], None]):
        self.things = list(things)

    def fit(self) -> None:
        self.things.pop(0)()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_losses_are_forgiven_as_long_as_the_run_gets_ahead(tmp_path: Path):
    from ray.exceptions import ActorDiedError
    from ray.train import ControllerError, WorkerGroupError

    state = tmp_path / "state.pt"

    def fail(how: Exception, ahead: bool) -> None:
        if ahead:
            state.write_text(str(how))
            os.utime(state, ns=(0, state.stat().st_mtime_ns + 10**9))
        raise WorkerGroupError("lost", {0: RuntimeError("Connection closed by peer"), 1: how})

    def trained(*things: Callable[[], None]) -> int:
        trainers = Trainers(*things)
        ray_train.persevere(trainers.fit, state)
        return len(trainers.things)

    lost, ahead = partial(fail, ActorDiedError(), False), partial(fail, ActorDiedError(), True)
    assert trained(lost, ahead, ahead, lambda: None) == 0
    with pytest.raises(AvsetError, match="a worker died twice with no validation in between"):
        trained(lost, lost, lambda: None)
    with pytest.raises(WorkerGroupError):
        trained(*[partial(fail, ZeroDivisionError("a bug"), False)] * 2)
    with pytest.raises(AvsetError, match="the disk is full"):
        trained(partial(fail, AvsetError("the disk is full"), True))

    def refuse() -> None:
        raise ControllerError(RuntimeError("The start timed out. Causes may be many."))

    with pytest.raises(AvsetError, match=r"no room for train\.workers: The start timed out, again"):
        trained(refuse)


def test_ctrl_c_does_not_wait_for_ray():
    """Not at all for one of our own; a cluster is tidied up by Ray Train, which then ends the process with status 0."""
    began = threading.Event()
    threading.Thread(target=lambda: began.wait() and os.kill(os.getpid(), signal.SIGINT), daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        ray_train.run_trainer(Trainers(lambda: began.set() or threading.Event().wait()), alone=True)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ray_train.run_trainer(
            Trainers(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and sys.exit(0)), alone=False
        )
    assert signal.getsignal(signal.SIGINT) is before


def test_shares_must_be_equal():
    with pytest.raises(ParamsError, match=r"train.workers: 3 do not divide the 8 mixtures of train.batch_size evenly"):
        params.resolve(toy.params(scales__demo__train__workers=3, scales__demo__train__batch_size=8))


def refuse(device: str) -> None:
    raise AvsetError("the disk is full") if dist.get_rank() else ZeroDivisionError("closed")


def fall(device: str) -> None:
    if dist.get_rank():
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def stumble(device: str) -> None:
    if dist.get_rank():
        raise ValueError("a bug")
    dist.barrier()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "kind", "said"),
    [
        (refuse, AvsetError, "the disk is full"),
        (fall, AvsetError, "a worker was lost .exit code -9.*run again"),
        (stumble, RuntimeError, "closed|reset"),
    ],
)
def test_what_ends_one_process_of_a_group_is_told(work: Callable[[str], None], kind: type, said: str):
    with pytest.raises(kind, match=said) as told:
        group.run(work, 2, "cpu")
    assert work is not stumble or told.value.__notes__ == ["another worker: ValueError: a bug"]


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of a head and two machines (raylets, on this one) with a CPU each, at $RAY_ADDRESS."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    size = {"object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(**size, num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        cluster.shutdown()


def train_until(folder: Path, cache: Path, step: int, disturb: Callable[[], None]) -> tuple[int, str]:
    """The stage as a command, disturbed after a validation; its exit status and words."""
    environment = {**os.environ, "AVSET_CACHE": str(cache)}
    command = [sys.executable, "-m", "stages.train"]
    said = ""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            for line in process.stderr or ():
                said += line
                if f"step {step}/" in line:
                    disturb()
            return process.wait(), said
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_lost_machine_changes_no_byte(toy_data: Path, tmp_path: Path, two_machines: Any):
    """Through Ray; model and curves are those of two processes that nobody disturbed."""

    def lose_one() -> None:
        two_machines.remove_node(two_machines.list_all_nodes()[-1], allow_graceful=False)
        two_machines.add_node(object_store_memory=STORE, num_cpus=1)

    folders = {name: toy.clone(toy_data, tmp_path / name) for name in ("ray", "group")}
    sizes = {"steps": 60, "batch_size": 2, "validate_every": 10, "workers": 2}
    for name, folder in folders.items():
        executor = "ray" if name == "ray" else "processes"
        toy.project(folder, toy.params(scales__demo__train=sizes | {"threads": 1}, runtime__executor=executor))
    status, said = train_until(folders["ray"], tmp_path / "cache", 20, lose_one)
    assert status == 0, said
    assert "a worker was lost" in said and said.count("goes on at step") == 1
    assert not list((tmp_path / "cache" / "runs").iterdir()), "nothing is left"
    with (
        toy.inside(folders["ray"], tmp_path / "cache"),
        pytest.raises(AvsetError, match="has other code or other data"),
    ):
        import_module("stages.train").join(params.load(), "avset", tmp_path / "another.pt", tmp_path, 0, "cpu")
    toy.run(folders["group"], tmp_path / "other", "train")
    models = {name: folder / "data/demo/demo/models/avset" for name, folder in folders.items()}
    files = sorted(path.relative_to(models["ray"]) for path in models["ray"].rglob("*") if path.is_file())
    assert len(files) > 5
    for file in files:
        assert (models["ray"] / file).read_bytes() == (models["group"] / file).read_bytes(), file

"""Workers die: who kills them is found, what they held is done by others, nothing is done twice."""

from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from test_run import Square, begun, jobs, kept, squares

from avset.compute import worker as workers
from avset.compute.crew import Crew
from avset.compute.run import Job, Worker
from avset.errors import AvsetError


class Eager(Square):
    """Reads ahead."""

    def read(self, jobs: list[Job]) -> list[Job]:
        return jobs


class Fake:
    """A worker of a crew that makes its steps here, until a message with a deadly job, or the `dies`-th one."""

    sizes: ClassVar[list[int]] = []  # of all batches sent

    def __init__(self, folder: Path, dies: int, machine: bool):
        self.worker, self.dies, self.machine, self.receipts = Worker(partial(Eager, folder)), dies, machine, []

    def send(self, jobs: list[Job]) -> None:
        self.sizes.append(len(jobs))
        self.dies -= 1
        if self.dies and not any(job.payload["do"] == "die" for job in jobs):
            self.receipts = self.worker.step(jobs)
        else:
            self.dies = 0

    def receive(self) -> list:
        if not self.dies:
            self.finish()
            raise workers.Died("killed", self.machine)
        return self.receipts

    def finish(self) -> None:
        self.worker.__exit__()


def crew(folder: Path, todo: list[Job], lives: list[int], machine: bool = False, batch_size: int = 2) -> dict[str, str]:
    """Let two workers do jobs, of whom the first die after so many messages; returns the failures.

    With `machine` they die with their machine, but for the first one.
    """
    left, failed = iter([(n, machine and i > 0) for i, n in enumerate(lives)]), dict[str, str]()

    def take(receipts: list, workers: int) -> None:
        failed.update({clip: reason for clip, reason, _ in receipts if reason})

    hire = lambda: Fake(folder, *next(left, (-1, False)))  # noqa: E731
    batches = (todo[i : i + batch_size] for i in range(0, len(todo), batch_size))
    Fake.sizes.clear()
    Crew(batches, len(todo), hire, list, take).work(2)
    return failed


def test_who_kills_two_workers_is_to_blame_and_nobody_else(tmp_path: Path):
    todo = jobs(12, c4="die", c7="fail", c9="die")
    assert crew(tmp_path, todo, []) == {"c4": "worker_died", "c7": "corrupt", "c9": "worker_died"}
    assert kept(todo) == {**squares(12, 4, 7, 9), "c7": "corrupt"}


@pytest.mark.parametrize("machine", [False, True])
def test_lost_workers_and_machines_cost_what_they_were_computing(tmp_path: Path, machine: bool):
    assert crew(tmp_path, jobs(40), [-1, 5, 2, 4, 3], machine) == {}
    assert kept(jobs(40)) == squares(40)
    assert all(n == 1 for clip, n in begun(tmp_path).items()), "what was computed was kept, and is not done again"
    assert (1 in Fake.sizes) is not machine, "who kills is found one by one; what a machine held goes out as it was"


def test_a_lost_machine_blames_no_clip_however_often(tmp_path: Path):
    assert crew(tmp_path, jobs(2), [1] * 12, machine=True, batch_size=1) == {}, "nor one that a worker died on once"
    assert kept(jobs(2)) == squares(2)


def test_deaths_without_end_are_the_fault_of_no_clip(tmp_path: Path):
    with pytest.raises(AvsetError, match=r"cannot live, no clip is to blame: killed"):
        crew(tmp_path, jobs(100), [2] * 1000)


def test_any_number_of_clips_may_kill(tmp_path: Path):
    deadly = {f"c{i}": "die" for i in range(0, 150, 3)}
    assert crew(tmp_path, jobs(150, **deadly), [], batch_size=1) == dict.fromkeys(deadly, "worker_died")
    assert kept(jobs(150)) == squares(150, *range(0, 150, 3))

"""The benches measure what they say, and their plain ways give the numbers that ours give."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench import evaluation, measure, training
from bench.__main__ import growth_rows, row
from bench.measure import Case, Growth

ROOT = Path(__file__).parents[1]


def test_training_data_the_plain_way_is_ours(tmp_path: Path):
    """Files, resampling and sampling grids against crops of stored spectrograms; all but the crops' border frames."""
    assert 0 < training.apart(training.Corpus(tmp_path, count=3)) < 2e-3


def test_scores_the_plain_way_are_ours():
    assert evaluation.apart(evaluation.pairs(1, length=6000)) < 1e-6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Callable[[], None]]:
    """Makes calls that take so many seconds of a clock of the test's own."""
    now = [0.0]
    monkeypatch.setattr(measure, "_cpu", lambda: now[0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def call(*seconds: float) -> Callable[[], None]:
        waiting = [0.0, *seconds]  # the first is the call that warms up

        def take() -> None:
            now[0] += waiting.pop(0)

        return take

    return call


def test_ratios_are_of_a_unit_and_medians_of_rounds(clock):
    case = Case("path", "size", "clips", clock(8, 9, 100), clock(2, 1, 3), plain_work=0.5, ours_work=2, goal=10)
    found = measure.measure(case, rounds=3)
    assert (found.plain, found.ours) == (18, 1)
    assert found.ratio == 36, "the median of 16, 36 and 133: each round's own"
    assert found.spread == (16, pytest.approx(400 / 3))
    assert row(found).startswith("| path | size | 0.0556 clips/s | 1 clips/s | **36x** (16-133) | 10x |")


def test_ways_that_do_not_agree_are_not_compared():
    case = Case("path", "size", "clips", print, print, agree=lambda: float("nan"), tolerance=1.0)
    with pytest.raises(SystemExit, match="path, size: the two differ by nan, more than 1"):
        measure.measure(case)


def test_growth_is_told_by_unit(clock):
    growth = Growth("path", "clips", "clip", {"2": (clock(2, 4, 6), 2.0), "4": (clock(4, 4, 4), 4.0)}, "a note")
    found = measure.grow(growth)
    assert {size: seconds for size, (seconds, _) in found.items()} == {"2": 2.0, "4": 1.0}
    assert growth_rows(growth, found)[0].startswith("| path | clips | 2 | 2e+03 ms / clip |")
    assert growth_rows(growth, found)[-1] == "| | | a note | | |"


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_through():
    command = [ROOT / "bench" / "gpu.sh", "--device", "cpu", "--tiny"]
    said = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    for part in ("- avset, bfloat16: apart", "- copy: ", "| bfloat16, channels_last |", "h** for 100 epochs",
                 "- captions (demo", "- regions (demo", "- loader (0 processes): "):  # fmt: skip
        assert part in said.stdout


@pytest.mark.parametrize("megabytes", [30, 90])
def test_the_peak_is_what_a_call_needs_at_most(megabytes: int):
    def call() -> None:
        big = np.ones(megabytes * 2**17)
        del big
        np.ones(2**17)

    before = np.ones(2**24)
    assert measure.peak(call) / 2**20 == pytest.approx(megabytes, abs=6)
    assert before[0] == 1
    assert measure.peak(partial(int, 0)) < 4 * 2**20

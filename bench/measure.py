"""Measuring: two ways in turn, medians, peak memory; and growth of one way with size."""

import ctypes
import gc
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 1e6
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # what torch and BLAS read when they start


@dataclass(frozen=True)
class Case:
    """One row of the table: the same work done the plain way and ours.

    path, size        what is compared, and how big it is
    unit              of work, in the plural: "clips"
    plain, ours       one call of each, no arguments; what they return is thrown away
    plain_work        units that one call of `plain` does (a fraction where it does only some steps of one)
    ours_work         units that one call of `ours` does
    agree             how far results of the two are apart, and the most that is allowed; fails the bench if more
    wall              measure wall time, also where CPU time would do (work of several processes at once)
    goal              the least ratio that is promised
    memory_goal       the most of the plain way's peak memory that is promised
    """

    path: str
    size: str
    unit: str
    plain: Callable[[], Any]
    ours: Callable[[], Any]
    plain_work: float = 1.0
    ours_work: float = 1.0
    agree: Callable[[], float] | None = None
    tolerance: float = 0.0
    wall: bool = False
    goal: float | None = None
    memory_goal: float | None = None


@dataclass(frozen=True)
class Growth:
    """One path at several sizes: name of the size's axis, and per size the call and the units of work it does.

    `note` explains where time per unit is not the same at all sizes.
    """

    path: str
    axis: str
    unit: str
    sizes: dict[str, tuple[Callable[[], Any], float]]
    note: str = ""


@dataclass
class Result:
    """A measured case: seconds a unit of both (medians), their ratio (median of the rounds' own), peak bytes."""

    case: Case
    plain: float
    ours: float
    ratio: float
    spread: tuple[float, float]  # smallest and largest ratio of a round
    plain_peak: int
    ours_peak: int
    difference: float | None


def seconds(call: Callable[[], Any], device: str = "cpu", wall: bool = True) -> float:
    """Wall time of one call, the device's work included; or CPU time of this process and the children it waited for,
    which other work on the machine disturbs less."""
    wait(device)
    clock = time.perf_counter if wall or device == "cuda" else _cpu
    start = clock()
    call()
    wait(device)
    return clock() - start


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def wait(device: str) -> None:
    """Until the device has done all it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def peak(call: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes that one call needs at most beyond what was there before: of the device, or resident in this process.

    On the CPU the kernel's own high-water mark is set back before the call (Linux).
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before goes back, or a call would find it there
    if device == "cuda":
        import torch

        wait(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        wait(device)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def measure(case: Case, rounds: int = 5, device: str = "cpu") -> Result:
    """A B A B ...: a first call of each warms up and gives the peak, then `rounds` of both in turn."""
    difference = None
    if case.agree is not None:
        difference = float(case.agree())
        if not difference <= case.tolerance:
            raise SystemExit(
                f"{case.path}, {case.size}: the two differ by {difference:g}, more than {case.tolerance:g}"
            )
    peaks = [peak(call, device) for call in (case.plain, case.ours)]
    times = [
        (
            seconds(case.plain, device, case.wall) / case.plain_work,
            seconds(case.ours, device, case.wall) / case.ours_work,
        )
        for _ in range(rounds)
    ]
    ratios = [plain / ours for plain, ours in times]
    plain, ours = (statistics.median(column) for column in zip(*times, strict=True))
    spread = (min(ratios), max(ratios))
    return Result(case, plain, ours, statistics.median(ratios), spread, *peaks, difference)


def grow(growth: Growth, rounds: int = 3, device: str = "cpu") -> dict[str, tuple[float, int]]:
    """Per size: seconds a unit (median, sizes in turn), and peak bytes of one call."""
    peaks = {size: peak(call, device) for size, (call, _) in growth.sizes.items()}
    times: dict[str, list[float]] = {size: [] for size in growth.sizes}
    for _ in range(rounds):
        for size, (call, work) in growth.sizes.items():
            times[size].append(seconds(call, device, wall=False) / work)
    return {size: (statistics.median(found), peaks[size]) for size, found in times.items()}

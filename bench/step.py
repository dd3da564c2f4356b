"""The whole training step at the paper's setting: time, memory, where the time goes, how far from the machine's limit.

256 x 256 spectrograms, D = 1024, 49 regions of one frame, 2 sources, batch 20 (on the CPU: 1). An epoch of the paper's
lineage takes each of MUSIC's 536 videos 100 times.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.decoder import PAPER, SIDE
from bench.measure import MB, peak, seconds

VIDEOS, REPEATS, EPOCHS, BATCH = 536, 100, 100, 20
VARIANTS = {  # name -> precision, channels_last, torch.compile's mode
    "float32": ("float32", False, None),
    "float32, channels_last": ("float32", True, None),
    "bfloat16": ("bfloat16", False, None),
    "bfloat16, channels_last": ("bfloat16", True, None),
    "bfloat16, compiled": ("bfloat16", False, "default"),
    "bfloat16, compiled, CUDA graphs": ("bfloat16", False, "reduce-overhead"),
}
HEAD = (
    "| variant | s/step | peak GB | TFLOP/s | of the matrix product's rate | 100 epochs of MUSIC |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Setting:
    """What is trained: a preset, the sizes of its network, and how many mixtures of 2 sources at once."""

    batch: int
    preset: str = "avset"
    side: int = SIDE  # M and T
    sizes: dict[str, Any] = field(default_factory=lambda: PAPER)


class Step:
    """One step of `avset.training.train`: losses of Eq. 5, gradients, optimiser. The same inputs on every device."""

    def __init__(self, device: str, setting: Setting, precision: str = "float32", channels_last: bool = False):
        from avset import params
        from avset.features.spectrograms import Transform
        from avset.models.checkpoint import SeparationModel, Settings
        from avset.models.contract import Sizes
        from avset.training.train import Objective, make_optimizer

        torch.manual_seed(0)
        preset = params.load(Path(__file__).parents[1] / "params.yaml").presets[setting.preset]
        batch, side, dim, regions = setting.batch, setting.side, setting.sizes["dim"], setting.sizes["n_regions"]
        sizes = Sizes(Transform(11025, 1022, 256, side, side), **setting.sizes)
        method = SeparationModel(Settings(preset, sizes, True, "")).to(device).method
        if channels_last:
            method = method.to(memory_format=torch.channels_last)
        method.precision = precision
        captions, own = torch.randn(VIDEOS, dim).to(device), torch.arange(VIDEOS, device=device)
        self.objective: Any = Objective(method, {"captions": captions, "own": own})
        self.optimizer = make_optimizer(method, preset)
        sources = torch.rand(batch, 2, side, side).to(device)
        seen = torch.randn(batch, 2, 1, regions, dim).to(device).half()
        clips = torch.arange(2 * batch, device=device).view(batch, 2)
        self.batch = {"sources": sources, "mixture": sources.sum(1), "regions": seen, "clip": clips}

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.objective(self.batch)["loss"].backward()
        self.optimizer.step()


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product: the most that this machine does."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = lambda: [a @ b for _ in range(10)]  # noqa: E731
    product()
    return 10 * 2 * size**3 / min(seconds(product, device) for _ in range(5))


def flops(step: Step) -> int:
    """Floating point operations of one step, counted from the operators' shapes."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def shares(step: Step, device: str) -> str:
    """The operators that take most of the time."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=kinds, acc_events=True) as found:
        step()
    used = {
        event.key: event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        for event in found.key_averages()
    }
    total = sum(used.values())
    top = sorted(used, key=used.__getitem__, reverse=True)[:8]
    return ", ".join(f"{name.removeprefix('aten::')} {used[name] / total:.0%}" for name in top)


def hours(took: float, batch: int) -> float:
    """Of 100 epochs of MUSIC, at so many seconds a step of so many mixtures."""
    return took / batch * VIDEOS * REPEATS * EPOCHS / 3600


def row(name: str, device: str, setting: Setting, rounds: int) -> tuple[str, float, str]:
    """A variant: its row of the table, seconds a step, and where they go, if nothing is compiled.

    A step that does not fit the device's memory has a row that says so, and takes for ever.
    """
    precision, channels_last, mode = VARIANTS[name]
    try:
        step = Step(device, setting, precision, channels_last)
        work = flops(step)
        if mode is not None:
            step.objective = torch.compile(step.objective, mode=mode)
        with nullcontext() if mode is None else torch._dynamo.config.patch(suppress_errors=True):
            for _ in range(3 if device == "cuda" else 1):
                step()
            memory = peak(step, device)
            took = sorted(seconds(step, device) for _ in range(rounds))[rounds // 2]
        told = shares(step, device) if mode is None else ""
    except torch.OutOfMemoryError:
        return f"| {name} | out of memory | | | | |", float("inf"), ""
    rate = matmul_rate(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    return (
        f"| {name} | {took:.3g} | {memory / MB / 1e3:.3g} | {work / took / 1e12:.3g} | {work / took / rate:.0%} of "
        f"{rate / 1e12:.3g} TFLOP/s | {hours(took, setting.batch):.3g} h |"
    ), took, told  # fmt: skip


def text(device: str) -> Iterator[str]:
    """A table of the variants that the device can do, and profiles of those that are not compiled."""
    setting, profiles = Setting(BATCH if device == "cuda" else 1), []
    yield f"Training step, paper's setting, batch {setting.batch}, {device}:"
    yield ""
    yield from HEAD
    for name in VARIANTS if device == "cuda" else ["float32"]:
        told, _, where = row(name, device, setting, 20 if device == "cuda" else 3)
        yield told
        profiles += [f"Where the time goes ({name}): {where}."] if where else []
    yield ""
    yield from profiles

"""A GPU in fifteen minutes: `bench/gpu.sh`. Each line is printed as soon as it is measured.

Equality with the CPU, two ceilings, the training step at the paper's setting, captions and regions a second, the loader
against the step, and the hours that 100 epochs of MUSIC take.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from bench import captions
from bench.decoder import PAPER
from bench.measure import seconds
from bench.step import BATCH, HEAD, VARIANTS, Setting, Step, hours, matmul_rate, row

GOAL = 24  # hours
# What is held, and how far it may be from the CPU's in float32, over its length. Gradients of a batch norm behind small
# kernels are far apart in bfloat16 on every device.
TOLERANCES = {"float32": ("gradients", 1e-3), "bfloat16": ("losses", 0.05)}
PRESETS = ("paper", "avset")
TINY = {"dim": 16, "channels": [4, 8], "n_regions": 4}


def found(device: str, setting: Setting, precision: str) -> dict[str, torch.Tensor]:
    """The losses of one step, and the gradients of all parameters, each as one vector on the CPU."""
    step = Step(device, setting, precision)
    losses = step.objective(step.batch)
    losses["loss"].backward()
    told = {"losses": losses.values(), "gradients": [p.grad for p in step.objective.parameters() if p.grad is not None]}
    return {name: torch.cat([one.detach().double().flatten().cpu() for one in all_]) for name, all_ in told.items()}


def equality(device: str, setting: Setting) -> Iterator[str]:
    """How far losses and gradients are from the CPU's, on one mixture; SystemExit if too far."""
    torch.backends.cudnn.allow_tf32 = False
    for preset in PRESETS:
        one = replace(setting, preset=preset, batch=1)
        wanted = found("cpu", one, "float32")
        for precision, (held, most) in TOLERANCES.items():
            there = found(device, one, precision)
            apart = {name: float((there[name] - value).norm() / value.norm()) for name, value in wanted.items()}
            told = ", ".join(f"{name} {value:.1e}" for name, value in apart.items())
            yield f"- {preset}, {precision}: apart from the CPU in float32: {told}; {held}: at most {most:g}"
            if not apart[held] <= most:
                raise SystemExit(f"gpu: {preset}, {precision}: the {held} are not those of the CPU")
    torch.backends.cudnn.allow_tf32 = True  # torch's default; the table of steps is of it


def ceilings(device: str, tiny: bool) -> Iterator[str]:
    """A large matrix product, and a large copy."""
    rates = [f"{name} {matmul_rate(device, getattr(torch, name)) / 1e12:.3g} TFLOP/s" for name in TOLERANCES]
    yield f"- matrix product: {', '.join(rates)}"
    here = torch.empty(2**20 if tiny else 2**30, device=device)
    there = torch.empty_like(here)
    took = min(seconds(lambda: there.copy_(here), device) for _ in range(5))
    yield f"- copy: {2 * here.nbytes / took / 1e9:.3g} GB/s, read and written"


def steps(device: str, setting: Setting, tiny: bool) -> Iterator[str]:
    """The table of each preset, and the hours of its fastest variant."""
    names = [name for name, (*_, mode) in VARIANTS.items() if not tiny or mode is None]
    for preset in PRESETS:
        yield from (f"Preset `{preset}`, batch {setting.batch}, TF32 in float32's convolutions:", "", *HEAD)
        fastest: dict[float, str] = {}
        profiles = []
        for name in names:
            told, took, where = row(name, device, replace(setting, preset=preset), 3 if tiny else 20)
            fastest.setdefault(took, name)
            profiles += [f"- {name}: {where}"] if where else []
            yield told
        yield from ("", *profiles)
        best = min(fastest)
        took = hours(best, setting.batch)
        yield f"- **{took:.3g} h** for 100 epochs of MUSIC ({fastest[best]}); the goal is {GOAL} h"
        yield ""


def features(device: str, tiny: bool) -> Iterator[str]:
    """Captions and regions a second, by CLIP's RN50 with random weights, or by the demo's encoder."""
    name = "demo" if tiny else "RN50"
    encoder = (captions.demo if tiny else captions.rn50)(device)
    how = captions.OURS[name] | ({"steps": 3} if tiny else {})
    targets, _ = captions.problem(encoder, how["batch_size"], how["tokens"], how["init_std"])
    took = min(seconds(lambda: captions.ours(encoder, targets, how, how["steps"]), device) for _ in range(2))
    yield f"- captions ({name}, {how['steps']} steps, {len(targets)} at once): {len(targets) / took:.3g} /s"
    images = torch.rand(2 if tiny else 256, 3, encoder.size, encoder.size, device=device)
    took = min(seconds(lambda: encoder.forward_image(images, True), device) for _ in range(3))
    each = encoder.grid[0] * encoder.grid[1]
    yield f"- regions ({name}): {len(images) * each / took:.3g} /s, {len(images) / took:.3g} frames/s"


def loader(device: str, batch: int, tiny: bool) -> Iterator[str]:
    """Mixtures a second from a store on this machine's disk to the device."""
    from torch.utils.data import DataLoader

    from bench.training import Corpus

    workers = 0 if tiny else min(16, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        data = Corpus(Path(folder), count=3 if tiny else 64).data
        reader = DataLoader(data, batch, sampler=range(batch * (2 if tiny else 100)), num_workers=workers,
                            pin_memory=device == "cuda")  # fmt: skip
        began, count = 0.0, 0
        for mixtures in reader:
            for one in mixtures.values():
                one.to(device, non_blocking=True)
            began, count = began or time.perf_counter(), count + batch
        rate = (count - batch) / (time.perf_counter() - began)
    yield f"- loader ({workers} processes): {rate:.4g} mixtures/s; 24 h for MUSIC take {hours(1, 1) / GOAL:.3g}"


def lines(device: str, tiny: bool) -> Iterator[str]:
    """The report, in Markdown."""
    setting = Setting(2, side=16, sizes=TINY) if tiny else Setting(BATCH, sizes=PAPER)
    machine = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    yield f"## {machine}, torch {torch.__version__}"
    parts = {
        "Equal to the CPU": equality(device, setting), "Ceilings": ceilings(device, tiny),
        "Training step": steps(device, setting, tiny), "Captions and regions": features(device, tiny),
        "Training data": loader(device, setting.batch, tiny),
    }  # fmt: skip
    for name, told in parts.items():
        yield from ("", f"### {name}", "")
        yield from told


def main() -> None:
    """Print the report, line by line."""
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes at which all of it takes seconds")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --tiny shows that the script runs")
    for line in lines(asked.device, asked.tiny):
        print(line, flush=True)


if __name__ == "__main__":
    main()

"""A `dvc repro` that changes nothing, against one of a project that has nothing in it but DVC."""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BARE = "stages:\n  one:\n    cmd: echo 1 > out\n    deps: [dep]\n    outs: [out]\n"
STAGES = ("frames", "spectrograms", "regions", "captions")


def timed(folder: Path, *command: str) -> float:
    """Seconds of a command; it must succeed."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def text(device: str) -> Iterator[str]:
    """DVC alone, ours, and each per-clip stage that is run and finds nothing to do; medians, in turn."""
    told = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "-q"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if told.returncode:
        yield "A `dvc repro` that changes nothing: run `dvc repro` in the project first, then this again."
        return
    bare = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        (bare / "dvc.yaml").write_text(BARE)
        (bare / "dep").touch()
        for command in (("dvc", "init", "-q", "--no-scm"), ("dvc", "repro", "-q")):
            timed(bare, *command)
        found: dict[str, list[float]] = {"bare": [], "ours": []} | {stage: [] for stage in STAGES}
        for _ in range(5):
            found["bare"].append(timed(bare, "dvc", "repro"))
            found["ours"].append(timed(ROOT, "dvc", "repro"))
            for stage in STAGES:
                found[stage].append(timed(ROOT, f"stages.{stage}"))
    finally:
        shutil.rmtree(bare)
    took = {name: statistics.median(times) for name, times in found.items()}
    yield (
        f"`dvc repro` that changes nothing: {took['ours']:.2f} s; DVC's own overhead, a project of one stage and one "
        f"file: {took['bare']:.2f} s; between them {took['ours'] - took['bare']:.2f} s (goal: 1 s)."
    )
    stages = ", ".join(f"{stage} {took[stage]:.2f} s" for stage in STAGES)
    yield f"A stage that is run and finds all its items made (`python -m stages.<stage>`): {stages}."

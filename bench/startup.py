"""Start-up: seconds until a command or a stage is there, and the heavy packages that it brings."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.measure import seconds

ROOT = Path(__file__).parents[1]
STAGES = (
    "clips",
    "frames",
    "spectrograms",
    "encoder",
    "regions",
    "captions",
    "mixtures",
    "sets",
    "train",
    "evaluate",
    "report",
)
HEAVY = (
    "torch", "torchaudio", "torchvision", "open_clip", "ray", "dvc", "pandas", "scipy", "mir_eval", "matplotlib",
    "h5py", "pyarrow", "av", "numpy",
)  # fmt: skip
CACHES = Path("/proc/sys/vm/drop_caches")
ROUNDS = 5


def commands() -> dict[str, list[str]]:
    """Arguments of the interpreter, by what the table calls them."""
    told = {"python -c pass": ["-c", "pass"]}
    for words in ("", "separate ", "store "):
        told[f"avset {words}--help"] = ["-m", "avset", *words.split(), "--help"]
    return told | {f"import stages.{stage}": ["-c", f"import stages.{stage}"] for stage in STAGES}


def brought(arguments: list[str]) -> list[str]:
    """The heavy packages that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return [package for package in HEAVY if package in found]


def start(arguments: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def cold(arguments: list[str]) -> float | None:
    """Seconds when no file is in the kernel's cache; None where that cannot be emptied."""
    subprocess.run(["sync"], check=True)
    try:
        CACHES.write_text("3")
    except OSError:
        return None
    return seconds(partial(start, arguments))


def text(device: str) -> Iterator[str]:
    """The table."""
    yield "| start of | seconds (median, lowest) | cold | heavy packages |"
    yield "|---|---|---|---|"
    told = commands()
    packages = {name: ", ".join(brought(arguments)) for name, arguments in told.items()}  # also warms up
    times = [{name: seconds(partial(start, arguments)) for name, arguments in told.items()} for _ in range(ROUNDS)]
    firsts = {name: cold(arguments) for name, arguments in told.items()}
    for name, first in firsts.items():
        found = [each[name] for each in times]
        row = f"{statistics.median(found):.2f}, {min(found):.2f} | {'' if first is None else format(first, '.2f')}"
        yield f"| `{name}` | {row} | {packages[name]} |"
    if None in firsts.values():
        yield f"No cold starts: {CACHES} cannot be written here."

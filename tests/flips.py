"""Flips single bits in the artifacts of a tiny project, and looks what those do that read them.

    python tests/flips.py --count 1000 --seed 0

Every trial takes a copy of the project, flips one bit of one file (its size and time stay), lets `avset store verify`
look, and runs one of the commands that read the artifact: a stage, `avset separate`, `avset localize`. It must refuse
in one sentence that names the file, or give what it gives without the flip: the bit was in nothing that it reads. Other
results are silent, other exceptions and signals are tracebacks. A summary of JSON comes last; the exit code is 1 if
something was silent, a traceback, or not seen by verify.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import soundfile
import toy

from avset.errors import AvsetError
from avset.params import folder_of
from avset.storage import inspect

DATA = Path("data/demo/demo")
REPORTS = Path("reports/demo/demo")
READERS = {  # artifact -> those that read it
    "clips": ("frames", "spectrograms", "mixtures", "sets", "train", "evaluate", "report"),
    "frames": ("regions", "evaluate"),
    "spectrograms": ("mixtures", "sets", "train", "evaluate"),
    "encoder": ("regions", "captions", "evaluate", "separate", "localize"),
    "regions": ("captions", "train", "evaluate"),
    "captions": ("train", "evaluate", "report"),
    "mixtures": ("train", "evaluate", "report"),
    "sets": ("evaluate", "report"),
    "models": ("evaluate", "separate", "localize"),
    "scores": ("report",),
    "reports": ("nobody",),
}
SLOW = (  # modules that are imported once, and not in every trial
    *(f"stages.{name}" for name in (*toy.STAGES, "train", "evaluate", "report")), "avset.inference.files",
    "avset.report.plots", "avset.features.captions", "avset.features.regions", "open_clip", "dvclive",
)  # fmt: skip
HEAD = 4096  # bytes at the start of a file that get half of the flips: there formats say what follows


def place(artifact: str) -> Path:
    """The folder of an artifact, of the one method where there are several."""
    folder = REPORTS if artifact == "reports" else folder_of(DATA, artifact)
    return folder / "avset" if artifact in ("models", "scores") else folder


def run_stage(stage: str) -> dict[str, str]:
    """Run a stage without what it made before; what it makes now, by file."""
    artifact = {"train": "models", "evaluate": "scores"}.get(stage, stage)
    made = REPORTS if stage == "report" else place(artifact)
    shutil.rmtree(made)
    import_module(f"stages.{stage}").main(path=Path("params.yaml"))
    return contents(made)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def separate() -> dict[str, str]:
    """What a separation writes."""
    from avset.inference.files import separate_file_to_file
    from avset.inference.separate import Separator

    separate_file_to_file(Separator.load(place("models")), Path("in.wav"), "a violin", Path("out/out.wav"))
    return contents(Path("out"))


def localize() -> dict[str, str]:
    """What a localisation writes."""
    from avset.inference.files import localize_file_to_file
    from avset.inference.separate import Separator

    localize_file_to_file(Separator.load(place("models")), Path("in.mkv"), "a violin", Path("out/out.png"))
    return contents(Path("out"))


def read_by(reader: str) -> dict[str, str]:
    """Let one of `READERS` read; what it gives."""
    if reader == "nobody":
        return {}
    Path("out").mkdir()
    return {"separate": separate, "localize": localize}.get(reader, lambda: run_stage(reader))()


def copy_of(project: Path, folder: Path) -> Path:
    """A project folder whose files are hard links to those of another."""
    return Path(shutil.copytree(project, folder, symlinks=True, copy_function=os.link))


def in_process(work: Callable[[], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What `work` returns in a process of its own, in a folder and with an empty cache, or how the process ended."""
    answer = folder / "answer.json"
    if (child := os.fork()) == 0:
        os.chdir(folder)
        os.environ["AVSET_CACHE"] = str(folder / "cache")
        code = 1
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                try:
                    told = {"made": work()}
                except AvsetError as e:
                    told = {"refused": str(e)}
                except Exception as e:
                    told = {"traceback": f"{type(e).__name__}: {str(e)[:200]}"}
            answer.write_text(json.dumps(told))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if answer.exists():
        told = dict(json.loads(answer.read_text()))
        answer.unlink()
        return told
    return {"traceback": f"signal {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "died"}


def flip(path: Path, rng: random.Random) -> str:
    """Flip a bit of a file that keeps its size and time; says which."""
    data, stat = bytearray(path.read_bytes()), path.stat()
    at = rng.randrange(min(len(data), HEAD) if rng.random() < 0.5 else len(data))
    bit = rng.randrange(8)
    data[at] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return f"{path.name}, byte {at}, bit {bit}"


def trial(
    project: Path, folder: Path, artifact: str, rng: random.Random, usual: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """One flip in an artifact: what became of it. `usual` tells what a reader gives without a flip."""
    copy_of(project, folder)
    top = folder / place(artifact)
    target = rng.choice(sorted(path for path in top.rglob("*") if path.is_file() and path.stat().st_size))
    reader, where = rng.choice(READERS[artifact]), flip(target, rng)

    def verified() -> dict[str, Any]:
        return inspect.verify(place(artifact))[1]

    seen = in_process(verified, folder)
    told = in_process(lambda: read_by(reader), folder)
    if "made" in told:
        outcome = "the same" if told == usual(reader) else "silent"
    else:
        outcome = "refused" if "refused" in told else "traceback"
        if outcome == "refused" and (target.name not in told["refused"] or "\n" in told["refused"]):
            outcome = "refused without its name"
    noticed = bool(seen.get("made") or seen.get("refused"))
    said = told.get("refused") or told.get("traceback", "")
    return {"artifact": artifact, "flip": where, "reader": reader, "outcome": outcome, "verify": noticed, "said": said}


def scored(folder: Path) -> Path:
    """The tiny project with a trained, evaluated and reported model, and two files to separate and to localize."""
    project = toy.project(folder / "project", toy.params(runtime__executor="inline"))
    toy.run(project, folder / "cache", *toy.STAGES, "train", "evaluate", "report")
    return project


def main() -> int:
    """Try; print what went wrong, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--project", type=Path, help="A project made before, as tests/toy.py makes it; default: anew.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flips-") as place_of_work:
        rng = random.Random(options.seed)
        artifacts = (rng.choice([*READERS]) for _ in range(options.count))
        summary = attack(options.project, Path(place_of_work), artifacts, rng)
    print(json.dumps({"seed": options.seed, **summary}, indent=2))
    return int(bool(summary["wrong"]))


def attack(project: Path | None, work: Path, artifacts: Iterable[str], rng: random.Random) -> dict[str, Any]:
    """Flip a bit in one artifact after the other; how many trials ended how."""
    base = copy_of(project.absolute() if project else scored(work), work / "base")
    medium = sorted((base / folder_of(DATA, "clips") / "media").iterdir())[0]
    os.link(medium, base / "in.mkv")
    soundfile.write(base / "in.wav", [(i % 97) / 97 - 0.5 for i in range(44100)], 11025)
    for name in SLOW:
        import_module(name)

    @cache
    def usual(reader: str) -> dict[str, Any]:
        told = in_process(lambda: read_by(reader), copy_of(base, work / "usual"))
        assert "made" in told, f"{reader}: {told}"
        shutil.rmtree(work / "usual")
        return told

    began, found = time.monotonic(), []
    for number, artifact in enumerate(artifacts):
        found.append(trial(base, work / "trial", artifact, rng, usual))
        shutil.rmtree(work / "trial")
        one = found[-1]
        if one["outcome"] not in ("refused", "the same") or not one["verify"]:
            print(json.dumps({"number": number, **one}), flush=True)
        if number % 100 == 99:
            print(f"{number + 1} flips, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    wrong = [one for one in found if one["outcome"] not in ("refused", "the same") or not one["verify"]]
    return {
        "flips": len(found),
        "outcomes": dict(Counter(one["outcome"] for one in found)),
        "seen by verify": sum(one["verify"] for one in found),
        "by artifact": {name: dict(Counter(one["outcome"] for one in found if one["artifact"] == name))
                        for name in READERS},
        "wrong": len(wrong),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench`: the tables, or some paths of them: `python -m bench captions evaluation`."""

import argparse
import importlib
import json
import os
import subprocess
import sys

from bench import measure
from bench.measure import MB, THREADS, Growth

PATHS = {  # module -> what it measures
    "captions": "latent captions",
    "decoder": "region decoder, forward + backward",
    "training": "training data, and CLIP in the training step",
    "step": "the training step at the paper's setting",
    "evaluation": "evaluation",
    "decoding": "frames + spectrograms",
    "repro": "a `dvc repro` that changes nothing",
    "separation": "separating long recordings by text",
    "combined": "queries that exclude, share, or are shown, on the demo of this folder",
    "startup": "start-up of commands and stages",
    "scale": "the stages' bookkeeping, by the number of clips",
}


def row(result: measure.Result) -> str:
    """A measured case as a row of the table."""
    case = result.case
    goal = "" if case.goal is None else f"{case.goal:g}x"
    if case.memory_goal is not None:
        goal += f", {case.memory_goal:.2g} of the memory"
    agreement = "" if result.difference is None else f"{result.difference:.1e}"
    low, high = result.spread
    rate = [f"{1 / seconds:.3g} {case.unit}/s" for seconds in (result.plain, result.ours)]
    memory = f"{result.plain_peak / MB:.0f}, {result.ours_peak / MB:.0f}"
    if case.memory_goal is not None:
        memory += f" ({result.ours_peak / max(1, result.plain_peak):.2f})"
    ratio = f"**{result.ratio:.3g}x** ({low:.3g}-{high:.3g})"
    return f"| {case.path} | {case.size} | {' | '.join(rate)} | {ratio} | {goal} | {memory} | {agreement} |"


def growth_rows(growth: Growth, found: dict[str, tuple[float, int]]) -> list[str]:
    """A measured growth as rows of its table."""
    rows = [
        f"| {growth.path} | {growth.axis} | {size} | {1e3 * seconds:.3g} ms / {growth.unit} | {peak / MB:.0f} |"
        for size, (seconds, peak) in found.items()
    ]
    return [*rows, *([f"| | | {growth.note} | | |"] if growth.note else [])]


def run(name: str, options: argparse.Namespace) -> None:
    """One path, in this process; its rows as JSON on the last line of stdout."""
    module = importlib.import_module(f"bench.{name}")
    told: dict[str, list[str]] = {"rows": [], "growth": [], "text": []}
    if not options.only_growth:
        for case in getattr(module, "cases", lambda device: ())(options.device):
            told["rows"].append(row(measure.measure(case, options.rounds, options.device)))
            print(told["rows"][-1], file=sys.stderr, flush=True)
    if options.growth or options.only_growth:
        for growth in getattr(module, "growth", lambda device: ())(options.device):
            told["growth"] += growth_rows(growth, measure.grow(growth, max(3, options.rounds // 2), options.device))
    sizes = [options.clips] if name == "scale" else []
    told["text"] += getattr(module, "text", lambda device: ())(options.device, *sizes)
    print(json.dumps(told))


def main() -> None:
    """Every path in a process of its own, then the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help=f"{', '.join(PATHS)}; all by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="of plain and ours in turn")
    parser.add_argument("--threads", type=int, default=1, help="of torch and BLAS in each process")
    parser.add_argument("--growth", action="store_true", help="also how each path grows with size")
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000], help="of `scale`")
    parser.add_argument("--only-growth", action="store_true", help="nothing but that")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.paths) - PATHS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PATHS)}")
    if options.here:
        return run(options.paths[0], options)
    flags = [f"--{name}={getattr(options, name)}" for name in ("device", "rounds", "threads")]
    flags += [f"--{name}" for name in ("growth", "only-growth") if getattr(options, name.replace("-", "_"))]
    flags += ["--clips", *map(str, options.clips)]
    threads = dict.fromkeys(THREADS, str(options.threads))
    found: dict[str, list[str]] = {"rows": [], "growth": [], "text": []}
    failed = []
    for name in options.paths or PATHS:
        print(f"bench: {PATHS[name]}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "bench", name, "--here", *flags]
        done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(name)
            continue
        for kind, rows in json.loads(done.stdout.splitlines()[-1]).items():
            found[kind] += rows
    if found["rows"]:
        print("| path | size | plain | ours | ratio (rounds) | goal | peak MB: plain, ours | difference |")
        print("|---|---|---|---|---|---|---|---|", *found["rows"], sep="\n")
    if found["growth"]:
        print("\n| path | grows with | size | time | peak MB |\n|---|---|---|---|---|", *found["growth"], sep="\n")
    if found["text"]:
        print("", *found["text"], sep="\n")
    if failed:
        sys.exit(f"bench: no result for {', '.join(failed)}")


if __name__ == "__main__":
    main()

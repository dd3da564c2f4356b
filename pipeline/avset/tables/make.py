"""Make what is planned: the nodes one by one, by DVC; and a node, by its stage in its folder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from avset.errors import AvsetError
from avset.storage.files import make_folder, replace_folder, write_atomic, write_json
from avset.tables.nodes import NODES, PLAN, WORK, Plan, steps_of

NOT_WHOLE = ("was trained before", "goes on at step")  # what `train` says if it did not take all its steps now


def make(name: str) -> None:
    """Run the stage of a node, from the tables' folder, and note how long it took.

    AvsetError if the stage fails; `failure_of` says why then. A training that was restored, or taken up, has no time.
    """
    node = json.loads(Path(PLAN).read_bytes())["nodes"][name]
    folder, out, began, whole = Path(WORK) / name, Path(NODES) / name, time.monotonic(), True
    failure, said = _failure(Path(), name), ""
    failure.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"stages.{node['stage']}", *([node["method"]] if node["method"] else [])]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, errors="replace") as running:
        assert running.stderr is not None
        for line in running.stderr:
            whole = whole and not any(words in line for words in NOT_WHOLE)
            said = line.split("\r")[-1].strip() or said
            sys.stderr.write(line)
            sys.stderr.flush()
    if running.returncode:
        write_atomic(failure, (said.removeprefix("error: ") or f"it ended with {running.returncode}").encode())
        raise AvsetError(f"tables: {name} was not made, see above")
    make_folder(out.parent)
    replace_folder(folder / node["makes"], out)
    write_json(out.with_name(f"{name}.json"), {"seconds": round(time.monotonic() - began, 1) if whole else None})
    if node["stage"] == "evaluate":
        print(progress(Path()), flush=True)


def failure_of(folder: Path, name: str) -> str:
    """Why a node could not be made when it was last tried; "" if it was made, or never tried."""
    path = _failure(folder, name)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _failure(folder: Path, name: str) -> Path:
    return folder / WORK / f"{name}.failed"


def progress(folder: Path) -> str:
    """How many cells are made, and about how long the others take: as long as the mean of those that were timed."""
    stages = json.loads((folder / "dvc.yaml").read_bytes())["stages"]
    costs = {name: folder / NODES / f"{name}.json" for name in stages}
    seconds = {name: cost_of(path) for name, path in costs.items() if path.exists()}
    cells = [name for name in stages if name.startswith("evaluate-")]
    made = sum(name in seconds for name in cells)
    per_cell = [sum(known) for kind in ("train-", "evaluate-") if (known := _mean(seconds, kind))]
    told = f"tables: {made} of {len(cells)} cells are made"
    if made == len(cells) or not per_cell:
        return told
    return f"{told}; the others take about {(len(cells) - made) * sum(per_cell) / 60:.0f} min"


def _mean(seconds: dict[str, float | None], kind: str) -> list[float]:
    """The mean time of the nodes of a kind, as far as one is known."""
    known = [value for name, value in seconds.items() if name.startswith(kind) and value is not None]
    return [fmean(known)] if known else []


def cost_of(path: Path) -> float | None:
    """The seconds that a node took; None if they are not known."""
    seconds = json.loads(path.read_bytes())["seconds"]
    return None if seconds is None else float(seconds)


def check_current(made: Plan) -> None:
    """AvsetError if an artifact of the main pipeline is not what its parameters, inputs and code say."""
    if not Path(".dvc").is_dir():
        return
    steps = steps_of(made.tree)
    stages = sorted({steps[one].address for one in made.linked})
    if others := sorted(_status(Path(), *stages)):
        raise AvsetError(f"tables: {others[0]} of the main pipeline is not up to date; run `dvc repro {others[0]}`")


def changed(made: Plan) -> set[str]:
    """The names of the nodes that are not there, or are no longer what their code and data say."""
    return set(_status(made.folder))


def to_make(made: Plan) -> list[str]:
    """The names of the cells that DVC will make, or make again."""
    waiting = changed(made)
    return [name for name, node in made.cells.items() if waiting & {one.name for one in node.all()}]


def repro(made: Plan) -> None:
    """Make everything that is not made. AvsetError if a node fails; those that do not need it are made all the same."""
    done = subprocess.run([*_dvc(), "repro", "--keep-going"], cwd=made.folder, env=_environment())
    if done.returncode:
        raise AvsetError("tables: not all cells could be made, see above; `avset tables` goes on with the others")


def _status(folder: Path, *stages: str) -> dict[str, Any]:
    done = subprocess.run(
        [*_dvc(), "status", "--json", *stages], cwd=folder, env=_environment(), capture_output=True, text=True
    )
    if done.returncode:
        said = next(_lines(done.stderr), "dvc status failed")
        raise AvsetError(f"tables: DVC cannot tell what is up to date in {folder.absolute()}: {said}")
    return dict(json.loads(done.stdout))


def _lines(text: str) -> Iterator[str]:
    return (line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.strip())


def _dvc() -> list[str]:
    return [sys.executable, "-m", "dvc"]


def _environment() -> dict[str, str]:
    """In which `python` is this one, and finds this library."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    library = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PATH": path, "PYTHONPATH": library}

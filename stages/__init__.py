"""One file per stage of dvc.yaml: parameters in, stores open, map, write. No arithmetic.

`python -m stages.<stage>` runs a stage without DVC; `--help` says what it makes.
"""

import ast
import fcntl
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline import params
from pipeline.errors import AvsetError
from pipeline.parallel import Job, Mapper, compute
from pipeline.params import Params
from pipeline.store import Item, ItemCache, assemble, require

PLUMBING = {  # moves data and never decides its content: no dependency of any stage
    "pipeline/__init__.py", "pipeline/errors.py", "pipeline/params.py", "pipeline/parallel.py",
    "pipeline/store.py", "stages/__init__.py",
}  # fmt: skip


def command(main: Callable[..., None]) -> None:
    """Run a stage's function as a command; our own errors end it with one line."""
    try:
        typer.run(main)
    except AvsetError as e:
        typer.secho(f"error: {e}", fg="red", err=True)
        sys.exit(1)


ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.")]
PARAMS = Path("params.yaml")


def begin(stage: str, path: Path, method: str = "") -> Params:
    """Load the parameters and say which profile runs."""
    p = params.load(path)
    print(f"{stage}: dataset {p.dataset}" + (f", method {method}" if method else ""), file=sys.stderr, flush=True)
    return p


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """One process at a time makes an artifact: a killed `dvc repro` may have left its stage running."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise AvsetError(f"another process is making {folder}; wait for it, or end it") from e
        yield


def code_digest(stage: str) -> str:
    """sha256 of the code that decides a stage's content: the .py dependencies of dvc.yaml, comments aside."""
    tree = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][stage]
    names = sorted(d for d in tree.get("do", tree)["deps"] if d.endswith(".py") and not d.startswith("stages/"))
    return params.digest({name: _meaning(Path(name)) for name in names})


def _meaning(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def build(
    stage: str,
    p: Params,
    clips: dict[str, dict[str, Any] | None],
    factory: Callable[[], Mapper],
    recipe: dict[str, Any],
    inputs: dict[str, str],
    dimensions: dict[str, tuple[str, ...]],
    batch_size: int = 1,
) -> None:
    """The whole of a per-clip stage: compute what the cache lacks, assemble the store, gate on failures.

    `clips` maps every clip to the payload of its job, whose "digest" identifies its input (None: it failed
    upstream); `recipe` is what else decides a value, `inputs` what the whole stage reads (the encoder, ...).
    """
    identity = {"recipe": recipe, "code": code_digest(stage), "inputs": inputs}
    jobs = [
        Job(clip, params.digest([stage, identity, clip, payload["digest"]]), payload)
        for clip, payload in clips.items()
        if payload is not None
    ]
    with only_writer(p.data / stage):
        forgotten = compute(stage, jobs, factory, p.runtime, batch_size)
        keys, cache = {job.clip_id: job.key for job in jobs}, ItemCache()

        def item_of(clip: str) -> tuple[Item, str]:
            if clip not in keys:
                return Item(reason="upstream"), ""
            kept = cache.get(keys[clip])
            if kept is None and clip not in forgotten:  # damaged in the cache: once more
                forgotten.update(compute(stage, [j for j in jobs if j.clip_id == clip], factory, p.runtime))
                kept = cache.get(keys[clip])
            return kept or (forgotten[clip], "")

        rows = assemble(p.data / stage, stage, clips, item_of, identity, dimensions)
    gate(stage, rows, p.clips.min_success)


def gate(stage: str, rows: list[dict[str, Any]], min_success: float) -> None:
    """AvsetError if too few clips got through this stage."""
    tried = [row for row in rows if row["reason"] != "upstream"]
    ok = sum(row["status"] == "ok" for row in tried)
    if ok == 0 or ok < min_success * len(tried):
        reasons = sorted({f"{row['reason']} ({row['detail']})" for row in tried if row["reason"]})
        raise AvsetError(
            f"{stage}: {ok} of {len(tried)} clips succeeded, fewer than clips.min_success = {min_success}; "
            f"reasons: {'; '.join(reasons[:5]) or 'no clip at all'}"
        )


__all__ = ["PARAMS", "ParamsFile", "begin", "build", "command", "gate", "only_writer", "require"]

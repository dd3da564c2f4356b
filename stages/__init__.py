"""One file per stage of dvc.yaml: parameters in, stores open, map, write. No arithmetic.

`python -m stages.<stage>` runs a stage without DVC; `--help` says what it makes.
"""

import ast
import fcntl
import hashlib
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline import params
from pipeline.errors import REASONS, AvsetError
from pipeline.parallel import Job, Mapper, compute
from pipeline.params import Params
from pipeline.store import Item, ItemCache, Store, assemble, read_table, require
from pipeline.stores import recompute


def command(main: Callable[..., None]) -> None:
    """Run a stage's function as a command; our own errors end it with one line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=sys.modules[main.__module__].__doc__)(main)
    try:
        app()
    except AvsetError as e:
        typer.secho(f"error: {e}", fg="red", err=True)
        sys.exit(1)


ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.")]
PARAMS = Path("params.yaml")
Verify = Annotated[
    int, typer.Option(min=0, help="Make so many random clips anew, compare them with the store, write nothing.")
]


def begin(stage: str, path: Path, method: str = "") -> Params:
    """Load the parameters and say which profile runs; AvsetError if the disks are too full to start."""
    p = params.load(path)
    print(
        f"{stage}: dataset {p.dataset}" + (f", method {method}" if method else ""),
        file=sys.stderr,
        flush=True,
    )
    enough_room(p.runtime.min_free_gb)
    return p


def enough_room(gigabytes: float) -> None:
    """AvsetError if less is free where the artifacts are, or where the item cache is."""
    for place in (Path.cwd(), ItemCache().root.absolute()):
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(existing).free / 1e9
        if free < gigabytes:
            raise AvsetError(
                f"{place} has {free:.1f} GB free, less than runtime.min_free_gb = {gigabytes:g}; "
                "free space, or lower it"
            )


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """One process at a time makes an artifact: a killed `dvc repro` may have left its stage running."""
    lock = Path("data/.locks") / ".".join(folder.parts)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise AvsetError(f"another process is making {folder}; wait for it, or end it") from e
        yield


def code_digest(stage: str, package: str = "") -> str:
    """sha256 of the code that decides a stage's content: the .py dependencies of dvc.yaml, comments aside.

    A dependency that is a folder counts only by the modules in `package`, a folder in it.
    """
    tree = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][stage]
    names = [d for d in tree.get("do", tree)["deps"] if d.endswith(".py") and not d.startswith("stages/")]
    names += [path.as_posix() for path in Path(package).rglob("*.py")] if package else []
    return params.digest({name: _meaning(Path(name)) for name in sorted(names)})


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
    of: dict[str, str] | None = None,
    verify: int = 0,
) -> None:
    """The whole of a per-clip stage: compute what the cache lacks, assemble the store, gate on failures.

    `clips` maps every clip to the payload of its job, whose "digest" identifies its input (None: it failed
    upstream); `recipe` is what else decides a value, `inputs` what the whole stage reads (the encoder, ...).
    Where several clips share an item, `of` names for each clip (but those that failed upstream) the one whose job
    makes it; the index has it as a column. With `verify` so many random clips are made anew and compared with the
    store, and nothing is written.
    """
    shared = of or {}
    identity = {"recipe": recipe, "code": code_digest(stage), "inputs": inputs}
    jobs = [
        Job(clip, params.digest([stage, identity, clip, payload["digest"]]), payload)
        for clip, payload in clips.items()
        if payload is not None and shared.get(clip, clip) == clip
    ]
    if verify:
        return compare(p.data / stage, identity, jobs, factory, verify)
    with only_writer(p.data / stage):
        forgotten = compute(stage, jobs, factory, p.runtime, batch_size)
        keys, cache = {job.clip_id: job.key for job in jobs}, ItemCache()

        def item_of(clip: str) -> tuple[Item, str]:
            maker = shared.get(clip, clip)
            if maker not in keys:
                return Item(reason="upstream"), ""
            kept = cache.get(keys[maker])
            if kept is None and maker not in forgotten:  # damaged in the cache: once more
                forgotten.update(compute(stage, [j for j in jobs if j.clip_id == maker], factory, p.runtime))
                kept = cache.get(keys[maker])
            item, digest = kept or (forgotten[maker], "")
            return replace(item, fields={**item.fields, "of": maker}) if shared else item, digest

        rows = assemble(p.data / stage, stage, clips, item_of, identity, dimensions)
    gate(stage, rows, p.clips.min_success)


def compare(folder: Path, identity: dict[str, Any], jobs: list[Job], factory: Callable[[], Mapper], count: int) -> None:
    """Make some clips of a store anew and print the largest difference; AvsetError if it is not of this identity."""
    store = Store(folder)
    if other := [name for name, value in identity.items() if store.info[name] != value]:
        raise AvsetError(f"{folder} was made with other {', '.join(other)}; run `dvc repro {folder.name}`")
    there = [job for job in jobs if store.rows[job.clip_id]["status"] == "ok"]
    drawn = random.sample(there, min(count, len(there)))
    for name, apart in recompute(store, drawn, factory).items():
        print(f"{folder}: {name} of {len(drawn)} clips made anew differs by at most {apart:g}")


def media_payloads(p: Params) -> dict[str, dict[str, Any] | None]:
    """The jobs of a stage that reads media: every clip, None where it failed in the clips stage."""
    folder = p.data / "clips"
    payloads: dict[str, dict[str, Any] | None] = {}
    for row in read_table(folder / "index.parquet"):
        excerpt = {"start": row["start_s"], "duration": row["duration_s"]}
        told = {
            "media": folder / (row["media"] or ""),
            "digest": [row["sha256"], *excerpt.values()],
            **excerpt,
        }
        payloads[row["clip_id"]] = told if row["status"] == "ok" else None
    return payloads


def store_payloads(store: Store) -> dict[str, dict[str, Any] | None]:
    """The jobs of a stage that reads another's store: every clip, None where it failed there."""
    return {clip: {"digest": row["digest"]} if row["status"] == "ok" else None for clip, row in store.rows.items()}


def encoder_digest(folder: Path) -> str:
    """The identity of an encoder artifact: sha256 of encoder.json, which holds that of the weights."""
    return hashlib.sha256(require(folder / "encoder.json").read_bytes()).hexdigest()


def transform_of(p: Params) -> Any:
    """The audio front end of a profile, a pipeline.spectrograms.Transform."""
    from pipeline.spectrograms import Transform

    sizes = p.spectrograms
    return Transform(sizes.sample_rate, sizes.window_length, sizes.hop_length, p.model.log_bins, p.model.crop)


def device_of(p: Params) -> str:
    """The torch device that runtime.device stands for on this machine."""
    import torch

    there = torch.cuda.is_available()
    if p.runtime.device == "cuda" and not there:
        raise AvsetError("runtime.device is cuda, but torch finds no CUDA device; set it to auto or cpu")
    return "cuda" if p.runtime.device != "cpu" and there else "cpu"


def gate(stage: str, rows: list[dict[str, Any]], min_success: float) -> None:
    """AvsetError if too few clips got through this stage."""
    tried = [row for row in rows if row["reason"] != "upstream"]
    ok = sum(row["status"] == "ok" for row in tried)
    if ok == 0 or ok < min_success * len(tried):
        failed = [row for row in tried if row["reason"]]
        reasons = sorted({f"{row['reason']} ({row['detail'] or REASONS[row['reason']]})" for row in failed})
        raise AvsetError(
            f"{stage}: {ok} of {len(tried)} clips succeeded, fewer than clips.min_success = {min_success}; "
            f"reasons: {'; '.join(reasons[:5]) or 'no clip at all'}"
        )

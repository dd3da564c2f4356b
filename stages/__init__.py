"""One file per stage of dvc.yaml: parameters in, stores open, map, write. No arithmetic.

`python -m stages.<stage>` runs a stage without DVC; `--help` says what it makes.
"""

import ast
import fcntl
import hashlib
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline import params
from pipeline.errors import REASONS, AvsetError
from pipeline.parallel import Job, Mapper, compute
from pipeline.params import Params
from pipeline.shards import Kept, Part, assemble, spread
from pipeline.store import (
    FULL,
    SCHEMA,
    Item,
    ItemCache,
    Store,
    make_folder,
    read_columns,
    replace_folder,
    require,
    writing,
)  # fmt: skip
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
    except OSError as e:
        if e.errno not in FULL:
            raise
        typer.secho(f"error: cannot write {e.filename or 'a file'}: {e.strerror}; free space", fg="red", err=True)
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
def making(folder: Path) -> Iterator[Path]:
    """A new folder in which to make an artifact, which it is when the block ends. One process at a time."""
    fresh = folder.with_name(f".{folder.name}.new")
    with only_writer(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        with writing(fresh):
            make_folder(fresh)
        yield fresh
        replace_folder(fresh, folder)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """One process at a time makes an artifact: a killed `dvc repro` may have left its stage running."""
    lock = Path("data/.locks") / ".".join(folder.parts)
    make_folder(lock.parent)
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
    identity = {"recipe": recipe, "code": code_digest(stage), "inputs": inputs}
    base = params.digest([SCHEMA, stage, identity])
    jobs = {
        clip: Job(clip, params.digest([base, clip, payload["digest"]]), payload)
        for clip, payload in clips.items()
        if payload is not None and (of is None or of[clip] == clip)
    }
    if verify:
        return compare(p.data / stage, identity, list(jobs.values()), factory, verify)

    makers = {clip: clip if of is None else of.get(clip, clip) for clip in clips}
    parts = dict.fromkeys(clips, Part())
    for clip, maker in makers.items():
        if job := jobs.get(maker):
            parts[clip] = Part(job.key, input_of(job.payload["digest"]), None if of is None else maker)
    with only_writer(p.data / stage):
        shards, kept, cache = spread(clips, parts), Kept(stage, dimensions), ItemCache()
        kept.look(shards)
        needed = {makers[clip] for shard in shards if shard.rows is None for clip in shard.parts} & jobs.keys()
        elsewhere = kept.find({jobs[clip].key: clip for clip in needed if jobs[clip].key not in cache})
        todo = [jobs[clip] for clip in sorted(needed) if jobs[clip].key not in elsewhere]
        forgotten = compute(stage, todo, factory, p.runtime, batch_size, cached=len(jobs) - len(todo))

        def item_of(clip: str) -> tuple[Item, str]:
            if (maker := makers[clip]) not in jobs:
                return Item(reason="upstream"), ""
            key = jobs[maker].key
            found = kept.item(key, elsewhere[key]) if key in elsewhere else cache.get(key)
            if found is None and maker not in forgotten:  # damaged in the cache: once more
                forgotten.update(compute(stage, [jobs[maker]], factory, p.runtime))
                found = cache.get(key)
            return found or (forgotten[maker], "")

        encoder = {"encoder": encoder_facts(p.data / "encoder")} if "encoder" in inputs else {}
        index = assemble(p.data / stage, stage, shards, item_of, identity | encoder, dimensions)
    gate(
        stage, Counter(zip(index["reason"].to_pylist(), index["detail"].to_pylist(), strict=True)), p.clips.min_success
    )


def input_of(told: Any) -> str:
    """The digest of what a clip is computed from, as the index of a store tells it."""
    return told if isinstance(told, str) else params.digest(told)


def compare(folder: Path, identity: dict[str, Any], jobs: list[Job], factory: Callable[[], Mapper], count: int) -> None:
    """Make some clips of a store anew and print the largest difference; AvsetError if it is not of this identity."""
    store = Store(folder)
    if other := [name for name, value in identity.items() if store.info[name] != value]:
        raise AvsetError(f"{folder} was made with other {', '.join(other)}; run `dvc repro {folder.name}`")
    usable = set(store.clips)
    there = [job for job in jobs if job.clip_id in usable]
    drawn = random.sample(there, min(count, len(there)))
    for name, apart in recompute(store, drawn, factory).items():
        print(f"{folder}: {name} of {len(drawn)} clips made anew differs by at most {apart:g}")


def media_payloads(p: Params) -> dict[str, dict[str, Any] | None]:
    """The jobs of a stage that reads media: every clip, None where it failed in the clips stage."""
    folder = p.data / "clips"
    payloads: dict[str, dict[str, Any] | None] = {}
    names = ("clip_id", "status", "media", "sha256", "start_s", "duration_s")
    for columns in read_columns(folder / "index.parquet", *names):
        for clip, status, media, *piece in zip(*columns, strict=True):
            told = {"media": folder / (media or ""), "digest": piece, "start": piece[1], "duration": piece[2]}
            payloads[clip] = told if status == "ok" else None
    return payloads


def store_payloads(store: Store) -> dict[str, dict[str, Any] | None]:
    """The jobs of a stage that reads another's store: every clip, None where it failed there."""
    rows = store.rows.columns("clip_id", "status", "digest")
    return {clip: {"digest": content} if status == "ok" else None for clip, status, content in rows}


def encoder_digest(folder: Path) -> str:
    """The identity of an encoder artifact: sha256 of encoder.json, which holds that of the weights."""
    return hashlib.sha256(require(folder / "encoder.json").read_bytes()).hexdigest()


def encoder_facts(folder: Path) -> dict[str, Any]:
    """What encoder.json says: architecture, preprocessing, sha256 of the weights."""
    return dict(json.loads(require(folder / "encoder.json").read_text()))


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


def gate(stage: str, outcomes: Counter[tuple[str, str]], min_success: float) -> None:
    """AvsetError if too few clips got through this stage: clips by reason ("": none) and detail."""
    tried = sum(count for (reason, _), count in outcomes.items() if reason != "upstream")
    ok = sum(count for (reason, _), count in outcomes.items() if not reason)
    if ok == 0 or ok < min_success * tried:
        reasons = sorted(
            {f"{reason} ({detail or REASONS[reason]})" for reason, detail in outcomes if reason not in ("", "upstream")}
        )
        raise AvsetError(
            f"{stage}: {ok} of {tried} clips succeeded, fewer than clips.min_success = {min_success}; "
            f"reasons: {'; '.join(reasons[:5]) or 'no clip at all'}"
        )

"""What keepers of data type: `avset doctor`, `avset store`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from avset import console
from avset.commands.options import AsJson
from avset.console import TYPED, aligned

store = typer.Typer(no_args_is_help=True, help="Look after the stores of clips and of features.")
StoreFolder = Annotated[
    Path, typer.Argument(help="Folder of a store: data/<dataset>/clips, data/<dataset>/<scale>/<stage>.", **TYPED)
]
COLOURS = {"ok": None, "warn": "yellow", "fail": "red"}  # of the doctor's lines


def doctor(as_json: AsJson = False) -> None:
    """Check what a run needs: parameters, disks, weights, source, devices, DVC. Exit code 1 if something is wrong."""
    from avset.doctor import examine

    found = []
    for one in examine():
        found.append(one)
        if not as_json:
            cure = f"; {one.cure}" if one.cure else ""
            typer.secho(f"{one.status:6}{one.check:12}{one.found}{cure}", fg=COLOURS[one.status])
    if as_json:
        print(json.dumps([one._asdict() for one in found], indent=2))
    raise typer.Exit(any(one.status == "fail" for one in found))


@store.command("ls")
def list_stores(
    data: Annotated[
        Path | None, typer.Argument(help="Folder data/<dataset>/<scale>; by default that of params.yaml.", **TYPED)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the stores of a data set at a scale: clips, size, digest, and whether all of it is there."""
    from avset import params
    from avset.storage import inspect

    found = inspect.summaries(data or params.load().data)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'artifact':20}{'ok':>9}{'failed':>9}{'MB':>12}  digest        complete")
    for s in found:
        lacks = f"no: {', '.join(s['lacks'][:3])} missing ({len(s['lacks'])})" if s["lacks"] else "yes"
        ok, failed = ("–" if s[key] is None else s[key] for key in ("ok", "failed"))
        print(f"{s['artifact']:20}{ok:>9}{failed:>9}{s['bytes'] / 1e6:12.1f}  {s['digest'][:12]:12}  {lacks}")


@store.command("failures")
def list_failures(
    stage: Annotated[str | None, typer.Argument(help="clips, frames, ...; by default all stages.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder data/<dataset>/<scale>; by default that of params.yaml.", **TYPED)
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List the files that failed, by their own names, with the reason and what was seen."""
    from avset import params
    from avset.storage import inspect

    found = inspect.failures(data or params.load().data, stage)
    lines = [list(inspect.FAILURE), *(list(one.values()) for one in found)]
    if as_json:
        print(json.dumps(found, indent=2))
    elif as_csv:
        print(console.as_csv(lines), end="")
    elif found:
        print(aligned([[" ".join(cell.split()) for cell in line] for line in lines], len(lines[0])), end="")
    else:
        print("no failure")


@store.command()
def info(folder: StoreFolder, as_json: AsJson = False) -> None:
    """Say what made a store, and what it holds."""
    from avset.storage import inspect

    _tell(inspect.describe(folder), as_json)


@store.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A store.", **TYPED)],
    b: Annotated[Path, typer.Argument(help="Another of the same stage.", **TYPED)],
    as_json: AsJson = False,
) -> None:
    """Say which clips differ between two stores, and why: weights, version, input. Exit code 1 if one differs."""
    from avset.storage import inspect

    found = inspect.diff(a, b)
    if found or as_json:
        _tell(found, as_json)
    else:
        print("no difference")
    raise typer.Exit(bool(found))


@store.command()
def verify(
    folder: StoreFolder,
    count: Annotated[int | None, typer.Option(min=0, help="Clips to read and hash; by default all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of clips.")] = 0,
) -> None:
    """Check that every file and every clip has the hash that it had. The exit code is 1 if not."""
    from avset.storage import inspect

    read, damaged = inspect.verify(folder, count, seed)
    for clip, wrong in damaged.items():
        print(f"{clip}: {wrong}")
    print(f"{folder}: {read}, {len(damaged)} damaged")
    raise typer.Exit(bool(damaged))


@store.command()
def forget(
    stage: Annotated[
        str, typer.Argument(help="A stage with clips: clips, frames, spectrograms, objects, regions, captions.")
    ],
    clips: Annotated[list[str] | None, typer.Argument(help="Clips; by default all.")] = None,
    reason: Annotated[str, typer.Option(help="Failures of this reason alone.")] = "",
) -> None:
    """Forget failures that are remembered, so that the next run of the stage tries these clips again."""
    from avset import params
    from avset.errors import REASONS
    from avset.storage.artifacts import ARTIFACTS
    from avset.storage.forget import forget as forget_failures

    params.choose(stage, [name for name, artifact in ARTIFACTS.items() if artifact.per_clip], "STAGE")
    params.choose(reason, ["", *REASONS], "--reason")
    chosen = forget_failures(params.folder_of(params.load().data, stage), reason, clips or [])
    for clip in chosen:
        print(clip)
    again = f"dvc repro -s -f {params.target(stage)}"
    print(f"{stage}: {len(chosen)} failures are forgotten; `{again}` tries these clips again")


@store.command()
def gc(
    days: Annotated[float, typer.Option(min=1, help="Remove what was not used for so many days.")] = 30,
    fetched: Annotated[
        bool, typer.Option("--fetched", help="Remove fetched media too, though their site may no longer have them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
) -> None:
    """Remove from the item cache what was not used for long, and what killed runs left. Nothing in data/ is removed."""
    from avset.storage.cache import ItemCache
    from avset.storage.gc import sweep

    root = ItemCache().root
    removed = sweep(root, days, fetched, dry_run)
    for kind, (files, size) in removed.items():
        print(f"{kind:16}{files:9} files{size / 1e6:12.1f} MB")
    total = sum(size for _, size in removed.values())
    print(f"{root}: {total / 1e6:.1f} MB {'would go' if dry_run else 'removed'}")


def _tell(told: dict[str, Any], as_json: bool) -> None:
    from avset.storage.inspect import flat

    if as_json:
        print(json.dumps(told, indent=2))
        return
    for key, value in flat(told):
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key}: {text}")

"""What users type: `avset separate`, `avset localize`, and `avset store` for those who keep the artifacts."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from avset import __version__
from avset.console import HELP_OPTIONS
from avset.errors import AvsetError

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False, context_settings=HELP_OPTIONS)
ModelFolder = Annotated[
    Path | None, typer.Option(help="Folder of a trained model; by default that of the first method of params.yaml.")
]
EncoderFolder = Annotated[
    Path | None, typer.Option(help="Folder of the model's encoder; by default that of the same data set and scale.")
]
Query = Annotated[str, typer.Option("--query", "-q", help='What to listen or look for: "person playing a violin".')]
store = typer.Typer(no_args_is_help=True, help="Look after the stores of clips and of features.")


app.add_typer(store, name="store")


StoreFolder = Annotated[
    Path, typer.Argument(help="Folder of a store: data/<dataset>/clips, data/<dataset>/<scale>/<stage>.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"avset {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def separate(
    file: Annotated[Path, typer.Argument(help="Any audio or video file, of any length.")],
    query: Query,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the sound goes: .wav, .flac or .ogg.")],
    residual: Annotated[Path | None, typer.Option(help="Where the rest of the mixture goes.")] = None,
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Take the sound that the query names out of a file.

    The result is mono at the model's sample rate; sound and residual add up to the mixture.
    """
    from avset.inference.files import separate_file_to_file
    from avset.inference.separate import Separator

    done = separate_file_to_file(Separator.load(model or _default_model(), encoder), file, query, output, residual)
    if done.clipped:
        typer.echo("note: louder than full scale in places, clipped there", err=True)
    print(f"{output}: {done.seconds:.1f} s at {done.sample_rate} Hz, {done.energy:.0%} of the mixture's energy")


@app.command()
def localize(
    file: Annotated[Path, typer.Argument(help="A video file.")],
    query: Query,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the picture goes: .png.")],
    time: Annotated[float | None, typer.Option(help="Seconds; by default the middle of the video.")] = None,
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Show where the query finds its match in a frame, as a heat map over the picture."""
    from avset.inference.files import localize_file_to_file
    from avset.inference.separate import Separator

    attention = localize_file_to_file(Separator.load(model or _default_model(), encoder), file, query, output, time)
    (row, column), (rows, columns) = attention.strongest(), attention.grid
    print(f"{output}: strongest in row {row + 1} of {rows}, column {column + 1} of {columns}")


@store.command("ls")
def list_stores(
    data: Annotated[
        Path | None, typer.Argument(help="Folder data/<dataset>/<scale>; by default that of params.yaml.")
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


@store.command()
def info(folder: StoreFolder, as_json: AsJson = False) -> None:
    """Say what made a store, and what it holds."""
    from avset.storage import inspect

    _tell(inspect.describe(folder), as_json)


@store.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A store.")],
    b: Annotated[Path, typer.Argument(help="Another of the same stage.")],
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
    stage: Annotated[str, typer.Argument(help="A stage with clips: clips, frames, spectrograms, regions, captions.")],
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
    print(f"{stage}: {len(chosen)} failures are forgotten; `dvc repro -s -f {stage}` tries these clips again")


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


def _default_model() -> Path:
    from avset import params

    p = params.load()
    return p.data / "models" / next(iter(p.methods))


def _tell(told: dict[str, Any], as_json: bool) -> None:
    from avset.storage.inspect import flat

    if as_json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for key, value in flat(told):
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key}: {text}")


def main() -> None:
    """Run the command line; an error of our own is one line."""
    try:
        app()
    except AvsetError as e:
        typer.secho(f"error: {e}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

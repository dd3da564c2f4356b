"""What users type: `python -m avset separate`, `localize`, and `store` for those who keep the artifacts."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from avset.errors import AvsetError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


ModelFolder = Annotated[
    Path | None, typer.Option(help="Folder of a trained model; by default that of the first method of params.yaml.")
]


EncoderFolder = Annotated[
    Path | None, typer.Option(help="Folder of its encoder; by default that of the same data set and scale.")
]


Query = Annotated[str, typer.Option("--query", "-q", help='What to listen or look for: "person playing a violin".')]


store = typer.Typer(no_args_is_help=True, help="Look after the stores of clips and of features.")


app.add_typer(store, name="store")


StoreFolder = Annotated[
    Path, typer.Argument(help="Folder of a store: data/<dataset>/clips, data/<dataset>/<scale>/<stage>.")
]


AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON.")]


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
    import numpy as np

    from avset.inference.separate import Separator
    from avset.media.recordings import AudioWriter, read_blocks
    from avset.media.waveforms import resample_blocks

    separator = Separator.load(model or _default_model(), encoder)
    rate = separator.model.settings.transform.sample_rate
    mono = ((block.mean(0), its_rate) for block, its_rate in read_blocks(file))
    stream = separator.stream(resample_blocks(mono, rate), separator.text_query([query]))
    length, loudest, energy, part = 0, 0.0, 0.0, 0.0
    with ExitStack() as files:
        writers = [files.enter_context(AudioWriter(path, rate)) for path in (output, residual) if path is not None]
        for mixture, (estimate,) in stream:
            rest = mixture - estimate
            for writer, sound in zip(writers, (estimate, rest), strict=False):
                writer.write(sound)
            length += len(mixture)
            loudest = max(loudest, float(np.abs(estimate).max(initial=0)), float(np.abs(rest).max(initial=0)))
            energy += float(np.square(mixture, dtype=np.float64).sum())
            part += float(np.square(estimate, dtype=np.float64).sum())
    if loudest > 1:
        typer.echo("note: louder than full scale in places, clipped there", err=True)
    print(f"{output}: {length / rate:.1f} s at {rate} Hz, {part / max(energy, 1e-12):.0%} of the mixture's energy")


@app.command()
def localize(
    file: Annotated[Path, typer.Argument(help="A video file.")],
    query: Query,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the picture goes: .png.")],
    time: Annotated[float | None, typer.Option(help="Seconds; by default the middle of the video.")] = None,
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Show where in a frame the thing is that the query names, as a heat map over the picture."""
    from avset.inference import localize as places
    from avset.inference.separate import Separator
    from avset.report.plots import heat_map, save_png

    separator = Separator.load(model or _default_model(), encoder)
    frame = places.centre_frame(file, time)
    scores, grid = places.attention(separator, frame, query)
    save_png(output, heat_map(frame, scores, grid))
    row, column = divmod(int(scores.argmax()), grid[1])
    print(f"{output}: strongest in row {row + 1} of {grid[0]}, column {column + 1} of {grid[1]}")


@store.command("ls")
def list_stores(
    data: Annotated[
        Path | None, typer.Argument(help="Folder data/<dataset>/<scale>; by default that of params.yaml.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the stores of a data set at a scale: clips, size, digest, and whether all of it is there."""
    from avset import params
    from avset.storage import inspect as stores

    found = stores.summaries(data or params.load().data)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'stage':14}{'ok':>9}{'failed':>9}{'MB':>12}  digest        complete")
    for s in found:
        lacks = f"no: {', '.join(s['lacks'][:3])} missing ({len(s['lacks'])})" if s["lacks"] else "yes"
        print(f"{s['stage']:14}{s['ok']:9}{s['failed']:9}{s['bytes'] / 1e6:12.1f}  {s['digest'][:12]:12}  {lacks}")


@store.command()
def info(folder: StoreFolder, as_json: AsJson = False) -> None:
    """Say what made a store, and what is in it."""
    from avset.storage import inspect as stores

    _tell(stores.describe(folder), as_json)


@store.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A store.")],
    b: Annotated[Path, typer.Argument(help="Another of the same stage.")],
    as_json: AsJson = False,
) -> None:
    """Say which clips differ between two stores, and why: weights, recipe, code, input. Exit code 1 if any does."""
    from avset.storage import inspect as stores

    found = stores.diff(a, b)
    if found or as_json:
        _tell(found, as_json)
    else:
        print("no difference")
    raise typer.Exit(bool(found))


@store.command()
def verify(
    folder: StoreFolder,
    count: Annotated[int, typer.Option(min=0, help="Clips to read and hash.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Check that every clip is in its place, and that some hash to what they were. Exit code 1 if not."""
    from avset.storage import inspect as stores

    drawn, damaged = stores.verify(folder, count, seed)
    for clip, wrong in damaged.items():
        print(f"{clip}: {wrong}")
    print(f"{folder}: {drawn} clips read and hashed, {len(damaged)} damaged")
    raise typer.Exit(bool(damaged))


@store.command()
def gc(
    days: Annotated[float, typer.Option(min=1, help="What was not used for so long goes.")] = 30,
    fetched: Annotated[
        bool, typer.Option("--fetched", help="Also fetched media, which may be no longer to be had.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
) -> None:
    """Remove from the item cache what was not used for long, and what killed runs left. data/ is not touched."""
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
    return p.data / "models" / p.methods[0]


def _tell(told: dict[str, Any], as_json: bool) -> None:
    from avset.storage.inspect import flat

    if as_json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for key, value in flat(told):
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key}: {text}")


def main() -> None:
    """The command line; our own errors are one line."""
    try:
        app()
    except AvsetError as e:
        typer.secho(f"error: {e}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

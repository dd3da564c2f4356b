"""What users type: `avset separate`, `localize`, `web`, `show`, `tables`, `score`; `avset mixtures`, `avset store`."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from avset import __version__, console
from avset.console import HELP_OPTIONS, TYPED, aligned, complain, speak_plainly
from avset.errors import AvsetError

PURPOSE = "Type what you want to hear: get it out of a film or a recording, and see where it is."
app = typer.Typer(no_args_is_help=True, help=PURPOSE, pretty_exceptions_enable=False, context_settings=HELP_OPTIONS)
ModelFolder = Annotated[
    str | None,
    typer.Option(
        help="Folder of a trained model, demo, hf:OWNER/NAME, or REPOSITORY#REVISION:PATH; by default that of the "
        "first method of params.yaml, and where there is none, demo.",
        metavar="MODEL",
    ),
]
EncoderFolder = Annotated[
    Path | None,
    typer.Option(help="Folder of the model's encoder; by default that of the same data set and scale.", **TYPED),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]


class Bits(StrEnum):
    """Of a sample."""

    short = "16"
    long = "24"
    floating = "32"


class Clip(StrEnum):
    """What becomes of what is too loud."""

    clamp = "clamp"
    rescale = "rescale"


store = typer.Typer(no_args_is_help=True, help="Look after the stores of clips and of features.")


app.add_typer(store, name="store")
mixtures = typer.Typer(no_args_is_help=True, help="Take the frozen mixtures elsewhere.")
app.add_typer(mixtures, name="mixtures")


StoreFolder = Annotated[
    Path, typer.Argument(help="Folder of a store: data/<dataset>/clips, data/<dataset>/<scale>/<stage>.", **TYPED)
]
COLOURS = {"ok": None, "warn": "yellow", "fail": "red"}  # of the doctor's lines
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
    files: Annotated[
        list[Path],
        typer.Argument(help="Audio or video files of any length, folders, patterns in quotes; - is stdin.", **TYPED),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Where a sound goes: .wav, .flac, .mp3, .ogg, .opus, .m4a, or .mp4 with the pictures of a film. For "
            "several sounds a folder, or a template with {folder}, {name}, {query}, {number}. - is stdout, as .wav.",
        ),
    ],
    query: Annotated[
        list[str] | None,
        typer.Option(
            "--query",
            "-q",
            help='What to listen for: "person playing a violin". May be given several times, as --box and --like. '
            '"violin=+6dB", "drums=-inf": the output is a remix.',
        ),
    ] = None,
    video: Annotated[bool, typer.Option("--video", help="Listen for what the film's own picture shows.")] = False,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="Listen for a part of the picture, in fractions of it or in pixels."),
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Listen for what sounds like an example.")
    ] = None,
    time: Annotated[
        float | None, typer.Option(help="Seconds, of the picture of --video and --box; by default the middle.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--not", metavar="TEXT", help="What is not wanted, whatever the query.")
    ] = None,
    begin: Annotated[
        list[float] | None, typer.Option("--from", metavar="S", help="Sounds are silent but from here, in seconds,")
    ] = None,
    end: Annotated[
        list[float] | None, typer.Option("--to", metavar="S", help="to here. Several spans: --from and --to again.")
    ] = None,
    not_begin: Annotated[
        list[float] | None, typer.Option("--not-from", metavar="S", help="Sounds are silent from here, in seconds,")
    ] = None,
    not_end: Annotated[list[float] | None, typer.Option("--not-to", metavar="S", help="to here.")] = None,
    shares: Annotated[
        bool, typer.Option("--shares", help="Where sounds claim more than there is, each gets its share.")
    ] = False,
    residual: Annotated[str | None, typer.Option(help="Where the rest of the mixture goes, likewise.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out files of which all outputs are there, by their names.")
    ] = False,
    model_rate: Annotated[
        bool, typer.Option("--model-rate", help="Write mono at the model's rate, and not as the file is.")
    ] = False,
    bits: Annotated[
        Bits | None, typer.Option(help="Of samples in .wav and .flac; by default those of the file.")
    ] = None,
    clip: Annotated[
        Clip, typer.Option(help="What is louder than full scale: clamp it, or rescale all that is written.")
    ] = Clip.clamp,
    keep_absent: Annotated[
        bool, typer.Option("--keep-absent", help="Write also what is found for a query that is hardly there.")
    ] = False,
    heat_map: Annotated[
        bool, typer.Option("--heat-map", help="Show in .mp4 the heat map of the query over the moving picture.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes, each with a model of its own.")] = 1,
    device: Annotated[str, typer.Option(help="Where the model computes: cpu, cuda, cuda:1.")] = "cpu",
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say what is wrong, and nothing else.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what the files are, too.")] = False,
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Take the sounds that queries name out of files.

    A query is a text, the film's picture (--video), a part of it (--box), or an example (--like). --not and the spans
    are those of all queries. A result has the channels, the sample rate and the bits of its file. In .wav and .flac,
    the sounds and the residual add up to the mixture.
    """
    from avset.inference.command import Asked, separate_files
    from avset.inference.wishes import not_wanted, spans_of, written

    common = {
        "without": not_wanted(without or []),
        "inside": spans_of(begin or [], end or []),
        "outside": spans_of(not_begin or [], not_end or []),
    }
    queries = written(query or [], box or [], like or [], video, time, **common)
    asked = Asked(
        files, queries, shares, output, residual, overwrite, resume, model_rate, int(bits.value) if bits else None,
        clip.value, keep_absent, heat_map, jobs, device, as_json, quiet, verbose,
    )  # fmt: skip
    raise typer.Exit(separate_files(asked, lambda: _folders(model, encoder)))


@app.command()
def localize(
    file: Annotated[Path, typer.Argument(help="A video file.", **TYPED)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Where the picture goes: .png, or .mp4 for a film with its sound.", **TYPED
        ),
    ],
    query: Annotated[
        str | None, typer.Option("--query", "-q", help='What to look for: "person playing a violin".')
    ] = None,
    like: Annotated[str | None, typer.Option(metavar="FILE", help="Look for what sounds like an example.")] = None,
    time: Annotated[float | None, typer.Option(help="Seconds, of a .png; by default the middle of the video.")] = None,
    overwrite: Overwrite = False,
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Show where the query finds its match in a frame, as a heat map over the picture; or in the moving picture."""
    from avset.inference.plans import check_examples
    from avset.inference.wishes import Query
    from avset.media.targets import FILMS, PICTURES, check_files, check_time

    if (query is None) == (like is None):
        raise AvsetError("there is one thing to look for; give --query, or --like")
    asked = Query(text=query, like=like)
    check_time(time)
    check_files(file, {"output": output}, (*PICTURES, *FILMS), overwrite)
    moving = output.suffix.lower() in FILMS
    if moving and time is not None:
        raise AvsetError("an .mp4 has all pictures of the film; leave out --time, or give a .png")
    check_examples([asked])
    folders = _folders(model, encoder)
    from avset.inference.files import (
        localize_file_to_file,
        localize_film_to_film,
    )  # torch: what is wrong was told by now
    from avset.inference.separate import Separator

    separator, at = Separator.load(*folders), ""
    if moving:
        seconds, attention = localize_film_to_film(separator, file, asked, output, overwrite)
        at = f" at {seconds:.1f} s"
    else:
        attention = localize_file_to_file(separator, file, asked, output, time, overwrite)
    (row, column), (rows, columns) = attention.strongest(), attention.grid
    print(f"{output}: strongest{at} in row {row + 1} of {rows}, column {column + 1} of {columns}")


@app.command("export")
def export_model(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.", **TYPED)],
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Write a model as people share it: weights, settings, encoder, and a model card with its data and scores."""
    from avset import params

    p = params.load()
    folders = _folders(model, encoder)
    if folders[0].resolve().parents[1] != p.data.resolve():
        raise AvsetError(
            f"{folders[0]} is none of {p.data / 'models'}, whose data and scores the card tells; set dataset and scale "
            "in params.yaml to those of the model"
        )
    from avset.report.card import export as write_model

    write_model(*folders, p.reports, p.clips.source, folder)
    print(f"{folder}: README.md is the model card; `avset separate FILE --query ... --model {folder}` uses the model")


@app.command()
def web(
    host: Annotated[str, typer.Option(help="Address to serve at; another than this machine's own has no password.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8484,
    megabytes: Annotated[float, typer.Option(min=0.001, help="Of a file, at most.")] = 200.0,
    minutes: Annotated[float, typer.Option(min=0.01, help="Of a sound, at most.")] = 5.0,
    device: Annotated[str, typer.Option(help="Where the model computes: cpu, cuda, cuda:1.")] = "cpu",
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Serve a page on this machine: drop a file, say what to listen for, hear and see it. No other machine is asked."""
    from avset.web.jobs import Allowed
    from avset.web.serve import serve

    serve(*_folders(model, encoder), host, port, device, Allowed(megabytes, minutes))


@app.command()
def tables(
    only: Annotated[str, typer.Option(help="Tables, by name or by the paper's number, with commas: losses,7.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="How often each method that learns is trained.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of every training; by default those of params.yaml.")
    ] = None,
    method: Annotated[str, typer.Option(help="The preset that ablations change; by default that of the file.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made; make nothing.")] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Write the page of the cells that are there; make none.")
    ] = False,
) -> None:
    """Make the tables of tables/tables.yaml: train and score every row on the frozen mixtures, write one page.

    A cell that is made is made once, whatever table asks for it; a run that was interrupted goes on.
    """
    from avset.tables import make, results
    from avset.tables.plan import plan

    sys.path.insert(0, "")  # where a method of one's own may lie, as for `python -m`
    made = plan(only, seeds, steps, method)
    make.check_current(made)
    made.write()
    waiting = make.to_make(made)
    for line in made.told(len(waiting)):
        print(line, flush=True)
    if page:
        results.write(made.folder, make.changed(made))
    elif not dry_run:
        results.repro(made)
    if page or not dry_run:
        print(made.folder / "results.html")


@mixtures.command("export")
def export_mixtures(
    folder: Annotated[Path, typer.Argument(help="Where the files go.", **TYPED)],
    split: Annotated[
        list[str] | None, typer.Option(help="test, validation, or a further set; several are allowed. [default: test]")
    ] = None,
    rate: Annotated[int | None, typer.Option(help="Hz; by default that of the spectrograms.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write frozen mixtures and their references as WAV files with a manifest, so that any system can be run on them.

    An export that was interrupted goes on. `avset score` scores what a system makes of the mixtures.
    """
    from avset import params
    from avset.exchange import export as exporting
    from avset.exchange.frozen import Frozen

    told = exporting.export(Frozen.load(params.load()), folder, split or ["test"], rate, overwrite)
    counts = ", ".join(f"{n} mixtures of {name}" for name, n in told["splits"].items())
    print(f"{folder / exporting.FACTS}: {counts}, {told['samples']} samples at {told['sample_rate']} Hz")


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Estimates, named as manifest.csv of the export says.", **TYPED)],
    name: Annotated[str, typer.Option(help="Of the system, in the tables; by default that of the folder.")] = "",
    query: Annotated[
        str, typer.Option("--query", "-q", help="What the files in FOLDER itself were asked by.")
    ] = "text",
    split: Annotated[
        list[str] | None,
        typer.Option(help="What is scored; by default each split of which there is an estimate."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the scores, for a row of tables.yaml.", **TYPED)
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Score anybody's estimates on the frozen mixtures, beside our methods: the same metric, the same table.

    WAV or FLAC of any rate and any number of channels. An estimate that is missing, silent, damaged or of a wrong
    length is told, and counts as silence.
    """
    from avset import params
    from avset.exchange import score as scoring
    from avset.exchange.frozen import Frozen

    if output:
        scoring.check_output(output, overwrite)
    frozen = Frozen.load(params.load())
    scored = scoring.score(frozen, folder, name or folder.resolve().name, query, split or [])
    for line in scoring.notes(scored):
        print(line, file=sys.stderr)
    if output:
        scoring.write(scored, frozen, output, overwrite)
    if as_json:
        print(json.dumps(scoring.summary(scored, frozen), indent=2))
    elif as_csv:
        rows = scoring.summary(scored, frozen)["scores"]
        print(console.as_csv([list(rows[0]), *(list(row.values()) for row in rows)]), end="")
    else:
        print(scoring.as_text(scored, frozen), end="")


@app.command()
def show(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default show/<dataset>/<scale>.", **TYPED)
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="How many test mixtures the film has.")] = 10,
    baseline: Annotated[
        str | None, typer.Option(help="Another trained model, to be heard before ours.", metavar="MODEL")
    ] = None,
    overwrite: Overwrite = False,
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Draw the paper's Figures 5, 6 and 7, and make its film of A.7, from the data set of params.yaml.

    Of each example the film has the mixture, the baseline's sound, ours, the reference, and where ours looks.
    """
    from avset import params

    p = params.load()
    folder = output or Path("show") / p.dataset / p.scale
    folders = _folders(model, encoder)
    other = _folders(baseline, folders[1])[0] if baseline else None
    from avset.show.command import show_data_set  # torch: what is wrong already was told by now

    for line in show_data_set(p, *folders, other, folder, examples, overwrite):
        print(f"left out: {line}", file=sys.stderr)
    print(folder)


@app.command()
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


def _folders(address: str | None, encoder: Path | None) -> tuple[Path, Path]:
    """The folders of a model and of its encoder; MissingArtifact if a file of theirs is not there."""
    from avset import params
    from avset.inference.hub import locate
    from avset.storage.artifacts import ARTIFACTS
    from avset.storage.files import require
    from avset.storage.hub import DEMO

    if address is None and not Path("params.yaml").exists():
        print(
            "note: there is no params.yaml, so this is the demo's model: it knows drawn players only", file=sys.stderr
        )
        address = DEMO
    if address is None:
        p = params.load()
        model = p.data / "models" / next(iter(p.methods))
    else:
        model = locate(address)
    for name in ARTIFACTS["models"].files:
        require(model / name)
    encoder = encoder or params.encoder_of(model)
    for name in ARTIFACTS["encoder"].files:
        require(encoder / name)
    return model, encoder


def _tell(told: dict[str, Any], as_json: bool) -> None:
    from avset.storage.inspect import flat

    if as_json:
        print(json.dumps(told, indent=2))
        return
    for key, value in flat(told):
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key}: {text}")


def main() -> None:
    """Run the command line; an error of our own is one line."""
    speak_plainly()
    try:
        app()
    except AvsetError as e:
        complain(e)
        sys.exit(1)
    except (OSError, MemoryError) as e:
        from avset.storage.reading import told

        if not (sentence := told(e)):
            raise
        complain(sentence)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""What users of a model type: `avset separate`, `localize`, `export`, `web`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from avset.commands.options import AsJson, EncoderFolder, ModelFolder, Overwrite, model_folders
from avset.console import TYPED
from avset.errors import AvsetError


class Bits(StrEnum):
    """Of a sample."""

    short = "16"
    long = "24"
    floating = "32"


class Clip(StrEnum):
    """What becomes of what is too loud."""

    clamp = "clamp"
    rescale = "rescale"


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
    raise typer.Exit(separate_files(asked, lambda: model_folders(model, encoder)))


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
    folders = model_folders(model, encoder)
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


def export_model(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.", **TYPED)],
    model: ModelFolder = None,
    encoder: EncoderFolder = None,
) -> None:
    """Write a model as people share it: weights, settings, encoder, and a model card with its data and scores."""
    from avset import params

    p = params.load()
    folders = model_folders(model, encoder)
    if folders[0].resolve().parents[1] != p.data.resolve():
        raise AvsetError(
            f"{folders[0]} is none of {p.data / 'models'}, whose data and scores the card tells; set dataset and scale "
            "in params.yaml to those of the model"
        )
    from avset.report.card import export as write_model

    write_model(*folders, p.reports, p.clips.source, folder)
    print(f"{folder}: README.md is the model card; `avset separate FILE --query ... --model {folder}` uses the model")


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

    serve(*model_folders(model, encoder), host, port, device, Allowed(megabytes, minutes))

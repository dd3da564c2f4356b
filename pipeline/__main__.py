"""What users type: `python -m pipeline separate` and `python -m pipeline localize`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import AvsetError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
ModelFolder = Annotated[Path, typer.Option(help="Folder of a trained model.")]
EncoderFolder = Annotated[
    Path | None, typer.Option(help="Folder of its encoder; by default that of the same data set.")
]
Query = Annotated[str, typer.Option("--query", "-q", help='What to listen or look for: "person playing a violin".')]
MODEL = Path("data/demo/models/avset")


@app.command()
def separate(
    file: Annotated[Path, typer.Argument(help="Any audio or video file, of any length.")],
    query: Query,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the sound goes: .wav, .flac or .ogg.")],
    residual: Annotated[Path | None, typer.Option(help="Where the rest of the mixture goes.")] = None,
    model: ModelFolder = MODEL,
    encoder: EncoderFolder = None,
) -> None:
    """Take the sound that the query names out of a file.

    The result is mono at the model's sample rate; sound and residual add up to the mixture.
    """
    import torch

    from pipeline.separate import Separator
    from pipeline.waveforms import read_audio, resample, write_audio

    separator = Separator.load(model, encoder)
    waveform, rate = read_audio(file)
    target = separator.model.settings.transform.sample_rate
    mixture = torch.from_numpy(resample(waveform.mean(0), rate, target))
    estimate = separator.separate(mixture, separator.text_query([query]))[0]
    write_audio(output, estimate.numpy(), target)
    if residual is not None:
        write_audio(residual, (mixture - estimate).numpy(), target)
    if max(float(estimate.abs().max()), float((mixture - estimate).abs().max())) > 1:
        typer.echo("note: louder than full scale in places, clipped there", err=True)
    share = float(estimate.square().sum() / mixture.square().sum().clamp_min(1e-12))
    print(f"{output}: {len(mixture) / target:.1f} s at {target} Hz, {share:.0%} of the mixture's energy")


@app.command()
def localize(
    file: Annotated[Path, typer.Argument(help="A video file.")],
    query: Query,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the picture goes: .png.")],
    time: Annotated[float | None, typer.Option(help="Seconds; by default the middle of the video.")] = None,
    model: ModelFolder = MODEL,
    encoder: EncoderFolder = None,
) -> None:
    """Show where in a frame the thing is that the query names, as a heat map over the picture."""
    from pipeline import localize as places
    from pipeline.plots import heat_map, save_png
    from pipeline.separate import Separator

    separator = Separator.load(model, encoder)
    frame = places.centre_frame(file, time)
    scores, grid = places.attention(separator, frame, query)
    save_png(output, heat_map(frame, scores, grid))
    row, column = divmod(int(scores.argmax()), grid[1])
    print(f"{output}: strongest in row {row + 1} of {grid[0]}, column {column + 1} of {grid[1]}")


def main() -> None:
    """The command line; our own errors are one line."""
    try:
        app()
    except AvsetError as e:
        typer.secho(f"error: {e}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

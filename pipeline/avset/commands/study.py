"""What researchers type: `avset tables`, `show`, `score`, `mixtures`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from avset import console
from avset.commands.options import AsJson, EncoderFolder, ModelFolder, Overwrite, model_folders
from avset.console import TYPED

mixtures = typer.Typer(no_args_is_help=True, help="Take the frozen mixtures elsewhere.")


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
    folders = model_folders(model, encoder)
    other = model_folders(baseline, folders[1])[0] if baseline else None
    from avset.show.command import show_data_set  # torch: what is wrong already was told by now

    for line in show_data_set(p, *folders, other, folder, examples, overwrite):
        print(f"left out: {line}", file=sys.stderr)
    print(folder)

"""The command `avset`: what users type, see avset.commands."""

import sys
from typing import Annotated

import typer

from avset import __version__
from avset.commands import keep, study, use
from avset.console import HELP_OPTIONS, complain, speak_plainly
from avset.errors import AvsetError

PURPOSE = "Type what you want to hear: get it out of a film or a recording, and see where it is."
app = typer.Typer(no_args_is_help=True, help=PURPOSE, pretty_exceptions_enable=False, context_settings=HELP_OPTIONS)
for command in (use.separate, use.localize, use.web, study.tables, study.score, study.show, keep.doctor):
    app.command()(command)
app.command("export")(use.export_model)
app.add_typer(study.mixtures, name="mixtures")
app.add_typer(keep.store, name="store")


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

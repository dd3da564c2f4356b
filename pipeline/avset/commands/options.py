"""Options that several commands have, and what these mean."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from avset.console import TYPED

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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def model_folders(address: str | None, encoder: Path | None) -> tuple[Path, Path]:
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

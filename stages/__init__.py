"""One file per stage of dvc.yaml: parameters in, stores open, map, write. No arithmetic.

`python -m stages.<stage>` runs a stage without DVC; `--help` says what it makes.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))  # the library of this checkout, whatever is installed
os.environ.setdefault(
    "TORCH_CPP_LOG_LEVEL", "ERROR"
)  # else each process of a training warns of what it does on purpose

from avset import params
from avset.compute.identity import Recipe
from avset.compute.limited import Limits
from avset.compute.making import enough_room
from avset.console import HELP_OPTIONS, TYPED, complain, speak_plainly
from avset.errors import AvsetError
from avset.params import Params
from avset.storage.hub import check_start
from avset.storage.reading import told


def command(main: Callable[..., None]) -> None:
    """Run a stage's function as a command; our own errors end it with one line."""
    speak_plainly()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=sys.modules[main.__module__].__doc__, context_settings=HELP_OPTIONS)(main)
    try:
        app()
    except AvsetError as e:
        complain(e)
        sys.exit(1)
    except (OSError, MemoryError) as e:
        if not (sentence := told(e)):
            raise
        complain(sentence)
        sys.exit(1)


ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.", **TYPED)]


PARAMS = Path("params.yaml")
FIRST = "encoder"  # stage of dvc.yaml


Verify = Annotated[
    int, typer.Option(min=0, help="Make so many random clips anew, compare them with the store, write nothing.")
]


Adopt = Annotated[
    int,
    typer.Option(min=0, help="Make so many random clips anew; if all come out the same, the code keeps its version."),
]
NewVersion = Annotated[
    bool, typer.Option("--new-version", help="Give the code as it is a new version: nothing that was kept is reused.")
]


METHOD = os.environ.get("DVC_STAGE", "").partition("@")[2] or "avset"  # DVC says which stage it runs; no shell does


def begin(stage: str, path: Path, method: str = "", new_version: bool = False) -> Params:
    """Load the parameters and say which data set runs at which scale; AvsetError if the disks are too full to start.

    The first stage of dvc.yaml checks the options of the source too: they take time to import.
    """
    p = params.load(path)
    if stage == FIRST:
        params.check_options(p)
        check_start(p)
    if new_version:
        Recipe(stage).renew()
    print(
        f"{stage}: dataset {p.dataset}, scale {p.scale}" + (f", method {method}" if method else ""),
        file=sys.stderr,
        flush=True,
    )
    enough_room(p.runtime.min_free_gb)
    return p


def transform_of(p: Params) -> Any:
    """The audio front end of the parameters, a avset.features.spectrograms.Transform."""
    from avset.features.spectrograms import Transform

    sizes = p.spectrograms
    return Transform(sizes.sample_rate, sizes.window_length, sizes.hop_length, p.model.log_bins, p.model.crop)


def limits_of(p: Params) -> Limits:
    """What reading a medium may take."""
    return Limits(p.runtime.time_limit, p.runtime.memory_limit)


def device_of(p: Params) -> str:
    """The torch device that runtime.device stands for on this machine."""
    import torch

    there = torch.cuda.is_available()
    if p.runtime.device == "cuda" and not there:
        raise AvsetError("runtime.device is cuda, but torch finds no CUDA device; set it to auto or cpu")
    return "cuda" if p.runtime.device != "cpu" and there else "cpu"

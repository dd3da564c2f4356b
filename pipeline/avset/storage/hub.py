"""Where a model is: a folder, a DVC repository, a repository of Hugging Face, or in the library: the demo's."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from avset.console import typed_path
from avset.errors import AvsetError
from avset.params import Params, digest, encoder_of
from avset.storage.artifacts import ARTIFACTS, PRESENCE
from avset.storage.cache import cache_folder
from avset.storage.checksums import RECORD
from avset.storage.files import make_folder, replace_folder

HUB = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
DVC = re.compile(r"(?P<repo>[^#]*)#(?P<revision>[^:#]+):(?P<path>[^:]+)")
FILES = (*ARTIFACTS["models"].files, RECORD)
INSIDE = (*ARTIFACTS["encoder"].files, RECORD)  # of the encoder
DEMO = "demo"  # the model that comes with the library
PACKED = Path(__file__).parents[1] / "sources" / "demo"  # where it lies, with its encoder in half of its size
WATCHED = Path("inputs", "models")  # of the folders to start a training from, those that DVC watches
FORMS = f"a folder, {DEMO}, hf:OWNER/NAME[@REVISION], or REPOSITORY#REVISION:PATH (docs/operations.md)"


def fetch(address: str | Path) -> Path:
    """The folder of a model, which is fetched if it is elsewhere; what is fetched once is not fetched again.

    address   a folder;
              demo, the model that comes with the library: it knows drawn players and synthesised sound only;
              hf:OWNER/NAME[@REVISION], a repository of Hugging Face that has what `avset export` writes;
              REPOSITORY#REVISION:PATH, a model in a git repository with DVC, PATH as
              data/<dataset>/<scale>/models/<method>, with the encoder beside it, or the name of one of the
              `artifacts` of its dvc.yaml; without REPOSITORY, this one

    Nothing of a stranger is run: only weights, JSON and text are fetched, and checked when they are loaded. The
    encoder is inside or beside the folder, but for that of the demo's model: see `avset.inference.hub.locate`.
    AvsetError if it is not there, or cannot be reached.
    """
    return way_to(address)()


def way_to(address: str | Path) -> Callable[[], Path]:
    """How to fetch a model, without fetching it; AvsetError if an address is of no form that there is."""
    told = str(address)
    if told == DEMO:
        return lambda: PACKED
    if found := HUB.fullmatch(told):
        return partial(_from_hub, **found.groupdict())
    if (folder := typed_path(told)).exists():
        return lambda: folder
    if found := DVC.fullmatch(told):
        return partial(_from_dvc, **found.groupdict())
    raise AvsetError(f"there is no model {told!r}; give {FORMS}")


def check_start(p: Params) -> None:
    """AvsetError if train.start_from names no model, as far as that is known without asking another machine."""
    try:
        way_to(p.train.start_from or DEMO)
    except AvsetError as e:
        raise AvsetError(f"train.start_from: {e}") from e


def unwatched(address: str) -> bool:
    """Whether a model is in a folder of this machine whose changes DVC does not notice."""
    folder = typed_path(address)
    return address != DEMO and folder.exists() and not folder.resolve().is_relative_to(WATCHED.resolve())


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=revision, endpoint=os.environ.get("HF_ENDPOINT")))

    try:
        for file in INSIDE:
            fetch(f"encoder/{file}")
        with suppress(EntryNotFoundError):
            fetch(PRESENCE)
        for file in FILES:
            folder = fetch(file).parent
        return folder
    except (OSError, ValueError, HfHubHTTPError) as e:
        why = str(e).strip().splitlines()[0]
        raise AvsetError(f"hf:{name} cannot be fetched: {why}; look for the name and the revision on the hub") from e


def _from_dvc(repo: str, revision: str, path: str) -> Path:
    try:
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc.scm import RevError, SCMError
    except ImportError as e:
        raise AvsetError("a model in a DVC repository needs DVC; pip install 'avset[pipeline]'") from e

    try:
        there = DVCFileSystem(repo or os.curdir, rev=revision)
        target = cache_folder("shared") / digest([repo or str(Path.cwd()), there.repo.get_rev(), path])
        if target.exists():
            return target
        named = there.repo.artifacts.read().get("dvc.yaml", {})
        source = Path(named[path].path if path in named else path)
        encoder = source / "encoder" if there.isdir(f"{source.as_posix()}/encoder") else encoder_of(source)
        with new_model(target) as fresh:
            for files, folder, to in ((FILES, source, fresh), (INSIDE, encoder, fresh / "encoder")):
                make_folder(to)
                for name in files:
                    there.get_file(f"{folder.as_posix()}/{name}", str(to / name))
            if there.exists(way := f"{source.as_posix()}/{PRESENCE}"):
                there.get_file(way, str(fresh / PRESENCE))
    except (OSError, DvcException, SCMError, RevError) as e:
        why = str(e).strip().splitlines()[0]
        raise AvsetError(f"{repo}#{revision}:{path} cannot be fetched: {why}; give {FORMS}") from e
    return target


@contextmanager
def new_model(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends well, and else nothing."""
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(prefix=f".{target.name[:8]}-", dir=target.parent) as spare:
        make_folder(fresh := Path(spare) / target.name)
        yield fresh
        replace_folder(fresh, target)

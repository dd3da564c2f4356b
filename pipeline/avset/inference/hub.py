"""Where a model is: a folder, a path in a DVC repository, or a repository of Hugging Face."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from avset.console import typed_path
from avset.errors import AvsetError
from avset.params import digest, encoder_of
from avset.storage.artifacts import ARTIFACTS
from avset.storage.cache import cache_folder
from avset.storage.checksums import RECORD
from avset.storage.files import make_folder, replace_folder

HUB = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
DVC = re.compile(r"(?P<repo>[^#]*)#(?P<revision>[^:#]+):(?P<path>[^:]+)")
FILES = (*ARTIFACTS["models"].files, RECORD)
INSIDE = (*ARTIFACTS["encoder"].files, RECORD)  # of the encoder
FORMS = "a folder, hf:OWNER/NAME[@REVISION], or REPOSITORY#REVISION:PATH (docs/operations.md)"


def locate(address: str | Path) -> Path:
    """The folder of a model, which is fetched if it is elsewhere; what is fetched once is not fetched again.

    address   a folder;
              hf:OWNER/NAME[@REVISION], a repository of Hugging Face that has what `avset export` writes;
              REPOSITORY#REVISION:PATH, a model in a git repository with DVC, PATH as
              data/<dataset>/<scale>/models/<method>, with the encoder beside it; without REPOSITORY, this one

    Nothing of a stranger is run: only weights, JSON and text are fetched, and checked when they are loaded.
    AvsetError if it is not there, or cannot be reached.
    """
    told = str(address)
    if found := HUB.fullmatch(told):
        return _from_hub(**found.groupdict())
    if (folder := typed_path(told)).exists():
        return folder
    if found := DVC.fullmatch(told):
        return _from_dvc(**found.groupdict())
    raise AvsetError(f"there is no model {told!r}; give {FORMS}")


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=revision, endpoint=os.environ.get("HF_ENDPOINT")))

    try:
        for file in INSIDE:
            fetch(f"encoder/{file}")
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

    source = Path(path)
    try:
        there = DVCFileSystem(repo or os.curdir, rev=revision)
        target = cache_folder("shared") / digest([repo or str(Path.cwd()), there.repo.get_rev(), path])
        if target.exists():
            return target
        make_folder(target.parent)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name[:8]}-", dir=target.parent))
        try:
            for files, folder, to in (
                (FILES, source, fresh),
                (INSIDE, encoder_of(source), fresh / "encoder"),
            ):
                make_folder(to)
                for name in files:
                    there.get_file(f"{folder.as_posix()}/{name}", str(to / name))
            replace_folder(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except (OSError, DvcException, SCMError, RevError) as e:
        why = str(e).strip().splitlines()[0]
        raise AvsetError(f"{repo}#{revision}:{path} cannot be fetched: {why}; give {FORMS}") from e
    return target

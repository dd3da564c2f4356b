"""The artifact that a stage is about to make anew, as it was: in its folder, or in DVC's cache.

DVC removes the outputs of a stage before it runs the stage. Their files are still in DVC's cache, under the hashes that
dvc.lock names. A colleague who has pulled the stores, and nothing else, goes on from there.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from avset.storage.checksums import RECORD

LOCK = Path("dvc.lock")


@contextmanager
def previous(folder: Path) -> Iterator[Path | None]:
    """A folder with the files of the artifact that was in `folder`, as far as they are here; None if none is."""
    if (folder / RECORD).exists():
        yield folder
        return
    outputs = list(_locked(folder))
    if not outputs:
        yield None
        return
    with TemporaryDirectory(prefix="avset-") as place:
        for name, path in _cached(outputs):
            link = Path(place) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
        yield Path(place) if (Path(place) / RECORD).exists() else None


def _locked(folder: Path) -> Iterator[tuple[str, str]]:
    """(path below the folder, hash) of every output in dvc.lock that is the folder, or lies in it."""
    tree: dict[str, Any] = yaml.load(LOCK.read_bytes(), yaml.CSafeLoader) if LOCK.exists() else {}
    for stage in (tree.get("stages") or {}).values():
        for output in stage.get("outs", []):
            path = Path(output["path"])
            if output.get("md5") and (path == folder or folder in path.parents):
                yield path.relative_to(folder).as_posix(), output["md5"]


def _cached(outputs: list[tuple[str, str]]) -> Iterator[tuple[str, Path]]:
    """(path below the folder, file in DVC's cache) of outputs; of a folder, all files in it."""
    from dvc.repo import Repo  # a second, and only where something is missing

    cache = Repo(".").cache.local
    for name, digest in outputs:
        path = Path(cache.oid_to_path(digest)).absolute()
        if not path.exists():
            continue
        if not digest.endswith(".dir"):
            yield name, path
            continue
        for entry in json.loads(path.read_bytes()):
            inner = Path(cache.oid_to_path(entry["md5"])).absolute()
            if inner.exists():
                yield (Path(name) / entry["relpath"]).as_posix(), inner

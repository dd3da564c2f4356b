"""Checksums: the record of an artifact promises the bytes of each of its files, and of itself.

`record.json` is written last, and has `files` (path -> size and sha256) and `sha256`, that of its own text without
this entry. A single bit that differs is noticed where a file is opened. A file is hashed once in each process, as long
as its size, time and inode stay. The media of `clips` are promised by the index, clip by clip.

Arrays of a store are checked clip by clip, by the digests of its index (`Store`): nobody reads whole shards for that.
Artifacts that are older than the checksums are read with a warning.
"""

import errno
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from avset.errors import AvsetError
from avset.params import stage_of
from avset.storage.files import require, write_atomic
from avset.storage.reading import passing, patiently

RECORD = "record.json"
ELSEWHERE = "media"  # a folder whose files the index promises
Stamp = tuple[int, int, int]
memory: dict[tuple[Path, Stamp], str] = {}  # of this process: the sha256 of a file
records: dict[tuple[Path, Stamp], dict[str, Any]] = {}  # the same, what a record says


def seal(folder: Path, told: Mapping[str, Any], known: Mapping[str, str] | None = None) -> None:
    """Write the record `told` of the artifact in `folder`, with the checksums of all files there.

    `known` has the sha256 of those files that need not be read for it.
    """
    known = known or {}
    files = {
        name: {"sha256": known.get(name) or sha256_of(folder / name), "size": (folder / name).stat().st_size}
        for name in names(folder)
    }
    record = {**told, "files": files}
    write_atomic(folder / RECORD, as_text(record | {"sha256": hashlib.sha256(as_text(record)).hexdigest()}))


def unsealed(folder: Path) -> dict[str, Any]:
    """What was `told` when the record in `folder` was written; AvsetError if it is not as it was written."""
    return {key: value for key, value in _record(folder).items() if key not in ("files", "sha256")}


def checked(path: Path) -> Path:
    """`path` if its bytes are those that the record beside it promises, or if there is no record.

    MissingArtifact if there is no such file, AvsetError with the cure if it is damaged.
    """
    require(path)
    if (path.parent / RECORD).exists():
        record = _record(path.parent)
        if "files" not in record:
            _warn(path.parent)
        elif wrong := _wrong(path, record["files"].get(path.name)):
            raise damaged(path, wrong)
    return path


def unchanged(path: Path, sha256: str) -> Path:
    """`path` if its bytes have that sha256; MissingArtifact if there is no such file, AvsetError if it is damaged."""
    if sha256_of(require(path)) != sha256:
        raise damaged(path, "its bytes are not those of the index")
    return path


def damages(folder: Path) -> dict[str, str]:
    """Name -> what is wrong, of the files of an artifact that are not as the record promises."""
    try:
        record = _record(folder)
    except AvsetError as e:
        return {RECORD: str(e)}
    if "files" not in record:
        _warn(folder)
        return {}
    found = {name: _wrong(folder / name, record["files"].get(name)) for name in [*record["files"], *names(folder)]}
    return {name: wrong for name, wrong in sorted(found.items()) if wrong}


def promised(folder: Path) -> dict[str, str]:
    """Name -> sha256 of the files of an artifact; empty if it is older than the checksums."""
    return {name: told["sha256"] for name, told in _record(folder).get("files", {}).items()}


def damaged(path: Path, wrong: object) -> AvsetError:
    """The error of a file that is not as it was written."""
    where = " ".join(str(wrong).split())
    return AvsetError(
        f"{path} is damaged ({where}); remove it and what shares its bytes ('A failing disk' in docs/operations.md), "
        f"then run `dvc checkout {path}`, or `{f'dvc repro {stage_of(path)}'.strip()}`"
    )


def finite(path: Path, tensors: Mapping[str, Any]) -> None:
    """AvsetError if a number in the torch tensors of `path` is infinite or none: all that follows would be none too."""
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise AvsetError(f"{path} has weights that are not finite ({wrong[0]}); make it again, or take another")


def names(folder: Path) -> Iterator[str]:
    """The files of an artifact by their paths below its folder, without the record, the media, and what DVC hides."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in (RECORD, ELSEWHERE) and not path.name.startswith("."):
            yield name.as_posix()


def sha256_of(path: Path) -> str:
    """sha256 of a file's content; a file that is as it was is read once in each process."""
    if (at := (path.absolute(), patiently(lambda: stamp_of(path)))) not in memory:
        memory[at] = digest_of(path)
    return memory[at]


def digest_of(path: Path) -> str:
    """sha256 of a file's content, read anew; OSError if the system cannot read it."""

    def read() -> str:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()

    return patiently(read)


def blamed(path: Path, error: Exception) -> Exception:
    """What to raise where a library cannot read a file: `damaged`, or the error of the system that is to blame.

    Not every library says which of both it is. The system is, if it cannot read the file, or if the file is as it was
    written. OSError if it cannot.
    """
    if passing(error):
        return error
    folder = next((folder for folder in path.parents if (folder / RECORD).exists()), None)
    known = folder and promised(folder).get(path.relative_to(folder).as_posix())
    if known and path.exists() and known == digest_of(path):
        return OSError(errno.EIO, f"it could not be read once ({' '.join(str(error).split())})", str(path))
    return damaged(path, error)


def stamp_of(path: Path) -> Stamp:
    """What changes when a file is written: its size, time and inode."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _record(folder: Path) -> dict[str, Any]:
    path = require(folder / RECORD)
    if (at := (path.absolute(), stamp_of(path))) not in records:
        records[at] = _parsed(path, patiently(path.read_bytes))
    return dict(records[at])


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    try:
        record = dict(json.loads(data))
    except (ValueError, TypeError) as e:
        raise damaged(path, e) from e
    told = {key: value for key, value in record.items() if key != "sha256"}
    if "files" in record or "sha256" in record:
        own = hashlib.sha256(as_text(told)).hexdigest()
        if record.get("sha256") != own or data != as_text(record):
            raise damaged(path, "its text is not the one that was written")
    return record


def _wrong(path: Path, told: Mapping[str, Any] | None) -> str:
    """What is wrong with a file of which the record tells size and sha256; empty if nothing is."""
    if told is None:
        return f"{RECORD} does not name it"
    if not path.exists():
        return "it is not there"
    if path.stat().st_size != told["size"]:
        return f"it has {path.stat().st_size} bytes, not the {told['size']} that were written"
    return "" if sha256_of(path) == told["sha256"] else "its bytes are not those that were written"


def as_text(record: Mapping[str, Any]) -> bytes:
    """Sorted keys, no time stamps, a newline at the end."""
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


@cache
def _warn(folder: Path) -> None:
    print(
        f"note: {folder} was made before there were checksums, so its files are not checked; "
        f"`{f'dvc repro -s -f {stage_of(folder)}'.strip()}` makes it again, and what is kept is not computed again",
        file=sys.stderr,
    )

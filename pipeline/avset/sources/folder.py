"""A directory of the user's own videos, with or without a CSV table of labels and splits."""

import csv
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from avset.errors import AvsetError, ClipError
from avset.params import Download
from avset.sources import SPLITS, Entry, Fetched, Listing
from avset.sources.lists.funnel import position

SUFFIX = None  # the media keep the suffix of their origin
COLUMNS = ("file", "label", "split")
NAME_LENGTH = 80  # characters of a media_id before its hash
SPLIT_ALL_FROM = 3  # files; with so many, no split that was asked for stays empty


class Options(BaseModel, extra="forbid"):
    """Where the videos are, and how they are split."""

    path: str = Field(description="directory that is searched with its subdirectories")
    table: str | None = Field(
        default=None,
        description="CSV with the header file,label or file,label,split; files are relative to path, a label "
        "may be empty or a list like flute;violin, a split may be empty",
    )
    validation: float = Field(default=0.1, ge=0, lt=0.5, description="fraction of the files that have no split")
    test: float = Field(default=0.1, ge=0, lt=0.5, description="fraction of the files that have no split")
    extensions: list[Annotated[str, Field(pattern=r"^\.\w+$")]] = Field(
        default=[
            ".mp4",
            ".webm",
            ".mkv",
            ".mov",
            ".avi",
            ".m4v",
            ".mpg",
            ".mpeg",
            ".ts",
            ".flv",
            ".wmv",
            ".3gp",
        ],
        min_length=1,
        description="with the dot, upper or lower case; files of the table are taken whatever theirs is",
    )


def listing(options: Options) -> Listing:
    """One entry per video, sorted by media_id: the files of the directory, and those that only the table names.

    A file that the table does not name has no labels and no split. A hash of the media_id gives a split to files that
    have none, so the split stays when files are added. But if a split would be empty although there are three such
    files or more, the nearest file is moved into it. AvsetError names what is wrong with the directory or the table.
    """
    root = Path(options.path)
    if not root.is_dir():
        raise AvsetError(f"there is no directory {options.path!r}; set clips.options.path to that of your videos")
    rows = _read_table(Path(options.table)) if options.table else {}
    extensions = {extension.lower() for extension in options.extensions}
    files = {name for name in _files_below(root) if Path(name).suffix.lower() in extensions}
    if not files and not rows:
        known = " ".join(sorted(extensions))
        raise AvsetError(
            f"no video in {options.path!r}: add files that end in {known}, or set clips.options.extensions"
        )
    names = sorted(files | set(rows))
    for name in names:
        if os.fsencode(name).decode(errors="replace") != name:
            raise AvsetError(f"the name {os.fsencode(name)!r} in {options.path!r} is not UTF-8; rename the file")
    ids = _media_ids(names)
    entries = [Entry(ids[name], *rows.get(name, ("", ())), origin=str(root / name)) for name in names]
    return Listing(sorted(_split(entries, options), key=lambda entry: entry.media_id))


def fetch(entry: Entry, options: Options, target: Path, access: Download | None = None) -> Fetched:
    """Copy an entry's file to `target`; a link would let caches lock and share the user's file. There are no boxes.

    ClipError("missing") if the file is gone, or if only the table names it.
    """
    origin = Path(entry.origin).resolve()
    if not origin.is_file():
        raise ClipError("missing", f"there is no file {entry.origin!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(origin, target)
    return Fetched()


def _files_below(root: Path) -> Iterator[str]:
    """Relative paths of the files below root, and of broken links, which fail later with a reason."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:  # a loop of links
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in files:
            yield (Path(folder) / name).relative_to(root).as_posix()


def _read_table(path: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Relative file name -> (split or "", labels)."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, strict=True, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            if "file" not in header or "label" not in header or not set(header) <= set(COLUMNS):
                wanted = "its first line must be file,label or file,label,split"
                raise AvsetError(f"the table {str(path)!r} has the columns {header}; {wanted}")
            rows: dict[str, tuple[str, tuple[str, ...]]] = {}
            for row in reader:
                where = f"line {reader.line_num} of {str(path)!r}"
                name, split, labels = _read_row(row, where)
                if name in rows:
                    raise AvsetError(f"{where}: {name!r} stands there twice; keep one line and join labels with ;")
                rows[name] = (split, labels)
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AvsetError(
            f"cannot read the table {str(path)!r}: {reason}; set clips.options.table to a UTF-8 CSV file"
        ) from error


def _read_row(row: dict[str | None, str], where: str) -> tuple[str, str, tuple[str, ...]]:
    """File name, split, labels of one line of the table."""
    if None in row or None in (row["file"], row["label"]):
        raise AvsetError(f"{where} has too few or too many fields; quote names that contain a comma")
    name = os.path.normpath(row["file"].strip()) if row["file"].strip() else ""
    if not name or Path(name).is_absolute() or name.split("/")[0] == "..":
        raise AvsetError(f"{where}: {row['file']!r} is not a name relative to clips.options.path")
    split = (row.get("split") or "").strip()
    if split not in ("", *SPLITS):
        raise AvsetError(f"{where}: the split {split!r} is not one of {', '.join(SPLITS)} or empty")
    labels = tuple(dict.fromkeys(label.strip() for label in row["label"].split(";") if label.strip()))
    return name, split, labels


def _media_ids(names: list[str]) -> dict[str, str]:
    """Name -> id of letters, digits, "_", "." and "-": the name without its suffix, if that is such an id.

    Other names, and names that differ only in their suffix, get a hash of the whole name.
    """
    stems = {name: name[: len(name) - len(Path(name).suffix)] for name in names}
    shared = Counter(stems.values())
    ids = {}
    for name, stem in stems.items():
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).lstrip("-.")[:NAME_LENGTH]
        if plain != stem or shared[stem] > 1 or re.search(r"-[0-9a-f]{10}$", stem):
            plain += "-" if plain else "video-"
            plain += hashlib.sha256(name.encode()).hexdigest()[:10]
        ids[name] = plain
    return ids


def _split(entries: list[Entry], options: Options) -> list[Entry]:
    """The entries, each with a split; in the order of their positions the first are test, then validation, train."""
    fixed = {entry.split for entry in entries} - {""}
    free = sorted((e for e in entries if not e.split), key=lambda e: position(e.media_id))
    test = sum(position(e.media_id) < options.test for e in free)
    border = sum(position(e.media_id) < options.test + options.validation for e in free)
    if len(free) >= SPLIT_ALL_FROM:
        some_test = int("test" not in fixed and options.test > 0)
        some_validation = int("validation" not in fixed and options.validation > 0)
        some_train = int("train" not in fixed)
        test = min(max(test, some_test), len(free) - some_validation - some_train)
        border = min(max(border, test + some_validation), len(free) - some_train)
    splits = ["test"] * test + ["validation"] * (border - test) + ["train"] * (len(free) - border)
    split_of = {entry.media_id: split for entry, split in zip(free, splits, strict=True)}
    return [replace(entry, split=entry.split or split_of[entry.media_id]) for entry in entries]

"""A directory of the user's own videos, with or without a CSV table of labels and splits."""

import csv
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field

from avset.errors import AvsetError, ClipError
from avset.params import Download
from avset.sources import SPLITS, Entry, Fetched, Listing
from avset.sources.lists.funnel import split_of
from avset.sources.names import Names, is_relative, is_rubbish
from avset.storage.reading import patiently

SUFFIX = None  # the media keep the suffix of their origin
COLUMNS = ("file", "label", "split")
NAME_LENGTH = 80  # characters of a media_id before its hash
SHOWN = 3  # names in a message
APPLE_DOUBLE = bytes.fromhex("00051607")  # how the companions begin that a Mac puts beside files on other disks


class Row(NamedTuple):
    """A line of the table."""

    where: str
    name: str
    split: str  # or ""
    labels: tuple[str, ...]


class Options(BaseModel, extra="forbid"):
    """Where the videos are, and how they are split."""

    path: str = Field(description="directory that is searched with its subdirectories")
    table: str | None = Field(
        default=None,
        description="CSV with the header file,label or file,label,split; files are relative to path, a label "
        "may be empty or a list like flute;violin, a split may be empty",
    )
    validation: float = Field(
        default=0.1, ge=0, lt=0.5, description="fraction of the files that have no split; enough for a mixture at least"
    )
    test: float = Field(default=0.1, ge=0, lt=0.5, description="likewise")
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
    """One entry per video of the directory, sorted by media_id.

    The table names files as people see names, see `names.Names`. A file that the table does not name has no labels and
    no split. A hash of the media_id gives a split to files that have none, and it stays when files are added; but
    `splits.fill` may move such a file. AvsetError names what is wrong with the directory or the table: also a row
    without a file.
    """
    root = Path(options.path)
    if not root.is_dir():
        raise AvsetError(f"there is no directory {options.path!r}; set clips.options.path to that of your videos")
    extensions = {extension.lower() for extension in options.extensions}
    there = sorted(_files_below(root))
    passed = [name for name in there if is_rubbish(name) and _looks_like_video(name, extensions)]
    videos = [name for name in there if not is_rubbish(name) and Path(name).suffix.lower() in extensions]
    rows = _matched(_read_table(Path(options.table)), videos, there, options) if options.table else {}
    taken = sorted({*videos, *rows})
    passed = [name for name in passed if name not in rows]
    if not taken:
        known = " ".join(sorted(extensions))
        also = f" ({len(passed)} hidden or unfinished files do not count)" if passed else ""
        raise AvsetError(
            f"no video in {options.path!r}{also}: add files that end in {known}, or set clips.options.extensions"
        )
    for name in taken:
        if os.fsencode(name).decode(errors="replace") != name:
            raise AvsetError(f"the name {os.fsencode(name)!r} in {options.path!r} is not UTF-8; rename the file")
    ids = _media_ids(taken)
    entries = [_entry(root, name, ids[name], rows.get(name), options) for name in taken]
    funnel = (
        {"files": {"rows": len(taken) + len(passed), "no videos": len(passed), "used": len(taken)}} if passed else {}
    )
    return Listing(sorted(entries, key=lambda entry: entry.media_id), funnel, filled=True)


def _entry(root: Path, name: str, media_id: str, row: Row | None, options: Options) -> Entry:
    split = row.split if row else ""
    weights = {"test": options.test, "validation": options.validation}
    weights["train"] = 1 - sum(weights.values())
    drawn = split or split_of(media_id, weights)
    return Entry(media_id, drawn, row.labels if row else (), origin=str(root / name), free=not split)


def fetch(entry: Entry, options: Options, target: Path, access: Download | None = None) -> Fetched:
    """Copy an entry's file to `target`; a link would let caches lock and share the user's file. There are no boxes.

    ClipError("missing") if the file is gone; corrupt if it is empty, or a companion that a Mac has put beside a video.
    """
    origin = Path(entry.origin).resolve()
    if not patiently(origin.is_file):
        raise ClipError("missing", f"there is no file {entry.origin!r}")
    start = patiently(lambda: _start(origin))
    if not start or start == APPLE_DOUBLE:
        what = "is an AppleDouble companion of a Mac, no video" if start else "is empty"
        raise ClipError("corrupt", f"{origin.name!r} {what}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    patiently(lambda: shutil.copyfile(origin, target))
    return Fetched()


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(APPLE_DOUBLE))


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


def _looks_like_video(name: str, extensions: set[str]) -> bool:
    """Whether a suffix of the name is that of a video; a download that has not ended has one more."""
    return any(suffix.lower() in extensions for suffix in Path(name).suffixes)


def _read_table(path: Path) -> list[Row]:
    """The rows of the table, each with a name of its own."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, strict=True, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            if "file" not in header or "label" not in header or not set(header) <= set(COLUMNS):
                wanted = "its first line must be file,label or file,label,split"
                raise AvsetError(f"the table {str(path)!r} has the columns {header}; {wanted}")
            return [_read_row(row, reader.line_num, path) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AvsetError(
            f"cannot read the table {str(path)!r}: {reason}; set clips.options.table to a UTF-8 CSV file"
        ) from error


def _read_row(row: dict[str | None, str], line: int, path: Path) -> Row:
    """One line of the table."""
    where = f"line {line} of {str(path)!r}"
    if None in row or None in (row["file"], row["label"]):
        raise AvsetError(f"{where} has too few or too many fields; quote names that contain a comma")
    name = row["file"]
    if not is_relative(name):
        raise AvsetError(f"{where}: {name!r} is not a name relative to clips.options.path")
    split = (row.get("split") or "").strip()
    if split not in ("", *SPLITS):
        raise AvsetError(f"{where}: the split {split!r} is not one of {', '.join(SPLITS)} or empty")
    labels = tuple(dict.fromkeys(label.strip() for label in row["label"].split(";") if label.strip()))
    return Row(where, name, split, labels)


def _matched(table: list[Row], videos: list[str], there: list[str], options: Options) -> dict[str, Row]:
    """File -> its row of the table. AvsetError if a row has no file or several, or if a file has two rows."""
    names, rows, lost = Names(videos, there), dict[str, Row](), list[Row]()
    for row in table:
        found = names.find(row.name)
        if len(found) > 1:
            raise AvsetError(
                f"{row.where}: {row.name!r} may be any of {', '.join(map(repr, found[:SHOWN]))}; write one of them"
            )
        if not found:
            lost.append(row)
        elif found[0] in rows:
            raise AvsetError(
                f"{row.where}: {found[0]!r} stands there twice, before in {rows[found[0]].where.split(' of ')[0]}; "
                "keep one line and join labels with ;"
            )
        else:
            rows[found[0]] = row
    if lost:
        told = [
            f"{row.where}: {row.name!r} (nearest: {', '.join(map(repr, names.nearest(row.name))) or 'none'})"
            for row in lost[:SHOWN]
        ]
        more = f"; and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        raise AvsetError(
            f"{len(lost)} of {len(table)} rows of the table have no file in {options.path!r}: {'; '.join(told)}{more}; "
            "mend the names, remove the rows, or set clips.options.path"
        )
    return rows


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

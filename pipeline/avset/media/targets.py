"""The files that a user names: what can be known of them before anything is computed. No torch in here.

A result never takes the place of what it is made of, or of another result; and of another file only if told to.
"""

import os
import stat
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from avset.errors import AvsetError

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
FILMS = (".mp4",)  # the pictures of a film with another sound
WRITABLE = (*SOUNDS, *FILMS)
PICTURES = (".png",)


def check_files(
    file: Path, outputs: Mapping[str, Path | None], suffixes: Collection[str], overwrite: bool = False
) -> None:
    """AvsetError if `file` cannot be read, or if one of the `outputs` (name -> path) must not be written.

    An output has one of the `suffixes`, and is another file than `file` and than the outputs before it, whatever path,
    link or case names it. A file that is there already needs `overwrite`.
    """
    check_readable(file)
    check_outputs(outputs, suffixes, overwrite, {"the input": file})


def check_outputs(
    outputs: Mapping[str, Path | None],
    suffixes: Collection[str],
    overwrite: bool = False,
    taken: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """AvsetError if one of the `outputs` must not be written, see `check_files`; `taken` are files that stay."""
    taken = dict(taken)
    for name, path in outputs.items():
        if path is not None:
            if why := _unwritable(path, suffixes, taken, overwrite):
                raise AvsetError(f"cannot write {str(path)!r}: {why}")
            taken[f"the {name}"] = path


def check_readable(file: Path) -> None:
    """AvsetError if `file` cannot be read."""
    if why := _unreadable(file):
        raise AvsetError(f"cannot read {str(file)!r}: {why}; give an audio or video file")


def check_query(text: str) -> None:
    """AvsetError if a query has no words."""
    if not text.strip():
        raise AvsetError('the query is empty; say what to listen or look for, as "person playing a violin"')


def check_time(time: float | None) -> None:
    """AvsetError if there cannot be a picture at this time (s)."""
    if time is not None and not 0 <= time < float("inf"):
        raise AvsetError(f"there is no picture at {time:g} s; give a number of seconds from 0 to the video's length")


def same_place(a: Path, b: Path) -> bool:
    """Whether two paths name one file, or would on a disk that does not tell cases apart."""
    with suppress(OSError):
        if a.samefile(b):
            return True
    a, b = _resolved(a), _resolved(b)
    return a == b or (bool(a.name) and _folded(a.name) == _folded(b.name) and same_place(a.parent, b.parent))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return path.absolute()


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _unreadable(file: Path) -> str:
    """Why a file cannot be read; "" if nothing speaks against it."""
    try:
        if kind := _other_kind(file):
            return f"it is {kind}"
        return "" if os.access(file, os.R_OK) else "it may not be read"
    except OSError as e:
        return "there is no such file" if isinstance(e, FileNotFoundError) else str(e.strerror)


def _other_kind(path: Path) -> str:
    """What a path is that is no plain file; "" for a plain file. OSError if there is nothing."""
    mode = path.stat().st_mode
    return "" if stat.S_ISREG(mode) else "a folder" if stat.S_ISDIR(mode) else "no plain file"


def _unwritable(path: Path, suffixes: Collection[str], taken: Mapping[str, Path], overwrite: bool) -> str:
    """Why a file must not be written, and the cure; "" if nothing speaks against it."""
    if path.suffix.lower() not in suffixes:
        return f"give a name that ends in {', '.join(suffixes)}"
    for name, other in taken.items():
        if same_place(path, other):
            return f"that is {name}, {str(other)!r}; give another name"
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            if kind := _other_kind(path):
                return f"it is {kind}; give another name"
            if not overwrite:
                return "there is such a file already; give another name, or allow it with --overwrite (overwrite=True)"
            if not os.access(path, os.W_OK):
                return "it is write-protected; give another name"
        folder = _resolved(path).parent
        above = next(one for one in (folder, *folder.parents) if one.exists())
        if not above.is_dir():
            return f"{str(above)!r} is no folder; give another one"
        return "" if os.access(above, os.W_OK | os.X_OK) else f"the folder {str(above)!r} may not be written to"
    except OSError as e:
        return f"{e.strerror}; give another name"

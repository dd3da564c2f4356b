"""Names of files: which are no videos, and which files a person means by a name."""

import difflib
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

FOLDERS = {"$recycle.bin", "recycler", "system volume information", "lost+found", "thumbs", "@eadir", "#recycle",
           "__macosx"}  # fmt: skip
WRITTEN = {"part", "tmp", "temp", "ytdl", "crdownload"}  # marks of what is being written, also before a suffix
UNFINISHED = {*WRITTEN, "partial", "download", "aria2", "opdownload", "!ut", "!qb"}
NEAR = 2  # names that are told


def is_rubbish(name: str) -> bool:
    """Whether a relative path is of what programs leave behind: hidden, thrown away, a companion, a part of a download.

    So are all files in a folder of that kind.
    """
    *folders, file = name.split("/")
    if any(part.startswith((".", "~$")) for part in (*folders, file)) or FOLDERS & {part.lower() for part in folders}:
        return True
    marks = [re.sub(r"-frag\d+$", "", mark) for mark in file.lower().split(".")][1:]
    return bool(UNFINISHED.intersection(marks[-1:]) or WRITTEN.intersection(marks[-2:]))


def is_relative(name: str) -> bool:
    """Whether a name stays below the directory that it is relative to, on any system."""
    path = _plain(name).replace("\\", "/")
    return bool(path) and not re.match(r"/|[A-Za-z]:/|\.\.(/|$)", path)


class Names:
    """The files of a directory, found by names that a table or another system writes differently.

    A name is that of a file if both are the same to the byte; else if they look the same: Unicode's forms, upper and
    lower case, kinds and number of spaces, `\\` and `/` do not count; else if the file is a video, and only its suffix
    is missing in the name.
    """

    def __init__(self, videos: Iterable[str], files: Iterable[str]):
        self._exact = set(files)
        self._videos = set(videos)
        self._folded: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        for name in sorted(self._exact):
            self._folded.setdefault(folded(name), []).append(name)
        for name in sorted(self._videos):
            self._stems.setdefault(folded(str(PurePosixPath(name).with_suffix(""))), []).append(name)

    def find(self, name: str) -> list[str]:
        """The files that a name may mean: none, one, or several."""
        if (plain := _plain(name)) in self._exact:
            return [plain]
        alike = self._folded.get(folded(name), [])
        return [file for file in alike if file in self._videos] or alike or self._stems.get(folded(name), [])

    def nearest(self, name: str) -> list[str]:
        """Videos whose names are near to a name: those of the same name in another folder, or else the nearest."""
        known = {folded(video): video for video in sorted(self._videos)}
        wanted = folded(name)
        elsewhere = [video for one, video in known.items() if one.split("/")[-1] == wanted.split("/")[-1]]
        return elsewhere[:NEAR] or [known[one] for one in difflib.get_close_matches(wanted, known, NEAR, cutoff=0.0)]


def told_apart(ids: Iterable[str]) -> dict[str, str]:
    """Media id -> the name of its file: the id, with a hash where ids look the same, so no disk takes two for one.

    The rule is the same on every disk: a table that was made on one is right on another.
    """
    ids = set(ids)
    alike = Counter(map(folded, ids))
    return {one: one if alike[folded(one)] == 1 else hashed(one) for one in ids}


def hashed(name: str) -> str:
    """A name with a hash of it."""
    return f"{name}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def _plain(name: str) -> str:
    """A name without spaces around it, and without `.` and `..` where these can be resolved."""
    return os.path.normpath(name.strip()) if name.strip() else ""


def folded(name: str) -> str:
    """What is the same of names that look the same."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", name).casefold())
    visible = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    parts = os.path.normpath(visible.replace("\\", "/").strip()).split("/")
    return "/".join(" ".join(part.split()) for part in parts)

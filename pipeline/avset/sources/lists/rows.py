"""The rows of lists of videos, every one checked.

Of a row, only an id that was checked can reach a path, a command or an address. A row that cannot be used becomes an
entry with a fault: the reading goes on, and the row is reported. Every other row is an entry, or is counted under the
reason why it was passed over.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, TextIO
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, Field, field_validator

from avset.errors import AvsetError
from avset.sources import SPLITS, Entry
from avset.sources.lists import is_address, open_list, refused, shown

PRECEDENCE = SPLITS[::-1]  # a video to which lists give several splits has the first of these
FIRST = ("validation", "test")  # the splits of the first videos of a class, as in Co-Separation
SITES = ("youtube.com", "youtu.be")
SITE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
OTHER_ID = re.compile(r"(?!row-)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
LATEST = 7 * 24 * 3600  # s; no part of a video ends later
LABEL_LENGTH = 100  # characters
LINE_LENGTH = 100_000  # characters of a line
LOST = ("#NAME?", "#REF!", "#VALUE!", "#N/A", "#NUM!", "#DIV/0!", "#NULL!")  # what a spreadsheet leaves of a text
JUDGED_FROM = 1000  # rows after which a list that is mostly unusable is refused


class Online(BaseModel, extra="forbid"):
    """What the sources of videos on the net have in common."""

    address: str = Field(
        default="https://www.youtube.com/watch?v={id}",
        description="of a video. At YouTube an id has 11 letters, digits, - and _; elsewhere 1 to 64 of these and "
        "dots, but no dot first, and it does not begin with row-",
    )
    height: int = Field(default=360, ge=16, description="px of the shorter side that is fetched")

    @field_validator("address")
    @classmethod
    def _of_a_page(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[!-~]+", value):
            raise ValueError("must be an http or https address")
        if "@" in parts.netloc:
            raise ValueError("must not contain a user or a password: it is written into the index")
        if "{id}" not in value or re.search(r"[{}]", value.replace("{id}", "")) or "{" in parts.netloc:
            raise ValueError("must contain {id} after the host, and no other braces")
        return value

    def checked(self, video: Any) -> str:
        """`video` if it is an id that may stand in the address and in a file name, else ValueError."""
        host = urlsplit(self.address).hostname or ""
        known = any(host == site or host.endswith("." + site) for site in SITES)
        if not isinstance(video, str):
            raise ValueError(f"a {type(video).__name__} is no video id")
        if not (SITE_ID if known else OTHER_ID).fullmatch(video):
            raise ValueError(f"{shown(video)} is no video id")
        return video

    def is_id(self, video: Any) -> bool:
        """Whether `checked` takes this for an id."""
        try:
            return bool(self.checked(video))
        except ValueError:
            return False


@dataclass
class Reading:
    """The reading of one list.

    AvsetError if the list is empty, if no row can be used, or if more than half of a thousand rows or more cannot.
    """

    place: str  # address or file
    option: str  # the key in clips.options that names the place
    form: str  # what a row is
    rows: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)  # reason -> rows that are no entry
    faults: int = 0
    seen: Counter[str] = field(default_factory=Counter)  # row that cannot be used -> how often it came

    @property
    def name(self) -> str:
        """The file name of the list."""
        path = urlsplit(self.place).path if is_address(self.place) else self.place
        return PurePosixPath(path).name or self.option

    def table(self, columns: tuple[str, ...]) -> Iterator[tuple[str, str, list[str]]]:
        """Place, text and fields of every row of a CSV list; no fields if their number is not that of the columns.

        One line is one row, so an unclosed quote spoils no other row. A line counts up to LINE_LENGTH characters.
        Blank lines, comments and a header before the first row are no rows. A comment begins with "# ", as in the lists
        of AudioSet: "#NAME?" is an id that a spreadsheet has lost.
        """
        with open_list(self.place, self.option) as handle:
            for number, line in enumerate(_lines(handle), 1):
                row = line.strip()
                try:
                    fields = next(csv.reader((row,), skipinitialspace=True, strict=True))
                except csv.Error:
                    fields = []
                comment = (fields or [row])[0].split(maxsplit=1)[:1] == ["#"]
                if row and not comment and (self.rows or fields != list(columns)):
                    self.rows += 1
                    yield f"line {number}", row, fields if len(fields) == len(columns) else []
        self._close()

    def by_class(
        self,
        options: Online,
        tree: Any,
        labels_of: Callable[[str], tuple[str, ...]],
        splits: dict[str, str] | None,
        first: tuple[str, ...] = FIRST,
        parts_of: Callable[[str], Iterable[tuple[float, float]]] = lambda video: (),
    ) -> list[Entry]:
        """The entries of a {class: [id, ...]} list that have a split.

        Videos that `splits` (id -> split) does not name are passed over. If it is None, the first usable videos of a
        class have the splits `first`, and all others are for training.
        """
        if not isinstance(tree, dict):
            raise self.refused(f"it is no {self.form}")
        entries = []
        for name, videos in tree.items():
            order: dict[str, int] = {}
            for number, video in enumerate(videos if isinstance(videos, list) else [videos], 1):
                self.rows += 1
                text = video if isinstance(video, str) else type(video).__name__
                if splits is not None and text not in splits and options.is_id(video):
                    self.passed_over["without a split"] += 1
                    continue
                split, where = (splits or {}).get(text, "train"), f"{shown(name)}, video {number}"
                entry = self.entry(options, where, f"{name}: {text}", video, split, labels_of(name), parts_of(text))
                if splits is None and not entry.fault:
                    at = order.setdefault(entry.media_id, len(order))
                    entry = replace(entry, split=first[at]) if at < len(first) else entry
                entries.append(entry)
        self._close()
        return entries

    def entry(
        self,
        options: Online,
        where: str,
        row: str,
        video: Any,
        split: str,
        labels: tuple[str, ...],
        parts: Iterable[tuple[float, float]] = (),
    ) -> Entry:
        """The entry of a row; if its id, its labels or its parts (s) cannot be used, the entry of its fault."""
        try:
            media_id = options.checked(video)
            for label in labels:
                if not is_label(label):
                    raise ValueError(f"{shown(label)} is no label")
            origin = options.address.replace("{id}", quote(media_id, safe=""))
            return Entry(media_id, split, labels, origin, spans(parts))
        except ValueError as e:
            return self.fault(where, row, split, labels, str(e))

    def fault(self, where: str, row: str, split: str, labels: tuple[str, ...] = (), why: str = "") -> Entry:
        """The entry of a row that cannot be used; its media_id is a hash of the row and of how often it came."""
        self.faults += 1
        if self.rows >= JUDGED_FROM and self.faults > self.rows / 2:
            raise self.refused(f"{self.faults} of its first {self.rows} rows are no {self.form}")
        again = f"\n{self.seen[row]}" if row in self.seen else ""
        self.seen[row] += 1
        digest = hashlib.sha256(f"{self.option}\n{row}{again}".encode(errors="surrogatepass")).hexdigest()
        origin = f"{where} of {self.name}"
        detail = f"{origin}: {why or f'{shown(row)} is no {self.form}'}"
        return Entry(f"row-{digest[:10]}", split, tuple(filter(is_label, labels)), origin, (), detail)

    def refused(self, why: str) -> AvsetError:
        """The error for a list that is not the one that was asked for."""
        return refused(self.place, self.option, why)

    def _close(self) -> None:
        """Check a list that was read to its end."""
        if self.rows == 0:
            raise self.refused("it is empty")
        if self.faults >= self.rows:
            raise self.refused(f"none of its {self.rows} rows is a {self.form}")


def read_splits(place: str, options: Online, funnel: dict[str, dict[str, int]]) -> dict[str, str]:
    """A user's CSV with the columns id,split; the funnel gets its rows. AvsetError names the line that is wrong."""
    splits: dict[str, str] = {}
    reading = Reading(place, "splits", "id,split")
    for where, row, fields in reading.table(("id", "split")):
        video, split = (field.strip() for field in fields or ("", ""))
        if not options.is_id(video) or split not in SPLITS or splits.setdefault(video, split) != split:
            why = f"{where} of {reading.name}: {shown(row)} is no video id with the one split"
            raise AvsetError(f"{why} that it has; in clips.options.splits that is train, validation or test")
    funnel["splits"] = {"rows": reading.rows, "repeated": reading.rows - len(splits)}
    return splits


def spans(parts: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Parts (s) in ascending order; those that overlap are united. ValueError if one is no part of a video."""
    united: list[tuple[float, float]] = []
    for start, end in sorted(parts):
        if not 0 <= start < end <= LATEST:
            raise ValueError(f"{start} to {end} s is no part of a video")
        if united and start < united[-1][1]:
            start, end = united[-1][0], max(end, united.pop()[1])
        united.append((start, end))
    return tuple(united)


def _lines(handle: TextIO) -> Iterator[str]:
    """Lines, each cut off after LINE_LENGTH characters."""
    rest = False
    while line := handle.readline(LINE_LENGTH):
        if not rest:
            yield line
        rest = not line.endswith("\n")


def is_label(text: str) -> bool:
    """Whether a text of a list can be the name of a class."""
    return bool(text.strip()) and len(text) <= LABEL_LENGTH and text.isprintable() and text not in LOST

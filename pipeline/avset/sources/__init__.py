"""Where clips come from.

Each source is a module with `Options` (a pydantic model), `listing(options)`, `fetch(entry, options, target,
access)` and `SUFFIX` (of the media files it makes; None: that of their origin). It may have `truth(options)`, boxes
that others have drawn, by media_id.
"""

from dataclasses import dataclass, field

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Entry:
    """One media file that a source can deliver: a video, or the piece of a video that spans all `parts`."""

    media_id: str  # letters, digits, "_", "." and "-"; unique in a listing
    split: str  # one of SPLITS
    labels: tuple[str, ...]
    origin: str  # path or address: tells the reader of an index where it is from
    parts: tuple[tuple[float, float], ...] = ()  # (start, end) in s of the origin, ascending; (): all of it
    fault: str = ""  # why the row of the list cannot be used: such an entry is not fetched
    free: bool = False  # whether no list says its split, so that it may get another one


@dataclass(frozen=True)
class Box:
    """Where the thing with this label is on the picture at one time: fractions of its width and height."""

    time_s: float
    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Fetched:
    """What `fetch` tells of the media file that it wrote."""

    start: float = 0.0  # s of the origin at which the timeline of the media file starts
    boxes: list[Box] = field(default_factory=list)


@dataclass(frozen=True)
class Listing:
    """The media that a source offers, and how its lists were narrowed down to them."""

    entries: list[Entry]  # sorted by media_id
    funnel: dict[str, dict[str, int]] = field(default_factory=dict)  # list -> "rows", and what became of them
    filled: bool = False  # whether every split must get enough videos for a mixture

"""Where clips come from.

Each source has `Options`, `entries(options)`, `fetch(entry, options, target)` and `SUFFIX`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One media file that a source can deliver. `origin` tells the reader of an index where it is from."""

    media_id: str
    split: str  # train, validation or test
    labels: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class Box:
    """Where the thing with this label is on the picture at one time: fractions of its width and height."""

    time_s: float
    label: str
    x0: float
    y0: float
    x1: float
    y1: float

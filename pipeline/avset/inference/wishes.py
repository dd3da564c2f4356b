"""What users write for a query: its words with a gain, a box of the picture, spans of time. No torch in here."""

import math
import re
from collections.abc import Sequence

from avset.errors import AvsetError

GAIN = re.compile(r"(.*)=\s*(?:([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*dB|(-inf)(?:\s*dB)?)\s*", re.IGNORECASE | re.DOTALL)
LOUDEST = 60.0  # dB
BOX = (
    "give the left, upper, right and lower edge, as 0.1,0.2,0.5,0.9: in fractions of the picture if all are at most 1, "
    "otherwise in pixels"
)


def with_gain(text: str) -> tuple[str, float | None]:
    """Words and gain (dB): "violin=+6dB" -> ("violin", 6.0), "drums=-inf" -> ("drums", -inf).

    A text that ends in no gain is words alone. AvsetError for a gain above `LOUDEST`.
    """
    found = GAIN.fullmatch(text)
    if not found:
        return text, None
    words, decibel, _ = found.groups()
    gain = float(decibel) if decibel else -math.inf
    if gain > LOUDEST:
        raise AvsetError(f"the gain of {text!r} is too large: give at most {LOUDEST:g} dB")
    return words.strip(), gain


def box_of(text: str) -> tuple[float, float, float, float]:
    """A box "x0,y0,x1,y1": its left, upper, right and lower edge; AvsetError if it is none."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as e:
        raise AvsetError(f"{text!r} is no box; {BOX}") from e
    if not (0 <= x0 < x1 < math.inf and 0 <= y0 < y1 < math.inf):
        raise AvsetError(f"{text!r} is no box: its edges are not in this order; {BOX}")
    return x0, y0, x1, y1


def spans_of(begins: Sequence[float], ends: Sequence[float]) -> list[tuple[float, float]]:
    """Spans of time (s) from as many beginnings and ends; AvsetError if one ends before it begins."""
    if len(begins) != len(ends):
        raise AvsetError(f"{len(begins)} spans begin and {len(ends)} end; give a beginning and an end for each")
    for begin, end in zip(begins, ends, strict=True):
        if not 0 <= begin < end:
            raise AvsetError(f"no span is from {begin:g} s to {end:g} s; give a beginning, and an end behind it")
    return list(zip(begins, ends, strict=True))

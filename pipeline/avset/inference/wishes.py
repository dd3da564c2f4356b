"""What users want to hear: a `Query`, checked, and what they write for it on the command line. No torch in here."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avset.errors import AvsetError
from avset.media.targets import check_query, check_time

GAIN = re.compile(r"(.*)=\s*(?:([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*dB|(-inf)(?:\s*dB)?)\s*", re.IGNORECASE | re.DOTALL)
LOUDEST = 60.0  # dB
BOX = (
    "give the left, upper, right and lower edge, as 0.1,0.2,0.5,0.9: in fractions of the picture if all are at most 1, "
    "otherwise in pixels"
)
REMIXED = "a remix has the rest in it; give gains, or --residual (residual=), and not both"
KINDS = ("text", "video", "box", "like", "regions")
Number = float | int
Box = tuple[Number, Number, Number, Number]  # x0, y0, x1, y1, from the upper left corner
Span = tuple[Number, Number]  # from, to: s


@dataclass(frozen=True, eq=False)
class Query:
    """A sound that is wanted: told in one of five ways, and what is to be done with it.

    text     words
    video    True: the picture of the film itself, all that the model sees of it
    box      a part of that picture: left, upper, right, lower edge; fractions if all are at most 1, otherwise pixels
    like     an example of such a sound: the path of a file, or an array with its `rate` (Hz)
    regions  embeddings (V, R, D), as `Separator.video_query` makes them
    time     of the picture of `video` and `box` (s); by default the middle of the film
    without  what is not wanted: texts, or queries that say a sound and nothing else
    inside   spans of time (s) outside of which the sound is silent
    outside  spans of time (s) in which the sound is silent
    gain     of the sound in the remix (dB; -inf: muted)

    AvsetError if it contradicts itself, or can be no query of any file.

    >>> violin = avset.Query("violin", without=["trumpet"], inside=[(0.2, 0.8)])
    >>> violin.label()
    'violin not trumpet from 0.2 to 0.8 s'
    """

    text: str | None = None
    video: bool = False
    box: Box | None = None
    like: Any = None
    regions: Any = None
    rate: int | None = None
    time: Number | None = None
    without: "Sequence[str | Query]" = ()
    inside: Sequence[Span] = ()
    outside: Sequence[Span] = ()
    gain: Number | None = None

    def __post_init__(self) -> None:
        told = [kind for kind in KINDS if getattr(self, kind) is not None and getattr(self, kind) is not False]
        if len(told) != 1:
            raise AvsetError(f"a query has {' and '.join(told) or 'nothing'} to tell its sound; give one of {_KINDS}")
        if self.text is not None:
            if not isinstance(self.text, str):
                raise AvsetError(f"a text is {type(self.text).__name__}; give words, as 'person playing a violin'")
            check_query(self.text)
        if self.box is not None:
            _check_box(self.box, str(self.box))
        check_time(None if self.time is None else float(self.time))
        if self.time is not None and not (self.video or self.box):
            raise AvsetError("a query has the time of a picture and no picture; give `time` with `video` or `box`")
        for span in (*self.inside, *self.outside):
            _check_span(span)
        if self.gain is not None and not self.gain <= LOUDEST:
            raise AvsetError(f"the gain of {self.label()!r} is too large: give at most {LOUDEST:g} dB")
        if isinstance(self.without, str):
            raise AvsetError("what is not wanted is one text; give several in a list, as ['trumpet']")
        if any(one.without or one.inside or one.outside or one.gain is not None for one in self.unwanted):
            raise AvsetError("what is not wanted has exclusions, spans or a gain itself; give the sound alone")
        if self.text and self.text in [one.text for one in self.unwanted]:
            raise AvsetError(f"{self.text!r} is wanted and not wanted; leave out one of them")
        if self.inside and all(any(a <= begin and end <= b for a, b in self.outside) for begin, end in self.inside):
            raise AvsetError(
                f"nothing is left of {self.label()!r}: its spans are in those that are left out; change one"
            )

    @property
    def unwanted(self) -> "tuple[Query, ...]":
        """`without`, as queries."""
        return tuple(as_query(one) for one in self.without)

    @property
    def key(self) -> str | int:
        """The same for two queries of the same words, and for one object."""
        return self.text or id(self)

    def told(self, number: int = 1) -> str:
        """How its sound is told, in words; embeddings have a number."""
        if self.text is not None:
            return self.text
        if self.regions is not None:
            return f"query {number}"
        if self.like is not None:
            return f"like {Path(self.like).stem if isinstance(self.like, (str, Path)) else 'an example'}"
        what = "video" if self.box is None else "box " + ",".join(f"{edge:g}" for edge in self.box)
        return what if self.time is None else f"{what} at {self.time:g} s"

    def label(self, number: int = 1) -> str:
        """What it is called: all that decides its sound."""
        parts = [self.told(number), *(f"not {one.told(number)}" for one in self.unwanted)]
        parts += [f"from {begin:g} to {end:g} s" for begin, end in self.inside]
        return " ".join([*parts, *(f"not from {begin:g} to {end:g} s" for begin, end in self.outside)])


_KINDS = ", ".join(KINDS)


def as_query(one: Any) -> Query:
    """A text, embeddings, or a query already, as a query."""
    if isinstance(one, Query):
        return one
    return Query(text=one) if isinstance(one, str) else Query(regions=one)


def listed(query: Any) -> list[Query]:
    """One query or several as a list: (N, V, R, D) are N. AvsetError if there is none."""
    one = isinstance(query, (str, Query)) or getattr(query, "ndim", 0) == 3 or not hasattr(query, "__iter__")
    several = [query] if one else list(query)
    if not several:
        raise AvsetError("there is no query; say what to listen for, as 'person playing a violin'")
    queries = [as_query(one) for one in several]
    gains = [one.gain is not None for one in queries]
    if any(gains) and not all(gains):
        told = queries[gains.index(False)].told(gains.index(False) + 1)
        raise AvsetError(f"{told!r} has no gain, and others have one; give a gain to all or to none (0 dB: as it is)")
    return queries


def labels(queries: Sequence[Query]) -> tuple[str, ...]:
    """What several queries are called."""
    return tuple(query.label(number) for number, query in enumerate(queries, 1))


def exclusions(queries: Sequence[Query]) -> dict[str | int, Query]:
    """All that is not wanted by some queries, each once, under its `key`."""
    return {one.key: one for query in queries for one in query.unwanted}


def results(queries: Sequence[Query], shares: bool = False) -> tuple[str, ...]:
    """What the files of several queries are called: one each, or one remix; all that decides their sounds."""
    named = labels(queries)
    if queries[0].gain is not None:
        named = (" and ".join(f"{name} {_loud(one.gain)}" for name, one in zip(named, queries, strict=True)),)
    return tuple(f"{name} shares" for name in named) if shares else named


def _loud(gain: Number | None) -> str:
    """A gain in words that a file's name keeps: it keeps no sign."""
    assert gain is not None
    return "muted" if gain == -math.inf else f"{'minus' if gain < 0 else 'plus'} {abs(gain):g} dB"


def check_spans(queries: Sequence[Query], seconds: Number) -> None:
    """AvsetError if a span begins behind the end of a sound."""
    for query in queries:
        for begin, end in (*query.inside, *query.outside):
            if begin >= seconds:
                raise AvsetError(
                    f"the span from {begin:g} s to {end:g} s begins after the end of the sound, which has "
                    f"{seconds:.2f} s; give an earlier one"
                )


def in_square(box: Box, width: int, height: int) -> Box:
    """A box of a width x height picture in fractions of its centre square, which is what an encoder sees.

    The box is in fractions of the picture if all its numbers are at most 1, otherwise in pixels. AvsetError if it lies
    outside of the picture or of the square.
    """
    if max(box) > 1 and (box[2] > width or box[3] > height):
        raise AvsetError(f"the box {box} is larger than the picture of {width} x {height} px; give a smaller one")
    side = min(width, height)
    scaled = zip(box, ((1, 1) if max(box) > 1 else (width, height)) * 2, (width, height) * 2, strict=True)
    x0, y0, x1, y1 = (min(max((e * unit - (whole - side) / 2) / side, 0.0), 1.0) for e, unit, whole in scaled)
    if x0 >= x1 or y0 >= y1:
        raise AvsetError(f"the box {box} is outside of the picture's centre square, which the model sees; move the box")
    return x0, y0, x1, y1


def of_picture(box: Box, width: int, height: int) -> Box:
    """The inverse of `in_square`: a box in fractions of the centre square, in thousandths of the picture."""
    side = min(width, height)
    x0, y0, x1, y1 = (
        round((e * side + (whole - side) / 2) / whole, 3) for e, whole in zip(box, (width, height) * 2, strict=True)
    )
    return x0, y0, x1, y1


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


def box_of(text: str) -> Box:
    """A box "x0,y0,x1,y1": its left, upper, right and lower edge; AvsetError if it is none."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as e:
        raise AvsetError(f"{text!r} is no box; {BOX}") from e
    _check_box((x0, y0, x1, y1), text)
    return x0, y0, x1, y1


def _check_box(box: Box, told: str) -> None:
    if len(box) != 4:
        raise AvsetError(f"{told!r} is no box; {BOX}")
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 < math.inf and 0 <= y0 < y1 < math.inf):
        raise AvsetError(f"{told!r} is no box: its edges are not in this order; {BOX}")
    if max(box) > 1 and (max(box) < 2 or any(0 < edge < 1 for edge in box)):
        raise AvsetError(f"{told!r} is no box: fractions are at most 1, and pixels are whole; {BOX}")


def spans_of(begins: Sequence[float], ends: Sequence[float]) -> list[Span]:
    """Spans of time (s) from as many beginnings and ends; AvsetError if one ends before it begins."""
    if len(begins) != len(ends):
        raise AvsetError(f"spans have {len(begins)} beginnings and {len(ends)} ends; give a --to for each --from")
    for span in zip(begins, ends, strict=True):
        _check_span(span)
    return list(zip(begins, ends, strict=True))


def _check_span(span: Span) -> None:
    begin, end = span
    if not 0 <= begin < end < math.inf:
        raise AvsetError(f"no span is from {begin:g} s to {end:g} s; give a beginning, and an end behind it")


def written(
    texts: Sequence[str], boxes: Sequence[str], likes: Sequence[str], video: bool, time: float | None, **common: Any
) -> list[Query]:
    """The queries of a command line, each kind in its order: texts, the video, boxes, examples; with what is `common`.

    A text, a box and an example may end in a gain.
    """

    queries = [Query(words, gain=gain, **common) for words, gain in map(with_gain, texts)]
    queries += [Query(video=True, time=time, **common)] if video else []
    queries += [Query(box=box_of(words), gain=gain, time=time, **common) for words, gain in map(with_gain, boxes)]
    queries += [Query(like=name, gain=gain, **common) for name, gain in map(with_gain, likes)]
    listed(queries)
    if time is not None and not (video or boxes):
        raise AvsetError("--time is that of a picture, and no query is a picture; give --box or --video with it")
    return queries


def not_wanted(texts: Sequence[str]) -> list[Query]:
    """What is not wanted, of a command line; AvsetError if it has a gain."""
    for text in texts:
        if with_gain(text)[1] is not None:
            raise AvsetError(f"{text!r} is not wanted, and has a gain; give --not words alone")
    return [Query(text=text) for text in texts]

"""The moving picture of a film under the heat map of a query."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from avset.compute.limited import Limits
from avset.inference.localize import Attention
from avset.media.films import write_pictures
from avset.media.frames import moving_pictures

LONGEST = 1280  # px of the longer side of a picture
LOOK = 0.2  # s from one picture that the model sees to the next; the heat of those between lies on a line
UNSEEN = 0.35  # of the brightness of what is outside of the model's square

Picture = UInt8[np.ndarray, "H W 3"]
Look = Callable[[UInt8[np.ndarray, "side side 3"]], Attention]
Moment = tuple[float, Picture, Float[np.ndarray, " R"]]  # time (s), a picture, and the heat over its regions


@dataclass
class HeatMap:
    """Draws a film under a heat map: on one scale from 0, absent, to 1, present, if the model has one.

    Without such a scale each picture is shown from its weakest to its strongest region. Memory does not grow with the
    length of the film.

    look  the attention over the centre square of a picture
    """

    file: Path
    look: Look
    limits: Limits
    strongest: tuple[float, Attention] | None = None  # of all pictures that the model saw: time (s) and attention

    def draw(self, target: Path) -> None:
        """Write the film, without sound. ClipError if its pictures cannot be read."""
        from avset.report.plots import (
            RELATIVE,
            SCALE,
            heat_map,
            with_legend,
        )  # matplotlib: a sound does not wait for it

        def drawn() -> Iterator[tuple[float, Picture]]:
            for time, picture, heat in self.moments(self.limits.each(moving_pictures, self.file, LONGEST)):
                assert self.strongest
                attention = self.strongest[1]
                under = (UNSEEN * picture.mean(-1, keepdims=True)).astype(np.uint8).repeat(3, -1)
                square = centre(picture)
                under[square] = heat_map(picture[square], heat, attention.grid)
                yield time, with_legend(under, RELATIVE if attention.heat is None else SCALE)

        write_pictures(target, drawn())

    def moments(self, pictures: Iterable[tuple[float, Picture]]) -> Iterator[Moment]:
        """The pictures with their heat: the model sees one in `LOOK` s, and the last one."""
        held: list[tuple[float, Picture]] = []
        seen: tuple[float, Float[np.ndarray, " R"]] | None = None
        for time, picture in pictures:
            held.append((time, picture))
            if seen is None or time >= seen[0] + LOOK:
                now = time, self._heat(time, picture)
                yield from _on_a_line(held, seen or now, now)
                held, seen = [], now
        if held and seen:
            now = held[-1][0], self._heat(*held[-1])
            yield from _on_a_line(held, seen, now)

    def _heat(self, time: float, picture: Picture) -> Float[np.ndarray, " R"]:
        found = self.look(picture[centre(picture)])
        values = found.scores if found.heat is None else found.heat
        if self.strongest is None or values.max() > _values(self.strongest[1]).max():
            self.strongest = time, found
        if found.heat is not None:
            return found.heat
        low, high = values.min(), values.max()
        return (values - low) / ((high - low) or 1.0)


def _values(attention: Attention) -> Float[np.ndarray, " R"]:
    return attention.scores if attention.heat is None else attention.heat


def _on_a_line(
    held: Iterable[tuple[float, Picture]], before: tuple[float, np.ndarray], now: tuple[float, np.ndarray]
) -> Iterator[Moment]:
    """Pictures up to `now`, whose heat lies between that of two pictures that were seen."""
    for time, picture in held:
        share = (time - before[0]) / ((now[0] - before[0]) or 1.0)
        yield time, picture, (1 - share) * before[1] + share * now[1]


def centre(picture: Picture) -> tuple[slice, slice]:
    """Rows and columns of the centre square, which is what a model sees of a picture."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)

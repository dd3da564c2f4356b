"""A vector canvas over Pillow: points are complex numbers, x to the right and y down, and places nest."""

import cmath
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Real = int | float
Place = int | float | complex
Points = Sequence[Place] | np.ndarray
BLACK, IVORY, STEEL, BRASS = (28, 27, 32), (244, 240, 226), (203, 208, 218), (232, 178, 52)
OVERSAMPLING = 3  # pictures are drawn so many times larger, then averaged down, against aliasing
CIRCLE = np.exp(2j * np.pi * np.arange(28) / 28)


class Canvas:
    """One coordinate system on a picture; `place` opens another inside it, drawing on the same picture."""

    def __init__(self, image: Image.Image, scale: Real = 1.0):
        """`scale` is pixels of the oversampled picture per unit."""
        self.draw = ImageDraw.Draw(image)
        self.factor, self.offset, self.flipped = complex(scale), 0j, False
        self.outlines: list[np.ndarray] = []

    def place(self, origin: Place, angle: Real = 0.0, scale: Real = 1.0, mirrored: bool = False) -> "Canvas":
        """Coordinates with their own origin, turned by `angle` (degrees, clockwise), scaled, then mirrored.

        What the new canvas draws is measured by its own `extent` alone.
        """
        child = object.__new__(Canvas)
        turn = scale * cmath.exp(1j * np.radians(angle))
        child.draw, child.flipped, child.outlines = self.draw, self.flipped, []
        child.offset = complex(self.pixels([origin])[0])
        child.factor = self.factor * (turn.conjugate() if self.flipped else turn)
        if mirrored:
            child.factor, child.flipped = -child.factor, not self.flipped
        return child

    def pixels(self, points: Points) -> np.ndarray:
        """Where points of this coordinate system lie on the oversampled picture."""
        array = np.asarray(points, dtype=np.complex128)
        return self.factor * (array.conj() if self.flipped else array) + self.offset

    def within(self, other: "Canvas", point: Place) -> complex:
        """A point of this canvas in the coordinates of `other`."""
        place = (complex(self.pixels([point])[0]) - other.offset) / other.factor
        return place.conjugate() if other.flipped else place

    def thickness(self, width: Real) -> int:
        """A line width in units as a whole number of oversampled pixels, at least 1."""
        return max(1, round(width * abs(self.factor)))

    def polygon(self, points: Points, fill: Colour, edge: Colour | None = None, width: Real = 0.5) -> None:
        """A filled polygon, with an edge of `width` units where a colour for it is given."""
        array = self.pixels(points)
        thickness = self.thickness(width) if edge is not None else 0
        self._measure(array, thickness)
        corners = array.view(np.float64).tolist()
        self.draw.polygon(corners, fill=fill)
        if edge is not None:
            self.draw.line([*corners, *corners[:4]], fill=edge, width=thickness, joint="curve")

    def ellipse(
        self,
        centre: Place,
        rx: Real,
        ry: Real,
        fill: Colour,
        edge: Colour | None = None,
        width: Real = 0.5,
    ) -> None:
        """An ellipse with radii along the axes of this coordinate system."""
        self.polygon(centre + rx * CIRCLE.real + 1j * ry * CIRCLE.imag, fill, edge, width)

    def line(self, points: Points, width: Real, fill: Colour, round_ends: bool = True) -> None:
        """A line of `width` units through the points, with round joints and (by default) round ends."""
        array = self.pixels(points)
        thickness = self.thickness(width)
        self._measure(array, thickness)
        self.draw.line(array.view(np.float64).tolist(), fill=fill, width=thickness, joint="curve")
        if round_ends and thickness > 2:
            for end in (complex(array[0]), complex(array[-1])):
                self.draw.circle((end.real, end.imag), (thickness - 1) / 2, fill=fill)

    def tube(self, middle: Points, widths: Sequence[Real], fill: Colour, edge: Colour | None = None) -> None:
        """A pipe along a curve: `widths` (units) are spread evenly over its points, with a highlight."""
        centre = np.asarray(middle, dtype=np.complex128)
        across = np.gradient(centre)
        across *= 1j / np.abs(across)
        half = np.interp(np.linspace(0, 1, len(centre)), np.linspace(0, 1, len(widths)), widths) / 2
        self.polygon(np.concatenate([centre + across * half, (centre - across * half)[::-1]]), fill, edge, 0.6)
        self.line(centre - across * half * 0.35, 0.2 * float(half.mean()), lighter(fill, 0.55), round_ends=False)

    def box(self, low: Place, high: Place, fill: Colour, edge: Colour | None = None, width: Real = 0.5) -> None:
        """A rectangle from its two opposite corners."""
        corners = [low, complex(high.real, low.imag), high, complex(low.real, high.imag)]
        self.polygon(corners, fill, edge, width)

    def _measure(self, outline: np.ndarray, thickness: int) -> None:
        corner = (1 + 1j) * thickness / 2
        self.outlines += [outline - corner, outline + corner]

    def extent(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of everything drawn on this canvas, in oversampled pixels of the picture."""
        array = np.concatenate(self.outlines)
        return array.real.min(), array.imag.min(), array.real.max(), array.imag.max()


def smooth(points: Sequence[Place], closed: bool = True, steps: int = 5) -> np.ndarray:
    """A Catmull-Rom curve through the points: `steps` points for each stretch between two of them."""
    array = np.asarray(points, dtype=np.complex128)
    around = np.concatenate([array[-1:], array, array[:2]] if closed else [array[:1], array, array[-1:]])
    a, b, c, d = around[:-3, None], around[1:-2, None], around[2:-1, None], around[3:, None]
    u = np.arange(steps) / steps
    curve = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * (b - c) + d - a) * u**3)
    return curve.ravel() if closed else np.append(curve.ravel(), array[-1])


@lru_cache(4096)  # colours
def mixed(first: Colour, second: Colour, share: Real) -> Colour:
    """The first colour with this share (0 to 1) of the second in it."""
    a, b, c = (round((1 - share) * x + share * y) for x, y in zip(first, second, strict=True))
    return a, b, c


def darker(colour: Colour, share: Real = 0.35) -> Colour:
    """The colour with this share of black."""
    return mixed(colour, (0, 0, 0), share)


def lighter(colour: Colour, share: Real = 0.35) -> Colour:
    """The colour with this share of white."""
    return mixed(colour, (255, 255, 255), share)

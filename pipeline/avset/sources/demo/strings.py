"""Violin, cello, guitar and erhu; the rules of `instruments` hold. Bows are not in the boxes."""

import numpy as np

from avset.sources.demo.canvas import BLACK, IVORY, STEEL, Canvas, Colour, Place, Real, darker, lighter, smooth
from avset.sources.demo.motion import Motion

Hands = tuple[complex, complex]


def _waisted(length: Real, half_width: Real, profile: list[tuple[float, float]]) -> np.ndarray:
    """The outline of a body along x, from (place along it, half width) pairs as shares."""
    side = [complex(length * along, half_width * across) for along, across in profile]
    return smooth(side + [z.conjugate() for z in reversed(side)], steps=4)


VIOLIN_SHAPE = [(0.0, 0.35), (0.1, 0.85), (0.24, 1.0), (0.38, 0.86), (0.5, 0.6), (0.6, 0.6)]
VIOLIN_SHAPE += [(0.68, 0.8), (0.82, 0.82), (0.94, 0.6), (1.0, 0.2)]
GUITAR_SHAPE = [(0.0, 0.4), (0.08, 0.82), (0.25, 1.0), (0.42, 0.88), (0.57, 0.66)]
GUITAR_SHAPE += [(0.7, 0.72), (0.84, 0.76), (0.95, 0.56), (1.0, 0.2)]
VIOLIN_BODY, CELLO_BODY = _waisted(20, 6.8, VIOLIN_SHAPE), _waisted(37, 12.5, VIOLIN_SHAPE)
GUITAR_BODY = _waisted(26, 11.5, GUITAR_SHAPE)


def _bow(canvas: Canvas, contact: Place, angle: Real, length: Real, stroke: Real) -> complex:
    """A bow that crosses the strings at `contact`; returns its hand. `angle` 0 puts the hand at +x."""
    bow = canvas.place(contact, angle)
    frog = 5 + (length - 12) * stroke
    tip = frog - length
    bow.line([tip, frog - 2], 0.7, (236, 232, 220), round_ends=False)
    bow.line([tip + 0.2, tip + 3 - 2j, frog - 3 - 2.2j, frog + 2 - 1.6j], 1.0, (96, 48, 24), round_ends=False)
    bow.box(frog - 3 - 2j, frog + 0.6j, BLACK)
    return bow.within(canvas, frog - 0.8j)


def _fiddle(canvas: Canvas, tint: Colour, body: np.ndarray, neck: Real, size: Real) -> None:
    """A violin or a cello along x: body, fingerboard, strings, f-holes, scroll. `size`: the body's length."""
    dark = darker(tint, 0.5)
    canvas.box(size * 0.9 - 0.045j * size, neck - 0.5 + 0.045j * size, darker(tint, 0.25), dark)
    canvas.polygon(body, tint, dark, 0.04 * size)
    canvas.polygon(body * 0.8 + 0.1 * size, lighter(tint, 0.16))
    for side in (-1, 1):
        hole = np.array([0.3 - 0.2j, 0.34 - 0.17j, 0.48 - 0.13j, 0.52 - 0.1j]) * size
        canvas.line(hole if side < 0 else hole.conj(), 0.035 * size, BLACK)
    canvas.polygon(np.array([0.03 - 0.045j, 0.3 - 0.06j, 0.3 + 0.06j, 0.03 + 0.045j]) * size, BLACK)
    canvas.polygon(np.array([0.58 - 0.065j, 1.0 - 0.045j, 1.0 + 0.045j, 0.58 + 0.065j]) * size, BLACK)
    canvas.box(size - 0.045j * size, neck - 2 + 0.045j * size, BLACK)
    canvas.line(np.array([0.4 - 0.1j, 0.4 + 0.1j]) * size, 0.05 * size, (226, 190, 130))
    for string in (-0.025j, 0.025j):
        canvas.line([(0.25 + string) * size, neck - 2 + string * 0.7 * size], 0.25, STEEL, round_ends=False)
    peg = 0.11 * size
    for along in (0.0, 0.09):
        canvas.line([neck + along * size - peg * 1j, neck + along * size + peg * 1j], 0.04 * size, BLACK)
    canvas.line([neck - 1, neck + 0.13 * size], 0.1 * size, tint)
    canvas.ellipse(neck + 0.17 * size + 0.01j * size, 0.07 * size, 0.08 * size, tint, dark)


def violin(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Along x from the chin (0, 0) to the scroll."""
    _fiddle(canvas, tint, VIOLIN_BODY, 32, 20)
    held = _bow(canvas.place(0), 10.5 + 0j, 102, 36, motion.stroke)
    return held, 31 - 5 * motion.pitch + 2.2j


def cello(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Along x from the foot of the body (0, 0) to the scroll; the spike goes the other way."""
    canvas.line([-7, 0], 0.9, STEEL)
    _fiddle(canvas, tint, CELLO_BODY, 57, 37)
    held = _bow(canvas.place(0), 18 + 0j, -100, 38, motion.stroke)
    return held, 55 - 14 * motion.pitch + 1.5j


def acoustic_guitar(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Along x from the bottom of the body (0, 0) to the head."""
    dark = darker(tint, 0.55)
    canvas.polygon(GUITAR_BODY, tint, dark, 1.3)
    canvas.polygon(GUITAR_BODY * 0.86 + 1.8, lighter(tint, 0.22))
    canvas.ellipse(17.5, 4.6, 4.6, darker(tint, 0.4))
    canvas.ellipse(17.5, 3.7, 3.7, BLACK)
    canvas.box(6 - 4.2j, 8 + 4.2j, darker(tint, 0.7))
    canvas.polygon([21 - 1.7j, 45 - 1.4j, 45 + 1.4j, 21 + 1.7j], (66, 40, 26))
    for fret in (25, 29, 33, 36.5, 39.5, 42.5):
        canvas.line([fret - 1.3j, fret + 1.3j], 0.5, STEEL, round_ends=False)
    canvas.polygon([45 - 1.5j, 51 - 2.6j, 51.5 + 2.6j, 45 + 1.5j], darker(tint, 0.35), dark)
    for peg in (47, 49.5):
        canvas.line([peg - 3.6j, peg + 3.6j], 0.9, IVORY)
    for string in (-0.8, 0.0, 0.8):
        canvas.line([7 + 1.6j * string, 46 + 1j * string], 0.25, IVORY, round_ends=False)
    return 14.5 + (1 - 5 * motion.strike) * 1j, 42 - 12 * motion.pitch + 1j


HEXAGON = np.exp(1j * np.radians(np.arange(30, 390, 60)))


def erhu(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Along x from the middle of the drum (0, 0) up the long neck to the two pegs."""
    canvas.line([0, 45], 2.2, tint)
    canvas.line(smooth([45 + 0j, 47.5 - 0.4j, 49.5 - 2j], closed=False), 2.2, tint)
    for peg in (38.5, 43):
        canvas.line([peg + 0.5j, peg + 7j], 1.5, darker(tint, 0.3))
        canvas.line([peg + 4.5j, peg + 7j], 2.4, darker(tint, 0.3))
    canvas.polygon(HEXAGON * 9.4, tint, darker(tint, 0.5), 0.8)
    canvas.polygon(HEXAGON * 7.2, (226, 214, 170))
    for place in (-3.6, -1.2, 1.2, 3.6):
        reach = 5.6 - 0.45 * abs(place)
        for turn in (1j, 1):
            scales = np.array([place - 1j * reach, place + 1j * reach]) * turn * np.exp(0.25j * np.pi)
            canvas.line(scales, 0.8, (122, 116, 72), round_ends=False)
    for side in (-0.7, 0.7):
        canvas.line([side * 1j, 42 + side * 1j], 0.3, IVORY, round_ends=False)
    canvas.line([30 - 1.4j, 30 + 1.4j], 0.9, (200, 60, 50))
    held = _bow(canvas.place(0), 10.5 + 0j, -94, 40, motion.stroke)
    return held, 34 - 12 * motion.pitch - 0.5j

"""Eleven instruments drawn in coordinates of their own, where a standing player is 87 units tall.

Each function draws one instrument and returns where the player's right and left hands go. Bows, mallets and
stands are drawn on a canvas of their own, so that they do not count into the instrument's box.
"""

from collections.abc import Callable

import numpy as np

from avset.sources.demo.canvas import (
    BLACK,
    BRASS,
    CIRCLE,
    IVORY,
    STEEL,
    Canvas,
    Colour,
    Place,
    Real,
    darker,
    lighter,
    mixed,
    smooth,
)
from avset.sources.demo.motion import Motion
from avset.sources.demo.strings import Hands, acoustic_guitar, cello, erhu, violin


def accordion(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Around its middle; the bellows open by `motion.stroke`, wider at the bottom."""
    half, fan, folds = 6.5 + 7 * motion.stroke, 2 + 5 * motion.stroke, 12
    top, low = np.linspace(-half, half, folds + 1), np.linspace(-half - fan, half + fan, folds + 1)
    for k in range(folds):
        fill = lighter(tint, 0.72) if k % 2 else darker(tint, 0.45)
        rise = 1.4 * (k % 2)
        fold = [top[k] - 12j, top[k + 1] - (12 + rise) * 1j, low[k + 1] + (11 + rise) * 1j, low[k] + 11j]
        canvas.polygon(fold, fill)
    for side in (-1, 1):
        lean = -side * np.degrees(np.arctan2(fan, 23))
        block = canvas.place(side * (half + fan / 2 - 0.4), lean, mirrored=side < 0)
        block.polygon([-13.5j, 5 - 14.5j, 8 - 12j, 8 + 12j, 5 + 14.5j, 13.5j], tint, darker(tint, 0.5), 0.9)
        block.line([1.5 - 11j, 1.5 + 11j], 1.0, BRASS)
        if side < 0:
            block.box(4.2 - 12j, 9.6 + 12j, IVORY, BLACK, 0.4)
            for key in np.linspace(-10, 10, 9):
                block.line([4.2 + key * 1j, 9.6 + key * 1j], 0.35, BLACK, round_ends=False)
                block.line([4.2 + key * 1j, 7 + key * 1j], 1.1, BLACK, round_ends=False)
        else:
            for row in (3.6, 5.8):
                for key in np.linspace(-9, 9, 7):
                    block.ellipse(row + key * 1j, 0.75, 0.75, IVORY)
        canvas.outlines += block.outlines
    reach = half + fan / 2 + 8.2
    return -reach + (6 * motion.pitch - 2) * 1j, reach + 2j


def clarinet(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Down y from the mouth (0, 0) to the bell."""
    canvas.polygon([-0.5 - 0.8j, 0.5 - 0.8j, 1.4 + 5j, -1.4 + 5j], BLACK)
    canvas.box(-1.9 + 5j, 1.9 + 36j, tint)
    canvas.polygon([-1.9 + 35j, 1.9 + 35j, 2.6 + 39j, 5.2 + 44j, -5.2 + 44j, -2.6 + 39j], tint)
    canvas.line([-0.9 + 6j, -0.9 + 38j], 0.5, lighter(tint, 0.35), round_ends=False)
    canvas.line([-5.2 + 44j, 5.2 + 44j], 1.0, STEEL)
    for ring in (5, 9.5, 21, 34):
        canvas.line([-2.1 + ring * 1j, 2.1 + ring * 1j], 1.0, STEEL, round_ends=False)
    for key in (12, 14.5, 17, 24, 26.5, 29, 31.5):
        canvas.ellipse(0.3 + key * 1j, 1.0, 0.9, STEEL)
        canvas.line([0.3 + key * 1j, 2.8 + key * 1j], 0.5, STEEL, round_ends=False)
    return -1.6 + (27 + motion.strike) * 1j, 1.6 + (15 + motion.strike) * 1j


def flute(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Along x; the mouth is at (0, 0)."""
    canvas.box(-6 - 1.9j, 42 + 1.9j, tint, darker(tint, 0.45), 0.5)
    canvas.line([-5 - 0.6j, 41 - 0.6j], 0.8, lighter(tint, 0.8), round_ends=False)
    canvas.ellipse(0, 2.8, 1.8, lighter(tint, 0.4), darker(tint, 0.45))
    for ring in (-6, 8, 32, 42):
        canvas.line([ring - 2.2j, ring + 2.2j], 1.1, darker(tint, 0.2), round_ends=False)
    for key in (13, 15.8, 18.6, 22.5, 25.3, 28.1, 36):
        canvas.ellipse(key - 1.5j, 1.25, 1.25, lighter(tint, 0.55), darker(tint, 0.5))
    return 16 + (2.4 - motion.strike) * 1j, 26 + (2.4 - motion.strike) * 1j


SAX_TUBE = smooth(
    [6.5 - 0.5j, 8 + 6j, 8.6 + 15j, 9 + 24j, 10 + 32j, 14.5 + 36.5j, 19.5 + 33j, 21 + 25j, 23 + 16j],
    closed=False,
)
SAX_NECK = smooth([0.3 + 0.8j, 1.5 - 1.5j, 4.5 - 3.2j, 6.5 - 0.5j], closed=False)


def saxophone(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """From the mouth (0, 0) down to the bow of the tube, then up to the bell."""
    dark = darker(tint, 0.5)
    canvas.line(SAX_NECK, 2.0, tint)
    canvas.line([-0.6 + 1j, 1.2 - 1j], 2.2, BLACK)
    canvas.tube(SAX_TUBE, [2.4, 3.2, 4.2, 5.4, 6.6, 8.0, 8.6, 10.5, 16], tint, dark)
    bell = canvas.place(23.1 + 15.6j, 12)
    bell.ellipse(0, 8.2, 2.6, lighter(tint, 0.25), dark, 0.8)
    bell.ellipse(0, 6.2, 1.7, darker(tint, 0.45))
    canvas.outlines += bell.outlines
    canvas.line([11.6 + 8j, 12.6 + 26j], 0.6, dark, round_ends=False)
    for along, key in enumerate(SAX_TUBE[7:21:2]):
        canvas.ellipse(key + 1.2, 1.5 + 0.1 * along, 1.4 + 0.1 * along, lighter(tint, 0.5), dark)
    return 9.2 + (24 + motion.strike) * 1j, 8 + (12 + motion.strike) * 1j


def _ring(centre: Place, rx: Real, ry: Real) -> np.ndarray:
    """A closed oval line."""
    line = centre + rx * CIRCLE.real + 1j * ry * CIRCLE.imag
    return np.append(line, line[:2])


TRUMPET_LOOP = smooth([31 + 7.5j, 12 + 7.5j, 8.6 + 6.2j, 7.6 + 3.6j, 8.8 + 1j, 12 - 0.2j, 20 - 0.2j], closed=False)
TRUMPET_SLIDE = smooth([9 - 0.2j, 30 - 0.2j, 33 + 1j, 34 + 3.6j, 33 + 6.4j, 30 + 7.5j], closed=False)


def trumpet(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Along x from the mouth (0, 0) to the bell."""
    dark = darker(tint, 0.5)
    canvas.polygon([0.2 - 1.8j, 1.4 - 1.8j, 3.6 - 0.8j, 3.6 + 0.8j, 1.4 + 1.8j, 0.2 + 1.8j], STEEL, dark)
    for width, colour in ((2.6, dark), (1.7, tint)):
        canvas.line([3 + 0j, 10 + 0j], width, colour)
        canvas.line(TRUMPET_SLIDE, width, colour)
        canvas.line(TRUMPET_LOOP, width, colour)
    canvas.tube(np.linspace(14 - 0.2j, 43 - 0.2j, 9), [2.2, 2.4, 2.6, 3.0, 3.6, 4.8, 7, 11, 17], tint, dark)
    canvas.ellipse(43 - 0.2j, 1.7, 8.5, lighter(tint, 0.3), dark, 0.7)
    for number, along in enumerate((16, 19.8, 23.6)):
        down = 1.6 * motion.strike * (number == round(2 * motion.pitch))
        canvas.line([along + (down - 6) * 1j, along - 3j], 1.0, STEEL)
        canvas.ellipse(along + (down - 6.4) * 1j, 1.4, 0.8, IVORY, dark)
        canvas.box(along - 1.6 - 3.6j, along + 1.6 + 10.5j, lighter(tint, 0.25), dark, 0.6)
    return 24 + 7j, 17.5 + 8.5j


TUBA_BELL = smooth([9 + 33j, 16 + 32j, 20 + 24j, 21 + 12j, 21.5 + 0j, 22 - 10j, 22 - 19j, 22 - 23j], closed=False)
TUBA_LEAD = smooth([0j, 3 + 0.6j, 4 + 5j, 2 + 10j], closed=False)


def tuba(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """From the mouth (0, 0): a great oval of tubing in front of the player, the bell beside the head."""
    dark = darker(tint, 0.5)
    for width, colour in ((6.8, dark), (5.8, tint), (1.2, lighter(tint, 0.5))):
        canvas.line(_ring(9 + 15j, 13, 18.5), width, colour)
    canvas.tube(TUBA_BELL, [6, 7, 8, 9, 10, 12, 15, 20, 29], tint, dark)
    for width, colour in ((3.6, dark), (2.6, lighter(tint, 0.1))):
        canvas.line(_ring(8 + 15j, 5.6, 10.5), width, colour)
        canvas.line(TUBA_LEAD, width - 0.8, colour)
    canvas.polygon([-1.6 - 1.6j, -0.2 - 1.6j, 1.8 + 0j, -0.2 + 1.6j, -1.6 + 1.6j], STEEL, dark)
    canvas.ellipse(22 - 23.5j, 15, 4.2, lighter(tint, 0.3), dark, 0.9)
    canvas.ellipse(22 - 23.2j, 11.5, 2.7, darker(tint, 0.5))
    for number, along in enumerate((4.5, 8, 11.5)):
        down = 1.8 * motion.strike * (number == round(2 * motion.pitch))
        canvas.line([along + (5.5 + down) * 1j, along + 9j], 0.9, STEEL)
        canvas.ellipse(along + (5 + down) * 1j, 1.5, 0.8, IVORY)
        canvas.box(along - 1.4 + 8.5j, along + 1.4 + 20j, lighter(tint, 0.35), dark, 0.6)
    return 6 + 6j, 22 + 20j


def xylophone(canvas: Canvas, tint: Colour, motion: Motion) -> Hands:
    """Around the middle of its bars: low, long bars on the left. Mallets and stand are not in its box."""
    stand, sticks, count = canvas.place(0), canvas.place(0), 10
    for foot in (-21, 19):
        stand.line([foot + 6j, foot + 34j], 1.6, (62, 60, 70))
        stand.line([foot - 4 + 34j, foot + 4 + 34j], 1.8, (62, 60, 70))
    places = np.linspace(-23.5, 23.5, count)
    for k, x in enumerate(places):
        canvas.box(
            x - 1.5 + 6j,
            x + 1.5 + (22 - 1.3 * k) * 1j,
            mixed(STEEL, (120, 124, 140), 0.5),
            (90, 92, 104),
            0.4,
        )
    for side in (-1, 1):
        canvas.line([-27 + side * 7.2j, 27 + side * 4.2j], 1.8, (84, 58, 40))
    for k, x in enumerate(places):
        colour = RAINBOW[k] if sum(tint) > 450 else mixed(tint, RAINBOW[k], 0.12)
        reach = 10.5 - 0.55 * k
        canvas.box(x - 2.15 - reach * 1j, x + 2.15 + reach * 1j, colour, darker(colour, 0.45), 0.4)
        for end in (-0.65, 0.65):
            canvas.ellipse(x + end * reach * 1j, 0.5, 0.5, IVORY)
    target, hands = places[0] + (places[-1] - places[0]) * motion.pitch, []
    for side, rest in ((0, -9.0), (1, 9.0)):
        strikes = side == motion.hand
        head = target - 1j - 6j * (1 - motion.strike) if strikes else target + 2 * rest * 0.6 - 6j
        hand = complex(0.55 * head.real + rest, -19 + 0.3 * head.imag)
        sticks.line([hand + (hand - head) * 0.12, head], 0.9, (205, 170, 120))
        sticks.ellipse(head, 2.0, 1.9, (190, 40, 50) if strikes else (60, 70, 150))
        hands.append(hand)
    return hands[0], hands[1]


RAINBOW: list[Colour] = [(214, 50, 50), (228, 110, 40), (238, 168, 40), (238, 214, 60), (150, 200, 60)]
RAINBOW += [(60, 170, 90), (40, 160, 170), (50, 110, 200), (100, 70, 190), (170, 70, 170)]

DRAWINGS: dict[str, Callable[[Canvas, Colour, Motion], Hands]] = {
    "accordion": accordion,
    "acoustic guitar": acoustic_guitar,
    "cello": cello,
    "clarinet": clarinet,
    "erhu": erhu,
    "flute": flute,
    "saxophone": saxophone,
    "trumpet": trumpet,
    "tuba": tuba,
    "violin": violin,
    "xylophone": xylophone,
}

TINTS: dict[str, dict[str, Colour]] = {  # the words that a caption may use for a colour, and the colour
    "accordion": {"red": (178, 28, 44), "blue": (34, 66, 150), "green": (26, 110, 74), "black": (48, 44, 54)},
    "acoustic guitar": {"yellow": (222, 168, 88), "brown": (186, 116, 56), "pale": (234, 200, 140)},
    "cello": {"brown": (128, 58, 26), "dark": (96, 40, 24), "red": (142, 48, 24)},
    "clarinet": {"black": (34, 33, 40), "dark": (44, 36, 38)},
    "erhu": {"dark": (74, 34, 26), "red": (128, 32, 30), "brown": (94, 54, 30)},
    "flute": {"silver": (198, 204, 216), "shiny": (212, 216, 222)},
    "saxophone": {"golden": (226, 172, 44), "bronze": (200, 142, 48)},
    "trumpet": {"golden": (240, 190, 60), "brass": (222, 172, 70), "silver": (206, 206, 204)},
    "tuba": {"golden": (228, 180, 66), "brass": (208, 160, 62), "bronze": (188, 136, 60)},
    "violin": {"orange": (206, 112, 44), "brown": (172, 84, 34), "red": (178, 70, 36)},
    "xylophone": {"colourful": (230, 200, 160), "wooden": (136, 62, 44)},
}

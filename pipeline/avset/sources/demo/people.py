"""A person with an instrument: body, pose and arms. Units: a standing player is 87 tall, feet at (0, 0)."""

from dataclasses import dataclass

import numpy as np

from avset.sources.demo.canvas import CIRCLE, Canvas, Colour, Real, darker, lighter
from avset.sources.demo.instruments import DRAWINGS
from avset.sources.demo.motion import Motion


@dataclass(frozen=True)
class Player:
    """Who plays what, and where. `x` and `ground` are percent of the picture's side.

    A standing player is `scale` times 87 percent high.
    """

    label: str
    x: float
    ground: float
    scale: float
    mirrored: bool
    skin: Colour
    hair: Colour
    hair_style: str
    top: Colour
    trousers: Colour
    tint: Colour
    tilt: float  # degrees between the instrument and its usual angle
    shirt: bool  # a jacket with a white shirt under it


@dataclass(frozen=True)
class Pose:
    """How an instrument is held: `origin` and `angle` place it; `reach` is its width left and right."""

    origin: complex
    angle: Real
    seated: bool = False
    knees: Real = 9.0
    gaze: Real = 0.0  # how far the face looks to the instrument's side
    nod: Real = 0.0  # degrees
    freedom: Real = 6.0  # degrees that the angle may vary
    reach: tuple[Real, Real] = (16.0, 16.0)
    tall: Real = 92.0  # from the feet to the highest point of head, hat or instrument
    size: Real = 1.0  # instruments are a little larger than life
    elbows_out: bool = False  # elbows to the sides, not down


POSES = {
    "accordion": Pose(-46j, 0, reach=(28, 28), gaze=1, freedom=3, size=1.15, elbows_out=True),
    "acoustic guitar": Pose(-21 - 37j, -16, reach=(24, 39), gaze=2, freedom=7, size=1.18),
    "cello": Pose(4 - 10j, -82, seated=True, knees=17, gaze=-1, freedom=4, reach=(33, 18), tall=81, size=1.03),
    "clarinet": Pose(2.5 - 71.5j, -33, gaze=2, freedom=9, reach=(16, 37), size=1.22),
    "erhu": Pose(9 - 31j, -87, seated=True, knees=12, gaze=2, freedom=4, reach=(18, 30), tall=87, size=1.08),
    "flute": Pose(1.5 - 71j, 20, gaze=3.5, freedom=9, reach=(14, 50), size=1.15),
    "saxophone": Pose(2 - 71j, 2, gaze=2, freedom=9, reach=(16, 40), size=1.2),
    "trumpet": Pose(3 - 71.5j, -2, gaze=4, freedom=13, reach=(14, 54), size=1.14),
    "tuba": Pose(2 - 51.5j, 1, seated=True, knees=14, freedom=3, reach=(16, 39), tall=84),
    "violin": Pose(4.5 - 65.5j, -12, gaze=3, nod=8, freedom=11, reach=(16, 52), size=1.25),
    "xylophone": Pose(-33j, 0, freedom=3, reach=(29, 29), elbows_out=True),
}
SEAT = 21.0  # how much lower a seated player's body is
SHOE, EYE = (40, 34, 36), (36, 28, 28)


def draw_player(canvas: Canvas, player: Player, motion: Motion) -> tuple[float, float, float, float]:
    """Draw one player on a canvas whose unit is a percent of the side.

    Returns the instrument's extent: x0, y0, x1, y1 in oversampled pixels.
    """
    pose = POSES[player.label]
    here = canvas.place(complex(player.x, player.ground), 0, player.scale, player.mirrored)
    drop = SEAT * 1j if pose.seated else 0j
    body = here.place(0, 2.2 * motion.sway).place(drop)
    if pose.seated:
        _stool(here)
    if player.hair_style == "long":
        _long_hair(body, player)
    _legs(here, player, pose)
    _torso(body, player)
    _head(body.place(-68j, pose.nod + 4 * motion.sway), player, pose.gaze)
    steady = player.label == "xylophone"
    anchor = pose.origin - (drop if pose.seated else 0)
    angle = pose.angle + player.tilt + (0.0 if steady else 2.5 * motion.sway)
    held = (here if steady else body).place(anchor, angle, pose.size)
    hands = DRAWINGS[player.label](held, player.tint, motion)
    for side, hand in zip((-1, 1), hands, strict=True):
        _arm(body, side * 9.5 - 60j, held.within(body, hand), side if pose.elbows_out else 0, player)
    return held.extent()


def _stool(canvas: Canvas) -> None:
    for leg in (-9, 9):
        canvas.line([0.7 * leg - 20j, leg + 0j], 1.8, (70, 52, 40))
    canvas.box(-11 - 24j, 11 - 19.5j, (104, 74, 52), (60, 42, 32))


def _legs(canvas: Canvas, player: Player, pose: Pose) -> None:
    for side in (-1, 1):
        if pose.seated:
            knee = side * pose.knees - 21j
            canvas.line([side * 5 - 24j, knee], 8.5, player.trousers)
            canvas.line([knee, knee.real * 0.9 - 2j], 6.5, darker(player.trousers, 0.12))
            canvas.ellipse(knee.real * 0.9 + side * 1.5 - 1.5j, 4.4, 2.2, SHOE)
        else:
            canvas.line([side * 4.4 - 34j, side * 5.2 - 3j], 7.6, player.trousers)
            canvas.ellipse(side * 6.6 - 1.5j, 4.4, 2.2, SHOE)


TORSO = np.array([-5 - 66j, 5 - 66j, 9.5 - 64.5j, 12 - 60j, 10 - 46j, 9.6 - 33j])
TORSO = np.concatenate([TORSO, -TORSO[2:].conj()[::-1]])


def _torso(canvas: Canvas, player: Player) -> None:
    canvas.polygon(TORSO, player.top, darker(player.top, 0.3), 0.7)
    if player.shirt:
        canvas.polygon([-3.4 - 66j, 3.4 - 66j, -50j], (246, 246, 244))
        canvas.line([-3.6 - 66j, -50j, 3.6 - 66j], 0.9, darker(player.top, 0.45))
        canvas.polygon([-1 - 63.5j, 1 - 63.5j, 1.6 - 54j, -52j, -1.6 - 54j], darker(player.trousers, 0.3))
    canvas.line([-64j, -69j], 5.4, darker(player.skin, 0.14))


def _head(canvas: Canvas, player: Player, gaze: Real) -> None:
    """The head around (0, -9), in coordinates that start at the neck."""
    middle, hair = -9j, player.hair
    if player.hair_style == "bun":
        canvas.ellipse(middle - 10.5j, 4, 3.6, hair)
    if player.hair_style == "curly":
        for puff in 8.4 * CIRCLE[14:29:2]:
            canvas.ellipse(middle + puff - 1.2j, 4.2, 4.2, hair)
    for side in (-1, 1):
        canvas.ellipse(middle + side * 8.3 + 1j, 1.7, 2.2, darker(player.skin, 0.1))
    canvas.ellipse(middle, 8.4, 9.4, player.skin, darker(player.skin, 0.25), 0.5)
    if player.hair_style != "bald":
        fringe = {"short": 3.2, "long": 2.4, "bun": 3.6, "curly": 3.0, "hat": 3.0}[player.hair_style]
        cap = 8.9 * CIRCLE.real + 10.0j * CIRCLE.imag
        crown = cap[cap.imag < -fringe]
        crown = crown[np.argsort(crown.real)]
        canvas.polygon(np.append(middle + crown, middle + 2.5 - (fringe + 1.8) * 1j), hair)
    if player.hair_style == "hat":
        canvas.box(middle - 6.5 - 13.5j, middle + 6.5 - 5j, hair, darker(hair, 0.4))
        canvas.line([middle - 11 - 5j, middle + 11 - 5j], 2.0, darker(hair, 0.3))
    for side in (-1, 1):
        canvas.ellipse(middle + gaze + side * 3.2 - 0.2j, 0.95, 1.25, EYE)
        canvas.line(
            [middle + gaze + side * 3.2 - 1.4 - 2.7j, middle + gaze + side * 3.2 + 1.4 - 2.7j],
            0.6,
            darker(hair),
        )
    canvas.line([middle + gaze - 1.8 + 4.6j, middle + gaze + 5.2j, middle + gaze + 1.8 + 4.6j], 0.8, (150, 60, 60))


def _long_hair(canvas: Canvas, player: Player) -> None:
    canvas.ellipse(-77j, 10.4, 11.2, player.hair)
    canvas.polygon([-10.4 - 77j, 10.4 - 77j, 11 - 60j, 7 - 58j, -7 - 58j, -11 - 60j], player.hair)


def _arm(canvas: Canvas, shoulder: complex, hand: complex, side: int, player: Player, bone: Real = 17.0) -> None:
    """Upper arm and forearm of `bone` units each; the elbow points to this side (-1, 1), or down (0)."""
    middle, way = (shoulder + hand) / 2, hand - shoulder
    height = np.sqrt(max(bone**2 - (abs(way) / 2) ** 2, 1.0))
    bend = 1j * height * way / max(abs(way), 1e-6)
    elbow = middle + (bend if (bend.real * side if side else bend.imag) > 0 else -bend)
    sleeve = darker(player.top, 0.14)
    for width, colour in ((6.6, darker(player.top, 0.38)), (5.4, sleeve)):
        canvas.line([shoulder, elbow], width, colour)
        canvas.line([elbow, elbow + 0.86 * (hand - elbow)], width - 0.8, colour)
        canvas.ellipse(elbow, width / 2 - 0.1, width / 2 - 0.1, colour)
    canvas.ellipse(hand, 2.9, 2.9, player.skin, darker(player.skin, 0.3), 0.5)
    canvas.ellipse(hand - 0.5 - 0.6j, 1.2, 1.2, lighter(player.skin, 0.2))

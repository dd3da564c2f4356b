"""Pictures of a scene: the room is drawn once, the players again for each frame."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from avset.sources.demo.canvas import CIRCLE, OVERSAMPLING, Canvas, Colour, darker, lighter, mixed
from avset.sources.demo.motion import Motion
from avset.sources.demo.people import Player, draw_player


@dataclass(frozen=True)
class Thing:
    """Something that stands about: `x` and `y` are percent of the side (y: where its foot is)."""

    kind: str
    x: float
    y: float
    size: float
    colour: Colour


@dataclass(frozen=True)
class Scene:
    """Everything on one picture. `wall` and `floor` are the background's two colours."""

    background: str
    wall: Colour
    floor: Colour
    things: tuple[Thing, ...]
    players: tuple[Player, ...]


class Painter:
    """Draws the frames of one scene, `size` pixels square."""

    def __init__(self, scene: Scene, size: int = 128):
        self.scene, self.size = scene, size
        self.unit = size * OVERSAMPLING / 100
        self.room = Image.new("RGB", (size * OVERSAMPLING,) * 2, scene.wall)
        canvas = Canvas(self.room, self.unit)
        BACKGROUNDS[scene.background](canvas, scene.wall, scene.floor)
        for thing in scene.things:
            THINGS[thing.kind](canvas.place(complex(thing.x, thing.y), 0, thing.size), thing.colour)

    def frame(self, motions: tuple[Motion, ...]) -> tuple[np.ndarray, list[tuple[float, float, float, float]]]:
        """The picture (H, W, 3) uint8 with one motion per player, and the box of each instrument.

        Boxes are x0, y0, x1, y1 as fractions of the picture, cut at its border.
        """
        image = self.room.copy()
        canvas, boxes = Canvas(image, self.unit), []
        for player, motion in zip(self.scene.players, motions, strict=True):
            extent = np.clip(np.array(draw_player(canvas, player, motion)) / image.width, 0.0, 1.0)
            x0, y0, x1, y1 = extent.tolist()
            boxes.append((x0, y0, x1, y1))
        return np.asarray(image.reduce(OVERSAMPLING)), boxes


def _plain(canvas: Canvas, wall: Colour, floor: Colour) -> None:
    canvas.box(0j, 100 + 100j, wall)


def _gradient(canvas: Canvas, wall: Colour, floor: Colour) -> None:
    for k in range(50):
        canvas.box(2j * k, 100 + 2j * k + 2j, mixed(wall, floor, k / 50))


def _curtain(canvas: Canvas, wall: Colour, floor: Colour) -> None:
    for k in range(20):
        for part, share in enumerate((0.0, 0.18, 0.34)):
            canvas.box(5 * k + 1.7 * part, 5 * k + 1.7 * part + 1.7 + 88j, darker(wall, share))
    canvas.box(88j, 100 + 100j, floor)
    canvas.line([88j, 100 + 88j], 1.0, darker(floor, 0.4), round_ends=False)


def _room(canvas: Canvas, wall: Colour, floor: Colour) -> None:
    for k in range(0, 10, 2):
        canvas.box(10 * k + 0j, 10 * k + 10 + 80j, lighter(wall, 0.1))
    canvas.box(76j, 100 + 80j, lighter(wall, 0.6))
    canvas.box(80j, 100 + 100j, floor)
    for k in range(-4, 9):
        canvas.line([50 + 12 * (k - 2) + 80j, 50 + 20 * (k - 2) + 100j], 0.4, darker(floor, 0.25), round_ends=False)


def _stage(canvas: Canvas, wall: Colour, floor: Colour) -> None:
    dark = darker(wall, 0.72)
    canvas.box(0j, 100 + 100j, dark)
    for lamp, foot in ((22, 36), (78, 62)):
        canvas.polygon([lamp - 2 + 0j, lamp + 2 + 0j, foot + 24 + 86j, foot - 24 + 86j], mixed(dark, wall, 0.45))
    canvas.box(82j, 100 + 100j, floor)
    canvas.ellipse(50 + 90j, 40, 7, lighter(floor, 0.3))
    for side in (0, 1):
        for k in range(4):
            left = 3.5 * k + side * 86
            canvas.box(left + 0j, left + 3.5 + 84j, darker((150, 24, 38), 0.16 * (k % 2) + 0.1))


def _bricks(canvas: Canvas, wall: Colour, floor: Colour) -> None:
    canvas.box(0j, 100 + 100j, lighter(wall, 0.3))
    for row in range(11):
        for column in range(-1, 8):
            corner = 14 * column + 7 * (row % 2) + 8j * row
            canvas.box(corner + 0.5 + 0.5j, corner + 13.5 + 7.5j, darker(wall, 0.1 * ((row * 3 + column * 5) % 3)))
    canvas.box(86j, 100 + 100j, floor)


def _garden(canvas: Canvas, wall: Colour, floor: Colour) -> None:
    for k in range(35):
        canvas.box(2j * k, 100 + 2j * k + 2j, mixed((120, 180, 230), (214, 234, 246), k / 35))
    for x, size in ((12, 16), (40, 12), (66, 18), (92, 14)):
        canvas.ellipse(x + 64j, size, 0.8 * size, mixed((70, 130, 70), wall, 0.15))
    canvas.box(66j, 100 + 100j, mixed((110, 160, 80), floor, 0.12))


def _tiles(canvas: Canvas, wall: Colour, floor: Colour) -> None:
    canvas.box(0j, 100 + 100j, darker(wall, 0.2))
    for row in range(6):
        for column in range(8):
            corner = 13 * column - 2 + 13j * row
            canvas.box(corner, corner + 12.3 + 12.3j, lighter(wall, 0.12 * ((row + column) % 2)))
    canvas.box(78j, 100 + 100j, floor)


def _plant(canvas: Canvas, colour: Colour) -> None:
    for angle in (-60, -32, -8, 14, 38, 64):
        leaf = canvas.place(-10j, angle)
        leaf.polygon(-10j + 2.6 * CIRCLE.real + 10j * CIRCLE.imag, mixed((50, 140, 70), (30, 90, 50), abs(angle) / 90))
    canvas.polygon([-6 - 11j, 6 - 11j, 4.4 + 0j, -4.4 + 0j], colour, darker(colour))


def _lamp(canvas: Canvas, colour: Colour) -> None:
    canvas.line([0j, -46j], 1.2, (70, 66, 70))
    canvas.ellipse(0j, 6, 1.6, (70, 66, 70))
    canvas.polygon([-8 - 42j, 8 - 42j, 5 - 56j, -5 - 56j], lighter(colour, 0.5), darker(colour, 0.2))


def _chair(canvas: Canvas, colour: Colour) -> None:
    for leg in (-7, 7):
        canvas.line([leg + 0j, leg - 36j], 1.7, darker(colour, 0.3))
    canvas.box(-8 - 36j, 8 - 27j, colour, darker(colour))
    canvas.box(-8.6 - 17j, 8.6 - 13j, colour, darker(colour))


def _window(canvas: Canvas, colour: Colour) -> None:
    canvas.box(-13 - 32j, 13 + 0j, (244, 242, 238), (150, 146, 140))
    for x in (-11.5, 0.8):
        for y in (-30.5, -15.2):
            canvas.box(complex(x, y), complex(x + 10.7, y + 13.7), mixed((168, 210, 238), colour, 0.15))


def _painting(canvas: Canvas, colour: Colour) -> None:
    canvas.box(-10 - 16j, 10 + 0j, (120, 84, 48), (70, 48, 30), 0.8)
    canvas.box(-8 - 14j, 8 - 2j, lighter(colour, 0.5))
    canvas.polygon([-8 - 2j, -3 - 9j, 1 - 5j, 4 - 8j, 8 - 2j], colour)


def _music_stand(canvas: Canvas, colour: Colour) -> None:
    canvas.line([-8j, -32j], 1.0, (50, 50, 56))
    for foot in (-7, 7):
        canvas.line([-8j, foot + 0j], 1.0, (50, 50, 56))
    canvas.polygon([-8 - 30j, 8 - 30j, 9 - 42j, -9 - 42j], (56, 56, 62))
    for page in (-4, 4):
        canvas.box(page - 3.4 - 41j, page + 3.4 - 31.5j, (248, 246, 238))
        for row in range(4):
            canvas.line(
                [page - 2.6 - (39.5 - 2.2 * row) * 1j, page + 2.6 - (39.5 - 2.2 * row) * 1j],
                0.3,
                (90, 90, 90),
            )


def _clock(canvas: Canvas, colour: Colour) -> None:
    canvas.ellipse(-7j, 7, 7, (248, 246, 240), darker(colour, 0.2), 1.2)
    canvas.line([-7j, -12j], 0.8, (40, 40, 40))
    canvas.line([-7j, 3.5 - 6j], 0.8, (40, 40, 40))


def _shelf(canvas: Canvas, colour: Colour) -> None:
    canvas.box(-15 - 2j, 15 + 0j, (120, 84, 56))
    for k in range(9):
        canvas.box(-13.5 + 3 * k - (10 + 3 * (k * 5 % 3)) * 1j, -10.9 + 3 * k - 2j, mixed(BOOKS[k % 4], colour, 0.25))


BOOKS: list[Colour] = [(160, 60, 60), (60, 90, 150), (80, 130, 90), (190, 150, 80)]

BACKGROUNDS: dict[str, Callable[[Canvas, Colour, Colour], None]] = {
    "plain wall": _plain,
    "gradient": _gradient,
    "curtain": _curtain,
    "room": _room,
    "stage": _stage,
    "brick wall": _bricks,
    "garden": _garden,
    "tiled hall": _tiles,
}
FLOOR_LINES = {  # percent of the side; nobody stands higher
    "plain wall": 72.0,
    "gradient": 72.0,
    "curtain": 88.0,
    "room": 80.0,
    "stage": 82.0,
    "brick wall": 86.0,
    "garden": 68.0,
    "tiled hall": 78.0,
}
THINGS: dict[str, Callable[[Canvas, Colour], None]] = {
    "plant": _plant,
    "lamp": _lamp,
    "chair": _chair,
    "window": _window,
    "painting": _painting,
    "music stand": _music_stand,
    "clock": _clock,
    "shelf": _shelf,
}
ON_THE_WALL = ("window", "painting", "clock", "shelf")

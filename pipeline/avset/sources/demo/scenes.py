"""What is on a picture: chosen at random, by a seed."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from avset.sources.demo.canvas import Colour, Real
from avset.sources.demo.instruments import DRAWINGS, TINTS
from avset.sources.demo.people import POSES, Player
from avset.sources.demo.pictures import BACKGROUNDS, FLOOR_LINES, ON_THE_WALL, THINGS, Scene, Thing

T = TypeVar("T")
LABELS = tuple(DRAWINGS)
COLOURS: dict[str, Colour] = {
    "red": (196, 48, 52),
    "blue": (52, 92, 182),
    "green": (52, 136, 84),
    "yellow": (230, 190, 70),
    "purple": (124, 70, 156),
    "pink": (226, 128, 158),
    "orange": (226, 126, 52),
    "white": (232, 232, 228),
    "grey": (128, 132, 140),
    "black": (46, 46, 54),
    "brown": (124, 84, 58),
    "turquoise": (60, 164, 168),
}
WALLS: list[Colour] = [(222, 210, 188), (186, 206, 214), (206, 190, 212), (178, 204, 178), (232, 196, 182)]
WALLS += [(150, 164, 190), (196, 128, 112), (128, 60, 76), (76, 100, 128), (210, 214, 218), (116, 140, 120)]
FLOORS: list[Colour] = [
    (150, 108, 74),
    (118, 84, 60),
    (176, 142, 104),
    (132, 132, 138),
    (94, 80, 84),
    (164, 120, 100),
]
SKINS: list[Colour] = [
    (250, 218, 192),
    (236, 190, 152),
    (208, 154, 112),
    (166, 112, 76),
    (120, 78, 54),
    (84, 56, 42),
]
HAIRS: list[Colour] = [
    (40, 30, 28),
    (86, 54, 34),
    (150, 92, 48),
    (214, 176, 96),
    (150, 150, 152),
    (150, 62, 36),
]
BARE = ("garden", "stage", "curtain")  # nothing hangs on these
HAIR_STYLES = ("short", "long", "bun", "curly", "bald", "hat")


def scene(labels: Sequence[str], seed: int) -> Scene:
    """A scene with one player for each label (one or two), side by side in the order of `labels`."""
    rng = np.random.default_rng(seed)
    background = _pick(rng, tuple(BACKGROUNDS))
    things = _things(rng, background)
    players = tuple(_drawn_player(rng, label) for label in labels)
    floor = FLOOR_LINES[background] + 2.0
    players = (_one_player(rng, players[0], floor),) if len(players) == 1 else _side_by_side(rng, players, floor)
    return Scene(background, _varied(rng, _pick(rng, WALLS)), _varied(rng, _pick(rng, FLOORS)), things, players)


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _varied(rng: np.random.Generator, colour: Colour, by: int = 12) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.integers(-by, by + 1, 3), 0, 255).tolist()
    return red, green, blue


def _things(rng: np.random.Generator, background: str) -> tuple[Thing, ...]:
    """Up to three different things, each in a corner of its own."""
    kinds = [kind for kind in THINGS if kind not in ON_THE_WALL or background not in BARE]
    things, free = [], {(side, high) for side in (0, 1) for high in (False, True)}
    for index in rng.permutation(len(kinds))[: rng.integers(0, 4)].tolist():
        side, high = int(rng.integers(2)), kinds[index] in ON_THE_WALL
        x = float(rng.uniform(6, 26) + 68 * side)
        y = float(rng.uniform(22, 46) if high else rng.uniform(86, 97))
        size, colour = float(rng.uniform(0.75, 1.15)), _varied(rng, COLOURS[_pick(rng, tuple(COLOURS))])
        if (side, high) in free:
            free.remove((side, high))
            things.append(Thing(kinds[index], x, y, size, colour))
    return tuple(things)


def _drawn_player(rng: np.random.Generator, label: str) -> Player:
    colours, pose = tuple(COLOURS), POSES[label]
    return Player(
        label=label,
        x=50.0,
        ground=95.0,
        scale=1.0,
        mirrored=bool(rng.random() < 0.5),
        skin=_varied(rng, _pick(rng, SKINS), 6),
        hair=_varied(rng, _pick(rng, HAIRS), 8),
        hair_style=_pick(rng, HAIR_STYLES),
        top=COLOURS[_pick(rng, tuple(colour for colour in colours if colour != "brown"))],
        trousers=COLOURS[_pick(rng, colours)],
        tint=TINTS[label][_pick(rng, tuple(TINTS[label]))],
        tilt=float(rng.uniform(-pose.freedom, pose.freedom)),
        shirt=bool(rng.random() < 0.3),
    )


def _spread(player: Player) -> tuple[Real, Real]:
    """How far a player reaches to the left and to the right of its feet, in its own units."""
    left, right = POSES[player.label].reach
    return (right, left) if player.mirrored else (left, right)


def _placed(player: Player, **where: float) -> Player:
    return Player(**{**player.__dict__, **where})


def _one_player(rng: np.random.Generator, player: Player, floor: float) -> Player:
    """One player anywhere, whole or nearer; the instrument stays in the picture."""
    left, right = _spread(player)
    pose = POSES[player.label]
    close = rng.random() < 0.2 and not pose.seated and not pose.elbows_out
    scale = float(min(rng.uniform(1.1, 1.4) if close else rng.uniform(0.65, 1.08), 95.9 / (left + right)))
    x = float(rng.uniform(left * scale + 2, 98 - right * scale))
    ground = float(rng.uniform(max(pose.tall * scale + 1, floor), max(pose.tall * scale + 3, 98.0)))
    return _placed(player, x=x, ground=ground, scale=scale)


def _side_by_side(rng: np.random.Generator, players: tuple[Player, ...], floor: float) -> tuple[Player, ...]:
    """Two players, the first on the left. They may overlap a little, but do not cross the edges of the picture."""
    total = sum(sum(_spread(player)) for player in players)
    scale = float(min(rng.uniform(0.6, 0.95), 106.0 / total))
    overlap = max(0.0, total * scale - 98.0)
    gap = max(0.0, 96.0 - total * scale)
    edge, placed = 1.0 + float(rng.uniform(0, gap / 2)), []
    for player in players:
        left, right = _spread(player)
        ground = float(rng.uniform(max(POSES[player.label].tall * scale + 1, floor), 98.0))
        placed.append(_placed(player, x=edge + left * scale, ground=ground, scale=scale))
        edge += (left + right) * scale + float(rng.uniform(0, gap / 2)) - overlap
    return tuple(placed)


def word_for(colour: Colour, words: dict[str, Colour]) -> str:
    """The word whose colour this is; `words` is `COLOURS` or a part of `TINTS`."""
    return next(word for word, value in words.items() if value == colour)

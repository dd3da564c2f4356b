"""Sentences about a scene, and the plain facts that decide of which scenes a sentence is true."""

import numpy as np

from avset.sources.demo.canvas import Colour
from avset.sources.demo.instruments import TINTS
from avset.sources.demo.people import POSES
from avset.sources.demo.pictures import Scene
from avset.sources.demo.scenes import COLOURS, word_for

Facts = frozenset[str]
OTHER_NAMES = {"acoustic guitar": "guitar", "saxophone": "sax"}
FAMILIES = {
    "string": ("acoustic guitar", "cello", "erhu", "violin"),
    "bowed": ("cello", "erhu", "violin"),
    "brass": ("trumpet", "tuba"),
    "woodwind": ("clarinet", "flute", "saxophone"),
    "percussion": ("xylophone",),
}
CROWDS = ("nobody", "one person", "two people")
LOOKS = {
    "short": "short hair", "long": "long hair", "bun": "a bun", "curly": "curly hair", "bald": "no hair", "hat": "a hat"
}  # fmt: skip
ABOUT_ONE = (
    "person playing a {name}",
    "person playing the {name}",
    "someone playing {article} {name}",
    "a person plays the {name}",
    "{article} {name}",
    "the {name}",
    "{name}",
    "a photo of someone playing the {name}",
    "a picture of {article} {name}",
    "a musician with {article} {name}",
    "{article} {name} player",
)
ABOUT_TWO = (
    "{article} {name} and {other_article} {other}",
    "a duet of {name} and {other}",
    "two people playing the {name} and the {other}",
    "someone playing the {name} next to someone playing the {other}",
)


def facts_of(scene: Scene) -> Facts:
    """Everything that a sentence may say about this scene."""
    said = {scene.background, *(thing.kind for thing in scene.things), CROWDS[len(scene.players)]}
    said |= {f"{_nearest(thing.colour)} {thing.kind}" for thing in scene.things}
    for player in scene.players:
        label, top = player.label, word_for(player.top, COLOURS)
        families = {f"{family} instrument" for family, members in FAMILIES.items() if label in members}
        looks = {f"{word_for(player.tint, TINTS[label])} {label}", f"{label} in {top}", f"{top} clothes"}
        said |= {label, *families, *looks, "sitting" if POSES[label].seated else "standing"}
        said |= {player.hair_style, f"{word_for(player.trousers, COLOURS)} trousers"}
    if len(scene.players) == 1:
        x = scene.players[0].x
        said |= {*(["on the left"] if x < 42 else []), *(["on the right"] if x > 58 else [])}
    elif scene.players:
        said |= {f"{scene.players[0].label} left of {scene.players[1].label}"}
    return frozenset(said)


def sentence_about(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """One true sentence about the scene, and the facts that it needs to be true."""
    kind = rng.random()
    if len(scene.players) == 2 and kind < 0.3:
        return _both(scene, rng)
    if kind < 0.7:
        return _plainly(scene, rng)
    return _in_detail(scene, rng) if kind < 0.82 else _around(scene, rng)


def sentence_of_anything(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """One true sentence about any part of a scene, with or without players; all kinds of things are equally likely."""
    kinds = [_of_the_place(scene)]
    kinds += [_of_things(scene)] if scene.things else []
    kinds += [_of_people(scene), _of_clothes(scene)] if scene.players else []
    number = int(rng.integers(len(kinds) + bool(scene.players)))
    if number == len(kinds):
        return sentence_about(scene, rng)
    return kinds[number][int(rng.integers(len(kinds[number])))]


def _of_the_place(scene: Scene) -> list[tuple[str, Facts]]:
    place, crowd = scene.background, CROWDS[len(scene.players)]
    told = [
        (f"a picture {_where(place)}", frozenset({place})),
        (f"a {place}", frozenset({place})),
        (f"{crowd} {_where(place)}", frozenset({place, crowd})),
    ]
    return told + [(f"a {place} with a {thing.kind}", frozenset({place, thing.kind})) for thing in scene.things]


def _of_things(scene: Scene) -> list[tuple[str, Facts]]:
    told = [(f"a {thing.kind}", frozenset({thing.kind})) for thing in scene.things]
    for thing in scene.things:
        coloured = f"{_nearest(thing.colour)} {thing.kind}"
        told += [(f"{_article(coloured)} {coloured}", frozenset({coloured}))]
        told += [
            (f"a {thing.kind} and a {other.kind}", frozenset({thing.kind, other.kind}))
            for other in scene.things
            if other is not thing
        ]
    return told


def _of_people(scene: Scene) -> list[tuple[str, Facts]]:
    told = [(CROWDS[len(scene.players)], frozenset({CROWDS[len(scene.players)]}))]
    for player in scene.players:
        pose = "sitting" if POSES[player.label].seated else "standing"
        looks = LOOKS[player.hair_style]
        told += [(f"a person {pose}", frozenset({pose})), (f"a person with {looks}", frozenset({player.hair_style}))]
    return told


def _of_clothes(scene: Scene) -> list[tuple[str, Facts]]:
    told = []
    for player in scene.players:
        top, trousers = (word_for(colour, COLOURS) for colour in (player.top, player.trousers))
        told += [
            (f"a person in {top}", frozenset({f"{top} clothes"})),
            (f"a person in {trousers} trousers", frozenset({f"{trousers} trousers"})),
            (f"{top} clothes", frozenset({f"{top} clothes"})),
        ]
    return told


def _nearest(colour: Colour) -> str:
    """The word of a colour that was varied a little."""
    return min(COLOURS, key=lambda word: sum(abs(a - b) for a, b in zip(colour, COLOURS[word], strict=True)))


def _both(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    first, second = (player.label for player in scene.players)
    if rng.random() < 0.3:
        return (
            f"{_article(first)} {first} on the left and {_article(second)} {second} on the right",
            frozenset({f"{first} left of {second}"}),
        )
    labels = [first, second] if rng.random() < 0.5 else [second, first]
    name, other = labels
    words = {"name": name, "other": other, "article": _article(name), "other_article": _article(other)}
    return ABOUT_TWO[int(rng.integers(len(ABOUT_TWO)))].format(**words), frozenset(labels)


def _plainly(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    label = scene.players[int(rng.integers(len(scene.players)))].label
    name = OTHER_NAMES.get(label, label) if rng.random() < 0.25 else label
    pattern = ABOUT_ONE[0 if rng.random() < 0.25 else int(rng.integers(len(ABOUT_ONE)))]
    return pattern.format(name=name, article=_article(name)), frozenset({label})


def _in_detail(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    player = scene.players[int(rng.integers(len(scene.players)))]
    label, top, tint = player.label, word_for(player.top, COLOURS), word_for(player.tint, TINTS[player.label])
    choices = [
        (f"{_article(tint)} {tint} {label}", frozenset({f"{tint} {label}"})),
        (f"a person in {top} playing the {label}", frozenset({f"{label} in {top}"})),
        (f"someone playing the {label}, {_where(scene.background)}", frozenset({label, scene.background})),
    ]
    choices += [
        (f"{_article(label)} {label} and a {thing.kind}", frozenset({label, thing.kind})) for thing in scene.things
    ]
    side = facts_of(scene) & {"on the left", "on the right"}
    choices += [(f"{_article(label)} {label} {where}", frozenset({label, where})) for where in sorted(side)]
    return choices[int(rng.integers(len(choices)))]


def _around(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """About the room, the people or the family of the instrument."""
    player = scene.players[int(rng.integers(len(scene.players)))]
    top, crowd = word_for(player.top, COLOURS), CROWDS[len(scene.players)]
    choices = [
        (f"a picture {_where(scene.background)}", frozenset({scene.background})),
        (f"a person in {top}", frozenset({f"{top} clothes"})),
        (crowd, frozenset({crowd})),
    ]
    choices += [(f"a {thing.kind}", frozenset({thing.kind})) for thing in scene.things]
    choices += [("someone wearing a hat", frozenset({"hat"}))] if player.hair_style == "hat" else []
    families = [family for family, members in FAMILIES.items() if player.label in members]
    choices += [(f"a {family} instrument", frozenset({f"{family} instrument"})) for family in families]
    return choices[int(rng.integers(len(choices)))]


def _where(background: str) -> str:
    return f"{'in' if background in ('room', 'garden', 'tiled hall') else 'in front of'} a {background}"


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"

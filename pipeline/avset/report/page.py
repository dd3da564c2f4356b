"""The listening page: one HTML file with every sound, spectrogram, mask and heat map inside it.

No script and no request to anywhere; all text is escaped. The only door to jinja2.
"""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile
from jaxtyping import Float, UInt8
from numpy import ndarray

from avset.evaluation.examples import IDEAL, Example, Separation, ordered
from avset.report import plots, tables

QUALITY = 0.2  # of LAME's variable bit rate, 0 best, 1 smallest: about 38 kbit/s at 11 025 Hz


BUDGET = 14_500_000  # bytes of the page; examples beyond it are counted on the page, not shown


MANY, MOST = 25, 500  # classes beyond which a table is folded, and cut


SIZES = {  # width and height in pixels
    "mixture": (768, 216),
    "spectrogram": (224, 224),
    "mask": (128, 128),
    "frame": (192, 192),
    "heat": (112, 112),
}


NOTES = {  # for queries that have no words
    "video": "its own frames",
    "caption": "found by inversion",
    "oracle": "assigned by the best permutation",
}


@dataclass(frozen=True)
class Card:
    """One sound with what belongs to it; pictures and sound are data URIs."""

    title: str
    note: str
    sound: str
    spectrogram: str
    nsdr: float | None = None  # dB
    mask: str | None = None
    heat: str | None = None


@dataclass(frozen=True)
class Source:
    """One source of a mixture: its centre frame and who looks where, and all sounds that claim to be it."""

    label: str
    clip_id: str
    boxes: list[tuple[float, float, float, float]]  # left, top, width, height in percent of the picture
    looks: list[tuple[str, str]]  # caption and picture
    cards: list[Card]


@dataclass(frozen=True)
class Shown:
    """One example as the template draws it."""

    mixture_id: str
    seconds: float
    mixture: Card
    sources: list[Source]

    def size(self) -> int:
        """Bytes of all its data URIs."""
        cards = [self.mixture, *(card for source in self.sources for card in source.cards)]
        pictures = [uri for source in self.sources for _, uri in source.looks]
        parts = [p for c in cards for p in (c.sound, c.spectrogram, c.mask, c.heat) if p]
        return sum(map(len, parts + pictures))


def render(
    dataset: str,
    numbers: Mapping[str, Any],
    covered: Mapping[str, Any],
    heard: Mapping[str, list[Example]],
    budget: int = BUDGET,
) -> str:
    """The page as HTML of about `budget` bytes at most.

    `numbers` and `covered` are the contents of metrics.json and coverage.json; `heard` has the examples of
    each method: the first method's are shown in full, the others' estimates of the same mixtures beside.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        decibel=tables.decibel, share=tables.share, thousands=tables.thousands, name=tables.named
    )
    environment.globals.update(tables=tables, many=MANY, most=MOST)
    rows = tables.ranking(numbers)
    shown = list(_within(budget, _shown(heard)))
    return environment.get_template("page.html").render(
        dataset=dataset,
        rows=rows,
        top=max([s["nsdr"] for _, _, s in rows] + [1e-9]),
        classes=sorted({label for _, _, s in rows for label in s["per_class"]}),
        looks=tables.looking(numbers),
        facts=tables.facts(numbers),
        published=tables.published(dataset),
        oracle=tables.oracle(numbers),
        covered=covered,
        examples=shown,
        lead=rows[1][1],
        left_out=len(next(iter(heard.values()), [])) - len(shown),
    )


def audio(sound: Float[ndarray, " L"], sample_rate: int) -> str:
    """A sound in -1..1 as a data URI: MP3, which every browser plays, at a third of the size of FLAC."""
    out = io.BytesIO()
    soundfile.write(
        out,
        sound,
        sample_rate,
        "MPEG_LAYER_III",
        format="MP3",
        compression_level=QUALITY,
        bitrate_mode="VARIABLE",
    )
    return "data:audio/mpeg;base64," + base64.b64encode(out.getvalue()).decode()


def image(picture: UInt8[ndarray, "H W 3"], kind: str) -> str:
    """A picture as a JPEG data URI, in the size of its kind in `SIZES`."""
    return "data:image/jpeg;base64," + base64.b64encode(plots.jpeg(picture, SIZES[kind])).decode()


def _shown(heard: Mapping[str, list[Example]]) -> Iterator[Shown]:
    names = list(heard)
    beside = {m: {e.mixture_id: e for e in heard[m]} for m in names[1:]}
    for example in heard[names[0]] if names else []:
        yield _Desk(example, {m: e[example.mixture_id] for m, e in beside.items() if example.mixture_id in e}).shown()


def _within(budget: int, shown: Iterator[Shown]) -> Iterator[Shown]:
    for one in shown:
        budget -= one.size()
        if budget < 0:
            return
        yield one


class _Desk:
    """Sets one example. All its sounds share one gain and one black level, so they compare by ear and eye."""

    def __init__(self, example: Example, others: Mapping[str, Example]):
        self.example, self.others = example, others
        estimates = [s.estimates for e in (example, *others.values()) for s in e.separations.values()]
        loudest = max(float(np.abs(x).max()) for x in (example.mixture, example.references, *estimates))
        self.gain = 0.9 / max(loudest, 1e-9)
        self.peak = float(plots.magnitude(example.mixture).max())

    def shown(self) -> Shown:
        sources = [self._source(i) for i in range(len(self.example.labels))]
        mixture = self._card("mixture", "", self.example.mixture, "mixture")
        seconds = len(self.example.mixture) / self.example.sample_rate
        return Shown(self.example.mixture_id, seconds, mixture, sources)

    def _source(self, i: int) -> Source:
        example, frame = self.example, self.example.frames[i]
        looks = [("frame", image(frame, "frame"))]
        for kind, title in (("caption", "latent caption"), ("text", "text query")):
            if kind in example.attention:
                heat = plots.heat_map(frame, example.attention[kind][i], example.grid)
                looks.append((title, image(heat, "frame")))
        cards = [self._card("reference", "the source alone", example.references[i])]
        if IDEAL in example.separations:
            cards.append(self._estimate(tables.named(IDEAL), "the best a mask can do", example.separations[IDEAL], i))
        for kind in ordered(example.separations):
            found = example.separations[kind]
            cards.append(self._estimate(kind, _note(kind, found.queries[i]), found, i))
        for method, other in self.others.items():
            for kind in ordered(other.separations)[:1]:
                cards.append(self._estimate(tables.named(method), tables.named(kind), other.separations[kind], i))
        boxes = [(100 * x0, 100 * y0, 100 * (x1 - x0), 100 * (y1 - y0)) for x0, y0, x1, y1 in example.boxes[i]]
        return Source(example.labels[i], example.clip_ids[i], boxes, looks, cards)

    def _estimate(self, title: str, note: str, found: Separation, i: int) -> Card:
        heat = None
        if found.attention is not None:
            seen = plots.heat_map(self.example.frames[i], found.attention[i], self.example.grid)
            heat = image(seen, "heat")
        return self._card(
            title,
            note,
            found.estimates[i],
            nsdr=None if found.nsdr is None else float(found.nsdr[i]),
            mask=image(plots.coloured(found.masks[i], "gray"), "mask"),
            heat=heat,
        )

    def _card(self, title: str, note: str, sound: ndarray, kind: str = "spectrogram", **rest: Any) -> Card:
        picture = plots.coloured(plots.loudness(plots.magnitude(sound), self.peak))
        return Card(title, note, audio(sound * self.gain, self.example.sample_rate), image(picture, kind), **rest)


def _note(kind: str, query: str) -> str:
    return NOTES.get(kind) or (f"“{query}”" if query else "")

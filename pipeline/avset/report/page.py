"""The listening page: one HTML file with every sound, spectrogram, mask and heat map inside it.

It has no script and asks no server for anything, and its Content-Security-Policy allows neither; all text is escaped.
The only door to jinja2.
"""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import numpy as np
import soundfile
from jaxtyping import Float, UInt8
from markupsafe import Markup
from numpy import ndarray

from avset.evaluation.examples import IDEAL, Example, Separation, leading, ordered
from avset.report import coverage, plots, tables
from avset.report.published import published_rows

QUALITY = 0.2  # of LAME's variable bit rate, 0 best, 1 smallest: about 38 kbit/s at 11 025 Hz
BUDGET = 14_500_000  # bytes of the page, which counts further examples and does not show them
MANY, MOST = 25, 500  # a table of more classes is folded, or cut
SIZES = {  # width and height in pixels
    "mixture": (768, 216),
    "spectrogram": (224, 224),
    "mask": (128, 128),
    "frame": (192, 192),
    "heat": (112, 112),
    "legend": (224, 18),
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
class SourceView:
    """One source of a mixture: its centre frame with heat maps, the reference and all estimates of it."""

    label: str
    clip_id: str
    boxes: list[tuple[float, float, float, float]]  # left, top, width, height in percent of the picture
    pictures: list[tuple[str, str]]  # caption and data URI: the frame, and the frame under heat maps
    cards: list[Card]


@dataclass(frozen=True)
class ExampleView:
    """One example as the template draws it."""

    mixture_id: str
    lead: str  # the kind of query whose scores stand in the heading
    seconds: float
    mixture: Card
    sources: list[SourceView]

    def size(self) -> int:
        """Bytes of all its data URIs."""
        cards = [self.mixture, *(card for source in self.sources for card in source.cards)]
        pictures = [uri for source in self.sources for _, uri in source.pictures]
        parts = [p for c in cards for p in (c.sound, c.spectrogram, c.mask, c.heat) if p]
        return sum(map(len, parts + pictures))


def render_page(
    dataset: str,
    numbers: Mapping[str, Any],
    covered: Mapping[str, Any],
    examples: Mapping[str, list[Example]],
    budget: int = BUDGET,
    drawn: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    empty: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The page as HTML of about `budget` bytes at most.

    `numbers` are all of the report, `covered` is the content of coverage.json. `examples` has those of each method: the
    first method's are shown in full, beside them the estimates that the other methods made of the same mixtures.
    `drawn` says what became of the clips of each split when mixtures were drawn, `empty` why a further set has none.
    """
    rows = tables.separation_rows(numbers)
    shown = list(_within(budget, _views(examples)))
    return render(
        "page.html",
        dataset=dataset,
        rows=rows,
        tabled=[("Separation", numbers), *((_heading(name), numbers[name]) for name in tables.further(numbers))],
        classes=sorted({label for _, _, s in rows for label in s["per_class"]}),
        located=[("Localisation", tables.localization_rows(numbers)), ("in duets", tables.duet_rows(numbers))],
        answered=tables.answer_rows(numbers),
        presence=tables.presence_rows(numbers),
        legend=image_uri(plots.legend(SIZES["legend"][0]), "legend"),
        facts=tables.fact_rows(numbers),
        published=published_rows(dataset),
        covered=covered,
        drawn=drawn,
        empty=empty,
        examples=shown,
        left_out=len(next(iter(examples.values()), [])) - len(shown),
    )


def render(template: str, **values: Any) -> str:
    """A template of this room with its values, as HTML; `page.html` has the look of them all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        decibel=tables.format_decibel,
        share=tables.format_share,
        thousands=tables.format_count,
        name=tables.display_name,
        top=_top,
        bar=_bar,
        digest=_digest,
    )
    bars = "".join(f".{_bar(n / 10)} {{ --share: {n / 10:g}%; }}" for n in range(1001))
    environment.globals.update(bars=Markup(bars), tables=tables, coverage=coverage, many=MANY, most=MOST)
    return environment.get_template(template).render(**values)


def _heading(name: str) -> str:
    """The heading of the table of a further set."""
    return f"Separation: {tables.display_name(name)}"


def _bar(percent: int | float) -> str:
    """The class of a bar of so many percent: the policy of the page allows no style but the one of its hash."""
    return f"bar-{round(10 * min(max(percent, 0), 100))}"


def _digest(text: str) -> str:
    """The source of a Content-Security-Policy that allows an inline style or script of this text alone."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _top(rows: list[tuple[str, str, Mapping[str, Any]]]) -> float:
    """The largest NSDR of some rows, for the length of their bars."""
    return max([s["nsdr"] for _, _, s in rows] + [1e-9])


def audio_uri(sound: Float[ndarray, " L"], sample_rate: int) -> str:
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


def image_uri(picture: UInt8[ndarray, "H W 3"], kind: str) -> str:
    """A picture as a JPEG data URI, in the size of its kind in `SIZES`."""
    return "data:image/jpeg;base64," + base64.b64encode(plots.jpeg(picture, SIZES[kind])).decode()


def _views(examples: Mapping[str, list[Example]]) -> Iterator[ExampleView]:
    names = list(examples)
    beside = {m: {e.mixture_id: e for e in examples[m]} for m in names[1:]}
    for example in examples[names[0]] if names else []:
        yield _Layout(example, {m: e[example.mixture_id] for m, e in beside.items() if example.mixture_id in e}).view()


def _within(budget: int, views: Iterator[ExampleView]) -> Iterator[ExampleView]:
    for view in views:
        budget -= view.size()
        if budget < 0:
            return
        yield view


class _Layout:
    """Lays out one example. All its sounds share one gain and one black level, so that ear and eye can compare them."""

    def __init__(self, example: Example, others: Mapping[str, Example]):
        self.example, self.others = example, others
        estimates = [s.estimates for e in (example, *others.values()) for s in e.separations.values()]
        loudest = max(float(np.abs(x).max()) for x in (example.mixture, example.references, *estimates))
        self.gain = 0.9 / max(loudest, 1e-9)
        self.peak = float(plots.magnitude(example.mixture).max())

    def view(self) -> ExampleView:
        sources = [self._source(i) for i in range(len(self.example.labels))]
        mixture = self._card("mixture", "", self.example.mixture, "mixture")
        seconds = len(self.example.mixture) / self.example.sample_rate
        return ExampleView(self.example.mixture_id, leading(self.example), seconds, mixture, sources)

    def _source(self, i: int) -> SourceView:
        example, frame = self.example, self.example.frames[i]
        pictures = [("frame", image_uri(frame, "frame"))]
        for kind, title in (("caption", "latent caption"), ("text", "text query")):
            if kind in example.attention and not np.isnan(example.attention[kind][i]).any():
                heat = plots.heat_map(frame, example.attention[kind][i], example.grid)
                pictures.append((title, image_uri(heat, "frame")))
        boxes = [(100 * x0, 100 * y0, 100 * (x1 - x0), 100 * (y1 - y0)) for x0, y0, x1, y1 in example.boxes[i]]
        reference = self._card("reference", "the source alone", example.references[i])
        cards = [reference, *(self._estimate(*titled, i) for titled in self._titled(i))]
        return SourceView(example.labels[i], example.clip_ids[i], boxes, pictures, cards)

    def _titled(self, i: int) -> Iterator[tuple[str, str, Separation]]:
        """Title, note and separation of each estimate of a source: the ideal one, ours by query, the other methods'."""
        separations = self.example.separations
        if IDEAL in separations:
            yield tables.display_name(IDEAL), "the best a mask can do", separations[IDEAL]
        for kind in ordered(separations):
            if separations[kind].asked(i):
                yield kind, _note(kind, separations[kind].queries[i]), separations[kind]
        for method, other in self.others.items():
            kind = leading(other)
            if other.separations[kind].asked(i):
                yield tables.display_name(method), tables.display_name(kind), other.separations[kind]

    def _estimate(self, title: str, note: str, made: Separation, i: int) -> Card:
        heat = None
        if made.attention is not None:
            seen = plots.heat_map(self.example.frames[i], made.attention[i], self.example.grid)
            heat = image_uri(seen, "heat")
        return self._card(
            title,
            note,
            made.estimates[i],
            nsdr=None if made.nsdr is None else float(made.nsdr[i]),
            mask=image_uri(plots.coloured(made.masks[i], "gray"), "mask"),
            heat=heat,
        )

    def _card(self, title: str, note: str, sound: ndarray, kind: str = "spectrogram", **rest: Any) -> Card:
        picture = plots.coloured(plots.loudness(plots.magnitude(sound), self.peak))
        return Card(
            title, note, audio_uri(sound * self.gain, self.example.sample_rate), image_uri(picture, kind), **rest
        )


def _note(kind: str, query: str) -> str:
    return NOTES.get(kind) or (f"“{query}”" if query else "")

"""The listening page: one HTML file with every sound, film, spectrogram, mask and heat map inside it.

It has one script, the player, and asks no server for anything. Its Content-Security-Policy allows nothing else; all
text is escaped. The only door to jinja2.
"""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
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
HERE = Path(__file__).parent
BUDGET = 14_500_000  # bytes of the page, which counts further examples and does not show them
MANY, MOST = 25, 500  # a table of more classes is folded, or cut
SIZES = {  # width and height in pixels
    "spectrogram": (640, 128),
    "mask": (320, 128),
    "frame": (192, 192),
    "heat": (112, 112),
    "legend": (224, 18),
}
NOTES = {  # for queries that have no words
    "video": "its own frames",
    "caption": "a latent caption",
    "oracle": "assigned by the best permutation",
    IDEAL: "the best a mask can do",
}
Filming = Callable[[str, float, float], bytes | None]  # clip, start and length (s) -> a silent MP4


@dataclass(frozen=True)
class Track:
    """One sound of an example; sound and pictures are data URIs."""

    title: str
    note: str
    by: int | None  # the way of separation that it belongs to; None: to the mixture
    sound: str
    spectrogram: str
    mask: str | None = None


@dataclass(frozen=True)
class Way:
    """Who separated a mixture: for each source what was asked, the NSDR (dB), and where the separated sound looks."""

    number: int
    title: str
    answers: list[tuple[str, float | None]]
    heats: list[str | None]


@dataclass(frozen=True)
class SourceView:
    """One source of a mixture: its film, its centre frame, and the frame under heat maps."""

    number: int
    label: str
    clip_id: str
    boxes: list[tuple[float, float, float, float]]  # left, top, width, height in percent of the picture
    frame: str
    film: str | None
    pictures: list[tuple[str, str]]  # caption and data URI


@dataclass(frozen=True)
class ExampleView:
    """One example as the template draws it."""

    mixture_id: str
    seconds: float
    scored: tuple[float, float]  # s
    tracks: list[Track]
    ways: list[Way]
    chosen: int  # the way that is heard first
    sources: list[SourceView]

    @property
    def told(self) -> list[dict[str, Any]]:
        """The tracks, as the player reads them."""
        return [asdict(track) for track in self.tracks]

    @property
    def headings(self) -> list[str]:
        """Of the columns of the answers."""
        return [f"<{source.label}" for source in self.sources]

    def size(self) -> int:
        """Bytes of all its data URIs."""
        parts = [p for t in self.tracks for p in (t.sound, t.spectrogram, t.mask)]
        parts += [heat for way in self.ways for heat in way.heats]
        parts += [p for s in self.sources for p in (s.frame, s.film, *(uri for _, uri in s.pictures))]
        return sum(len(part) for part in parts if part)


def render_page(
    dataset: str,
    numbers: Mapping[str, Any],
    covered: Mapping[str, Any],
    examples: Mapping[str, list[Example]],
    budget: int = BUDGET,
    films: Filming = lambda clip, start, seconds: None,
    drawn: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    empty: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The page as HTML of about `budget` bytes at most.

    `numbers` are all of the report, `covered` is the content of coverage.json. `examples` has those of each method: the
    first method's are shown in full, beside them the estimates that the other methods made of the same mixtures.
    `films` gives the films of clips; where there is none the centre frame is shown.
    `drawn` says what became of the clips of each split when mixtures were drawn, `empty` why a further set has none.
    """
    rows = tables.separation_rows(numbers)
    shown = list(_within(budget, _views(examples, films)))
    return render(
        "page.html",
        script=Markup(script()) if shown else "",
        nonce=hashlib.sha256(repr((dataset, shown)).encode()).hexdigest(),  # no text of the page can hold it
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
        loader=jinja2.FileSystemLoader(HERE),
        extensions=["jinja2.ext.do"],
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
        count_of=lambda key, counts, none="0": tables.format_count(counts.get(key, 0)) or none,
        share_of=lambda key, scores: tables.format_share(scores.get(key)),
    )
    bars = "".join(f".{_bar(n / 10)} {{ --share: {n / 10:g}%; }}" for n in range(1001))
    environment.globals.update(bars=Markup(bars), tables=tables, coverage=coverage, many=MANY, most=MOST, script="")
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
    return "data:image/jpeg;base64," + base64.b64encode(plots.jpeg(picture, SIZES[kind], 70)).decode()


def _views(examples: Mapping[str, list[Example]], films: Filming) -> Iterator[ExampleView]:
    names = list(examples)
    beside = {m: {e.mixture_id: e for e in examples[m]} for m in names[1:]}
    for example in examples[names[0]] if names else []:
        others = {m: e[example.mixture_id] for m, e in beside.items() if example.mixture_id in e}
        yield _Layout(example, others, films).view()


def _within(budget: int, views: Iterator[ExampleView]) -> Iterator[ExampleView]:
    for view in views:
        budget -= view.size()
        if budget < 0:
            return
        yield view


class _Layout:
    """Lays out one example. All its sounds share one gain and one black level, so that ear and eye can compare them."""

    def __init__(self, example: Example, others: Mapping[str, Example], films: Filming):
        self.example, self.others, self.films = example, others, films
        self.labels = [label or clip for label, clip in zip(example.labels, example.clip_ids, strict=True)]
        estimates = [s.estimates for e in (example, *others.values()) for s in e.separations.values()]
        loudest = max(float(np.abs(x).max()) for x in (example.mixture, example.references, *estimates))
        self.gain = 0.9 / max(loudest, 1e-9)
        self.peak = float(plots.magnitude(example.mixture).max())
        self.seconds = len(example.mixture) / example.sample_rate

    def view(self) -> ExampleView:
        example, titled = self.example, list(self._titled())
        tracks = [self._track("mixture", "", None, example.mixture)]
        for number, (_, _, made) in enumerate(titled):
            asked = [i for i in range(len(self.labels)) if made.asked(i)]
            tracks += [
                self._track(self.labels[i], "separated", number, made.estimates[i], made.masks[i]) for i in asked
            ]
            tracks.append(self._track("residual", "the rest", number, example.mixture - made.estimates.sum(0)))
        tracks += [self._track(label, "", None, one) for label, one in self._references()]
        ways = [self._way(number, *one) for number, one in enumerate(titled)]
        lead = next(n for n, (kind, _, _) in enumerate(titled) if kind == leading(example))
        sources = [self._source(i) for i in range(len(self.labels))]
        return ExampleView(example.mixture_id, self.seconds, example.scored, tracks, ways, lead, sources)

    def _references(self) -> Iterator[tuple[str, ndarray]]:
        return zip((f"{label}, reference" for label in self.labels), self.example.references, strict=True)

    def _source(self, i: int) -> SourceView:
        example, frame = self.example, self.example.frames[i]
        film = self.films(example.clip_ids[i], example.starts[i], self.seconds)
        pictures = []
        for kind, title in (("caption", "latent caption"), ("text", "text query")):
            if kind in example.attention and not np.isnan(example.attention[kind][i]).any():
                heat = plots.heat_map(frame, example.attention[kind][i], example.grid)
                pictures.append((title, image_uri(heat, "heat")))
        boxes = [(100 * x0, 100 * y0, 100 * (x1 - x0), 100 * (y1 - y0)) for x0, y0, x1, y1 in example.boxes[i]]
        return SourceView(
            i, self.labels[i], example.clip_ids[i], boxes, image_uri(frame, "frame"),
            None if film is None else "data:video/mp4;base64," + base64.b64encode(film).decode(), pictures,
        )  # fmt: skip

    def _titled(self) -> Iterator[tuple[str, str, Separation]]:
        """Kind, title and separation: ours by query, the other methods', the ideal one."""
        separations = self.example.separations
        for kind in ordered(separations):
            yield kind, tables.display_name(kind), separations[kind]
        for method, other in self.others.items():
            kind = leading(other)
            yield "", f"{tables.display_name(method)}, {tables.display_name(kind)}", other.separations[kind]
        if IDEAL in separations:
            yield IDEAL, tables.display_name(IDEAL), separations[IDEAL]

    def _way(self, number: int, kind: str, title: str, made: Separation) -> Way:
        answers, heats = list[tuple[str, float | None]](), list[str | None]()
        for i in range(len(self.labels)):
            nsdr = None if made.nsdr is None or not made.asked(i) else float(made.nsdr[i])
            answers.append((_note(kind, made.queries[i]) if kind and made.asked(i) else "", nsdr))
            heats.append(None)
            if made.attention is not None and made.asked(i):
                seen = plots.heat_map(self.example.frames[i], made.attention[i], self.example.grid)
                heats[-1] = image_uri(seen, "heat")
        return Way(number, title, answers, heats)

    def _track(self, title: str, note: str, by: int | None, sound: ndarray, mask: ndarray | None = None) -> Track:
        picture = plots.coloured(plots.loudness(plots.magnitude(sound), self.peak))
        drawn = None if mask is None else image_uri(plots.coloured(mask, "gray"), "mask")
        played = audio_uri(sound * self.gain, self.example.sample_rate)
        return Track(title, note, by, played, image_uri(picture, "spectrogram"), drawn)


def _note(kind: str, query: str) -> str:
    if kind == "caption" and query not in ("", kind):
        return f"nearest to {query}"
    return NOTES.get(kind) or (f"“{query}”" if query else "")


def script() -> str:
    """The scripts of the page as one: its policy allows one text, and a page of a folder cannot import."""
    parts = [(HERE / name).read_text() for name in ("player/wavesurfer.js", "player/player.js", "page.js")]
    drawing, name = re.subn(r"export\{(\w+) as default\};?\s*$", r"return \1", parts[0])
    assert name == 1
    own = [re.sub(r"^(import .*\n|export )", "", part, flags=re.MULTILINE) for part in parts[1:]]
    return "\n".join([f"const WaveSurfer = (() => {{{drawing}}})();", *own])

"""What a trained model does with some test mixtures, beside a baseline: figures 5, 6 and 7, and the film."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.evaluation.estimates import Estimates, estimates
from avset.evaluation.evaluate import evenly, example, kinds_of, score_rows, words
from avset.evaluation.examples import Example, leading
from avset.features.spectrograms import Transform
from avset.inference.queries import video_queries
from avset.inference.separate import Separator
from avset.media.frames import decode_frames
from avset.media.targets import check_outputs
from avset.models.contract import Localizes
from avset.params import Evaluate as Asked
from avset.report import plots
from avset.report.report import typical_example
from avset.report.tables import display_name
from avset.show import film
from avset.storage.checksums import unchanged
from avset.storage.files import make_folder, place, write_atomic, writing
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture

FIGURES, FILM = ("figure5.png", "figure6.png", "figure7.png"), "film.mp4"
AT_ONCE = 32  # pictures that the encoder sees together
VIDEOS, MOMENTS = 3, 5  # of figure 6
COLUMNS, WORDINGS = 8, 3  # clips of figure 5, wordings of figure 7


@dataclass(frozen=True)
class Shown:
    """A mixture, and what a model made of it: an example to look at, and its estimates by kind of query."""

    example: Example
    made: Mapping[str, Estimates]

    @property
    def lead(self) -> str:
        """The kind of query that is shown."""
        return leading(self.example)

    @property
    def source(self) -> int:
        """The source that is shown: the first one that can be asked for."""
        return self.made[self.lead].asked[0]


@dataclass(frozen=True)
class Cinema:
    """Reads the moving pictures of the sources of mixtures.

    media   of each clip `media`, `digest`, `start` (s)
    limits  of reading a medium
    """

    corpus: Corpus
    media: Mapping[str, Mapping[str, Any] | None]
    limits: Limits

    def pictures(
        self, mixture: Mixture, source: int, times: Float[ndarray, " F"], transform: Transform
    ) -> UInt8[ndarray, "F side side 3"]:
        """What is on screen at some times (s) of the crop of a source; a short clip is repeated, as its sound is.

        AvsetError if the medium cannot be read.
        """
        clip, start, rate = mixture.clips[source], mixture.offsets[source] * transform.hop_length, transform.sample_rate
        told = self.media.get(clip)
        if told is None:
            raise AvsetError(f"{clip} has no medium; run `dvc repro clips`")
        period = min(transform.length, self.corpus.spectrograms.dataset(clip, "waveform").shape[0] - start) / rate
        try:
            found: ndarray = self.limits(
                decode_frames, unchanged(told["media"], told["digest"][0]),
                told["start"] + start / rate + times % period, film.SIDE,
            )  # fmt: skip
        except ClipError as e:
            raise AvsetError(f"cannot show the pictures of {clip} ({e}); run `dvc repro -f clips`") from e
        return found


def show(
    ours: Separator, baseline: Separator | None, corpus: Corpus, asked: Asked, cinema: Cinema, folder: Path,
    names: tuple[str, str], count: int = 10, overwrite: bool = False,
) -> list[str]:  # fmt: skip
    """Write the figures and the film of `count` evenly chosen test mixtures; returns what was left out, and why.

    In the film one source of each mixture is asked for, the first, by the first kind of query that can ask for all: the
    text where there are labels. Which examples these are does not depend on any score.

    names  of our model and of the baseline, as captions say them

    AvsetError if a model was made for another front end, if there is no mixture, or if a file is there already and
    `overwrite` is not set.
    """
    check_outputs({name: folder / name for name in (*FIGURES, FILM)}, (".png", ".mp4"), overwrite)
    mixtures = evenly(corpus.mixtures_of("test"), count)
    if not mixtures:
        raise AvsetError("no mixture of split 'test' has all its clips; raise mixtures.test, or add clips")
    for one in (ours, baseline):
        if one is not None:
            check_front_end(one, corpus)
    shown = shown_by(ours, corpus, asked, mixtures)
    theirs = shown_by(baseline, corpus, asked, mixtures) if baseline else [None] * len(shown)
    make_folder(folder)
    examples = [one.example for one in shown]
    left_out = []
    if any("caption" in one.attention for one in examples):
        png = plots.localization_figure(examples, COLUMNS, plots.LOOKS[:2], np.inf)
        write_atomic(folder / FIGURES[0], png)
    else:
        left_out.append(f"{FIGURES[0]}: {names[0]} does not know where a caption is")
    if any(_looks(ours, one) for one in shown):
        write_atomic(folder / FIGURES[1], moments(ours, shown[:VIDEOS], cinema))
    else:
        left_out.append(f"{FIGURES[1]}, and the last part of the film: {names[0]} does not know where a sound is")
    wordings = [kind for kind in ("word", "text", *asked.prompts, *asked.phrases) if kind in shown[0].made]
    chosen = list(dict.fromkeys(wordings))[:WORDINGS]
    write_atomic(folder / FIGURES[2], plots.queries_figure(typical_example(examples), chosen, np.inf))
    scenes = [
        scene(ours, own, other, cinema, names, f"example {number} of {len(shown)}")
        for number, (own, other) in enumerate(zip(shown, theirs, strict=True), 1)
    ]
    with TemporaryDirectory(dir=folder, prefix=".film-") as inner, writing(folder / FILM):
        film.write(Path(inner) / FILM, scenes, max(len(one.labels) for one in examples))
        place(Path(inner) / FILM, folder / FILM)
    return left_out


def check_front_end(separator: Separator, corpus: Corpus) -> None:
    """AvsetError if a model was trained on other spectrograms than those of the data set."""
    made, told = separator.model.settings.transform, corpus.spectrograms.record.recipe
    for key in ("sample_rate", "window_length", "hop_length"):
        if getattr(made, key) != told[key]:
            raise AvsetError(
                f"{separator.model.name} was trained with {key} {getattr(made, key)}, and {corpus.spectrograms.folder} "
                f"has {told[key]}; give a model that was trained with the same `spectrograms`"
            )


def shown_by(separator: Separator, corpus: Corpus, asked: Asked, mixtures: Sequence[Mixture]) -> list[Shown]:
    """What a model makes of some mixtures, by each kind of query, with the NSDR of each estimate."""
    model, encoder = separator.model, separator.encoder
    phrases, texts = words(model, encoder, corpus, asked)
    kept = [example(one, corpus, model, encoder.grid, texts.get("text", {})) for one in mixtures]
    kinds = kinds_of(model, mixtures, texts)
    made = {kind: list(estimates(model, mixtures, kind, corpus, texts.get(kind, {}), True)) for kind in kinds}
    score_rows(model.name, made, corpus, phrases, kept, 1)
    of = {(one.mixture.mixture_id, kind): one for kind, all_made in made.items() for one in all_made}
    return [Shown(one, {kind: of[one.mixture_id, kind] for kind in one.separations if (one.mixture_id, kind) in of})
            for one in kept]  # fmt: skip


def scene(
    ours: Separator, shown: Shown, other: Shown | None, cinema: Cinema, names: tuple[str, str], place: str
) -> film.Scene:
    """An example of the film: its first source is asked for."""
    example, transform, source = shown.example, ours.model.settings.transform, shown.source
    order = [source, *(n for n in range(len(example.labels)) if n != source)]
    titles = [title_of(example, n) for n in order]
    parts = [film.Part("the mixture", example.mixture, whole=True)]
    if other and other.example.separations[other.lead].asked(source):
        by = "" if other.lead == shown.lead else f" ({display_name(other.lead)})"
        parts.append(film.Part(f"baseline, {names[1]}{by}", *_heard(other, source)))
    parts.append(film.Part(f"ours, {names[0]}", *_heard(shown, source)))
    parts.append(film.Part("the reference, the source alone", example.references[source]))
    looks = _looks(ours, shown)
    if looks:
        parts.append(film.Part("where our separated sound looks", _heard(shown, source)[0], heat=True))
    mixture, length = shown.made[shown.lead].mixture, len(example.mixture)

    def pictures() -> UInt8[ndarray, "N F side side 3"]:
        times = np.arange(film.picture_count(length, transform.sample_rate)) / film.FPS
        return np.stack([cinema.pictures(mixture, n, times, transform) for n in order])

    words = example.separations[shown.lead].queries[source]
    asked = f"“{words}”" if words not in ("", shown.lead) else display_name(shown.lead)
    told = f"{place}: {' + '.join(titles)}; {titles[0]} is asked for by {asked}"
    return film.Scene(told, transform.sample_rate, parts, pictures, looks)


def title_of(example: Example, source: int) -> str:
    """The label of a source, or its clip if it has none."""
    return example.labels[source] or example.clip_ids[source]


def _heard(shown: Shown, source: int) -> tuple[Float[ndarray, " L"], float | None]:
    """The estimate that is played, and its NSDR (dB)."""
    made = shown.example.separations[shown.lead]
    return made.estimates[source], None if made.nsdr is None else float(made.nsdr[source])


def _looks(separator: Separator, shown: Shown) -> film.Looks | None:
    """Where the sound looks that the model separates of the shown source, in pictures of it; None if it cannot tell.

    A method that knows it of the centre frame alone says the same of all.
    """
    made, method = shown.made[shown.lead], separator.model.method
    if made.sounds is not None:
        assert isinstance(method, Localizes)
        sound = torch.from_numpy(made.sounds[shown.source])
        return lambda pictures: (_attention(separator, method, sound, pictures), shown.example.grid)
    still = next((one.attention for one in shown.made.values() if one.attention is not None), None)
    if still is None:
        return None
    return lambda pictures: (np.repeat(still[shown.source][None], len(pictures), 0), shown.example.grid)


@torch.no_grad()
def _attention(
    separator: Separator, method: Localizes, sound: Float[torch.Tensor, " D"], pictures: UInt8[ndarray, "F H W 3"]
) -> Float[ndarray, "F R"]:
    """The attention of a separated sound over each of some pictures."""
    positional, found = separator.model.settings.positional, []
    for start in range(0, len(pictures), AT_ONCE):
        regions = video_queries(separator.encoder, pictures[start : start + AT_ONCE], positional)[0]
        found.append(method.scores(regions, sound.expand(len(regions), -1)).float().cpu().numpy())
    return np.concatenate(found)


def moments(ours: Separator, shown: Sequence[Shown], cinema: Cinema) -> bytes:
    """Figure 6: frames of the shown source of some mixtures, and where its separated sound looks at that moment."""
    transform = ours.model.settings.transform
    times = (np.arange(MOMENTS) + 0.5) / MOMENTS * transform.length / transform.sample_rate
    rows = []
    for one in shown:
        if looks := _looks(ours, one):
            pictures = cinema.pictures(one.made[one.lead].mixture, one.source, times, transform)
            scores, grid = looks(pictures)
            heats = [plots.heat_map(*seen, grid) for seen in zip(pictures, scores, strict=True)]
            rows.append((title_of(one.example, one.source), list(pictures), heats))
    return plots.moments_figure(rows, list(times))

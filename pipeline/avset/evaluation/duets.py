"""What can be said of real duets, whose true sources nobody knows: whether two answers differ, not whether they hit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from avset.evaluation.estimates import Texts, absent_of
from avset.evaluation.metrics import CEILING, SILENCE
from avset.features.samples import from_int16
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Conditions, Localizes
from avset.training.dataset import Corpus
from avset.training.mixtures import centre_offset

DUETS = pa.schema(
    [("clip_id", pa.string()), ("content", pa.string()), ("query", pa.string()), ("labels", pa.list_(pa.string())),
     ("likeness", pa.float64()), ("weaker", pa.float64()), ("residual", pa.float64()), ("distance", pa.float64()),
     ("random", pa.float64())]
)  # fmt: skip


@dataclass(frozen=True)
class Heard:
    """What N texts separate from the sound of a clip, at its centre; `attention` is that of a method that localizes."""

    labels: list[str]
    mixture: Float[np.ndarray, " L"]
    sounds: Float[np.ndarray, "N L"]
    attention: Float[np.ndarray, "N R"] | None


def hear_duets(model: SeparationModel, corpus: Corpus, clips: Sequence[str], texts: Texts) -> dict[str, Heard]:
    """Of each clip that has several labels with a text, what these texts separate; none if no text is answered."""
    known = {clip: [label for label in corpus.labels[clip] if label in texts] for clip in clips}
    if "text" not in model.method.answers:
        return {}
    return {clip: hear(model, corpus, clip, labels, texts) for clip, labels in known.items() if len(labels) > 1}


@torch.no_grad()
def hear(model: SeparationModel, corpus: Corpus, clip: str, labels: Sequence[str], texts: Texts) -> Heard:
    """What the texts of some labels separate from a clip's own sound, and where it looks in the centre frame."""
    transform, method, store = model.settings.transform, model.method, corpus.spectrograms
    start = centre_offset(store.dataset(clip, "stft").shape[0], transform.crop) * transform.hop_length
    wave = from_int16(store.read(clip, "waveform", slice(start, start + transform.length)))
    mixed = torch.from_numpy(np.resize(wave, transform.length).astype(np.float32))[None].to(model.device)
    queries = torch.stack([texts[label] for label in labels])[None].to(model.device)
    sounds, masks = model.separate(mixed, Conditions.of_queries(queries))
    attention = None
    if isinstance(method, Localizes):
        regions = torch.from_numpy(corpus.regions.read(clip, "regions")).float().to(model.device)
        embedded = method.embed(transform.analyse(mixed, method.grid)[1], masks)[0]
        centre = regions[len(regions) // 2].expand(len(embedded), -1, -1)
        attention = method.scores(centre, embedded).float().cpu().numpy()
    return Heard(list(labels), mixed[0].cpu().numpy(), sounds[0].float().cpu().numpy(), attention)


def duet_rows(model: SeparationModel, corpus: Corpus, heard: Mapping[str, Heard], texts: Texts) -> list[dict[str, Any]]:
    """A row for each two different labels of each duet, asked by `text`; and one by two labels that it has not.

    likeness  cosine of the two sounds: 1 if they are the same but for a gain; None if one is silent
    weaker    level of the weaker sound against the stronger one, dB
    residual  energy of the mixture less all sounds, against the mixture's, dB: -100 if they add up
    distance  between the centres of the cells where the two sounds look, in sides of the picture, and `random`, the
              mean of two random cells; None if the method does not localize

    The control `absent` asks for as many sounds. It is left out if there are too few labels for it.
    """
    rows: list[dict[str, Any]] = []
    for clip, own in heard.items():
        rows += _rows_of("text", own, corpus, clip)
        if strangers := _absent(own.labels, corpus.labels[clip], texts):
            rows += _rows_of("absent", hear(model, corpus, clip, strangers, texts), corpus, clip)
    return rows


def _absent(asked: Sequence[str], there: Sequence[str], texts: Texts) -> list[str]:
    """As many labels that are not there; none if there are too few."""
    found: list[str] = []
    for label in asked:
        found.append(absent_of(label, [*there, *found], texts))
    return found if all(found) else []


def _rows_of(query: str, heard: Heard, corpus: Corpus, clip: str) -> Iterator[dict[str, Any]]:
    residual = level(heard.mixture - heard.sounds.sum(0), heard.mixture)
    for one, other in combinations(range(len(heard.labels)), 2):
        if heard.labels[one] == heard.labels[other]:
            continue
        first, second = heard.sounds[one], heard.sounds[other]
        row = {"clip_id": clip, "content": corpus.contents[clip], "query": query,
               "labels": [heard.labels[one], heard.labels[other]], "likeness": likeness(first, second),
               "weaker": -abs(level(first, second)), "residual": residual}  # fmt: skip
        yield row | (_places(heard.attention[[one, other]], corpus.grid) if heard.attention is not None else {})


def _places(attention: Float[np.ndarray, "2 R"], grid: tuple[int, int]) -> dict[str, float]:
    """How far apart two sounds look, and two random cells are."""
    cells = centres(grid)
    one, other = cells[attention.argmax(1)]
    return {"distance": float(np.linalg.norm(one - other)),
            "random": float(np.linalg.norm(cells[:, None] - cells, axis=-1).mean())}  # fmt: skip


def likeness(one: Float[np.ndarray, " L"], other: Float[np.ndarray, " L"]) -> float | None:
    """The cosine of two sounds; None if one of them is silent."""
    if min(np.abs(one).max(), np.abs(other).max()) <= SILENCE:
        return None
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def level(one: Float[np.ndarray, " L"], other: Float[np.ndarray, " L"]) -> float:
    """The energy of a sound against that of another, in dB, within +-`CEILING`; 0 if both are silent."""
    energies = (np.square(sound, dtype=np.float64).sum() + SILENCE**2 for sound in (one, other))
    return float(np.clip(10 * (np.log10(next(energies)) - np.log10(next(energies))), -CEILING, CEILING))


def centres(grid: tuple[int, int]) -> Float[np.ndarray, "R 2"]:
    """The centre (y, x) of each cell of a grid, in sides of the picture."""
    y, x = ((np.arange(cells) + 0.5) / cells for cells in grid)
    return np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)

"""Whether a model knows that a sound is not there: calibrated without labels, scored on the test mixtures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from avset.evaluation.estimates import BATCH, Texts
from avset.features.encoder import Encoder
from avset.features.samples import from_int16
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Conditions, Localizes
from avset.models.presence import Presence, features_of, fitted, nearest, ridge, whitening
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture, references

NONSENSE = ("quantum chromodynamics", "asdf", "the stock market", "42")  # words that name no sound
LETTERS = 64  # random words that tell how like nonsense is to the captions
CAPTIONS = 512  # at most, of training clips, that stand for what a query may mean
DIRECTIONS = 16  # of the captions
PENALTY = 300.0  # of the ridge regression
HEARD = 2000  # pieces of training clips at most: each clip alone, and twice mixed with another
OTHERS = 16  # captions of other clips at most, that a piece is asked for in the calibration
PRESENT = pa.schema(
    [("mixture_id", pa.string()), ("sources", pa.int64()), ("words", pa.string()), ("truth", pa.string()),
     ("sound", pa.float64()), ("picture", pa.float64()), ("energy", pa.float64())]
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A sound to be asked: a mixture, or one source of it alone."""

    mixture_id: str
    sound: Float[np.ndarray, " L"]
    clips: list[str]
    labels: list[str]


def pieces(mixtures: Sequence[Mixture], model: SeparationModel, corpus: Corpus) -> Iterator[Piece]:
    """Every mixture, and behind it every source of it alone."""
    transform = model.settings.transform
    for one in mixtures:
        sources = references(one, corpus.spectrograms, transform.length, transform.hop_length)
        yield Piece(one.mixture_id, sources.sum(0), one.clips, one.labels)
        for sound, clip, label in zip(sources, one.clips, one.labels, strict=True):
            yield Piece(one.mixture_id, sound, [clip], [label])


@torch.no_grad()
def heard(model: SeparationModel, sounds: Float[Tensor, "B L"]) -> Float[Tensor, "B P"]:
    """The features of whole sounds."""
    magnitude = model.settings.transform.analyse(sounds.to(model.device), model.method.grid)[1]
    return features_of(magnitude, model.localizing().embed(magnitude, torch.ones_like(magnitude)[:, None])[:, 0])


@torch.no_grad()
def asked(
    model: SeparationModel, piece: Piece, queries: Float[Tensor, "Q D"], corpus: Corpus
) -> tuple[Float[Tensor, " P"], Float[Tensor, " Q"], Float[Tensor, "R D"]]:
    """The features of a piece, the share of its energy that each query separates, and the regions of all its clips."""
    mixed = torch.from_numpy(piece.sound)[None]
    _, masks = model.separate(mixed.to(model.device), Conditions.of_queries(queries[None, :, None, None]))
    magnitude = model.settings.transform.analyse(mixed.to(model.device), model.method.grid)[1]
    energy = (masks[0] * magnitude).square().sum((-1, -2)) / magnitude.square().sum().clamp_min(1e-12)
    read = (corpus.regions.read(clip, "regions") for clip in dict.fromkeys(piece.clips))
    regions = torch.cat([torch.from_numpy(one).float().flatten(0, 1) for one in read])
    return heard(model, mixed)[0], energy, regions.to(model.device)


def calibrated(model: SeparationModel, encoder: Encoder, corpus: Corpus) -> Presence | None:
    """Presence of a model: how captions sound, by the training clips; how sure that is, by the validation mixtures.

    No label is read. The caption of another clip stands for what is absent, though some clips sound alike. None for a
    method that does not localize or answers no caption, and where there is no other clip.
    """
    if not isinstance(model.method, Localizes) or "caption" not in model.method.answers:
        return None
    clips = corpus.training_clips()
    bank = corpus.bank(clips)[0]
    bank = bank[:: -(-len(bank) // CAPTIONS)].float().to(model.device)
    axes = whitening(bank.cpu(), DIRECTIONS)
    with torch.no_grad():
        letters = encoder.encode_text(random_words(LETTERS)).to(model.device)
        alike = (torch.nn.functional.normalize(letters, dim=-1) @ torch.nn.functional.normalize(bank, dim=-1).T).amax(1)
    known = Presence(
        bank, *axes, how_captions_sound(model, corpus, clips, bank.cpu(), axes),
        torch.stack([alike.mean(), alike.std()]), *(torch.zeros(n) for n in (3, 4, 2)),
    ).to(model.device)  # fmt: skip
    clues, present = validation_clues(model, known, corpus)
    if present.all():
        return None
    columns = {"by_sound": [0, 1], "by_picture": [0, 1, 2], "by_region": [2]}
    return Presence(**vars(known) | {name: fitted(clues[:, chosen], present) for name, chosen in columns.items()})


def random_words(count: int) -> list[str]:
    """Words of random letters."""
    rng = np.random.default_rng(0)
    return ["".join(chr(97 + n) for n in rng.integers(0, 26, length)) for length in rng.integers(3, 9, count)]


def how_captions_sound(
    model: SeparationModel, corpus: Corpus, clips: Sequence[str], bank: Float[Tensor, "C D"],
    axes: tuple[Float[Tensor, " D"], Float[Tensor, "D K"]],
) -> Float[Tensor, "p K"]:  # fmt: skip
    """The regression of the captions in a sound on its features, by training clips alone and mixed with another."""
    rng, size = np.random.default_rng(0), model.settings.transform.length
    chosen = [clips[i] for i in np.sort(rng.permutation(len(clips))[: -(-HEARD // 3)])]
    made = [[clip] for clip in chosen]
    made += [[clip, chosen[k]] for _ in range(2) for clip, k in zip(chosen, rng.permutation(len(chosen)), strict=True)]

    def crop(clip: str) -> np.ndarray:
        start = int(rng.integers(max(0, corpus.spectrograms.dataset(clip, "waveform").shape[0] - size) + 1))
        wave = from_int16(corpus.spectrograms.read(clip, "waveform", slice(start, start + size)))
        return np.resize(wave, size).astype(np.float32) * rng.uniform(0.5, 1.5)

    mean, whiten = axes
    told = nearest(torch.from_numpy(corpus.captions.stack(chosen, "caption")).float(), bank)
    white = dict(zip(chosen, torch.nn.functional.normalize((told - mean) @ whiten, dim=-1), strict=True))
    features = []
    for i in range(0, len(made), BATCH):
        sounds = np.stack([np.mean([crop(clip) for clip in several], 0) for several in made[i : i + BATCH]])
        features.append(heard(model, torch.from_numpy(sounds.astype(np.float32))).cpu())
    targets = torch.stack([torch.stack([white[clip] for clip in several]).sum(0) for several in made])
    return ridge(torch.cat(features), targets, PENALTY)


def validation_clues(model: SeparationModel, known: Presence, corpus: Corpus) -> tuple[Tensor, Tensor]:
    """The clues of the validation mixtures and of their sources alone, (n, k), and whether a caption is there, (n,)."""
    mixtures = corpus.mixtures_of("validation")
    clips = sorted({clip for one in mixtures for clip in one.clips})
    found, present = [], []
    for piece in pieces(mixtures, model, corpus):
        own = list(dict.fromkeys(piece.clips))
        others = [c for c in clips if corpus.contents[c] not in {corpus.contents[one] for one in own}]
        wanted = own + others[:: max(1, -(-len(others) // OTHERS))]
        queries = torch.from_numpy(corpus.captions.stack(wanted, "caption")).float().to(model.device)
        features, energy, regions = asked(model, piece, queries, corpus)
        found.append(known.clues(features, energy, queries, regions).cpu())
        present += [clip in own for clip in wanted]
    return torch.cat(found), torch.tensor(present)


def presence_rows(
    model: SeparationModel, corpus: Corpus, mixtures: Sequence[Mixture], texts: Texts, nonsense: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Rows of presence.parquet: of each piece and each text of a label, and of `nonsense`, all scores.

    None of a model that knows nothing of presence, or if there is no text.
    """
    told, known = {**texts, **nonsense}, model.presence
    if known is None or not texts:
        return []
    queries = torch.cat([query[0] for query in told.values()]).to(model.device)
    rows = []
    for piece in pieces(mixtures, model, corpus):
        if not all(label in texts for label in piece.labels):
            continue
        features, energy, regions = asked(model, piece, queries, corpus)
        sound = known.score(features, energy, queries)
        picture = known.score(features, energy, queries, regions)
        for i, words in enumerate(told):
            truth = "nonsense" if words in nonsense else "present" if words in piece.labels else "absent"
            rows.append(
                {"mixture_id": piece.mixture_id, "sources": len(piece.clips), "words": words, "truth": truth,
                 "sound": float(sound[i]), "picture": float(picture[i]), "energy": float(energy[i])}
            )  # fmt: skip
    return rows

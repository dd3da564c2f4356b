"""The evaluation of one model: scores of its estimates, its attention on the boxes, and whole examples to look at."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from avset.errors import AvsetError
from avset.evaluation import examples, metrics, scores
from avset.evaluation.estimates import Estimates, Texts, estimates, queries
from avset.evaluation.examples import IDEAL, Example, Separation
from avset.features.encoder import Encoder
from avset.models.checkpoint import SeparationModel
from avset.models.contract import ORACLE, Localizes
from avset.storage.files import write_json
from avset.storage.store import Store
from avset.storage.tables import write_table
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture, references

PLACES = pa.schema(
    [("clip_id", pa.string()), ("label", pa.string()), ("attention", pa.string()), ("hit", pa.bool_()),
     ("iou", pa.float64()), ("chance", pa.float64())]
)  # fmt: skip


def evaluate(
    name: str, model: SeparationModel, encoder: Encoder, corpus: Corpus, prompts: Mapping[str, str], shown: int,
    folder: Path, workers: int = 1,
) -> None:  # fmt: skip
    """Score a model on the test mixtures, and write scores.parquet, localization.parquet, facts.json, examples.h5.

    name     of the method, in the table of scores
    prompts  name of each text query -> its template, with {label}
    shown    how many mixtures the examples are
    workers  processes that score

    AvsetError if no test mixture has all its clips.
    """
    mixtures = corpus.mixtures_of("test")
    if not mixtures:
        raise AvsetError("no mixture of split 'test' has all its clips; raise mixtures.test, or add clips")
    labels = [label for several in corpus.labels.values() for label in several]
    answers_text = "text" in model.method.answers
    texts = {key: texts_by_label(encoder, labels, prompt) for key, prompt in prompts.items()} if answers_text else {}
    kinds = kinds_of(model, list(texts) if all(all(m.labels) for m in mixtures) else [])
    chosen = mixtures[:: max(1, len(mixtures) // max(1, shown))][:shown]
    kept = [example(mixture, corpus, model, encoder.grid, texts.get("text", {})) for mixture in chosen]
    made = {kind: list(estimates(model, mixtures, kind, corpus, texts.get(kind, {}))) for kind in kinds}
    rows = score_rows(name, made, corpus, prompts, kept, workers)
    examples.write(folder / "examples.h5", kept)
    clips = [clip for clip in corpus.complete() if corpus.splits[clip] == "test"]
    asked = texts.get("text", {})
    places = attention_rows(model, encoder.grid, corpus, clips, asked, attention_by_clip(made[kinds[0]]))
    write_json(folder / "facts.json", recognition_facts(corpus, clips, asked) if answers_text else {})
    write_table(folder / "scores.parquet", rows)
    write_table(folder / "localization.parquet", places, PLACES)


def kinds_of(model: SeparationModel, texts: Sequence[str]) -> list[str]:
    """The kinds of queries that a model is scored by; `texts` are those that need labels."""
    answers = model.method.answers
    return [*texts, *(kind for kind in ("video", "caption") if kind in answers)] or [ORACLE]


def score_rows(
    name: str, made: Mapping[str, Sequence[Estimates]], corpus: Corpus, prompts: Mapping[str, str],
    kept: Sequence[Example], workers: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of scores.parquet, of all kinds of queries; what belongs to an example is added to it."""
    shown = {one.mixture_id: one for one in kept}
    pairs = [
        (same[0].references, np.stack([one.estimates for one in same])) for same in zip(*made.values(), strict=True)
    ]
    scored = scores.score(pairs, workers=workers)
    rows = []
    for i, (kind, all_made) in enumerate(made.items()):
        mixtures = [one.mixture for one in all_made]
        own = [{key: values[i] for key, values in one.items()} for one in scored]
        new = scores.rows_of(name, kind, mixtures, own, corpus.mixture_sdr)
        gains = np.array([row["nsdr"] for row in new]).reshape(len(mixtures), -1)
        print(f"evaluate: {kind}: NSDR {gains.mean():.2f} dB on {len(mixtures)} mixtures", flush=True)
        for one, gain in zip(all_made, gains, strict=True):
            if one.mixture.mixture_id in shown:
                prompt = prompts.get(kind, "" if kind == ORACLE else kind)
                words = [prompt.format(label=label) for label in one.mixture.labels]
                separations = shown[one.mixture.mixture_id].separations
                separations[kind] = Separation(words, one.estimates, one.masks, one.attention, gain)
        rows += new
    return rows


def texts_by_label(encoder: Encoder, labels: Sequence[str], prompt: str) -> dict[str, Tensor]:
    """Text queries (1, 1, D) by label."""
    names = sorted(set(labels) - {""})
    if not names:
        return {}
    with torch.no_grad():
        encoded = encoder.encode_text([prompt.format(label=name) for name in names])
    return dict(zip(names, encoded[:, None, None], strict=True))


def attention_by_clip(made: Sequence[Estimates]) -> dict[str, list[np.ndarray]]:
    """The attention (R,) of all separated sounds of each clip."""
    sounds = defaultdict(list)
    for one in made:
        for clip, attention in zip(one.mixture.clips, [] if one.attention is None else one.attention, strict=False):
            sounds[clip].append(attention)
    return sounds


def attention_rows(
    model: SeparationModel,
    grid: tuple[int, int],
    corpus: Corpus,
    clips: Sequence[str],
    texts: Texts,
    sounds: Mapping[str, list[np.ndarray]],
) -> list[dict[str, Any]]:
    """Pointing game and cIoU of the attention of the text, the caption and the separated sounds of each clip.

    `texts` (1, 1, D) by label, `sounds` scores (R,) by clip. Each label of a clip is asked for by text; a
    caption and a sound belong to no single box of several, so they are scored on clips of one label. A method that
    does not localize has no rows.
    """
    method, rows = model.method, []
    if not isinstance(method, Localizes):
        return []
    for clip in clips:
        regions = torch.from_numpy(corpus.regions.read(clip, "regions")).float()
        centre, labels = regions[len(regions) // 2], corpus.labels[clip]
        looks = [
            ("text", label, method.scores(centre, texts[label][0, 0]).numpy()) for label in labels if label in texts
        ]
        if len(labels) == 1:
            caption = torch.from_numpy(corpus.captions.read(clip, "caption")).float()
            looks.append(("caption", labels[0], method.scores(centre, caption).numpy()))
            looks += [("sound", labels[0], attention) for attention in sounds.get(clip, [])]
        for attention, label, map_ in looks:
            boxes = corpus.boxes.get(f"{clip}/{label}")
            if boxes is not None:
                rows.append(
                    {"clip_id": clip, "label": label, "attention": attention,
                     "hit": metrics.pointing(map_, grid, boxes), "iou": metrics.ciou(map_, grid, boxes),
                     "chance": metrics.pointing_chance(grid, boxes)}
                )  # fmt: skip
    return rows


def recognition_facts(corpus: Corpus, clips: Sequence[str], texts: Texts) -> dict[str, dict[str, float]]:
    """How well the frozen encoder and the captions know the labels: accuracy of the nearest text of the centre
    frame's embedding (zero-shot) and of the latent caption, on the clips of one label; cosine of the captions."""
    single = [clip for clip in clips if len(corpus.labels[clip]) == 1]
    cosines = [corpus.captions.rows[clip]["cosine"] for clip in clips]
    facts: dict[str, dict[str, float]] = {"captions": {"cosine": float(np.mean(cosines)), "n": len(clips)}}
    if single and texts:
        names = list(texts)
        asked = torch.nn.functional.normalize(torch.cat([texts[name][0] for name in names]), dim=-1)
        truth = torch.tensor([names.index(corpus.labels[clip][0]) for clip in single])

        def accuracy(store: Store, name: str) -> float:
            stored = torch.from_numpy(np.stack([store.read(clip, name) for clip in single])).float()
            return float(((stored @ asked.T).argmax(1) == truth).double().mean())

        facts["captions"]["accuracy"] = accuracy(corpus.captions, "caption")
        facts["encoder"] = {"zero_shot": accuracy(corpus.regions, "embedding"), "n": len(single)}
    return facts


def example(mixture: Mixture, corpus: Corpus, model: SeparationModel, grid: tuple[int, int], texts: Texts) -> Example:
    """A mixture, its references, pictures, ideal masks, and where the encoder alone looks; no query yet."""
    transform, method = model.settings.transform, model.method
    pairs = list(zip(mixture.clips, mixture.labels, strict=True))
    sources = references(mixture, corpus.spectrograms, transform.length, transform.hop_length)
    ideal, masks = transform.ideal(torch.from_numpy(sources))
    pictures = [corpus.frames.read(clip, "frames") for clip in mixture.clips]
    attention = {}
    if isinstance(method, Localizes):
        regions = queries("video", [mixture], corpus, {})[0]
        centre = regions[:, regions.shape[1] // 2]
        captions = queries("caption", [mixture], corpus, {})[0, :, 0, 0]
        attention["caption"] = method.scores(centre, captions).numpy()
        if all(label in texts for label in mixture.labels):
            asked = queries("text", [mixture], corpus, texts)[0, :, 0, 0]
            attention["text"] = method.scores(centre, asked).numpy()
    return Example(
        mixture_id=mixture.mixture_id,
        labels=mixture.labels,
        clip_ids=mixture.clips,
        grid=grid,
        boxes=[corpus.boxes.get(f"{clip}/{label}", np.zeros((0, 4))).tolist() for clip, label in pairs],
        sample_rate=transform.sample_rate,
        mixture=sources.sum(0),
        references=sources,
        frames=np.stack([p[len(p) // 2] for p in pictures]),
        attention=attention,
        separations={IDEAL: Separation([""] * len(sources), ideal.numpy(), masks.numpy(), None, None)},
    )

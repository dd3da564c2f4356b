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
from avset.evaluation.estimates import Estimates, Texts, asked_of, estimates, queries, sources_of
from avset.evaluation.examples import IDEAL, Example, Separation
from avset.features.encoder import Encoder
from avset.models.checkpoint import SeparationModel
from avset.models.contract import ORACLE, Localizes
from avset.storage.files import write_json
from avset.storage.store import Store
from avset.storage.tables import write_table
from avset.training.dataset import Corpus
from avset.training.mixtures import SAME_CATEGORY, Mixture, references

PLACES = pa.schema(
    [("clip_id", pa.string()), ("content", pa.string()), ("label", pa.string()), ("attention", pa.string()),
     ("hit", pa.bool_()), ("iou", pa.float64()), ("chance", pa.float64())]
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
    chosen = mixtures[:: max(1, len(mixtures) // max(1, shown))][:shown]
    kept = [example(mixture, corpus, model, encoder.grid, texts.get("text", {})) for mixture in chosen]
    mixtures = mixtures + corpus.mixtures_of(SAME_CATEGORY)
    kinds = kinds_of(model, mixtures, texts)
    made = {kind: list(estimates(model, mixtures, kind, corpus, texts.get(kind, {}))) for kind in kinds}
    rows = score_rows(name, made, corpus, prompts, kept, workers)
    examples.write(folder / "examples.h5", kept)
    clips = [clip for clip in corpus.complete() if corpus.splits[clip] == "test"]
    asked = texts.get("text", {})
    heard = attention_by_clip([one for one in made[kinds[0]] if one.mixture.split == "test"])
    places = attention_rows(model, encoder.grid, corpus, clips, asked, heard)
    counts = asked_facts(corpus, made)
    write_json(folder / "facts.json", counts | (recognition_facts(corpus, clips, asked) if answers_text else {}))
    write_table(folder / "scores.parquet", rows)
    write_table(folder / "localization.parquet", places, PLACES)


def kinds_of(model: SeparationModel, mixtures: Sequence[Mixture], texts: Mapping[str, Texts]) -> list[str]:
    """The kinds of queries that a model is scored by; a text query needs a source with a label.

    AvsetError if the model answers texts alone, and no source has a label.
    """
    answers = model.method.answers
    asked = [kind for kind, known in texts.items() if any(asked_of(kind, one, known) for one in mixtures)]
    if texts and not asked:
        print(f"evaluate: no source of a test mixture has one label, so there are no scores of {', '.join(texts)}")
    kinds = [*asked, *(kind for kind in ("video", "caption") if kind in answers)]
    if answers and not kinds:
        raise AvsetError(f"{model.name} answers texts alone, and no test clip has one label; label the test clips")
    return kinds or [ORACLE]


def asked_facts(corpus: Corpus, made: Mapping[str, Sequence[Estimates]]) -> dict[str, Any]:
    """How many mixtures and sources of each split were drawn, and how many each kind of query asked for."""
    drawn: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for split in ("test", SAME_CATEGORY):
        if all_drawn := [one for one in corpus.mixtures if one.split == split]:
            drawn[split] = {"mixtures": len(all_drawn), "sources": sum(len(one.clips) for one in all_drawn)}
            asked[split] = {kind: _counts([one for one in all_made if one.mixture.split == split])
                            for kind, all_made in made.items()}  # fmt: skip
    return {"drawn": drawn, "asked": asked}


def _counts(made: Sequence[Estimates]) -> dict[str, int]:
    return {"mixtures": len(made), "sources": sum(len(one.asked) for one in made)}


def score_rows(
    method: str, made: Mapping[str, Sequence[Estimates]], corpus: Corpus, prompts: Mapping[str, str],
    kept: Sequence[Example], workers: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of scores.parquet, of all kinds of queries; what belongs to an example is added to it."""
    shown = {one.mixture_id: one for one in kept}
    of_mixture: dict[str, dict[str, Estimates]] = defaultdict(dict)  # by mixture, then by kind
    for kind, all_made in made.items():
        for one in all_made:
            of_mixture[one.mixture.mixture_id][kind] = one
    pairs = [
        (next(iter(same.values())).references, np.stack([one.estimates for one in same.values()]))
        for same in of_mixture.values()
    ]
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for (name, same), scored in zip(of_mixture.items(), scores.score(pairs, workers=workers), strict=True):
        found |= {(name, kind): {key: values[i] for key, values in scored.items()} for i, kind in enumerate(same)}
    rows = []
    for kind, all_made in made.items():
        mixtures, asked = [one.mixture for one in all_made], [one.asked for one in all_made]
        own = [found[mixture.mixture_id, kind] for mixture in mixtures]
        new = scores.rows_of(method, kind, mixtures, own, corpus.mixture_sdr, asked)
        gains = {(row["mixture_id"], row["source"]): row["nsdr"] for row in new}
        _say(kind, all_made, gains, corpus)
        for one in all_made:
            if example_of := shown.get(one.mixture.mixture_id):
                example_of.separations[kind] = _separation(one, kind, prompts, gains)
        rows += new
    return rows


def _separation(
    one: Estimates, kind: str, prompts: Mapping[str, str], gains: Mapping[tuple[str, int], float]
) -> Separation:
    """What an example keeps of the estimates of a mixture; a source that was not asked for has no words and no NSDR."""
    prompt, count = prompts.get(kind, "" if kind == ORACLE else kind), len(one.estimates)
    labels = [label if n in one.asked else None for n, label in enumerate(one.mixture.labels)]
    words = ["" if label is None else prompt.format(label=label) for label in labels]
    nsdr = np.array([gains.get((one.mixture.mixture_id, n), np.nan) for n in range(count)])
    return Separation(words, one.estimates, one.masks, one.attention, nsdr)


def _say(kind: str, made: Sequence[Estimates], gains: Mapping[tuple[str, int], float], corpus: Corpus) -> None:
    """A line for each split: the mean NSDR, and on how many of the mixtures and sources."""
    for split in dict.fromkeys(one.mixture.split for one in made):
        mine = [one.mixture for one in made if one.mixture.split == split]
        drawn = [one for one in corpus.mixtures if one.split == split]
        names = {one.mixture_id for one in mine}
        values = [gain for (name, _), gain in gains.items() if name in names]
        there = sum(len(one.clips) for one in drawn)
        on = f"{len(mine)} mixtures"
        if len(values) < there:
            on = f"{len(values)} of {there} sources, in {len(mine)} of {len(drawn)} mixtures"
        named = kind if split == "test" else f"{kind}, {split.replace('_', ' ')}"
        print(f"evaluate: {named}: NSDR {np.mean(values):.2f} dB on {on}", flush=True)


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
        if one.attention is not None:
            for n in one.asked:
                sounds[one.mixture.clips[n]].append(one.attention[n])
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
                    {"clip_id": clip, "content": corpus.contents[clip], "label": label, "attention": attention,
                     "hit": metrics.pointing(map_, grid, boxes), "iou": metrics.ciou(map_, grid, boxes),
                     "chance": metrics.pointing_chance(grid, boxes)}
                )  # fmt: skip
    return rows


def recognition_facts(corpus: Corpus, clips: Sequence[str], texts: Texts) -> dict[str, dict[str, float]]:
    """How well the frozen encoder and the captions know the labels: accuracy of the nearest text of the centre
    frame's embedding (zero-shot) and of the latent caption; cosine of the captions.

    Both accuracies are on the `n` clips of one label, of all `of` test clips.
    """
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
        facts["encoder"] = {"zero_shot": accuracy(corpus.regions, "embedding"), "n": len(single), "of": len(clips)}
    return facts


def example(mixture: Mixture, corpus: Corpus, model: SeparationModel, grid: tuple[int, int], texts: Texts) -> Example:
    """A mixture, its references, pictures, ideal masks, and where the encoder alone looks; no query yet."""
    transform, method = model.settings.transform, model.method
    pairs = sources_of(mixture)
    sources = references(mixture, corpus.spectrograms, transform.length, transform.hop_length)
    ideal, masks = transform.ideal(torch.from_numpy(sources))
    pictures = [corpus.frames.read(clip, "frames") for clip in mixture.clips]
    attention = {}
    if isinstance(method, Localizes):
        regions = queries("video", [pairs], corpus, {})[0]
        centre = regions[:, regions.shape[1] // 2]
        captions = queries("caption", [pairs], corpus, {})[0, :, 0, 0]
        attention["caption"] = method.scores(centre, captions).numpy()
        if asked := asked_of("text", mixture, texts):
            words = queries("text", [[pairs[n] for n in asked]], corpus, texts)[0, :, 0, 0]
            attention["text"] = np.full(centre.shape[:2], np.nan, np.float32)
            attention["text"][asked] = method.scores(centre[asked], words).numpy()
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

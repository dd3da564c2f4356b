"""The evaluation of one model: scores of its estimates, its attention on the boxes, and whole examples to look at."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avset.errors import AvsetError
from avset.evaluation import examples, scores
from avset.evaluation.duets import DUETS, duet_rows, hear_duets
from avset.evaluation.estimates import Estimates, Texts, asked_of, estimates, queries, sources_of
from avset.evaluation.examples import IDEAL, Example, Separation
from avset.evaluation.localization import PLACES, attention_by_clip, attention_rows
from avset.evaluation.presence import NONSENSE, PRESENT, presence_rows
from avset.evaluation.wholes import whole
from avset.features.encoder import Encoder
from avset.models.checkpoint import SeparationModel
from avset.models.contract import ORACLE, Localizes
from avset.models.presence import stretched
from avset.params import CONTROLS
from avset.params import Evaluate as Asked
from avset.storage.files import write_json
from avset.storage.store import Store
from avset.storage.tables import write_table
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture, references

NEAREST = 3  # texts that are told of a latent caption


def evaluate(
    name: str,
    model: SeparationModel,
    encoder: Encoder,
    corpus: Corpus,
    asked: Asked,
    folder: Path,
    workers: int = 1,
) -> None:
    """Score a model on the test mixtures, and write scores.parquet, localization.parquet, duets.parquet,
    presence.parquet, facts.json and examples.h5.

    name     of the method, in the table of scores
    asked    what is asked by text, whether for the wrong sound, too, and how many mixtures the examples are
    workers  processes that score

    AvsetError if no test mixture has all its clips.
    """
    mixtures = corpus.mixtures_of("test")
    if not mixtures:
        raise AvsetError("no mixture of split 'test' has all its clips; raise mixtures.test, or add clips")
    answers_text = "text" in model.method.answers
    phrases, texts = words(model, encoder, corpus, asked)
    plain = texts.get("text") or next(iter(texts.values()), {})
    chosen = evenly(mixtures, asked.examples)
    kept = [example(mixture, corpus, model, encoder.grid, texts.get("text", {})) for mixture in chosen]
    mixtures = [*mixtures, *(one for further in corpus.further for one in corpus.mixtures_of(further))]
    kinds = kinds_of(model, mixtures, texts)
    if answers_text and asked.controls:
        texts |= dict.fromkeys(CONTROLS, plain)
        kinds += [kind for kind in CONTROLS if any(asked_of(kind, one, plain) for one in mixtures)]
    made = {kind: list(estimates(model, mixtures, kind, corpus, texts.get(kind, {}), True)) for kind in kinds}
    rows = score_rows(name, made, corpus, phrases, kept, workers)
    say(rows, made, corpus)
    for one in kept:
        stretch(one)
        name_captions(one, corpus, plain)
    wholes = [whole(one, mixture, model, corpus, texts) for one, mixture in zip(kept, chosen, strict=True)]
    examples.write(folder / "examples.h5", wholes)
    clips = [clip for clip in corpus.complete() if corpus.splits[clip] == "test"]
    look = next((kind for kind in kinds if any(one.attention is not None for one in made[kind])), kinds[0])
    heard = attention_by_clip([one for one in made[look] if one.mixture.split == "test"])
    duets = hear_duets(model, corpus, clips, plain)
    places = attention_rows(model, encoder.grid, corpus, clips, texts.get("text", {}), heard, duets)
    known = recognition_facts(corpus, clips, texts.get("text", {})) if answers_text else {}
    write_json(folder / "facts.json", asked_facts(corpus, made) | known)
    write_table(folder / "scores.parquet", rows)
    write_table(folder / "localization.parquet", places, PLACES)
    write_table(folder / "duets.parquet", duet_rows(model, corpus, duets, plain), DUETS)
    tests = [one for one in mixtures if one.split == "test"]
    told = presence_rows(model, corpus, tests, plain, texts_by_label(encoder, {one: one for one in NONSENSE}))
    write_table(folder / "presence.parquet", told, PRESENT)


def evenly(mixtures: Sequence[Mixture], count: int) -> Sequence[Mixture]:
    """`count` of the mixtures, or all if there are fewer, as far from each other as can be."""
    return mixtures[:: max(1, len(mixtures) // count)][:count]


def words(
    model: SeparationModel, encoder: Encoder, corpus: Corpus, asked: Asked
) -> tuple[dict[str, dict[str, str]], dict[str, Texts]]:
    """By text query its phrase of each label, and the same as queries; nothing if the model answers no text."""
    labels = [label for several in corpus.labels.values() for label in several]
    phrases = phrases_of(asked, labels) if "text" in model.method.answers else {}
    return phrases, {key: texts_by_label(encoder, told) for key, told in phrases.items()}


def phrases_of(asked: Asked, labels: Sequence[str]) -> dict[str, dict[str, str]]:
    """By text query what it says for each label: the template of its prompt, or a phrase where the label has one."""
    names = sorted(set(labels) - {""})
    found = {key: {name: prompt.format(label=name) for name in names} for key, prompt in asked.prompts.items()}
    return found | {
        key: {name: told[name] for name in names if name in told} for key, told in asked.phrases.items()
    }  # fmt: skip


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
    for split in ("test", *corpus.further):
        if all_drawn := [one for one in corpus.mixtures if one.split == split]:
            drawn[split] = {"mixtures": len(all_drawn), "sources": sum(len(one.clips) for one in all_drawn)}
            asked[split] = {kind: _counts([one for one in all_made if one.mixture.split == split])
                            for kind, all_made in made.items()}  # fmt: skip
    return {"drawn": drawn, "asked": asked}


def _counts(made: Sequence[Estimates]) -> dict[str, int]:
    return {"mixtures": len(made), "sources": sum(len(one.asked) for one in made)}


def score_rows(
    method: str, made: Mapping[str, Sequence[Estimates]], corpus: Corpus, phrases: Mapping[str, Mapping[str, str]],
    kept: Sequence[Example], workers: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of scores.parquet, of all kinds of queries; what belongs to an example is added to it."""
    shown = {one.mixture_id: one for one in kept}
    of_mixture: dict[str, dict[str, Estimates]] = defaultdict(dict)  # by mixture, then by kind
    for kind, all_made in made.items():
        for one in all_made:
            of_mixture[one.mixture.mixture_id][kind] = one
    pairs = [
        (next(iter(same.values())).references, np.stack([sound for one in same.values() for sound in _both(one)]))
        for same in of_mixture.values()
    ]
    found: dict[tuple[str, str], tuple[scores.Scores, scores.Scores]] = {}  # of the masks, and of the still ones
    for (name, same), scored in zip(of_mixture.items(), scores.score(pairs, workers=workers), strict=True):
        singles = iter(scores.each(scored))
        found |= {(name, kind): (next(singles), next(singles)) for kind in same}
    rows = []
    for kind, all_made in made.items():
        mixtures, asked = [one.mixture for one in all_made], [one.asked for one in all_made]
        own, still = ([found[mixture.mixture_id, kind][i] for mixture in mixtures] for i in (0, 1))
        new = scores.rows_of(method, kind, mixtures, own, corpus.mixture_sdr, asked, still)
        gains = {(row["mixture_id"], row["source"]): row["nsdr"] for row in new}
        for one in all_made:
            if kind not in CONTROLS and (example_of := shown.get(one.mixture.mixture_id)):
                example_of.separations[kind] = _separation(one, kind, phrases, gains)
        rows += new
    return rows


def _both(one: Estimates) -> tuple[np.ndarray, np.ndarray]:
    """The estimates of the masks, and of the still ones."""
    assert one.still is not None
    return one.estimates, one.still


def _separation(
    one: Estimates, kind: str, phrases: Mapping[str, Mapping[str, str]], gains: Mapping[tuple[str, int], float]
) -> Separation:
    """What an example keeps of the estimates of a mixture; a source that was not asked for has no words and no NSDR."""
    told, plain, count = phrases.get(kind, {}), "" if kind == ORACLE else kind, len(one.estimates)
    labels = enumerate(one.mixture.labels)
    words = [told.get(label, plain) if n in one.asked else "" for n, label in labels]
    nsdr = np.array([gains.get((one.mixture.mixture_id, n), np.nan) for n in range(count)])
    return Separation(words, one.estimates, one.masks, one.attention, nsdr)


def say(rows: Sequence[Mapping[str, Any]], made: Mapping[str, Sequence[Estimates]], corpus: Corpus) -> None:
    """A line for each kind of query and split: the mean NSDR, and on how many of the mixtures and sources."""
    for kind, all_made in made.items():
        for split in dict.fromkeys(one.mixture.split for one in all_made):
            names = {one.mixture.mixture_id for one in all_made if one.mixture.split == split}
            drawn = [one for one in corpus.mixtures if one.split == split]
            values = [row["nsdr"] for row in rows if row["query"] == kind and row["mixture_id"] in names]
            there = sum(len(one.clips) for one in drawn)
            on = f"{len(names)} mixtures"
            if len(values) < there:
                on = f"{len(values)} of {there} sources, in {len(names)} of {len(drawn)} mixtures"
            named = kind if split == "test" else f"{kind}, {split.replace('_', ' ')}"
            print(f"evaluate: {named}: NSDR {np.mean(values):.2f} dB on {on}", flush=True)


def texts_by_label(encoder: Encoder, phrases: Mapping[str, str]) -> dict[str, Tensor]:
    """Text queries (1, 1, D) by label, of the phrase of each."""
    if not phrases:
        return {}
    with torch.no_grad():
        encoded = encoder.encode_text(list(phrases.values()))
    return dict(zip(phrases, encoded[:, None, None], strict=True))


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


def heat_of(model: SeparationModel, scores: Tensor, targets: Tensor, regions: Tensor) -> np.ndarray:
    """The heat of scores (n, R) of targets (n, D) over regions (n, R, D); without a presence it has no scale."""
    scores, targets, regions = (one.to(model.device) for one in (scores, targets, regions))
    return (model.presence.heat(scores, targets, regions) if model.presence else stretched(scores)).cpu().numpy()


def stretch(shown: Example) -> None:
    """Bring the attention of the separated sounds of an example to [0, 1]: a sound has no scale of presence."""
    for kind, made in shown.separations.items():
        if made.attention is not None:
            shown.separations[kind] = replace(made, attention=stretched(torch.from_numpy(made.attention)).numpy())


def name_captions(shown: Example, corpus: Corpus, texts: Texts) -> None:
    """Tell of each latent caption which texts are nearest to it, by cosine."""
    if "caption" in shown.separations and texts:
        names = list(texts)
        known = torch.nn.functional.normalize(torch.cat([texts[name][0] for name in names]), dim=-1)
        captions = np.stack([corpus.captions.read(clip, "caption") for clip in shown.clip_ids])
        cosines = torch.nn.functional.normalize(torch.from_numpy(captions).float(), dim=-1).to(known) @ known.T
        told = [
            ", ".join(f"{names[n]} {row[n]:.2f}" for n in row.argsort(descending=True)[:NEAREST].tolist())
            for row in cosines
        ]
        shown.separations["caption"] = replace(shown.separations["caption"], queries=told)


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
        attention["caption"] = heat_of(model, method.scores(centre, captions), captions, centre)
        if asked := asked_of("text", mixture, texts):
            words = queries("text", [[pairs[n] for n in asked]], corpus, texts)[0, :, 0, 0]
            attention["text"] = np.full(centre.shape[:2], np.nan, np.float32)
            scored = method.scores(centre[asked], words)
            attention["text"][asked] = heat_of(model, scored, words, centre[asked])
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
        scored=(0.0, transform.length / transform.sample_rate),
        starts=[offset * transform.hop_length / transform.sample_rate for offset in mixture.offsets],
    )

"""A model's estimates on frozen mixtures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from avset.evaluation.bounds import still
from avset.evaluation.metrics import best_assignment, bss_eval
from avset.features.spectrograms import warp
from avset.models.checkpoint import SeparationModel
from avset.models.contract import ORACLE, Conditions, Localizes, Points
from avset.params import CONTROLS
from avset.storage.store import Store
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture, references

BATCH = 8  # mixtures separated at once

Texts = Mapping[str, Tensor]  # label -> text query (1, 1, D)


@dataclass(frozen=True)
class Estimates:
    """What a model made of one mixture; all are float32.

    `asked` are the places of the sources that were asked for; estimates, masks and attention of the others are zero.
    `still` are the estimates of the same masks averaged over time, if they were asked for. `attention` is that of each
    separated sound over the regions of the centre frame of its own clip, for a method that localizes; of one that
    points the loudness of the pixels of each region, if it was asked by video. `sounds` are the embeddings of the
    separated sounds, for a method that localizes.
    """

    mixture: Mixture
    asked: list[int]
    references: Float[np.ndarray, "N L"]
    estimates: Float[np.ndarray, "N L"]
    masks: Float[np.ndarray, "N M T"]  # on the log-frequency grid, whatever the method's is
    attention: Float[np.ndarray, "N R"] | None
    still: Float[np.ndarray, "N L"] | None = None
    sounds: Float[np.ndarray, "N D"] | None = None


def words_of(kind: str, mixture: Mixture, texts: Texts) -> list[str]:
    """The label whose text a kind of query asks with, for each source of a mixture; "" if it cannot ask.

    Its own label; of the controls, the next source's (`other`), or the next one in the alphabet that no source of the
    mixture has (`absent`), which need labels of all sources.
    """
    labels = mixture.labels
    if kind not in CONTROLS:
        return [label if label in texts else "" for label in labels]
    if any(label not in texts for label in labels):
        return [""] * len(labels)
    if kind == "other":
        return [*labels[1:], labels[0]]
    return [absent_of(label, labels, texts) for label in labels]


def absent_of(label: str, there: Sequence[str], texts: Texts) -> str:
    """The next label behind `label` in the alphabet, and around, that is not `there`; "" if there is none."""
    names = sorted(set(texts) | {label})
    at = names.index(label)
    return next((name for name in [*names[at:], *names[:at]] if name not in there and name in texts), "")


def asked_of(kind: str, mixture: Mixture, texts: Texts) -> list[int]:
    """The places of the sources of a mixture that a kind of query can ask for: a text, of those with a label only.

    A caption is of a whole picture, so it asks for no player of a duet.
    """
    if kind == "caption" and mixture.duet:  # the picture of both has one caption
        return []
    if kind in ("video", "caption", ORACLE):
        return list(range(len(mixture.clips)))
    return [n for n, word in enumerate(words_of(kind, mixture, texts)) if word]


def queries(
    kind: str, sources: Sequence[Sequence[tuple[str, str]]], corpus: Corpus, texts: Texts
) -> Float[Tensor, "B N V R D"]:
    """The queries of some sources (clip, label): `video` (all regions), `caption` (latent), else the label's text.

    The `video` of a clip of several labels is the label's share of its regions: see `share_of`.
    """

    def one(clip: str, label: str) -> Tensor:
        if kind == "video":
            return share_of(torch.from_numpy(corpus.regions.read(clip, "regions")).float(), clip, label, corpus)
        if kind == "caption":
            return torch.from_numpy(corpus.captions.read(clip, "caption")).float()[None, None]
        return texts[label]

    return torch.stack([torch.stack([one(*source) for source in several]) for several in sources])


def share_of(regions: Float[Tensor, "V R D"], clip: str, label: str, corpus: Corpus) -> Float[Tensor, "V r D"]:
    """The R / N regions nearest to the middle of the label's box, in a clip of N labels: where that player is.

    All of them for a clip of one label, or without a box of the label.
    """
    count, boxes = len(corpus.labels[clip]), corpus.boxes.get(f"{clip}/{label}")
    if count < 2 or boxes is None or not len(boxes):
        return regions
    middle_x, middle_y = boxes[0].reshape(2, 2).mean(0)
    y, x = ((np.arange(cells) + 0.5) / cells for cells in corpus.grid)
    apart = (x - middle_x) ** 2 + (y[:, None] - middle_y) ** 2
    nearest = np.argsort(apart.ravel(), kind="stable")[: regions.shape[1] // count]
    return regions[:, np.sort(nearest)]


def conditions_of(
    model: SeparationModel, kind: str, sources: Sequence[Sequence[tuple[str, str]]], corpus: Corpus, texts: Texts
) -> Conditions:
    """What selects some sources (clip, label): queries, and for `video` what else the method needs to see."""
    conditions = Conditions.of_queries(queries(kind, sources, corpus, texts).to(model.device))
    if kind != "video":
        return conditions
    stores = {name: store for name, store in corpus.features(model.method.needs).items() if name != "regions"}

    def seen(name: str, store: Store) -> Tensor:
        found = [np.stack([store.read(clip, name) for clip, _ in several]) for several in sources]
        return torch.from_numpy(np.stack(found)).to(model.device)

    return replace(conditions, seen={name: seen(name, store) for name, store in stores.items()})


def sources_of(mixture: Mixture) -> list[tuple[str, str]]:
    """Clip and label of each source."""
    return list(zip(mixture.clips, mixture.labels, strict=True))


def estimates(
    model: SeparationModel, mixtures: Sequence[Mixture], kind: str, corpus: Corpus, texts: Texts, rest: bool = False
) -> Iterator[Estimates]:
    """The estimates of a kind of query, mixture by mixture, of those mixtures of which it can ask for a source.

    `rest`: with the estimates of the same masks averaged over time.

    The outputs of the kind `ORACLE` have no order of their own: they get the one of the highest mean SDR.
    """
    for i in range(0, len(mixtures), BATCH):
        asked = {m.mixture_id: asked_of(kind, m, texts) for m in mixtures[i : i + BATCH]}
        made: dict[str, Estimates] = {}
        alike = {m.mixture_id: (len(asked[m.mixture_id]), len(m.clips), m.duet) for m in mixtures[i : i + BATCH]}
        for shape in sorted(set(alike.values())):
            batch = [m for m in mixtures[i : i + BATCH] if alike[m.mixture_id] == shape]
            if shape[0]:
                found = _of_batch(model, batch, asked, kind, corpus, texts, rest)
                made |= {one.mixture.mixture_id: one for one in found}
        there = (made[name] for name in asked if name in made)
        yield from ordered_by_sources(there) if kind == ORACLE else there


def _of_batch(
    model: SeparationModel, batch: Sequence[Mixture], asked: Mapping[str, list[int]], kind: str, corpus: Corpus,
    texts: Texts, rest: bool,
) -> Iterator[Estimates]:  # fmt: skip
    """The estimates of mixtures of as many sources, of which the same number is asked for."""
    transform, device, method = model.settings.transform, model.device, model.method
    sources = np.stack([references(m, corpus.spectrograms, transform.length, transform.hop_length) for m in batch])
    mixed = torch.from_numpy(sources).sum(1).to(device)
    places = [asked[m.mixture_id] for m in batch]
    words = [words_of(kind, m, texts) for m in batch]
    wanted = [[(m.clips[n], said[n]) for n in own] for m, said, own in zip(batch, words, places, strict=True)]
    attention = resting = sounds = None
    with torch.no_grad():
        if kind == ORACLE:
            conditions = Conditions(sources.shape[1])
        else:
            conditions = conditions_of(model, kind, wanted, corpus, texts)
        waveforms, masks = model.separate(mixed, conditions)
        if rest:
            spectrum, magnitude = transform.analyse(mixed, method.grid)
            resting = transform.apply(still(masks, magnitude), spectrum, mixed.shape[-1], method.grid)
        if isinstance(method, Localizes):
            sounds = method.embed(transform.analyse(mixed, method.grid)[1], masks)
            whole = [[(clip, "") for clip, _ in several] for several in wanted]
            regions = queries("video", whole, corpus, {}).to(device)
            attention = method.scores(regions[:, :, regions.shape[2] // 2], sounds).float().cpu().numpy()
        elif isinstance(method, Points) and kind == "video":
            loudness = method.loudness(transform.analyse(mixed, method.grid)[1], conditions)
            attention = adaptive_avg_pool2d(loudness, corpus.grid).flatten(2).float().cpu().numpy()
    if method.grid == "linear":
        masks = warp(masks, transform.log_bins)
    for j, mixture in enumerate(batch):
        at, n = places[j], len(mixture.clips)
        yield Estimates(
            mixture, at, sources[j], _placed(waveforms[j].float().cpu().numpy(), at, n),
            _placed(masks[j].float().cpu().numpy(), at, n),
            None if attention is None else _placed(attention[j], at, n),
            None if resting is None else _placed(resting[j].float().cpu().numpy(), at, n),
            None if sounds is None else _placed(sounds[j].float().cpu().numpy(), at, n),
        )  # fmt: skip


def _placed(values: Float[np.ndarray, "n *rest"], places: list[int], count: int) -> Float[np.ndarray, "N *rest"]:
    """The values at their places among `count`, with zeros at the others."""
    if len(places) == count:
        return values
    found = np.zeros((count, *values.shape[1:]), values.dtype)
    found[places] = values
    return found


def ordered_by_sources(made: Iterator[Estimates]) -> Iterator[Estimates]:
    """The same, with the outputs of each mixture assigned to its sources by the best permutation."""
    for one in made:
        count = len(one.estimates)
        turns = (np.arange(count) + np.arange(count)[:, None]) % count  # in each row all outputs, at other sources
        sdr = np.empty((count, count))
        sdr[turns, np.arange(count)] = bss_eval(one.references, one.estimates[turns], "shared")["sdr"]
        order = best_assignment(sdr)
        values = {name: getattr(one, name) for name in ("estimates", "masks", "attention", "still", "sounds")}
        yield replace(one, **{name: value[order] for name, value in values.items() if value is not None})

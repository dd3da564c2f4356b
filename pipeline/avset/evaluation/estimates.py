"""A model's estimates on frozen mixtures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avset.errors import AvsetError
from avset.evaluation.metrics import best_assignment, bss_eval
from avset.features.spectrograms import warp
from avset.models.checkpoint import SeparationModel
from avset.models.contract import ORACLE, Conditions, Localizes
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture, references

BATCH = 8  # mixtures separated at once

Texts = Mapping[str, Tensor]  # label -> text query (1, 1, D)


@dataclass(frozen=True)
class Estimates:
    """What a model made of one mixture; all are float32.

    `asked` are the places of the sources that were asked for; estimates, masks and attention of the others are zero.
    `attention` is that of each separated sound over the regions of the centre frame of its own clip, for a method
    that localizes.
    """

    mixture: Mixture
    asked: list[int]
    references: Float[np.ndarray, "N L"]
    estimates: Float[np.ndarray, "N L"]
    masks: Float[np.ndarray, "N M T"]  # on the log-frequency grid, whatever the method's is
    attention: Float[np.ndarray, "N R"] | None


def asked_of(kind: str, mixture: Mixture, texts: Texts) -> list[int]:
    """The places of the sources of a mixture that a kind of query can ask for: a text, of those with a label only."""
    if kind in ("video", "caption", ORACLE):
        return list(range(len(mixture.clips)))
    return [n for n, label in enumerate(mixture.labels) if label in texts]


def queries(
    kind: str, sources: Sequence[Sequence[tuple[str, str]]], corpus: Corpus, texts: Texts
) -> Float[Tensor, "B N V R D"]:
    """The queries of some sources (clip, label): `video` (all regions), `caption` (latent), else the label's text."""

    def one(clip: str, label: str) -> Tensor:
        if kind == "video":
            return torch.from_numpy(corpus.regions.read(clip, "regions")).float()
        if kind == "caption":
            return torch.from_numpy(corpus.captions.read(clip, "caption")).float()[None, None]
        return texts[label]

    return torch.stack([torch.stack([one(*source) for source in several]) for several in sources])


def sources_of(mixture: Mixture) -> list[tuple[str, str]]:
    """Clip and label of each source."""
    return list(zip(mixture.clips, mixture.labels, strict=True))


def estimates(
    model: SeparationModel, mixtures: Sequence[Mixture], kind: str, corpus: Corpus, texts: Texts
) -> Iterator[Estimates]:
    """The estimates of a kind of query, mixture by mixture, of those mixtures of which it can ask for a source.

    The outputs of the kind `ORACLE` have no order of their own: they get the one of the highest mean SDR.
    """
    for i in range(0, len(mixtures), BATCH):
        asked = {m.mixture_id: asked_of(kind, m, texts) for m in mixtures[i : i + BATCH]}
        made: dict[str, Estimates] = {}
        for count in sorted({len(places) for places in asked.values()} - {0}):
            batch = [m for m in mixtures[i : i + BATCH] if len(asked[m.mixture_id]) == count]
            made |= {one.mixture.mixture_id: one for one in _of_batch(model, batch, asked, kind, corpus, texts)}
        found = (made[name] for name in asked if name in made)
        yield from ordered_by_sources(found) if kind == ORACLE else found


def _of_batch(
    model: SeparationModel, batch: Sequence[Mixture], asked: Mapping[str, list[int]], kind: str, corpus: Corpus,
    texts: Texts,
) -> Iterator[Estimates]:  # fmt: skip
    """The estimates of mixtures of which the same number of sources is asked for."""
    transform, device, method = model.settings.transform, model.device, model.method
    sources = np.stack([references(m, corpus.spectrograms, transform.length, transform.hop_length) for m in batch])
    mixed = torch.from_numpy(sources).sum(1).to(device)
    places = [asked[m.mixture_id] for m in batch]
    wanted = [[sources_of(m)[n] for n in own] for m, own in zip(batch, places, strict=True)]
    attention = None
    with torch.no_grad():
        if kind == ORACLE:
            conditions = Conditions(sources.shape[1])
        else:
            conditions = Conditions.of_queries(queries(kind, wanted, corpus, texts).to(device))
        waveforms, masks = model.separate(mixed, conditions)
        if isinstance(method, Localizes):
            sounds = method.embed(transform.analyse(mixed, method.grid)[1], masks)
            regions = queries("video", wanted, corpus, {}).to(device)
            attention = method.scores(regions[:, :, regions.shape[2] // 2], sounds).float().cpu().numpy()
    if method.grid == "linear":
        masks = warp(masks, transform.log_bins)
    for j, mixture in enumerate(batch):
        at, n = places[j], len(mixture.clips)
        yield Estimates(
            mixture, at, sources[j], _placed(waveforms[j].float().cpu().numpy(), at, n),
            _placed(masks[j].float().cpu().numpy(), at, n),
            None if attention is None else _placed(attention[j], at, n),
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
        attention = None if one.attention is None else one.attention[order]
        yield Estimates(one.mixture, one.asked, one.references, one.estimates[order], one.masks[order], attention)


class Validation:
    """NSDR on the frozen mixtures of a split, by kinds of query that need no label; "nsdr" is their mean."""

    def __init__(self, corpus: Corpus, split: str, kinds: Sequence[str]):
        self.corpus, self.kinds, self.mixtures = corpus, kinds or [ORACLE], corpus.mixtures_of(split)
        if not self.mixtures:
            raise AvsetError(f"no mixture of split {split!r} has all its clips; raise mixtures.{split}, or add clips")

    def __call__(self, model: SeparationModel) -> dict[str, float]:
        runs = [list(estimates(model, self.mixtures, kind, self.corpus, {})) for kind in self.kinds]
        gains = []
        for same in zip(*runs, strict=True):
            mixture, sources = same[0].mixture, same[0].references
            scored = bss_eval(sources, np.stack([one.estimates for one in same]), "shared")
            own = [self.corpus.mixture_sdr[mixture.mixture_id, n] for n in range(len(sources))]
            gains.append((scored["sdr"] - own).mean(-1))
        means = dict(zip(self.kinds, np.mean(gains, 0).tolist(), strict=True))
        return {**means, "nsdr": float(np.mean(list(means.values())))}

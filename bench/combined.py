"""What is gained by exclusions, shares and examples: plain SDR of a finished demo's test mixtures, by choice.

Run in the folder of a project, after `make demo`. These numbers compare choices, and are no scores.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from avset.features.samples import from_int16
from avset.inference.combine import excluding, shared
from avset.inference.shown import embedding, like_query
from avset.training.mixtures import references

CHOICES = {
    "text": "the text alone",
    "not": '"a, not b", where b is the other source: m m / (m + o), taken',
    "inverse": "the same: m (1 - o)",
    "projected": "the same, by a vector without b's direction",
    "shares": "shares: masks of both that add up to at most one",
    "like": "an example sound, as its nearest captions",
    "embedding": "an example sound, as f^A itself",
}


def gain(reference: Float[Tensor, "N L"], estimate: Float[Tensor, "N L"]) -> list[float]:
    """Plain SDR (dB) of estimates, over that of the mixture."""
    error, mixed = ((one - reference).square().sum(-1) for one in (estimate, reference.sum(0)))
    return (10 * (mixed / error.clamp_min(1e-12)).log10()).tolist()


@torch.no_grad()
def measured(separator: Any, corpus: Any, texts: Mapping[str, Tensor]) -> tuple[dict[str, list[float]], float]:
    """Of each choice the gains of all sources; and how often an example is nearest to the text of its own class."""
    from avset.inference.masks import answers

    model, names = separator.model, list(texts)
    transform, directions = (
        model.settings.transform,
        normalize(torch.cat([texts[one][0, 0][None] for one in names]), dim=-1),
    )
    found: dict[str, list[float]] = {name: [] for name in CHOICES}
    right = []
    for number, one in enumerate(corpus.mixtures_of("test")):
        sources = torch.from_numpy(references(one, corpus.spectrograms, transform.length, transform.hop_length))
        spectrum, magnitude = transform.analyse(sources.sum(0)[None].to(model.device), model.method.grid)
        asked = torch.cat([texts[label][0] for label in one.labels])
        heard = torch.stack([example(model, corpus, label, number) for label in one.labels])
        like = torch.cat([like_query(sound, model.presence.captions)[0, 0] for sound in heard])
        right += [
            names[int((directions @ normalize(v, dim=-1)).argmax())] == own
            for v, own in zip(like, one.labels, strict=True)
        ]
        vectors = torch.cat([asked, projected(asked), like, heard])[:, None, None]
        plain, less, by_like, by_sound = answers(model, magnitude, list(vectors))[0].split(len(asked))
        masks = {"text": plain, "not": excluding(plain, plain.flip(0)), "inverse": plain * (1 - plain.flip(0)),
                 "projected": less, "shares": shared(plain), "like": by_like, "embedding": by_sound}  # fmt: skip
        for name, mask in masks.items():
            estimate = transform.apply(mask[None], spectrum, transform.length, model.method.grid)[0]
            found[name] += gain(sources, estimate.cpu())
    return found, float(np.mean(right))


def projected(vectors: Float[Tensor, "2 D"]) -> Float[Tensor, "2 D"]:
    """Two vectors, each without the direction of the other, as long as before."""
    others = normalize(vectors.flip(0), dim=-1)
    rest = vectors - (vectors * others).sum(-1, keepdim=True) * others
    return normalize(rest, dim=-1) * vectors.norm(dim=-1, keepdim=True)


def example(model: Any, corpus: Any, label: str, number: int) -> Float[Tensor, " D"]:
    """f^A of a training clip of a class, another one for each number."""
    clips = [c for c in corpus.complete() if corpus.splits[c] == "train" and corpus.labels[c] == [label]]
    clip = clips[number % len(clips)]
    return embedding(model, [from_int16(corpus.spectrograms.read(clip, "waveform"))], clip)


def text(device: str) -> Iterator[str]:
    """The table, as Markdown."""
    from avset import params
    from avset.errors import MissingArtifact
    from avset.evaluation.evaluate import words
    from avset.inference.separate import load
    from avset.training.dataset import Corpus

    p = params.load()
    try:
        separator, corpus = load(p.data / "models" / next(iter(p.methods)), device=device), Corpus.load(p.data)
    except MissingArtifact as e:
        yield f"combined queries: {e}"
        return
    texts = words(separator.model, separator.encoder, corpus, p.evaluate)[1]["text"]
    found, right = measured(separator, corpus, texts)
    count = len(found["text"])
    yield f"Combined queries, {count} sources of {count // 2} test mixtures of {Path(p.data)}: plain SDR gain."
    yield from ("", "| choice | dB |", "|---|---|")
    for name, told in CHOICES.items():
        said = f"{told} (the right class in {right:.0%} of sources)" if name == "like" else told
        yield f"| {said} | {np.mean(found[name]):.2f} |"

"""How much an encoder's embeddings are like those of CLIP's RN50, measured on pictures that are drawn for it.

`python -m avset.sources.demo.likeness ENCODER...` prints a column for each folder: one that `train_encoder` wrote, or
an encoder artifact of any size. No data is needed. docs/encoders.md says what the rows mean for the method, and where
the published numbers come from.
"""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from avset.console import aligned
from avset.features.encoder import DESCRIPTION, Encoder
from avset.features.weights import export
from avset.sources.demo.descriptions import sentence_about
from avset.sources.demo.pools import DRAWN, Pool, draw_pool
from avset.sources.demo.scenes import LABELS

HERE, TRAINED = Path(__file__).parent, "encoder.safetensors"
SOLOS, DUETS, BATCH = 660, 220, 110
PROMPT = "person playing a {}"
PHRASES = ("violin", "fiddle", "person playing a fiddle", "violinist", "no violin", "person not playing a violin",
           "asdf")  # fmt: skip
PUBLISHED = {  # of CLIP; the numbers in brackets are the sources in docs/encoders.md
    "temperature": "0.01 [1]",
    "cosine: a picture and its text": "0 to 0.4 [2]",
    "cosine: a picture and another text": "0 to 0.4 [2]",
    "cosine: box less elsewhere": "below 0 [5]",
    "gap: distance of centroids": "0.82 [1]",
    "gap: told apart by a plane": "all [3]",
    "zero-shot accuracy": "0.598 [4]",
}


@dataclass(frozen=True)
class Embedded:
    """Embeddings of P pictures with N players each, not normalised.

    `labels` are numbers of classes. `inside` says which regions have their centre in the box of which instrument; a box
    may hold none.
    """

    whole: Float[Tensor, "P D"]
    regions: Float[Tensor, "P R D"]
    labels: Int[Tensor, "P N"]
    inside: Bool[Tensor, "P N R"]


def likeness(
    texts: Float[Tensor, "C D"], captions: Float[Tensor, "P D"], solos: Embedded, duets: Embedded
) -> dict[str, float]:
    """All rows of the table but the temperature: `texts` are one for each class, `captions` one for each solo."""
    return {**cosines(texts, solos), **gap(captions, solos.whole), **knowledge(texts, solos, duets)}


def cosines(texts: Float[Tensor, "C D"], solos: Embedded) -> dict[str, float]:
    """Directions and lengths of texts, pictures and regions."""
    t, w, r = (F.normalize(x, dim=-1) for x in (texts, solos.whole, solos.regions))
    label, norms = solos.labels[:, 0], solos.regions.norm(dim=-1)
    own = F.one_hot(label, len(t)).bool()
    across, apart = w @ t.T, ~torch.eye(r.shape[1], dtype=torch.bool)
    told = torch.einsum("prd,pd->pr", r, t[label])
    seen = solos.inside[:, 0].any(1)
    box, elsewhere = (_mean(told[seen], where) for where in (solos.inside[seen, 0], ~solos.inside[seen, 0]))
    return {
        "cosine: a picture and its text": _mean(across, own),
        "cosine: a picture and another text": _mean(across, ~own),
        "cosine: texts of two classes": _mean(t @ t.T, ~torch.eye(len(t), dtype=torch.bool)),
        "cosine: pictures of two classes": _mean(w @ w.T, label[:, None] != label),
        "cosine: regions of a picture": (r @ r.mT)[:, apart].mean().item(),
        "cosine: a region and its picture": torch.einsum("prd,pd->pr", r, w).mean().item(),
        "cosine: mean region and its picture": F.cosine_similarity(solos.regions.mean(1), solos.whole).mean().item(),
        "cosine: box less elsewhere": box - elsewhere,
        "norm: picture": solos.whole.norm(dim=-1).mean().item(),
        "norm: region": norms.mean().item(),
        "norm: spread of regions / mean": (norms.std(1, correction=0) / norms.mean(1)).mean().item(),
        "norm: text": texts.norm(dim=-1).mean().item(),
    }


def gap(captions: Float[Tensor, "P D"], pictures: Float[Tensor, "P D"]) -> dict[str, float]:
    """Modality gap (Liang et al. 2022) of as many texts as pictures, all normalised, and their effective ranks.

    A plane that least squares finds with every other pair tells the modalities of the rest apart. The effective rank is
    the exponential of the entropy of the singular values about the mean (Roy and Vetterli 2007).
    """
    told, seen = F.normalize(captions, dim=-1), F.normalize(pictures, dim=-1)
    distance = (told.mean(0) - seen.mean(0)).norm()
    both = torch.cat([told, seen])
    total = (both - both.mean(0)).square().sum(1).mean()
    side = torch.cat([torch.ones(len(told)), -torch.ones(len(seen))])[:, None]
    points = torch.cat([both, torch.ones(len(both), 1)], dim=1)
    plane = torch.linalg.lstsq(points[::2], side[::2], driver="gelsd").solution
    return {
        "gap: distance of centroids": distance.item(),
        "gap: share of variance": (distance.square() / 4 / total.clamp_min(1e-12)).item(),
        "gap: told apart by a plane": (points[1::2] @ plane * side[1::2] > 0).float().mean().item(),
        "effective rank: texts": effective_rank(told),
        "effective rank: pictures": effective_rank(seen),
    }


def effective_rank(rows: Float[Tensor, "P D"]) -> float:
    """Between 0, where all rows are equal, and the number of dimensions."""
    sizes = torch.linalg.svdvals(rows - rows.mean(0))
    if sizes.sum() < 1e-6:
        return 0.0
    return torch.special.entr(sizes / sizes.sum()).sum().exp().item()


def knowledge(texts: Float[Tensor, "C D"], solos: Embedded, duets: Embedded) -> dict[str, float]:
    """What texts can say of a picture: its class, and where the instrument is.

    A point is the region of the highest cosine, or of the largest norm. It hits inside the box that is asked for;
    boxes that hold no region's centre are left out. `absent`: the mean over the texts of all classes that are not on
    the picture. `chance`: the share of the regions that would hit.
    """
    t = F.normalize(texts, dim=-1)
    guess = (F.normalize(solos.whole, dim=-1) @ t.T).argmax(1)
    found = {"zero-shot accuracy": (guess == solos.labels[:, 0]).float().mean().item()}
    for name, pool in (("solos", solos), ("duets", duets)):
        scores = torch.einsum("prd,cd->pcr", F.normalize(pool.regions, dim=-1), t)
        peaks = scores.argmax(2)  # (P, C)
        usable = pool.inside.any(2)
        absent = torch.ones(peaks.shape, dtype=torch.bool).scatter(1, pool.labels, False)
        hits = pool.inside.gather(2, peaks.gather(1, pool.labels)[:, :, None])[:, :, 0]
        found[f"{name}: text in its own box"] = _mean(hits, usable)
        if pool.labels.shape[1] == 2:
            others = pool.inside.gather(2, peaks.gather(1, pool.labels.flip(1))[:, :, None])[:, :, 0]
            found[f"{name}: text in the other's box"] = _mean(others, usable)
        anywhere = pool.inside.gather(2, peaks[:, None].expand(-1, pool.labels.shape[1], -1))  # (P, N, C)
        found[f"{name}: absent text in a box"] = _mean(anywhere, absent[:, None] & usable[:, :, None])
        loudest = pool.regions.norm(dim=-1).argmax(1)
        found[f"{name}: largest norm in a box"] = _mean(pool.inside[torch.arange(len(loudest)), :, loudest], usable)
        found[f"{name}: chance"] = _mean(pool.inside.float().mean(2), usable)
    return found


def _mean(values: Tensor, where: Tensor) -> float:
    """The mean of the values at some places."""
    return values.float()[where].mean().item()


def embed(encoder: Encoder, pool: Pool) -> Embedded:
    """The embeddings of a pool whose scenes have equally many players."""
    frames = pool.pictures.permute(0, 2, 3, 1)
    parts = [encoder.forward_image(encoder.preprocess(part), positional=True) for part in frames.split(BATCH)]
    whole, regions = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    labels = torch.tensor([[LABELS.index(player.label) for player in drawn.players] for drawn in pool.scenes])
    return Embedded(whole, regions, labels, inside(pool.boxes, encoder.grid))


def inside(
    boxes: Iterable[Iterable[tuple[float, float, float, float]]], grid: tuple[int, ...]
) -> Bool[Tensor, "P N R"]:
    """Which regions of a grid (rows, columns) have their centre in which box (x0, y0, x1, y1 of the side)."""
    edges = torch.tensor([list(held) for held in boxes])
    y, x = ((torch.arange(count) + 0.5) / count for count in grid)
    columns = (x > edges[..., 0, None]) & (x < edges[..., 2, None])
    rows = (y > edges[..., 1, None]) & (y < edges[..., 3, None])
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2)


def load(folder: Path) -> Encoder:
    """The encoder of a folder that `train_encoder` wrote, or of an encoder artifact."""
    if not (folder / TRAINED).is_file():
        return Encoder.load(folder)
    with tempfile.TemporaryDirectory() as made:
        export(str(folder / DESCRIPTION), str(folder / TRAINED), Path(made))
        return Encoder.load(Path(made))


def measure(encoder: Encoder, solos: Pool, duets: Pool) -> dict[str, float]:
    """All rows of the table."""
    rng = np.random.default_rng(3)
    captions = encoder.encode_text([sentence_about(drawn, rng)[0] for drawn in solos.scenes])
    texts = encoder.encode_text([PROMPT.format(label) for label in LABELS])
    scale = encoder.model.logit_scale.exp().item()
    return {"temperature": 1 / scale, **likeness(texts, captions, embed(encoder, solos), embed(encoder, duets))}


def nearness(encoder: Encoder) -> list[list[str]]:
    """Of each phrase the cosine to the violin's prompt, to the nearest other, and to the mean over the others."""
    texts, phrases = (
        F.normalize(encoder.encode_text(told), dim=-1)
        for told in ([PROMPT.format(label) for label in LABELS], list(PHRASES))
    )
    violin, lines = LABELS.index("violin"), []
    for phrase, near in zip(PHRASES, phrases @ texts.T, strict=True):
        others = near.index_fill(0, torch.tensor(violin), -2)
        best, mean = int(others.argmax()), (near.sum() - near[violin]) / (len(LABELS) - 1)
        lines.append([phrase, f"{near[violin]:.2f}", f"{near[best]:.2f} {LABELS[best]}", f"{mean:.2f}"])
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m avset.sources.demo.likeness")
    parser.add_argument("folders", type=Path, nargs="*", default=[HERE], metavar="ENCODER")
    folders = parser.parse_args().folders
    solos, duets = draw_pool(SOLOS, 100_000_000, 0.0, DRAWN), draw_pool(DUETS, 200_000_000, 1.0, DRAWN)
    encoders = [load(folder) for folder in folders]
    measured = [measure(encoder, solos, duets) for encoder in encoders]
    names = [folder.resolve().name for folder in folders]
    rows = [[row, *(f"{found[row]:.3f}" for found in measured), PUBLISHED.get(row, "")] for row in measured[0]]
    print(aligned([["", *names, "published"], *rows], left=1))
    for name, encoder in zip(names, encoders, strict=True):
        print(aligned([[name, "violin", "nearest other", "mean other"], *nearness(encoder)], left=1))


if __name__ == "__main__":
    main()

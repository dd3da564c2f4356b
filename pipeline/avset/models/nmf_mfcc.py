"""NMF-MFCC (Spiertz & Gnann, DAFx 2009): templates of a mixture, clustered by their timbre. It learns nothing.

It knows no query either: which output is which source, only the sources can say.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avset.models.contract import Conditions, Sizes
from avset.models.contract import Method as Contract
from avset.presets import NMFSettings

BANDS = 26  # of the mel filter bank
LEAST = 1e-3  # of a template's loudest band: 60 dB below it all is silence
STARTS = 16  # of k-means, of which the tightest clusters win
ROUNDS = 100  # of k-means, at most
TINY = 1e-10


class Method(Contract):
    """Magnitude = W H by `templates` columns of W; the MFCCs of the columns fall into N clusters, one a source."""

    grid = "linear"
    settings: NMFSettings

    def __init__(self, settings: NMFSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        self.rate = sizes.transform.sample_rate

    def masks(self, mixture: Float[Tensor, "B F T"], conditions: Conditions) -> Float[Tensor, "B N F T"]:
        """Of each cluster s its part of the mixture, W_s H_s / max(W_s H_s, |X|), in [0, 1].

        One mixture at a time, all from the same seed: a mask does not depend on the others of its batch.
        """
        return torch.stack([self._masks_of(one, conditions.n_sources) for one in mixture])

    def _masks_of(self, magnitude: Float[Tensor, "F T"], n_sources: int) -> Float[Tensor, "N F T"]:
        chosen, random = self.settings, torch.Generator().manual_seed(self.settings.seed)
        templates, gains = factorised(magnitude, chosen.templates, chosen.updates, random)
        clusters = clustered(mfcc(templates, self.rate, chosen.coefficients), n_sources, random)
        own = clusters == torch.arange(n_sources, device=clusters.device)[:, None]  # (N, K)
        parts = templates @ (own[..., None] * gains)
        return parts / torch.maximum(parts, magnitude).clamp_min(TINY)


def factorised(
    magnitude: Float[Tensor, "F T"], count: int, updates: int, random: torch.Generator
) -> tuple[Float[Tensor, "F K"], Float[Tensor, "K T"]]:
    """K = `count` templates and their gains whose product is near the magnitude (Lee & Seung 2001, Euclidean).

    No update makes the distance larger.
    """
    level = (magnitude.mean() / count).sqrt()
    templates, gains = (
        level * (0.5 + torch.rand(shape, generator=random).to(magnitude))
        for shape in ((magnitude.shape[0], count), (count, magnitude.shape[1]))
    )
    for _ in range(updates):
        gains = gains * (templates.T @ magnitude) / (templates.T @ templates @ gains).clamp_min(TINY)
        templates = templates * (magnitude @ gains.T) / (templates @ (gains @ gains.T)).clamp_min(TINY)
    return templates, gains


def mfcc(templates: Float[Tensor, "F K"], rate: int, count: int) -> Float[Tensor, "K c"]:
    """Mel-frequency cepstral coefficients 1 to `count` of each template; number 0 is its loudness, left out."""
    bands = mel_bands(len(templates), rate).to(templates) @ templates
    loudness = torch.log(bands + LEAST * bands.amax(0) + TINY)
    numbers, places = torch.arange(1, count + 1)[:, None], torch.arange(BANDS) + 0.5
    cosines = math.sqrt(2 / BANDS) * torch.cos(math.pi / BANDS * numbers * places)
    return (cosines.to(templates) @ loudness).T


def mel_bands(bins: int, rate: int) -> Float[Tensor, "bands F"]:
    """Triangles whose corners are equally far from each other in mel = 2595 log10(1 + f / 700), from 0 to rate / 2."""
    top = math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, 1, BANDS + 2) * top) - 1)  # Hz
    frequencies, (low, middle, high) = torch.linspace(0, rate / 2, bins), corners.unfold(0, 3, 1).T[..., None]
    return torch.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle)).clamp_min(0)


def clustered(points: Float[Tensor, "K c"], count: int, random: torch.Generator) -> Int[Tensor, " K"]:
    """k-means: the cluster of each point; of several random starts the one with the smallest squared distances.

    A cluster that loses all its points keeps its centre.
    """
    starts = [torch.randperm(len(points), generator=random)[:count] for _ in range(STARTS)]
    results = [_from_centres(points, points[start.to(points.device)]) for start in starts]
    return min(results, key=lambda result: result[0])[1]


def _from_centres(points: Float[Tensor, "K c"], centres: Float[Tensor, "N c"]) -> tuple[float, Int[Tensor, " K"]]:
    """The sum of the squared distances, and the cluster of each point."""
    before = None
    for _ in range(ROUNDS):
        squares = (points[:, None] - centres).square().sum(-1)
        nearest = squares.argmin(1)
        if before is not None and torch.equal(nearest, before):
            break
        own = (nearest == torch.arange(len(centres), device=points.device)[:, None]).to(points)  # (N, K)
        sizes = own.sum(1, keepdim=True)
        centres, before = torch.where(sizes > 0, own @ points / sizes.clamp_min(1), centres), nearest
    return squares.amin(1).sum().item(), nearest

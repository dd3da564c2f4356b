"""Whether what a query names is there at all: a score in [0, 1], of a sound and, if there is one, of its picture.

A mask takes something for every query, and f^A of what it takes is near to the query whatever was there. So the sound
is asked as a whole. A query q stands for the training captions that are nearest to it, q' = `nearest`; their clips
say how such a thing sounds. The clues are:

    sound    the ridge regression of q' (whitened) on features of the whole sound, and the energy that q separates
    picture  the largest cosine of q' and a region

A logistic regression on validation mixtures makes a score of them (`fitted`): the caption of a clip that is in the
mixture is present, that of another clip absent. No label is read. A score of a half is where `LOST` of the present
captions are below: silence is a serious thing to say. Words that are as far from all captions as random letters
are, are nowhere: their score is multiplied by `familiarity`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import normalize

from avset.errors import AvsetError
from avset.features.attention import SCALES
from avset.storage.checksums import checked, finite
from avset.storage.files import write_atomic

FILE = "presence.safetensors"  # beside a model's own
THRESHOLD = 0.1  # of a score: below it, a thing is taken not to be there; texts have lower scores than captions
FLOOR = 1e-3  # of a magnitude, as a share of its mean, before the logarithm
LOST = 0.02  # share of the present captions of the validation mixtures that are taken for absent
RIDGE = 1e-2  # of the logistic regression, per clue of unit variance; a clue that tells all apart would have no end
STEPS = 30  # of Newton's method


@dataclass(frozen=True)
class Presence:
    """What turns sounds, pictures and queries into scores; the weights of a regression end in its bias."""

    captions: Float[Tensor, "C D"]  # of training clips
    mean: Float[Tensor, " D"]  # of the captions, and
    whitening: Float[Tensor, "D K"]  # their main directions, each with a variance of one
    sounds: Float[Tensor, "p K"]  # features of a sound -> whitened captions that are in it
    nonsense: Float[Tensor, " 2"]  # mean and spread of the likeness of random letters to the nearest caption
    by_sound: Float[Tensor, " 3"]  # clue, logarithm of the energy
    by_picture: Float[Tensor, " 4"]  # the same, cosine
    by_region: Float[Tensor, " 2"]  # cosine alone

    def nearest(self, queries: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The captions that a query stands for: their mean by the softmax of 100 x cosine."""
        return nearest(queries, self.captions)

    def familiarity(self, queries: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """How surely a query means something: a half at three spreads above the likeness of random letters."""
        likeness = (normalize(queries, dim=-1) @ normalize(self.captions, dim=-1).T).amax(-1)
        mean, spread = self.nonsense
        return torch.sigmoid(4 * ((likeness - mean) / spread - 3))

    def white(self, queries: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K"]:
        """Queries as whitened captions of unit length."""
        return normalize((self.nearest(queries) - self.mean) @ self.whitening, dim=-1)

    def clues(
        self, features: Float[Tensor, " P"], energy: Float[Tensor, " Q"], queries: Float[Tensor, "Q D"],
        regions: Float[Tensor, "R D"] | None = None,
    ) -> Float[Tensor, "Q k"]:  # fmt: skip
        """The clues of a sound about some queries; the last one is the picture's, if there are regions."""
        found = [self.white(queries) @ (features @ self.sounds[:-1] + self.sounds[-1]), (energy + 1e-4).log()]
        if regions is not None:
            found.append(self.seen(queries, regions[None]))
        return torch.stack(found, -1)

    def seen(
        self, queries: Float[Tensor, "*batch D"], regions: Float[Tensor, "*#batch R D"]
    ) -> Float[Tensor, "*batch"]:
        """The largest cosine of each query and a region of its picture."""
        units = normalize(self.nearest(queries), dim=-1), normalize(regions, dim=-1)
        return torch.einsum("...d,...rd->...r", *units).amax(-1)

    def score(
        self, features: Float[Tensor, " P"], energy: Float[Tensor, " Q"], queries: Float[Tensor, "Q D"],
        regions: Float[Tensor, "R D"] | None = None,
    ) -> Float[Tensor, " Q"]:  # fmt: skip
        """How surely each query is in a sound: of `features`, with the share of `energy` that the query separates."""
        weights = self.by_sound if regions is None else self.by_picture
        return scored(self.clues(features, energy, queries, regions), weights) * self.familiarity(queries)

    def heat(
        self,
        scores: Float[Tensor, "*batch R"],
        targets: Float[Tensor, "*batch D"],
        regions: Float[Tensor, "*batch R D"],
    ) -> Float[Tensor, "*batch R"]:
        """Attention on one scale for all pictures: as bright as it is sure that the target is in the picture.

        `scores` are the method's, of `targets` over `regions`. The strongest region has the score of the picture, the
        weakest zero.
        """
        sure = scored(self.seen(targets, regions)[..., None], self.by_region) * self.familiarity(targets)
        return sure[..., None] * stretched(scores)

    def to(self, device: torch.device | str) -> "Presence":
        """The same, on a device."""
        return Presence(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def save(self, folder: Path) -> None:
        """Write `FILE`; AvsetError if a number is not finite."""
        tensors = {name: tensor.float().cpu().contiguous() for name, tensor in vars(self).items()}
        finite(folder / FILE, tensors)
        write_atomic(folder / FILE, save(tensors))

    @classmethod
    def load(cls, folder: Path) -> "Presence | None":
        """Of the model in a folder; None if it has none. AvsetError if the file is damaged."""
        if not (folder / FILE).exists():
            return None
        path = checked(folder / FILE)
        try:
            tensors = load_tensors(path.read_bytes())
            finite(path, tensors)
            return cls(**tensors)
        except (SafetensorError, TypeError) as e:
            raise AvsetError(f"{path} is no presence of this version; train the model again") from e


def stretched(scores: Float[Tensor, "*batch R"]) -> Float[Tensor, "*batch R"]:
    """The scores of each picture from 0 to 1: a map without a scale."""
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return (scores - low) / (high - low).clamp_min(1e-12)


def nearest(queries: Float[Tensor, "*batch D"], captions: Float[Tensor, "C D"]) -> Float[Tensor, "*batch D"]:
    """The mean of `captions` by the softmax of 100 x cosine, as Eq. 2 weighs them."""
    alike = normalize(queries, dim=-1) @ normalize(captions, dim=-1).T
    return torch.softmax(SCALES["cosine"] * alike, -1) @ captions


def features_of(magnitude: Float[Tensor, "B M T"], embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B D+2*M"]:
    """What is known of a whole sound: f^A, mean and spread in time of each bin's level, whatever the loudness."""
    level = (magnitude / magnitude.mean((1, 2), keepdim=True).clamp_min(1e-9) + FLOOR).log()
    return torch.cat([embedding, level.mean(2), level.std(2)], 1)


def whitening(captions: Float[Tensor, "C D"], directions: int) -> tuple[Float[Tensor, " D"], Float[Tensor, "D K"]]:
    """The mean of captions, and the at most `directions` directions in which they vary most, per unit of spread."""
    mean = captions.mean(0)
    _, spread, axes = torch.linalg.svd((captions - mean).double(), full_matrices=False)
    kept = min(directions, int((spread > 1e-6 * spread[0]).sum()))
    return mean, (axes[:kept].T * (len(captions) ** 0.5 / spread[:kept])).float()


def ridge(features: Float[Tensor, "n P"], targets: Float[Tensor, "n K"], penalty: float) -> Float[Tensor, "P+1 K"]:
    """Linear regression with a penalty per feature of unit variance; the constants are the last row."""
    x, y = features.double(), targets.double()
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-6)
    x, level = (x - mean) / spread, y.mean(0)
    weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (y - level))
    weights = weights / spread[:, None]
    return torch.cat([weights, (level - mean @ weights)[None]]).float()


def fitted(clues: Float[Tensor, "n k"], present: Bool[Tensor, " n"]) -> Float[Tensor, " k+1"]:
    """Logistic regression, 1 / (1 + exp(-w clues - b)), the bias b last; Newton's method.

    What is absent weighs as much as what is present, however many there are. Then the bias is such that `LOST` of what
    is present have less than a half.
    """
    x, y = clues.double(), present.double()
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-6)
    x = torch.cat([(x - mean) / spread, torch.ones_like(x[:, :1])], 1)
    share = y / y.sum() + (1 - y) / (1 - y).sum()
    penalty = RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    penalty[-1, -1] = 0
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(STEPS):
        p = (x @ w).sigmoid()
        slope = x.T @ (share * (p - y)) + penalty @ w
        w = w - torch.linalg.solve((x * (share * p * (1 - p))[:, None]).T @ x + penalty, slope)
    weights = w[:-1] / spread
    bias = -(clues.double() @ weights)[present].quantile(LOST)
    return torch.cat([weights, bias[None]]).float()


def scored(clues: Float[Tensor, "*batch k"], weights: Float[Tensor, " k+1"]) -> Float[Tensor, "*batch"]:
    """The score of some clues by the weights of a regression."""
    return (clues @ weights[:-1] + weights[-1]).sigmoid()

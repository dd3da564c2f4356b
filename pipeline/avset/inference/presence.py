"""How surely a recording of any length holds what queries name: gathered while its windows are separated."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from avset.inference.reading import SILENT
from avset.models.checkpoint import SeparationModel
from avset.models.presence import THRESHOLD, features_of

WINDOWS = 3  # that a sound of the length of one window reaches into, where windows overlap by half


class Listener:
    """Hears the windows of a recording, each with the masks of N queries; `presence` says what was there.

    queries  sets of region embeddings, which stand for their mean
    regions  of the recording's pictures, if it has some

    A model without a presence knows nothing: see `SeparationModel.presence`.
    """

    def __init__(
        self, model: SeparationModel, queries: Iterable[Float[Tensor, "_ _ D"]],
        regions: Float[Tensor, "r D"] | None = None,
    ):  # fmt: skip
        self.model, self.queries = model, torch.stack([query.mean((0, 1)) for query in queries]).to(model.device)
        self.regions = None if regions is None else regions.to(model.device)
        self.highest: Tensor | None = None  # (WINDOWS, N), of each query: a recording may be of any length

    @torch.no_grad()
    def hear(self, magnitude: Float[Tensor, "W P T"], masks: Float[Tensor, "W N P T"]) -> None:
        """Magnitudes and masks of some windows, as the method has them."""
        known = self.model.presence
        if known is None:
            return
        sounds = self.model.localizing().embed(magnitude, torch.ones_like(magnitude)[:, None])[:, 0]
        power = magnitude.square().mean((-1, -2)) / (self.model.settings.transform.window_length * 3 / 8)  # Hann's
        energy = (masks * magnitude[:, None]).square().sum((-1, -2)) / magnitude.square().sum((-1, -2))[:, None]
        scores = [] if self.highest is None else list(self.highest)
        for heard, share, loud in zip(features_of(magnitude, sounds), energy, power > SILENT, strict=True):
            score = known.score(heard, share, self.queries, self.regions)
            scores.append(torch.where(loud, score, 0).cpu())
        self.highest = torch.stack(scores).topk(min(WINDOWS, len(scores)), 0).values

    def presence(self) -> list[float] | None:
        """The score of each query: the mean of its `WINDOWS` highest windows. None if nothing is known."""
        if self.highest is None:
            return None
        scores: list[float] = self.highest.mean(0).tolist()
        return scores

    def absent(self) -> frozenset[int]:
        """The numbers of the queries whose score is below `THRESHOLD`."""
        return frozenset(number for number, score in enumerate(self.presence() or ()) if score < THRESHOLD)

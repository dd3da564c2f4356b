"""A method as somebody else would write it: how loud the sound of a caption is, one number for all bins and frames."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avset.features.spectrograms import ratio_mask
from avset.models.contract import Conditions, Sizes
from avset.models.contract import Method as Contract
from avset.presets import LearnedSettings


class Settings(LearnedSettings):
    start: float


class Method(Contract):
    needs = frozenset({"captions"})
    answers = ("caption",)
    grid = "linear"
    learns = True

    def __init__(self, settings: Settings, sizes: Sizes):
        super().__init__(settings, sizes)
        self.weight = nn.Parameter(torch.zeros(sizes.dim))
        self.bias = nn.Parameter(torch.tensor(settings.start))

    def masks(self, mixture: Tensor, conditions: Conditions) -> Tensor:
        share = torch.sigmoid(conditions.queries.mean((2, 3)) @ self.weight + self.bias)
        return share[..., None, None].expand(-1, -1, *mixture.shape[1:])

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert batch.keys() == {"sources", "mixture", "clip", "captions", "own"}, "what it needs, and nothing else"
        queries = batch["captions"][batch["own"][batch["clip"]]][:, :, None, None]
        masks = self.masks(batch["mixture"], Conditions.of_queries(queries))
        return {"distance": (masks - ratio_mask(batch["sources"], batch["mixture"])).abs().mean()}

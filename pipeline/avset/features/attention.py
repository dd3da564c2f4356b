"""How strongly each region of a frame answers to a caption, a text or a sound.

P_Att of Section 3.1 is the softmax of the scores, times their scale, over the regions of a frame.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avset.errors import ParamsError

SCALES = {"cosine": 100.0, "dot": 1.0, "centered": 1.0}  # of a similarity before the softmax: 100 is CLIP's


def similarity(
    regions: Float[Tensor, "*#frames R D"],
    target: Float[Tensor, "*#frames D"],
    similarity: str = "cosine",
    mean_region: Float[Tensor, " D"] | None = None,
    mean_target: Float[Tensor, " D"] | None = None,
) -> Float[Tensor, "*frames R"]:
    """Score of every region against a target, before any scale or softmax.

    cosine    cosine, as in the authors' code
    dot       dot product, as in the paper's P_Att
    centered  dot product of two deviations: the target's from `mean_target`, the mean of all queries that could
              have been asked, and the region's from `mean_region`. The default of `mean_region` is the mean of the
              frame's own regions, which changes neither their order nor the softmax.

    ParamsError: unknown similarity, or `centered` without a mean target.
    """
    if similarity not in SCALES:
        raise ParamsError(f"similarity: {similarity!r} is not one of {', '.join(SCALES)}")
    if similarity == "cosine":
        regions, target = F.normalize(regions, dim=-1), F.normalize(target, dim=-1)
    if similarity == "centered":
        if mean_target is None:
            raise ParamsError("similarity: centered needs the mean of the targets")
        regions = regions - (regions.mean(dim=-2, keepdim=True) if mean_region is None else mean_region)
        target = target - mean_target
    return torch.einsum("...rd,...d->...r", regions, target)

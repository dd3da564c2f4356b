"""P_Att of Section 3.1: how strongly each region of a frame answers to a caption, a text or a sound."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import ParamsError

SIMILARITIES = ("cosine", "dot", "centered")


def similarity(
    regions: Float[Tensor, "*#frames R D"],
    target: Float[Tensor, "*#frames D"],
    similarity: str = "cosine",
    mean_region: Float[Tensor, " D"] | None = None,
    mean_target: Float[Tensor, " D"] | None = None,
) -> Float[Tensor, "*frames R"]:
    """Score of every region against a target, before any scale or softmax.

    cosine    of the authors' code
    dot       of the paper's P_Att
    centered  dot product of the deviations from `mean_target` (of the queries that could have been asked)
              and from `mean_region` (default: of this frame's regions, which leaves its order and softmax
              as they are)

    ParamsError: unknown similarity, or `centered` without a mean target.
    """
    if similarity not in SIMILARITIES:
        raise ParamsError(f"similarity: {similarity!r} is not one of {', '.join(SIMILARITIES)}")
    if similarity == "cosine":
        regions, target = F.normalize(regions, dim=-1), F.normalize(target, dim=-1)
    if similarity == "centered":
        if mean_target is None:
            raise ParamsError("similarity: centered needs the mean of the targets")
        regions = regions - (regions.mean(dim=-2, keepdim=True) if mean_region is None else mean_region)
        target = target - mean_target
    return torch.einsum("...rd,...d->...r", regions, target)


_scores = similarity  # by a name that the keyword of `attention` does not hide


def attention(
    regions: Float[Tensor, "*#frames R D"],
    target: Float[Tensor, "*#frames D"],
    similarity: str = "cosine",
    scale: float = 100.0,
    mean_region: Float[Tensor, " D"] | None = None,
    mean_target: Float[Tensor, " D"] | None = None,
) -> Float[Tensor, "*frames R"]:
    """P_Att(regions, target): softmax over the regions of each frame of `scale` times their similarity.

    The scale is CLIP's, 1 / temperature of its cosines. The paper's P_Att is `dot` with scale 1.
    """
    scores = _scores(regions, target, similarity, mean_region, mean_target)
    return (scale * scores).softmax(dim=-1)


def heat_map(
    scores: Float[Tensor, " R"], grid: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "height width"]:
    """Scores on the (rows, columns) of a grid -> picture of (height, width) px in [0, 1].

    Bilinear between the centres of the cells; the least score is 0, the greatest 1, and equal scores are all 0.
    """
    scores = scores - scores.min()
    cells = (scores / scores.max().clamp_min(torch.finfo(scores.dtype).tiny)).reshape(1, 1, *grid)
    return F.interpolate(cells, size, mode="bilinear", align_corners=False)[0, 0]


def point(scores: Float[Tensor, " R"], grid: tuple[int, int]) -> tuple[float, float]:
    """Where the attention points: (x, y) of the best cell's centre, as fractions of the picture.

    It is also where `heat_map` is highest, as bilinear interpolation peaks at a node. Of equal cells, the first.
    """
    row, column = divmod(int(scores.argmax()), grid[1])
    return (column + 0.5) / grid[1], (row + 0.5) / grid[0]

"""Scores of regions against plain loops."""

import math

import pytest
import torch

from avset.errors import ParamsError
from avset.features.attention import similarity


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(float(x * y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x * x) for x in a)) / math.sqrt(sum(float(y * y) for y in b))


def test_scores_by_loop():
    regions, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5)
    mean_region, mean_target = torch.randn(5), torch.randn(5)
    scores = {
        "cosine": similarity(regions, target),
        "dot": similarity(regions, target, "dot"),
        "centered": similarity(regions, target, "centered", mean_region, mean_target),
    }
    for b in range(2):
        for v in range(3):
            for r in range(4):
                region, wanted = regions[b, v, r], target[b, v]
                dots = [float(x * y) for x, y in zip(region, wanted, strict=True)]
                apart = zip(region - mean_region, wanted - mean_target, strict=True)
                assert scores["cosine"][b, v, r].item() == pytest.approx(cosine(region, wanted), abs=1e-5)
                assert scores["dot"][b, v, r].item() == pytest.approx(sum(dots), abs=1e-5)
                centered = sum(float(x * y) for x, y in apart)
                assert scores["centered"][b, v, r].item() == pytest.approx(centered, abs=1e-5)


def test_one_target_serves_all_frames():
    regions, target = torch.randn(2, 3, 4, 5), torch.randn(5)
    found = similarity(regions, target)
    torch.testing.assert_close(found, similarity(regions, target.expand(2, 3, 5)))
    assert torch.equal(found[1, 2].argmax(), similarity(regions[1, 2], target).argmax())


def test_length_matters_to_dot_alone():
    regions, target = torch.randn(4, 5), torch.randn(5)
    stretched = regions * torch.tensor([1.0, 2, 3, 4])[:, None]
    torch.testing.assert_close(similarity(stretched, target), similarity(regions, target))
    dots = similarity(regions, target, "dot") * torch.tensor([1.0, 2, 3, 4])
    torch.testing.assert_close(similarity(stretched, target, "dot"), dots)


def test_what_all_targets_share_does_not_attract_centered_attention():
    common, own = torch.tensor([9.0, 0, 0]), torch.tensor([0.0, 1, 0])
    regions = torch.tensor(
        [[5.0, 0, 0], [0, 1, 0], [0, 0, 1]]
    )  # a cell full of what every text says, the thing, another
    assert similarity(regions, common + own, "dot").argmax() == 0
    found = similarity(regions, common + own, "centered", mean_target=common)
    assert found.argmax() == 1
    shifted = similarity(regions, common + own, "centered", torch.tensor([3.0, 1, 2]), common)
    torch.testing.assert_close(found.softmax(0), shifted.softmax(0))


def test_unknown_similarities_and_a_missing_mean_are_named():
    with pytest.raises(ParamsError, match="'euclid' is not one of cosine, dot, centered"):
        similarity(torch.ones(2, 3), torch.ones(3), "euclid")
    with pytest.raises(ParamsError, match="mean of the targets"):
        similarity(torch.ones(2, 3), torch.ones(3), "centered")

"""P_Att against plain loops, and heat maps against what they must show."""

import math

import pytest
import torch

from pipeline.attention import attention, heat_map, point, similarity
from pipeline.errors import ParamsError


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


def test_attention_is_the_softmax_of_the_scaled_scores_of_each_frame():
    regions, target = torch.randn(3, 4, 5), torch.randn(3, 5)
    for kind, scale in (("cosine", 100.0), ("dot", 1.0)):
        found = attention(regions, target, kind, scale)
        for v in range(3):
            powers = [math.exp(scale * s) for s in similarity(regions[v], target[v], kind).double().tolist()]
            assert found[v].tolist() == pytest.approx([p / sum(powers) for p in powers], rel=1e-3, abs=1e-6)


def test_one_target_serves_all_frames():
    regions, target = torch.randn(2, 3, 4, 5), torch.randn(5)
    found = attention(regions, target)
    torch.testing.assert_close(found, attention(regions, target.expand(2, 3, 5)))
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
    assert attention(regions, common + own, "dot", 1.0).argmax() == 0
    found = attention(regions, common + own, "centered", 1.0, mean_target=common)
    assert found.argmax() == 1
    shifted = attention(regions, common + own, "centered", 1.0, torch.tensor([3.0, 1, 2]), common)
    torch.testing.assert_close(found, shifted)


def test_unknown_similarities_and_a_missing_mean_are_named():
    with pytest.raises(ParamsError, match="'euclid' is not one of cosine, dot, centered"):
        attention(torch.ones(2, 3), torch.ones(3), "euclid")
    with pytest.raises(ParamsError, match="mean of the targets"):
        similarity(torch.ones(2, 3), torch.ones(3), "centered")


def test_a_heat_map_spans_zero_to_one_and_is_linear_between_cells():
    picture = heat_map(torch.tensor([2.0, 4.0, 2.0, 4.0]), (2, 2), (6, 8))
    assert picture.shape == (6, 8)
    assert (picture.min(), picture.max()) == (0, 1)
    ramp = [min(max((x + 0.5) / 4 - 0.5, 0), 1) for x in range(8)]
    torch.testing.assert_close(picture, torch.tensor(ramp).expand(6, 8))
    assert torch.equal(heat_map(torch.full((4,), 3.0), (2, 2), (5, 5)), torch.zeros(5, 5))


def test_the_point_is_where_the_heat_map_is_highest():
    for seed in range(20):
        scores = torch.randn(12, generator=torch.Generator().manual_seed(seed))
        x, y = point(scores, (3, 4))
        picture = heat_map(scores, (3, 4), (33, 44))
        assert picture[int(y * 33), int(x * 44)] == picture.max() == 1
    assert point(torch.tensor([0.0, 0, 0, 1, 0, 0]), (2, 3)) == (1 / 6, 0.75)

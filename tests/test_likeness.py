"""The measures of an encoder, on embeddings made by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from avset.sources.demo.likeness import Embedded, cosines, effective_rank, gap, inside, knowledge

TEXTS = 3 * torch.eye(4)[:3]  # three classes, and a direction that no text has
CORNERS = torch.eye(4, dtype=torch.bool)  # the regions of a grid of 2 x 2, one box a corner


def solos(regions: torch.Tensor) -> Embedded:
    """One picture of each class, its instrument in the first corner; `regions` (3, 4, 4)."""
    whole = 2 * F.normalize(TEXTS, dim=-1) + torch.tensor([0.0, 0, 0, 2])
    return Embedded(whole, regions, torch.arange(3)[:, None], CORNERS[0].expand(3, 1, 4))


def test_cosines_and_norms_of_texts_pictures_and_regions():
    """A picture is its text plus a constant of equal length; its regions are its text once, then that constant."""
    constant = torch.tensor([0.0, 0, 0, 1])
    regions = torch.stack([TEXTS, *3 * [constant.expand(3, 4)]], dim=1)
    found = cosines(TEXTS, solos(regions))
    half = math.sqrt(0.5)
    told = {
        "cosine: a picture and its text": half,
        "cosine: a picture and another text": 0,
        "cosine: texts of two classes": 0,
        "cosine: pictures of two classes": 0.5,
        "cosine: regions of a picture": 0.5,  # 3 pairs of 6 are two constants
        "cosine: a region and its picture": half,
        "cosine: mean region and its picture": 1,
        "cosine: box less elsewhere": 1,
        "norm: picture": math.sqrt(8),
        "norm: region": 1.5,
        "norm: spread of regions / mean": math.sqrt(0.75) / 1.5,
        "norm: text": 3,
    }
    assert found == pytest.approx(told, abs=1e-6)


@pytest.mark.parametrize("apart", [0.0, 2.0])
def test_the_gap_is_the_distance_of_the_centroids(apart: float):
    """Texts and pictures lie on one circle, or on two parallel ones at a distance."""
    turn = torch.arange(64) * (2 * math.pi / 64)
    circle = torch.stack([turn.cos(), turn.sin(), torch.zeros(64)], dim=1)
    up = torch.tensor([0.0, 0, apart / 2])
    found = gap(circle - up, circle + up)
    radius = 1 / math.sqrt(1 + apart**2 / 4)
    distance = apart * radius
    assert found["gap: distance of centroids"] == pytest.approx(distance, abs=1e-6)
    assert found["gap: share of variance"] == pytest.approx(distance**2 / 4 / (distance**2 / 4 + radius**2), abs=1e-6)
    assert found["effective rank: texts"] == pytest.approx(2, abs=1e-4)
    if apart:
        assert found["gap: told apart by a plane"] == 1


def test_the_effective_rank_counts_equal_directions():
    axes = torch.eye(5)[:3]
    assert effective_rank(torch.cat([axes, -axes])) == pytest.approx(3)
    assert effective_rank(torch.ones(4, 5)) == 0


def test_points_hit_the_box_of_their_own_text():
    """The text's region has a small norm; the largest norm lies in the other's box, and so does an absent text."""
    classes = F.normalize(TEXTS, dim=-1)
    regions = torch.stack([0.1 * classes[0], 5 * classes[1] + classes[2], torch.zeros(4), torch.zeros(4)])[None]
    boxes = torch.stack([CORNERS[0], CORNERS[1]])[None]
    duet = Embedded(regions.mean(1), regions, torch.tensor([[0, 1]]), boxes)
    found = knowledge(TEXTS, solos(regions.expand(3, 4, 4)), duet)
    assert found["zero-shot accuracy"] == 1
    assert found["solos: text in its own box"] == pytest.approx(1 / 3)  # the other two classes are in the second corner
    assert found["solos: absent text in a box"] == pytest.approx(2 / 6)
    assert (found["solos: largest norm in a box"], found["duets: largest norm in a box"]) == (0, 0.5)
    assert (found["duets: text in its own box"], found["duets: text in the other's box"]) == (1, 0)
    assert found["duets: absent text in a box"] == 0.5
    assert found["solos: chance"] == found["duets: chance"] == 0.25


def test_a_box_holds_the_regions_whose_centre_it_holds():
    boxes = [[(0.4, 0.1, 0.9, 0.6), (0.2, 0.2, 0.3, 0.3)]]  # the second holds no centre of a 3 x 3 grid
    held = inside(boxes, (3, 3))
    assert held.tolist() == [[[False, True, True, False, True, True, False, False, False], [False] * 9]]
    assert inside([[(0.0, 0.0, 1.0, 0.5)]], (2, 3)).tolist() == [[[True] * 3 + [False] * 3]]

"""Queries other than a text: a part of the picture, an example sound, what is not wanted, spans, gains, shares."""

import math

import pytest
import torch

from avset.errors import AvsetError
from avset.inference.combine import EDGE, excluding, gate, remix, shared
from avset.inference.shown import box_query, like_query
from avset.inference.wishes import box_of, in_square, of_picture, spans_of, with_gain


@pytest.mark.parametrize(
    ("box", "regions"),
    [
        ((0.0, 0.0, 1.0, 1.0), [0, 1, 2, 3, 4, 5, 6, 7]),
        ((0.0, 0.0, 0.5, 1.0), [0, 1, 4, 5]),
        ((0.5, 0.5, 1.0, 1.0), [6, 7]),
        ((0.6, 0.2, 0.64, 0.3), [2]),  # around a middle
        ((0.95, 0.9, 1.0, 1.0), [7]),  # around none: the nearest
    ],
)
def test_a_box_takes_the_regions_whose_middle_is_in_it(box: tuple[float, ...], regions: list[int]):
    numbers = torch.arange(16.0).reshape(1, 2, 8, 1)  # two frames of two rows of four regions
    found = box_query(numbers, (2, 4), box)
    assert found.flatten().tolist() == [*regions, *(8 + n for n in regions)]


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((0.25, 0.0, 0.75, 1.0), (0.0, 0.0, 1.0, 1.0)),  # the centre square of 200 x 100 px
        ((0.5, 0.5, 0.75, 1.0), (0.5, 0.5, 1.0, 1.0)),
        ((50.0, 0.0, 100.0, 50.0), (0.0, 0.0, 0.5, 0.5)),  # pixels
    ],
)
def test_a_box_of_the_picture_is_one_of_the_square_that_the_model_sees(box: tuple, inside: tuple):
    assert in_square(box, 200, 100) == pytest.approx(inside)
    assert in_square(of_picture(inside, 200, 100), 200, 100) == pytest.approx(inside, abs=0.002)


@pytest.mark.parametrize(
    ("box", "told"),
    [((0.0, 0.0, 0.2, 1.0), "outside of the picture's centre square"), ((0.0, 0.0, 300.0, 9.0), "larger")],
)
def test_a_box_that_no_model_sees(box: tuple, told: str):
    with pytest.raises(AvsetError, match=told):
        in_square(box, 200, 100)


def test_an_example_sound_stands_for_the_captions_that_are_nearest_to_it():
    captions = torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    assert torch.allclose(like_query(torch.tensor([0.0, 5.0, 0.0, 0.0]), captions)[0, 0, 0], captions[1])
    between = like_query(torch.tensor([1.0, 1.0, 0.0, 0.0]), captions)
    assert torch.allclose(between[0, 0, 0], (captions[0] + captions[1]) / 2)


def test_what_is_not_wanted_is_taken_out_of_a_mask():
    wanted, others = torch.tensor([[0.8, 0.8, 0.0, 0.0]]), torch.tensor([[0.0, 0.8, 0.8, 0.0]])
    assert torch.allclose(excluding(wanted, others), torch.tensor([[0.8, 0.4, 0.0, 0.0]]))


def test_shares_and_the_rest_add_up_to_the_mixture():
    masks = torch.tensor([[0.75, 0.25], [0.75, 0.5]])[None, :, None]  # N = 2, P = 1, T = 2
    assert shared(masks).flatten().tolist() == [0.5, 0.25, 0.5, 0.5]
    found = shared(torch.rand(2, 5, 8, 8))
    assert found.min() >= 0 and found.sum(1).max() <= 1 + 1e-6


def test_gains_change_their_sounds_alone():
    sounds, rest = torch.randn(3, 2, 50, dtype=torch.float64), torch.randn(2, 50, dtype=torch.float64)
    mixed = remix(sounds.sum(0) + rest, sounds, [0.0, 20.0, -math.inf])
    torch.testing.assert_close(mixed, sounds[0] + 10 * sounds[1] + rest)


def test_a_gate_opens_for_its_spans():
    rate = 1000
    whole = gate(0, 4000, rate, [(1.0, 3.0)], [(1.5, 2.0)])
    assert whole[[0, 900, 1750, 3100]].tolist() == [0] * 4 and whole[[1100, 2100, 2900]].tolist() == [1] * 3
    assert whole[1000].item() == pytest.approx(0.5) and whole[1000 + round(EDGE * rate)] == 1
    pieces = [gate(at, 500, rate, [(1.0, 3.0)], [(1.5, 2.0)]) for at in range(0, 4000, 500)]
    assert torch.equal(torch.cat(pieces), whole), "block by block it is the same"
    assert torch.allclose(gate(0, 4000, rate, (), [(1.0, 2.0)]), 1 - gate(0, 4000, rate, [(1.0, 2.0)]))
    assert torch.equal(gate(0, 9, rate), torch.ones(9))


@pytest.mark.parametrize(
    ("text", "words", "gain"),
    [
        ("violin", "violin", None), ("violin=+6dB", "violin", 6.0), ("drums = -inf", "drums", -math.inf),
        ("a=b = -3.5 DB", "a=b", -3.5), ("E=mc2", "E=mc2", None), ("=+6dB", "", 6.0), ("cello=.5dB", "cello", 0.5),
        ("violin=6", "violin=6", None),
    ],
)  # fmt: skip
def test_words_with_a_gain(text: str, words: str, gain: float | None):
    assert with_gain(text) == (words, gain)


def test_a_gain_that_no_ear_wants():
    with pytest.raises(AvsetError, match="at most 60 dB"):
        with_gain("violin=+61dB")


def test_a_box_in_words():
    assert box_of("0.1, 0.2,0.5,0.9") == (0.1, 0.2, 0.5, 0.9)


@pytest.mark.parametrize("text", ["", "1,2,3", "a,b,c,d", "0.5,0,0.4,1", "0,0,nan,1", "0,0,1,inf", "-1,0,1,1"])
def test_what_is_no_box(text: str):
    with pytest.raises(AvsetError, match="is no box"):
        box_of(text)


def test_spans():
    assert spans_of([0.5, 3.0], [1.0, 4.0]) == [(0.5, 1.0), (3.0, 4.0)]
    for begins, ends in (([1.0], []), ([2.0], [1.0]), ([-1.0], [1.0]), ([0.0], [math.nan])):
        with pytest.raises(AvsetError, match="span"):
            spans_of(begins, ends)

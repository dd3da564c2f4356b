"""Windows of a mixture, and what is joined of them."""

import numpy as np
import pytest

from avset.evaluation.wholes import joined, windows
from avset.training.mixtures import Mixture

CROP, HOP = 8, 10


@pytest.mark.parametrize(
    ("offsets", "frames", "starts", "first"),
    [([2, 5], [20, 30], [0, 4, 8, 12, 2], [0, 3]), ([0, 0], [9, 40], [0, 1, 0], [0, 0]), ([0, 1], [8, 9], [0], [0, 1]),
     ([1, 0], [5, 40], [0], [1, 0])],
)  # fmt: skip
def test_windows_go_from_the_first_to_the_last_moment_of_all_clips(
    offsets: list[int], frames: list[int], starts: list[int], first: list[int]
):
    mixture = Mixture("m", "test", ["a", "b"], ["a", "b"], ["violin", "drum"], offsets, [1.0, 1.0], 0)
    found, parts = windows(mixture, frames, CROP)
    assert found == starts and parts[0].offsets == first and parts[-1] == mixture
    assert len({one.mixture_id for one in parts}) == len(parts)
    for start, one in zip(found, parts, strict=True):
        assert [offset - start for offset in one.offsets] == [offset - starts[-1] for offset in offsets]
    if len(parts) > 1:
        assert all(o + CROP <= n for one in parts for o, n in zip(one.offsets, frames, strict=True))
        assert any(o + CROP == n for o, n in zip(parts[-2].offsets, frames, strict=True)), "up to the end of one"


def test_pieces_of_one_sound_make_that_sound_and_the_last_one_covers_the_others():
    sound = np.random.default_rng(0).normal(size=(2, 99)).astype(np.float32)
    starts = [0, 30, 59, 20]
    pieces = [sound[:, start : start + 40] for start in starts]
    np.testing.assert_allclose(joined(pieces, starts, 3), sound, atol=1e-6)
    other = joined([*pieces[:-1], pieces[-1] + 1], starts, 3)
    np.testing.assert_allclose(other[:, 23:57], sound[:, 23:57] + 1, atol=1e-4)
    np.testing.assert_allclose(np.delete(other, range(20, 60), 1), np.delete(sound, range(20, 60), 1), atol=1e-6)
    assert np.abs(np.diff(other - sound)).max() < 0.9, "no step"

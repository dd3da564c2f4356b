"""Scores against analytic truth: planted noise, planted interference, planted boxes."""

import math
from itertools import combinations

import mir_eval.separation
import numpy as np
import pytest
import torch

from avset.errors import AvsetError
from avset.evaluation import metrics

LENGTH = 16_384
SOLVERS = ("mir_eval", "shared")


def tones(frequencies: tuple[float, ...], length: int = LENGTH) -> np.ndarray:
    """One row per frequency: Hann-windowed tones; tones far apart stay orthogonal under any short filter."""
    time = np.arange(length)
    return np.stack([np.hanning(length) * np.sin(2 * np.pi * f * time) for f in frequencies])


def noise(rows: int, length: int = LENGTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, length))


def at(level: float, sound: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`sound` scaled to lie `level` dB below `like`."""
    return sound * np.sqrt((like**2).sum() / (sound**2).sum()) * 10 ** (-level / 20)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_scaled_or_delayed_reference_is_perfect(solver):
    references = noise(2)
    delayed = np.pad(references, ((0, 0), (100, 0)))[:, :LENGTH]
    references[:, -200:] = 0  # so that the delay loses nothing
    delayed = np.roll(references, 100, axis=1)
    for estimates in (references, -0.3 * references, delayed):
        scores = metrics.bss_eval(references, estimates, solver)
        assert min(scores["sdr"].min(), scores["sir"].min(), scores["sar"].min()) > 90
        assert not scores["silent"].any()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("level", [-5.0, 0.0, 10.0, 30.0])
def test_interference_of_known_level_is_the_sir(solver, level):
    references = tones((0.05, 0.2))
    estimates = references + np.stack([at(level, references[1], references[0]), np.zeros(LENGTH)])
    scores = metrics.bss_eval(references, estimates, solver)
    assert scores["sir"][0] == pytest.approx(level, abs=0.01)
    assert scores["sdr"][0] == pytest.approx(level, abs=0.01)
    assert scores["sar"][0] > 50
    assert scores["sir"][1] > 50


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_of_known_level_is_the_sar(solver):
    references, foreign = tones((0.05, 0.2)), tones((0.35,))[0]
    estimates = references + at(12, foreign, references[0])
    scores = metrics.bss_eval(references, estimates, solver)
    assert scores["sar"] == pytest.approx([12, 12], abs=0.01)
    assert scores["sdr"] == pytest.approx([12, 12], abs=0.01)
    assert scores["sir"].min() > 50


def test_interference_and_artefacts_add_in_power():
    references, foreign = tones((0.05, 0.2)), tones((0.35,))[0]
    estimates = references.copy()
    estimates[0] += at(10, references[1], references[0]) + at(6, foreign, references[0])
    scores = metrics.bss_eval(references, estimates)
    assert scores["sdr"][0] == pytest.approx(-10 * math.log10(10**-1 + 10**-0.6), abs=0.01)
    assert scores["sir"][0] == pytest.approx(10, abs=0.01)
    assert scores["sar"][0] == pytest.approx(10 * math.log10(1.1 * 10**0.6), abs=0.01)


def test_unrelated_noise_scores_what_the_filter_can_explain():
    references = noise(1, 65_535)
    found = metrics.bss_eval(references, noise(1, 65_535, seed=1), "shared")["sdr"][0]
    assert found == pytest.approx(10 * math.log10(metrics.TAPS / 65_535), abs=0.6)


def test_mir_eval_itself_agrees():
    references = noise(3, 8000)
    estimates = references + 0.5 * references[::-1] + 0.2 * noise(3, 8000, seed=1)
    with pytest.warns(FutureWarning):
        sdr, sir, sar, _ = mir_eval.separation.bss_eval_sources(references, estimates, compute_permutation=False)
    scores = metrics.bss_eval(references, estimates)
    np.testing.assert_array_equal(np.stack([sdr, sir, sar]), np.stack([scores[k] for k in ("sdr", "sir", "sar")]))


def apart(references: np.ndarray, estimates: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> tuple[float, int]:
    """Largest difference in dB of the two solvers, and how many estimates the fast one gave to mir_eval."""
    oracle, asked, theirs = metrics.bss_eval(references, estimates), [], metrics._mir_eval
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "_mir_eval", lambda r, batch: asked.extend(batch) or theirs(r, batch))
        shared = metrics.bss_eval(references, estimates, "shared")
    assert oracle["sdr"].shape == estimates.shape[:-1]
    return max(np.abs(shared[k] - oracle[k]).max() for k in ("sdr", "sir", "sar")), len(asked)


@pytest.mark.parametrize("kind", ["noise", "sixteen bits", "coarse"])
def test_the_shared_solver_equals_mir_eval(kind, monkeypatch):
    steps = {"noise": math.inf, "sixteen bits": 32_767, "coarse": 30}[kind]
    references = noise(2) if kind == "noise" else np.round(tones((0.05, 0.0573)) * steps) / steps
    gains = np.array([0.0, 0.1, 0.5, 2.0])[:, None, None]
    estimates = (references + gains * references[::-1] + 0.1 * gains * noise(2, seed=3)).astype(np.float32)
    difference, asked = apart(references, estimates, monkeypatch)
    assert difference < 1e-6
    assert asked <= {"noise": 0, "sixteen bits": 4, "coarse": 1}[kind]


@pytest.mark.parametrize("level", [-60, -20, 0, 20, 40, 60, 80, 95])
def test_solvers_agree_at_any_level_of_noise_and_of_interference(level, monkeypatch):
    references = noise(2)
    estimates = np.stack([
        references + at(level, noise(2, seed=2), references),
        references + at(level, references[::-1], references),
        references + at(level, references[::-1], references) + at(level + 10, noise(2, seed=2), references),
    ])  # fmt: skip
    difference, asked = apart(references, estimates, monkeypatch)
    assert difference < 1e-6
    if level <= 40:
        assert asked == 0, "what anybody hopes for is scored without mir_eval"


def test_solvers_agree_on_the_special_cases(monkeypatch):
    """The mixture, filtered references, one and three sources, nearly equal references, a lowpass, hardly a sound."""
    two, random = noise(2), np.random.default_rng(7)
    mixture = np.broadcast_to(two.sum(0), two.shape)
    filtered = np.stack([np.convolve(x, random.normal(size=300), "same") for x in two])
    close = np.stack([two[0], two[0] + 1e-3 * two[1]])
    low = np.stack([np.convolve(x, np.hanning(64), "same") for x in two])
    for references, estimates in (
        (two, np.stack([mixture, filtered, 1e-6 * mixture + 1e-7 * filtered])),
        (noise(1), (noise(1) + 0.3 * noise(1, seed=4))[None]),
        (noise(3), np.stack([noise(3)[::-1], noise(3) + 0.3 * noise(3, seed=4)])),
        (close, close + 0.1 * noise(2, seed=5)[None]),
        (low, low + 0.1 * low[::-1] + at(10, noise(2, seed=6), low)[None]),
        (two[:, :600], two[:, :600] + noise(2, 600, seed=1)[None]),
    ):
        assert apart(references, estimates, monkeypatch)[0] < 1e-6


@pytest.mark.parametrize("references", [tones((0.05, 0.0573)), noise(1).repeat(2, 0)])
def test_references_without_bandwidth_or_independence_go_to_mir_eval(references):
    estimates = references + 0.5 * noise(2, seed=5)
    oracle, shared = (metrics.bss_eval(references, estimates, solver) for solver in SOLVERS)
    for name, values in oracle.items():
        np.testing.assert_array_equal(shared[name], values)


def test_a_singular_system_is_named(monkeypatch):
    def singular(*_):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(np.linalg, "solve", singular)
    with pytest.raises(AvsetError, match="linearly dependent"):
        metrics.bss_eval(noise(2, 600), noise(2, 600, seed=1))


def test_one_source_alone_has_no_interference():
    references = noise(1)
    for solver in SOLVERS:
        scores = metrics.bss_eval(references, references + at(10, noise(1, seed=2), references), solver)
        assert scores["sir"][0] == metrics.CEILING
        assert scores["sdr"][0] == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_silent_estimate_gets_the_floor_and_spares_its_neighbour(solver):
    references = noise(2)
    estimates = references + 0.3 * references[::-1]
    alone = metrics.bss_eval(references, estimates, solver)
    estimates[1] = 0
    scores = metrics.bss_eval(references, estimates, solver)
    assert scores["silent"].tolist() == [False, True]
    for name in ("sdr", "sir", "sar"):
        assert scores[name][1] == metrics.SILENT
        assert scores[name][0] == alone[name][0]


def test_everything_silent_is_still_scored():
    scores = metrics.bss_eval(noise(2), np.zeros((2, LENGTH)))
    assert scores["silent"].all()
    assert (scores["sdr"] == metrics.SILENT).all()


def test_an_estimate_that_shares_nothing_stays_finite():
    references = np.zeros((1, 4096))
    references[0, 3000:] = noise(1, 1096)
    estimate = np.zeros((1, 4096))
    estimate[0, :1000] = noise(1, 1000, seed=1)
    for solver in SOLVERS:
        scores = metrics.bss_eval(references, estimate, solver)
        assert scores["sdr"][0] == -metrics.CEILING


def test_bad_input_is_named():
    references = noise(2)
    quiet, broken = references.copy(), references.copy()
    quiet[1] = 0
    broken[0, 5] = np.nan
    with pytest.raises(AvsetError, match="reference 1 is silent"):
        metrics.bss_eval(quiet, references)
    with pytest.raises(AvsetError, match="estimates hold samples that are not finite"):
        metrics.bss_eval(references, broken)
    with pytest.raises(AvsetError, match="differ"):
        metrics.bss_eval(references, references[:, :-1])
    with pytest.raises(AvsetError, match="differ"):
        metrics.bss_eval(references[:, :0], references[:, :0])
    with pytest.raises(AvsetError, match="neither"):
        metrics.bss_eval(references, references, "guess")


def test_nsdr_is_the_gain_over_the_mixture():
    np.testing.assert_allclose(metrics.nsdr(np.array([8.0, -1.0]), np.array([0.5, 0.5])), [7.5, -1.5])


def test_summary_of_known_numbers():
    found = metrics.summary([1.0, 2.0, 3.0, 10.0], [["a"], ["b"], ["c"], ["d"]])
    assert found["mean"] == 4
    assert found["median"] == 2.5
    assert (found["n"], found["videos"]) == (4, 4)
    assert found["sem"] == pytest.approx(math.sqrt((9 + 4 + 1 + 36) / 3) / 2), "scores of videos that stand alone"
    for bad in ([], [1.0, math.inf]):
        with pytest.raises(AvsetError, match="cannot summarise"):
            metrics.summary(bad, [["a"]] * len(bad))


def test_the_standard_error_of_mixtures_that_share_no_video_is_that_of_their_means():
    scores = np.random.default_rng(0).normal(size=(40, 2))
    videos = [[f"a{i}", f"b{i}"] for i in range(40) for _ in range(2)]
    usual = scores.mean(1).std(ddof=1) / math.sqrt(40)
    assert metrics.standard_error(scores.ravel(), videos) == pytest.approx(usual, rel=0.02)


def test_the_same_videos_again_make_no_smaller_standard_error():
    """Two videos tell nothing about a third, however many mixtures of them there are; nor does one that is in all."""
    scores = np.random.default_rng(0).normal(size=400)
    assert math.isnan(metrics.standard_error(scores, [["a", "b"]] * 400))
    assert math.isnan(metrics.standard_error(scores[:3], [["a", "b"], ["a", "c"], ["a", "d"]]))
    videos = list(combinations("abcdef", 2))
    once = metrics.standard_error(scores[:15], videos)
    assert metrics.standard_error(np.tile(scores[:15], 20), videos * 20) == pytest.approx(once)


@pytest.mark.parametrize(("videos", "mixtures"), [(5, 8), (12, 40), (60, 60)])
@pytest.mark.parametrize("own", [0.0, 0.5])
def test_the_standard_error_is_the_spread_of_the_mean_over_other_videos(videos: int, mixtures: int, own: float):
    """A world in which each video has effects of its own, as a source and as the other one, and each mixture another.

    The usual standard error of the sources is about half of the truth here.
    """
    rng, pairs, means, squares = np.random.default_rng(0), list(combinations(range(videos), 2)), [], []
    for _ in range(250):
        source, other = rng.normal(0, (1.0, 0.5), (videos, 2)).T
        chosen = [pairs[k] for k in rng.permutation(len(pairs))[:mixtures]]
        both = [[source[a] + other[b], source[b] + other[a]] for a, b in chosen]
        scores = both + rng.normal(0, own, (len(both), 1))
        means.append(np.mean(scores))
        squares.append(
            metrics.standard_error(np.ravel(scores), [[str(v) for v in pair] for pair in chosen for _ in "ab"]) ** 2
        )
    assert 0.85 < math.sqrt(np.mean(squares)) / np.std(means) < 1.25


@pytest.mark.parametrize("grid", [(3, 3), (7, 7), (4, 6), (1, 1)])
@pytest.mark.parametrize("size", [(5, 8), (96, 96)])
def test_upsampling_equals_torch(grid, size):
    scores = noise(1, grid[0] * grid[1])[0]
    tensor = torch.from_numpy(scores).reshape(1, 1, *grid)
    truth = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(metrics.upsample(scores, grid, size), truth[0, 0].numpy(), atol=1e-12)


def test_pointing_asks_for_the_centre_of_the_best_cell():
    scores = np.zeros(9)
    scores[5] = 1  # second row, third column: centre (5/6, 1/2)
    right, left = np.array([[0.7, 0.4, 1.0, 0.6]]), np.array([[0.0, 0.0, 0.8, 1.0]])
    assert metrics.pointing(scores, (3, 3), right)
    assert not metrics.pointing(scores, (3, 3), left)
    assert metrics.pointing(scores, (3, 3), np.concatenate([left, right]))
    wide = np.zeros(8)
    wide[3] = 1  # 2 x 4 cells: first row, last column
    assert metrics.pointing(wide, (2, 4), np.array([[0.8, 0.0, 1.0, 0.4]]))


def test_chance_is_the_mean_of_pointing_over_all_cells():
    boxes = np.array([[0.1, 0.1, 0.6, 0.45], [0.5, 0.3, 0.9, 0.9]])
    hits = [metrics.pointing(np.eye(35)[k], (5, 7), boxes) for k in range(35)]
    assert metrics.pointing_chance((5, 7), boxes) == pytest.approx(np.mean(hits))
    assert metrics.pointing_chance((3, 3), np.array([[0.0, 0.0, 1.0, 1.0]])) == 1


def test_ciou_of_planted_boxes():
    scores = np.zeros((4, 4))
    scores[:, 2:] = 1  # the map crosses one half exactly in the middle
    half = np.array([[0.5, 0.0, 1.0, 1.0]])
    assert metrics.ciou(scores.ravel(), (4, 4), half) == 1
    assert metrics.ciou(5 - 3 * scores.ravel(), (4, 4), half) == 0
    assert metrics.ciou(7 + 2 * scores.ravel(), (4, 4), np.array([[0.0, 0.0, 1.0, 1.0]])) == pytest.approx(0.5)
    assert metrics.ciou(scores.ravel(), (4, 4), np.array([[0.75, 0.0, 1.0, 1.0]])) == pytest.approx(0.5)
    split = np.array([[0.5, 0.0, 1.0, 0.5], [0.5, 0.5, 1.0, 1.0], [0.6, 0.2, 0.7, 0.3]])
    assert metrics.ciou(scores.ravel(), (4, 4), split) == 1


def test_ciou_of_a_flat_map_or_a_speck_is_zero():
    box = np.array([[0.0, 0.0, 0.5, 0.5]])
    assert metrics.ciou(np.full(9, 0.1), (3, 3), box) == 0
    assert metrics.ciou(np.full(9, 0.1), (3, 3), np.array([[0.5, 0.5, 0.5, 0.5]])) == 0


def test_auc_counts_pairs():
    present, absent = np.array([1.0, 3.0, 3.0, 5.0]), np.array([0.0, 3.0, 4.0])
    pairs = [(a > b) + (a == b) / 2 for a in present for b in absent]
    assert metrics.auc(present, absent) == pytest.approx(np.mean(pairs))
    assert (metrics.auc(absent - 9, absent), metrics.auc(absent + 9, absent), metrics.auc(absent, absent)) == (
        0,
        1,
        0.5,
    )


def test_localisation_refuses_what_it_cannot_score():
    with pytest.raises(AvsetError, match="only clips with boxes"):
        metrics.ciou(np.zeros(9), (3, 3), np.zeros((0, 4)))
    with pytest.raises(AvsetError, match="only clips with boxes"):
        metrics.pointing(np.zeros(9), (3, 3), np.array([[0.5, 0.0, 0.1, 1.0]]))
    with pytest.raises(AvsetError, match="do not fill a grid"):
        metrics.pointing(np.zeros(8), (3, 3), np.array([[0.0, 0.0, 1.0, 1.0]]))
    with pytest.raises(AvsetError, match="do not fill a grid"):
        metrics.ciou(np.full(9, np.nan), (3, 3), np.array([[0.0, 0.0, 1.0, 1.0]]))

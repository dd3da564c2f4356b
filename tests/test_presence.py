"""A score of what is not there: its clue, its regression, its file; and on the toy data what is asked and written."""

from pathlib import Path

import pytest
import torch

from avset.errors import AvsetError
from avset.evaluation.presence import NONSENSE
from avset.inference.presence import Listener
from avset.models.checkpoint import SeparationModel
from avset.models.presence import FILE, LOST, Presence, features_of, fitted, nearest, ridge, scored, whitening
from avset.storage.tables import read_table
from avset.training.dataset import Corpus
from bench import separation as bench


def known(captions: torch.Tensor) -> Presence:
    """One that has the captions themselves for sounds: the features of a sound are the captions that are in it."""
    sounds = torch.cat([torch.eye(captions.shape[1]), torch.zeros(1, captions.shape[1])])
    regressions = (torch.tensor(one) for one in ([9.0, 0, -5], [0.0, 0, 9, -5], [9.0, -5]))
    axes = torch.zeros(captions.shape[1]), torch.eye(captions.shape[1])
    return Presence(captions, *axes, sounds, torch.tensor([0.6, 0.05]), *regressions)


def test_a_query_stands_for_the_captions_that_are_nearest_to_it():
    captions = torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    assert torch.allclose(nearest(7 * captions, captions), captions), "lengths do not matter"
    assert torch.allclose(nearest(torch.ones(4), captions), captions.mean(0))


def test_what_is_there_is_present_and_what_is_not_or_means_nothing_is_not():
    captions, energy = torch.eye(4), torch.full((4,), 0.5)
    told = known(captions)
    sound = captions[0] + captions[2]
    there = told.score(sound, energy, captions)
    assert ((there > 0.5).tolist()) == [True, False, True, False]
    assert (told.score(sound, energy, captions, captions[1:2]) > 0.5).tolist() == [False, True, False, False]
    assert told.familiarity(torch.eye(4)).min() > 0.99 and told.familiarity(torch.ones(4)) < 0.01  # cosine 0.5


def test_heat_is_as_bright_as_it_is_sure_and_strongest_where_the_scores_are():
    captions = torch.eye(4)
    scores = torch.tensor([[3.0, 9.0, 1.0], [3.0, 9.0, 1.0]])
    seen, unseen = known(captions).heat(scores, captions[:2], captions[:1].expand(2, 3, 4))
    assert torch.allclose(seen / seen.max(), torch.tensor([0.25, 1.0, 0.0])) and seen.max() > 0.95
    assert unseen.max() < 0.05 and torch.equal(seen.argsort(), unseen.argsort())


def test_features_do_not_know_how_loud_a_sound_is():
    magnitude = torch.rand(2, 8, 16) + 0.1
    quiet, loud = (features_of(gain * magnitude, torch.zeros(2, 3)) for gain in (0.01, 10.0))
    assert quiet.shape == (2, 3 + 2 * 8) and torch.allclose(quiet, loud, atol=1e-5)


def test_whitened_captions_vary_alike_in_all_directions():
    captions = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 1.0, 0.1]) + 5
    mean, white = whitening(captions, 2)
    found = (captions - mean) @ white
    assert torch.allclose(found.T @ found / 500, torch.eye(2), atol=1e-4)


def test_a_ridge_regression_finds_what_was_planted():
    x = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.2, 1.0]) + 3
    planted = torch.randn(5, 2)
    found = ridge(x, x @ planted[:-1] + planted[-1], 1e-6)
    assert torch.allclose(found, planted, atol=1e-3)
    assert torch.allclose(ridge(x, x @ planted[:-1], 1e12)[:-1], torch.zeros(4, 2), atol=1e-3), "all penalty"


def test_the_regression_is_even_handed_and_finds_what_was_planted():
    generator = torch.Generator().manual_seed(0)
    clues = torch.randn(40_000, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 5.0])
    planted = torch.tensor([2.0, -0.3], dtype=torch.float64)
    present = torch.rand(len(clues), generator=generator, dtype=torch.float64) < (clues @ planted).sigmoid()
    weights = fitted(clues, present)
    assert weights[0] > 1 and (weights[0] / weights[1]).item() == pytest.approx(2.0 / -0.3, rel=0.05), (
        "but for its ridge"
    )
    kept = scored(clues[present].float(), weights) >= 0.5
    assert kept.double().mean().item() == pytest.approx(1 - LOST, abs=1e-3)
    fewer = torch.cat([clues, clues[~present].repeat(9, 1)])  # ten times as much is absent: the same scores
    again = fitted(fewer, torch.cat([present, torch.zeros(9 * int((~present).sum()), dtype=torch.bool)]))
    assert torch.allclose(weights, again, rtol=0.05)
    apart = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]])  # nothing in between: the regression ends all the same
    assert (scored(apart, fitted(apart, apart[:, 0] > 0)) > 0.5)[2:].sum() == 1


def test_a_file_says_it_all(tmp_path: Path):
    assert Presence.load(tmp_path) is None
    made = known(torch.randn(5, 3))
    made.save(tmp_path)
    loaded = Presence.load(tmp_path)
    assert loaded is not None and all(torch.equal(one, vars(loaded)[name]) for name, one in vars(made).items())
    for content in (b"junk", b""):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(AvsetError, match=r"presence\.safetensors is no presence"):
            Presence.load(tmp_path)


class Loud:
    """A score that is the energy of the first bin: what a listener makes of windows."""

    def score(self, features: torch.Tensor, energy: torch.Tensor, queries: torch.Tensor, regions: None) -> torch.Tensor:
        return energy


def test_a_listener_takes_the_highest_windows_and_hears_nothing_in_silence():
    separator = bench.made("cpu")
    model = SeparationModel(separator.model.settings, separator.model.method)
    queries = torch.randn(2, 1, 1, separator.encoder.dim)
    transform = model.settings.transform
    assert Listener(model, queries).presence() is None, "nothing was heard"
    model.presence = Loud()
    listener = Listener(model, queries)
    magnitude = torch.ones(5, transform.log_bins, transform.crop)
    magnitude[4] = 1e-9  # silence
    masks = torch.ones(5, 2, 1, 1) * torch.tensor([0.1, 0.8, 0.9, 0.7, 1.0])[:, None, None, None].sqrt()
    masks = masks.expand(5, 2, transform.log_bins, transform.crop) * torch.tensor([1.0, 0.0])[:, None, None]
    for window in range(5):  # however many come at once
        listener.hear(magnitude[window : window + 1], masks[window : window + 1])
    assert listener.presence() == pytest.approx([0.8, 0.0], abs=1e-5)


def test_every_piece_is_asked_for_every_label_and_for_nonsense(scored: Path):
    data = scored / "data" / "demo" / "demo"
    rows, corpus = read_table(data / "scores" / "avset" / "presence.parquet"), Corpus.load(data)
    labels = {label for several in corpus.labels.values() for label in several}
    for mixture in corpus.mixtures_of("test"):
        of_mixture = [r for r in rows if r["mixture_id"] == mixture.mixture_id]
        for sources in (1, 2):
            mine = [r for r in of_mixture if r["sources"] == sources]
            there = [r["words"] for r in mine if r["truth"] == "present"]
            assert sorted(there) == sorted(mixture.labels), "of a source alone its own label, of the mixture both"
            assert {r["words"] for r in mine if r["truth"] != "nonsense"} == labels
            assert {r["words"] for r in mine if r["truth"] == "nonsense"} == set(NONSENSE)
    assert all(0 <= r[key] <= 1 for r in rows for key in ("sound", "picture", "energy"))
    assert Presence.load(data / "models" / "avset").captions.shape[1] == 128

"""Real duets: sounds of known likeness, and models whose answers are known."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from avset.evaluation.duets import centres, duet_rows, hear_duets, level, likeness
from avset.features.spectrograms import Transform
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Conditions
from avset.training.dataset import Corpus

TIME = np.arange(11025) / 11025
TONE, FIFTH = (np.sin(2 * np.pi * pitch * TIME).astype(np.float32) for pitch in (440, 660))
TRANSFORM = Transform(11025, 1022, 256, 64, 64)


@pytest.mark.parametrize(
    ("one", "other", "alike", "louder"),
    [(TONE, TONE, 1.0, 0.0), (TONE, TONE / 10, 1.0, 20.0), (TONE, FIFTH, 0.0, 0.0),
     (TONE, TONE + FIFTH, 0.5**0.5, -3.0103), (TONE, 0 * TONE, None, 100.0), (0 * TONE, 0 * TONE, None, 0.0)],
)  # fmt: skip
def test_likeness_knows_no_gain_and_level_nothing_else(one: np.ndarray, other: np.ndarray, alike: Any, louder: float):
    assert likeness(one, other) == pytest.approx(alike, abs=1e-4)
    assert level(one, other) == pytest.approx(louder, abs=1e-3)


def test_centres_are_those_of_the_cells():
    assert centres((1, 2)).tolist() == [[0.5, 0.25], [0.5, 0.75]]


class Answer(SeparationModel):
    """A model that makes N sounds of a mixture (1, L) by a rule."""

    def __init__(self, rule: Callable[[torch.Tensor, int], torch.Tensor], answers: tuple[str, ...] = ("text",)):
        self.rule, self.device = rule, torch.device("cpu")
        self.settings, self.method = SimpleNamespace(transform=TRANSFORM), SimpleNamespace(answers=answers)

    def separate(self, mixed: torch.Tensor, conditions: Conditions) -> tuple[torch.Tensor, None]:
        return self.rule(mixed, conditions.n_sources)[None], None


def halves(mixed: torch.Tensor, count: int) -> torch.Tensor:
    return mixed.expand(count, -1) / count


def copies(mixed: torch.Tensor, count: int) -> torch.Tensor:
    return mixed.expand(count, -1)


def turns(mixed: torch.Tensor, count: int) -> torch.Tensor:
    """Each has every n-th sample."""
    return mixed * (torch.arange(mixed.shape[1]) % count == torch.arange(count)[:, None])


@pytest.mark.parametrize(("rule", "alike", "rest"), [(halves, 1.0, -100.0), (copies, 1.0, 0.0), (turns, 0.0, -100.0)])
def test_what_cannot_listen_is_told_from_what_answers(toy_data: Path, rule: Any, alike: float, rest: float):
    """Of the duets alone, each two labels once, by the texts and by those of absent labels."""
    corpus = Corpus.load(toy_data / "data" / "demo" / "demo")
    names = sorted({label for several in corpus.labels.values() for label in several})
    texts = {name: torch.zeros(1, 1, corpus.regions.read(corpus.complete()[0], "regions").shape[-1]) for name in names}
    clips = [clip for clip in corpus.complete() if corpus.splits[clip] == "test"]
    duets = [clip for clip in clips if len(corpus.labels[clip]) == 2]
    heard = hear_duets(Answer(rule), corpus, clips, texts)
    rows = duet_rows(Answer(rule), corpus, heard, texts)
    assert duets and [(row["clip_id"], row["query"]) for row in rows] == [
        (clip, query) for clip in duets for query in ("text", "absent")
    ]
    for row in rows:
        assert (set(row["labels"]) == set(corpus.labels[row["clip_id"]])) == (row["query"] == "text")
        assert row["likeness"] == pytest.approx(alike, abs=1e-5) and row["residual"] == pytest.approx(rest, abs=1e-3)
        assert row["weaker"] > -10 and "distance" not in row, "it does not localize"
    few = {label: texts[label] for label in corpus.labels[duets[0]]}
    rows = duet_rows(Answer(rule), corpus, hear_duets(Answer(rule), corpus, duets[:1], few), few)
    assert [row["query"] for row in rows] == ["text"], "no label is absent"


def test_three_players_are_three_pairs_if_texts_are_answered(toy_data: Path):
    corpus, labels = Corpus.load(toy_data / "data" / "demo" / "demo"), ["a", "b", "c"]
    clip, texts = corpus.complete()[0], {label: torch.zeros(1, 1, 4) for label in labels}
    vars(corpus)["labels"] = {clip: labels}
    rows = duet_rows(Answer(turns), corpus, hear_duets(Answer(turns), corpus, [clip], texts), texts)
    assert [row["labels"] for row in rows] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert all(row["residual"] < -99 and abs(row["likeness"]) < 1e-5 for row in rows)
    assert hear_duets(Answer(turns, ("video",)), corpus, [clip], texts) == {}

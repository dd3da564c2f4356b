"""Bounds by hand: masks that do not move, templates of known spectra, sources that an equaliser separates."""

from pathlib import Path

import numpy as np
import pytest
import torch

from avset.evaluation import bounds, scores
from avset.features import spectrograms as sp
from avset.features.samples import to_int16
from avset.storage.artifacts import Record
from avset.storage.items import Item
from avset.storage.shards import assemble, spread
from avset.storage.store import Store
from avset.training.mixtures import Mixture

TRANSFORM = sp.Transform(11025, 1022, 256, 64, 32)
LENGTH = 20000
DIMENSIONS = {"stft": ("T", "plane", "F"), "waveform": ("L",)}


def tone(frequency: float, beats: float = 0.0) -> np.ndarray:
    """A tone, switched on and off so many times a second."""
    time = np.arange(LENGTH) / TRANSFORM.sample_rate
    return 0.3 * np.sin(2 * np.pi * frequency * time) * (np.sin(2 * np.pi * beats * time) >= 0)


SOUNDS = {"low_0": tone(300), "high_0": tone(2000), "early_0": tone(700, 4.0), "late_0": tone(700) - tone(700, 4.0)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    items = {}
    for clip, sound in SOUNDS.items():
        wave = to_int16(sound.astype(np.float32))
        planes = sp.pack(sp.stft(torch.from_numpy(wave.astype(np.float32) / 32767), 1022, 256)).numpy()
        items[clip] = Item({"stft": planes.astype(np.float32), "waveform": wave})
    folder: Path = tmp_path_factory.mktemp("bounds") / "store"
    assemble(folder, Record("spectrograms"), spread(items), lambda clip: (items[clip], ""), DIMENSIONS)
    return Store(folder)


def row(clip: str, *labels: str, split: str = "train") -> dict:
    return {"clip_id": clip, "labels": list(labels), "split": split}


def rows_by_bound(
    store: Store, known: dict[str, torch.Tensor], *clips: str, labels: list[str]
) -> dict[str, list[dict]]:
    mixed = Mixture("m", "test", list(clips), list(clips), labels, [4] * len(clips), [1.0] * len(clips), 0)
    found: dict[str, list[dict]] = {}
    for one in scores.own_scores([mixed], store, TRANSFORM, known, 1):
        found.setdefault(one["method"], []).append(one)
    return found


def test_masks_at_rest_are_means_weighted_by_energy():
    magnitude = torch.tensor([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0]])
    masks = torch.tensor([[[0.0, 1.0], [0.2, 0.4], [0.7, 0.7]]])
    expected = torch.tensor([[[0.9, 0.9], [0.3, 0.3], [0.7, 0.7]]])
    torch.testing.assert_close(bounds.still(masks, magnitude), expected)


def test_a_template_is_the_mean_spectrum_of_the_training_clips_of_one_label(store: Store):
    clips = [row("low_0", "x"), row("high_0", "x"), row("early_0", "y"), row("late_0", "y", split="test"),
             row("late_0", "x", "y"), row("gone_0", "x")]  # fmt: skip
    found = bounds.templates(clips, store, TRANSFORM)
    means = {clip: np.hypot(*store.read(clip, "stft").transpose(1, 0, 2)).mean(0) for clip in SOUNDS}
    for label, mean in (("x", (means["low_0"] + means["high_0"]) / 2), ("y", means["early_0"])):
        expected = sp.warp(torch.from_numpy(mean)[:, None], 64)[:, 0]
        torch.testing.assert_close(found[label], expected, rtol=1e-4, atol=1e-5)
    assert found.keys() == {"x", "y"}


def test_an_equaliser_separates_what_is_stationary(store: Store):
    """Tones of different pitch: what moves is the ends of the crop alone, where windows hold no whole tone."""
    known = bounds.templates([row("low_0", "low"), row("high_0", "high")], store, TRANSFORM)
    found = rows_by_bound(store, known, "low_0", "high_0", labels=["low", "high"])
    assert list(found) == list(bounds.BOUNDS)
    for n in range(2):
        assert found["mixture"][n]["nsdr"] == 0 and found["mixture"][n]["moving"] == 0
        assert found["ideal"][n]["nsdr"] == pytest.approx(found["fixed"][n]["nsdr"] + found["ideal"][n]["moving"])
        assert abs(found["ideal"][n]["moving"]) < found["ideal"][n]["nsdr"] / 4 and found["fixed"][n]["nsdr"] > 20
        assert found["template"][n]["nsdr"] > 20 and found["template"][n]["moving"] == 0


def test_no_equaliser_separates_what_takes_turns(store: Store):
    """The same pitch by turns: what is ideal moves, and all that does not move gains nothing."""
    known = bounds.templates([row("early_0", "x"), row("late_0", "x")], store, TRANSFORM)
    found = rows_by_bound(store, known, "early_0", "late_0", labels=["x", "x"])
    for n in range(2):
        assert found["template"][n]["nsdr"] == pytest.approx(0, abs=1e-3), "half of the mixture for each"
        assert found["fixed"][n]["nsdr"] < 3 < found["ideal"][n]["moving"]
        assert found["ideal_linear"][n]["nsdr"] > 8


def test_who_has_no_label_has_no_template(store: Store):
    known = {"low": torch.ones(64)}
    assert "template" not in rows_by_bound(store, known, "low_0", "high_0", labels=["low", ""])

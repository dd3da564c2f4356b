"""Mixtures are rows; rendering them late is exact, drawing them is fair and stateless."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from avset.errors import AvsetError
from avset.features import spectrograms as sp
from avset.features.samples import to_int16
from avset.storage.artifacts import Record
from avset.storage.items import Item
from avset.storage.shards import assemble, spread
from avset.storage.store import Store
from avset.training import mixtures
from avset.training.batches import TrainingMixtures, magnitudes
from avset.training.mixtures import Mixture, draw, references

DIMENSIONS = {"stft": ("T", "plane", "F"), "waveform": ("L",), "regions": ("V", "R", "D")}
LENGTHS = {"a_0": 30000, "b_0": 25000, "c_0": 5000, "d_0": 40000}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four clips of noise; c_0 is shorter than a crop of 64 frames."""
    items = {}
    for i, (clip, length) in enumerate(LENGTHS.items()):
        rng = np.random.default_rng(i)
        wave = to_int16(rng.uniform(-0.3, 0.3, length).astype(np.float32))
        planes = sp.pack(sp.stft(torch.from_numpy(wave.astype(np.float32) / 32767), 1022, 256)).numpy()
        regions = np.full((1, 4, 8), float(i), np.float16)
        items[clip] = Item({"stft": planes.astype(np.float32), "waveform": wave, "regions": regions})
    folder = tmp_path_factory.mktemp("mixtures") / "store"
    assemble(folder, Record("frames"), spread(items), lambda clip: (items[clip], ""), DIMENSIONS)
    return Store(folder)


def training(store: Store, **changes: object) -> TrainingMixtures:
    options = {"crop": 64, "bins": 64, "n_sources": 2, "gain": (0.5, 1.5), "seed": 0, "length": 100} | changes
    return TrainingMixtures(sorted(LENGTHS), store, {"regions": store}, **options)


def test_references_add_up_to_the_mean_of_the_gained_clips(store: Store):
    row = Mixture("m", "test", ["a_0", "d_0"], ["x", "y"], [3, 10], [1.0, 0.5], 0)
    found = references(row, store, 16383, 256)
    a, d = (store.read(c, "waveform").astype(np.float64) / 32767 for c in row.clips)
    expected = np.stack([a[768 : 768 + 16383] / 2, 0.5 * d[2560 : 2560 + 16383] / 2])
    assert np.allclose(found, expected, atol=1e-6)


def test_a_short_clip_is_tiled_never_stretched(store: Store):
    row = Mixture("m", "test", ["c_0", "a_0"], ["x", "y"], [0, 0], [1.0, 1.0], 0)
    found = references(row, store, 16383, 256)[0]
    assert np.array_equal(found[5000:10000], found[:5000])
    item = training(store)[[training(store).choose(i)[0][0] for i in range(20)].index(2)]
    magnitude = item["sources"][0]
    frames = store.dataset("c_0", "stft").shape[0]
    assert torch.equal(magnitude[:, frames : 2 * frames], magnitude[:, :frames])


def test_training_mixtures_are_a_function_of_their_index(store: Store):
    one, two = training(store), training(store)
    for i in (7, 3, 7):
        a, b = one[i], two[i]
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(one[0]["sources"], training(store, seed=1)[0]["sources"])


def test_every_clip_is_first_once_an_epoch_and_partners_are_uniform(store: Store):
    data = training(store)
    chosen = [data.choose(i)[0] for i in range(4000)]
    for epoch in range(10):
        assert sorted(c[0] for c in chosen[4 * epoch : 4 * epoch + 4]) == [0, 1, 2, 3]
    assert all(a != b for a, b in chosen)
    pairs = Counter(tuple(c) for c in chosen)
    assert len(pairs) == 12
    assert min(pairs.values()) > 0.8 * 4000 / 12


def test_training_items_are_gained_crops_with_their_clips_regions(store: Store):
    data = training(store, gain=(1.0, 1.0))
    item = data[0]
    assert item["sources"].shape == (2, 64, 64) and item["mixture"].shape == (64, 64)
    assert [float(r.mean()) for r in item["regions"]] == item["clip"].tolist()
    assert item["regions"].dtype == torch.float16, "as stored: half the bytes to stack and to send"
    clip = data.clips[item["clip"][0]]
    whole = sp.warp(spectrum(store.read(clip, "stft")).abs(), 64) / 2
    if whole.shape[1] >= 64:
        windows = whole.unfold(1, 64, 1).permute(1, 0, 2)
        assert (windows - item["sources"][0]).abs().amax((1, 2)).min() < 1e-6


def spectrum(planes: np.ndarray) -> torch.Tensor:
    """Planes (T, 2, F) as complex numbers (F, T)."""
    return torch.complex(*torch.from_numpy(planes).unbind(1)).T


@pytest.mark.parametrize("precision", ["float16", "float32", "float64"])
def test_magnitudes_are_of_the_gained_sources_and_of_their_complex_sum(store: Store, precision: str):
    planes = [store.read(clip, "stft")[:50].astype(precision) for clip in ("a_0", "b_0", "d_0")]
    gains = [0.3, 0.5, 1.2]
    found = magnitudes([torch.from_numpy(one) for one in planes], gains, 64, torch.float64)
    spectra = [gain * spectrum(one.astype(np.float64)) for one, gain in zip(planes, gains, strict=True)]
    expected = [sp.warp(s.abs(), 64) for s in (*spectra, sum(spectra))]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=0)
    assert found.shape == (4, 64, 50)
    assert (found[:-1].sum(0) + 1e-6 >= found[-1]).all(), "the triangle inequality"


def drawn(clips: dict[str, str], n: int = 6, different: bool = True, **options: object) -> list[Mixture]:
    audible = options.get("audible", lambda clip, offset: True)
    return draw(clips, lambda clip: 5, audible, "test", n, 2, different, 0)


def test_drawn_mixtures_are_frozen_fair_and_of_different_categories():
    clips = {f"{label}{i}": label for label in "abc" for i in range(4)}
    rows = drawn(clips, 60)
    assert rows == drawn(clips, 60)
    assert all(len({*m.labels}) == 2 and m.offsets == [5, 5] for m in rows)
    first = Counter(m.clips[0] for m in rows)
    assert set(first.values()) == {5}
    assert len({m.mixture_id for m in rows}) == 60


def test_silent_crops_are_never_drawn():
    clips = {f"{label}{i}": label for label in "ab" for i in range(3)}
    rows = drawn(clips, 30, audible=lambda clip, offset: clip != "a1")
    assert not any("a1" in m.clips for m in rows)


def test_too_few_categories_say_so(store: Store):
    with pytest.raises(AvsetError, match=r"1 categories but mixtures.n_sources = 2"):
        drawn({"a": "x", "b": "x"})
    assert len(drawn({"a": "x", "b": "x"}, different=False)) == 6
    with pytest.raises(AvsetError, match="0 audible clips"):
        drawn({}, different=False)
    with pytest.raises(AvsetError, match="1 training clips"):
        TrainingMixtures(["a"], store, {}, 64, 64, 2, (1.0, 1.0), 0, 1)


def test_the_centre_of_a_clip():
    assert mixtures.centre_offset(258, 64) == 97
    assert mixtures.centre_offset(30, 64) == 0


def test_rows_come_back(tmp_path: Path):
    from avset.storage.tables import read_table, write_table

    rows = drawn({f"{label}{i}": label for label in "abc" for i in range(2)})
    write_table(tmp_path / "m.parquet", [m.row() for m in rows])
    assert [Mixture(**row) for row in read_table(tmp_path / "m.parquet")] == rows


@pytest.mark.parametrize("n_sources", [2, 3])
def test_partners_are_drawn_as_from_the_list_of_all_others(store: Store, n_sources: int):
    """The draw costs no time that grows with the clips, and is that of the plain loop over them."""
    rng = np.random.default_rng(0)
    videos = [f"v{i}" for i in rng.integers(12, size=60)]
    clips = [f"c{i}_0" for i in range(60)]
    data = TrainingMixtures(clips, store, {}, 4, 4, n_sources, (1.0, 1.0), 3, 500, videos)
    number = np.unique(videos, return_inverse=True)[1]
    for index in range(0, 500, 7):
        chosen = [int(np.random.default_rng([3, 0, index // 60]).permutation(60)[index % 60])]
        plain = np.random.default_rng([3, 1, index])
        while len(chosen) < n_sources:
            others = np.flatnonzero(~np.isin(number, number[chosen]))
            for other in plain.choice(others, n_sources - len(chosen), replace=False):
                if number[other] not in number[chosen]:
                    chosen.append(int(other))
        found, after = data.choose(index)
        assert found.tolist() == chosen
        assert after.random() == plain.random(), "crops and gains go on from the same state"


def test_who_may_be_in_a_mixture():
    labels = {"none": [], "one": ["flute"], "two": ["flute", "tuba"], "three": ["flute", "tuba", "harp"]}
    rows = [{"clip_id": clip, "labels": own, "split": "test"} for clip, own in labels.items()]
    rows.append({"clip_id": "elsewhere", "labels": ["flute"], "split": "train"})
    assert mixtures.eligible(rows, "test", True) == {"one": "flute"}
    assert mixtures.eligible(rows, "test", False) == {"none": "", "one": "flute", "two": "flute"}

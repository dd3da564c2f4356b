"""Mixtures are rows; rendering them late is exact, drawing them is fair and stateless."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from avset.errors import AvsetError
from avset.features import spectrograms as sp
from avset.features.samples import from_int16, to_int16
from avset.params import FurtherSet
from avset.params import Mixtures as Sizes
from avset.storage.artifacts import Record
from avset.storage.items import Item
from avset.storage.shards import assemble, spread
from avset.storage.store import Store
from avset.training import mixtures
from avset.training.batches import TrainingMixtures, magnitudes
from avset.training.mixtures import (
    Candidate,
    Mixture,
    alike,
    distinct,
    draw,
    draw_set,
    draw_split,
    references,
    unlike,
)

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
    row = Mixture("m", "test", ["a_0", "d_0"], ["a", "d"], ["x", "y"], [3, 10], [1.0, 0.5], 0)
    found = references(row, store, 16383, 256)
    a, d = (store.read(c, "waveform").astype(np.float64) / 32767 for c in row.clips)
    expected = np.stack([a[768 : 768 + 16383] / 2, 0.5 * d[2560 : 2560 + 16383] / 2])
    assert np.allclose(found, expected, atol=1e-6)


def test_a_short_clip_is_tiled_never_stretched(store: Store):
    row = Mixture("m", "test", ["c_0", "a_0"], ["c", "a"], ["x", "y"], [0, 0], [1.0, 1.0], 0)
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


def sizes(**changes: object) -> Sizes:
    told = {"n_sources": 2, "validation": 3, "test": 3, "different_category": True,
            "offsets": "centre", "gain": (1.0, 1.0), "seed": 0}  # fmt: skip
    return Sizes(**told | changes)


def drawn(clips: dict[str, str], n: int = 6, meet: mixtures.Meet = unlike, moments: int = 1, **changes: object) -> list:
    """Mixtures of clips of these labels; of clips whose names begin with the same letter one is as good as another."""

    def starts(clip: str, rng: np.random.Generator):
        return iter(rng.permutation(moments).tolist())

    told = [Candidate(clip, clip.split("_")[0], (label,) if label else ()) for clip, label in clips.items()]
    return draw(told, starts, "test", n, sizes(**changes), meet)


def pieces(row: Mixture) -> frozenset[tuple[str, int]]:
    return frozenset(zip(row.clips, row.offsets, strict=True))


@pytest.mark.parametrize("n_sources", [2, 3])
def test_drawn_mixtures_are_frozen_fair_and_of_different_categories(n_sources: int):
    clips = {f"{label}{i}": label for label in "abcd" for i in range(4)}
    rows = drawn(clips, 48, n_sources=n_sources)
    assert rows == drawn(clips, 48, n_sources=n_sources) != drawn(clips, 48, n_sources=n_sources, seed=1)
    assert all(len({*m.labels}) == len({*m.contents}) == n_sources and m.gains == [1.0] * n_sources for m in rows)
    assert set(Counter(m.clips[0] for m in rows).values()) == {3}
    assert len({m.mixture_id for m in rows}) == len({pieces(m) for m in rows}) == 48


@pytest.mark.parametrize("n_sources", [2, 3])
@pytest.mark.parametrize("meet", [unlike, alike, distinct])
def test_all_mixtures_that_are_possible_are_drawn_and_none_twice(meet: mixtures.Meet, n_sources: int):
    """Against a plain loop over all sets of clips, which may be of one recording, and have a label or none."""
    clips = {"p_0": "x", "p_1": "x", "q_0": "y", "r_0": "x", "s_0": "", "t_0": "y", "u_0": "z", "v_0": "x"}
    told = {c: Candidate(c, c[0], (label,) if label else ()) for c, label in clips.items()}
    possible = {
        frozenset(several) for several in combinations(clips, n_sources)
        if all(meet(told[one], told[other]) for one, other in combinations(several, 2))
    }  # fmt: skip
    rows = drawn(clips, 1000, meet, n_sources=n_sources)
    assert len(rows) == len(possible) and {frozenset(m.clips) for m in rows} == possible
    assert possible


def test_a_set_of_clips_comes_again_at_other_offsets_after_all_others():
    rows = drawn(dict.fromkeys("abc", ""), 1000, moments=3, gain=(0.5, 1.5))
    assert len(rows) == len({pieces(m) for m in rows}) == 3 * 3 * 3, "three pairs, nine pairs of offsets"
    for i in range(0, 27, 3):
        assert len({frozenset(m.clips) for m in rows[i : i + 3]}) == 3
    gains = [gain for m in rows for gain in m.gains]
    assert len(set(gains)) == len(gains) and 0.5 <= min(gains) < 0.7 < 1.3 < max(gains) <= 1.5


def index_row(clip: str, *labels: str, split: str = "test", **changes: object) -> dict:
    row = {"clip_id": clip, "media_id": clip.split("_")[0], "labels": list(labels), "split": split, "start_s": 0.0}
    return row | changes


def test_who_may_be_in_a_mixture():
    rows = [index_row("none_0"), index_row("one_0", "flute"), index_row("two_0", "flute", "tuba"),
            index_row("three_0", "flute", "tuba", "harp")]  # fmt: skip
    found, left_out = mixtures.candidates(rows, True)
    assert [(one.clip, one.label) for one in found] == [("one_0", "flute")] and left_out == {"labels": 3, "copies": 0}
    found, left_out = mixtures.candidates(rows, False)
    assert {one.clip: one.label for one in found} == {"none_0": "", "one_0": "flute", "two_0": ""}
    assert left_out == {"labels": 1, "copies": 0}
    clips = {one.clip: one for one in found}
    assert unlike(clips["none_0"], clips["two_0"]) and not unlike(clips["one_0"], clips["two_0"])


def test_of_copies_one_stands_for_all():
    """The same piece of the same recording; another piece of it is another sound, which never meets the first."""
    rows = [index_row("a_0", content="x"), index_row("b_0", "flute", content="x"), index_row("c_0", "tuba"),
            index_row("b_2000", "flute", content="x", start_s=2.0)]  # fmt: skip
    found, left_out = mixtures.candidates(rows, False)
    assert [(one.clip, one.content) for one in found] == [("b_0", "x"), ("b_2000", "x"), ("c_0", "c")]
    assert left_out == {"labels": 0, "copies": 1} and not distinct(*found[:2]) and distinct(*found[1:])


TRANSFORM = sp.Transform(11025, 1022, 256, 64, 64)


def split_of(store: Store, rows: list[dict], split: str = "test", count: int = 5, **changes: object) -> tuple:
    return draw_split(rows, store, TRANSFORM, sizes(**changes), split, count, -60.0)


@pytest.mark.parametrize("gain", [(1.5, 0.5), (0.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_gains_go_up_and_are_audible(gain: tuple[float, float]):
    with pytest.raises(ValueError, match="gain"):
        sizes(gain=gain)


def test_two_clips_make_one_mixture_and_a_line_says_so(store: Store, capsys: pytest.CaptureFixture):
    rows = [index_row("a_0", "x"), index_row("b_0", "y")]
    made, ledger = split_of(store, rows, count=200)
    assert [(set(m.clips), m.gains) for m in made] == [({"a_0", "b_0"}, [1.0, 1.0])]
    frames = {clip: len(store.dataset(clip, "stft")) for clip in LENGTHS}
    assert dict(zip(made[0].clips, made[0].offsets, strict=True)) == {c: (frames[c] - 64) // 2 for c in ("a_0", "b_0")}
    assert ledger == {"asked": 200, "drawn": 1, "clips": 2, "labels": 0, "copies": 0, "silent": 0, "usable": 2,
                      "videos": 2}  # fmt: skip
    told = "test: 1 of 200 mixtures: 2 clips of 2 videos make no more that are distinct; add videos, or set mixtures.o"
    assert told in capsys.readouterr().out
    made, _ = split_of(store, rows, count=200, offsets="random", gain=(0.5, 1.5))
    assert len({pieces(m) for m in made}) == 200 and len({m.offsets[0] for m in made}) > 20
    assert all(0 <= offset <= frames[clip] - 64 for m in made for clip, offset in pieces(m))
    assert "mixtures" not in capsys.readouterr().out


def test_the_clips_of_a_split_are_used_or_told(store: Store, capsys: pytest.CaptureFixture):
    copies = [index_row("c_0", "z", content="same"), index_row("d_0", "z", content="same")]
    rows = [index_row("a_0", "x"), index_row("b_0", "x", "y"), *copies, index_row("a_0", split="train"),
            index_row("failed_0", "w")]  # fmt: skip
    made, ledger = split_of(store, rows)
    assert {*made[0].clips} == {"a_0", "c_0"} and made[0].contents == [c[0].replace("c", "same") for c in made[0].clips]
    assert ledger["clips"] == 4 == sum(ledger[key] for key in ("labels", "copies", "silent", "usable"))
    said = capsys.readouterr().out
    assert "mixtures: test: 2 of 4 clips are left out: 1 without one label, 1 copies of others" in said


def test_silent_crops_are_never_drawn(tmp_path: Path):
    """A clip that is silent in the middle has other moments; one that is silent throughout has none."""
    rng = np.random.default_rng(0)
    items = {}
    for clip, heard in (("a_0", slice(None)), ("b_0", slice(0, 9000)), ("c_0", slice(0, 0))):
        wave = np.zeros(60000, np.int16)
        wave[heard] = rng.integers(-9000, 9000, 60000)[heard]
        items[clip] = Item({"stft": np.zeros((235, 2, 8), np.float16), "waveform": wave})
    dimensions = {name: DIMENSIONS[name] for name in ("stft", "waveform")}
    assemble(tmp_path / "store", Record("frames"), spread(items), lambda clip: (items[clip], ""), dimensions)
    rows = [index_row(clip) for clip in items]
    store, loose = Store(tmp_path / "store"), {"different_category": False}
    with pytest.raises(AvsetError, match=r"'test' has 1 audible clips of 1 videos but mixtures\.n_sources = 2; add v"):
        split_of(store, rows, **loose)
    made, ledger = split_of(store, rows, count=20, offsets="random", **loose)
    starts = [start for m in made for clip, start in pieces(m) if clip == "b_0"]
    assert len(made) == len(starts) == 20 and max(starts) * 256 < 9000 and ledger["silent"] == 1


def test_too_few_categories_say_so(store: Store, capsys: pytest.CaptureFixture):
    rows = [index_row("a_0", "x"), index_row("b_0", "x"), index_row("c_0")]
    with pytest.raises(AvsetError, match=r"1 categories but mixtures.n_sources = 2; .*different_category to false"):
        split_of(store, rows)
    made, _ = split_of(store, rows, different_category=False)
    assert {frozenset(m.clips) for m in made} == {frozenset(("a_0", "c_0")), frozenset(("b_0", "c_0"))}
    made, _ = split_of(store, rows[:2], different_category=False)
    assert [m.labels for m in made] == [["x", "x"]] and "too few categories" in capsys.readouterr().out
    with pytest.raises(AvsetError, match="0 audible clips"):
        split_of(store, [], different_category=False)
    with pytest.raises(AvsetError, match="1 training clips"):
        TrainingMixtures(["a"], store, {}, 64, 64, 2, (1.0, 1.0), 0, 1)


def further(store: Store, rows: list[dict], **told: object) -> tuple:
    asked = FurtherSet(**{"count": 5, "n_sources": 2, "category": "same", "seed": 0} | told)
    return draw_set(rows, store, TRANSFORM, sizes(), "mine", asked, -60.0)


def test_further_sets_are_of_the_test_clips_and_of_their_own_rule(store: Store, capsys: pytest.CaptureFixture):
    """An impossible one says why, and stays empty."""
    rows = [index_row("a_0", "x"), index_row("b_0", "x"), index_row("c_0", "y"), index_row("d_0")]
    made, ledger, why = further(store, rows)
    assert [(m.mixture_id, m.split, {*m.clips}) for m in made] == [("mine-0000", "mine", {"a_0", "b_0"})]
    assert (ledger["asked"], ledger["drawn"], why) == (5, 1, "")
    assert "mine: 1 of 5 mixtures" in capsys.readouterr().out
    for told, clips in (({"category": "different"}, [{"a_0", "c_0"}, {"b_0", "c_0"}]),
                        ({"category": "any", "n_sources": 4}, [{"a_0", "b_0", "c_0", "d_0"}])):  # fmt: skip
        assert sorted(({*m.clips} for m in further(store, rows, **told)[0]), key=sorted) == clips
    for told, said in (({"n_sources": 3}, "set 'mine': no 3 test recordings"),
                       ({"category": "different", "n_sources": 3}, "'mine' has 2 categories but")):  # fmt: skip
        made, _, why = further(store, rows, **told)
        assert made == [] and said in why and f"{why}; it stays empty" in capsys.readouterr().out


@pytest.mark.parametrize("n_sources", [3, 4])
@pytest.mark.parametrize(("category", "labels"), [("different", "wxyz"), ("same", "xxxx"), ("any", "xxyy")])
def test_further_sets_may_have_more_sources(store: Store, n_sources: int, category: str, labels: str):
    """With four clips, whatever the labels: of four one mixture, of three no source twice; they add up."""
    rows = [index_row(clip, label) for clip, label in zip(sorted(LENGTHS), labels, strict=True)]
    made, ledger, why = further(store, rows, n_sources=n_sources, category=category, count=9)
    assert ledger["drawn"] == len(made) == (1 if n_sources == 4 else 4) and why == ""
    for one in made:
        assert len({*one.clips}) == n_sources == len(one.labels) == len(one.offsets)
        found = references(one, store, TRANSFORM.length, 256)
        assert found.shape == (n_sources, TRANSFORM.length) and np.abs(found).max() < 0.31 / n_sources


def test_the_sources_of_a_duet_are_what_its_players_play(store: Store):
    """Every test clip of two labels comes once before one comes again; a crop with a silent player never comes."""
    rows = [index_row("a_0", "x", "y"), index_row("b_0", "x", "z"), index_row("c_0", "y", "z"), index_row("d_0", "x")]
    rng, played = np.random.default_rng(0), {}
    for row in rows[:3]:
        played[row["clip_id"]] = to_int16(rng.uniform(-0.3, 0.3, (2, LENGTHS[row["clip_id"]])).astype(np.float32))
    played["b_0"][1, :20000] = 0
    asked = FurtherSet(count=4, n_sources=2, category="duet", seed=0)
    stems = lambda row: played[row["clip_id"]]  # noqa: E731
    made, ledger, why = draw_set(rows, store, TRANSFORM, sizes(offsets="random"), "pairs", asked, -60.0, stems)
    assert [m.clips[0] for m in made] == ["a_0", "b_0", "c_0", "a_0"] and made[0].offsets != made[3].offsets
    assert made[0].labels == ["x", "y"] and made[0].clips == ["a_0", "a_0"] and why == ""
    assert (ledger["drawn"], ledger["clips"], ledger["usable"]) == (4, 3, 3)
    assert all(is_heard for m in made for is_heard in references(m, store, TRANSFORM.length, 256).any(1))
    start = made[0].offsets[0] * 256
    wanted = from_int16(played["a_0"][:, start : start + TRANSFORM.length]) / 2
    assert np.array_equal(references(made[0], store, TRANSFORM.length, 256), wanted)
    for stranger, said in ((None, "does not know what each player"), (stems, "no test clip of 3 labels")):
        told = asked.model_copy(update={"n_sources": 3 if stranger else 2})
        assert said in draw_set(rows, store, TRANSFORM, sizes(), "pairs", told, -60.0, stranger)[2]


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

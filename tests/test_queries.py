"""Queries end to end: every kind in one pass, exclusions, spans, gains and shares, in arrays, files and many files."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from media import make_video

from avset.errors import AvsetError
from avset.inference.combine import excluding
from avset.inference.files import separate_file, separate_file_to_file
from avset.inference.many import separate_files_to_files
from avset.inference.plans import LONGEST, file_name
from avset.inference.separate import Separator
from avset.inference.wishes import Query, listed, results, written
from avset.media.recordings import read_audio
from avset.models.presence import nearest
from bench import separation as bench

RATE = 22050


class Known:
    """A presence whose scores are told, query by query; captions are directions."""

    def __init__(self, scores: list[float], dim: int):
        self.scores, self.captions = torch.tensor(scores), torch.eye(dim)

    def score(
        self, features: torch.Tensor, energy: torch.Tensor, queries: torch.Tensor, regions: object
    ) -> torch.Tensor:
        return self.scores[: len(queries)]

    def heat(self, scores: torch.Tensor, targets: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(scores)


@pytest.fixture(scope="module")
def untrained() -> Separator:
    """A model that was never trained, with the demo's encoder."""
    return bench.made("cpu")


@pytest.fixture
def separator(untrained: Separator, monkeypatch: pytest.MonkeyPatch) -> Separator:
    """The same, which knows nothing of presence unless a test says so."""
    monkeypatch.setattr(untrained.model, "presence", None)
    return untrained


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("film") / "film.mp4", 2.0, size=(200, 100))


def stereo(seconds: float = 3.0) -> np.ndarray:
    left = bench.chord(seconds, RATE)
    return np.stack([left, left[::-1] / 2])


def test_every_kind_of_query_in_one_pass(separator: Separator, film: Path):
    """The sounds of all together are those of each alone; the whole picture as a box is the video."""
    separator.model.presence = Known([1.0] * 9, separator.encoder.dim)
    several = [
        "violin",
        Query(video=True),
        Query(box=(0, 0, 200, 100)),
        Query(box=(0.6, 0.2, 0.7, 0.5)),
        Query(like=film),
    ]
    found = separator.separate(film, several)
    assert found.queries == ("violin", "video", "box 0,0,200,100", "box 0.6,0.2,0.7,0.5", "like film")
    for query, sound in zip(several, found.sounds, strict=True):
        np.testing.assert_allclose(sound, separator.separate(film, query).sounds[0], atol=1e-6)
        np.testing.assert_array_equal(found[query], sound)
    np.testing.assert_array_equal(found.sounds[1], found.sounds[2])
    assert np.abs(found.sounds[3] - found.sounds[1]).max() > 1e-4, "a box is less than all"
    assert found.heat_maps and [one is None for one in found.heat_maps] == [False, True, True, True, False]


def test_an_example_is_its_captions_whatever_its_form(separator: Separator, tmp_path: Path):
    separator.model.presence = Known([1.0], separator.encoder.dim)
    sound = stereo(1.0)
    soundfile.write(tmp_path / "like.wav", sound.T, RATE, subtype="FLOAT")
    by_file, by_array = (
        separator.ask(query).vectors[0] for query in (Query(like=tmp_path / "like.wav"), Query(like=sound, rate=RATE))
    )
    assert torch.equal(by_file, by_array) and by_file.shape == (1, 1, separator.encoder.dim)
    assert torch.allclose(by_file.sum(), torch.ones(())), "a mean of captions"
    assert not torch.equal(
        by_file, nearest(torch.ones(separator.encoder.dim), separator.model.presence.captions)[None, None]
    )
    with pytest.raises(AvsetError, match="'like an example' is silent"):
        separator.ask(Query(like=np.zeros(9000), rate=RATE))
    separator.model.presence = None
    with pytest.raises(AvsetError, match="keeps no captions"):
        separator.ask(Query(like=sound, rate=RATE))


def test_exclusions_shares_spans_and_gains(separator: Separator):
    sound, texts = stereo(), ["violin", "cello", "drum"]
    plain = torch.from_numpy(separator.separate(sound, texts, sample_rate=RATE).masks)
    without = separator.separate(sound, Query("violin", without=["cello", "drum"]), sample_rate=RATE)
    assert without.queries == ("violin not cello not drum",)
    np.testing.assert_allclose(without.masks[0], excluding(plain[0], plain[1] + plain[2]), atol=1e-6)

    shares = separator.separate(sound, texts, sample_rate=RATE, shares=True)
    assert plain.sum(0).max() > 1.01 and shares.masks.sum(0).max() < 1 + 1e-5
    np.testing.assert_allclose(shares.sounds.sum(0) + shares.residual, sound, atol=1e-6)

    spans = [Query("violin", inside=[(1.0, 2.0)], outside=[(1.5, 3.0)], gain=6.0), Query("cello", gain=-math.inf)]
    found = separator.separate(sound, spans, sample_rate=RATE)
    whole = separator.separate(sound, texts[:2], sample_rate=RATE)
    heard = slice(round(1.01 * RATE), round(1.49 * RATE))
    np.testing.assert_array_equal(found.sounds[0, :, heard], whole.sounds[0, :, heard])
    assert not found.sounds[0, :, : round(0.99 * RATE)].any() and not found.sounds[0, :, round(1.51 * RATE) :].any()
    np.testing.assert_array_equal(found.sounds[1], whole.sounds[1])
    factor = 10 ** (6 / 20) - 1
    np.testing.assert_allclose(found.remix, sound + factor * found.sounds[0] - found.sounds[1], atol=1e-5)


def test_outside_of_its_spans_a_sound_claims_nothing(separator: Separator):
    sound, texts = stereo(), ["violin", "cello", "drum"]
    whole = separator.separate(sound, texts, sample_rate=RATE)
    shared = separator.separate(sound, [Query(text, inside=[(0.0, 0.2)]) for text in texts[1:]] + texts[:1],
                                sample_rate=RATE, shares=True)  # fmt: skip
    late = slice(RATE, None)
    np.testing.assert_allclose(shared["violin"][:, late], whole["violin"][:, late], atol=1e-6)


def test_from_file_to_file_is_what_arrays_are(separator: Separator, tmp_path: Path):
    soundfile.write(tmp_path / "in.wav", stereo().T, RATE, subtype="FLOAT")
    mixture, _ = read_audio(tmp_path / "in.wav")
    queries = [Query("violin", without=["drum"], inside=[(0.5, 2.5)]), Query("cello", outside=[(0.0, 1.0)])]
    expected = separator.separate(mixture, queries, sample_rate=RATE, shares=True)
    blocks = list(separate_file(separator, tmp_path / "in.wav", queries, shares=True))
    np.testing.assert_allclose(np.concatenate([one.sounds for one in blocks], -1), expected.sounds, atol=1e-6)
    outputs = [tmp_path / "a.wav", tmp_path / "b.wav"]
    separate_file_to_file(separator, tmp_path / "in.wav", queries, outputs, tmp_path / "rest.wav", shares=True)
    files = [read_audio(path)[0] for path in (*outputs, tmp_path / "rest.wav")]
    np.testing.assert_allclose(files[:2], expected.sounds, atol=1e-6)
    np.testing.assert_allclose(sum(files), mixture, atol=1e-6)

    loud = [Query("violin", gain=6.0), Query("cello", gain=-math.inf)]
    done = separate_files_to_files(separator, [tmp_path / "in.wav"], loud, str(tmp_path / "{name}-{query}.wav"))
    (mixed,) = tmp_path.glob("in-violin-plus-6-dB-and-cello-muted.wav")
    remix = separator.separate(mixture, loud, sample_rate=RATE)
    np.testing.assert_allclose(read_audio(mixed)[0], remix.remix, atol=1e-5)
    assert done[tmp_path / "in.wav"].energies == pytest.approx(remix.energies, rel=1e-3)


def test_what_is_absent_is_known_after_one_pass_and_claims_nothing(
    separator: Separator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Shares, exclusions and the rest are as if it had not been asked for; each window is masked once."""
    soundfile.write(tmp_path / "in.wav", stereo(8.0).T, RATE, subtype="FLOAT")
    masks, asked = separator.model.method.masks, []
    counting = lambda mixture, c: asked.append(len(mixture)) or masks(mixture, c)  # noqa: E731
    monkeypatch.setattr(separator.model.method, "masks", counting)
    alone = separator.separate(tmp_path / "in.wav", "violin")
    windows = sum(asked)
    separator.model.presence = Known([1.0, 0.01, 0.01], separator.encoder.dim)
    queries, outputs = [Query("violin", without=["drum"]), "cello"], [tmp_path / "a.wav", tmp_path / "b.wav"]
    asked.clear()
    done = separate_file_to_file(separator, tmp_path / "in.wav", queries, outputs, tmp_path / "rest.wav", shares=True)
    assert sum(asked) == windows
    assert done.presence == pytest.approx([1.0, 0.01, 0.01]) and done.energies[1] == 0
    sounds = [read_audio(path)[0] for path in (*outputs, tmp_path / "rest.wav")]
    np.testing.assert_allclose(sounds[0], alone.sounds[0], atol=1e-6)
    assert not sounds[1].any()
    np.testing.assert_allclose(sounds[2], alone.residual, atol=1e-6)
    kept = separator.separate(tmp_path / "in.wav", queries, shares=True, keep_absent=True)
    assert kept.sounds[1].any() and kept.presence == pytest.approx([1.0, 0.01])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Query(), "nothing to tell its sound"), (lambda: Query("a", video=True), "text and video"),
        (lambda: Query(" "), "empty"), 
        (lambda: Query(box=(0.5, 0, 0.4, 1)), "is no box"), (lambda: Query(box=(0, 0, 0.5, 1.2)), "pixels are whole"),
        (lambda: Query("a", time=1.0), "no picture"), (lambda: Query("a", gain=61.0), "at most 60 dB"),
        (lambda: Query("a", gain=math.nan), "at most 60 dB"), (lambda: Query("a", without="b"), "in a list"),
        (lambda: Query("a", without=["a"]), "wanted and not wanted"), (lambda: Query("a", inside=[(2, 1)]), "no span"),
        (lambda: Query("a", without=[Query("b", gain=1.0)]), "give the sound alone"),
        (lambda: Query("a", inside=[(1, 2)], outside=[(0, 3)]), "nothing is left"),
        (lambda: listed([Query("a", gain=1.0), "b"]), "'b' has no gain"),
    ],
)  # fmt: skip
def test_what_contradicts_itself(made: object, said: str):
    with pytest.raises(AvsetError, match=said) as told:
        made()  # type: ignore[operator]
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (Query("a", inside=[(4.0, 5.0)]), "begins after the end of the sound, which has 3.00 s"),
        (Query(video=True), "an array has no pictures"), (Query("a", without=[Query(box=(0, 0, 1, 1))]), "no pictures"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_sound(separator: Separator, query: Query, said: str):
    with pytest.raises(AvsetError, match=said):
        separator.separate(stereo(), query, sample_rate=RATE)


def test_a_picture_says_itself_where_it_is(separator: Separator):
    with pytest.raises(AvsetError, match="says itself where it is"):
        separator.localize(np.zeros((96, 96, 3), np.uint8), Query(video=True))


def test_names_hold_all_that_decides_a_sound():
    """So a file that is there already is that of the same question."""
    common = {"without": [Query("drum")], "inside": [(0.5, 2.0)], "outside": [(1.0, 1.5)]}
    queries = written(["cello=-3dB"], ["0,0,0.5,1=+3dB"], ["x/a.wav=-inf"], False, 1.5, **common)
    (name,) = results(queries, shares=True)
    end = "not drum from 0.5 to 2 s not from 1 to 1.5 s"
    assert name == (f"cello {end} minus 3 dB and box 0,0,0.5,1 at 1.5 s {end} plus 3 dB and like a {end} muted shares")
    assert len(file_name(name)) == LONGEST and file_name(name) != file_name(f"{name} too")
    assert results(listed(["a", "b"])) == ("a", "b")

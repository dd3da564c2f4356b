"""The ladder from arrays to files: each step gives what the step below gives; queries are what the encoder says."""

import doctest
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from media import make_video
from PIL import Image

import avset.inference.files
import avset.inference.separate
import avset.inference.wishes
from avset.errors import AvsetError
from avset.inference.files import localize_file, localize_file_to_file, separate_file_to_file
from avset.inference.localize import Attention
from avset.inference.pictures import read_frame
from avset.inference.queries import text_queries, video_queries
from avset.inference.separate import Separator
from avset.media.recordings import read_audio
from avset.media.waveforms import resample
from bench import separation as bench

TEXT = "person playing a violin"


@pytest.fixture(scope="module")
def separator() -> Separator:
    """A model that was never trained, with the demo's encoder."""
    return bench.made("cpu")


def test_a_text_is_a_set_of_one_region(separator: Separator):
    texts = [TEXT, "drum"]
    queries = text_queries(separator.encoder, texts)
    assert queries.shape == (2, 1, 1, separator.encoder.dim)
    torch.testing.assert_close(queries[:, 0, 0], separator.encoder.encode_text(texts))
    assert torch.equal(queries, separator.text_query(texts))
    torch.testing.assert_close(separator.text_query(TEXT), queries[:1])  # a string is one query, and not one a letter


def test_a_video_is_the_set_of_all_its_regions(separator: Separator):
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    rows, columns = separator.encoder.grid
    queries = separator.video_query(frames)
    assert queries.shape == (1, 2, rows * columns, separator.encoder.dim)
    assert torch.equal(queries, video_queries(separator.encoder, frames, True))
    assert not torch.equal(queries, video_queries(separator.encoder, frames, False)), "positions matter"


def stereo(seconds: float, rate: int) -> np.ndarray:
    """(2, L): a chord on the left, and half of it with noise on the right."""
    left = bench.chord(seconds, rate)
    return np.stack([left, left / 2 + bench.chord(seconds, rate, start=7.0) / 4])


@pytest.mark.parametrize(("rate", "subtype"), [(44100, "PCM_16"), (48000, "PCM_24"), (22050, "FLOAT")])
def test_a_file_is_separated_as_its_waveform_is(separator: Separator, tmp_path: Path, rate: int, subtype: str):
    """The same by path, by file object, by array and by tensor; and from file to file, where it adds up to the bit."""
    file = tmp_path / "in.wav"
    soundfile.write(file, stereo(8.0, rate).T, rate, subtype=subtype)
    mixture, _ = read_audio(file)
    expected = separator.separate(mixture, [TEXT, "drum"], sample_rate=rate)
    assert expected.queries == (TEXT, "drum") and expected.sounds.shape == (2, *mixture.shape)
    np.testing.assert_array_equal(expected[TEXT], expected.sounds[0])
    np.testing.assert_allclose(expected.sounds.sum(0) + expected.residual, mixture, atol=1e-6)
    assert expected.presence is None and expected.heat_maps is None
    with file.open("rb") as opened:
        for source, own in ((file, None), (str(file), None), (opened, None), (torch.from_numpy(mixture), rate)):
            found = separator.separate(source, [TEXT, "drum"], sample_rate=own)
            np.testing.assert_array_equal(found.sounds, expected.sounds)
            np.testing.assert_array_equal(found.masks, expected.masks)

    outputs = [tmp_path / "violin.wav", tmp_path / "drum.flac"] if subtype != "FLOAT" else [
        tmp_path / "violin.wav", tmp_path / "drum.wav"]  # fmt: skip
    done = separate_file_to_file(separator, file, [TEXT, "drum"], outputs, tmp_path / "rest.wav")
    assert (done.seconds, done.sample_rate, done.channels, done.clipped) == (8.0, rate, 2, False)
    assert done.energies == pytest.approx(expected.energies, rel=1e-3)
    written = [read_audio(path)[0] for path in (*outputs, tmp_path / "rest.wav")]
    np.testing.assert_allclose(written[:2], expected.sounds, atol=1 / 32768)
    assert soundfile.info(outputs[0]).subtype == soundfile.info(tmp_path / "rest.wav").subtype == subtype
    if subtype == "FLOAT":
        np.testing.assert_allclose(sum(written), mixture, atol=1e-6)
    else:
        np.testing.assert_array_equal(sum(written), mixture)


def test_at_the_model_s_rate_it_is_what_the_model_hears(separator: Separator, tmp_path: Path):
    sound, rate = stereo(4.0, 44100), separator.sample_rate
    found = separator.separate(sound, TEXT, sample_rate=44100, model_rate=True)
    heard = resample(sound.mean(0), 44100, rate)
    assert found.sample_rate == rate == 11025 and found.sounds.shape == (1, 1, len(heard))
    np.testing.assert_allclose(found.sounds[0] + found.residual, heard[None], atol=1e-6)
    np.testing.assert_array_equal(found.sounds[:, 0], separator.separate(heard, TEXT, sample_rate=rate).sounds)


def test_what_is_above_the_model_s_rate_and_between_the_channels_stays(separator: Separator):
    """A mono sound on both sides stays on both sides; the mask of the left channel is that of the right."""
    left = bench.chord(3.0, 48000)
    found = separator.separate(np.stack([left, -left / 2]), TEXT, sample_rate=48000)
    np.testing.assert_allclose(found.sounds[0, 1], -found.sounds[0, 0] / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "rate", "said"),
    [(np.zeros((99, 2)), 8000, r"99 channels of 2 samples; .*sound\.T"), (np.zeros((2, 3, 4)), 8000, "shape"),
     (np.zeros(0), 8000, "shape"), (np.zeros(9), None, "no sample rate"), (np.zeros(9), 10, "sample rate is 10"),
     (np.full(9, np.nan), 8000, "not numbers"), (np.zeros(9, complex), 8000, "samples are complex"),
     (torch.zeros(65, 99), 8000, "65 channels"), ("gone.wav", None, "no such file"),
     (".", None, "it is a folder"), ("setup.wav", 8000, "its own sample rate")],
)  # fmt: skip
def test_what_is_no_sound_is_one_sentence(separator: Separator, source: object, rate: object, said: str):
    with pytest.raises(AvsetError, match=said) as told:
        separator.separate(source, TEXT, sample_rate=rate)  # type: ignore[arg-type]
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [("", "empty"), ([], "no query"), ([TEXT, " "], "empty"), (torch.zeros(1, 1, 3), "shape")],
)  # fmt: skip
def test_what_is_no_query_is_one_sentence(separator: Separator, query: object, said: str):
    with pytest.raises(AvsetError, match=said):
        separator.separate(np.zeros(99), query, sample_rate=8000)  # type: ignore[arg-type]


def test_samples_are_steps_of_full_scale(separator: Separator):
    sound = bench.chord(1.0, 11025)
    whole = separator.separate(sound, TEXT, sample_rate=11025)
    for kind in (np.int16, np.int32, np.float64, np.float16):
        scale = 1 if np.issubdtype(kind, np.floating) else -float(np.iinfo(kind).min)
        found = separator.separate((sound * scale).astype(kind), TEXT, sample_rate=11025)
        assert found.sounds.dtype == np.float32 and found.sounds.shape == (1, len(sound))
        np.testing.assert_allclose(found.sounds + found.residual, whole.sounds + whole.residual, atol=1e-3)


@pytest.mark.parametrize("seconds", [0.001, 0.3])
@pytest.mark.parametrize("loudness", [0.0, 1.0])
def test_short_and_silent_sounds(separator: Separator, seconds: float, loudness: float):
    sound = loudness * stereo(1.0, 44100)[:, : round(44100 * seconds)]
    found = separator.separate(sound, TEXT, sample_rate=44100)
    assert found.sounds.shape == (1, *sound.shape) and np.isfinite(found.sounds).all()
    assert 0 <= found.energies[0] <= 1.01 and (loudness or not found.sounds.any())


def test_a_film_has_heat_maps(separator: Separator, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 2.0)
    found = separator.separate(film, [TEXT, "drum"])
    assert found.heat_maps is not None and len(found.heat_maps) == 2
    np.testing.assert_array_equal(found.heat_maps[0].scores, localize_file(separator, film, TEXT).scores)
    assert separator.separate(make_video(tmp_path / "a.m4a", 1.0, video=False), TEXT).heat_maps is None


def test_a_separator_knows_its_device(separator: Separator):
    assert separator.to("cpu").device == torch.device("cpu")
    with pytest.raises(AvsetError, match="the device 'tpu' cannot be used"):
        separator.to("tpu")


def test_what_is_too_loud_is_clamped_or_rescaled(separator: Separator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A mask of ones on a sound that is louder than full scale."""
    loud = np.stack([np.full(9000, 2.0), np.linspace(-1, 1, 9000)]).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", loud.T, 44100, subtype="FLOAT")
    monkeypatch.setattr(
        separator.model.method, "masks", lambda mixture, c: torch.ones(len(mixture), c.n_sources, *mixture.shape[1:])
    )
    paths = {clip: tmp_path / f"{clip}.wav" for clip in ("clamp", "rescale", "float")}
    done = {
        clip: separate_file_to_file(
            separator, tmp_path / "in.wav", TEXT, paths[clip], tmp_path / f"rest-{clip}.wav",
            bits=32 if clip == "float" else 24, clip="clamp" if clip == "clamp" else "rescale",
        )
        for clip in paths
    }  # fmt: skip
    found = {clip: read_audio(path)[0] for clip, path in paths.items()}
    assert done["clamp"].clipped and done["clamp"].gain == 1
    np.testing.assert_allclose(found["clamp"], np.clip(loud, -1, 1), atol=1e-4)
    assert not done["rescale"].clipped and done["rescale"].gain == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(found["rescale"], loud / 2, atol=1e-3)
    assert not done["float"].clipped and done["float"].gain == 1
    np.testing.assert_allclose(found["float"], loud, atol=1e-4)


@pytest.mark.parametrize(
    "module",
    [avset, avset.inference.separate, avset.inference.files, avset.inference.wishes],
    ids=lambda m: m.__name__,
)
def test_the_examples_of_the_library(module: ModuleType, separator: Separator, tmp_path: Path):
    """Every example in a docstring does what it says."""
    soundfile.write(tmp_path / "band.wav", stereo(1.0, 44100).T, 44100, subtype="PCM_24")
    known = {"separator": separator, "folder": tmp_path, "np": np, "avset": avset, "soundfile": soundfile}
    failed, tried = doctest.testmod(module, extraglobs=known)
    assert not failed and (tried or module is avset)


def test_a_video_is_localised_as_its_frame_is(separator: Separator, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 2.0)
    in_the_middle = separator.localize(read_frame(film, 1.0), TEXT)
    drawn = localize_file_to_file(separator, film, TEXT, tmp_path / "map.png")
    for attention in (localize_file(separator, film, TEXT), localize_file(separator, film, TEXT, 1.0), drawn):
        np.testing.assert_array_equal(attention.scores, in_the_middle.scores)
    assert in_the_middle.grid == separator.encoder.grid
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size == (512, 512 + 18), "with a legend below"


def test_the_strongest_region_by_row_and_column():
    scores = np.zeros(6, np.float32)
    scores[5] = 1.0
    assert Attention(scores, (2, 3)).strongest() == (1, 2)
    assert Attention(scores, (3, 2)).strongest() == (2, 1)

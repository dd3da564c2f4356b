"""The ladder from arrays to files: each step gives what the step below gives; queries are what the encoder says."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from media import make_video
from PIL import Image

from avset.inference.files import localize_file, localize_file_to_file, read_frame, separate_file, separate_file_to_file
from avset.inference.localize import Attention, localize
from avset.inference.queries import text_queries, video_queries
from avset.inference.separate import Separator
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


def test_a_video_is_the_set_of_all_its_regions(separator: Separator):
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    rows, columns = separator.encoder.grid
    queries = separator.video_query(frames)
    assert queries.shape == (1, 2, rows * columns, separator.encoder.dim)
    assert torch.equal(queries, video_queries(separator.encoder, frames, True))
    assert not torch.equal(queries, video_queries(separator.encoder, frames, False)), "positions matter"


def test_a_file_is_separated_as_its_waveform_is(separator: Separator, tmp_path: Path):
    rate, file = separator.model.settings.transform.sample_rate, tmp_path / "in.wav"
    mixture = bench.chord(8.0, rate)
    soundfile.write(file, np.stack([mixture, mixture], 1), rate, subtype="FLOAT")
    given, estimates = (np.concatenate(x) for x in zip(*separate_file(separator, file, TEXT), strict=True))
    np.testing.assert_array_equal(given, mixture)
    expected = separator.separate(torch.from_numpy(mixture), separator.text_query([TEXT]))[0].numpy()
    np.testing.assert_array_equal(estimates, expected)

    done = separate_file_to_file(separator, file, TEXT, tmp_path / "out.wav", tmp_path / "rest.wav")
    assert (done.seconds, done.sample_rate, done.clipped) == (8.0, rate, False)
    assert done.energy == pytest.approx(np.square(expected).sum() / np.square(mixture).sum(), rel=1e-4)
    for name, sound in (("out", expected), ("rest", mixture - expected)):
        written, _ = soundfile.read(tmp_path / f"{name}.wav")
        np.testing.assert_allclose(written, sound, atol=1 / 32768)


def test_a_video_is_localised_as_its_frame_is(separator: Separator, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 2.0)
    in_the_middle = localize(separator, read_frame(film, 1.0), TEXT)
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

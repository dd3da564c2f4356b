"""A film under a heat map: each picture at its time, whatever the film; and heat that moves."""

from pathlib import Path

import numpy as np
import pytest
from media import GRID, make_video
from typer.testing import CliRunner

from avset import __main__ as command
from avset.compute.limited import Limits
from avset.errors import AvsetError
from avset.inference.files import localize_film_to_film, separate_file_to_file
from avset.inference.heated import LOOK, HeatMap, centre
from avset.inference.localize import Attention
from avset.inference.separate import Separator
from avset.media.container import has
from avset.media.films import FilmWriter
from avset.media.frames import moving_pictures
from avset.media.recordings import read_audio
from bench import separation as bench

LIMITS = Limits(60.0, 2.0)
SCALE = 18  # px of the legend


@pytest.fixture(scope="module")
def separator() -> Separator:
    """A model that was never trained, with the demo's encoder."""
    return bench.made("cpu")


def cold(square: np.ndarray) -> Attention:
    assert square.shape[0] == square.shape[1]
    return Attention(np.zeros(4, np.float32), (2, 2), np.zeros(4, np.float32))


def shown(path: Path, below: int = 0) -> list[tuple[float, int]]:
    """Times and numbers of all pictures of a film of `make_video`, of which rows `below` the picture do not count."""
    found = []
    for time, picture in moving_pictures(path, 4096):
        square = picture[: len(picture) - below]
        square = square[centre(square)]
        at = ((np.arange(GRID) + 0.5) * len(square) / GRID).astype(int)
        bits = (square[at][:, at][1:].astype(float).mean(2) > 100).reshape(-1)
        found.append((time, int((bits << np.arange(12)).sum())))
    return found


UNEVEN = [0.0, 0.1, 0.15, 0.4, 0.9, 1.0, 1.05, 1.3]
FILMS = [
    ("a.mp4", {"size": (192, 108), "fps": 24}), ("odd.mkv", {"size": (97, 131), "vcodec": "mjpeg"}),
    ("a.ts", {"fps": 60}), ("late.mp4", {"audio_delay": 0.5}), ("turned.mp4", {"size": (128, 160), "rotation": 90}),
    ("oblong.mp4", {"size": (256, 128), "pixel_aspect": 2}), ("uneven.mkv", {"times": UNEVEN}),
    ("large.mp4", {"size": (1600, 400), "fps": 5}), ("one.mp4", {"times": [0.0]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), FILMS, ids=[name for name, _ in FILMS])
def test_each_picture_is_there_at_its_time(tmp_path: Path, name: str, options: dict) -> None:
    film, target = make_video(tmp_path / name, 1.5, sample_rate=16000, **options), tmp_path / "out.mp4"
    sound, rate = read_audio(film)
    with FilmWriter(target, rate, False, film, LIMITS, HeatMap(film, cold, LIMITS).draw) as writer:
        writer.write(sound)
    before, after = shown(film), shown(target, SCALE)
    assert [number for _, number in after] == [number for _, number in before] == list(range(len(before)))
    np.testing.assert_allclose([time for time, _ in after], [time for time, _ in before], atol=1e-3)
    found = read_audio(target)[0]
    assert abs(found.shape[1] - sound.shape[1]) <= 2048
    length = min(found.shape[1], sound.shape[1]) - 2048
    error = found[:, :length] - sound[:, :length]
    assert np.square(error).sum() < 0.01 * np.square(sound).sum(), "the same sound, at the same time"
    width, height = options.get("size", (128, 128))
    expected = (1280, 320) if width > 1280 else (2 * round(width / 2), 2 * round(height / 2))
    assert next(moving_pictures(target, 4096))[1].shape == (expected[1] + SCALE, expected[0], 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "out.mp4"})


def test_the_heat_moves_between_the_pictures_that_the_model_sees() -> None:
    """The model sees the brightness of a picture, and says so; the heat of each picture is its own brightness."""
    times = np.arange(0, 1.01, 0.05)
    pictures = [(float(t), np.full((20, 40, 3), round(100 * t), np.uint8)) for t in times]
    seen = []

    def look(square: np.ndarray) -> Attention:
        seen.append(int(square[0, 0, 0]))
        heat = np.full(4, square.mean() / 100, np.float32)
        return Attention(heat, (2, 2), heat)

    drawing = HeatMap(Path("a.mp4"), look, LIMITS)
    found = list(drawing.moments(pictures))
    assert [time for time, _, _ in found] == [time for time, _ in pictures]
    np.testing.assert_allclose([heat[0] for *_, heat in found], times, atol=0.01)
    assert len(seen) <= 2 + 1 / LOOK
    assert drawing.strongest and drawing.strongest[0] == pytest.approx(1.0)


def test_from_film_to_film(tmp_path: Path, separator: Separator, monkeypatch: pytest.MonkeyPatch) -> None:
    film, silent = make_video(tmp_path / "a.mp4", 1.0), make_video(tmp_path / "silent.mp4", 1.0, audio=False)
    sound = make_video(tmp_path / "sound.mp4", 1.0, video=False)
    seconds, found = localize_film_to_film(separator, film, "violin", tmp_path / "violin.mp4")
    assert 0 <= seconds <= 1 and found.grid == separator.encoder.grid
    localize_film_to_film(separator, silent, "violin", tmp_path / "new" / "quiet.mp4")
    assert [has(tmp_path / name, "audio") for name in ("violin.mp4", "new/quiet.mp4")] == [True, False]
    with pytest.raises(AvsetError, match="has no pictures"):
        localize_film_to_film(separator, sound, "violin", tmp_path / "b.mp4")
    parts = [tmp_path / "x.mp4", tmp_path / "y.mp4"]
    separate_file_to_file(separator, film, ["violin", "drum"], parts, heat_map=True, keep_absent=True)
    assert all([number for _, number in shown(path, SCALE)] == list(range(10)) for path in parts)
    with pytest.raises(AvsetError, match="over films alone"):
        separate_file_to_file(separator, film, "violin", tmp_path / "b.wav", heat_map=True)
    with pytest.raises(AvsetError, match="no pictures"):
        separate_file_to_file(separator, sound, "violin", tmp_path / "b.mp4", heat_map=True)
    told = ["localize", str(film), "-q", "violin", "-o", str(tmp_path / "c.mp4"), "--time", "1"]
    assert "leave out --time" in str(CliRunner().invoke(command.app, told).exception)
    assert not (tmp_path / "b.mp4").exists()

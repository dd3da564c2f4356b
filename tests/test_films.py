"""A film keeps its pictures, to the frame, and gets another sound."""

from pathlib import Path

import numpy as np
import pytest
from media import make_video, numbers

from avset.compute.limited import Limits
from avset.errors import AvsetError
from avset.media.films import FilmWriter, check_film
from avset.media.recordings import read_audio

LIMITS = Limits(60.0, 2.0)


@pytest.mark.parametrize(
    ("name", "options"), [("a.mp4", {}), ("a.mkv", {}), ("a.ts", {}), ("late.mp4", {"audio_delay": 0.5})]
)
def test_pictures_and_sound_stay_together(tmp_path: Path, name: str, options: dict[str, float]) -> None:
    """In containers whose clocks start elsewhere, too."""
    film, rate = make_video(tmp_path / name, 3.0, sample_rate=44100, **options), 44100
    sound, _ = read_audio(film)
    with FilmWriter(tmp_path / "out.mp4", rate, False, film, LIMITS) as writer:
        for at in range(0, sound.shape[1], 5000):
            writer.write(-sound[:, at : at + 5000])
            assert not (tmp_path / "out.mp4").exists()
    times = np.arange(0.02, 2.9, 0.2)
    assert numbers(tmp_path / "out.mp4", times) == numbers(film, times)
    found, found_rate = read_audio(tmp_path / "out.mp4")
    assert found_rate == rate and abs(found.shape[1] - sound.shape[1]) <= 2048
    length = min(found.shape[1], sound.shape[1]) - 2048
    error = found[:, :length] + sound[:, :length]
    assert np.square(error).sum() < 0.01 * np.square(sound).sum(), "the same sound, turned over, at the same time"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "out.mp4"})


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    film = make_video(tmp_path / "a.mp4", 1.0)
    with pytest.raises(ValueError, match="elsewhere"), FilmWriter(tmp_path / "b.mp4", 8000, False, film, LIMITS) as out:
        out.write(np.zeros((1, 8000), np.float32))
        raise ValueError("elsewhere")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_what_an_mp4_cannot_hold_is_told_before() -> None:
    with pytest.raises(AvsetError, match="pictures of vp8 are not copied"):
        check_film(Path("a.mp4"), "vp8")
    with pytest.raises(AvsetError, match="no pictures"):
        check_film(Path("a.mp4"), "")
    check_film(Path("a.mp4"), "h264")

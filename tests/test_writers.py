"""Sound files are written block by block, in the format of the suffix; they are there whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from media import RATE, tone_samples
from test_waveforms import pieces

from avset.errors import AvsetError
from avset.media import writers
from avset.media.recordings import read_audio
from avset.media.writers import SAMPLES_AT_ONCE, AudioWriter, check_writable, quantised, write_audio


@pytest.mark.parametrize(("suffix", "precision"), [(".wav", 2e-5), (".FLAC", 2e-5), (".ogg", 0.05)])
def test_written_sound_is_read_back(tmp_path: Path, suffix: str, precision: float) -> None:
    stereo = np.stack([tone_samples(3.0, RATE, f, 0.5, 0.0) for f in (300.0, 700.0)])
    path = tmp_path / "new" / f"a{suffix}"
    write_audio(path, stereo, RATE)
    found, rate = read_audio(path)
    assert rate == RATE and found.shape == stereo.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, stereo, atol=precision)
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    write_audio(path, stereo[0], RATE)  # replaced, and (L,) is one channel
    assert read_audio(path)[0].shape == (1, stereo.shape[1])


def test_long_vorbis_files_can_be_written(tmp_path: Path) -> None:
    waveform = tone_samples(60.0, 44100, 300.0, 0.5, 0.0)
    write_audio(tmp_path / "a.ogg", waveform, 44100)
    assert read_audio(tmp_path / "a.ogg")[0].shape == (1, len(waveform))


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    waveform = tone_samples(0.1, RATE, 300.0, 0.5, 0.0)
    with pytest.raises(AvsetError, match=r"a\.aiff.*\.wav, \.flac, \.mp3, \.ogg"):
        write_audio(tmp_path / "a.aiff", waveform, RATE)
    with pytest.raises(AvsetError, match=r"a\.flac.*number of channels"):
        write_audio(tmp_path / "a.flac", np.zeros((40, 100), np.float32), RATE)
    (tmp_path / "file").write_text("")
    with pytest.raises(AvsetError, match=r"a\.wav.*see the directory"):
        write_audio(tmp_path / "file" / "a.wav", waveform, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_file_is_written_block_by_block(tmp_path: Path, suffix: str) -> None:
    stereo = np.random.default_rng(0).uniform(-1.1, 1.1, (2, 3 * SAMPLES_AT_ONCE)).astype(np.float32)
    write_audio(tmp_path / f"one{suffix}", stereo, RATE)
    path = tmp_path / f"many{suffix}"
    with AudioWriter(path, RATE) as sound:
        for block in pieces(stereo, 4567):
            sound.write(block)
            assert not path.exists()
    first = 512 if suffix == ".ogg" else 0  # the encoder guesses from the first write what may have preceded it
    found, whole = read_audio(path)[0], read_audio(tmp_path / f"one{suffix}")[0]
    assert found.shape == whole.shape == stereo.shape
    np.testing.assert_array_equal(found[:, first:], whole[:, first:])
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_on_the_way_leaves_no_file_and_the_old_one_alone(tmp_path: Path) -> None:
    block = tone_samples(0.1, RATE, 300.0, 0.5, 0.0)
    write_audio(tmp_path / "old.wav", block, RATE)
    before = (tmp_path / "old.wav").read_bytes()
    for name in ("new.wav", "old.wav"):
        with pytest.raises(OSError, match="of another file"), AudioWriter(tmp_path / name, RATE) as sound:
            sound.write(block)
            sound.write(block)
            raise OSError("of another file")
    assert [path.name for path in tmp_path.iterdir()] == ["old.wav"]
    assert (tmp_path / "old.wav").read_bytes() == before


@pytest.mark.parametrize(
    ("suffix", "rate", "coded"),
    [(".mp3", 44100, 44100), (".mp3", 96000, 48000), (".opus", 44100, 48000), (".opus", 11025, 12000),
     (".m4a", 44100, 44100), (".m4a", 7000, 8000)],
)  # fmt: skip
def test_coded_sound_starts_and_ends_where_it_did(tmp_path: Path, suffix: str, rate: int, coded: int) -> None:
    """Also at a rate that the format does not have: codecs add samples before, and files say how many."""
    sound = np.zeros((2, 2 * rate), np.float32)
    sound[0, :rate] = tone_samples(1.0, rate, 440.0, 0.5, 0.5)
    write_audio(tmp_path / f"a{suffix}", sound, rate)
    found, found_rate = read_audio(tmp_path / f"a{suffix}")
    assert found_rate == coded and len(found) == 2
    assert 0 <= found.shape[1] - 2 * coded <= (1024 if suffix == ".m4a" else 0), "AAC has whole packets only"
    loud = np.flatnonzero(np.abs(found[0]) > 0.1) / coded
    assert (loud[0], loud[-1]) == pytest.approx((0.5, 1.0), abs=0.01)
    assert np.abs(found[1]).max() < 0.02, "the channels stay apart"


@pytest.mark.parametrize(("suffix", "bits"), [(".wav", 16), (".wav", 24), (".wav", 32), (".flac", 16), (".flac", 24)])
def test_exact_formats_hold_every_sample(tmp_path: Path, suffix: str, bits: int) -> None:
    sound = quantised(np.random.default_rng(0).uniform(-1, 1, (3, 999)).astype(np.float32), bits)
    write_audio(tmp_path / f"a{suffix}", sound, 48000, bits)
    np.testing.assert_array_equal(read_audio(tmp_path / f"a{suffix}")[0], sound)
    assert soundfile.info(tmp_path / f"a{suffix}").subtype == writers.BITS[bits]


def test_what_a_format_cannot_hold_is_told_before() -> None:
    for name, channels, bits, said in (
        ("a.flac", 9, None, "no 9 channels"), ("a.mp3", 3, None, "no 3 channels"), ("a.m4a", 7, None, "no 7 channels"),
        ("a.flac", 2, 32, "no samples of 32 bits"), ("a.ogg", 2, 24, "has no bits"),
    ):  # fmt: skip
        with pytest.raises(AvsetError, match=said):
            check_writable(Path(name), channels, bits)
    check_writable(Path("a.wav"), 64, 32)


def test_beyond_four_gigabytes_a_wav_is_an_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "LARGEST", 1000)
    for expected, kind in ((999.0, b"RIFF"), (1001.0, b"RF64")):
        with AudioWriter(tmp_path / "a.wav", 8000, expected=expected) as sound:
            sound.write(np.zeros(600, np.float32))
        assert (tmp_path / "a.wav").read_bytes()[:4] == kind
        assert read_audio(tmp_path / "a.wav")[0].shape == (1, 600)

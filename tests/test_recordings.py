"""Recordings of a user: whatever plays is read, in blocks or whole; what is written is there whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from media import RATE, TONE, amplitude, decode_audio, make_video, reason

from avset.errors import AvsetError
from avset.media.container import open_media, track
from avset.media.recordings import SAMPLES_AT_ONCE, read_audio, read_blocks, read_format
from avset.media.waveforms import resample, sound_blocks
from avset.media.writers import write_audio


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_an_audio_file_in_blocks_is_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2 * SAMPLES_AT_ONCE + 777, 2)).astype(np.float32)
    with soundfile.SoundFile(path, "w", 44100, 2) as sound:
        for at in range(0, len(samples), SAMPLES_AT_ONCE):
            sound.write(samples[at : at + SAMPLES_AT_ONCE])
    blocks = list(read_blocks(path))
    assert max(block.shape[1] for block, _ in blocks) <= SAMPLES_AT_ONCE and {rate for _, rate in blocks} == {44100}
    whole, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks], 1), whole.T)


@pytest.mark.parametrize("options", [{}, {"audio_delay": 0.7}, {"audio_gap": 20.0}])
def test_a_sound_track_in_blocks_is_the_track_on_its_timeline(tmp_path: Path, options: dict[str, float]) -> None:
    path = make_video(tmp_path / "a.mkv", 3.0, sample_rate=44100, acodec="pcm_s16le", layout="stereo", **options)
    blocks = [block for block, _ in read_blocks(path)]
    assert max(block.shape[1] for block in blocks) <= SAMPLES_AT_ONCE
    found = np.concatenate(blocks, 1)
    with open_media(path) as container:
        parts = [(index, block) for index, block, _ in sound_blocks(container, track(container, "audio"), 0.0)]
    for index, block in parts:
        np.testing.assert_array_equal(found[:, index : index + block.shape[1]], block)
    assert found.shape[1] == parts[-1][0] + parts[-1][1].shape[1]
    assert np.count_nonzero(found) == sum(np.count_nonzero(block) for _, block in parts), "zeros where nothing is"


def test_of_sound_that_overlaps_the_first_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", 1.0)
    parts = [(-2, 0.1, 5), (3, 0.2, 4), (6, 0.3, 4), (11, 0.5, 2)]
    blocks = [(index, np.full((1, count), value, np.float32), 2) for index, value, count in parts]
    monkeypatch.setattr("avset.media.recordings.sound_blocks", lambda *_: iter(blocks))
    found = read_audio(path)[0][0].round(1).tolist()
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3, 0, 0.5, 0.5])
    blocks.append((1, np.full((1, 3), 0.4, np.float32), 2))
    with pytest.raises(AvsetError, match=r"time goes back: 6\.50 s of 8\.50 s"):
        read_audio(path)


def test_a_time_stamp_beyond_all_measure_is_damage(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", 1.0, size=(64, 64), acodec="pcm_s16le", audio_gap=1e6)
    with pytest.raises(AvsetError, match=r"a\.mkv.*time stamp of 100000. s"):
        read_audio(path)


def test_what_is_wrong_with_the_end_is_found_at_the_end(tmp_path: Path) -> None:
    path = make_video(tmp_path / "cut.mov", 4.0, size=(64, 64), acodec="pcm_s16le")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    blocks, found = read_blocks(path), []
    with pytest.raises(AvsetError, match=r"cut\.mov.*plays to its end"):
        for block, _ in blocks:
            found.append(block)
    assert found


def test_any_media_file_of_a_user_is_read(tmp_path: Path) -> None:
    for name, acodec in {
        "a.mp4": "aac",
        "a.mkv": "flac",
        "song.m4a": "aac",
        "song.mp3": "libmp3lame",
    }.items():
        path = make_video(
            tmp_path / name, 2.0, size=(64, 64), sample_rate=44100, tone=TONE, layout="stereo", acodec=acodec,
            video=name.startswith("a"),
        )  # fmt: skip
        waveform, rate = read_audio(path)
        assert rate == 44100 and waveform.shape[0] == 2
        assert waveform.shape[1] == pytest.approx(2.0 * rate, abs=2400)
        left, right = (amplitude(resample(channel[: 2 * rate], rate, RATE)) for channel in waveform)
        assert left == pytest.approx(0.5, rel=0.06) and right == pytest.approx(left / 2, rel=0.02)


def test_the_sound_of_a_video_is_read_on_its_timeline(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 2.0, sample_rate=44100, tone=TONE, audio_delay=0.5)
    waveform, rate = read_audio(path)
    assert np.argmax(np.abs(waveform[0]) > 0.1) / rate == pytest.approx(0.5, abs=2e-3)


def test_unreadable_files_of_a_user_are_named(tmp_path: Path) -> None:
    for name in ("text.wav", "text.mp4", "-.raw"):
        (tmp_path / name).write_text("nothing to hear")
    make_video(tmp_path / "mute.mp4", audio=False)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    cut = make_video(tmp_path / "cut.mp4", 4.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    for name in ("text.wav", "text.mp4", "-.raw", "mute.mp4", "empty.wav", "cut.mp4", "absent.wav"):
        with pytest.raises(AvsetError, match=f"{name}.*give a .wav"):
            read_audio(tmp_path / name)


def test_no_file_stays_open(tmp_path: Path) -> None:
    good = make_video(tmp_path / "good.mp4")
    mute = make_video(tmp_path / "mute.mp4", amplitude=0.0)
    (tmp_path / "text.mp4").write_text("nothing")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        decode_audio(good, 0.5, 0.5, RATE)
        read_audio(good)
        write_audio(tmp_path / "a.wav", read_audio(good)[0], 22050)
        read_audio(tmp_path / "a.wav")
        reason(decode_audio, mute, 0.0, 1.0, RATE)
        reason(decode_audio, tmp_path / "text.mp4", 0.0, 1.0, RATE)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("suffix", "subtype", "bits"),
    [(".wav", "PCM_U8", 16), (".wav", "PCM_16", 16), (".wav", "PCM_24", 24), (".wav", "FLOAT", 32),
     (".aiff", "DOUBLE", 32), (".flac", "PCM_24", 24), (".ogg", "VORBIS", 16), (".mp3", "MPEG_LAYER_III", 16)],
)  # fmt: skip
def test_the_format_of_a_recording_is_known_before_it_is_read(tmp_path: Path, suffix: str, subtype: str, bits: int):
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, np.zeros((24000, 2), np.float32), 48000, subtype)
    found = read_format(path)
    assert (found.sample_rate, found.channels, found.bits, found.pictures) == (48000, 2, bits, "")
    assert found.seconds == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("acodec", "bits"), [("aac", 16), ("pcm_s24le", 24), ("pcm_f32le", 32), ("pcm_s16le", 16)])
def test_the_format_of_a_film_is_known_too(tmp_path: Path, acodec: str, bits: int):
    path = make_video(tmp_path / "a.mov", 2.0, sample_rate=44100, acodec=acodec)
    found = read_format(path)
    assert (found.sample_rate, found.channels, found.bits, found.pictures) == (44100, 1, bits, "h264")
    assert found.seconds == pytest.approx(2, abs=0.1)
    with pytest.raises(AvsetError, match="no_audio"):
        read_format(make_video(tmp_path / "mute.mp4", audio=False))

"""Sound on the pictures' timeline: tones with a known onset, phase and level."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media import RATE, SILENCE, TONE, amplitude, decode_audio, lag, make_video, reason, tone_samples

from avset.errors import AvsetError
from avset.features.samples import from_int16, is_silent, rms_dbfs, to_int16
from avset.media.recordings import read_audio
from avset.media.waveforms import BLOCK, _filtered, _ratio, overlapping, resample, resample_blocks


@pytest.mark.parametrize(
    ("suffix", "acodec", "rate", "layout", "mean", "precision"),
    [  # mean of 1, 1/2, 1/3 ...; AAC and AC-3 keep only the lows of the fourth channel of 5.1
        (".mp4", "aac", 8000, "mono", 1.0, 1e-5),
        (".mp4", "aac", 44100, "mono", 1.0, 1e-5),
        (".mp4", "aac", 44100, "stereo", 0.75, 1e-5),
        (".mp4", "aac", 48000, "5.1", 2.2 / 6, 1e-5),
        (".mp4", "libmp3lame", 48000, "mono", 0.95, 1e-5),
        (".mp4", "libopus", 48000, "mono", 1.0, 1e-5),
        (".mov", "pcm_s16le", 192000, "mono", 1.0, 1e-5),
        (".mov", "pcm_s24le", 96000, "stereo", 0.75, 1e-5),
        (".mkv", "flac", 44100, "stereo", 0.75, 1.1e-3),
        (".mkv", "pcm_u8", 11025, "mono", 1.0, 1.1e-3),
        (".mkv", "pcm_f32le", 22050, "mono", 1.0, 1.1e-3),
        (".webm", "libopus", 48000, "stereo", 0.75, 1.1e-3),
        (".avi", "pcm_s16le", 48000, "mono", 1.0, 1e-5),
    ],
)
def test_excerpts_keep_time_pitch_and_level(
    tmp_path: Path, suffix: str, acodec: str, rate: int, layout: str, mean: float, precision: float
) -> None:
    vcodec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    path = make_video(
        tmp_path / f"a{suffix}", 5.0, size=(64, 64), sample_rate=rate, tone=TONE, onset=1.0, layout=layout,
        vcodec=vcodec, acodec=acodec,
    )  # fmt: skip
    for start in (0.0, 0.9, 2.25, 3.5):
        waveform = decode_audio(path, start, 1.5, RATE)
        assert waveform.shape == (round(1.5 * RATE),) and waveform.dtype == np.float32
        assert abs(lag(waveform, start, 1.0)) < precision
        assert amplitude(waveform) == pytest.approx(0.5 * mean, rel=0.02)
    early = decode_audio(path, 0.0, 1.5, RATE)
    assert np.argmax(np.abs(early) > 0.1 * mean) / RATE == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.m4a", "a.mkv"])
def test_the_first_packet_of_aac_is_whole(tmp_path: Path, name: str) -> None:
    """It needs the one before time 0, else it fades in from nothing."""
    path = make_video(tmp_path / name, 1.0, acodec="aac", sample_rate=44100, tone=TONE, video=name != "a.m4a")
    first = decode_audio(path, 0.0, 0.5, 44100)[:1024]
    assert np.abs(first - tone_samples(0.5, 44100, TONE, 0.5, 0.0)[:1024]).max() < 0.06


def test_an_excerpt_is_a_piece_of_the_whole(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 6.0, size=(64, 64), sample_rate=44100, tone=TONE, onset=1.0)
    whole = decode_audio(path, 0.0, 6.0, RATE)
    for start in (0, 1, 2, 4):
        piece = decode_audio(path, float(start), 2.0, RATE)
        np.testing.assert_allclose(piece, whole[start * RATE : (start + 2) * RATE], atol=1e-5)
    odd = decode_audio(path, 1.2345, 0.4321, RATE)
    assert len(odd) == round(0.4321 * RATE)


@pytest.mark.parametrize(("suffix", "precision"), [(".mp4", 1e-3), (".mkv", 1.1e-3)])
def test_a_late_sound_track_is_preceded_by_silence(tmp_path: Path, suffix: str, precision: float) -> None:
    path = make_video(
        tmp_path / f"a{suffix}", 3.0, size=(64, 64), sample_rate=44100, tone=TONE, onset=0.5, audio_delay=0.7
    )
    for start in (0.0, 0.9, 2.0):
        assert abs(lag(decode_audio(path, start, 1.7, RATE), start, 1.2)) < precision
    before = decode_audio(path, 0.0, 1.5, RATE)
    assert rms_dbfs(before[: round(1.19 * RATE)]) < -50
    assert not before[: round(0.6 * RATE)].any()


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "a.mkv",
        4.0,
        size=(64, 64),
        sample_rate=8192,
        tone=TONE,
        acodec="pcm_s16le",
        audio_gap=0.5037,
    )  # its pieces of 1024 samples meet at 2 s
    waveform, whole = decode_audio(path, 0.5, 3.5, RATE), read_audio(path)[0]
    assert amplitude(waveform[: round(1.45 * RATE)]) == pytest.approx(0.5, rel=0.01)
    assert np.abs(waveform[round(1.55 * RATE) : round(1.95 * RATE)]).max() < 1e-12
    assert abs(lag(waveform, 0.5, 0.5037)) < 1.1e-3
    assert whole.shape[1] == pytest.approx(4.5037 * 8192, abs=10) and not whole[:, 17000:20000].any()


def test_sound_and_pictures_of_an_mpeg_ts_share_their_timeline(tmp_path: Path) -> None:
    import av

    path = make_video(tmp_path / "a.ts", 3.0, size=(64, 64), sample_rate=44100, tone=TONE, onset=1.0)
    with av.open(str(path)) as container:
        late = (container.streams.video[0].start_time or 0) / 90000 - container.start_time / 1e6
    assert abs(lag(decode_audio(path, 1.0, 1.5, RATE), 1.0, 1.0 + late)) < 1e-4


def test_a_sound_track_that_ends_early(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 3.0, size=(64, 64), audio_duration=2.0)
    waveform = decode_audio(path, 0.9, 1.5, RATE)
    assert waveform.shape == (round(1.5 * RATE),)
    assert amplitude(waveform[: round(1.0 * RATE)]) == pytest.approx(0.5, rel=0.02)
    assert not waveform[round(1.2 * RATE) :].any()
    assert reason(decode_audio, path, 0.9, 2.0, RATE) == "truncated"


def test_a_clip_of_three_tenths_of_a_second(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 0.3, size=(64, 64), sample_rate=44100)
    waveform = decode_audio(path, 0.0, 0.3, RATE)
    assert waveform.shape == (round(0.3 * RATE),)
    assert amplitude(waveform) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    ("suffix", "acodec", "vcodec"),
    [(".mp4", "aac", "libx264"), (".mov", "pcm_s16le", "libx264"), (".webm", "libopus", "libvpx-vp9")],
)
def test_half_a_file_is_truncated_where_it_ends(tmp_path: Path, suffix: str, acodec: str, vcodec: str) -> None:
    path = make_video(tmp_path / f"a{suffix}", 4.0, sample_rate=48000, acodec=acodec, vcodec=vcodec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert amplitude(decode_audio(path, 0.0, 1.5, RATE)) == pytest.approx(0.5, rel=0.05)
    assert reason(decode_audio, path, 0.0, 4.0, RATE) == "truncated"
    assert reason(decode_audio, path, 3.0, 1.0, RATE) == "truncated"


def test_files_without_usable_sound(tmp_path: Path) -> None:
    for name, content in {"zero.mp4": b"", "text.mp4": b"not a film\n" * 500}.items():
        (tmp_path / name).write_bytes(content)
        assert reason(decode_audio, tmp_path / name, 0.0, 1.0, RATE) == "corrupt"
    assert reason(decode_audio, tmp_path / "absent.mp4", 0.0, 1.0, RATE) == "missing"
    pictures = make_video(tmp_path / "pictures.mp4", audio=False)
    assert reason(decode_audio, pictures, 0.0, 1.0, RATE) == "no_audio"
    path = make_video(tmp_path / "broken.mp4", 4.0, acodec="aac", sample_rate=44100)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    assert reason(decode_audio, path, 0.0, 4.0, RATE) == "corrupt"


def test_sound_that_is_not_a_number_is_corrupt(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", amplitude=math.nan, acodec="pcm_f32le")
    assert reason(decode_audio, path, 0.0, 1.0, RATE) == "corrupt"
    with pytest.raises(AvsetError, match=r"a\.mkv.*not numbers"):
        read_audio(path)


def test_silence_is_measured_on_the_mono_excerpt(tmp_path: Path) -> None:
    mute = make_video(tmp_path / "mute.mp4", amplitude=0.0)
    assert reason(decode_audio, mute, 0.0, 2.0, RATE) == "silent"
    path = make_video(tmp_path / "late.mp4", 4.0, onset=2.0, sample_rate=44100)
    assert reason(decode_audio, path, 0.0, 1.5, RATE) == "silent"
    assert decode_audio(path, 2.5, 1.0, RATE).any()
    faint = make_video(tmp_path / "faint.mkv", amplitude=1e-3, acodec="flac")  # at -63 dBFS
    assert reason(decode_audio, faint, 0.0, 2.0, RATE) == "silent"
    assert rms_dbfs(decode_audio(faint, 0.0, 2.0, RATE, silence=-70.0)) == pytest.approx(-63.0, abs=0.1)


def test_levels() -> None:
    assert rms_dbfs(np.ones(100, np.float32)) == 0.0
    assert rms_dbfs(tone_samples(1.0, 8000, 100.0, 1.0, 0.0)) == pytest.approx(-3.0103, abs=1e-4)
    assert rms_dbfs(np.zeros((2, 100), np.float32)) == -math.inf
    quiet = np.full(100, 10 ** (-59.9 / 20), np.float32)
    assert not is_silent(quiet, SILENCE) and is_silent(quiet * np.float32(0.9), SILENCE) and is_silent(quiet, -50.0)


@pytest.mark.parametrize(
    ("rate", "precision"),
    [(8000, 3e-6), (16000, 3e-6), (22050, 3e-6), (24000, 3e-6), (32000, 3e-6), (44100, 3e-6), (48000, 3e-6),
     (96000, 3e-6), (192000, 3e-6), (44056, 2e-3), (47999, 2e-2)],  # the last two: no ratio of small numbers
)  # fmt: skip
def test_resampling_keeps_pitch_phase_and_level(rate: int, precision: float) -> None:
    found = resample(tone_samples(2.0, rate, 1000.0, 0.5, 0.0), rate, RATE)
    assert abs(len(found) - 2 * RATE) <= 1
    expected = tone_samples(2.0, RATE, 1000.0, 0.5, 0.0)
    np.testing.assert_allclose(found[200:-200], expected[200 : len(found) - 200], atol=precision)


def test_resampling_does_not_alias() -> None:
    level = {f: rms_dbfs(resample(tone_samples(1.0, 48000, f, 1.0, 0.0), 48000, RATE)[500:-500]) + 3.0103
             for f in (100.0, 2500.0, 4950.0, 5650.0, 9000.0, 20000.0)}  # fmt: skip
    for frequency in (100.0, 2500.0, 4950.0):
        assert level[frequency] == pytest.approx(0.0, abs=0.1)
    for frequency in (5650.0, 9000.0, 20000.0):
        assert level[frequency] < -110


def test_resampling_leaves_its_input_alone_and_takes_channels() -> None:
    stereo = np.stack([tone_samples(0.5, 44100, f, 0.5, 0.0) for f in (300.0, 700.0)])
    stereo.flags.writeable = False
    found = resample(stereo[:, ::-1], 44100, RATE)
    np.testing.assert_array_equal(found[1], resample(stereo[1, ::-1], 44100, RATE))
    assert resample(stereo, RATE, RATE) is not stereo
    np.testing.assert_array_equal(resample(stereo, RATE, RATE), stereo)


def pieces(waveform: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """A waveform in blocks of some size, the last one shorter."""
    return (waveform[..., at : at + size] for at in range(0, waveform.shape[-1], size))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 47999, 192000])
def test_resampling_block_by_block_is_resampling(rate: int) -> None:
    waveform = np.random.default_rng(0).uniform(-1, 1, 3 * BLOCK + 12345).astype(np.float32)
    down, up = _ratio(rate, RATE)
    whole = resample(waveform, rate, RATE)
    assert whole.shape == (-(-len(waveform) * up // down),)
    np.testing.assert_allclose(whole, _filtered(waveform, down, up), atol=2e-6)  # in one go: sums in another order
    for size in (1777, BLOCK - 1, BLOCK, 10**6):
        found = list(resample_blocks(((block, rate) for block in pieces(waveform, size)), RATE))
        assert max(map(len, found)) <= (BLOCK + down) * max(1, up / down) + 1
        np.testing.assert_array_equal(np.concatenate(found), whole)  # to the byte


@pytest.mark.parametrize("length", [1, 2, 3, 639, 640, 641, BLOCK, BLOCK + 320])
def test_resampling_counts_samples_at_any_length(length: int) -> None:
    impulse = np.zeros(length, np.float32)
    impulse[-1] = 1
    for rate in (44100, 48000):
        down, up = _ratio(rate, RATE)
        found = resample(impulse, rate, RATE)
        assert len(found) == math.ceil(length * up / down)
        np.testing.assert_allclose(found, _filtered(impulse, down, up), atol=1e-6)


@pytest.mark.parametrize(("size", "step"), [(7, 7), (7, 3), (1, 1)])
def test_pieces_overlap_and_nothing_is_read_before_its_time(size: int, step: int) -> None:
    stream, read = np.arange(50, dtype=np.float32), 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal read
        for block in pieces(stream, 4):
            read += len(block)
            yield block

    found = []
    for piece in overlapping(blocks(), size, step):
        np.testing.assert_array_equal(piece, stream[len(found) * step :][:size])
        assert read <= len(found) * step + size + 3
        found.append(piece)
    assert len(found) * step >= 50 - (size - step) and all(len(piece) == size for piece in found[:-1])
    assert len(found[-1]) < size


def test_int16_round_trip() -> None:
    waveform = np.random.default_rng(0).uniform(-1, 1, 100_000).astype(np.float32)
    assert np.abs(from_int16(to_int16(waveform)) - waveform).max() <= 0.5 / 32767 * 1.001
    steps = np.arange(-32767, 32768).astype(np.int16)
    np.testing.assert_array_equal(to_int16(from_int16(steps)), steps)
    np.testing.assert_array_equal(
        to_int16(np.array([-2.0, -1.0, 0.0, 1.0, 1e9], np.float32)), [-32767, -32767, 0, 32767, 32767]
    )

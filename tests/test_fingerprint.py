"""A recording is known again in another codec, size, level and cut; strangers and what shows nothing are not."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import make_video

from avset.errors import ClipError
from avset.media import fingerprint as fp
from avset.media.container import probe
from avset.sources import demo

OPTIONS = demo.Options(duration=4.0)


def of(path: Path) -> fp.Fingerprint:
    return fp.fingerprint(path, probe(path).duration)


def same(a: fp.Fingerprint, b: fp.Fingerprint) -> tuple[bool, bool]:
    """(same sound, same pictures)"""
    return fp.same_sound(a, b), bool(fp.same_pictures(a.pictures[None], b.pictures[None])[0])


def again(source: Path, target: Path, vcodec: str, acodec: str, rate: int, size: int, cut: float, gain: float) -> Path:
    """The recording of `source` encoded anew, without its first and last `cut` s."""
    with av.open(source) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        fps = container.streams.video[0].average_rate
    with av.open(source) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]) * np.float32(gain)
        own = container.streams.audio[0].rate
    kept = slice(round(cut * fps), len(pictures) - round(cut * fps))
    sound = sound[round(cut * own) : len(sound) - round(cut * own)]
    with av.open(target, "w") as container:
        video: Any = container.add_stream(vcodec, rate=fps, bit_rate=100_000)
        audio: Any = container.add_stream(acodec, rate=rate, layout="stereo", bit_rate=48_000)
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures[kept]):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(size, size, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        resampler = av.AudioResampler(audio.format.name, "stereo", rate, audio.codec_context.frame_size)
        whole = av.AudioFrame.from_ndarray(sound[None].copy(), "flt", "mono")
        whole.sample_rate = own
        for piece in (*resampler.resample(whole), *resampler.resample(None)):
            container.mux(audio.encode(piece))
        container.mux(audio.encode())
    return target


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two pieces for one instrument."""
    folder = tmp_path_factory.mktemp("music")
    names = ("cello-train-000", "cello-train-001")
    entries = {entry.media_id: entry for entry in demo.listing(OPTIONS).entries}
    for name in names:
        demo.fetch(entries[name], OPTIONS, folder / f"{name}.mp4")
    return {name[-1]: folder / f"{name}.mp4" for name in names}


@pytest.mark.parametrize(
    ("suffix", "how"),
    [(".mkv", ("libx264", "libopus", 48000, 160, 0.0, 1.0)), (".avi", ("mpeg4", "libmp3lame", 44100, 96, 0.4, 0.3))],
)
def test_a_recording_is_known_again(music: dict[str, Path], tmp_path: Path, suffix: str, how: tuple[Any, ...]) -> None:
    copy = again(music["0"], tmp_path / f"copy{suffix}", *how)
    assert same(of(music["0"]), of(copy)) == (True, True) == same(of(copy), of(music["0"]))
    assert same(of(music["1"]), of(copy)) == (False, False)


def test_another_piece_for_the_same_instrument_is_another(music: dict[str, Path]) -> None:
    assert same(of(music["0"]), of(music["1"])) == (False, False)


def test_a_steady_sound_is_known_by_its_spectrum_where_the_pictures_move(tmp_path: Path) -> None:
    first = of(make_video(tmp_path / "a.mp4"))
    assert first.steady and not first.still
    assert same(first, of(make_video(tmp_path / "b.mkv", acodec="flac", amplitude=0.1))) == (True, True)
    assert same(first, of(make_video(tmp_path / "c.mp4", tone=880.0))) == (False, True)
    silent = of(make_video(tmp_path / "d.mp4", amplitude=0.0))
    assert same(silent, silent) == (False, True) == same(silent, first)
    slide = of(make_video(tmp_path / "e.mp4", times=[0.0, 1.9]))
    assert slide.still and same(slide, slide) == (False, True)


def test_what_cannot_be_decoded_has_no_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film")
    nothing = fp.fingerprint(tmp_path / "a.mp4", 2.0)
    assert [len(nothing.sound), nothing.shape.any(), len(nothing.pictures)] == [0, False, 0]

    def late(path: Path) -> np.ndarray:
        raise ClipError("timeout", "too long")

    monkeypatch.setattr(fp, "_samples", late)
    with pytest.raises(ClipError, match="timeout"):
        fp.fingerprint(tmp_path / "a.mp4", 2.0)


def test_a_tone_is_in_its_band_and_a_rise_is_a_bit() -> None:
    edges = np.geomspace(fp.LOWEST, fp.HIGHEST, fp.BITS + 2)
    time = np.arange(2 * fp.RATE) / fp.RATE
    tones = {band: np.sin(2 * np.pi * np.sqrt(edges[band] * edges[band + 1]) * time) for band in (10, 20)}
    quiet = 0.5 * tones[10] + 0.01 * tones[20] * (time < 1.0) + 0.5 * tones[20] * (time >= 1.0)
    levels = fp.bands(quiet.astype(np.float32))
    assert (levels[:8].argmax(1) == 10).all() and levels.shape == ((len(time) - fp.WINDOW) // fp.HOP + 1, fp.BITS + 1)
    words, _ = fp.words(levels)
    bits = words[:, None] >> np.arange(fp.BITS, dtype=np.uint32) & 1
    assert set(np.flatnonzero(bits.any(0))) >= {20} and not bits[:4].any() and not bits[-4:].any()
    assert bits[:, 20].sum() >= 2 and not bits[:, 5:9].any()
    assert np.array_equal(words, fp.words(fp.bands((0.1 * quiet).astype(np.float32)))[0]), "whatever the level"
    assert len(fp.words(fp.bands(np.zeros(100, np.float32)))[0]) == 0


def test_likeness_is_the_share_of_common_bits_at_the_best_lag() -> None:
    words = np.bitwise_and.reduce(np.random.default_rng(0).integers(0, 2**32, (2, 40), dtype=np.uint32))
    assert fp.likeness(words, words[7:]) == 1.0 == fp.likeness(words[7:], words)
    assert fp.likeness(words, words & np.uint32(0xFFFF)) == pytest.approx(0.5, abs=0.05)
    assert fp.likeness(words, words[::-1].copy()) < fp.ALIKE
    assert fp.likeness(words[:1], words[1:2]) == 0.0, "too few bits to tell"


def test_a_flat_picture_is_known_by_its_colour() -> None:
    colours = np.zeros((3, fp.SIDE, fp.SIDE, 3), np.uint8)
    colours[1], colours[2] = 3, (200, 0, 0)
    black, nearly, red = fp.hashes(colours).tolist()
    assert (black ^ nearly).bit_count() <= fp.NEAR < (black ^ red).bit_count()

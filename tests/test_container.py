"""Containers, codecs and what files do to time: every picture says its number, the tone's onset is known."""

import os
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fuzz import elements
from media import (
    RATE,
    TONE,
    Track,
    amplitude,
    decode_audio,
    first_picture,
    lag,
    make_video,
    numbered_picture,
    numbers,
    reason,
    remux,
)

import avset.media.container
from avset.errors import AvsetError, ClipError
from avset.media.container import TAIL, probe
from avset.media.frames import decode_frames
from avset.media.recordings import read_audio
from avset.sources.download.excerpt import cut
from avset.storage.reading import PatientFile

HOLDS = {  # what a container holds, as libavformat writes it
    ".mp4": (
        ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "mpeg4", "mjpeg"],
        ["aac", "libmp3lame", "libopus", "vorbis", "flac", "pcm_s16le"],
    ),
    ".mkv": (
        ["libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1", "mpeg4", "mjpeg"],
        ["aac", "libmp3lame", "libopus", "vorbis", "flac", "pcm_s16le"],
    ),
    ".webm": (["libvpx", "libvpx-vp9", "libsvtav1"], ["libopus", "vorbis"]),
    ".mov": (["libx264", "libx265", "mpeg4", "mjpeg"], ["aac", "libmp3lame", "pcm_s16le"]),
    ".avi": (
        ["libx264", "libvpx", "libvpx-vp9", "libsvtav1", "mpeg4", "mjpeg"],
        ["aac", "libmp3lame", "pcm_s16le"],
    ),
    ".ts": (["libx264", "libx265", "mpeg4"], ["aac", "libmp3lame", "libopus"]),
}
ALL = [  # tracks are read one by one: every codec in every container, beside some codec of the other kind
    (suffix, pictures[i % len(pictures)], sounds[i % len(sounds)])
    for suffix, (pictures, sounds) in HOLDS.items()
    for i in range(max(len(pictures), len(sounds)))
]
SOME = [  # every container, codec of pictures and codec of sound, and the pairs that went wrong once
    (".mp4", "libx265", "flac"), (".mp4", "libsvtav1", "vorbis"), (".mkv", "libvpx", "libmp3lame"),
    (".mkv", "libx264", "libopus"), (".webm", "libsvtav1", "vorbis"), (".mov", "mjpeg", "libmp3lame"),
    (".avi", "libx264", "pcm_s16le"), (".avi", "mpeg4", "libmp3lame"), (".ts", "mpeg4", "libopus"),
    (".ts", "libx265", "aac"),
]  # fmt: skip
PLAIN = {".mp4": "flac", ".mkv": "flac", ".mov": "pcm_s16le"}  # sound as it was
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make_video` with small pictures and a tone that starts at 1 s; each kind of file is made once."""
    folder = tmp_path_factory.mktemp("formats")
    made: dict[str, Path] = {}

    def video(suffix: str = ".mp4", **wishes: Any) -> Path:
        key = repr((suffix, sorted(wishes.items())))
        if key not in made:
            told = {"duration": 3.0, "size": (64, 64), "sample_rate": 48000, "tone": TONE, "onset": 1.0, **wishes}
            made[key] = make_video(folder / f"{len(made)}{suffix}", **told)
        return made[key]

    return video


def check_sound(path: Path, onset: float, precision: float = 1.1e-3, until: float = 2.9, level: float = 0.5) -> None:
    """The tone starts at `onset` s of the timeline; wherever it is cut, its phase, pitch and level are right."""
    for start in (0.0, until - 1.6, until - 0.9):
        waveform = decode_audio(path, start, until - start, RATE)
        assert abs(lag(waveform, start, onset)) < precision
        assert amplitude(waveform) == pytest.approx(level, rel=0.03)
    waveform = decode_audio(path, 0.0, until, RATE)
    assert np.argmax(np.abs(waveform) > 0.2 * level) / RATE == pytest.approx(onset, abs=2e-3)


def check(path: Path, acodec: str) -> None:
    """Size, rate, duration, pictures alone and together, sound: right to 1 ms, except where there are no stamps."""
    counted = path.suffix == ".avi" and acodec in ("aac", "libmp3lame")  # the encoders' delays are in the count
    late, found = first_picture(path), probe(path)
    assert (found.width, found.height, found.sample_rate, found.channels) == (64, 64, 48000, 2)
    assert found.duration == found.declared == pytest.approx(3.0, abs=0.25) and found.fps == pytest.approx(10.0)
    wanted = np.array([0, 5, 10, 22, 29])
    times = np.array([0.02, 0.55, 1.05, 2.25, 2.95]) + late
    together, alone = numbers(path, times[::-1])[::-1], [numbers(path, [time])[0] for time in times]
    assert together == alone and np.abs(together - wanted).max() <= counted
    if counted:
        waveform = decode_audio(path, 0.0, 2.5, RATE)
        assert np.argmax(np.abs(waveform) > 0.1) / RATE == pytest.approx(1.0, abs=0.25)
    else:
        check_sound(path, 1.0 + late, level=0.356 if acodec == "libmp3lame" else 0.375)


@pytest.mark.parametrize(("suffix", "vcodec", "acodec"), SOME)
def test_formats(make: Make, suffix: str, vcodec: str, acodec: str) -> None:
    check(make(suffix, vcodec=vcodec, acodec=acodec, layout="stereo"), acodec)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "vcodec", "acodec"), [pair for pair in ALL if pair not in SOME])
def test_all_formats(make: Make, suffix: str, vcodec: str, acodec: str) -> None:
    check(make(suffix, vcodec=vcodec, acodec=acodec, layout="stereo"), acodec)


def test_formats_that_a_container_cannot_say_are_refused(make: Make) -> None:
    assert reason(probe, make(".ts", vcodec="libvpx", acodec="aac")) == "no_video"
    assert reason(probe, make(".ts", vcodec="mjpeg", acodec="aac")) == "no_video"
    assert reason(probe, make(".ts", acodec="flac")) == "no_audio"
    assert reason(probe, make(".avi", vcodec="mpeg4", acodec="vorbis", layout="stereo")) == "corrupt"


def test_old_containers(make: Make) -> None:
    path = make(".mpg", vcodec="mpeg2video", acodec="mp2", fps=25)  # a seek lands in the midst of a packet
    late = first_picture(path)
    assert [numbers(path, [time + late])[0] for time in (0.02, 1.05, 2.25, 2.9)] == [0, 26, 56, 72]
    check_sound(path, 1.0 + 481 / 48000)  # an MPEG-1 encoder's delay
    path = make(".flv", vcodec="flv", acodec="libmp3lame", sample_rate=22050)  # without keyframes
    late = first_picture(path)
    assert [numbers(path, [time + late])[0] for time in (0.02, 1.05, 2.25, 2.95)] == [0, 10, 22, 29]
    check_sound(path, 1.0 + late, level=0.475)


@pytest.mark.parametrize(
    ("suffix", "vcodec", "pix_fmt"),
    [
        (".mp4", "libx264", "yuv420p10le"),
        (".mkv", "libx265", "yuv420p10le"),
        (".webm", "libsvtav1", "yuv420p10le"),
        (".mp4", "libx264", "yuv444p"),
        (".mkv", "libvpx-vp9", "yuva420p"),
        (".mov", "qtrle", "argb"),
        (".mov", "prores_ks", "yuva444p10le"),
        (".avi", "rawvideo", "bgr24"),
    ],
)
def test_kinds_of_pixels(make: Make, suffix: str, vcodec: str, pix_fmt: str) -> None:
    acodec = "libopus" if suffix == ".webm" else "pcm_s16le"
    assert numbers(make(suffix, vcodec=vcodec, pix_fmt=pix_fmt, acodec=acodec), [0.55, 2.95]) == [5, 29]


def test_grey_and_interlaced_pictures(make: Make) -> None:
    grey = decode_frames(make(".mkv", vcodec="ffv1", pix_fmt="gray", acodec="flac"), np.array([1.05]), 64)[0]
    upright = numbered_picture(10, 64, 64) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey, np.repeat(upright[..., None], 3, axis=2), atol=3)
    path = make(".mp4", codec_options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    assert numbers(path, [0.55, 2.95]) == [5, 29]


@pytest.mark.parametrize(("suffix", "vcodec"), [(".webm", "libvpx-vp9"), (".mkv", "libvpx"), (".mkv", "ffv1")])
def test_odd_sizes(make: Make, suffix: str, vcodec: str) -> None:
    path = make(suffix, vcodec=vcodec, size=(131, 97), acodec="libopus")
    assert (probe(path).width, probe(path).height) == (131, 97)
    assert numbers(path, [0.55], 63) == [5]


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation(make: Make, suffix: str, rotation: int) -> None:
    path = make(suffix, size=(96, 64), rotation=rotation, acodec="pcm_s16le")
    assert (probe(path).width, probe(path).height) == (96, 64)
    assert numbers(path, [0.55, 2.95]) == [5, 29]


@pytest.mark.parametrize(("suffix", "vcodec"), [(".mkv", "libx264"), (".webm", "libvpx-vp9"), (".ts", "libx264")])
def test_variable_frame_rate(make: Make, suffix: str, vcodec: str) -> None:
    acodec = "libopus" if suffix == ".webm" else "aac"
    path = make(suffix, vcodec=vcodec, acodec=acodec, times=[0.0, 0.1, 0.5, 0.55, 1.7, 2.9])
    times = np.array([0.02, 0.3, 0.52, 1.6, 1.75, 2.95]) + first_picture(path)
    assert numbers(path, times) == [0, 1, 2, 3, 4, 5]
    assert [numbers(path, [time])[0] for time in times] == [0, 1, 2, 3, 4, 5]


HELD, STILL, SLIDES = [0.0, 0.1, 0.5], [0.0], [0.0, 1.0, 2.0]  # s of pictures


@pytest.mark.parametrize(
    ("suffix", "vcodec", "acodec", "times"),
    [(".webm", "libvpx", "libopus", HELD), (".mkv", "libx264", "flac", SLIDES), (".mp4", "libx264", "aac", HELD),
     (".mp4", "libx264", "aac", STILL), (".avi", "mjpeg", "pcm_s16le", HELD), (".ts", "libx264", "libmp3lame", STILL),
     (".flv", "flv", "libmp3lame", SLIDES)],
)  # fmt: skip
def test_the_last_picture_stays_while_the_sound_goes_on(
    make: Make, tmp_path: Path, suffix: str, vcodec: str, acodec: str, times: list[float]
) -> None:
    rate = 44100 if suffix == ".flv" else 48000
    path = make(suffix, vcodec=vcodec, acodec=acodec, duration=4.0, times=times, onset=0.0, sample_rate=rate)
    files = {path: (0.0, 4.0)}
    if suffix != ".flv":  # Matroska holds no such pictures
        target = tmp_path / "cut.mkv"
        files[target] = (cut([partial(PatientFile, path)], 2.5, 3.5, target), 3.5)
    for file, (zero, end) in files.items():
        found, alone = probe(file), probe(file, sound=False)
        assert min(found.duration, alone.duration) > end - zero - 0.05
        for time in np.linspace(max(zero, 0.3), end - 0.1, 4):
            wanted = max(n for n, begin in enumerate(times) if begin <= time)
            assert numbers(file, [time - zero]) == [wanted]
        assert amplitude(decode_audio(file, end - zero - 1.0, 0.9, RATE)) > 0.3
    assert reason(decode_frames, path, np.array([6.0]), 64) == "truncated"


def test_a_picture_track_that_is_cut_is_not_held(make: Make, tmp_path: Path) -> None:
    whole = make(".mkv", acodec="flac", duration=6.0)
    path = tmp_path / "a.mkv"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert probe(path).duration < 4.0 and reason(decode_frames, path, np.array([5.0]), 64) == "truncated"


WRAP = 2**33 / 90000  # s after which the clock of MPEG starts anew


@pytest.mark.parametrize(
    ("before", "length", "first"),
    [(2.0, 4.0, "audio"), (0.01, 3.0, "video"), (3.1, 3.0, "audio"),
     pytest.param(61.0, 63.0, "video", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_clock_that_starts_anew(make: Make, tmp_path: Path, before: float, length: float, first: str) -> None:
    fps = 1 if length > 10 else 10
    film = make(".mp4", duration=length, fps=fps, acodec="libmp3lame", onset=0.5, codec_options={"bf": "0"})
    shift = {kind: WRAP - before + (0.3 if kind != first else 0.0) for kind in ("video", "audio")}
    path = remux(tmp_path / "a.ts", *(Track(film, kind, shift=late) for kind, late in shift.items()))
    check_shifted(path, length, fps, shift["video"] - min(shift.values()), shift["audio"] - min(shift.values()))


def check_shifted(path: Path, length: float, fps: int, seen: float, heard: float) -> None:
    """Pictures start at `seen` s and the sound at `heard` s of the timeline, save the encoder's 25 ms."""
    found = probe(path)
    assert found.duration == found.declared == pytest.approx(length + 0.3, abs=0.05)
    for time in (0.05, length / 2 + 0.05, length - 0.05):
        assert numbers(path, [time + seen + 0.025]) == [int((time + 1e-6) * fps)]
    waveform = decode_audio(path, length - 1.5, 1.5, RATE)
    assert abs(lag(waveform, length - 1.5, 0.5 + heard + (0.025 if heard < seen else 0.0))) < 2.5e-3
    whole, rate = read_audio(path)
    assert whole.shape[1] / rate == pytest.approx(length + heard, abs=0.06)
    assert np.argmax(np.abs(whole[0]) > 0.1) / rate == pytest.approx(0.5 + heard, abs=0.03)


def test_a_clock_that_starts_anew_before_the_first_packet_of_the_other_track(make: Make, tmp_path: Path) -> None:
    film = make(".mp4", acodec="libmp3lame", onset=0.5, codec_options={"bf": "0"})
    path = remux(tmp_path / "a.ts", Track(film, "video", shift=WRAP - 0.2), Track(film, "audio", shift=WRAP + 0.1))
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    sound = [int.from_bytes(packet[1:3], "big") & 0x1FFF == 257 for packet in packets]
    start = sound.index(True)
    early = [n for n in range(start, len(packets)) if sound[n]][:8]
    pictures = next(n for n in range(len(packets)) if int.from_bytes(packets[n][1:3], "big") & 0x1FFF == 256)
    order = [*range(pictures), *early, *(n for n in range(pictures, len(packets)) if n not in early)]
    path.write_bytes(b"".join(packets[n] for n in order))
    check_shifted(path, 3.0, 10, 0.0, 0.3)
    zero = cut([partial(PatientFile, path)], 1.0, 2.0, tmp_path / "cut.mkv")
    assert numbers(tmp_path / "cut.mkv", [1.55 - zero]) == [15]


def test_a_frame_without_a_time_stamp_follows_the_one_before_it(make: Make) -> None:
    path = make(".wmv", vcodec="wmv2", acodec="wmav2", sample_rate=22050, duration=2.0, onset=0.0)
    assert probe(path).duration == pytest.approx(2.0, abs=0.1)
    late = first_picture(path)
    assert amplitude(decode_audio(path, 0.2, 1.8, RATE)) == pytest.approx(0.5, rel=0.03)
    assert numbers(path, np.array([0.05, 1.55]) + late) == [0, 15]
    whole, rate = read_audio(path)
    assert whole.shape[1] / rate == pytest.approx(2.0, abs=0.1)


def test_monkeys_audio_is_read_to_its_end(tmp_path: Path) -> None:
    path, length = tmp_path / "a.ape", 2 * 73728 + 1000
    path.write_bytes(silent_ape(length, 73728))
    assert read_audio(path)[0].shape == (2, length)  # of the many frames of a packet the first one has a time stamp
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(AvsetError, match=r"1\.67 s of 3\.37 s"):
        read_audio(path)


def silent_ape(blocks: int, frame: int) -> bytes:
    """A Monkey's Audio file: `blocks` samples in frames of `frame`, which say that they are silent."""
    frames, rest = divmod(blocks - 1, frame)
    body = struct.pack("<II16x", 0x80000000, 3)  # a checksum that says that flags follow, both channels silent
    head = struct.pack("<HHIIIHHI", 2000, 0, frame, rest + 1, frames + 1, 16, 2, 44100)
    table = [52 + 24 + 4 * (frames + 1) + 24 * n for n in range(frames + 1)]
    lengths = (52, 24, 4 * len(table), 0, 24 * len(table), 0, 0)
    start = b"MAC " + struct.pack("<HH7I", 3990, 0, *lengths) + bytes(16)
    return start + head + struct.pack(f"<{len(table)}I", *table) + body * len(table)


@pytest.mark.parametrize(
    ("suffix", "acodec", "rate", "layout", "level"),
    [
        (".mkv", "pcm_s16le", 8000, "mono", 0.5),
        (".mkv", "flac", 192000, "stereo", 0.375),
        (".mp4", "aac", 32000, "mono", 0.5),
        (".mp4", "libopus", 48000, "7.1", 0.5 * sum(1 / n for n in range(1, 9)) / 8),
        (".mov", "pcm_s16le", 48000, "7.1", 0.5 * sum(1 / n for n in range(1, 9)) / 8),
        (".mkv", "flac", 48000, "5.1", 0.5 * sum(1 / n for n in range(1, 7)) / 6),
    ],
)
def test_rates_and_channels(make: Make, suffix: str, acodec: str, rate: int, layout: str, level: float) -> None:
    path = make(suffix, acodec=acodec, sample_rate=rate, layout=layout)
    assert probe(path).sample_rate == rate
    assert probe(path).channels == {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[layout]
    check_sound(path, 1.0, level=level)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
def test_tracks_that_do_not_start_together(make: Make, tmp_path: Path, suffix: str) -> None:
    sound = make(".mp4", acodec={".mov": "pcm_s16le", ".ts": "libmp3lame"}.get(suffix, "flac"))
    level, pictures = 0.475 if suffix == ".ts" else 0.5, make(".mp4", codec_options={"bf": "0"})
    path = remux(tmp_path / f"a{suffix}", Track(pictures, "video"), Track(sound, "audio", shift=0.4))
    assert numbers(path, [0.05, 0.55, 2.95]) == [0, 5, 29]
    check_sound(path, 1.4, level=level)
    path = remux(tmp_path / f"b{suffix}", Track(pictures, "video", shift=0.4), Track(sound, "audio"))
    late = first_picture(path)
    assert late == pytest.approx(0.4, abs=0.025)  # an MP3 starts before its first sample
    assert numbers(path, np.array([-0.3, 0.05, 0.55, 2.95]) + late) == [0, 0, 5, 29]
    check_sound(path, 0.6 + late, level=level)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
def test_files_whose_clock_starts_at_ten_seconds(make: Make, tmp_path: Path, suffix: str) -> None:
    sound, pictures = make(".mp4", acodec="ac3"), make(".mp4", codec_options={"bf": "0"})
    path = remux(tmp_path / f"a{suffix}", Track(pictures, "video", shift=10.0), Track(sound, "audio", shift=10.0))
    found, late = probe(path), first_picture(path)
    assert found.duration == pytest.approx(3.0, abs=0.05) and found.declared - found.duration < TAIL
    assert numbers(path, np.array([0.05, 1.55, 2.95]) + late) == [0, 15, 29]
    waveform = decode_audio(path, 0.0, 2.9, RATE)
    assert np.argmax(np.abs(waveform) > 0.1) / RATE == pytest.approx(1.0 + late, abs=8e-3)  # AC-3 begins 5 ms early


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_an_edit_list_that_leaves_out_the_beginning(make: Make, tmp_path: Path, suffix: str) -> None:
    whole = make(".mp4", acodec=PLAIN[suffix], onset=1.5, gop=8)
    path = remux(tmp_path / f"a{suffix}", Track(whole, "video", shift=-1.0), Track(whole, "audio", shift=-1.0))
    data = path.read_bytes()
    cut = [struct.unpack_from(">i", data, at + 20)[0] for at in boxes(data, b"elst")]
    assert len(cut) == 2 and min(cut) > 0  # both tracks are cut by their edit lists
    assert probe(path).duration == pytest.approx(2.0, abs=0.05)
    assert numbers(path, [0.05, 0.55, 1.95]) == [10, 15, 29]
    assert [numbers(path, [time])[0] for time in (0.05, 0.55, 1.95)] == [10, 15, 29]
    check_sound(path, 0.5, until=1.95)


def test_a_file_in_fragments(make: Make) -> None:
    path = make(".mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}, codec_options={"bf": "0"})
    assert b"moof" in path.read_bytes()
    assert probe(path).duration == pytest.approx(3.0, abs=0.05)
    assert numbers(path, [0.05, 1.55, 2.95]) == [0, 15, 29]
    assert [numbers(path, [time])[0] for time in (0.05, 1.55, 2.95)] == [0, 15, 29]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cover_art_beside_the_pictures(make: Make, tmp_path: Path, suffix: str, first: bool) -> None:
    art = make(".mp4", duration=0.2, fps=5, size=(32, 32), vcodec="mjpeg", audio=False)
    film = [Track(make(".mp4", acodec=PLAIN[suffix]), kind) for kind in ("video", "audio")]
    cover = [Track(art, "video", cover=True)]
    path = remux(tmp_path / f"a{suffix}", *(cover + film if first else film + cover))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    assert probe(path).width == 64 and numbers(path, [0.05, 2.95]) == [0, 29]
    check_sound(path, 1.0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_the_sound_marked_as_default_plays_else_the_first(make: Make, tmp_path: Path, suffix: str) -> None:
    tone, other = (make(".mp4", acodec=PLAIN[suffix], tone=hertz) for hertz in (TONE, 900.0))
    plain = [Track(tone, "video"), Track(tone, "audio"), Track(other, "audio")]
    check_sound(remux(tmp_path / f"a{suffix}", *plain), 1.0)
    marked = [
        Track(other, "audio", default=False),
        Track(tone, "video", default=True),
        Track(tone, "audio", default=True),
    ]
    path = remux(tmp_path / f"b{suffix}", *marked)
    check_sound(path, 1.0)
    assert numbers(path, [0.05, 2.95]) == [0, 29]


def test_subtitles_are_passed_over(make: Make, tmp_path: Path) -> None:
    text, film = tmp_path / "a.srt", make(".mp4", acodec="flac")
    text.write_text("1\n00:00:00,100 --> 00:00:02,000\nla la la\n")
    tracks = [Track(text, "subtitle"), Track(film, "video"), Track(film, "audio")]
    path = remux(tmp_path / "a.mkv", *tracks)
    with av.open(str(path)) as container:
        assert container.streams[0].type == "subtitle"
    assert numbers(path, [0.05, 2.95]) == [0, 29]
    check_sound(path, 1.0)


@pytest.mark.parametrize("keep", [0.1, 0.35, 0.6, 0.9])
@pytest.mark.parametrize(
    ("suffix", "vcodec", "acodec"),
    [(".mp4", "libx264", "aac"), (".mkv", "libx264", "flac"), (".webm", "libvpx", "libopus"),
     (".avi", "mpeg4", "pcm_s16le"), (".ts", "libx264", "libmp3lame"), (".mov", "mjpeg", "pcm_s16le")],
)  # fmt: skip
def test_of_a_cut_file_all_that_is_promised_is_there(
    make: Make, tmp_path: Path, suffix: str, vcodec: str, acodec: str, keep: float
) -> None:
    whole = make(suffix, vcodec=vcodec, acodec=acodec, duration=6.0, onset=0.0)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(whole.read_bytes()[: int(keep * whole.stat().st_size)])
    try:
        found = probe(path)
    except ClipError as error:
        assert error.reason in ("truncated", "corrupt", "no_audio") and keep == 0.1
        return
    assert 6 * keep - 2.5 < found.duration < 6 * keep + 1.0
    assert found.declared == pytest.approx(6.0, abs=0.1) or suffix == ".ts"  # which declares nothing
    assert found.duration < 0.5 or decode_audio(path, 0.0, found.duration, RATE).any()
    assert decode_frames(path, np.array([0.0, found.duration / 2, found.duration]), 48).any()
    assert numbers(path, [found.duration])[0] <= 10 * found.duration + 1


def boxes(data: bytes | bytearray, name: bytes) -> list[int]:
    """Where the boxes with a name are in an MP4."""
    return [part.start for part in elements(bytes(data)) if data[part.start + 4 : part.start + 8] == name]


@pytest.mark.parametrize(("suffix", "vcodec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4")])
def test_a_header_that_declares_a_billion_seconds(make: Make, tmp_path: Path, suffix: str, vcodec: str) -> None:
    whole = make(suffix, vcodec=vcodec, acodec="pcm_s16le")
    data = bytearray(whole.read_bytes())
    if suffix == ".mp4":  # and the length of each picture
        for name in (b"mvhd", b"tkhd", b"mdhd"):
            for at in boxes(data, name):
                struct.pack_into(">I", data, at + (28 if name == b"tkhd" else 24), 2**31 - 1)
        table = boxes(data, b"stts")[0]
        ticks = struct.unpack_from(">I", data, table + 20)[0]
        struct.pack_into(">I", data, table + 20, min(ticks * 10**6, 2**31 - 1))
    elif suffix == ".mkv":
        struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, 1e12)  # ms
    else:
        for header in re.finditer(b"strh", bytes(data)):
            struct.pack_into("<I", data, header.end() + 36, 2**31 - 1)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    found = probe(path)
    assert (found.declared > 1e5 or suffix == ".mp4") and found.duration == pytest.approx(3.0, abs=0.15)
    check_sound(path, 1.0)
    assert numbers(path, [0.05, 2.95]) == ([0, 0] if suffix == ".mp4" else [0, 29])


def test_time_stamps_that_a_file_of_its_size_cannot_have(make: Make, tmp_path: Path) -> None:
    film = make(".mp4", acodec="flac")
    tracks = [Track(film, kind, repeats=2, period=1e6) for kind in ("video", "audio")]
    assert reason(probe, remux(tmp_path / "a.mkv", *tracks)) == "corrupt"


def test_pictures_larger_than_any_camera_makes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe(make(".mp4")).width == 64
    monkeypatch.setitem(avset.media.container.SMALL, "max_pixels", str(64 * 64 - 1))
    assert reason(probe, make(".mp4")) == "corrupt"


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{name}'\n",
        "ffconcat version 1.0\nfile 'http://127.0.0.1:9/a.mp4'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        '<?xml version="1.0"?><MPD><BaseURL>{path}</BaseURL></MPD>',
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat"])
def test_playlists_are_not_followed(make: Make, tmp_path: Path, content: str, suffix: str) -> None:
    (tmp_path / "film.ts").write_bytes(make(".ts").read_bytes())
    path = tmp_path / f"a{suffix}"
    path.write_text(content.format(path=tmp_path / "film.ts", name="film.ts"))
    assert reason(probe, path) == "corrupt"
    assert reason(decode_audio, path, 0.0, 1.0, RATE) == "corrupt"


def bytes_read(call: Callable, *args: object) -> tuple[Any, int]:
    """The result of a call, and the bytes that this process read from files meanwhile."""
    before = int(Path("/proc/self/io").read_text().split()[1])
    return call(*args), int(Path("/proc/self/io").read_text().split()[1]) - before


HOURS = 3 * 3600  # s
LONG = [
    (".mp4", "libx264", "flac", None),
    (".mkv", "libx264", "flac", None),
    (".webm", "libvpx", "libopus", None),
    (".mov", "libx264", "pcm_u8", None),
    (".avi", "mjpeg", "pcm_u8", None),
    (".ts", "libx264", "libmp3lame", None),
    (".mp4", "libx264", "flac", {"movflags": "frag_keyframe+empty_moov", "min_frag_duration": "300000000"}),
]


@pytest.mark.skipif(not os.access("/proc/self/io", os.R_OK), reason="Linux says there how many bytes were read")
@pytest.mark.parametrize(
    ("suffix", "vcodec", "acodec", "options"),
    [pytest.param(*case, marks=() if case[0] == ".mkv" else pytest.mark.slow) for case in LONG],
)
def test_three_hours(
    make: Make, tmp_path: Path, suffix: str, vcodec: str, acodec: str, options: dict[str, str] | None
) -> None:
    """A picture every few seconds; 500 Hz up to the middle, then 750 Hz. Little is read to find any of it."""
    rate, step = 48000 if acodec in ("libopus", "libmp3lame") else 8000, 1 if suffix == ".avi" else 4
    pictures = make(
        ".avi" if suffix == ".avi" else ".mkv", duration=float(HOURS), fps=1, size=(32, 32), vcodec=vcodec, audio=False,
        times=None if suffix == ".avi" else [float(second) for second in range(0, HOURS, step)],
        codec_options={"bf": "0"} if vcodec == "libx264" else {},
    )  # fmt: skip
    low, high = (
        make(".mkv", duration=2.4, video=False, acodec=acodec, sample_rate=rate, onset=0.0, tone=tone)
        for tone in (500.0, 750.0)
    )
    sound = Track(low, "audio", repeats=HOURS // 2 * 5 // 12, period=2.4, then=high)
    path = remux(tmp_path / f"a{suffix}", Track(pictures, "video"), sound, options=options)
    found, read = bytes_read(probe, path)
    assert found.duration == pytest.approx(HOURS, abs=5.0)
    late = first_picture(path)
    for middle in (HOURS / 2, HOURS - 8.0):
        times = np.array([-1.5, 0.5, 2.5]) + middle
        shown, more = bytes_read(numbers, path, times + late, 32)
        assert shown == [int(time) // step % 4096 for time in times]
        heard, most = bytes_read(decode_audio, path, middle - 2.0, 4.0, RATE)
        seconds = middle - 2.0 + np.arange(len(heard)) / RATE
        expected = 0.5 * np.sin(2 * np.pi * np.where(seconds < HOURS / 2, 500.0, 750.0) * seconds)
        if rate == 8000:
            away = np.abs(seconds - HOURS / 2) > 0.05
            np.testing.assert_allclose(heard[away], expected[away], atol=0.02)
        for part in (slice(0, RATE), slice(3 * RATE, 4 * RATE)):
            assert np.argmax(np.abs(np.fft.rfft(heard[part]))) == np.argmax(np.abs(np.fft.rfft(expected[part])))
        assert max(read, more, most) < 0.1 * path.stat().st_size

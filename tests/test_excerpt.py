import math
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from media import make_video, read_number

from avset.errors import ClipError
from avset.media.container import probe
from avset.media.frames import decode_frames
from avset.media.waveforms import decode_audio
from avset.sources.download.excerpt import cut
from avset.storage.reading import PatientFile

LENGTH, ONSET = 12.0, 5.0  # s; pictures at 10 per second, a keyframe every second
DASH = {"movflags": "dash+delay_moov+frag_keyframe+default_base_moof+global_sidx"}
FILES = {
    "B-frames": {"a.mp4": {}},
    "open GOP": {"a.mp4": {"codec_options": {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}}},
    "one keyframe": {"a.mp4": {"gop": 1000}},
    "fragments": {"a.mp4": {"options": DASH, "sample_rate": 44100}},
    "WebM": {"a.webm": {"vcodec": "libvpx-vp9", "acodec": "libopus", "sample_rate": 48000}},
    "MPEG-TS": {"a.ts": {"container": "mpegts", "sample_rate": 44100}},
    "AVI": {"a.avi": {"vcodec": "mpeg4", "acodec": "libmp3lame", "sample_rate": 44100}},
    "Matroska": {"a.mkv": {"acodec": "flac", "sample_rate": 44100}},
    "late sound": {"a.mp4": {"audio_delay": 2.0, "onset": ONSET - 2.0, "audio_duration": LENGTH - 2.0}},
    "two files": {"v.mp4": {"audio": False, "options": DASH}, "s.m4a": {"video": False, "sample_rate": 44100}},
    "two formats": {
        "v.webm": {"audio": False, "vcodec": "libvpx"},
        "s.webm": {"video": False, "acodec": "libopus", "sample_rate": 48000},
    },
}
SPANS = [(0.0, 6.0), (0.25, 1.0), (2.3, 6.0), (4.9, 5.5), (0.0, math.inf), (11.0, 20.0)]


def made(folder: Path, files: dict) -> list[Path]:
    """The files of a case: 12 s, with a tone from second 5 on."""
    common = {"duration": LENGTH, "fps": 10, "gop": 10, "onset": ONSET, "size": (96, 96)}
    return [make_video(folder / name, **{**common, **wanted}) for name, wanted in files.items()]


def onset_of(path: Path, start: float, end: float) -> float:
    """Seconds on the file's timeline at which the tone starts, searched from `start` to `end`."""
    waveform = decode_audio(path, start, end - start, 48000, -math.inf)
    return start + float(np.argmax(np.abs(waveform) > 0.05)) / 48000


def opened(files: list[Path]) -> list:
    return [partial(PatientFile, path) for path in files]


@pytest.mark.parametrize("case", FILES)
def test_second_t_of_the_video_is_at_t_minus_start_in_the_excerpt(case: str, tmp_path: Path):
    files = made(tmp_path, FILES[case])
    target = tmp_path / "target.mkv"
    for start, end in SPANS:
        zero = cut(opened(files), start, end, target)
        assert zero <= start
        times = np.linspace(start, min(end, LENGTH - 0.15), 7)
        shown = [read_number(picture) for picture in decode_frames(target, times - zero, 96)]
        assert shown == [read_number(picture) for picture in decode_frames(files[0], times, 96)], (start, end)
        assert np.abs(np.array(shown) - times * 10).max() < 1.3  # see below
        if start < ONSET < end:
            low, high = max(start, 4.2), min(end, 5.4)
            heard = onset_of(target, low - zero, high - zero) + zero
            assert abs(heard - onset_of(files[-1], low, high)) < 2e-3, (start, end)
            assert abs(heard - ONSET) < 0.03  # MPEG-TS and AVI do not tell of an encoder's delay
    assert probe(target).fps == 10


def test_the_excerpt_is_small_and_the_same_packets_give_the_same_bytes(tmp_path: Path):
    (file,) = made(tmp_path, FILES["B-frames"])
    for name in "xy":
        assert cut(opened([file]), 6.5, 7.5, tmp_path / name) == pytest.approx(6.0, abs=0.3)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    with av.open(str(tmp_path / "x")) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        assert len(packets) <= 25
        assert packets[0].is_keyframe
        assert not {"creation_time", "title"} & set(container.metadata)
    with av.open(str(file)) as container:  # the same packets as in the source
        source = {bytes(p) for p in container.demux() if p.size}
    with av.open(str(tmp_path / "x")) as container:
        assert {bytes(p) for p in container.demux() if p.size} <= source


@pytest.mark.parametrize("vcodec", ["libsvtav1", "libx265", "libvpx"])
def test_codecs_whose_decoder_and_encoder_have_other_names(vcodec: str, tmp_path: Path):
    file = make_video(tmp_path / "a.mkv", 3.0, vcodec=vcodec, size=(96, 96))
    start = cut(opened([file]), 1.0, 2.0, tmp_path / "x")
    (picture,) = decode_frames(tmp_path / "x", np.array([1.5 - start]), 96)
    assert read_number(picture) == 15


def test_an_upright_video_stays_upright(tmp_path: Path):
    file = make_video(tmp_path / "a.mp4", 3.0, rotation=90, size=(96, 160))
    start = cut(opened([file]), 1.0, 2.0, tmp_path / "x")
    (picture,) = decode_frames(tmp_path / "x", np.array([1.5 - start]), 96)
    assert read_number(picture) == 15


def test_what_cannot_be_cut_has_a_reason(tmp_path: Path):
    whole = make_video(tmp_path / "a.mp4", 2.0)
    (tmp_path / "page.mp4").write_text("<!doctype html><html><body>no</body></html>" * 50)
    (tmp_path / "half.mp4").write_bytes(whole.read_bytes()[:700])
    cases = {
        "too_short": (whole, 30.0),
        "no_audio": (make_video(tmp_path / "v.mp4", 2.0, audio=False), 0.0),
        "no_video": (make_video(tmp_path / "s.m4a", 2.0, video=False), 0.0),
        "corrupt": (tmp_path / "page.mp4", 0.0),
    }
    for reason, (file, start) in cases.items():
        with pytest.raises(ClipError) as told:
            cut(opened([file]), start, start + 1, tmp_path / "x")
        assert told.value.reason == reason
        assert str(tmp_path) not in told.value.detail
    with pytest.raises(ClipError, match="corrupt"):
        cut(opened([tmp_path / "half.mp4"]), 0.0, 1.0, tmp_path / "x")


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
    ],
)
def test_a_playlist_in_disguise_reads_no_file_of_ours(playlist: str, tmp_path: Path):
    secret = make_video(tmp_path / "secret.ts", 2.0, container="mpegts")
    for address in (secret, f"file://{secret}", "secret.ts"):
        (tmp_path / "a.mp4").write_text(playlist.format(address))
        with pytest.raises(ClipError, match=r"corrupt|no_video"):
            cut(opened([tmp_path / "a.mp4"]), 0.0, 1.0, tmp_path / "x")

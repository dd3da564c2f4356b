"""Probing and decoding pictures: every picture says its number, so a wrong time or turn is seen."""

from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from media import Track, make_video, numbered_picture, numbers, reason, remux
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from avset.media.container import Media, probe
from avset.media.frames import centre_square, decode_frames, frame_times
from avset.sources.download.excerpt import cut
from avset.storage.reading import PatientFile

GRID = np.array([0.0, 0.1, 0.449, 1.05, 1.95])  # s
NUMBERS = [0, 1, 4, 10, 19]  # at 10 pictures a second


def halve(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def test_probe_says_what_was_written(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 2.0, fps=10, size=(160, 96), sample_rate=44100, layout="stereo")
    assert probe(path) == Media(2.0, 2.0, 160, 96, 10.0, 44100, 2)


@pytest.mark.parametrize(
    ("suffix", "vcodec", "acodec", "rate"),
    [
        (".mp4", "libx264", "aac", 44100),
        (".mov", "libx264", "pcm_s16le", 48000),
        (".mkv", "libx264", "flac", 44100),
        (".webm", "libvpx-vp9", "libopus", 48000),
        (".webm", "libvpx", "libopus", 48000),
        (".avi", "mpeg4", "pcm_s16le", 44100),
        (".avi", "mjpeg", "pcm_s16le", 8000),
    ],
)
def test_the_picture_shown_at_each_time(tmp_path: Path, suffix: str, vcodec: str, acodec: str, rate: int) -> None:
    path = make_video(tmp_path / f"a{suffix}", vcodec=vcodec, acodec=acodec, sample_rate=rate)
    found = probe(path)
    assert (found.width, found.height, found.sample_rate, found.channels) == (128, 128, rate, 1)
    assert found.duration == pytest.approx(2.0, abs=0.11) and found.fps == pytest.approx(10.0)
    assert numbers(path, GRID) == NUMBERS


def test_mpeg_ts_starts_its_timeline_at_zero(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.ts", acodec="libmp3lame", sample_rate=44100)
    with av.open(str(path)) as container:
        assert container.start_time > 0  # else this file would show nothing
        late = (container.streams.video[0].start_time or 0) / 90000 - container.start_time / 1e6
    assert numbers(path, GRID + late) == NUMBERS
    assert numbers(path, [late]) == [0]  # on its own: the seek lands on a later keyframe


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("gop", [5, 250])
def test_seeking_agrees_with_decoding_everything(tmp_path: Path, suffix: str, gop: int) -> None:
    options = {"bf": "3", "x264-params": "open-gop=1"}
    path = make_video(tmp_path / f"a{suffix}", 3.0, fps=30, size=(64, 64), gop=gop, codec_options=options)
    rng = np.random.default_rng(0)
    expected = rng.permutation(90).tolist()
    times = (np.array(expected) + rng.uniform(0.05, 0.95, 90)) / 30
    assert numbers(path, times) == expected  # all at once
    assert [numbers(path, [time])[0] for time in times[:12]] == expected[:12]  # one by one


def test_a_later_keyframe_is_sought_and_pictures_before_it_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import avset.media.frames as module

    decoded: set[float] = set()
    time_of = module.time_of

    def seen(frame: Any, container: Any) -> float:
        decoded.add(time_of(frame, container))
        return time_of(frame, container)

    monkeypatch.setattr(module, "time_of", seen)
    path = make_video(tmp_path / "a.mp4", 6.0, fps=20, size=(64, 64), gop=20)
    assert numbers(path, [0.5, 0.9, 5.5]) == [10, 18, 110]
    assert not [time for time in decoded if 1.2 < time < 4.9]  # of 120 pictures those of two groups
    assert len(decoded) <= 35


def test_variable_frame_rate(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", times=[0.0, 0.1, 0.5, 0.55, 1.7])
    assert numbers(path, [0.0, 0.3, 0.52, 1.6, 1.75]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_metadata_is_applied(tmp_path: Path, rotation: int) -> None:
    path = make_video(tmp_path / "a.mp4", size=(160, 96), rotation=rotation)
    with av.open(str(path)) as container:
        stored = (container.streams.video[0].width, container.streams.video[0].height)
    assert stored == ((160, 96) if rotation % 180 == 0 else (96, 160))
    found = probe(path)
    assert (found.width, found.height) == (160, 96)
    assert numbers(path, [0.55, 1.95]) == [5, 19]  # read_number fails on a turned picture


MATRICES = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_picture_is_turned_and_mirrored_as_its_matrix_says(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = make_video(tmp_path / "a.mp4", 0.5, size=(160, 96), matrix=matrix)
    copy = remux(tmp_path / "a.mkv", Track(path, "video"), Track(path, "audio"))
    cut([partial(PatientFile, path)], 0.0, 0.4, tmp_path / "cut.mkv")
    for file in (path, copy, tmp_path / "cut.mkv"):
        assert (probe(file).width, probe(file).height) == (160, 96)
        assert numbers(file, [0.35]) == [3]  # read_number fails on a picture that is not upright


def test_wide_pixels_are_shown_wide(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", size=(256, 96), pixel_aspect=2)
    found = probe(path)
    assert (found.width, found.height) == (256, 96)
    assert numbers(path, [0.55]) == [5]


@pytest.mark.parametrize("size", [(131, 97), (97, 131), (161, 64)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = make_video(tmp_path / "a.avi", size=size, vcodec="mpeg4", acodec="pcm_s16le")
    found = probe(path)
    assert (found.width, found.height) == size
    assert decode_frames(path, np.array([0.35]), 63).shape == (1, 63, 63, 3)
    assert numbers(path, [0.35], 63) == [3]


def test_the_centre_square_is_that_of_clip_preprocessing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (97, 211, 3), dtype=np.uint8)
    clip = Compose([Resize(56, InterpolationMode.BICUBIC), CenterCrop(56)])

    class Stream:
        sample_aspect_ratio = None

    frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
    np.testing.assert_array_equal(centre_square(frame, Stream(), 56), np.asarray(clip(Image.fromarray(pixels))))


def test_a_picture_that_is_a_line_is_corrupt(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", 0.5, size=(1000, 2), vcodec="ffv1", acodec="pcm_s16le")
    assert reason(probe, path) == "corrupt"
    assert reason(decode_frames, path, np.array([0.0]), 64) == "corrupt"


def test_frame_times_are_centred_and_clamped() -> None:
    np.testing.assert_allclose(frame_times(10.0, 6.0, 3, 2.0), [11.0, 13.0, 15.0])
    np.testing.assert_allclose(frame_times(10.0, 6.0, 4, 1.0), [11.0, 12.0, 13.0, 14.0])
    np.testing.assert_allclose(frame_times(10.0, 1.0, 3, 3.0), [10.0, 10.5, 11.0])
    assert frame_times(0.0, 5.0, 1, 3.0).tolist() == [2.5]


def test_a_frame_grid_may_reach_the_end_of_the_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 0.3)
    assert numbers(path, frame_times(0.0, probe(path).duration, 3, 3.0)) == [0, 1, 2]


def test_files_that_are_not_media(tmp_path: Path) -> None:
    contents = {
        "zero.mp4": b"",
        "text.mp4": b"this is not a film\n" * 500,
        "noise.mp4": np.random.default_rng(0).bytes(20000),
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert reason(probe, path) == "corrupt"
        assert reason(decode_frames, path, np.array([0.0]), 64) == "corrupt"
    for absent in (tmp_path / "absent.mp4", tmp_path):
        assert reason(probe, absent) == "missing"
        assert reason(decode_frames, absent, np.array([0.0]), 64) == "missing"


def test_damage_in_the_middle_is_corrupt_only_there(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 4.0, gop=10)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    assert reason(decode_frames, path, np.array([2.05]), 64) == "corrupt"
    assert numbers(path, [0.55, 3.55]) == [5, 35]


def test_a_picture_that_the_decoder_had_to_invent_is_corrupt(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 3.0, gop=10, audio=False, codec_options={"bf": "0"})
    with av.open(str(path)) as container:
        packet = next(p for p in container.demux(video=0) if p.pts is not None and p.pts * p.time_base == 1)
        at, size = packet.pos or 0, packet.size
    data = bytearray(path.read_bytes())
    for i in range(at + size // 2, at + size, 7):
        data[i] ^= 0x55
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert [frame.time for frame in container.decode(video=0) if frame.is_corrupt]
    assert reason(decode_frames, path, np.array([1.05]), 64) == "corrupt"
    assert numbers(path, [0.55, 2.55]) == [5, 25]


@pytest.mark.parametrize(
    ("suffix", "vcodec", "acodec"),
    [(".mp4", "libx264", "aac"), (".mov", "libx264", "pcm_s16le"), (".webm", "libvpx-vp9", "libopus")],
)
def test_half_a_file_is_truncated_where_it_ends(tmp_path: Path, suffix: str, vcodec: str, acodec: str) -> None:
    path = make_video(tmp_path / f"a{suffix}", 4.0, vcodec=vcodec, acodec=acodec, sample_rate=48000)
    halve(path)
    found = probe(path)
    assert found.declared == pytest.approx(4.0, abs=0.1) and 1.2 < found.duration < 2.5
    assert decode_frames(path, np.array([found.duration]), 64).any()  # what the probe promises is there
    assert numbers(path, [0.55, 1.15]) == [5, 11]
    assert reason(decode_frames, path, np.array([0.55, 3.5]), 64) == "truncated"
    assert reason(decode_frames, path, np.array([3.5]), 64) == "truncated"


def test_half_a_file_with_its_index_at_the_end_is_corrupt(tmp_path: Path) -> None:
    path = halve(make_video(tmp_path / "a.mp4", options={"movflags": "frag_discont"}))
    assert reason(probe, path) == "corrupt"


def test_no_picture_survives_the_header(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    assert reason(probe, path) == "truncated"
    assert reason(decode_frames, path, np.array([0.0]), 64) == "truncated"


def test_pictures_that_end_before_the_sound_stay(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 1.0, audio_duration=3.0)
    assert probe(path).duration == probe(path).declared == pytest.approx(3.0, abs=0.05)
    assert numbers(path, [0.95, 2.9]) == [9, 9]  # as a player shows it, and as the file declares it
    assert reason(decode_frames, path, np.array([4.0]), 64) == "truncated"


def test_pictures_that_start_after_the_sound(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", times=[1.0, 1.5, 1.9])
    assert numbers(path, [0.0, 0.7, 1.2, 1.95]) == [0, 0, 0, 2]


def test_tracks_that_are_not_there(tmp_path: Path) -> None:
    sound = make_video(tmp_path / "sound.mp4", video=False)
    assert reason(probe, sound) == "no_video"
    assert reason(decode_frames, sound, np.array([0.0]), 64) == "no_video"
    pictures = make_video(tmp_path / "pictures.mp4", audio=False)
    assert reason(probe, pictures) == "no_audio"
    assert numbers(pictures, GRID) == NUMBERS


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as output:
        sound, cover = output.add_stream("aac", rate=44100), output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_picture(1, 64, 64), "rgb24")))
        output.mux(cover.encode())
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        samples.sample_rate, samples.pts = 44100, 0
        output.mux(sound.encode(samples))
        output.mux(sound.encode())
    with av.open(str(path)) as container:
        assert container.streams.video  # the cover is a stream of pictures, but it does not play
    assert reason(probe, path) == "no_video"


def test_a_file_that_declares_no_duration(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.webm", vcodec="libvpx", acodec="libopus", sample_rate=48000, options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None  # as in a browser's recording
    assert probe(path).duration == pytest.approx(2.0, abs=0.05)
    assert numbers(path, GRID) == NUMBERS


@pytest.mark.parametrize(
    "name",
    ["-i.mp4", "two words.mp4", "new\nline.mp4", "ünï☃.mp4", "pipe:0.mp4", "%03d.mp4", "x" * 240 + ".mp4"],
)
def test_hostile_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "plain.mp4", 0.5).rename(tmp_path / name)
    assert probe(Path(name)).width == 128  # relative, as a user may give it
    assert numbers(Path(name), [0.25]) == [2]


def test_no_file_stays_open(tmp_path: Path) -> None:
    good = make_video(tmp_path / "good.mp4")
    cut = halve(make_video(tmp_path / "cut.mp4", 4.0))
    text = tmp_path / "text.mp4"
    text.write_text("nothing")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        probe(good)
        decode_frames(good, GRID, 64)
        reason(decode_frames, cut, np.array([3.9]), 64)
        reason(probe, text)
    assert len(list(Path("/proc/self/fd").iterdir())) == before

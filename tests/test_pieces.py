"""Files one behind the other, cut files, and headers that were written before the length was known."""

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from media import make_video, tone_samples

from avset.errors import AvsetError
from avset.media.pieces import pieces
from avset.media.recordings import read_audio

PLAIN = ("WAV", "RF64", "W64", "AIFF", "AU", "CAF")  # containers of samples as they are
TAGS = b"ID3\4\0\0\0\0\1\0" + bytes(128), b"TAG" + bytes(125)  # before an MP3, behind it


def recording(format_: str, seconds: float, rate: int = 24000, channels: int = 1, tone: float = 440.0) -> bytes:
    """A tone as libsndfile writes it; OPUS is Ogg too."""
    mono, file = tone_samples(seconds, rate, tone, 0.5, 0.0), io.BytesIO()
    opus = {"format": "OGG", "subtype": "OPUS"} if format_ == "OPUS" else {"format": format_}
    soundfile.write(file, np.stack([mono] * channels, 1), rate, **opus)
    return file.getvalue()


def encoded(folder: Path, name: str, seconds: float, rate: int, tone: float) -> bytes:
    """A tone as FFmpeg writes it."""
    codec = {".m4a": "aac", ".mka": "flac", ".wma": "wmav2", ".tta": "tta"}.get(Path(name).suffix, "libmp3lame")
    options = {"write_xing": "0"} if name == "plain.mp3" else {}
    path = folder / f"{seconds}{name}"
    return make_video(
        path, seconds, sample_rate=rate, tone=tone, video=False, acodec=codec, options=options
    ).read_bytes()


def read(folder: Path, data: bytes, suffix: str = "") -> tuple[np.ndarray, int]:
    path = folder / f"a{suffix}"
    path.write_bytes(data)
    return read_audio(path)


def pitch(waveform: np.ndarray, rate: int) -> float:
    """Hz of the loudest partial."""
    return float(np.argmax(np.abs(np.fft.rfft(waveform))) * rate / len(waveform))


@pytest.mark.parametrize("format_", [*PLAIN, "FLAC", "OGG", "OPUS", "MP3", ".m4a", ".mka", ".wma", ".tta"])
def test_files_one_behind_the_other_are_read_to_the_last_end(tmp_path: Path, format_: str) -> None:
    if format_[0] == ".":
        parts = [
            encoded(tmp_path, f"a{format_}", 1.0, 22050, 440.0),
            encoded(tmp_path, f"b{format_}", 2.0, 44100, 880.0),
        ]
    else:
        parts = [recording(format_, 1.0), recording(format_, 2.0, 48000, 2, 880.0)]
    (first, rate), (second, other) = (read(tmp_path, part) for part in parts)
    found, same = read(tmp_path, b"".join([*parts, parts[0]]))
    assert [piece.start for piece in pieces(tmp_path / "a")] == [0, len(parts[0]), len(parts[0]) + len(parts[1])]
    assert same == rate != other and len(found) == len(first) == 1
    ends = np.cumsum([first.shape[1], second.shape[1] * rate / other, first.shape[1]])
    assert found.shape[1] == pytest.approx(ends[-1], abs=2) and ends[-1] / rate == pytest.approx(4.0, abs=0.3)
    np.testing.assert_array_equal(found[:, : first.shape[1]], first)
    np.testing.assert_array_equal(found[:, -first.shape[1] :], first)
    assert pitch(found[0, first.shape[1] : int(ends[1])], rate) == pytest.approx(880.0, abs=2.0)


def refused(folder: Path, data: bytes, suffix: str = "") -> list[float]:
    """The lengths in s with which a file is refused."""
    with pytest.raises(AvsetError, match=r"truncated|corrupt") as told:
        read(folder, data, suffix)
    lengths = re.search(r"([\d.]+) s of (?:about )?([\d.]+) s", str(told.value))
    assert lengths, told.value
    return [float(length) for length in lengths.groups()]


@pytest.mark.parametrize("format_", [*PLAIN, "FLAC", "MP3", ".m4a", ".mka", ".wma"])
def test_a_cut_file_is_refused_with_both_lengths(tmp_path: Path, format_: str) -> None:
    whole, part = (
        encoded(tmp_path, f"{seconds}{format_}", seconds, 22050, 440.0)
        if format_[0] == "."
        else recording(format_, seconds)
        for seconds in (4.0, 1.0)
    )
    for keep in (len(whole) // 2, len(whole) - 300):
        there, declared = refused(tmp_path, whole[:keep])
        assert declared == pytest.approx(4.0, abs=0.3) and there <= declared
        assert there == pytest.approx(4.0 * keep / len(whole), abs=0.4) or format_ == "FLAC"  # read in large blocks
    refused(tmp_path, part + whole[: len(whole) // 2])


@pytest.mark.parametrize("format_", ["OGG", "OPUS"])
def test_a_page_that_is_cut(tmp_path: Path, format_: str) -> None:
    whole = recording(format_, 4.0, 48000)
    there, declared = refused(tmp_path, whole[:-50])
    assert 2.0 < there < declared < 4.1
    with pytest.raises(AvsetError, match=r"part 2 of 2, 0\.\d\d s"):
        read(tmp_path, whole + recording(format_, 1.0)[:-50])
    assert read(tmp_path, whole[: whole.rindex(b"OggS")])[0].shape[1] > 2 * 48000, "all pages that are there are whole"


@pytest.mark.parametrize(
    ("format_", "mark", "layout", "behind", "values"),
    [
        ("WAV", b"data", "<I", 4, (0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x80000000)),
        ("RF64", b"ds64", "<Q", 16, (0, 2**64 - 1)),
        ("W64", b"data", "<Q", 16, (0, 2**64 - 1)),
        ("AIFF", b"SSND", ">I", 4, (0, 0xFFFFFFFF)),
        ("AU", b".snd", ">I", 8, (0, 0xFFFFFFFF)),
        ("CAF", b"data", ">q", 4, (0, -1)),
        ("FLAC", b"fLaC", ">I", 22, (0,)),
    ],
)  # fmt: skip
def test_samples_reach_to_the_end_of_the_file_if_the_header_knows_no_length(
    tmp_path: Path, format_: str, mark: bytes, layout: str, behind: int, values: tuple[int, ...]
) -> None:
    whole = recording(format_, 2.0, channels=2)
    expected, _ = read(tmp_path, whole)
    for value in values:
        data = bytearray(whole)
        struct.pack_into(layout, data, data.index(mark) + behind, value)
        np.testing.assert_array_equal(read(tmp_path, bytes(data))[0], expected)
        both, _ = read(tmp_path, bytes(data) + whole)
        assert both.shape[1] == 2 * expected.shape[1]


def vbri(data: bytes) -> bytes:
    """MPEG audio behind a frame with the head of Fraunhofer's encoder."""
    frame = bytearray(data[: data.index(data[:2], 100)])
    frame[4:] = bytes(len(frame) - 4)
    frame[36:54] = b"VBRI" + struct.pack(">HHHII", 1, 0, 0, len(frame) + len(data), 77)
    return bytes(frame) + data


HEADS: dict[str, Callable[[Path], bytes]] = {
    "LAME": lambda folder: recording("MP3", 2.0, 44100),
    "FFmpeg": lambda folder: encoded(folder, "a.mp3", 2.0, 44100, 440.0),
    "VBRI": lambda folder: vbri(untagged(encoded(folder, "plain.mp3", 2.0, 44100, 440.0))),
    "bytes only": lambda folder: only_bytes(untagged(encoded(folder, "a.mp3", 2.0, 44100, 440.0))),
    "none": lambda folder: untagged(encoded(folder, "plain.mp3", 2.0, 44100, 440.0)),
}


def untagged(data: bytes) -> bytes:
    """An MP3 from its first frame on."""
    return data[data.index(b"\xff\xfb") :]


def only_bytes(data: bytes) -> bytes:
    """An MP3 whose head says its bytes, and not its frames."""
    at = data.index(b"Info") + 4
    return data[:at] + struct.pack(">II", 2, len(data)) + data[at + 8 :]


@pytest.mark.parametrize("head", HEADS)
def test_the_heads_of_an_mp3(tmp_path: Path, head: str) -> None:
    before, behind = TAGS
    data, other = HEADS[head](tmp_path), recording("MP3", 1.0, 44100)
    length = read(tmp_path, data)[0].shape[1]
    assert length / 44100 == pytest.approx(2.0, abs=0.1)
    assert read(tmp_path, before + data + behind)[0].shape[1] == length, "tags are no sound, and no second file"
    for joined in (data + other, before + data + before + other, other + data, other + before + data + behind):
        assert read(tmp_path, joined)[0].shape[1] == pytest.approx(length + 44100, abs=2500)
    for keep in (len(data) // 2 + 50, len(data) - 100):
        there, declared = refused(tmp_path, data[:keep])
        assert there == pytest.approx(2.0 * keep / len(data), abs=0.2) and there <= declared
        assert head == "none" or declared == pytest.approx(2.0, abs=0.1)
        refused(tmp_path, other + before + data[:keep])

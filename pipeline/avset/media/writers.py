"""Sound files, written block by block: there whole or not at all. A waveform is float32 in [-1, 1].

Doors of soundfile (exact formats, Vorbis), and of PyAV for the other coded formats.
"""

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import av
import numpy as np
import soundfile
from jaxtyping import Float32

from avset.errors import AvsetError
from avset.media.targets import SOUNDS
from avset.storage.files import place

IEEE_FLOAT = 3  # the format tag of float samples in WAV
SAMPLES_AT_ONCE = 65536  # that are written: libsndfile's Vorbis encoder keeps as many on its stack
BITS = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}  # of an exact format
EXACT = {".wav": ("WAV", (16, 24, 32), 1024), ".flac": ("FLAC", (16, 24), 8)}  # name, bits, most channels
LARGEST = 2**32 - 2**16  # bytes of samples in a .wav; beyond, it is an RF64
CODED = {  # container, codec, the rates (Hz) that it has, most channels, bit/s of a channel
    ".mp3": ("mp3", "libmp3lame", (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), 2, 128_000),
    ".opus": ("ogg", "libopus", (8000, 12000, 16000, 24000, 48000), 8, 96_000),
    ".m4a": ("ipod", "aac", (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000), 8, 128_000),
}
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}


def check_writable(path: Path, channels: int, bits: int | None = None) -> None:
    """AvsetError if a format, by the suffix of a path, has not so many channels, or not such samples."""
    suffix = path.suffix.lower()
    if suffix in EXACT:
        _, widths, most = EXACT[suffix]
        if bits is not None and bits not in widths:
            raise AvsetError(f"cannot write {str(path)!r}: {suffix} has no samples of {bits} bits; give .wav")
    elif bits is not None and suffix != ".mp4":
        raise AvsetError(f"cannot write {str(path)!r}: {suffix} is coded and has no bits; give .wav or .flac")
    else:
        suffix = ".m4a" if suffix == ".mp4" else suffix
        most = CODED[suffix][3] if suffix in CODED else 255
    if channels > most or (suffix in CODED and channels not in LAYOUTS):
        raise AvsetError(f"cannot write {str(path)!r}: {suffix} has no {channels} channels; give .wav")


def bits_of(path: Path, bits: int) -> int:
    """Bits of the samples in a file, by its suffix, if the recording has `bits`; 0 if they are coded."""
    return min(bits, max(EXACT[path.suffix.lower()][1])) if path.suffix.lower() in EXACT else 0


def quantised(waveform: Float32[np.ndarray, "*C n"], bits: int) -> Float32[np.ndarray, "*C n"]:
    """The samples that a file of so many bits will have; of 32 (floating point) and 0 (coded) as they are."""
    if bits not in (16, 24):
        return waveform
    scale = np.float32(2 ** (bits - 1))
    return np.clip(np.rint(waveform * scale), -scale, scale - 1) / scale


def write_audio(path: Path, waveform: Float32[np.ndarray, "*C L"], sample_rate: int, bits: int = 16) -> None:
    """Write (L,) or (C, L) as an audio file, see `AudioWriter`."""
    with AudioWriter(path, sample_rate, bits=bits) as sound:
        sound.write(waveform)


def as_wav(waveform: Float32[np.ndarray, " L"], sample_rate: int) -> bytes:
    """A mono WAV file of float32 samples, exact and of any loudness.

    The bytes are the same each time: libsndfile would put the time of writing into such a file.
    """
    data = waveform.astype("<f4").tobytes()
    form = struct.pack("<HHIIHHH", IEEE_FLOAT, 1, sample_rate, 4 * sample_rate, 4, 32, 0)
    chunks = ((b"fmt ", form), (b"fact", struct.pack("<I", len(waveform))), (b"data", data))
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(content)) + content for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


class _File(Protocol):
    def write(self, samples: np.ndarray) -> None: ...


class AudioWriter:
    """An audio file written block by block, in the format of the suffix.

    .wav    16, 24 bits, or 32: floating point; beyond 4 GB of `expected` bytes it is an RF64
    .flac   16 or 24 bits
    .ogg    Vorbis            .mp3, .opus, .m4a (AAC): at a rate that the format has, see `CODED`

    A context manager: when the context ends the whole file appears, after an error no file. The first block makes
    missing directories. AvsetError names the supported suffixes; without `overwrite` it refuses a file that is there.
    """

    def __init__(self, path: Path, sample_rate: int, overwrite: bool = True, bits: int = 16, expected: float = 0):
        if path.suffix.lower() not in SOUNDS:
            cure = f"give a name that ends in {', '.join(SOUNDS)}"
            raise AvsetError(f"cannot write sound as {str(path)!r}; {cure}")
        self.path, self.sample_rate, self.overwrite = path, sample_rate, overwrite
        self.bits, self._expected = bits_of(path, bits), expected
        self._target = path.resolve()  # a link stays a link
        self._temporary = self._target.with_name(f".writing-{uuid4().hex}")
        self._files = ExitStack()
        self._sound: Any = None

    def __enter__(self) -> "AudioWriter":
        return self

    def write(self, waveform: Float32[np.ndarray, "*C n"]) -> None:
        """Append (n,) or (C, n), clipped to [-1, 1] unless the file has floating point; C is the same in all blocks."""
        samples = np.atleast_2d(waveform).T
        if self.bits in (16, 24):  # libsndfile would round down
            kind, rest = (np.int16, 0) if self.bits == 16 else (np.int32, 8)
            scale = 2 ** (self.bits - 1)
            samples = np.rint(np.clip(samples * scale, -scale, scale - 1)).astype(kind) << rest
        elif not self.bits:
            samples = np.clip(samples, -1, 1)
        with self._told():
            if self._sound is None:
                self._open(samples.shape[1])
            for at in range(0, len(samples), SAMPLES_AT_ONCE):
                self._sound.write(samples[at : at + SAMPLES_AT_ONCE])

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            with self._told():
                self._files.close()
                if error is None and self._sound is not None:
                    if self._target.exists() and not self.overwrite:
                        raise AvsetError(f"cannot write {str(self.path)!r}: another process made it meanwhile")
                    place(self._temporary, self._target)
        finally:
            with suppress(OSError):
                self._temporary.unlink()

    def _open(self, channels: int) -> None:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        raw = self._files.enter_context(self._temporary.open("xb+"))
        suffix = self.path.suffix.lower()
        if suffix in CODED:
            self._sound = self._files.enter_context(_Coded(raw, suffix, self.sample_rate, channels))
            return
        name, encoding = (EXACT[suffix][0], BITS[self.bits]) if suffix in EXACT else ("OGG", "VORBIS")
        if name == "WAV" and self._expected > LARGEST:
            name = "RF64"
        sound = soundfile.SoundFile(raw, "w", self.sample_rate, channels, encoding, format=name)
        self._sound = self._files.enter_context(sound)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, soundfile.LibsndfileError, av.error.FFmpegError) as error:
            reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
            cure = "see the directory, the sample rate and the number of channels, or try .wav"
            raise AvsetError(f"cannot write {str(self.path)!r}: {reason}; {cure}") from error


class _Coded:
    """A file of FFmpeg with one track of sound."""

    def __init__(self, raw: Any, suffix: str, sample_rate: int, channels: int):
        name, codec, rates, _, bit_rate = CODED[suffix]
        if channels not in LAYOUTS:
            raise OSError(f"{suffix} has no {channels} channels")
        self._container = av.open(raw, "w", format=name)
        rate = min((r for r in rates if r >= sample_rate), default=max(rates))
        self._track = SoundTrack(self._container, codec, sample_rate, rate, channels, bit_rate)

    def __enter__(self) -> "_Coded":
        return self

    def write(self, samples: Float32[np.ndarray, "n C"]) -> None:
        """Append."""
        self._track.write(samples)

    def __exit__(self, *_: object) -> None:
        with self._container:
            self._track.end()


class SoundTrack:
    """A track of sound in a container of FFmpeg that is written; FFmpeg resamples if the codec has another rate."""

    def __init__(self, container: Any, codec: str, sample_rate: int, rate: int, channels: int, bit_rate: int):
        self._container, self._sample_rate, self._at = container, sample_rate, 0
        self._layout = LAYOUTS[channels]
        self.stream = container.add_stream(codec, rate=rate, layout=self._layout)
        self.stream.bit_rate = bit_rate * channels
        self.stream.codec_context.thread_count = 1

    def write(self, samples: Float32[np.ndarray, "n C"]) -> None:
        """Append."""
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._sample_rate, self._at, Fraction(1, self._sample_rate)
        self._at += len(samples)
        self._container.mux(self.stream.encode(frame))

    def end(self) -> None:
        """Write what the encoder still holds."""
        self._container.mux(self.stream.encode(None))

"""Recordings of a user: audio and video files are read, and audio files are written, block by block.

Memory does not grow with the length of a file. Door of soundfile. A waveform is float32 in [-1, 1].
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import soundfile
from jaxtyping import Float32

from avset.errors import AvsetError, ClipError
from avset.media.container import SPARSEST, TAIL, declared_end, open_media, track
from avset.media.waveforms import sound_blocks
from avset.storage.files import place

WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
SAMPLES_AT_ONCE = 65536  # that are read or written; libsndfile's Vorbis encoder keeps as many on its stack


def read_audio(path: Path) -> tuple[Float32[np.ndarray, "C L"], int]:
    """All channels of an audio or video file of a user, and its sample rate (Hz): `read_blocks` as one array."""
    blocks, rates = zip(*read_blocks(path), strict=True)
    return np.concatenate(blocks, 1), rates[0]


def read_blocks(path: Path) -> Iterator[tuple[Float32[np.ndarray, "C n"], int]]:
    """The channels of an audio or video file of a user, block by block, each with the file's sample rate (Hz).

    The sound of a video starts at time 0 of the video's timeline; zeros fill a gap. AvsetError names the file and the
    cure; it comes at the end if the end of the file is damaged.
    """
    length = 0
    try:
        if not path.is_file():
            raise ClipError("missing", "there is no such file")
        for block, rate in _file_blocks(path):
            if not np.isfinite(block).all():
                raise ClipError("corrupt", "it has samples that are not numbers")
            length += block.shape[1]
            yield block, rate
        if not length:
            raise ClipError("corrupt", "it has no samples")
    except ClipError as error:
        cure = "give a .wav, .flac, .mp3, .mp4 or other media file that has sound and plays to its end"
        raise AvsetError(f"cannot read sound from {str(path)!r} ({error}); {cure}") from error


def _file_blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of an audio file, read by libsndfile; or of another media file, read by FFmpeg."""
    try:
        sound = soundfile.SoundFile(str(path.absolute()))
    except (soundfile.LibsndfileError, TypeError):  # another format; the suffix .raw raises a TypeError
        yield from _track_blocks(path)
        return
    try:
        with sound:
            while len(samples := sound.read(SAMPLES_AT_ONCE, dtype="float32", always_2d=True)):
                yield np.ascontiguousarray(samples.T), sound.samplerate
    except soundfile.LibsndfileError as error:
        raise ClipError("corrupt", error.error_string) from error


def _track_blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The sound track of a media file on its timeline. If blocks overlap, the samples of the first one count."""
    end, channels, rate = 0, 0, 0
    with open_media(path) as container:
        stream = track(container, "audio")
        for index, block, rate in sound_blocks(container, stream, 0.0):
            if channels not in (0, len(block)):
                raise ClipError("corrupt", f"the number of channels changes: {sorted((channels, len(block)))}")
            if index > max(end, container.size / SPARSEST * rate):
                raise ClipError("corrupt", f"a time stamp of {index / rate:.0f} s in {container.size} bytes")
            channels = len(block)
            for at in range(end, index, SAMPLES_AT_ONCE):
                yield np.zeros((channels, min(SAMPLES_AT_ONCE, index - at)), np.float32), rate
            if end < index + block.shape[1]:
                yield block[:, max(0, end - index) :], rate
                end = index + block.shape[1]
        declared = declared_end(container, stream)
    if not channels:
        raise ClipError("truncated", "no sound can be decoded")
    if end / rate + TAIL < declared < math.inf:
        raise ClipError("truncated", f"the sound ends at {end / rate:.2f} s of {declared:.2f} s")


def write_audio(path: Path, waveform: Float32[np.ndarray, "*C L"], sample_rate: int) -> None:
    """Write (L,) or (C, L) as an audio file, see `AudioWriter`."""
    with AudioWriter(path, sample_rate) as sound:
        sound.write(waveform)


class AudioWriter:
    """An audio file written block by block: .wav or .flac (16 bit) or .ogg (Vorbis), by the suffix.

    A context manager: when the context ends the whole file appears, after an error no file. The first block makes
    missing directories. AvsetError names the supported suffixes.
    """

    def __init__(self, path: Path, sample_rate: int):
        if path.suffix.lower() not in WRITABLE:
            cure = f"give a name that ends in {', '.join(WRITABLE)}"
            raise AvsetError(f"cannot write sound as {str(path)!r}; {cure}")
        self.path, self.sample_rate = path, sample_rate
        self._container, self._encoding = WRITABLE[path.suffix.lower()]
        self._temporary = path.with_name(f".writing-{uuid4().hex}")
        self._files = ExitStack()
        self._sound: Any = None

    def __enter__(self) -> "AudioWriter":
        return self

    def write(self, waveform: Float32[np.ndarray, "*C n"]) -> None:
        """Append (n,) or (C, n), clipped to [-1, 1]; C is the same in all blocks."""
        samples = np.atleast_2d(waveform).T
        if self._encoding == "PCM_16":  # libsndfile would round down
            samples = np.rint(np.clip(samples * 32768, -32768, 32767)).astype(np.int16)
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
                    place(self._temporary, self.path)
        finally:
            with suppress(OSError):
                self._temporary.unlink()

    def _open(self, channels: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        raw = self._files.enter_context(self._temporary.open("xb+"))
        sound = soundfile.SoundFile(raw, "w", self.sample_rate, channels, self._encoding, format=self._container)
        self._sound = self._files.enter_context(sound)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, soundfile.LibsndfileError) as error:
            reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
            cure = "see the directory, the sample rate and the number of channels, or try .wav"
            raise AvsetError(f"cannot write {str(self.path)!r}: {reason}; {cure}") from error

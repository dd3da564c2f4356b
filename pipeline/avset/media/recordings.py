"""Recordings of a user: audio and video files are read, and audio files are written, block by block.

Memory does not grow with the length of a file. Door of soundfile. A waveform is float32 in [-1, 1].
"""

import math
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import soundfile
from jaxtyping import Float32

from avset.errors import AvsetError, ClipError
from avset.media.container import SPARSEST, TAIL, declared_end, declared_length, open_media, playing, track
from avset.media.pieces import Piece, PieceReader, pieces
from avset.media.targets import WRITABLE
from avset.media.waveforms import resample_blocks, sound_blocks
from avset.storage.files import place
from avset.storage.reading import AGAIN, closing_checked, passing, patiently

IEEE_FLOAT = 3  # the format tag of float samples in WAV
SAMPLES_AT_ONCE = 65536  # that are read or written; libsndfile's Vorbis encoder keeps as many on its stack
UNKNOWN = 2**62  # and more samples: libsndfile's count of a file that does not tell it
PADDING = 0.1  # s by which the sound of a file without pictures may end too early: codecs count their own delay
DRIFT = 0.01  # of the sound may be lost where time stamps go slower than samples


def read_audio(path: Path) -> tuple[Float32[np.ndarray, "C L"], int]:
    """All channels of an audio or video file of a user, and its sample rate (Hz): `read_blocks` as one array."""
    blocks, rates = zip(*read_blocks(path), strict=True)
    return np.concatenate(blocks, 1), rates[0]


def read_blocks(path: Path) -> Iterator[tuple[Float32[np.ndarray, "C n"], int]]:
    """The channels of an audio or video file of a user, block by block, each with the file's sample rate (Hz).

    The sound of a video starts at time 0 of the video's timeline; zeros fill a gap. Of files one behind the other
    (chained Ogg) all are read, at the rate of the first one; if the number of channels changes, their mean is on all.
    AvsetError names the file and the cure; it comes at the end if the end of the file is missing or damaged, with both
    lengths.
    """
    length = 0
    try:
        if not patiently(path.is_file):
            raise ClipError("missing", "there is no such file")
        parts = pieces(path)
        for block, rate in _joined(_part_blocks(path, parts, number) for number in range(len(parts))):
            if not np.isfinite(block).all():
                raise ClipError("corrupt", "it has samples that are not numbers")
            length += block.shape[1]
            yield block, rate
        if not length:
            raise ClipError("corrupt", "it has no samples")
    except OSError as error:
        cure = AGAIN if passing(error) else "see its permissions"
        raise AvsetError(f"cannot read {str(path)!r}: {error.strerror}; {cure}") from error
    except ClipError as error:
        other = "give a .wav, .flac, .mp3, .mp4 or other media file that has sound and plays to its end"
        cure = AGAIN if error.reason == "system" else other
        raise AvsetError(f"cannot read sound from {str(path)!r} ({error}); {cure}") from error


Blocks = Iterator[tuple[np.ndarray, int]]


def read_long_blocks(path: Path) -> Blocks:
    """`read_blocks` in blocks of `SAMPLES_AT_ONCE` and more, the last one shorter: fewer to pass on."""
    held: list[np.ndarray] = []
    rate = 0
    for block, rate in read_blocks(path):
        held.append(block)
        if sum(part.shape[1] for part in held) >= SAMPLES_AT_ONCE:
            yield np.concatenate(held, 1), rate
            held.clear()
    if held:
        yield np.concatenate(held, 1), rate


def _joined(parts: Iterable[Blocks]) -> Blocks:
    """Recordings one after the other, all with the rate and the number of channels of the first."""
    rate, channels = 0, 0
    for blocks in parts:
        for first, own in blocks:
            rest: Blocks = chain([(first, own)], blocks)
            rate, channels = rate or own, channels or len(first)
            if own != rate:
                rest = ((block, rate) for block in resample_blocks(rest, rate))
            for block, _ in rest:
                same = len(block) == channels
                yield block if same else np.repeat(block.mean(0, keepdims=True), channels, 0), rate


def _part_blocks(path: Path, parts: list[Piece], number: int) -> Blocks:
    """The blocks of one of the files in a file; at its end ClipError("truncated") if it says that it goes on."""
    piece, length, rate, damage = parts[number], 0, 1, None
    which = f"in part {number + 1} of {len(parts)}, " if len(parts) > 1 else ""
    try:
        for block, rate in _file_blocks(path, piece):
            length += block.shape[1]
            yield block, rate
    except ClipError as error:
        if error.reason == "system":
            raise
        damage = error
    if piece.declared > piece.end:
        there, whole, seconds = piece.end - piece.samples, piece.declared - piece.samples, length / rate
        about = f" of about {seconds * whole / there:.2f} s" if length else ""
        told = f"{which}{seconds:.2f} s{about} can be read, {there} of {whole} bytes are there"
        raise ClipError("truncated", f"{told} ({damage.detail})" if damage else told) from damage
    if damage:
        raise ClipError(damage.reason, which + damage.detail) from damage


def _file_blocks(path: Path, piece: Piece) -> Blocks:
    """Blocks of an audio file, read by libsndfile; or of another media file, read by FFmpeg."""
    with closing_checked(PieceReader(path, piece)) as file:
        try:
            sound = soundfile.SoundFile(file)
        except soundfile.LibsndfileError:  # another format
            file.check()
            sound = None
        if sound is None or sound.frames >= UNKNOWN:  # of such a FLAC, libsndfile takes the end for damage
            file.seek(0)
            yield from _track_blocks(path, file)
            return
        length, counted = 0, sound.frames if piece.counted else 0
        try:
            with sound:
                while len(samples := sound.read(SAMPLES_AT_ONCE, dtype="float32", always_2d=True)):
                    length += len(samples)
                    yield np.ascontiguousarray(samples.T), sound.samplerate
        except soundfile.LibsndfileError as error:
            told = f"{length / sound.samplerate:.2f} s of {counted / sound.samplerate:.2f} s can be read"
            raise ClipError("corrupt", f"{error.error_string or 'the file is damaged'} {told}".strip()) from error
    if length < counted:
        rate = sound.samplerate
        raise ClipError("truncated", f"{length / rate:.2f} s of {counted / rate:.2f} s can be read")


def _track_blocks(path: Path, file: Any) -> Blocks:
    """The sound track of a media file on its timeline. If blocks overlap, the samples of the first one count.

    ClipError("corrupt") if time goes back: then sound would be lost.
    """
    end, lost, channels, rate = 0, 0, 0, 0
    with open_media(path, file) as container:
        stream = track(container, "audio")
        for index, block, rate in sound_blocks(container, stream, 0.0):
            if channels not in (0, len(block)):
                raise ClipError("corrupt", f"the number of channels changes: {sorted((channels, len(block)))}")
            if index > max(end, container.size / SPARSEST * rate):
                raise ClipError("corrupt", f"a time stamp of {index / rate:.0f} s in {container.size} bytes")
            channels = len(block)
            for at in range(end, index, SAMPLES_AT_ONCE):
                yield np.zeros((channels, min(SAMPLES_AT_ONCE, index - at)), np.float32), rate
            lost += max(0, min(end, index + block.shape[1]) - max(index, 0))
            if end < index + block.shape[1]:
                yield block[:, max(0, end - index) :], rate
                end = index + block.shape[1]
        alone = not playing(container, "video")
        declared = min(declared_end(container, stream), declared_length(container) if alone else math.inf)
    if not channels:
        raise ClipError("truncated", "no sound can be decoded")
    if lost > max(TAIL * rate, end * DRIFT):
        raise ClipError("corrupt", f"time goes back: {end / rate:.2f} s of {(end + lost) / rate:.2f} s can be read")
    if end / rate + (PADDING if alone else TAIL) < declared < math.inf:
        raise ClipError("truncated", f"the sound ends at {end / rate:.2f} s of {declared:.2f} s")


def write_audio(path: Path, waveform: Float32[np.ndarray, "*C L"], sample_rate: int) -> None:
    """Write (L,) or (C, L) as an audio file, see `AudioWriter`."""
    with AudioWriter(path, sample_rate) as sound:
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


class AudioWriter:
    """An audio file written block by block: .wav or .flac (16 bit) or .ogg (Vorbis), by the suffix.

    A context manager: when the context ends the whole file appears, after an error no file. The first block makes
    missing directories. AvsetError names the supported suffixes; without `overwrite` it refuses a file that is there.
    """

    def __init__(self, path: Path, sample_rate: int, overwrite: bool = True):
        if path.suffix.lower() not in WRITABLE:
            cure = f"give a name that ends in {', '.join(WRITABLE)}"
            raise AvsetError(f"cannot write sound as {str(path)!r}; {cure}")
        self.path, self.sample_rate, self.overwrite = path, sample_rate, overwrite
        self._container, self._encoding = WRITABLE[path.suffix.lower()]
        self._target = path.resolve()  # a link stays a link
        self._temporary = self._target.with_name(f".writing-{uuid4().hex}")
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
                    if self._target.exists() and not self.overwrite:
                        raise AvsetError(f"cannot write {str(self.path)!r}: another process made it meanwhile")
                    place(self._temporary, self._target)
        finally:
            with suppress(OSError):
                self._temporary.unlink()

    def _open(self, channels: int) -> None:
        self._target.parent.mkdir(parents=True, exist_ok=True)
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

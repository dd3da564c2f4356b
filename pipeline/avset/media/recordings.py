"""Recordings of a user: audio and video files are read, block by block.

Memory does not grow with the length of a file. Door of soundfile. A waveform is float32 in [-1, 1].
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32

from avset.errors import AvsetError, ClipError
from avset.media.container import SPARSEST, TAIL, declared_end, declared_length, open_media, playing, track
from avset.media.pieces import Piece, PieceReader, pieces
from avset.media.waveforms import LEAST_RATE, MOST_CHANNELS, MOST_RATE, resample_blocks, sound_blocks
from avset.storage.reading import AGAIN, PatientFile, closing_checked, passing, patiently

SAMPLES_AT_ONCE = 65536  # that are read
UNKNOWN = 2**62  # and more samples: libsndfile's count of a file that does not tell it
PADDING = 0.1  # s by which the sound of a file without pictures may end too early: codecs count their own delay
DRIFT = 0.01  # of the sound may be lost where time stamps go slower than samples
WIDTHS = {"PCM_24": 24, "PCM_32": 24, "FLOAT": 32, "DOUBLE": 32, "s32": 24, "flt": 32, "dbl": 32}  # bits; others: 16
EXACT = ("pcm_", "flac", "alac", "tta", "wavpack")  # how the names of FFmpeg's codecs without losses begin


@dataclass(frozen=True)
class Format:
    """What a recording says of itself before it is read."""

    sample_rate: int  # Hz
    channels: int
    bits: int  # of its samples: 16, 24, or 32 for floating point; what is coded with losses counts as 16
    seconds: float  # inf if it is not told
    pictures: str = ""  # the codec of the pictures of a film


def read_format(path: Path) -> Format:
    """The format of an audio or video file of a user; AvsetError as of `read_blocks`."""
    with _naming(path):
        found = _sound_format(path) or _track_format(path)
    return found


def _sound_format(path: Path) -> Format | None:
    """As libsndfile reads it; None if it does not."""
    with closing_checked(PatientFile(path)) as file:
        try:
            with soundfile.SoundFile(file) as sound:
                seconds = sound.frames / sound.samplerate if 0 < sound.frames < UNKNOWN else math.inf
                return Format(sound.samplerate, sound.channels, WIDTHS.get(sound.subtype, 16), seconds)
        except soundfile.LibsndfileError:  # another format
            file.check()
    return None


def _track_format(path: Path) -> Format:
    """As FFmpeg reads it."""
    with open_media(path) as container:
        context = track(container, "audio").codec_context
        rate, channels = context.sample_rate, context.layout.nb_channels
        pictures = track(container, "video").codec_context.name if playing(container, "video") else ""
        if not (LEAST_RATE <= rate <= MOST_RATE and 1 <= channels <= MOST_CHANNELS):
            raise ClipError("corrupt", f"{channels} channels at {rate} Hz")
        exact = context.name.startswith(EXACT) and context.format is not None
        bits = WIDTHS.get(context.format.name.removesuffix("p"), 16) if exact else 16
        return Format(rate, channels, bits, declared_length(container), pictures)


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
    with _naming(path):
        parts = pieces(path)
        for block, rate in _joined(_part_blocks(path, parts, number) for number in range(len(parts))):
            if not np.isfinite(block).all():
                raise ClipError("corrupt", "it has samples that are not numbers")
            length += block.shape[1]
            yield block, rate
        if not length:
            raise ClipError("corrupt", "it has no samples")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """AvsetError with the path and the cure, for what goes wrong in reading it."""
    try:
        if not patiently(path.is_file):
            raise ClipError("missing", "there is no such file")
        yield
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

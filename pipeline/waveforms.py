"""Sound of a media file: excerpts on the pictures' timeline, resampling, reading and writing audio files.

Door of soundfile, of torchaudio (resampling), and of PyAV for sound. A waveform is float32 in [-1, 1].
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import soundfile
import torch
from jaxtyping import Float32, Int16
from torchaudio.transforms import Resample

from pipeline.errors import AvsetError, ClipError
from pipeline.media import TAIL, declared_end, decode_from, open_media, time_of, track

SILENCE = -60.0  # dBFS
PREROLL = 0.3  # s decoded before an excerpt: AAC, MP3 and Opus need some packets to warm up after a seek
LEAST_RATE, MOST_RATE = 1000, 768_000  # Hz; what is beyond, or has more channels, comes from a damaged header
MOST_CHANNELS = 64
KINDS = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}  # of samples
JUMP = 0.05  # s; a time stamp that is further off the samples counted so far is believed: a gap, an overlap
MARGIN = 80  # samples of the lower rate, resampled on both sides and cut off again: the filter sees 68
RATIO_TERM = 4096  # no rate is more than that many samples in a period of the resampling filter
FILTER = {  # flat to 0.1 dB up to 0.9 of the lower Nyquist frequency, -60 dB at it, -120 dB from 1.02 on
    "resampling_method": "sinc_interp_kaiser",
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "beta": 14.769656459379492,
}
FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
BLOCK = 65536  # samples a write; libsndfile's Vorbis encoder needs a stack as large as the block


def decode_audio(
    path: Path, start: float, duration: float, sample_rate: int, silence: float = SILENCE
) -> Float32[np.ndarray, "L"]:
    """An excerpt (both in s) as L = round(duration * sample_rate) mono samples, the mean of the channels.

    Sample 0 is at `start` on the file's timeline, as exactly as the file's time stamps are: to half a sample
    in MP4, to 1 ms in Matroska. Where the track starts later or has a gap there are zeros, and after its end
    up to `TAIL` s of zeros. ClipError missing, corrupt, no_audio; truncated if the track ends earlier than
    that; silent if the RMS of the L samples is below `silence` dBFS.
    """
    mono, margin, down, up = _excerpt(path, start, duration, sample_rate)
    if not np.isfinite(mono).all():
        raise ClipError("corrupt", "the sound has samples that are not numbers")
    first = margin // down * up
    waveform = _filtered(mono, down, up)[first : first + round(duration * sample_rate)]
    if is_silent(waveform, silence):
        raise ClipError("silent", f"{rms_dbfs(waveform):.1f} dBFS, below {silence:g}")
    return waveform


def _excerpt(path: Path, start: float, duration: float, new_rate: int) -> tuple[np.ndarray, int, int, int]:
    """Mono samples at the file's rate, how many of them are before `start`, and the resampling ratio.

    That margin is a whole number of periods of the ratio, so a sample of both rates is at `start`.
    """
    mono, margin, down, up, first, end = np.empty(0, np.float32), 0, 1, 1, 0, 0.0
    with open_media(path) as container:
        for index, block, rate in _blocks(container, track(container, "audio"), start - PREROLL):
            if not mono.size:
                down, up = _ratio(rate, new_rate)
                margin = math.ceil(MARGIN * max(1, rate / new_rate) / down) * down
                first = round(start * rate) - margin
                mono = np.zeros(math.ceil(duration * rate) + 2 * margin + 1, np.float32)
            _place(mono[None], index - first, block.mean(0, keepdims=True))
            end = (index + block.shape[1]) / rate
            if index - first >= mono.size:
                break
    if end + TAIL < start + duration:
        raise ClipError("truncated", f"the sound ends at {end:.2f} s, before {start + duration:.2f} s")
    return mono, margin, down, up


def _blocks(container: Any, stream: Any, seconds: float) -> Iterator[tuple[int, np.ndarray, int]]:
    """Decoded sound from `seconds` or earlier on: (index on the timeline, samples (C, n), sample rate).

    Samples are counted from the first time stamp, because containers round the others (Matroska to 1 ms).
    """
    rate, index = 0, 0
    for frame in decode_from(container, stream, max(seconds, 0.0)):
        if not LEAST_RATE <= frame.sample_rate <= MOST_RATE or frame.sample_rate != (rate or frame.sample_rate):
            raise ClipError("corrupt", f"the sample rate is {frame.sample_rate} Hz after {rate} Hz")
        stamped = round(time_of(frame, container) * frame.sample_rate)
        if not rate or abs(stamped - index) > JUMP * rate:
            index = stamped
        rate, samples = frame.sample_rate, _samples(frame)
        yield index, samples, rate
        index += samples.shape[1]


def _samples(frame: Any) -> np.ndarray:
    """The samples (C, n) of a decoded frame, float32. (PyAV's own conversion sees nine planes in eight.)"""
    channels, planar = frame.layout.nb_channels, frame.format.is_planar
    if not 1 <= channels <= MOST_CHANNELS:
        raise ClipError("corrupt", f"{channels} channels")
    kind, count = np.dtype(KINDS[frame.format.name.removesuffix("p")]), frame.samples * (1 if planar else channels)
    planes = [np.frombuffer(plane, kind, count) for plane in frame.planes[: channels if planar else 1]]
    samples = np.stack(planes) if planar else planes[0].reshape(-1, channels).T
    if kind.kind == "u":
        samples = (samples.astype(np.float32) - 128) / 128
    elif kind.kind == "i":
        samples = samples / np.float64(-float(np.iinfo(kind).min))
    return samples.astype(np.float32)


def _place(target: np.ndarray, at: int, block: np.ndarray) -> None:
    """Writes a block (C, n) into target (C, L) from column `at` on; what falls outside is dropped."""
    begin, end = max(at, 0), min(at + block.shape[1], target.shape[1])
    if begin < end:
        target[:, begin:end] = block[:, begin - at : end - at]


def _ratio(rate: int, new_rate: int) -> tuple[int, int]:
    """rate / new_rate in lowest terms, at most `RATIO_TERM`; awkward rates are met to 3e-6."""
    ratio = Fraction(rate, new_rate).limit_denominator(RATIO_TERM // max(1, -(-rate // new_rate)))
    return ratio.numerator, ratio.denominator


@cache
def _resampler(down: int, up: int) -> Resample:
    """The filter of a ratio, designed in float64, then float32 (designed in float32 it is off by 2e-5)."""
    return Resample(down, up, **FILTER, dtype=torch.float64).float()


def _filtered(waveform: np.ndarray, down: int, up: int) -> np.ndarray:
    """waveform (..., L) at up / down times its rate: (..., ceil(L * up / down))."""
    return _resampler(down, up)(torch.from_numpy(waveform.copy())).numpy()


def resample(waveform: Float32[np.ndarray, "*C L"], rate: int, new_rate: int) -> Float32[np.ndarray, "*C L2"]:
    """The same sound at another rate (Hz), pitch unchanged: L2 = ceil(L * new_rate / rate), see `_ratio`."""
    return _filtered(waveform, *_ratio(rate, new_rate))


def rms_dbfs(waveform: Float32[np.ndarray, "*C L"]) -> float:
    """Root mean square in dB re amplitude 1: -3.01 for a full-scale sine, -inf for digital silence."""
    power = float(np.mean(np.square(waveform, dtype=np.float64))) if waveform.size else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf


def is_silent(waveform: Float32[np.ndarray, "*C L"], threshold: float = SILENCE) -> bool:
    """Whether the RMS over all samples and channels is below `threshold` dBFS."""
    return rms_dbfs(waveform) < threshold


def read_audio(path: Path) -> tuple[Float32[np.ndarray, "C L"], int]:
    """All channels of an audio or video file of a user, and its sample rate (Hz).

    The sound of a video starts at time 0 of the video's timeline. AvsetError names the file and the cure.
    """
    try:
        if not path.is_file():
            raise ClipError("missing", "there is no such file")
        try:
            samples, rate = soundfile.read(str(path.absolute()), dtype="float32", always_2d=True)
            waveform = np.ascontiguousarray(samples.T)
        except (soundfile.LibsndfileError, TypeError):  # not its format; a TypeError for the suffix .raw
            waveform, rate = _read_track(path)
        if not waveform.size or not np.isfinite(waveform).all():
            raise ClipError("corrupt", "it has no samples, or some that are not numbers")
        return waveform, rate
    except ClipError as error:
        cure = "give a .wav, .flac, .mp3, .mp4 or other media file that has sound and plays to its end"
        raise AvsetError(f"cannot read sound from {str(path)!r} ({error}); {cure}") from error


def _read_track(path: Path) -> tuple[np.ndarray, int]:
    """The whole sound track of a media file on its timeline: (C, L), sample rate."""
    with open_media(path) as container:
        stream = track(container, "audio")
        pieces = list(_blocks(container, stream, 0.0))
        declared = declared_end(container, stream)
    if not pieces:
        raise ClipError("truncated", "no sound can be decoded")
    channels = {block.shape[0] for _, block, _ in pieces}
    if len(channels) > 1:
        raise ClipError("corrupt", f"the number of channels changes: {sorted(channels)}")
    rate, length = pieces[0][2], max(index + block.shape[1] for index, block, _ in pieces)
    if length / rate + TAIL < declared < math.inf:
        raise ClipError("truncated", f"the sound ends at {length / rate:.2f} s of {declared:.2f} s")
    waveform = np.zeros((channels.pop(), length), np.float32)
    for index, block, _ in pieces:
        _place(waveform, index, block)
    return waveform, rate


def write_audio(path: Path, waveform: Float32[np.ndarray, "*C L"], sample_rate: int) -> None:
    """Writes (L,) or (C, L) as .wav or .flac (16 bit) or .ogg (Vorbis), by the suffix; clipped to [-1, 1].

    The file appears whole or not at all; missing directories are made. AvsetError names what is supported.
    """
    if path.suffix.lower() not in FORMATS:
        cure = f"give a name that ends in {', '.join(FORMATS)}"
        raise AvsetError(f"cannot write sound as {str(path)!r}; {cure}")
    container, encoding = FORMATS[path.suffix.lower()]
    samples = np.atleast_2d(waveform).T
    if encoding == "PCM_16":  # libsndfile would round down
        samples = np.rint(np.clip(samples * 32768, -32768, 32767)).astype(np.int16)
    temporary = path.with_name(f".writing-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            temporary.open("xb+") as raw,
            soundfile.SoundFile(raw, "w", sample_rate, samples.shape[1], encoding, format=container) as sound,
        ):
            for at in range(0, len(samples), BLOCK):
                sound.write(samples[at : at + BLOCK])
        temporary.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
        cure = "see the directory, the sample rate and the number of channels, or try .wav"
        raise AvsetError(f"cannot write {str(path)!r}: {reason}; {cure}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def to_int16(waveform: Float32[np.ndarray, "*C L"]) -> Int16[np.ndarray, "*C L"]:
    """Rounded to steps of 1 / 32767, clipped to [-1, 1]."""
    return np.rint(np.clip(waveform, -1.0, 1.0) * np.float32(32767)).astype(np.int16)


def from_int16(waveform: Int16[np.ndarray, "*C L"]) -> Float32[np.ndarray, "*C L"]:
    """Inverse of `to_int16`: the round trip is within half a step, and exact for what was int16 before."""
    return waveform.astype(np.float32) / np.float32(32767)

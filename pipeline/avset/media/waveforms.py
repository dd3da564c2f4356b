"""Sound of a media file: excerpts on the timeline of the pictures, and resampling, also of a stream of any length.

Door of torchaudio (resampling), and of PyAV for sound. A waveform is float32 in [-1, 1].
"""

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from avset.errors import ClipError
from avset.features.samples import is_silent, rms_dbfs
from avset.media.container import TAIL, decode_from, open_media, time_of, track

PREROLL = 0.3  # s decoded before an excerpt: AAC, MP3 and Opus need some packets to warm up after a seek
LEAST_RATE, MOST_RATE = 1000, 768_000  # Hz; this and MOST_CHANNELS: values beyond come from a damaged header
MOST_CHANNELS = 64
KINDS = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}  # of samples
JUMP = 0.05  # s; a time stamp further off the count of samples is a gap or an overlap, a nearer one is rounding
MARGIN = 80  # samples of the lower rate that are added on both sides and cut off again: the filter reaches 68 far
RATIO_TERM = 4096  # samples of either rate in a period of the resampling filter, at most
FILTER = {  # flat to 0.1 dB up to 0.9 of the lower Nyquist frequency, -60 dB at it, -120 dB from 1.02 on
    "resampling_method": "sinc_interp_kaiser",
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "beta": 14.769656459379492,
}
BLOCK = 65536  # samples of a stream that are resampled at once


def _directly(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def decode_audio(
    path: Path, start: float, duration: float, sample_rate: int, silence: float, call: Callable[..., Any] = _directly
) -> Float32[np.ndarray, "L"]:
    """An excerpt (both in s) as L = round(duration * sample_rate) mono samples, the mean of the channels.

    Sample 0 is at `start` on the file's timeline, as exactly as the file's time stamps are: to half a sample in MP4, to
    1 ms in Matroska. Zeros fill the time before the track starts, its gaps, and up to `TAIL` s after its end. ClipError
    missing, corrupt, no_audio; truncated if the track ends still earlier; silent if the RMS of the L samples is below
    `silence` dBFS. `call` runs the function that opens the file.
    """
    mono, margin, down, up = call(_excerpt, path, start, duration, sample_rate)
    if not np.isfinite(mono).all():
        raise ClipError("corrupt", "the sound has samples that are not numbers")
    first = margin // down * up
    waveform = _filtered(mono, down, up)[first : first + round(duration * sample_rate)]
    if is_silent(waveform, silence):
        raise ClipError("silent", f"{rms_dbfs(waveform):.1f} dBFS, below {silence:g}")
    return waveform


def _excerpt(path: Path, start: float, duration: float, new_rate: int) -> tuple[np.ndarray, int, int, int]:
    """Mono samples at the file's rate, the margin (how many are before `start`), and the resampling ratio.

    The margin is a whole number of periods of the ratio, so both rates have a sample at `start`.
    """
    mono, margin, down, up, first, end = np.empty(0, np.float32), 0, 1, 1, 0, 0.0
    with open_media(path) as container:
        for index, block, rate in sound_blocks(container, track(container, "audio"), start - PREROLL):
            if not mono.size:
                down, up = _ratio(rate, new_rate)
                margin = _margin(rate, new_rate, down)
                first = round(start * rate) - margin
                mono = np.zeros(math.ceil(duration * rate) + 2 * margin + 1, np.float32)
            _put(mono[None], index - first, block.mean(0, keepdims=True))
            end = (index + block.shape[1]) / rate
            if index - first >= mono.size:
                break
    if end + TAIL < start + duration:
        raise ClipError("truncated", f"the sound ends at {end:.2f} s, before {start + duration:.2f} s")
    return mono, margin, down, up


def sound_blocks(container: Any, stream: Any, seconds: float) -> Iterator[tuple[int, np.ndarray, int]]:
    """Decoded sound from `seconds` or earlier on: (index on the timeline, samples (C, n), sample rate).

    Samples are counted from the first time stamp, because containers round time stamps (Matroska to 1 ms).
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


def _put(target: np.ndarray, at: int, block: np.ndarray) -> None:
    """Write a block (C, n) into target (C, L) from column `at` on; columns outside of target are dropped."""
    begin, end = max(at, 0), min(at + block.shape[1], target.shape[1])
    if begin < end:
        target[:, begin:end] = block[:, begin - at : end - at]


def _ratio(rate: int, new_rate: int) -> tuple[int, int]:
    """rate / new_rate in lowest terms, at most `RATIO_TERM`; other ratios are approximated, to 3e-6."""
    ratio = Fraction(rate, new_rate).limit_denominator(RATIO_TERM // max(1, -(-rate // new_rate)))
    return ratio.numerator, ratio.denominator


def _margin(rate: int, new_rate: int, down: int) -> int:
    """Samples that the filter needs on either side: a whole number of periods, so both rates have the first sample."""
    return math.ceil(MARGIN * max(1, rate / new_rate) / down) * down


@cache
def _resampler(down: int, up: int) -> Any:
    """The filter of a ratio: designed in float64, then float32. A design in float32 would be off by 2e-5."""
    import torch  # who only decodes does not wait for it
    from torchaudio.transforms import Resample

    return Resample(down, up, **FILTER, dtype=torch.float64).float()


def _filtered(waveform: np.ndarray, down: int, up: int) -> np.ndarray:
    """waveform (..., L) at up / down times its rate: (..., ceil(L * up / down))."""
    import torch

    filtered: np.ndarray = _resampler(down, up)(torch.from_numpy(waveform.copy())).numpy()
    return filtered


def resample(waveform: Float32[np.ndarray, "*C L"], rate: int, new_rate: int) -> Float32[np.ndarray, "*C L2"]:
    """The same sound at another rate (Hz), pitch unchanged: L2 = ceil(L * new_rate / rate), see `_ratio`."""
    return np.concatenate(list(resample_blocks([(waveform, rate)], new_rate)), -1)


def resample_blocks(
    blocks: Iterable[tuple[Float32[np.ndarray, "*C n"], int]], new_rate: int
) -> Iterator[Float32[np.ndarray, "*C m"]]:
    """`resample` of a stream of (block, rate), in blocks of its own: the same bytes however the sound is cut.

    It reads about `BLOCK` samples ahead. There is at least one block, and all have the same rate.
    """
    blocks = iter(blocks)
    first, rate = next(blocks)
    down, up = _ratio(rate, new_rate)
    margin = _margin(rate, new_rate, down)
    size, cut = math.ceil(BLOCK / down) * down, margin // down * up
    silence = np.zeros((*first.shape[:-1], margin), np.float32)
    padded = chain([silence, first], (block for block, _ in blocks), [silence])
    for piece in overlapping(padded, size + 2 * margin, size):
        count = -(-(piece.shape[-1] - 2 * margin) * up // down)
        yield _filtered(piece, down, up)[..., cut : cut + count]


def overlapping(
    blocks: Iterable[Float32[np.ndarray, "*C n"]], size: int, step: int
) -> Iterator[Float32[np.ndarray, "*C m"]]:
    """Cut a stream anew: a piece of `size` samples every `step` <= size samples; the last piece is shorter.

    No block is read before a piece needs it.
    """
    held: list[np.ndarray] = []
    for block in blocks:
        held.append(block)
        if sum(part.shape[-1] for part in held) >= size:
            rest = np.concatenate(held, -1)
            while rest.shape[-1] >= size:
                yield rest[..., :size]
                rest = rest[..., step:]
            held = [rest]
    yield np.concatenate(held, -1)

"""Separation and localisation of files, by text: from a file to blocks or scores, and from file to file.

Each step of the ladder adds reading or writing only: `Separator.stream` takes blocks, `separate_file` reads the
blocks from a file, `separate_file_to_file` writes the estimate. `localize` takes a frame, `localize_file` takes the
frame from a video, `localize_file_to_file` draws the heat map.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.inference.localize import Attention, localize
from avset.inference.separate import Separator
from avset.media.container import probe
from avset.media.frames import decode_frames
from avset.media.recordings import AudioWriter, read_long_blocks
from avset.media.targets import PICTURES, WRITABLE, check_files, check_query, check_time
from avset.media.waveforms import resample_blocks
from avset.storage.reading import AGAIN

SIDE = 512  # px of the frame under a heat map
LIMITS = Limits(600.0, 2.0)  # of reading: until the first sound or a picture is there, and from one sound to the next
CURE = "the file may be made to harm; if you trust it, give larger limits (avset.inference.files)"


@dataclass(frozen=True)
class SeparatedFile:
    """What `separate_file_to_file` has written."""

    seconds: float
    sample_rate: int  # Hz
    energy: float  # of the estimate, as a share of the mixture's
    clipped: bool  # the estimate or the residual was louder than full scale somewhere


def separate_file(
    separator: Separator, file: Path, text: str, limits: Limits = LIMITS
) -> Iterator[tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, " m"]]]:
    """Blocks of a recording, mono at the model's sample rate, each with the estimate of what `text` names.

    `file` is an audio or video file of any length. AvsetError if its sound cannot be read to its end, or if the text
    is too long for the encoder. Another process reads the file, within `limits`.
    """
    mono = ((block.mean(0), file_rate) for block, file_rate in limited_blocks(file, limits))
    blocks = resample_blocks(mono, separator.model.settings.transform.sample_rate)
    stream = separator.stream(blocks, separator.text_query([text]))
    return ((mixture, estimate) for mixture, (estimate,) in stream)


def limited_blocks(file: Path, limits: Limits) -> Iterator[tuple[Float32[np.ndarray, "C n"], int]]:
    """`read_long_blocks` in another process, within limits; AvsetError also if they do not suffice."""
    try:
        yield from limits.each(read_long_blocks, file)
    except ClipError as e:
        raise AvsetError(f"cannot read sound from {str(file)!r} ({e}); {CURE}") from e


def separate_file_to_file(
    separator: Separator,
    file: Path,
    text: str,
    output: Path,
    residual: Path | None = None,
    overwrite: bool = False,
    limits: Limits = LIMITS,
) -> SeparatedFile:
    """Write what `text` names to `output`, and the rest of the mixture to `residual`.

    Both are mono at the model's sample rate, .wav, .flac or .ogg, and add up to the mixture. AvsetError if `file`
    cannot be read or a target cannot be written; then every file is as it was. `file`, `output` and `residual` are
    three files; those that are there already are replaced only with `overwrite`.
    """
    check_query(text)
    check_files(file, {"output": output, "residual": residual}, WRITABLE, overwrite)
    rate = separator.model.settings.transform.sample_rate
    stream = separate_file(separator, file, text, limits)
    length, loudest, energy, part = 0, 0.0, 0.0, 0.0
    with ExitStack() as files:
        paths = [path for path in (output, residual) if path is not None]
        writers = [files.enter_context(AudioWriter(path, rate, overwrite)) for path in paths]
        for mixture, estimate in stream:
            rest = mixture - estimate
            for writer, sound in zip(writers, (estimate, rest), strict=False):
                writer.write(sound)
            length += len(mixture)
            loudest = max(loudest, float(np.abs(estimate).max(initial=0)), float(np.abs(rest).max(initial=0)))
            energy += float(np.square(mixture, dtype=np.float64).sum())
            part += float(np.square(estimate, dtype=np.float64).sum())
    return SeparatedFile(length / rate, rate, part / max(energy, 1e-12), loudest > 1)


def read_frame(
    file: Path, time: float | None = None, size: int = SIDE, limits: Limits = LIMITS
) -> UInt8[np.ndarray, "size size 3"]:
    """The frame of a video at `time` (s; by default the middle of the video), as a centre square.

    AvsetError if there is no such frame. Another process reads the file, within `limits`.
    """
    check_time(time)
    try:
        if time is None:
            time = limits(probe, file, False).duration / 2
        frames: np.ndarray = limits(decode_frames, file, np.array([time]), size)
        return frames[0]
    except ClipError as e:
        cure = AGAIN if e.reason == "system" else "give a video with pictures there"
        raise AvsetError(f"cannot take a picture from {str(file)!r} ({e}); {cure}") from e


def localize_file(
    separator: Separator, file: Path, text: str, time: float | None = None, limits: Limits = LIMITS
) -> Attention:
    """The attention of a text over a frame of a video; errors as of `read_frame`."""
    return localize(separator, read_frame(file, time, limits=limits), text)


def localize_file_to_file(
    separator: Separator,
    file: Path,
    text: str,
    output: Path,
    time: float | None = None,
    overwrite: bool = False,
    limits: Limits = LIMITS,
) -> Attention:
    """Draw the attention of a text over a frame of a video as a heat map, `output` (.png).

    Errors as of `read_frame`; AvsetError also if `output` cannot be written, is `file` itself, or is there already and
    `overwrite` is not set.
    """
    check_query(text)
    check_files(file, {"output": output}, PICTURES, overwrite)
    from avset.report.plots import attention_map, save_png  # matplotlib: a separation does not wait for it

    frame = read_frame(file, time, limits=limits)
    attention = localize(separator, frame, text)
    save_png(output, attention_map(frame, attention.scores, attention.heat, attention.grid))
    return attention

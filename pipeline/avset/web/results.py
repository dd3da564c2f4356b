"""What a separation becomes for the page: sounds, pictures of the sounds, frames, and heat maps as numbers."""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.inference.localize import Attention
from avset.inference.pictures import frame_if_any, picture_size
from avset.inference.reading import limited_blocks, limited_format
from avset.inference.separate import Separated, Separator
from avset.inference.wishes import Query, of_picture
from avset.media.frames import decode_frames
from avset.media.waveforms import resample
from avset.media.writers import write_audio
from avset.models.contract import Localizes
from avset.report.plots import coloured, jpeg, loudness, magnitude

LIMITS = Limits(60.0, 2.0)  # of reading a stranger's file: s until the next block, and GB
SIDE = 384  # px of a frame
FRAMES, SPACING = 12, 0.5  # frames of a film at most, and s between them at least
DRAWN_RATE = 22050  # Hz: what is drawn of a sound is below the half of it
DRAWN_SIZE = (1200, 160)  # px of the picture of a sound
Pictures = list[tuple[float, UInt8[np.ndarray, "H W 3"]]]  # with their times (s)


def separated(
    separator: Separator, file: Path, queries: Sequence[Query], folder: Path, minutes: float, shares: bool = False
) -> dict[str, Any]:
    """Separate a file, write sounds and pictures to a folder, and tell of them: names of files, and numbers.

    Boxes are those of the page: in fractions of the centre square, which is what it shows. AvsetError if the file or a
    query cannot be used, or if the sound is longer than allowed.
    """
    squares = [query.box for query in queries]
    if any(squares):
        size = picture_size(file, LIMITS)
        queries = [replace(one, box=of_picture(one.box, *size)) if one.box else one for one in queries]
    separator.ask(queries, file, limits=LIMITS)  # what is wrong with a query is known at once
    bits = limited_format(file, LIMITS).bits
    seconds = _length(file, minutes)
    found = separator.separate(file, queries, shares=shares, limits=LIMITS)
    mixture = found.sounds.sum(0) + found.residual
    peak = float(_drawn(mixture, found.sample_rate).max())
    tracks = {f"sound-{number}": sound for number, sound in enumerate(found.sounds, 1)}
    for name, sound in (tracks | {"rest": found.residual, "mixture": mixture}).items():
        write_audio(folder / f"{name}.wav", sound, found.sample_rate, bits)
        picture = coloured(loudness(_drawn(sound, found.sample_rate), peak))
        (folder / f"{name}.jpg").write_bytes(jpeg(picture, DRAWN_SIZE))
    pictures = _pictures(file, seconds)
    for number, (_, frame) in enumerate(pictures):
        (folder / f"frame-{number}.jpg").write_bytes(jpeg(frame))
    return {
        "seconds": seconds,
        "sample_rate": found.sample_rate,
        "channels": len(mixture),
        "sounds": [
            _sound(found, number, name) | {"box": square}
            for number, (name, square) in enumerate(zip(tracks, squares, strict=True))
        ],
        "times": [time for time, _ in pictures],
        "heat": _heat(separator, [frame for _, frame in pictures], queries),
    }


def middle_picture(file: Path) -> bytes:
    """The picture in the middle of a film, as JPEG; AvsetError if there is none."""
    if (frame := frame_if_any(file, SIDE, LIMITS)) is None:
        raise AvsetError("the film has no picture in its middle; say what to listen for in words")
    return jpeg(frame)


def _sound(found: Separated, number: int, name: str) -> dict[str, Any]:
    presence = None if found.presence is None else found.presence[number]
    return {"name": name, "query": found.queries[number], "energy": found.energies[number], "presence": presence}


def _length(file: Path, minutes: float) -> float:
    """Seconds of a sound, as it is and not as it says; AvsetError as soon as it is too long."""
    seconds = 0.0
    with closing(limited_blocks(file, LIMITS)) as blocks:
        for block, rate in blocks:
            seconds += block.shape[-1] / rate
            if seconds > 60 * minutes:
                raise AvsetError(f"the sound is longer than {minutes:g} minutes; cut it, or use `avset separate`")
    return seconds


def _drawn(sound: Float[np.ndarray, "C L"], rate: int) -> Float[np.ndarray, "M T"]:
    return magnitude(resample(sound.mean(0), rate, min(rate, DRAWN_RATE)))


def _pictures(file: Path, seconds: float) -> Pictures:
    """Frames over the length of a film; none of a file whose pictures cannot be read, or that has none."""
    count = min(FRAMES, max(1, math.floor(seconds / SPACING)))
    times = (np.arange(count) + 0.5) * seconds / count
    try:
        return list(zip(times.tolist(), LIMITS(decode_frames, file, times, SIDE), strict=True))
    except ClipError:
        return []


def _heat(separator: Separator, frames: list[np.ndarray], queries: Sequence[Query]) -> dict[str, Any] | None:
    """How strongly each region of each frame answers to each query, all on one scale; None where nothing localizes.

    A box has no values: it says itself where it is.
    """
    if not frames or not isinstance(separator.model.method, Localizes):
        return None
    maps = [[] if query.box else [separator.localize(frame, query) for frame in frames] for query in queries]
    if not (told := [one for of_query in maps for one in of_query]):
        return None
    absolute, (rows, columns) = told[0].heat is not None, told[0].grid
    every = np.stack([_values(one) for one in told])
    low, high = (0.0, 1.0) if absolute else (float(every.min()), float(every.max()))
    values = [[_values(one).tolist() for one in of_query] or None for of_query in maps]
    return {"rows": rows, "columns": columns, "low": low, "high": high, "absolute": absolute, "values": values}


def _values(attention: Attention) -> Float[np.ndarray, " R"]:
    """On the scale that all pictures share, where the model has one."""
    heat = attention.heat
    return attention.scores if heat is None else heat

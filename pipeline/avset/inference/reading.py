"""Files of a user, read in another process, within limits: strangers' files may be made to harm. No torch in here."""

import shutil
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.media.recordings import Format, read_format, read_long_blocks

Blocks = Iterator[tuple[Float32[np.ndarray, "C n"], int]]  # channels, each block with the sample rate (Hz)
LIMITS = Limits(600.0, 2.0)  # of reading: until the first sound or a picture is there, and from one sound to the next
SILENT = 1e-8  # mean square of a sound, of full scale (-80 dB), up to which nothing is in it
CURE = "the file may be made to harm; if you trust it, give larger limits (avset.inference.reading)"


def spool(source: Any, file: Any) -> None:
    """Copy a file object, from its position to its end. AvsetError if it gives text."""
    if isinstance(source.read(0), str):
        raise AvsetError("the file object gives text; open it in binary mode, 'rb'")
    shutil.copyfileobj(source, file)
    file.flush()


def limited_blocks(
    file: Path, limits: Limits = LIMITS
) -> Generator[tuple[Float32[np.ndarray, "C n"], int], None, None]:
    """`read_long_blocks` in another process, within limits; AvsetError also if they do not suffice."""
    try:
        yield from limits.each(read_long_blocks, file)
    except ClipError as e:
        raise AvsetError(f"cannot read sound from {str(file)!r} ({e}); {CURE}") from e


def check_audible(file: Path, limits: Limits = LIMITS) -> None:
    """AvsetError if nothing is to be heard in a file."""
    with closing(limited_blocks(file, limits)) as blocks:
        if not any(np.square(block, dtype=np.float64).mean() > SILENT for block, _ in blocks):
            raise AvsetError(f"the example {str(file)!r} is silent; give a file in which a sound can be heard")


def limited_format(file: Path, limits: Limits = LIMITS) -> Format:
    """`read_format` in another process, within limits; AvsetError also if they do not suffice."""
    try:
        found: Format = limits(read_format, file)
    except ClipError as e:
        raise AvsetError(f"cannot read sound from {str(file)!r} ({e}); {CURE}") from e
    return found

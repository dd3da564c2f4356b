"""The sound that a user gives, whatever it is: a path, a file object, an array with its rate. All become blocks."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from avset.compute.limited import Limits
from avset.errors import AvsetError
from avset.inference.reading import LIMITS, Blocks, limited_blocks, spool
from avset.media.targets import check_readable
from avset.media.waveforms import LEAST_RATE, MOST_CHANNELS, MOST_RATE, resample_blocks

Source = str | PathLike[str] | BinaryIO | np.ndarray | Tensor
TOLD = "give (samples,) or (channels, samples)"


@dataclass(frozen=True)
class Opened:
    """A source, ready to be read once."""

    blocks: Blocks
    path: Path | None = None  # None for an array
    flat: bool = False  # an array of one dimension


@contextmanager
def opened(source: Source, sample_rate: int | None = None, limits: Limits = LIMITS) -> Iterator[Opened]:
    """A source as blocks. A file object is read to its end, into a temporary file.

    AvsetError if a path cannot be read, if an array has no rate or a wrong shape, if samples are not numbers, or if a
    rate is given for a file, which has its own.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        sound, rate = _checked_array(source), _checked_rate(sample_rate)
        yield Opened(iter([(np.atleast_2d(sound), rate)]), flat=sound.ndim == 1)
        return
    if sample_rate is not None:
        raise AvsetError("a file has its own sample rate; give `sample_rate` with an array only")
    if hasattr(source, "read"):
        with tempfile.NamedTemporaryFile(prefix="avset-") as file:
            spool(source, file)
            path = Path(file.name)
            with closing(limited_blocks(path, limits)) as blocks:
                yield Opened(blocks, path)
    elif isinstance(source, (str, PathLike)):
        path = Path(source)
        check_readable(path)
        with closing(limited_blocks(path, limits)) as blocks:
            yield Opened(blocks, path)
    else:
        raise AvsetError(f"a {type(source).__name__} is no sound; give a path, a file object, an array or a tensor")


def heard(blocks: Blocks, rate: int) -> Iterator[Float32[np.ndarray, " n"]]:
    """What a model hears of a source: the mean of the channels at the model's rate (Hz)."""
    return resample_blocks(((block.mean(0), own) for block, own in blocks), rate)


def _checked_rate(rate: int | None) -> int:
    if rate is None:
        raise AvsetError("an array has no sample rate; give `sample_rate` (Hz)")
    if isinstance(rate, bool) or rate != int(rate) or not LEAST_RATE <= rate <= MOST_RATE:
        raise AvsetError(f"the sample rate is {rate}; give a whole number from {LEAST_RATE} to {MOST_RATE} (Hz)")
    return int(rate)


def _checked_array(sound: np.ndarray | Tensor) -> Float32[np.ndarray, "*C L"]:
    """An array as float32; whole numbers are steps of full scale."""
    if isinstance(sound, Tensor):
        sound = (sound.float() if sound.is_floating_point() else sound).detach().cpu().numpy()
    samples = sound
    if samples.ndim not in (1, 2) or not samples.size:
        raise AvsetError(f"the sound has shape {samples.shape}; {TOLD}")
    if samples.ndim == 2 and len(samples) > min(MOST_CHANNELS, samples.shape[1]):
        raise AvsetError(f"the sound has {len(samples)} channels of {samples.shape[1]} samples; {TOLD}, as sound.T")
    if samples.dtype.kind not in "iuf":
        raise AvsetError(f"the samples are {samples.dtype}; give floats in [-1, 1], or whole numbers")
    if samples.dtype.kind != "f":
        low, high = float(np.iinfo(samples.dtype).min), float(np.iinfo(samples.dtype).max)
        samples = (samples.astype(np.float64) - (low + high + 1) / 2) * 2 / (high - low + 1)
    if not np.isfinite(samples).all():
        raise AvsetError("the sound has samples that are not numbers; give finite ones")
    return samples.astype(np.float32)

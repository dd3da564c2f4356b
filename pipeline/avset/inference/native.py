"""Masks of the model, applied to a recording as it is: every channel, at its own sample rate.

The model hears the mean of the channels at its own rate. Its masks are applied to the STFT of every channel. Windows
and hops of that STFT last as long as the model's, so its bins are as wide: a mask only goes on from frame to frame and
from bin to bin, by linear interpolation. A mask of ones gives back the recording.

Above the highest bin of the model, a sound has in each frame the share that it has of the energy in the highest octave
that the model hears: overtones go on. What else was tried is in docs/separation.md.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from jaxtyping import Complex, Float, Float32
from torch import Tensor
from torch.nn import functional as fn

from avset.features.spectrograms import FLOOR, Transform, window
from avset.media.waveforms import _ratio, overlapping

FRAMES = 64  # that are transformed at once


class NativeTransform:
    """The STFT at a sample rate of its own (Hz), with windows and hops as long as those of the model.

    window_length, hop_length   samples, see `Transform`
    """

    def __init__(self, model: Transform, sample_rate: int):
        self.sample_rate = sample_rate
        down, up = _ratio(sample_rate, model.sample_rate)  # as the model's input is resampled
        self.window_length = 2 * round(model.window_length * down / up / 2)
        self.hop_length = max(1, round(model.hop_length * down / up))
        self._frame = self.hop_length * up / down / model.hop_length  # of the model, from one frame to the next
        self._bin = model.window_length * down / up / self.window_length  # of the model, from one bin to the next

    @property
    def n_bins(self) -> int:
        """f, from 0 Hz to half of the sample rate."""
        return self.window_length // 2 + 1

    def in_time(self, masks: Iterable[Float[Tensor, "N F t"]]) -> Iterator[Float[Tensor, "N F k"]]:
        """Blocks of masks, frame by frame of the model -> masks at the frames of this transform, `FRAMES` a block.

        It never ends: the last frame stays.
        """
        held, first, at = next(blocks := iter(masks)), 0, 0
        while True:
            places = torch.arange(at, at + FRAMES, dtype=torch.float64, device=held.device) * self._frame
            while first + held.shape[-1] <= int(places[-1]) + 1:
                if (block := next(blocks, None)) is None:
                    block = held[..., -1:].expand(*held.shape[:-1], int(places[-1]) + 2 - first - held.shape[-1])
                held = torch.cat([held, block], -1)
            lower = places.long()
            yield torch.lerp(held[..., lower - first], held[..., lower - first + 1], (places - lower).to(held.dtype))
            at += FRAMES
            done = int(at * self._frame) - first
            held, first = held[..., done:], first + done

    def in_frequency(self, masks: Float[Tensor, "N F k"], spectrum: Complex[Tensor, "C f k"]) -> Float[Tensor, "N f k"]:
        """Masks of the model's bins -> masks of the bins of this transform, for a recording of this spectrum."""
        places = torch.arange(self.n_bins, dtype=torch.float64, device=masks.device) * self._bin
        known = int((places <= masks.shape[1] - 1).sum())
        places = places.clamp(max=masks.shape[1] - 1)
        lower = places.long().clamp(max=masks.shape[1] - 2)
        weight = (places - lower).to(masks.dtype)[:, None]
        here = torch.lerp(masks[:, lower], masks[:, lower + 1], weight)
        octave = slice(known // 2, known)
        energy = spectrum[:, octave].abs().square().mean(0) + FLOOR
        here[:, known:] = (here[:, octave] * energy).sum(1, keepdim=True) / energy.sum(0)
        return here

    def analyse(self, frames: Float[Tensor, "*batch k W"]) -> Complex[Tensor, "*batch f k"]:
        """Spectra of frames of samples."""
        return torch.fft.rfft(frames * window(self.window_length, frames)).transpose(-1, -2)

    def added(self, frames: Float[Tensor, "*batch k W"]) -> Float[Tensor, "*batch n"]:
        """Frames, windowed and added where they overlap: n = (k - 1) * hop_length + window_length."""
        windowed = (frames * window(self.window_length, frames)).flatten(0, -3).transpose(1, 2)
        length = (frames.shape[-2] - 1) * self.hop_length + self.window_length
        whole = fn.fold(windowed, (1, length), (1, self.window_length), stride=(1, self.hop_length))
        return whole.reshape(*frames.shape[:-2], length)


def apply_masks(
    transform: NativeTransform, sound: Iterable[Float32[np.ndarray, "C n"]], masks: Iterable[Float[Tensor, "N F t"]]
) -> Iterator[tuple[Float32[np.ndarray, "C m"], Float32[np.ndarray, "N C m"]]]:
    """Blocks of a recording and of masks of it on the model's grid -> blocks of the recording and of N sounds in it.

    Whatever the length, the same is held. The recording is read as far ahead as `masks` reads it.
    """
    width, hop = transform.window_length, transform.hop_length
    half, size, step = width // 2, (FRAMES - 1) * hop + width, FRAMES * hop
    blocks = iter(sound)
    first = next(blocks)
    silence = np.zeros((len(first), half), np.float32)
    added, weight, skip = torch.zeros(0), torch.zeros(0), half
    pieces = overlapping(chain([silence, first], blocks, [silence]), size, step)
    for piece, mask in zip(pieces, transform.in_time(masks), strict=False):
        last = piece.shape[1] < size
        count = max(0, (piece.shape[1] - width) // hop + 1) if last else FRAMES
        if count:
            with torch.no_grad():  # not around the `yield`: the caller may want gradients of other things
                frames = torch.from_numpy(piece).to(mask.device).unfold(1, width, hop)[:, :count]
                spectrum = transform.analyse(frames)
                masked = transform.in_frequency(mask[..., :count], spectrum)[:, None] * spectrum
                added = _joined(added, transform.added(torch.fft.irfft(masked.transpose(-1, -2), width)))
                weight = _joined(weight, transform.added(window(width, frames).expand(1, count, width))[0])
        here = slice(skip, piece.shape[1] - half if last else step)
        yield piece[:, here], (added[..., here] / weight[here]).cpu().numpy()
        added, weight, skip = added[..., step:], weight[step:], 0


def _joined(before: Tensor, new: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """What is added up to here, and what follows; both begin at the same sample."""
    new[..., : before.shape[-1]] += before
    return new

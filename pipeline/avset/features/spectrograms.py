"""Short-time Fourier transform and its inverse, log-frequency warp, ratio masks. Pure torch.

The STFT is linear, so the mean of stored spectrograms is the spectrogram of the mixture: training never touches a
waveform. A crop that starts at hop `t` of a clip equals the STFT of the cropped waveform, except in the first two
frames and in the last one: their windows reach over the border.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

FLOOR = 1e-10  # added to a magnitude before its logarithm
WARP = 21.0  # the log-frequency axis: y = (21^u - 11) / 10 for u in [0, 1], so y in [-1, 1]


def n_samples(frames: int, hop_length: int) -> int:
    """The longest waveform that has `frames` STFT frames (256 frames at hop 256: 65 535, as in the paper)."""
    return frames * hop_length - 1


def window(length: int, like: Tensor) -> Float[Tensor, " W"]:
    """Periodic Hann window on the device of `like`."""
    return torch.hann_window(length, device=like.device, dtype=like.real.dtype)


def stft(waveform: Float[Tensor, "*batch L"], window_length: int, hop_length: int) -> Complex[Tensor, "*batch F T"]:
    """Centred STFT with a Hann window, zeros beyond both ends; F = window_length // 2 + 1, T = 1 + L // hop."""
    flat = waveform.reshape(-1, waveform.shape[-1])
    out = torch.stft(
        flat, window_length, hop_length, window=window(window_length, flat), pad_mode="constant",
        return_complex=True,
    )  # fmt: skip
    return out.reshape(*waveform.shape[:-1], *out.shape[-2:])


def istft(
    spectrum: Complex[Tensor, "*batch F T"], length: int, window_length: int, hop_length: int
) -> Float[Tensor, "*batch {length}"]:
    """The waveform of `length` samples whose STFT is nearest to `spectrum` (weighted overlap-add)."""
    flat = spectrum.reshape(-1, *spectrum.shape[-2:])
    out = torch.istft(flat, window_length, hop_length, window=window(window_length, flat), length=length)
    return out.reshape(*spectrum.shape[:-2], length)


def pack(spectrum: Complex[Tensor, "F T"]) -> Float[Tensor, "T 2 F"]:
    """Time-major real and imaginary planes: a crop of whole frames is one contiguous run of the file."""
    return torch.view_as_real(spectrum).permute(1, 2, 0).contiguous()


@lru_cache(maxsize=32)
def _rows(n_in: int, n_out: int, inverse: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    u = torch.linspace(0, 1, n_out, dtype=torch.float64)
    if inverse:  # linear axis asked for, log axis given: u = log_21(10 y + 11)
        position = torch.log(10 * (2 * u - 1) + 11) / torch.log(torch.tensor(WARP, dtype=torch.float64))
    else:
        position = ((WARP**u - 11) / 10 + 1) / 2
    position = (position * (n_in - 1)).clamp(0, n_in - 1)
    lower = position.floor().long().clamp(max=n_in - 2)
    return lower.to(device), (position - lower).float().to(device)


def _interpolate(x: Tensor, lower: Int[Tensor, " n"], weight: Float[Tensor, " n"]) -> Tensor:
    return torch.lerp(x.index_select(-2, lower), x.index_select(-2, lower + 1), weight.to(x.dtype)[:, None])


def warp(x: Float[Tensor, "*batch F T"], bins: int) -> Float[Tensor, "*batch {bins} T"]:
    """F linear bins -> `bins` log-frequency bins, y = (21^u - 11) / 10, by linear interpolation of two rows.

    Both axes end in the centres of the first and last bin (`align_corners=True` of torch's grid_sample).
    """
    return _interpolate(x, *_rows(x.shape[-2], bins, False, x.device))


def unwarp(x: Float[Tensor, "*batch M T"], bins: int) -> Float[Tensor, "*batch {bins} T"]:
    """M log-frequency bins -> `bins` linear bins: the inverse axis of `warp`."""
    return _interpolate(x, *_rows(x.shape[-2], bins, True, x.device))


def log_magnitude(magnitude: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(magnitude + 1e-10): what the networks see."""
    return torch.log(magnitude + FLOOR)


def ratio_mask(
    sources: Float[Tensor, "*batch N M T"],
    mixture: Float[Tensor, "*batch M T"],
    target: str = "mixture",
    limit: float = 5.0,
) -> Float[Tensor, "*batch N M T"]:
    """Ratio masks of the sources, clamped to [0, limit].

    `target="mixture"`: |A_n| / |A_mix|, as in the release; `"sum"`: |A_n| / sum_k |A_k| (paper, Eq. 10).
    """
    if target == "sum":
        whole = sources.sum(-3, keepdim=True)
    elif target == "mixture":
        whole = mixture.unsqueeze(-3)
    else:
        raise ValueError(f"target {target!r} is neither 'mixture' nor 'sum'")
    return (sources / (whole + FLOOR)).clamp(0, limit)


@dataclass(frozen=True)
class Transform:
    """The audio front end of a model: waveform -> log-frequency magnitude, and masks -> waveforms."""

    sample_rate: int  # Hz
    window_length: int  # samples
    hop_length: int  # samples
    log_bins: int  # M
    crop: int  # T, STFT frames

    @property
    def length(self) -> int:
        """Samples of one crop."""
        return n_samples(self.crop, self.hop_length)

    def analyse(
        self, waveform: Float[Tensor, "*batch L"], grid: str = "log"
    ) -> tuple[Complex[Tensor, "*batch F T"], Float[Tensor, "*batch M T"]]:
        """Complex STFT, and its magnitude on the log-frequency axis; with `grid="linear"` as it is."""
        spectrum = stft(waveform, self.window_length, self.hop_length)
        magnitude = spectrum.abs()
        return spectrum, magnitude if grid == "linear" else warp(magnitude, self.log_bins)

    def apply(
        self, masks: Float[Tensor, "*batch N M T"], spectrum: Complex[Tensor, "*batch F T"], length: int,
        grid: str = "log",
    ) -> Float[Tensor, "*batch N {length}"]:  # fmt: skip
        """Un-warp the masks of the grid `log`, multiply the complex mixture, transform back with its phase."""
        unwarped = masks if grid == "linear" else unwarp(masks, spectrum.shape[-2])
        masked = unwarped * spectrum.unsqueeze(-3)
        return istft(masked, length, self.window_length, self.hop_length)

    def ideal(
        self, sources: Float[Tensor, "*batch N L"]
    ) -> tuple[Float[Tensor, "*batch N L"], Float[Tensor, "*batch N M T"]]:
        """Estimates by the ideal ratio masks of sources that sum to the mixture, and the masks: an upper bound."""
        spectrum, magnitude = self.analyse(sources.sum(-2))
        masks = ratio_mask(self.analyse(sources)[1], magnitude).clamp(0, 1)
        return self.apply(masks, spectrum, sources.shape[-1]), masks

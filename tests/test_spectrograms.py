"""The transform inverts, mixes linearly, and warps without losing its edges."""

import math

import pytest
import torch

from avset.features import spectrograms as sp

SIZES = (1022, 256)  # window and hop in samples


def test_paper_sizes():
    x = torch.zeros(sp.n_samples(256, 256))
    assert x.shape == (65535,)
    assert sp.stft(x, *SIZES).shape == (512, 256)


def test_inverse_restores_the_waveform():
    x = torch.randn(3, 16383, dtype=torch.float64)
    assert torch.allclose(sp.istft(sp.stft(x, *SIZES), 16383, *SIZES), x, atol=1e-10)


def test_a_tone_peaks_at_its_bin():
    hertz = 40 * 11025 / 1022
    x = torch.sin(2 * math.pi * hertz * torch.arange(16383) / 11025)
    assert sp.stft(x, *SIZES).abs().mean(-1).argmax() == 40


def test_mixing_stored_spectrograms_is_mixing_waveforms():
    a, b = torch.randn(2, 30000, dtype=torch.float64)
    start, frames = 17, 64
    first, last = start * 256, start * 256 + sp.n_samples(frames, 256)
    mixed = 0.5 * (0.7 * sp.stft(a, *SIZES) + 1.3 * sp.stft(b, *SIZES))[:, start : start + frames]
    direct = sp.stft(0.5 * (0.7 * a + 1.3 * b)[first:last], *SIZES)
    assert torch.allclose(mixed[:, 2:-1], direct[:, 2:-1], atol=1e-10)
    assert not torch.allclose(mixed[:, :2], direct[:, :2], atol=1e-3), "the border frames do differ"


def unpacked(planes: torch.Tensor) -> torch.Tensor:
    """(T, 2, F) -> complex (F, T)."""
    return torch.complex(*planes.float().unbind(1)).T


def test_half_precision_storage_keeps_seventy_decibels():
    spectrum = sp.stft(torch.randn(16383, dtype=torch.float64) * 0.1, *SIZES)
    kept = unpacked(sp.pack(spectrum).half())
    error = (kept.to(spectrum.dtype) - spectrum).abs().pow(2).sum() / spectrum.abs().pow(2).sum()
    assert -10 * math.log10(error) > 70


def test_pack_is_time_major_and_inverts():
    spectrum = sp.stft(torch.randn(5000), *SIZES)
    assert sp.pack(spectrum).shape == (spectrum.shape[1], 2, 512)
    assert torch.equal(unpacked(sp.pack(spectrum)), spectrum)


@pytest.mark.parametrize("bins", [64, 256])
def test_warp_equals_grid_sampling(bins: int):
    x = torch.rand(1, 1, 512, 10, dtype=torch.float64)
    u = torch.linspace(0, 1, bins, dtype=torch.float64)
    y = (21**u - 11) / 10
    across = torch.linspace(-1, 1, 10, dtype=torch.float64)
    grid = torch.stack(torch.broadcast_tensors(across[None, :], y[:, None]), -1)[None]
    expected = torch.nn.functional.grid_sample(x, grid, align_corners=True)
    assert torch.allclose(sp.warp(x, bins), expected, atol=1e-6)


def test_warp_keeps_the_edges_and_unwarp_inverts_a_smooth_plane():
    ramp = torch.linspace(0, 1, 512, dtype=torch.float64)[:, None].expand(512, 4)
    warped = sp.warp(ramp, 256)
    assert warped[0, 0] == 0
    assert warped[-1, 0] == 1
    assert torch.allclose(sp.unwarp(warped, 512), ramp, atol=1e-4)


def test_ratio_masks_by_hand():
    sources = torch.tensor([3.0, 1.0]).view(2, 1, 1)
    mixture = torch.tensor([[2.0]])
    assert sp.ratio_mask(sources, mixture).flatten().tolist() == pytest.approx([1.5, 0.5])
    assert sp.ratio_mask(sources, mixture, target="sum").flatten().tolist() == pytest.approx([0.75, 0.25])
    assert sp.ratio_mask(100 * sources, mixture).max() == 5
    with pytest.raises(ValueError, match="neither"):
        sp.ratio_mask(sources, mixture, target="power")

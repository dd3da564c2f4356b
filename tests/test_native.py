"""Masks of the model's grid on recordings of other rates: as good as on the model's own, and overtones go on."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from avset.features import spectrograms as sp
from avset.inference.native import NativeTransform, apply_masks
from avset.media.waveforms import resample

MODEL = sp.Transform(11025, 1022, 256, 64, 64)
SECONDS = 4.0


def sources(rate: int) -> np.ndarray:
    """Two sounds (2, L): gliding tones with partials below 5 kHz that swell in turn."""
    time = np.arange(round(SECONDS * rate)) / rate
    made = []
    for pitch, beat in ((330.0, 1.3), (470.0, 1.9)):
        phase = 2 * np.pi * (pitch * time + 8 * np.sin(2 * np.pi * 0.7 * time))
        partials = sum(np.sin(k * phase) / k for k in range(1, 10))
        made.append(0.2 * partials * np.sin(np.pi * beat * time) ** 2)
    return np.stack(made).astype(np.float32)


def ideal(sounds: np.ndarray, rate: int) -> torch.Tensor:
    """Ideal ratio masks (N, F, T) on the model's grid."""
    magnitude = sp.stft(torch.from_numpy(resample(sounds, rate, MODEL.sample_rate)), 1022, 256).abs()
    return magnitude / (magnitude.sum(0) + sp.FLOOR)


def applied(mixture: np.ndarray, masks: torch.Tensor, rate: int) -> np.ndarray:
    """(C, L) -> (N, C, L)."""

    def blocks() -> Iterator[np.ndarray]:
        for at in range(0, mixture.shape[1], 7777):
            yield mixture[:, at : at + 7777]

    pieces = iter(masks.split([3, 50, masks.shape[-1] - 53], -1))
    found = list(apply_masks(NativeTransform(MODEL, rate), blocks(), pieces))
    np.testing.assert_array_equal(np.concatenate([given for given, _ in found], 1), mixture)
    return np.concatenate([sounds for _, sounds in found], 2)


def sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - estimate).sum()))


@pytest.mark.parametrize("rate", [11025, 16000, 44100, 48000])
def test_an_ideal_mask_is_as_good_as_at_the_model_s_rate(rate: int) -> None:
    """Of two sounds below 5 kHz, in stereo: within half a dB of the plain way, STFT and mask at the model's rate."""
    sounds, plain = sources(rate), sources(MODEL.sample_rate)
    masks = ideal(sounds, rate)
    spectrum = sp.stft(torch.from_numpy(plain.sum(0)), 1022, 256)
    expected = sp.istft(ideal(plain, 11025) * spectrum, plain.shape[1], 1022, 256).numpy()
    panned = np.stack([sounds.sum(0), -0.3 * sounds.sum(0)])
    found = applied(panned, masks, rate)
    for n in range(2):
        usual = sdr(plain[n], expected[n])
        assert usual > 12
        for channel, gain in enumerate((1.0, -0.3)):
            assert sdr(gain * sounds[n], found[n, channel]) == pytest.approx(usual, abs=0.5)


def test_at_the_model_s_rate_it_is_the_plain_way() -> None:
    sounds = sources(11025)
    masks, mixture = ideal(sounds, 11025), sounds.sum(0)
    expected = sp.istft(masks * sp.stft(torch.from_numpy(mixture), 1022, 256), len(mixture), 1022, 256)
    np.testing.assert_allclose(applied(mixture[None], masks, 11025)[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_overtones_go_on_above_what_the_model_hears(rate: int) -> None:
    """Two sounds in turn, each at 4 kHz and at 9 kHz: who has the one has the other."""
    time = np.arange(round(SECONDS * rate)) / rate
    tone = 0.2 * np.sin(2 * np.pi * 4000 * time) + 0.1 * np.sin(2 * np.pi * 9000 * time)
    turn = 0.5 + 0.5 * np.tanh(20 * np.sin(2 * np.pi * time / 2))
    sounds = np.stack([tone * turn, tone * (1 - turn)]).astype(np.float32)
    found = applied(sounds.sum(0)[None], ideal(sounds, rate), rate)[:, 0]
    assert min(sdr(sounds[n], found[n]) for n in range(2)) > 15
    silence = applied(np.zeros((1, 999), np.float32), ideal(sounds, rate), rate)
    assert not silence.any() and silence.shape == (2, 1, 999)

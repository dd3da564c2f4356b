"""NMF-MFCC on planted truth: low-rank magnitudes, known clusters, sources that differ in timbre."""

import math
from itertools import pairwise

import pytest
import torch

from avset.features.spectrograms import Transform
from avset.models.contract import Conditions, Sizes
from avset.models.nmf_mfcc import BANDS, Method, clustered, factorised, mel_bands, mfcc
from avset.presets import NMFSettings

RATE, BINS = 11025, 512
SIZES = Sizes(Transform(RATE, 1022, 256, 64, 64), 32, 4, [8])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def method(**changes: int) -> Method:
    return Method(
        NMFSettings(**{"kind": "nmf_mfcc", "templates": 6, "updates": 200, "coefficients": 13, "seed": 0, **changes}),
        SIZES,
    )


def harmonics(pitch: float, centre: float) -> torch.Tensor:
    """A tone (F,): lines at the multiples of a pitch under a resonance, which is its timbre."""
    frequencies = torch.linspace(0, RATE / 2, BINS)
    lines = torch.exp(-(((frequencies / pitch + 0.5) % 1 - 0.5) * pitch / 15).square())
    return lines * torch.exp(-((frequencies - centre) / 500).square()) + 1e-4


def test_a_planted_product_is_found():
    torch.manual_seed(0)
    planted = torch.rand(60, 3) @ torch.rand(3, 40)
    templates, gains = factorised(planted, 3, 500, seeded())
    assert (templates @ gains - planted).norm() < 0.02 * planted.norm()
    assert templates.min() >= 0 and gains.min() >= 0


def test_no_update_makes_the_distance_larger():
    torch.manual_seed(1)
    magnitude = torch.rand(30, 20)
    errors = []
    for updates in range(12):
        templates, gains = factorised(magnitude, 4, updates, seeded())
        errors.append((templates @ gains - magnitude).norm().item())
    assert all(after <= before + 1e-4 for before, after in pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_mel_bands_are_triangles_on_the_mel_axis():
    bands = mel_bands(20000, RATE)
    mel = 2595 * torch.log10(1 + torch.linspace(0, RATE / 2, 20000) / 700)
    step = 2595 * math.log10(1 + RATE / 2 / 700) / (BANDS + 1)
    peaks = mel[bands.argmax(1)]
    assert torch.allclose(peaks, step * torch.arange(1, BANDS + 1), atol=2)
    assert torch.allclose(bands.sum(0)[(mel > step) & (mel < BANDS * step)], torch.ones(1), atol=1e-3)


def test_mfcc_by_loop_and_without_loudness():
    templates = torch.rand(BINS, 2) + 0.1
    found = mfcc(templates, RATE, 13)
    bands = mel_bands(BINS, RATE) @ templates[:, 0]
    loud = [math.log(b + 1e-3 * bands.max()) for b in bands]
    for k in (1, 5, 13):
        expected = math.sqrt(2 / BANDS) * sum(x * math.cos(math.pi / BANDS * (m + 0.5) * k) for m, x in enumerate(loud))
        assert found[0, k - 1].item() == pytest.approx(expected, abs=1e-3)
    assert torch.allclose(mfcc(7 * templates, RATE, 13), found, atol=1e-3)


@pytest.mark.parametrize("count", [2, 3])
def test_known_clusters_are_found(count: int):
    torch.manual_seed(count)
    truth = torch.arange(30) % count
    points = 10 * torch.eye(count)[truth] + 0.3 * torch.randn(30, count)
    clusters = clustered(points, count, seeded())
    assert len({(a, b) for a, b in zip(truth.tolist(), clusters.tolist(), strict=True)}) == count
    assert sorted(set(clusters.tolist())) == list(range(count))


def planted() -> torch.Tensor:
    """Two sources (2, F, T) of three tones each, whose timbres differ."""
    torch.manual_seed(0)
    tones = [[harmonics(p, centre) for p in (150.0, 190.0, 240.0)] for centre in (600.0, 3500.0)]
    return torch.stack([torch.stack(own, 1) @ (torch.rand(3, 64) > 0.5).float() for own in tones])


def test_sources_of_different_timbre_come_apart():
    sources = planted()
    mixture = sources.sum(0)
    masks = method().masks(mixture[None], Conditions(2))[0]
    assert masks.shape == sources.shape and masks.min() >= 0 and masks.max() <= 1
    estimates = masks * mixture
    errors = [(estimates[[i, 1 - i]] - sources).square().sum() for i in (0, 1)]
    assert min(errors) < 0.001 * sources.square().sum() < max(errors)


def test_a_mask_is_of_its_own_mixture_and_the_seed_alone():
    one, other = planted().sum(0), torch.rand(BINS, 64)
    together = method().masks(torch.stack([other, one]), Conditions(2))
    assert torch.equal(together[1], method().masks(one[None], Conditions(2))[0])
    assert not torch.equal(together[1], method(seed=1).masks(one[None], Conditions(2))[0])


def test_silence_has_masks_too():
    masks = method().masks(torch.zeros(1, BINS, 8), Conditions(2))
    assert torch.isfinite(masks).all() and masks.max() <= 1

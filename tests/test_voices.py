"""The measures of a tone are those of its partials."""

import numpy as np
import pytest

from bench import voices


def test_a_tone_of_known_partials_is_measured():
    """Odd partials of 0 dB, even ones of -20 dB, that rise in 100 ms in a straight line."""
    f0, time = 200.0, np.arange(2 * voices.RATE) / voices.RATE
    gains = np.where(np.arange(1, 13) % 2, 1.0, 0.1)
    rise = np.clip((time - 0.1) / 0.1, 0, 1)
    wave = rise * (gains @ np.cos(2 * np.pi * f0 * np.arange(1, 13)[:, None] * time))
    centroid, odd, attack, level = voices.measures(wave, f0)
    assert centroid == pytest.approx(f0 * (gains @ np.arange(1, 13)) / gains.sum(), rel=0.02)
    assert odd == pytest.approx(20, abs=0.1) and level == pytest.approx(20 * np.log10(gains), abs=0.1)
    assert attack == pytest.approx(80, abs=8)
    assert voices.partials(np.cos(2 * np.pi * f0 * time), f0)[1:] == pytest.approx(voices.FLOOR)
    assert voices.apart(level, level + 7) == pytest.approx(0) and voices.apart(level, -level) > 10

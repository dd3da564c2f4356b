"""Samples of a sound: as 16 bits, and whether they are silent."""

import math

import numpy as np
from jaxtyping import Float32, Int16


def rms_dbfs(waveform: Float32[np.ndarray, "*C L"]) -> float:
    """Root mean square in dB re amplitude 1: -3.01 for a full-scale sine, -inf for digital silence."""
    power = float(np.mean(np.square(waveform, dtype=np.float64))) if waveform.size else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf


def is_silent(waveform: Float32[np.ndarray, "*C L"], threshold: float) -> bool:
    """Whether the RMS over all samples and channels is below `threshold` dBFS."""
    return rms_dbfs(waveform) < threshold


def to_int16(waveform: Float32[np.ndarray, "*C L"]) -> Int16[np.ndarray, "*C L"]:
    """Rounded to steps of 1 / 32767, clipped to [-1, 1]."""
    return np.rint(np.clip(waveform, -1.0, 1.0) * np.float32(32767)).astype(np.int16)


def from_int16(waveform: Int16[np.ndarray, "*C L"]) -> Float32[np.ndarray, "*C L"]:
    """Inverse of `to_int16`: a round trip changes float32 by half a step at most, and int16 not at all."""
    return waveform.astype(np.float32) / np.float32(32767)

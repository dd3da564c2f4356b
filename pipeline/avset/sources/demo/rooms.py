"""Where a clip was recorded: a room, a microphone and its equaliser, noise.

A shoebox room by image sources (Allen and Berkley 1979) up to the second order, then a decaying noise whose energy is
that of a diffuse field (Kuttruff, Room Acoustics): (distance / critical distance) ^ 2 of the direct sound's.
"""

from itertools import product

import numpy as np
from jaxtyping import Float

SOUND = 343.0  # m/s
SMALLEST, LARGEST = (3.0, 2.6, 2.3), (9.0, 7.0, 4.0)  # m
REVERBERATION = (0.15, 0.7)  # s
DISTANCE = (0.5, 1.8)  # m from the instrument to the microphone
ORDER = 2  # of the image sources
DULL = 0.45  # of the reverberation time above 2 kHz
WAVES = 5  # of the equaliser over seven octaves
CURVE = 2.2  # dB, standard deviation of each of its waves
TILT = 1.2  # dB per octave
LOW_CUT = (60.0, 160.0)  # Hz
HIGH_CUT = (5000.0, 10000.0)
NOISY = 0.5  # probability of noise that can be heard
NOISE = (-45.0, -22.0)  # dB relative to the music
PINK = (-6.0, 0.0)  # dB per octave of the noise


def equaliser(rng: np.random.Generator, hertz: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F"]:
    """The colour of one recording, dB at every frequency: slow waves over log frequency, a tilt, two cuts."""
    octaves = np.log2(np.maximum(hertz, 20.0) / 1000.0)
    gain = TILT * float(np.clip(rng.normal(), -2, 2)) * octaves
    for wave in range(1, WAVES + 1):
        gain += rng.normal(0, CURVE) * np.cos(np.pi * wave * (octaves + 3.5) / 7 + rng.uniform(0, 2 * np.pi))
    low, high = (np.exp(rng.uniform(*np.log(cut))) for cut in (LOW_CUT, HIGH_CUT))
    return gain - 10 * np.log10(1 + (low / np.maximum(hertz, 1.0)) ** 4) - 10 * np.log10(1 + (hertz / high) ** 4)


def impulse_response(rng: np.random.Generator, place: np.random.Generator, rate: int) -> Float[np.ndarray, "R"]:
    """From an instrument to the microphone, beginning with the direct sound, 1. `rng` is the room, `place` the player.

    Kuttruff's critical distance is 0.057 sqrt(volume / reverberation time) m.
    """
    size = rng.uniform(SMALLEST, LARGEST)
    seconds = float(np.exp(rng.uniform(*np.log(REVERBERATION))))
    microphone = size * rng.uniform(0.3, 0.7, 3)
    way = place.normal(size=3) * [1.0, 1.0, 0.3]
    distance = place.uniform(*DISTANCE)
    source = np.clip(microphone + distance * way / np.linalg.norm(way), 0.2, size - 0.2)
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    absorbed = min(0.161 * size.prod() / (surface * seconds), 0.9)  # Sabine
    response = _diffuse(place, seconds, rate)
    straight = float(np.linalg.norm(source - microphone))
    critical = 0.057 * np.sqrt(size.prod() / seconds)
    response *= straight / critical / np.sqrt((response**2).sum())
    for cell in product(range(-ORDER, ORDER + 1), repeat=3):
        bounces = sum(map(abs, cell))
        if bounces <= ORDER:
            image = np.array(cell) * size + np.where(np.array(cell) % 2, size - source, source)
            length = float(np.linalg.norm(image - microphone))
            delay = round((length - straight) / SOUND * rate)
            if delay < len(response):
                response[delay] += straight / length * (1 - absorbed) ** (bounces / 2)
    return response / response[0]


def _diffuse(rng: np.random.Generator, seconds: float, rate: int) -> Float[np.ndarray, "R"]:
    """Noise that loses 60 dB in `seconds`, sooner above 2 kHz; it begins with the first reflections."""
    time = np.arange(round(seconds * rate)) / rate
    low = 1 / (1 + (np.fft.rfftfreq(len(time), 1 / rate) / 2000.0) ** 4)
    fall = -3 * time / seconds
    slow, fast = shaped(rng, low, len(time)), shaped(rng, 1 - low, len(time))
    shares = np.sqrt([np.mean(low**2), np.mean((1 - low) ** 2)])
    return (shares[0] * slow * 10**fall + shares[1] * fast * 10 ** (fall / DULL)) * np.clip(time / 0.02, 0, 1)


def hiss(rng: np.random.Generator, length: int, rate: int) -> Float[np.ndarray, "L"]:
    """The noise of a recording, relative to music of power 1; silence in half of all."""
    if rng.random() >= NOISY:
        return np.zeros(length)
    slope = rng.uniform(*PINK) / (20 * np.log10(2))
    hertz = np.maximum(np.fft.rfftfreq(length, 1 / rate), 50.0)
    return shaped(rng, hertz**slope, length) * 10 ** (rng.uniform(*NOISE) / 20)


def shaped(rng: np.random.Generator, gain: Float[np.ndarray, "F"], length: int) -> Float[np.ndarray, "{length}"]:
    """Noise of power 1 whose spectrum has this gain at the frequencies of its FFT, F = length // 2 + 1."""
    noise = rng.standard_normal((2, len(gain))) * gain
    samples = np.fft.irfft(noise[0] + 1j * noise[1], length)
    return samples / np.sqrt(np.mean(samples**2))


def minimum_phase(decibels: Float[np.ndarray, "F"]) -> Float[np.ndarray, "N"]:
    """The causal impulse response (N = 2 (F - 1)) of a gain over frequency, by its cepstrum."""
    size = 2 * (len(decibels) - 1)
    cepstrum = np.fft.irfft(decibels * np.log(10) / 20, size)
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), size)


def convolved(wave: Float[np.ndarray, "L"], response: Float[np.ndarray, "R"]) -> Float[np.ndarray, "L"]:
    """The wave through an impulse response, as long as before."""
    size = -(-(len(wave) + len(response)) // 4096) * 4096
    return np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave)]

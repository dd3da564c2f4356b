"""One note, dry: before the body of the instrument and the room.

A sustained tone reads a wave table at the phase, the integral of the fundamental (vibrato, glide, scoop, jitter).
There is a table for each of a few efforts, and the tone moves between them: with the attack, the dynamics, the
vibrato. A plucked or struck tone is a sum of modes, each with its own decay. Breath, bow and strike are noise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from avset.sources.demo.melodies import Note
from avset.sources.demo.timbres import Gesture, Instrument, Spectrum

TOP = 0.45  # of the sample rate; no partial above it
HOP = 64  # samples from one value of a slow curve to the next
PARTIALS = 80
TABLE = 4096  # samples of one period
EFFORTS = 5  # tables from soft to loud
DYNAMICS = 20.0  # dB between velocity 0 and 1
KNOT = 0.05  # s between the knots of the jitter
TICK = 0.001  # s

Samples = Float[np.ndarray, "n"]  # of one tone
Slow = Float[np.ndarray, "c"]  # a value every HOP samples


@dataclass(frozen=True)
class Performer:
    """How one performance differs from others: by the hands and the very instrument."""

    tuning: float  # semitones
    breath: float  # dB on the noise
    wobble: Float[np.ndarray, "partials"]  # dB on every partial
    phases: Float[np.ndarray, "partials"]  # cycles
    ripple: Float[np.ndarray, "waves 2"]  # dB and phase of fast waves over log frequency: the body's many modes
    size: float  # this and the following are factors, on: the formants,
    rate: float  # the vibrato's rate and depth,
    depth: float
    attack: float
    decay: float
    detune: float  # the cents of the reeds,
    pluck: float  # the place of plucking


def performer(rng: np.random.Generator) -> Performer:
    """A player with an instrument, at random."""
    spreads = (0.04, 0.07, 0.25, 0.2, 0.15, 0.2, 0.12)
    factors = np.exp(np.clip(rng.normal(size=len(spreads)), -2, 2) * spreads)
    tuning, breath = np.clip(rng.normal(size=2), -2, 2) * [0.1, 2.0]
    wobble = np.clip(rng.normal(0, 1.5, PARTIALS), -3, 3)
    ripple = np.stack([rng.normal(0, 1.0, 8), rng.uniform(0, 2 * np.pi, 8)], axis=1)
    phases = rng.random(PARTIALS)
    return Performer(float(tuning), float(breath), wobble, phases, ripple, *map(float, factors))


def tone(
    instrument: Instrument,
    player: Performer,
    rng: np.random.Generator,
    note: Note,
    leap: float,
    air: Samples,
    rate: int,
) -> Samples:
    """One note, slurred from a note `leap` semitones higher (0: not slurred); `air` is noise of power 1."""
    gesture, noise = instrument.gesture, instrument.noise
    time = np.arange(len(air)) / rate
    make = _struck if instrument.struck else _sustained
    samples = make(instrument, player, rng, note, leap, air, rate)
    burst = 10 ** ((noise.burst + player.breath) / 20) * np.exp(-time / noise.fade)
    samples += air * burst * (0.3 if leap else 1.0)
    return 10 ** (DYNAMICS * (note.velocity - 1) / 20) * _envelope(gesture, player, time, bool(leap)) * samples


def _envelope(gesture: Gesture, player: Performer, time: Samples, slurred: bool) -> Samples:
    """Rise, swell and release, zero at both ends."""
    end = time[-1] + TICK
    attack = min(gesture.attack * player.attack, 0.045 if slurred else 1.0, 0.4 * end)
    release = min(gesture.release, 0.4 * end)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(time / attack, 0, 1))
    fall = 0.5 - 0.5 * np.cos(np.pi * np.clip((time[-1] - time) / release, 0, 1))
    return rise * fall * (1 - gesture.swell * (1 - np.sin(np.pi * time / end)))


def _sustained(
    instrument: Instrument,
    player: Performer,
    rng: np.random.Generator,
    note: Note,
    leap: float,
    air: Samples,
    rate: int,
) -> Samples:
    """Bow, breath or bellows: tables over a moving phase, and noise in step with it."""
    gesture, n = instrument.gesture, len(air)
    corners = np.arange(-(-n // HOP) + 1) * HOP
    time = corners / rate
    hertz, depth, delay = gesture.vibrato
    pace = hertz * player.rate * (1 + 0.06 * _jitter(rng, time))
    sway = np.sin(2 * np.pi * (np.cumsum(pace) * HOP / rate + rng.random())) * np.clip((time - delay) / 0.25, 0, 1)
    midi = note.midi + player.tuning + player.depth * depth * sway + 0.01 * gesture.unsteady * _jitter(rng, time)
    if leap and gesture.glide:
        midi += leap * (0.5 + 0.5 * np.cos(np.pi * np.clip(time / gesture.glide, 0, 1)))
    elif not leap:
        midi -= gesture.scoop * rng.uniform(0.3, 1) * np.exp(-time / 0.04)
    missing, bloom = gesture.bloom
    effort = note.velocity - (0.3 if leap else 1.0) * missing * np.exp(-time / bloom)
    effort = np.clip(effort + 0.5 * gesture.tremolo * sway + 0.02 * gesture.unsteady * _jitter(rng, time), 0, 1)
    loud = (1 + gesture.tremolo * sway) * 10 ** (0.1 * gesture.unsteady * _jitter(rng, time) / 20)
    samples, ramp = np.zeros(n), np.arange(n)
    for cents in instrument.spectrum.reeds:
        f0 = np.interp(ramp, corners, 440.0 * 2 ** ((midi - 69 + cents * player.detune / 100) / 12))
        phase = (np.cumsum(f0) / rate + rng.random()) % 1.0
        samples += _read(_tables(instrument.spectrum, player, note.midi, f0.max(), rate), phase, effort, corners)
    steady = 10 ** ((instrument.noise.steady + player.breath) / 20)
    samples += air * steady * (1 + instrument.noise.pulsed * (1 - 2 * phase))
    return samples * np.interp(ramp, corners, loud)


def _jitter(rng: np.random.Generator, time: Slow) -> Slow:
    """A smooth random curve with unit deviation at its knots."""
    knots = np.arange(0.0, time[-1] + 2 * KNOT, KNOT)
    return np.interp(time, knots, rng.normal(size=len(knots)))


def _tables(spectrum: Spectrum, player: Performer, midi: float, f0: float, rate: int) -> Float[np.ndarray, "E P"]:
    """One period at each effort, from 0 to 1, with unit power and its first sample again at the end."""
    number = np.arange(1, min(PARTIALS, int(TOP * rate / f0)) + 1)
    level = levels(spectrum, midi, number) + player.wobble[: len(number)]
    effort = np.linspace(0, 1, EFFORTS)[:, None]
    gains = 10 ** ((level - spectrum.soft * (1 - effort) * np.log2(number)) / 20)
    gains /= np.sqrt(0.5 * (gains**2).sum(axis=1, keepdims=True))
    bins = np.zeros((EFFORTS, TABLE // 2 + 1), dtype=complex)
    bins[:, number] = gains * np.exp(2j * np.pi * player.phases[: len(number)]) * TABLE / 2
    return np.pad(np.fft.irfft(bins, TABLE), ((0, 0), (0, 1)), mode="wrap")


def levels(spectrum: Spectrum, midi: float, number: np.ndarray) -> Float[np.ndarray, "K"]:
    """dB of the partials `number` (K,) of a loud tone."""
    listed = len(spectrum.partials)
    level = np.array(spectrum.partials, dtype=float)[np.minimum(number, listed) - 1]
    level += spectrum.tilt * np.maximum(np.log2(number) - np.log2(listed), 0)
    missing, low, high = spectrum.even
    return level - np.where(number % 2, 0.0, missing * np.clip((high - midi) / (high - low), 0, 1))


def _read(tables: Float[np.ndarray, "E P"], phase: Samples, effort: Slow, corners: np.ndarray) -> Samples:
    """Linear interpolation in the phase and between two efforts."""
    place = phase * TABLE
    whole = place.astype(np.int64)
    between = np.interp(np.arange(len(phase)), corners, effort) * (EFFORTS - 1)
    lower = np.minimum(between.astype(np.int64), EFFORTS - 2)
    flat, step, first = tables.ravel(), tables.shape[1], lower * tables.shape[1] + whole
    place, between = place - whole, between - lower
    soft = flat[first] + place * (flat[first + 1] - flat[first])
    loud = flat[first + step] + place * (flat[first + step + 1] - flat[first + step])
    return soft + between * (loud - soft)


def _struck(
    instrument: Instrument,
    player: Performer,
    rng: np.random.Generator,
    note: Note,
    leap: float,
    air: Samples,
    rate: int,
) -> Samples:
    """Modes a_k z_k^n: blocks of powers, so that one product of matrices gives all samples."""
    spectrum, n = instrument.spectrum, len(air)
    number = np.arange(1, (len(spectrum.ratios) or PARTIALS) + 1)
    ratio = np.array(spectrum.ratios or number * np.sqrt(1 + spectrum.stretch * number**2))
    hertz = ratio * 440.0 * 2 ** ((note.midi + player.tuning - 69) / 12)
    kept = hertz < TOP * rate
    number, hertz = number[kept], hertz[kept]
    level = levels(spectrum, note.midi, number) + player.wobble[: len(number)]
    level -= spectrum.soft * (1 - note.velocity) * np.log2(number)
    if spectrum.pluck:
        level += 20 * np.log10(np.maximum(np.abs(np.sin(np.pi * number * spectrum.pluck * player.pluck)), 0.05))
    gains = 10 ** (level / 20)
    gains /= np.sqrt(0.5 * (gains**2).sum())
    seconds, exponent = spectrum.decay
    rates = -((hertz / 440.0) ** exponent) / (seconds * player.decay) + 2j * np.pi * hertz
    block = int(np.sqrt(n)) + 1
    starts = np.exp(np.arange(-(-n // block))[:, None] * block / rate * rates + 2j * np.pi * rng.random(len(hertz)))
    within = gains[:, None] * np.exp(rates[:, None] * np.arange(block) / rate)
    return (starts.real @ within.real - starts.imag @ within.imag).ravel()[:n]

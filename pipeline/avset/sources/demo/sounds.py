"""The eleven instruments of MUSIC for the demo: additive synthesis, one performance per seed.

A tone is a sum of partials sin(2 pi r_k p(t)); p is the integral of the fundamental (vibrato, glide, scoop). The gain
of a partial is its level in the instrument's spectrum, plus the response of the body at its frequency at that moment:
so vibrato moves the timbre of a bowed string. The gain is lower while the tone blooms or is played softly, and decays
if the tone was plucked or struck. Breath, bow and strike are filtered noise. Performances differ by the label and the
seed alone.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from avset.errors import ParamsError
from avset.sources.demo.melodies import Note, compose
from avset.sources.demo.timbres import INSTRUMENTS, LABELS, Gesture, Instrument, Noise, Spectrum

LEVEL = 0.1  # RMS while something sounds: -20 dBFS
PEAK = 0.9
TOP = 0.45  # of the sample rate; no partial above it
LEAST_PARTIAL = -55.0  # dB below the strongest partial of a tone; weaker partials are left out
HOP = 128  # samples from one gain of a partial to the next
PARTIALS = 80
DYNAMICS = 16.0  # dB between velocity 0 and 1
TICK = 0.001  # s
SHORTEST_CLIP = 0.2  # s, of a clip
SLOWEST = 8000  # Hz: the fundamentals of all ranges fit

Samples = Float[np.ndarray, "n"]  # of one tone


@dataclass(frozen=True)
class Performer:
    """How one performance differs from others: by the hands, the very instrument, the microphone."""

    tuning: float  # semitones
    tilt: float  # dB per octave of frequency
    breath: float  # dB on the noise
    colour: Float[np.ndarray, "3 2"]  # dB and phase of slow waves over log frequency
    wobble: Float[np.ndarray, "partials"]  # dB on every partial
    size: float  # this and the following are factors, on: the formants,
    rate: float  # the vibrato's rate and depth,
    depth: float
    attack: float
    decay: float
    detune: float  # the cents of the reeds,
    pluck: float  # the place of plucking


def _performer(rng: np.random.Generator) -> Performer:
    spreads = (0.04, 0.07, 0.25, 0.2, 0.15, 0.2, 0.12)
    factors = np.exp(np.clip(rng.normal(size=len(spreads)), -2, 2) * spreads)
    colour = np.stack([rng.normal(0, 1.0, 3), rng.uniform(0, 2 * np.pi, 3)], axis=1)
    tilt, breath, tuning = np.clip(rng.normal(size=3), -2, 2) * [0.7, 2.0, 0.1]
    wobble = np.clip(rng.normal(0, 1.5, PARTIALS), -3, 3)
    return Performer(float(tuning), float(tilt), float(breath), colour, wobble, *map(float, factors))


def synthesize(
    label: str, seed: int, duration: float, sample_rate: int = 22050
) -> tuple[Float32[np.ndarray, "L"], list[Note]]:
    """One performance of an instrument: waveform float32 (L,), |x| <= 0.9, and its notes.

    L is round(duration * sample_rate); `duration` in s is at least 0.2, `sample_rate` in Hz at least 8000.
    Outside its notes the waveform is exactly zero. Over its notes its RMS is 0.1, or less if a peak would pass 0.9. The
    same arguments give the same bytes. ParamsError for other arguments.
    """
    if label not in INSTRUMENTS:
        raise ParamsError(f"label is {label!r}; it must be one of {', '.join(LABELS)}")
    if duration < SHORTEST_CLIP or sample_rate < SLOWEST:
        raise ParamsError(
            f"duration is {duration} s and sample_rate {sample_rate} Hz; "
            f"they must be at least {SHORTEST_CLIP} s and {SLOWEST} Hz"
        )
    instrument = INSTRUMENTS[label]
    key = int.from_bytes(hashlib.sha256(f"{label}/{seed}".encode()).digest()[:16], "little")
    hands, score, air = (np.random.default_rng([key, stream]) for stream in range(3))
    performer, notes = _performer(hands), compose(score, instrument.style, duration)
    length = round(duration * sample_rate)
    noise = _hill(instrument.noise, performer, air, length, sample_rate)
    wave, sounding = np.zeros(length), np.zeros(length, dtype=bool)
    for i, note in enumerate(notes):
        span = slice(round(note.onset * sample_rate), min(round(note.offset * sample_rate), length))
        slurred = i > 0 and notes[i - 1].onset < note.onset < notes[i - 1].offset
        leap = notes[i - 1].midi - note.midi if slurred else 0.0
        wave[span] += _tone(instrument, performer, air, note, leap, noise[span], sample_rate)
        sounding[span] = True
    wave *= LEVEL / np.sqrt(np.mean(wave[sounding] ** 2))
    return (wave * min(1.0, PEAK / np.abs(wave).max())).astype(np.float32), notes


def _tone(
    instrument: Instrument,
    performer: Performer,
    rng: np.random.Generator,
    note: Note,
    leap: float,
    noise: Samples,
    rate: int,
) -> Samples:
    """One note, slurred from a note `leap` semitones higher (0: not slurred); `noise` has unit power."""
    gesture = instrument.gesture
    time = np.arange(len(noise)) / rate
    hertz, depth, delay = gesture.vibrato
    sway = np.sin(2 * np.pi * (hertz * performer.rate * rng.uniform(0.95, 1.05) * time + rng.random()))
    sway *= np.clip((time - delay) / 0.2, 0, 1)
    midi = note.midi + performer.tuning + performer.depth * depth * sway
    if leap and gesture.glide:
        midi += leap * (0.5 + 0.5 * np.cos(np.pi * np.clip(time / gesture.glide, 0, 1)))
    elif not leap:
        midi -= gesture.scoop * rng.uniform(0.3, 1) * np.exp(-time / 0.04)
    tone = np.zeros(len(noise))
    for cents in instrument.spectrum.reeds:
        f0 = 440.0 * 2 ** ((midi - 69 + cents * performer.detune / 100) / 12)
        tone += _partials(instrument, performer, rng, f0, note.velocity, rate)
    tone *= 1 + gesture.tremolo * sway
    steady, burst = (
        10 ** ((level + performer.breath) / 20) for level in (instrument.noise.steady, instrument.noise.burst)
    )
    tone += noise * (steady + burst * np.exp(-time / instrument.noise.fade))
    return 10 ** (DYNAMICS * (note.velocity - 1) / 20) * _envelope(gesture, performer, time) * tone


def _envelope(gesture: Gesture, performer: Performer, time: Samples) -> Samples:
    """Rise, swell and release, zero at both ends."""
    end = time[-1] + TICK
    attack = min(gesture.attack * performer.attack, 0.4 * end)
    release = min(gesture.release, 0.4 * end)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(time / attack, 0, 1))
    fall = 0.5 - 0.5 * np.cos(np.pi * np.clip((time[-1] - time) / release, 0, 1))
    return rise * fall * (1 - gesture.swell * (1 - np.sin(np.pi * time / end)))


def _partials(
    instrument: Instrument, performer: Performer, rng: np.random.Generator, f0: Samples, velocity: float, rate: int
) -> Samples:
    """The sum of the partials over the fundamental `f0` in Hz, with unit power where it is loudest."""
    spectrum, n = instrument.spectrum, len(f0)
    number = np.arange(1, (len(spectrum.ratios) or PARTIALS) + 1)
    ratio = np.array(spectrum.ratios or number * np.sqrt(1 + spectrum.stretch * number**2))
    number, ratio = number[ratio * f0.max() < TOP * rate], ratio[ratio * f0.max() < TOP * rate]
    corners = np.arange(-(-n // HOP) + 1) * HOP
    frequency = ratio[:, None] * f0[np.minimum(corners, n - 1)]
    gains = _gains(instrument, performer, number, frequency, corners / rate, velocity)
    loud = gains.max(axis=1) > gains.max() * 10 ** (LEAST_PARTIAL / 20)
    gains, ratio = gains[loud] / np.sqrt(0.5 * (gains**2).sum(axis=0).max()), ratio[loud]
    cycles = np.pad(np.cumsum(f0) / rate, (0, corners[-1] - n))
    angles = ratio[:, None] * cycles + rng.random((len(ratio), 1))
    sines = np.sin((2 * np.pi * (angles - np.rint(angles))).astype(np.float32)).reshape(len(ratio), -1, HOP)
    base = np.einsum("kch,kc->ch", sines, gains[:, :-1].astype(np.float32))
    slope = np.einsum("kch,kc->ch", sines, np.diff(gains).astype(np.float32))
    return (base + slope * (np.arange(HOP) / HOP)).reshape(-1)[:n].astype(np.float64)


def _gains(
    instrument: Instrument,
    performer: Performer,
    number: np.ndarray,
    frequency: Float[np.ndarray, "K C"],
    time: Float[np.ndarray, "C"],
    velocity: float,
) -> Float[np.ndarray, "K C"]:
    """Amplitudes of the partials `number` (K,), which are at `frequency` in Hz at the moments `time` in s."""
    spectrum, gesture = instrument.spectrum, instrument.gesture
    listed, octave = len(spectrum.partials), np.log2(number)
    level = np.array(spectrum.partials)[np.minimum(number, listed) - 1] + performer.wobble[: len(number)]
    level = level + spectrum.tilt * np.maximum(octave - np.log2(listed), 0) - gesture.soft * (1 - velocity) * octave
    if spectrum.pluck:
        level += 20 * np.log10(np.maximum(np.abs(np.sin(np.pi * number * spectrum.pluck * performer.pluck)), 0.05))
    missing, bloom = gesture.bloom
    fading = missing * octave[:, None] * np.exp(-time / bloom)
    constant, exponent = gesture.decay
    fading += 20 * np.log10(np.e) * time * (frequency[:, :1] / 440.0) ** exponent / (constant * performer.decay)
    return 10 ** ((level[:, None] - fading + _response(spectrum, performer, frequency)) / 20)


def _response(
    spectrum: Spectrum, performer: Performer, frequency: Float[np.ndarray, "K C"]
) -> Float[np.ndarray, "K C"]:
    """The body and the microphone: dB at every frequency in Hz."""
    octaves = np.log2(frequency / 1000.0)
    gain = performer.tilt * octaves
    for i, (height, phase) in enumerate(performer.colour):
        gain += height * np.cos(2 * np.pi * (i + 1) * octaves / 6 + phase)
    for centre, width, height in spectrum.formants:
        gain += height * np.exp(-0.5 * ((octaves - np.log2(centre * performer.size / 1000.0)) / width) ** 2)
    corner, slope = spectrum.cutoff
    return gain - slope * np.maximum(octaves - np.log2(corner / 1000.0), 0)


def _hill(
    noise: Noise, performer: Performer, rng: np.random.Generator, length: int, rate: int
) -> Float[np.ndarray, "L"]:
    """White noise through a hill over log frequency, with unit power."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(length, 1 / rate), 1.0) / (noise.centre * performer.size))
    hill = np.exp(-0.5 * (octaves / noise.width) ** 2)
    samples = np.fft.irfft(np.fft.rfft(rng.standard_normal(length)) * hill, length)
    return samples / np.sqrt(np.mean(samples**2))

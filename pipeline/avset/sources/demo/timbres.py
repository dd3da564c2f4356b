"""What the demo's instruments are: spectra, gestures, noises, and the table of the eleven of MUSIC."""

from dataclasses import dataclass

import numpy as np

from avset.sources.demo.melodies import Number, Style


@dataclass(frozen=True)
class Spectrum:
    """The steady tone."""

    partials: tuple[Number, ...]  # dB of the first ones; the last of them goes on with `tilt`
    tilt: Number = 0.0  # dB per octave of the partial's number
    formants: tuple[tuple[Number, Number, Number], ...] = ()  # centre in Hz, width in octaves, dB
    cutoff: tuple[Number, Number] = (5000.0, 12.0)  # Hz, dB lost per octave above
    ratios: tuple[Number, ...] = ()  # of the partials to the fundamental; harmonic if empty
    stretch: Number = 0.0  # stiffness: partial k lies at k sqrt(1 + stretch k^2)
    pluck: Number = 0.0  # where the string is plucked, share of its length
    reeds: tuple[Number, ...] = (0.0,)  # cents, tones that sound together


@dataclass(frozen=True)
class Gesture:
    """What happens in time."""

    attack: Number = 0.03  # s
    release: Number = 0.05  # s
    swell: Number = 0.0  # 0..1, how much quieter the ends of a tone are
    bloom: tuple[Number, Number] = (
        0.0,
        1.0,
    )  # dB missing per octave of the number at the onset, time constant in s
    soft: Number = 4.0  # dB missing per octave of the number at velocity 0
    decay: tuple[Number, Number] = (
        np.inf,
        0.0,
    )  # time constant in s at 440 Hz, exponent of its fall with frequency
    vibrato: tuple[Number, Number, Number] = (5.0, 0.0, 0.2)  # Hz, semitones, delay in s
    tremolo: Number = 0.0  # 0..1, loudness that goes with the vibrato
    glide: Number = 0.0  # s from the note before, if slurred
    scoop: Number = 0.0  # semitones below the note at its onset


@dataclass(frozen=True)
class Noise:
    """Breath, bow, strike: a hill of noise."""

    centre: Number = 2000.0  # Hz
    width: Number = 1.0  # octaves
    steady: Number = -70.0  # dB relative to the tone
    burst: Number = -70.0  # dB at the onset
    fade: Number = 0.03  # s, time constant of the burst


@dataclass(frozen=True)
class Instrument:
    """An instrument: how it is played and how it sounds."""

    style: Style
    spectrum: Spectrum
    gesture: Gesture
    noise: Noise = Noise()


INSTRUMENTS = {
    "accordion": Instrument(
        Style(53, 77, (80, 132), slurred=0.5, chords=0.3),
        Spectrum((0, -3, -6, -8, -9, -10), -5, ((1000, 0.5, -5), (3600, 0.45, 12)), (4600, 14), reeds=(-8, 9)),
        Gesture(0.03, 0.035, bloom=(2, 0.04), soft=2),
    ),
    "acoustic guitar": Instrument(
        Style(40, 76, (84, 144), chords=0.15, broken=0.5, strum=0.018, ring=1.1),
        Spectrum((0,), -4, ((105, 0.25, 5), (210, 0.3, 5), (400, 0.4, 3)), (2600, 10), stretch=6e-5, pluck=0.19),
        Gesture(attack=0.002, decay=(0.42, 0.65)),
        Noise(1500, 1.2, burst=-14, fade=0.008),
    ),
    "cello": Instrument(
        Style(36, 64, (60, 112), slurred=0.6),
        Spectrum((-2, 0, -3, -5), -6, ((110, 0.4, 4), (230, 0.3, 6), (450, 0.35, 6), (900, 0.5, -6)), (1800, 14)),
        Gesture(0.08, 0.09, swell=0.4, bloom=(3, 0.07), vibrato=(5.2, 0.22, 0.15), glide=0.05),
        Noise(1300, 1.5, -26, -22, 0.05),
    ),
    "clarinet": Instrument(
        Style(50, 80, (84, 150), slurred=0.65),
        Spectrum((0, -36, -3, -32, -8, -28, -13, -26, -18, -26, -23), -16, ((1100, 0.4, 3),), (1600, 14)),
        Gesture(0.035, 0.06, bloom=(4, 0.03)),
        Noise(2500, 1.0, -52, -40),
    ),
    "erhu": Instrument(
        Style(62, 86, (60, 110), slurred=0.75),
        Spectrum((-6, -2, 0, -2, -4), -8, ((500, 0.4, -6), (1150, 0.3, 12), (2100, 0.35, -4)), (2600, 16)),
        Gesture(0.05, 0.08, 0.35, (2, 0.05), vibrato=(5.8, 0.5, 0.12), glide=0.14, scoop=0.3),
        Noise(1700, 0.7, -33, -26, 0.04),
    ),
    "flute": Instrument(
        Style(67, 93, (84, 144), slurred=0.6),
        Spectrum((0, -9, -17, -25, -31), -16),
        Gesture(0.055, 0.07, 0.25, (3, 0.05), soft=7, vibrato=(5.0, 0.1, 0.2), tremolo=0.22),
        Noise(1800, 1.3, -18, -13),
    ),
    "saxophone": Instrument(
        Style(50, 76, (84, 150), slurred=0.55),
        Spectrum((0, 1, -1, -3, -6, -8), -9, ((700, 0.4, 8), (1400, 0.35, -5), (2100, 0.3, 5)), (2400, 14)),
        Gesture(0.03, 0.06, bloom=(3, 0.04), vibrato=(4.8, 0.2, 0.25), tremolo=0.1, glide=0.03, scoop=0.6),
        Noise(3400, 0.6, -25, -20),
    ),
    "trumpet": Instrument(
        Style(57, 82, (84, 150), slurred=0.3),
        Spectrum((-8, -3, 0, 0, -1, -3, -6), -9, ((1300, 0.45, 9),), (2800, 12)),
        Gesture(0.022, 0.05, bloom=(9, 0.05), soft=10, vibrato=(5.2, 0.1, 0.35), scoop=0.15),
        Noise(3000, 0.8, -52, -34, 0.01),
    ),
    "tuba": Instrument(
        Style(30, 52, (66, 116), slurred=0.3),
        Spectrum((0, 2, 1, -2, -6), -14, ((190, 0.7, 5),), (420, 12)),
        Gesture(0.06, 0.08, bloom=(7, 0.06), soft=6, scoop=0.15),
        Noise(400, 1.0, -42, -30),
    ),
    "violin": Instrument(
        Style(60, 91, (84, 150), slurred=0.6),
        Spectrum((0,), -5, ((285, 0.25, 4), (520, 0.3, 6), (1000, 0.4, -5), (2800, 0.4, 9)), (3900, 20)),
        Gesture(0.06, 0.07, 0.3, (3, 0.06), vibrato=(6.1, 0.28, 0.15), tremolo=0.08, glide=0.035),
        Noise(3200, 1.0, -26, -21, 0.04),
    ),
    "xylophone": Instrument(
        Style(70, 96, (84, 144), chords=0.1, rolls=0.35, ring=0.45),
        Spectrum((0, -8, -14, -20), ratios=(1.0, 3.0, 6.05, 10.1)),
        Gesture(0.0015, 0.04, soft=5, decay=(0.2, 0.9)),
        Noise(700, 0.9, burst=-11, fade=0.014),
    ),
}
LABELS: tuple[str, ...] = tuple(INSTRUMENTS)

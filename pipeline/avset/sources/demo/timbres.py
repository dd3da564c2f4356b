"""What the demo's instruments are: spectra, bodies, gestures, noises, and the table of the eleven of MUSIC.

The numbers follow published descriptions: Fletcher and Rossing, The Physics of Musical Instruments; Meyer, Acoustics
and the Performance of Music (formants, dynamics); Cremer, The Physics of the Violin (Helmholtz motion, 1 / k);
Jansson, Acoustics for Violin and Guitar Makers (A0, B1, the bridge hill); Benade, Fundamentals of Musical Acoustics
(cutoff of tone holes and bells); Benade and Lutgen 1988 and Chen, Smith and Wolfe 2009 (saxophones: little fall up to
the cutoff near 1 kHz, a steep one above, more so when soft); Hirschberg et al. 1996 (brass grows brassy with level);
Fletcher and Sanders 1967 (vibrato).
"""

from dataclasses import dataclass

import numpy as np

from avset.sources.demo.melodies import Number, Style


@dataclass(frozen=True)
class Spectrum:
    """The tone before the body, played loud."""

    partials: tuple[Number, ...]  # dB of the first ones; the last of them goes on with `tilt`
    tilt: Number = 0.0  # dB per octave of the partial's number
    soft: Number = 4.0  # dB missing per octave of the number at effort 0
    even: tuple[Number, Number, Number] = (0.0, 0.0, 1.0)  # dB missing up to one MIDI note, none from another on
    ratios: tuple[Number, ...] = ()  # of the partials to the fundamental; harmonic if empty
    stretch: Number = 0.0  # stiffness: partial k lies at k sqrt(1 + stretch k^2)
    pluck: Number = 0.0  # where the string is plucked, share of its length
    decay: tuple[Number, Number] = (np.inf, 0.0)  # s at 440 Hz, exponent of its fall with frequency
    reeds: tuple[Number, ...] = (0.0,)  # cents, tones that sound together


@dataclass(frozen=True)
class Body:
    """The instrument as a filter, whatever the note."""

    formants: tuple[tuple[Number, Number, Number], ...] = ()  # centre in Hz, width in octaves, dB
    low: tuple[Number, Number] = (20.0, 0.0)  # Hz, dB lost per octave below
    cutoff: tuple[Number, Number] = (5000.0, 12.0)  # Hz, dB lost per octave above
    ripple: Number = 0.0  # dB, of many narrow peaks that differ from one instrument to the next


@dataclass(frozen=True)
class Gesture:
    """What happens in time."""

    attack: Number = 0.03  # s
    release: Number = 0.05  # s
    swell: Number = 0.0  # 0..1, how much quieter the ends of a tone are
    bloom: tuple[Number, Number] = (0.0, 1.0)  # effort missing at the onset, time constant in s
    vibrato: tuple[Number, Number, Number] = (5.0, 0.0, 0.2)  # Hz, semitones, delay in s
    tremolo: Number = 0.0  # 0..1, loudness and effort that go with the vibrato
    glide: Number = 0.0  # s from the note before, if slurred
    scoop: Number = 0.0  # semitones below the note at its onset
    unsteady: Number = 2.0  # cents of jitter; a tenth of a dB each


@dataclass(frozen=True)
class Noise:
    """Breath, bow, strike: a hill of noise."""

    centre: Number = 2000.0  # Hz
    width: Number = 1.0  # octaves
    steady: Number = -70.0  # dB relative to the tone
    burst: Number = -70.0  # dB at the onset
    fade: Number = 0.03  # s, time constant of the burst
    pulsed: Number = 0.0  # 0..1, how much of the steady noise comes once a period


@dataclass(frozen=True)
class Instrument:
    """An instrument: how it is played and how it sounds."""

    style: Style
    spectrum: Spectrum
    body: Body
    gesture: Gesture
    noise: Noise = Noise()
    struck: bool = False  # or plucked: modes that decay


INSTRUMENTS = {
    "accordion": Instrument(
        Style(48, 84, (80, 132), slurred=0.5, short=0.3, chords=0.35),
        Spectrum((0, -2, -3, -4, -6, -7, -8), -5, soft=2, reeds=(-8, 9)),
        Body(((750, 0.5, -4), (2800, 0.6, 6)), cutoff=(4800, 14), ripple=2),
        Gesture(0.035, 0.04, bloom=(0.4, 0.04), unsteady=1),
        Noise(2500, 1.2, -42, -24, 0.012),
    ),
    "acoustic guitar": Instrument(
        Style(40, 79, (84, 144), chords=0.2, broken=0.5, strum=0.018, ring=1.5),
        Spectrum((0,), -5, soft=5, stretch=6e-5, pluck=0.19, decay=(0.7, 0.6)),
        Body(((105, 0.2, 8), (210, 0.2, 7), (400, 0.3, 4)), (90, 12), (4000, 10), 4),
        Gesture(attack=0.002, release=0.08),
        Noise(1800, 1.2, burst=-16, fade=0.008),
        struck=True,
    ),
    "cello": Instrument(
        Style(36, 66, (60, 112), slurred=0.6, short=0.15),
        Spectrum((0,), -5.5, soft=4),
        Body(((100, 0.2, 8), (190, 0.2, 8), (300, 0.25, 4), (1300, 0.4, -3), (2100, 0.4, 6)), (90, 12), (3200, 12), 6),
        Gesture(0.08, 0.09, 0.3, (0.5, 0.06), (5.5, 0.22, 0.1), glide=0.06, unsteady=4),
        Noise(1600, 1.4, -27, -16, 0.03, 0.8),
    ),
    "clarinet": Instrument(
        Style(50, 89, (84, 150), slurred=0.65, short=0.25),
        Spectrum((0, -6, -3, -8, -6, -10, -9, -14, -14), -14, soft=8, even=(30, 60, 80)),
        Body(((1500, 0.4, 3),), (150, 6), (2000, 9)),
        Gesture(0.04, 0.06, bloom=(0.4, 0.03), unsteady=2),
        Noise(2800, 1.0, -46, -32, 0.02),
    ),
    "erhu": Instrument(
        Style(62, 90, (60, 110), slurred=0.75),
        Spectrum((0,), -5, soft=4),
        Body(((450, 0.3, 5), (850, 0.3, 8), (1500, 0.3, -5), (2900, 0.4, 8)), (400, 10), (4000, 16), 4),
        Gesture(0.05, 0.08, 0.3, (0.4, 0.05), (5.8, 0.45, 0.12), 0.05, glide=0.14, scoop=0.3, unsteady=5),
        Noise(2600, 0.9, -26, -18, 0.04, 0.8),
    ),
    "flute": Instrument(
        Style(60, 92, (84, 144), slurred=0.6, short=0.25),
        Spectrum((0, -5, -13, -20, -27), -14, soft=9),
        Body(cutoff=(4000, 12)),
        Gesture(0.06, 0.07, 0.2, (0.5, 0.05), (5.0, 0.1, 0.2), 0.22, unsteady=4),
        Noise(1900, 1.4, -19, -11, 0.04),
    ),
    "saxophone": Instrument(  # a cone: all partials; flat up to the cutoff of the tone holes
        Style(46, 75, (84, 150), slurred=0.55, short=0.25),
        Spectrum((0, 1, 0, -2), -4, soft=7),
        Body(((800, 0.45, 4), (2500, 0.45, 6)), (130, 6), (1100, 8), 2),
        Gesture(0.06, 0.07, 0.1, (0.5, 0.04), (5.0, 0.2, 0.25), 0.12, glide=0.03, scoop=0.4, unsteady=4),
        Noise(2500, 1.2, -32, -20, 0.04, 0.5),
    ),
    "trumpet": Instrument(
        Style(54, 82, (84, 150), slurred=0.3, short=0.35),
        Spectrum((0, 0, 0, 0, 0, -1, -2), -4, soft=13),
        Body(((1250, 0.45, 5),), (1100, 6), (2800, 10)),
        Gesture(0.025, 0.05, 0.05, (0.6, 0.04), (5.4, 0.12, 0.35), 0.05, scoop=0.2, unsteady=3),
        Noise(3000, 0.8, -48, -26, 0.012),
    ),
    "tuba": Instrument(
        Style(34, 65, (66, 116), slurred=0.3, short=0.3),
        Spectrum((0, 1, 0, -2, -5, -8), -9, soft=11),
        Body(((230, 0.6, 6), (500, 0.4, 3)), (60, 6), (700, 10)),
        Gesture(0.06, 0.08, 0.1, (0.6, 0.06), scoop=0.25, unsteady=4),
        Noise(500, 1.2, -40, -24, 0.02),
    ),
    "violin": Instrument(
        Style(55, 91, (84, 150), slurred=0.6, short=0.2),
        Spectrum((0,), -6, soft=4),
        Body(
            ((275, 0.15, 7), (460, 0.13, 7), (545, 0.13, 8), (1350, 0.4, -4), (2500, 0.45, 9)), (260, 12), (4200, 15), 6
        ),
        Gesture(0.055, 0.07, 0.25, (0.5, 0.05), (6.0, 0.25, 0.1), glide=0.04, unsteady=4),
        Noise(3200, 1.1, -27, -15, 0.03, 0.8),
    ),
    "xylophone": Instrument(
        Style(60, 92, (84, 144), chords=0.15, rolls=0.35, ring=0.5),
        Spectrum((0, -10, -17, -23), soft=5, ratios=(1.0, 3.0, 6.05, 10.1), decay=(0.2, 0.9)),
        Body(),
        Gesture(0.0015, 0.04),
        Noise(900, 1.0, burst=-9, fade=0.01),
        struck=True,
    ),
}
LABELS: tuple[str, ...] = tuple(INSTRUMENTS)

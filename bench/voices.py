"""Our instruments beside a sound font's: what a musician hears of a held tone, by the same measures.

    python -m bench.voices --bank FluidR3_GM.sf2 TimGM6mb.sf2

Tones of 1.8 s, in no room, at a third and at two thirds of the range: spectral centroid (Hz, below 5 kHz), odd
less even partials (dB), rise from 10 to 90 % (ms), and the distance of the partials' levels (dB, root mean square).
"""

import argparse
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import numpy as np

from avset.sources.demo import soundfont, sounds
from avset.sources.demo.sounds import INSTRUMENTS, LABELS, Note, synthesize

RATE, LENGTH = 22050, 2.0
PARTIALS, FLOOR = 12, -50.0  # partials that are compared; dB below the strongest one
WINDOW, HOP = 160, 16  # samples of the envelope
RULE = "|---|---|---|---|---|---|"


def tone(label: str, midi: int, bank: str = "") -> np.ndarray:
    """One tone from 0.1 to 1.9 s, as it leaves the instrument."""
    note = Note(0.1, 1.9, float(midi), 0.8)
    dry = {"equaliser": lambda _, hertz: np.zeros(len(hertz)), "impulse_response": lambda *_: np.ones(1),
           "hiss": lambda _, length, __: np.zeros(length), "compose": lambda *_: [note]}  # fmt: skip
    with patch.multiple(sounds, **dry):
        return synthesize(label, 3, LENGTH, RATE, bank=bank)[0].astype(np.float64)


def partials(wave: np.ndarray, f0: float) -> np.ndarray:
    """Levels of the partials in dB, relative to the strongest; no lower than the floor."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    numbers = np.arange(1, min(PARTIALS, int(0.45 * RATE / f0)) + 1)
    level = 10 * np.log10([spectrum[np.abs(hertz / f0 - k) < 0.15].sum() + 1e-20 for k in numbers])
    return np.maximum(level - level.max(), FLOOR)


def measures(wave: np.ndarray, f0: float) -> tuple[float, float, float, np.ndarray]:
    """Centroid, odd less even, rise, and the partials of a tone."""
    held = wave[int(0.4 * RATE) : int(1.7 * RATE)]
    magnitude = np.abs(np.fft.rfft(held * np.hanning(len(held))))
    hertz = np.fft.rfftfreq(len(held), 1 / RATE)
    magnitude *= hertz < 5000
    start = wave[int(0.1 * RATE) : int(0.5 * RATE)]
    loud = np.array([np.sqrt(np.mean(start[i : i + WINDOW] ** 2)) for i in range(0, len(start) - WINDOW, HOP)])
    rise = np.argmax(loud > 0.9 * loud.max()) - np.argmax(loud > 0.1 * loud.max())
    level = partials(held, f0)
    odd = float(level[:8:2].mean() - level[1:8:2].mean())
    return float((hertz * magnitude).sum() / magnitude.sum()), odd, float(1000 * rise * HOP / RATE), level


def pitches(label: str) -> tuple[int, int]:
    """A third and two thirds of the range of an instrument, MIDI."""
    style = INSTRUMENTS[label].style
    return style.low + (style.high - style.low) // 3, style.low + 2 * (style.high - style.low) // 3


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square distance of the levels of partials in dB, whatever the loudness."""
    return float(np.std(one - other))


def main() -> None:
    """A table for each bank, and how far all voices are from one another in the mean."""
    parser = argparse.ArgumentParser(prog="python -m bench.voices", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bank", required=True, nargs="+", metavar="PATH", help="sound fonts (SF2, SF3)")
    banks = parser.parse_args().bank
    for bank in banks:
        soundfont.check(bank)
    tones = [(label, midi) for label in LABELS for midi in pitches(label)]
    found = [[measures(tone(label, midi, bank), 440 * 2 ** ((midi - 69) / 12)) for label, midi in tones]
             for bank in ("", *banks)]  # fmt: skip
    names = ["ours", *(Path(bank).stem for bank in banks)]
    for name, theirs in zip(names[1:], found[1:], strict=True):
        print(f"| instrument | MIDI | centroid: ours, {name} | odd - even | rise, ms | apart, dB |", RULE, sep="\n")
        for (label, midi), mine, other in zip(tones, found[0], theirs, strict=True):
            pairs = [f"{one:.0f}, {two:.0f}" for one, two in zip(mine[:3], other[:3], strict=True)]
            print(f"| {label} | {midi} | {' | '.join(pairs)} | {apart(mine[3], other[3]):.1f} |")
    for (one, mine), (two, other) in combinations(zip(names, found, strict=True), 2):
        mean = np.mean([apart(a[3], b[3]) for a, b in zip(mine, other, strict=True)])
        print(f"{one} and {two}: {mean:.1f} dB apart in the mean")


if __name__ == "__main__":
    main()

"""The eleven instruments of MUSIC for the demo: one performance and one recording per seed.

A melody (`melodies`) is played tone by tone (`tones`), each tone as its instrument is (`timbres`); the sum goes
through the body of the instrument, the room, the microphone and its equaliser (`rooms`). Vibrato moves the partials
over the peaks of the body, so it moves the timbre of a bowed string. Performances differ by the label and the seed
alone.
"""

import hashlib

import numpy as np
from jaxtyping import Bool, Float, Float32

from avset.errors import ParamsError
from avset.sources.demo import soundfont
from avset.sources.demo.melodies import Note, compose
from avset.sources.demo.rooms import convolved, equaliser, hiss, impulse_response, minimum_phase, shaped
from avset.sources.demo.timbres import INSTRUMENTS, LABELS, Body, Noise
from avset.sources.demo.tones import Performer, performer, tone

LEVEL = 0.1  # RMS while something is played: -20 dBFS
PEAK = 0.9
FILTER = 4096  # samples of the body's and the microphone's response
SILENT = 1e-6  # RMS; a sound font may have no sound for a key
SHORTEST_CLIP = 0.2  # s, of a clip
SLOWEST = 8000  # Hz: the fundamentals of all ranges fit


def synthesize(
    label: str, seed: int, duration: float, sample_rate: int = 22050, room: int | None = None, bank: str = ""
) -> tuple[Float32[np.ndarray, "L"], list[Note]]:
    """One performance of an instrument: waveform float32 (L,), |x| <= 0.9, and its notes.

    L is round(duration * sample_rate); `duration` in s is at least 0.2, `sample_rate` in Hz at least 8000. Over its
    notes the RMS of the waveform is 0.1, or less if a peak would pass 0.9. Two performances with one seed `room` are in
    one room, before one microphone. With a `bank`, the path of a sound font, its instrument plays the same notes; it
    has a body already. The same arguments give the same bytes. ParamsError for other arguments.
    """
    if label not in INSTRUMENTS:
        raise ParamsError(f"label is {label!r}; it must be one of {', '.join(LABELS)}")
    if duration < SHORTEST_CLIP or sample_rate < SLOWEST:
        raise ParamsError(
            f"duration is {duration} s and sample_rate {sample_rate} Hz; "
            f"they must be at least {SHORTEST_CLIP} s and {SLOWEST} Hz"
        )
    key = int.from_bytes(hashlib.sha256(f"{label}/{seed}".encode()).digest()[:16], "little")
    score, hands, air, place = (np.random.default_rng([key, stream]) for stream in range(4))
    player, notes = performer(hands), compose(score, INSTRUMENTS[label].style, duration)
    length = round(duration * sample_rate)
    sounding = _sounding(notes, length, sample_rate)
    hertz = np.fft.rfftfreq(FILTER, 1 / sample_rate)
    if bank:
        dry, body = soundfont.play(bank, label, notes, player.tuning, length, sample_rate), np.zeros(len(hertz))
    else:
        dry = _played(label, player, notes, air, length, sample_rate)
        body = response(INSTRUMENTS[label].body, player, hertz)
    here = np.random.default_rng([key if room is None else room, 4])
    colour = minimum_phase(body + equaliser(here, hertz))
    room_response = impulse_response(here, place, sample_rate)
    wave = convolved(dry, convolved(np.pad(room_response, (0, FILTER)), colour))
    wave /= max(float(np.sqrt(np.mean(wave[sounding] ** 2))), SILENT)
    wave += hiss(place, len(wave), sample_rate)
    wave *= LEVEL / max(float(np.sqrt(np.mean(wave[sounding] ** 2))), SILENT)
    return (wave * min(1.0, PEAK / max(float(np.abs(wave).max()), SILENT))).astype(np.float32), notes


def _played(
    label: str, player: Performer, notes: list[Note], air: np.random.Generator, length: int, rate: int
) -> Float[np.ndarray, "L"]:
    """The sum of the tones."""
    instrument = INSTRUMENTS[label]
    noise = _hill(instrument.noise, player, air, length, rate)
    wave = np.zeros(length)
    for i, note in enumerate(notes):
        span = slice(round(note.onset * rate), min(round(note.offset * rate), length))
        slurred = i > 0 and notes[i - 1].onset < note.onset < notes[i - 1].offset
        leap = notes[i - 1].midi - note.midi if slurred else 0.0
        wave[span] += tone(instrument, player, air, note, leap, noise[span], rate)
    return wave


def _sounding(notes: list[Note], length: int, rate: int) -> Bool[np.ndarray, "L"]:
    """Where a note is held."""
    held = np.zeros(length, dtype=bool)
    for note in notes:
        held[round(note.onset * rate) : round(note.offset * rate)] = True
    return held


def response(body: Body, player: Performer, hertz: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F"]:
    """The body of the instrument: dB at every frequency in Hz."""
    octaves = np.log2(np.maximum(hertz, 20.0) / player.size)
    gain = np.zeros(len(hertz))
    for centre, width, height in body.formants:
        gain += height * np.exp(-0.5 * ((octaves - np.log2(centre)) / width) ** 2)
    for i, (height, phase) in enumerate(player.ripple):
        gain += body.ripple * height * np.cos(2 * np.pi * (0.7 + 0.5 * i) * octaves + phase) / 2
    (low, rise), (high, fall) = body.low, body.cutoff
    return gain - rise * np.maximum(np.log2(low) - octaves, 0) - fall * np.maximum(octaves - np.log2(high), 0)


def _hill(noise: Noise, player: Performer, rng: np.random.Generator, length: int, rate: int) -> Float[np.ndarray, "L"]:
    """White noise through a hill over log frequency, with unit power."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(length, 1 / rate), 1.0) / (noise.centre * player.size))
    hill = np.exp(-0.5 * (octaves / noise.width) ** 2)
    return shaped(rng, hill, length)

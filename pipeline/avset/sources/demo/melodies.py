"""Random melodies: a mode, a tempo, phrases with pauses between them, and the style of an instrument."""

from dataclasses import dataclass

import numpy as np

MODES = (
    (0, 2, 4, 5, 7, 9, 11),  # major
    (0, 2, 3, 5, 7, 8, 10),  # minor
    (0, 2, 3, 5, 7, 9, 10),  # dorian
    (0, 2, 4, 7, 9),  # major pentatonic
    (0, 3, 5, 7, 10),  # minor pentatonic
)
INTERVALS = np.array([-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5])  # degrees of the mode
INTERVAL_WEIGHTS = np.array([0.02, 0.03, 0.05, 0.11, 0.26, 0.06, 0.26, 0.11, 0.05, 0.03, 0.02])
BEATS = np.array([0.5, 1.0, 1.5, 2.0])
BEAT_WEIGHTS = np.array([0.38, 0.38, 0.1, 0.14])
BROKEN_CHORD = (0, 2, 4, 7, 4, 2)  # degrees above the root
PAUSED = (0.2, 0.42)  # share of the time between phrases
PHRASE = (1.3, 3.2)  # seconds from one pause to the next
OVERLAP = 0.04  # s, how long slurred notes sound together
MEETING = (65.0, 3.0)  # MIDI, mean and deviation of the middle of a melody, whoever plays it
WIDTH = (12, 19)  # semitones of a melody
SHORT = (0.35, 0.6)  # share of its time that a short note sounds
LOUDNESS = (0.4, 0.9)  # velocity, of a phrase
STROKE = (0.085, 0.12)  # s between the strokes of a roll
SHORTEST_NOTE = 0.09  # s

Number = int | float  # of the tables; a type checker at run time does not take an int for a float


@dataclass(frozen=True)
class Note:
    """One note: it sounds from `onset` to `offset` (seconds, the release included) and not outside."""

    onset: float
    offset: float
    midi: float  # 69 is 440 Hz
    velocity: float  # 0..1


@dataclass(frozen=True)
class Style:
    """How an instrument plays."""

    low: int  # lowest and highest note, MIDI
    high: int
    tempo: tuple[Number, Number]  # beats per minute
    slurred: float = 0.0  # probability that a note leads into the next one
    short: float = 0.0  # probability that a phrase has short notes
    chords: float = 0.0  # probability that a note has thirds below it
    broken: float = 0.0  # probability that a phrase is a broken chord
    rolls: float = 0.0  # probability that a long note is repeated fast
    strum: float = 0.0  # s between the notes of a chord
    ring: float = 0.0  # s that a note sounds on, within its phrase


def compose(rng: np.random.Generator, style: Style, duration: float) -> list[Note]:
    """A melody of `duration` seconds in the instrument's range, notes in order of their onsets."""
    beat = 60.0 / rng.uniform(*style.tempo)
    ladder = _ladder(rng, style)
    degree = int(rng.integers(len(ladder)))
    notes: list[Note] = []
    for start, end in _phrases(rng, duration):
        steps = _rhythm(rng, beat, end - start)
        if rng.random() < style.broken:
            degrees = [degree + BROKEN_CHORD[i % len(BROKEN_CHORD)] for i in range(len(steps))]
        else:
            degrees = np.cumsum([degree, *rng.choice(INTERVALS, len(steps) - 1, p=INTERVAL_WEIGHTS)]).tolist()
        degrees = [_fold(d, len(ladder)) for d in degrees]
        degree = degrees[-1]
        notes += _phrase(rng, style, np.cumsum([start, *steps]), [ladder[d] for d in degrees], ladder)
    return sorted(notes, key=lambda note: (note.onset, note.midi))


def _phrases(rng: np.random.Generator, duration: float) -> list[tuple[float, float]]:
    """Start and end of every phrase in seconds; the pauses between and around them have a given share."""
    count = max(1, round(duration / rng.uniform(*PHRASE)))
    paused = duration * rng.uniform(*PAUSED)
    pauses = paused * rng.dirichlet([1.0, *[4.0] * (count - 1), 1.0])
    spans = (duration - paused) * rng.dirichlet([12.0] * count)
    starts = np.cumsum(pauses[:-1]) + np.cumsum([0.0, *spans[:-1]])
    return [(float(start), float(start + span)) for start, span in zip(starts, spans, strict=True)]


def _rhythm(rng: np.random.Generator, beat: float, span: float) -> np.ndarray:
    """Lengths of notes in seconds that fill `span` exactly."""
    lengths: list[float] = []
    while sum(lengths) < 0.9 * span:
        lengths.append(beat * float(rng.choice(BEATS, p=BEAT_WEIGHTS)))
    steps = np.array(lengths) * span / sum(lengths)
    return steps if steps.min() > SHORTEST_NOTE else np.array([span])


def _ladder(rng: np.random.Generator, style: Style) -> list[int]:
    """The notes of a random mode, lowest first: within the range, as near to where all instruments meet as they go."""
    width = int(rng.integers(*WIDTH))
    low = int(np.clip(round(rng.normal(*MEETING)) - width // 2, style.low, style.high - width))
    mode, tonic = MODES[int(rng.integers(len(MODES)))], int(rng.integers(12))
    return [midi for midi in range(low, low + width + 1) if (midi - tonic) % 12 in mode]


def _fold(degree: int, count: int) -> int:
    """The degree, reflected at the ends of a ladder of `count` notes."""
    period = 2 * (count - 1)
    return (count - 1) - abs(degree % period - (count - 1))


def _phrase(
    rng: np.random.Generator, style: Style, times: np.ndarray, melody: list[int], ladder: list[int]
) -> list[Note]:
    """The notes of one phrase; `times` has one entry more than `melody`, the end of the phrase."""
    along = (np.arange(len(melody)) + 0.5) / len(melody)
    shape = rng.uniform(0.0, 0.2) * np.sin(np.pi * along) + rng.uniform(-0.4, 0.4) * (along - 0.5)
    loudness, short = rng.uniform(*LOUDNESS) + shape, rng.random() < style.short
    end = float(times[-1])
    notes = []
    for i, midi in enumerate(melody):
        onset, length = float(times[i]), float(times[i + 1] - times[i])
        velocity = float(np.clip(loudness[i] + rng.normal(0.0, 0.05), 0.3, 1.0))
        leads = not short and i + 1 < len(melody) and melody[i + 1] != midi and rng.random() < style.slurred
        held = length + OVERLAP if leads else length * rng.uniform(*(SHORT if short else (0.86, 0.98)))
        voices = [midi]
        if rng.random() < style.chords:
            degree = ladder.index(midi)
            voices += [ladder[d] for d in (degree - 2, degree - 4) if d >= 0]
        for j, voice in enumerate(sorted(voices)):
            begin = onset + j * min(style.strum, 0.1 * length)
            offset = min(max(onset + held, begin + style.ring), end)
            notes.append(Note(begin, offset, float(voice), velocity))
        if length > 0.3 and rng.random() < style.rolls:
            strokes = np.arange(onset, onset + length - SHORTEST_NOTE, rng.uniform(*STROKE))[1:]
            notes += [Note(float(t), min(float(t) + style.ring, end), float(midi), velocity) for t in strokes]
    return notes

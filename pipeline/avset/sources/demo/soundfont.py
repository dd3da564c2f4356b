"""The same melodies on instruments that others sampled: a sound font (SF2, SF3), which the user brings.

Door of tinysoundfont. Instruments are those of General MIDI, which has no erhu: a fiddle plays for it.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avset.errors import ParamsError
from avset.sources.demo.melodies import Note

PROGRAMS = {  # numbers of General MIDI, from 0
    "accordion": 21, "acoustic guitar": 24, "cello": 42, "clarinet": 71, "erhu": 110, "flute": 73, "saxophone": 66,
    "trumpet": 56, "tuba": 58, "violin": 40, "xylophone": 13,
}  # fmt: skip
GAIN = -6  # dB; the level of a clip is set later
BEND = 2.0  # semitones of a whole pitch bend
FADE = 0.5  # s in which what was played before dies away
RELEASE = 0.03  # s before the end of a note at which its key is released
PACKAGE = "tinysoundfont"


def check(bank: str) -> None:
    """ParamsError unless there is a bank that can be played, with all instruments, and the package that plays it."""
    if find_spec(PACKAGE) is None:
        raise ParamsError(
            f"clips.options.voice: soundfont needs the package {PACKAGE}; `pip install --no-deps {PACKAGE}`, or take "
            "voice: synthesis"
        )
    path = Path(bank)
    if not path.is_file():
        raise ParamsError(
            f"clips.options.bank: there is no file {bank!r}; give the path of a sound font, like FluidR3_GM.sf2 of "
            "Debian's package fluid-soundfont-gm"
        )
    synth, number = _synth(str(path), 8000)
    for label, program in PROGRAMS.items():
        if not synth.sfpreset_name(number, 0, program):
            raise ParamsError(
                f"clips.options.bank: {bank} has no instrument {program} of General MIDI for {label}; take another bank"
            )


def told(bank: str) -> dict[str, str]:
    """What decides how the bank sounds: its content, and the version of the package that plays it."""
    stat = Path(bank).stat()
    return {"bank": _digest(bank, stat.st_size, stat.st_mtime_ns), PACKAGE: version(PACKAGE)}


@cache
def _digest(bank: str, size: int, modified: int) -> str:
    with Path(bank).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _synth(bank: str, rate: int) -> tuple[Any, int]:
    """A synthesizer with the bank, one in a process, and the bank's number in it."""
    import tinysoundfont

    synth = tinysoundfont.Synth(gain=GAIN, samplerate=rate)
    try:
        return synth, synth.sfload(bank)
    except Exception as e:
        raise ParamsError(f"clips.options.bank: {bank} is no sound font that can be read; get it anew ({e})") from e


def play(
    bank: str, label: str, notes: Sequence[Note], tuning: float, length: int, rate: int
) -> Float[np.ndarray, "{length}"]:
    """The notes on the instrument of a bank, `tuning` semitones higher; `rate` in Hz.

    A key that is struck again is not released by the end of the note before.
    """
    synth, number = _synth(bank, rate)
    synth.sounds_off()
    synth.generate_simple(round(FADE * rate))
    synth.program_select(0, number, 0, PROGRAMS[label])
    synth.pitchbend_range(0, BEND)
    synth.pitchbend(0, round(8192 * (1 + tuning / BEND)))
    events = [(note.onset, 1, int(note.midi), max(1, round(127 * note.velocity))) for note in notes]
    for i, note in enumerate(notes):
        end = max(note.onset, note.offset - RELEASE)
        if not any(other.midi == note.midi and note.onset < other.onset <= end for other in notes[i + 1 :]):
            events.append((end, 0, int(note.midi), 0))
    wave, done = np.zeros(length), 0
    for time, struck, key, velocity in [*sorted(events), (length / rate, 0, 0, 0)]:
        until = min(round(time * rate), length)
        if until > done:
            wave[done:until] = np.frombuffer(synth.generate_simple(until - done), np.float32).reshape(-1, 2).mean(1)
            done = until
        if struck:
            synth.noteon(0, key, velocity)
        else:
            synth.noteoff(0, key)
    return wave

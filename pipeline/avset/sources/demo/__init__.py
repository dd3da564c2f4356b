"""The offline source: drawn players with synthetic music, and the true box of each instrument.

All that a clip shows and plays follows from its `media_id` and `Options.seed`. The splits share no melody, scene or
timbre.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, Field, model_validator

from avset.params import Download
from avset.sources import Box, Entry, Fetched, Listing
from avset.sources.demo import soundfont
from avset.sources.demo.media import write_mp4
from avset.sources.demo.motion import motions
from avset.sources.demo.pictures import Painter
from avset.sources.demo.scenes import scene
from avset.sources.demo.sounds import LABELS, Note, synthesize

SUFFIX = ".mp4"
SAMPLE_RATE = 22050  # Hz
DUET_PEAK = 0.95  # of the sum of a duet, at most
COUNTS = {"train_per_label", "validation_per_label", "test_per_label", "duets", "test_duets"}  # how many, not which
DUETS_PER_TEST = 4  # one duet in this many is for testing


class Options(BaseModel, extra="forbid"):
    """What the demo draws and plays."""

    seed: int = Field(default=0, ge=0, description="another seed, another data set")
    duration: float = Field(default=6.0, ge=1.0, le=60.0, description="seconds of each clip")
    size: int = Field(default=128, ge=64, le=512, multiple_of=2, description="pixels of the square picture's side")
    fps: int = Field(default=10, ge=1, le=60, description="frames per second")
    train_per_label: int = Field(default=16, ge=1, le=1000, description="training clips of each instrument")
    validation_per_label: int = Field(default=3, ge=0, le=1000, description="validation clips of each instrument")
    test_per_label: int = Field(default=6, ge=0, le=1000, description="test clips of each instrument")
    duets: int = Field(
        default=12, ge=0, le=1000, description="clips with two players: three in four train, the rest test"
    )
    test_duets: int = Field(default=0, ge=0, le=1000, description="further clips with two players, all for testing")
    voice: Literal["synthesis", "soundfont", "both"] = Field(
        default="synthesis",
        description="our own synthesis, the instruments of a sound font, or these in each second clip",
    )
    bank: str | None = Field(default=None, description="path of the sound font (SF2, SF3), as in inputs/demo/bank.sf2")

    @model_validator(mode="after")
    def _banked(self) -> "Options":
        if (self.voice == "synthesis") == bool(self.bank):
            raise ValueError("voice: soundfont and both need bank, the path of a sound font; voice: synthesis has none")
        return self

    def drawn(self) -> dict[str, Any]:
        """What of these decides how a clip looks and sounds: no counts, and of a sound font its content."""
        told = self.model_dump(mode="json", exclude={*COUNTS, "voice", "bank"})
        return told | ({"voice": self.voice, **soundfont.told(self.bank)} if self.bank else {})


def listing(options: Options) -> Listing:
    """All media of the demo: solos like `violin-train-003`, duets like `duet-flute-violin-007`.

    A larger count only adds entries. ParamsError if a sound font is to play that cannot: see `soundfont.check`.
    """
    if options.bank:
        soundfont.check(options.bank)
    counts = {
        "train": options.train_per_label,
        "validation": options.validation_per_label,
        "test": options.test_per_label,
    }
    solos = [
        Entry(f"{_slug(label)}-{split}-{number:03d}", split, (label,), "demo")
        for split, count in counts.items()
        for label in LABELS
        for number in range(count)
    ]
    duets = [_duet(number, options) for number in range(options.duets)]
    duets += [_duet(number, options, "test") for number in range(options.test_duets)]
    return Listing(sorted(solos + duets, key=lambda entry: entry.media_id))


def fetch(entry: Entry, options: Options, target: Path, access: Download | None = None) -> Fetched:
    """Draw, play and write one clip to `target` (H.264 and AAC); on one machine the bytes are the same each time.

    There is one box for each instrument and frame. The sound of a duet is the sum of two, limited in peak.
    """
    parts, scores = _perform(entry, options)
    frames, boxes = _draw(entry, options, scores)
    write_mp4(target, frames, options.fps, parts.sum(axis=0), SAMPLE_RATE)
    return Fetched(boxes=boxes)


def stems(entry: Entry, options: Options) -> Float[np.ndarray, "N L"]:
    """What each player of a clip plays, in the order of its labels, at 22 050 Hz: the clip's sound is the sum of these.

    They are made anew from the seeds, before AAC: true references of a duet.
    """
    return _perform(entry, options)[0]


def _perform(entry: Entry, options: Options) -> tuple[Float[np.ndarray, "N L"], list[list[Note]]]:
    """Stems and scores: all players are in one room, before one microphone."""
    room = _seed(entry, options, "room")
    ours = options.voice == "both" and int(entry.media_id.rpartition("-")[2]) % 2 == 0
    played = [synthesize(label, _seed(entry, options, f"sound {n}"), options.duration, SAMPLE_RATE, room,
                         "" if ours else options.bank or "")
              for n, label in enumerate(entry.labels)]  # fmt: skip
    parts = np.stack([samples for samples, _ in played]).astype(np.float64)
    parts *= min(1.0, DUET_PEAK / max(float(np.abs(parts.sum(axis=0)).max()), 1e-9))
    return parts, [notes for _, notes in played]


def _draw(entry: Entry, options: Options, scores: list[list[Note]]) -> tuple[list[np.ndarray], list[Box]]:
    painter = Painter(scene(entry.labels, _seed(entry, options, "scene")), options.size)
    times = np.arange(round(options.duration * options.fps)) / options.fps
    phases = np.random.default_rng(_seed(entry, options, "sway")).uniform(0, 2 * np.pi, len(scores))
    moves = [motions(notes, times, float(phase)) for notes, phase in zip(scores, phases, strict=True)]
    frames, boxes = [], []
    for time, *moment in zip(times.tolist(), *moves, strict=True):
        pixels, corners = painter.frame(tuple(moment))
        frames.append(pixels)
        boxes += [Box(time, label, *corner) for label, corner in zip(entry.labels, corners, strict=True)]
    return frames, boxes


def _duet(number: int, options: Options, split: str = "") -> Entry:
    """One of `duets`, which have a split by their number, or with a `split` one of its further ones."""
    rng = np.random.default_rng(_digest(f"{options.seed}/{'-'.join(filter(None, ['duet', split]))}/{number}"))
    first, second = sorted(rng.permutation(len(LABELS))[:2].tolist())
    labels = (LABELS[first], LABELS[second])
    place = f"{split}-{number:03d}" if split else f"{number:03d}"
    split = split or ("test" if number % DUETS_PER_TEST == DUETS_PER_TEST - 1 else "train")
    return Entry(f"duet-{_slug(labels[0])}-{_slug(labels[1])}-{place}", split, labels, "demo")


def _slug(label: str) -> str:
    return label.replace(" ", "_")


def _seed(entry: Entry, options: Options, purpose: str) -> int:
    return _digest(f"{options.seed}/{entry.media_id}/{purpose}")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

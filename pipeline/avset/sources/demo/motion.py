"""How music moves the players: from the notes to the place of bows, hands and bellows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avset.sources.demo.sounds import Note


@dataclass(frozen=True)
class Motion:
    """What the music does to the picture at one moment."""

    stroke: float = 0.5  # place along the bow, or how far the bellows are open: 0 to 1
    pitch: float = 0.5  # the note between the lowest and the highest of the clip: 0 to 1
    strike: float = 0.0  # 1 at an onset, then decaying to 0
    sway: float = 0.0  # -1 to 1
    hand: int = 0  # which hand strikes: 0 right, 1 left


def motions(notes: Sequence[Note], times: np.ndarray, phase: float = 0.0) -> list[Motion]:
    """How a player moves at each time (V,) s, from the notes that it plays; `phase` shifts the sway."""
    if not notes:
        return [Motion() for _ in times]
    onsets = np.unique(np.round([note.onset for note in notes], 2))
    groups = [[note for note in notes if abs(note.onset - onset) < 0.011] for onset in onsets]
    ends = np.array([max(note.offset for note in group) for group in groups])
    pitches = np.array([np.mean([note.midi for note in group]) for group in groups])
    heights = (pitches - pitches.min()) / max(float(np.ptp(pitches)), 1.0)
    return [_motion(float(time), onsets, ends, heights, phase) for time in times]


def _motion(time: float, onsets: np.ndarray, ends: np.ndarray, heights: np.ndarray, phase: float) -> Motion:
    now = int(np.searchsorted(onsets, time, side="right")) - 1
    last = max(now, 0)
    held = (time - onsets[last]) / max(ends[last] - onsets[last], 1e-3)
    progress = float(np.clip(held, 0.0, 1.0)) if now >= 0 else 0.0
    following = min(now + 1, len(onsets) - 1)
    coming = float(np.exp(-max(onsets[following] - time, 0.0) / 0.06)) if following > now else 0.0
    strike = max(float(np.exp(-(time - onsets[last]) / 0.12)) if now >= 0 else 0.0, coming)
    beat = last + progress
    aim = following if coming > 0.5 else last
    return Motion(
        stroke=progress if last % 2 == 0 else 1.0 - progress,
        pitch=float(heights[aim]),
        strike=strike,
        sway=float(np.sin(np.pi * beat / 2 + phase)),
        hand=aim % 2,
    )

"""The film of A.7: of each example the mixture, the baseline's sound, ours, the reference, and where ours looks.

Pictures and sound begin together in every part, since a part lasts a whole number of pictures, and a picture a whole
number of samples.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from avset.media.waveforms import resample
from avset.report import plots
from avset.sources.demo.media import write_mp4

FPS, SAMPLE_RATE, SIDE = 25, 44_100, 320  # pictures a second, Hz, px of a picture
PEAK = 0.9  # of the loudest sound of an example
SHADE = 0.5  # of the brightness of what is not yet played

Pictures = UInt8[ndarray, "F side side 3"]
Looks = Callable[[Pictures], tuple[Float[ndarray, "F R"], tuple[int, int]]]  # scores of the regions, and their grid


@dataclass(frozen=True)
class Part:
    """A sound, what the caption says of it, and whether all sources are seen meanwhile (`whole`), or a `heat` map."""

    told: str
    sound: Float[ndarray, " L"]
    nsdr: float | None = None  # dB
    whole: bool = False
    heat: bool = False

    def line(self) -> str:
        """What the caption says."""
        return self.told if self.nsdr is None else f"{self.told}: {self.nsdr:+.1f} dB"


@dataclass(frozen=True)
class Scene:
    """An example: its parts in their order, all as long as the mixture.

    told      the second line of the caption
    pictures  decodes the moving pictures of its N sources, the one that is asked for first, (N, F, SIDE, SIDE, 3)
    looks     where the separated sound looks in the pictures of the first source
    """

    told: str
    sample_rate: int  # Hz
    parts: Sequence[Part]
    pictures: Callable[[], UInt8[ndarray, "N F side side 3"]]
    looks: Looks | None = None

    def heard(self) -> Float32[ndarray, " L"]:
        """The sounds of all parts, at one gain, at `SAMPLE_RATE`."""
        gain = PEAK / max(1e-9, *(float(np.abs(part.sound).max()) for part in self.parts))
        sounds = [
            resample((part.sound * gain).astype(np.float32), self.sample_rate, SAMPLE_RATE) for part in self.parts
        ]
        length = self.count() * SAMPLE_RATE // FPS
        return np.concatenate([np.pad(sound, (0, length))[:length] for sound in sounds])

    def count(self) -> int:
        """F, the pictures of a part."""
        return picture_count(len(self.parts[0].sound), self.sample_rate)

    def seen(self, width: int) -> Iterator[UInt8[ndarray, "H {width} 3"]]:
        """The pictures of all parts, with their captions under them."""
        pictures = self.pictures()
        peak = float(plots.magnitude(self.parts[0].sound).max())
        for number, part in enumerate(self.parts, 1):
            caption = plots.caption([f"{number} of {len(self.parts)}: {part.line()}", self.told], width)
            own = self._heated(pictures[0]) if part.heat else pictures[0]
            panel = plots.resized(plots.coloured(plots.loudness(plots.magnitude(part.sound), peak)), SIDE)
            for at in range(self.count()):
                beside = list(pictures[:, at]) if part.whole else [own[at], played(panel, at / self.count())]
                row = np.zeros((SIDE, width, 3), np.uint8)
                row[:, : SIDE * len(beside)] = np.concatenate(beside, 1)
                yield np.concatenate([row, caption])

    def _heated(self, pictures: Pictures) -> Pictures:
        assert self.looks is not None
        scores, grid = self.looks(pictures)
        return np.stack([plots.heat_map(one, own, grid) for one, own in zip(pictures, scores, strict=True)])


def picture_count(length: int, sample_rate: int) -> int:
    """How many pictures last as long as `length` samples, or a little longer."""
    return math.ceil(length / sample_rate * FPS)


def played(panel: UInt8[ndarray, "side side 3"], share: float) -> UInt8[ndarray, "side side 3"]:
    """A spectrogram of which a share was played: the rest is darker, and a line stands between."""
    at = round(share * panel.shape[1])
    found = panel.copy()
    found[:, at:] = found[:, at:] * SHADE
    found[:, at : at + 2] = 255
    return found


def write(target: Path, scenes: Sequence[Scene], n_sources: int) -> None:
    """Write the film of some scenes of mixtures of `n_sources` as MP4."""
    width = SIDE * max(2, n_sources)
    pictures = (picture for scene in scenes for picture in scene.seen(width))
    sound = np.concatenate([scene.heard() for scene in scenes])
    write_mp4(target, pictures, FPS, sound, SAMPLE_RATE, long=True)

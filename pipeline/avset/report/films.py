"""Small films of clips for the page, decoded from their media and encoded anew.

Media are no dependency of `report`: whoever pulled the stores alone has a page with frames in the place of films.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.media.films import write_pictures
from avset.media.frames import decode_frames
from avset.storage.checksums import unchanged

FPS, SIDE = 12, 192  # pictures a second, px


@dataclass(frozen=True)
class Films:
    """Films of clips, of the centre square of their pictures.

    media   of each clip `media`, `digest`, `start` (s)
    limits  of reading a medium
    """

    media: Mapping[str, Mapping[str, Any] | None]
    limits: Limits

    def __call__(self, clip: str, start: float, seconds: float) -> bytes | None:
        """A silent MP4 of a part of a clip; None, and a line that says why, if its medium is not there.

        A short clip is repeated, as its sound is.
        """
        told = self.media.get(clip)
        times = np.arange(max(1, math.ceil(seconds * FPS))) / FPS
        try:
            if told is None:
                raise AvsetError("it has no medium")
            media = unchanged(told["media"], told["digest"][0])
            shown = told["start"] + start + times % max(told["duration"] - start, 1 / FPS)
            pictures = self.limits(decode_frames, media, shown, SIDE)
        except (AvsetError, ClipError) as e:
            print(f"report: no film of {clip}: {e}")
            return None
        with TemporaryDirectory() as folder:
            write_pictures(film := Path(folder) / "film.mp4", zip(times.tolist(), pictures, strict=True))
            return film.read_bytes()

"""frames: RGB frames of each clip on a fixed time grid.

Makes data/<dataset>/<scale>/frames/: per clip `frames` (V, H, W, 3) uint8 and `times` (V,) in seconds.
"""

from functools import partial
from pathlib import Path
from typing import Any

from avset.compute.build import build, media_payloads
from avset.compute.limited import Limits
from avset.compute.run import Job
from avset.media.frames import decode_frames, frame_times
from avset.params import Frames
from avset.storage.checksums import unchanged
from avset.storage.items import Item
from stages import PARAMS, Adopt, NewVersion, ParamsFile, Verify, begin, command, limits_of


class Decode:
    """Mapper: the frames of one clip."""

    def __init__(self, grid: Frames, limits: Limits):
        self.grid, self.limits = grid, limits

    def __call__(self, jobs: list[Job]) -> list[Item]:
        return [self.decode(**job.payload) for job in jobs]

    def decode(self, media: Path, start: float, duration: float, digest: list[Any]) -> Item:
        """Frames and their times; AvsetError if the medium is not the one of the index."""
        times = frame_times(start, duration, self.grid.count, self.grid.spacing)
        pictures = self.limits(decode_frames, unchanged(media, digest[0]), times, self.grid.size)
        return Item({"frames": pictures, "times": times})


def main(path: ParamsFile = PARAMS, verify: Verify = 0, adopt: Adopt = 0, new_version: NewVersion = False) -> None:
    """Decode the frames of every clip."""
    p = begin("frames", path, new_version=new_version)
    p = p.model_copy(update={"runtime": p.runtime.model_copy(update={"device": "cpu"})})  # no worker holds a GPU
    factory = partial(Decode, p.frames, limits_of(p))
    build("frames", p, media_payloads(p), factory, p.frames.recipe(), verify=verify, adopt=adopt)


if __name__ == "__main__":
    command(main)

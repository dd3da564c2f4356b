"""regions: language-aligned region features of each frame (App. A.2).

Makes data/<dataset>/<scale>/regions/: per clip `regions` (V, R, D) float16 and `embedding` (D,), the global
embedding of the centre frame. The expensive run of the image tower, done once.
"""

from functools import partial
from pathlib import Path

import numpy as np

from avset.compute.build import build, store_payloads
from avset.compute.run import Job
from avset.features.padding import padded_size
from avset.params import Params
from avset.storage.items import Item
from avset.storage.store import Store
from stages import PARAMS, Adopt, NewVersion, ParamsFile, Verify, begin, command, device_of


class Encode:
    """Mapper: frames of some clips, read from the store, through the image tower."""

    def __init__(self, frames: Path, encoder: Path, p: Params):
        from avset.features.regions import RegionMapper  # brings torch

        self.frames = Store(frames)
        self.regions = RegionMapper(encoder, p.regions.positional, p.regions.batch_size, device_of(p))

    def read(self, jobs: list[Job]) -> list[np.ndarray]:
        """The frames (V, H, W, 3) of each clip."""
        return [self.frames.read(job.clip_id, "frames") for job in jobs]

    def __call__(self, frames: list[np.ndarray]) -> list[Item]:
        return [Item(arrays) for arrays in self.regions(frames)]


def clips_at_once(frames: int, batch_size: int) -> int:
    """Of how many clips the frames fill the encoder's batches best, in at most four batches."""

    def filled(clips: int) -> float:
        return clips * frames / (-(-clips * frames // batch_size) * batch_size)

    return max(range(1, max(1, 4 * batch_size // frames) + 1), key=filled)


def main(path: ParamsFile = PARAMS, verify: Verify = 0, adopt: Adopt = 0, new_version: NewVersion = False) -> None:
    """Encode the frames of every clip."""
    p = begin("regions", path, new_version=new_version)
    frames, encoder = Store(p.data / "frames"), p.data / "encoder"
    factory = partial(Encode, frames.folder, encoder, p)
    batch = clips_at_once(p.frames.count, padded_size(p.regions.batch_size))
    clips, recipe = store_payloads(frames), p.regions.recipe()
    build("regions", p, clips, factory, recipe, batch, verify=verify, adopt=adopt)


if __name__ == "__main__":
    command(main)

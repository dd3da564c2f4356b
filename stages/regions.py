"""regions: language-aligned region features of each frame (App. A.2).

Makes data/<dataset>/<scale>/regions/: per clip `regions` (V, R, D) float16 and `embedding` (D,), the global
embedding of the centre frame. The expensive run of the image tower, done once.
"""

from functools import partial
from pathlib import Path

import numpy as np

from avset.compute.build import build, store_payloads
from avset.compute.run import Job
from avset.features.padding import whole
from avset.params import Params
from avset.storage.artifacts import encoder_digest
from avset.storage.items import Item
from avset.storage.store import Store
from stages import PARAMS, ParamsFile, Verify, begin, command, device_of

DIMENSIONS = {"regions": ("V", "R", "D"), "embedding": ("D",)}


class Encode:
    """Mapper: frames of some clips, read from the store, through the image tower."""

    def __init__(self, frames: Path, encoder: Path, p: Params):
        from avset.features.regions import Regions  # brings torch

        self.frames = Store(frames)
        self.regions = Regions(encoder, p.regions.positional, p.regions.batch_size, device_of(p))

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


def main(path: ParamsFile = PARAMS, verify: Verify = 0) -> None:
    """Encode the frames of every clip."""
    p = begin("regions", path)
    frames, encoder = Store(p.data / "frames"), p.data / "encoder"
    inputs = {"encoder": encoder_digest(encoder)}
    factory = partial(Encode, frames.folder, encoder, p)
    batch = clips_at_once(p.frames.count, whole(p.regions.batch_size))
    build("regions", p, store_payloads(frames), factory, p.regions.recipe(), inputs, DIMENSIONS, batch, verify=verify)


if __name__ == "__main__":
    command(main)

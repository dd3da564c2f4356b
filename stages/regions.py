"""regions: language-aligned region features of each frame (App. A.2).

Makes data/<dataset>/regions/: per clip `regions` (V, R, D) float16 and `embedding` (D,), the global embedding
of the centre frame. The expensive run of the image tower, done once.
"""

from functools import partial
from pathlib import Path

import numpy as np

from pipeline.batches import whole
from pipeline.parallel import Job
from pipeline.params import Params
from pipeline.store import Item, Store
from stages import PARAMS, ParamsFile, Verify, begin, build, command, device_of, encoder_digest, store_payloads

DIMENSIONS = {"regions": ("V", "R", "D"), "embedding": ("D",)}


class Encode:
    """Mapper: frames of some clips, read from the store, through the image tower."""

    def __init__(self, frames: Path, encoder: Path, p: Params):
        from pipeline.regions import Regions  # brings torch

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

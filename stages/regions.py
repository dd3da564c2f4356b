"""regions: language-aligned region features of each frame (App. A.2).

Makes data/<dataset>/regions/: per clip `regions` (V, R, D) float16 and `embedding` (D,), the global embedding
of the centre frame. The expensive run of the image tower, done once.
"""

from functools import partial
from pathlib import Path

from pipeline.parallel import Job
from pipeline.regions import Regions
from pipeline.store import Item, Store
from stages import PARAMS, ParamsFile, Verify, begin, build, command, device_of, encoder_digest, store_payloads

DIMENSIONS = {"regions": ("V", "R", "D"), "embedding": ("D",)}


class Encode:
    """Mapper: frames of some clips, read from the store, through the image tower."""

    def __init__(self, frames: Path, regions: Regions):
        self.frames, self.regions = Store(frames), regions

    def __call__(self, jobs: list[Job]) -> list[Item]:
        return [Item(arrays) for arrays in self.regions([self.frames.read(job.clip_id, "frames") for job in jobs])]


def main(path: ParamsFile = PARAMS, verify: Verify = 0) -> None:
    """Encode the frames of every clip."""
    p = begin("regions", path)
    frames, encoder = Store(p.data / "frames"), p.data / "encoder"
    regions = Regions(encoder, p.regions.positional, p.regions.batch_size, device_of(p))
    inputs = {"encoder": encoder_digest(encoder)}
    factory = partial(Encode, frames.folder, regions)
    batch = max(1, p.regions.batch_size // p.frames.count)
    build("regions", p, store_payloads(frames), factory, p.regions.recipe(), inputs, DIMENSIONS, batch, verify=verify)


if __name__ == "__main__":
    command(main)

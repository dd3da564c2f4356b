"""captions: the latent caption of each clip (Eq. 1, App. A.1).

Makes data/<dataset>/captions/: per clip `caption` (D,), `tokens` (K, E), `curve` (S,); cosine, steps, seed,
nearest words and a flag for low ones in the index. Needs regions and encoder only: a change of the inversion
never encodes an image again.
"""

from functools import partial
from pathlib import Path

from pipeline.captions import Captions
from pipeline.parallel import Job
from pipeline.store import Item, Store
from stages import PARAMS, ParamsFile, begin, build, command, device_of, encoder_digest, store_payloads

DIMENSIONS = {"caption": ("D",), "tokens": ("K", "E"), "curve": ("S",)}


class Invert:
    """Mapper: embeddings of some clips, read from the store, to their captions."""

    def __init__(self, regions: Path, captions: Captions):
        self.regions, self.captions = Store(regions), captions

    def __call__(self, jobs: list[Job]) -> list[Item]:
        found = self.captions([(job.clip_id, self.regions.read(job.clip_id, "embedding")) for job in jobs])
        return [
            Item({k: one[k] for k in DIMENSIONS}, {k: v for k, v in one.items() if k not in DIMENSIONS})
            for one in found
        ]


def main(path: ParamsFile = PARAMS) -> None:
    """Invert the centre frame of every clip."""
    p = begin("captions", path)
    regions, encoder = Store(p.data / "regions"), p.data / "encoder"
    captions = Captions(encoder, device=device_of(p), **p.captions.recipe())
    inputs = {"encoder": encoder_digest(encoder)}
    factory = partial(Invert, regions.folder, captions)
    recipe = p.captions.recipe()
    build("captions", p, store_payloads(regions), factory, recipe, inputs, DIMENSIONS, p.captions.batch_size)


if __name__ == "__main__":
    command(main)

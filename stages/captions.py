"""captions: the latent caption of each clip, or one for all clips of a video (Eq. 1, App. A.1).

Makes data/<dataset>/<scale>/captions/: per clip `caption` (D,), `tokens` (K, E), `curve` (S,); in the index cosine,
steps, seed, nearest words, a flag for low ones, and `of`, the clip whose centre frame was inverted. No image is read:
a change of the inversion never encodes one again.
"""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from avset.compute.build import build, store_payloads
from avset.compute.run import Job
from avset.features.padding import padded_size
from avset.params import Params
from avset.storage.artifacts import ARTIFACTS
from avset.storage.items import Item
from avset.storage.store import Store
from avset.storage.tables import read_table
from stages import PARAMS, Adopt, NewVersion, ParamsFile, Verify, begin, command, device_of


class Invert:
    """Mapper: embeddings of some clips, read from the store, to their captions."""

    def __init__(self, regions: Path, encoder: Path, how: dict[str, Any], p: Params):
        from avset.features.captions import CaptionMapper  # brings torch

        self.regions, self.captions = Store(regions), CaptionMapper(encoder, device=device_of(p), **how)

    def read(self, jobs: list[Job]) -> list[tuple[str, np.ndarray]]:
        """The name and the embedding (D,) of each clip."""
        return [(job.clip_id, self.regions.read(job.clip_id, "embedding")) for job in jobs]

    def __call__(self, embeddings: list[tuple[str, np.ndarray]]) -> list[Item]:
        arrays = ARTIFACTS["captions"].arrays
        return [
            Item({k: one[k] for k in arrays}, {k: v for k, v in one.items() if k not in arrays})
            for one in self.captions(embeddings)
        ]


def centres(rows: list[dict[str, Any]], usable: Collection[str]) -> dict[str, str]:
    """For each usable clip, the one that stands for its video (`media_id`).

    Of the video's usable clips it is the one whose middle is nearest to the middle of the span of all its clips;
    of two, the earlier. `rows` are those of clips/index.parquet.
    """
    videos: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok":
            videos.setdefault(row["media_id"], []).append(row)
    chosen: dict[str, str] = {}
    for clips in videos.values():
        spans = {row["clip_id"]: (row["start_s"], row["start_s"] + row["duration_s"]) for row in clips}
        middle = (min(start for start, _ in spans.values()) + max(end for _, end in spans.values())) / 2
        order = sorted(
            (round(abs((start + end) / 2 - middle), 6), start, clip)  # to the us: equal is equal
            for clip, (start, end) in spans.items()
            if clip in usable
        )
        chosen |= {clip: order[0][2] for _, _, clip in order}
    return chosen


def main(path: ParamsFile = PARAMS, verify: Verify = 0, adopt: Adopt = 0, new_version: NewVersion = False) -> None:
    """Invert the centre frame of every clip, or of the centre clip of every video."""
    p = begin("captions", path, new_version=new_version)
    regions, encoder = Store(p.data / "regions"), p.data / "encoder"
    recipe = p.captions.recipe()
    per = recipe.pop("per")  # decides which caption a clip has, and no caption
    factory = partial(Invert, regions.folder, encoder, recipe, p)
    of = {clip: clip for clip in regions.clips}
    if per == "video":
        of = centres(read_table(p.clips_folder / "index.parquet"), of)
    clips, batch = store_payloads(regions), padded_size(p.captions.batch_size)
    build("captions", p, clips, factory, recipe, batch, of, verify, adopt)


if __name__ == "__main__":
    command(main)

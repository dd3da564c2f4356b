"""objects: boxes of things in each frame, with class, confidence, and the feature of what is inside.

Makes data/<dataset>/<scale>/objects/: per clip `boxes` (V, O, 4), `classes` (V, O), `confidences` (V, O), `features`
(V, O, P) of the frozen tower. Boxes are the source's own (`truth`), those of a table, or a detector's. Only the
strongly supervised systems need it: it is made on demand.
"""

from functools import partial
from pathlib import Path
from typing import Any

from avset.compute.build import build, store_payloads
from avset.compute.run import Job
from avset.errors import AvsetError
from avset.params import DETECTOR, TRUTH, Params
from avset.sources.given import boxes_of
from avset.storage.checksums import sha256_of
from avset.storage.items import Item
from avset.storage.store import Store
from avset.storage.tables import read_columns
from stages import PARAMS, Adopt, NewVersion, ParamsFile, Verify, begin, command, device_of


class See:
    """Mapper: frames of some clips, and the boxes that are given, to objects."""

    def __init__(self, frames: Path, how: dict[str, Any], p: Params):
        from avset.features.objects import ObjectMapper  # brings torch

        self.frames, self.objects = Store(frames), ObjectMapper(p.data / "tower", device=device_of(p), **how)

    def read(self, jobs: list[Job]) -> list[dict[str, Any]]:
        """Name, frames, times, given boxes and size of the pictures of each clip."""
        return [
            {"clip": job.clip_id, "frames": self.frames.read(job.clip_id, "frames"),
             "times": self.frames.read(job.clip_id, "times"), "rows": job.payload["rows"], "size": job.payload["size"]}
            for job in jobs
        ]  # fmt: skip

    def __call__(self, clips: list[dict[str, Any]]) -> list[Item]:
        return [Item(self.objects(**clip)) for clip in clips]


def boxes_from(p: Params, clips: set[str]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any], dict[str, Any]]:
    """The boxes that are given, by clip; how the mapper works; and what identifies the detector or the table."""
    asked = p.objects
    how: dict[str, Any] = {"count": asked.count, "side": asked.side}
    if asked.boxes.startswith(DETECTOR):
        from avset.features import detector  # brings torch

        name = asked.boxes.removeprefix(DETECTOR)
        weights, names = detector.weights_of(name, asked.weights)
        how |= {"architecture": name, "weights": str(weights), "least": asked.confidence, "names": tuple(names)}
        return {}, how, {"weights": sha256_of(weights), "confidence": asked.confidence}
    table = p.clips_folder / "boxes.parquet" if asked.boxes == TRUTH else Path(asked.boxes)
    given = boxes_of(table, clips)
    names = sorted({box["label"] for boxes in given.values() for box in boxes})
    return given, how | {"names": tuple(names), "noise": asked.noise}, {"table": sha256_of(table), "noise": asked.noise}


def main(path: ParamsFile = PARAMS, verify: Verify = 0, adopt: Adopt = 0, new_version: NewVersion = False) -> None:
    """Find the objects in the frames of every clip."""
    p = begin("objects", path, new_version=new_version)
    frames = Store(p.data / "frames")
    given, how, source = boxes_from(p, set(frames.clips))
    if not how["names"]:
        raise AvsetError(
            f"objects: {p.objects.boxes} has no box of a clip; let objects.boxes be a table or torchvision:<name>"
        )
    recipe = {"boxes": how.get("architecture", "table"), "names": list(how["names"]), "count": how["count"],
              "side": how["side"], **source}  # fmt: skip
    sizes: dict[str, tuple[int, int]] = {}
    for columns in read_columns(p.clips_folder / "index.parquet", "clip_id", "width", "height"):
        sizes |= {clip: (width, height) for clip, width, height in zip(*columns, strict=True)}
    clips = {
        clip: payload and payload | {"rows": given.get(clip, []), "size": sizes[clip]}
        for clip, payload in store_payloads(frames).items()
    }
    build("objects", p, clips, partial(See, frames.folder, how, p), recipe, 8, verify=verify, adopt=adopt)


if __name__ == "__main__":
    command(main)

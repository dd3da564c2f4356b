"""The stages' bookkeeping, by the number of clips: synthetic data sets of tiny payloads, in a temporary folder.

Each phase runs in a process of its own. Of more than `WHOLE` clips there are indices alone, to be opened: what lies in
shards would take hours to make.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.measure import seconds

ROOT = Path(__file__).parents[1]
WHOLE = 200_000
PHASES = {
    "import": "imports alone",
    "first": "spectrograms: first run",
    "same": "spectrograms: nothing changed",
    "more": "spectrograms: 100 clips more",
    "fewer": "spectrograms: back without them",
    "gone": "spectrograms: nothing changed, items deleted",
    "lost": "spectrograms: 200 clips more, items deleted",
    "others": "frames, regions, captions: first runs",
    "regions": "regions: nothing changed",
    "open": "train: open the data set, first batch",
    "again": "train: the same once more",
    "verify": "store verify: places of all, content of 20",
}
OPENING = ("import", "open", "again")  # the phases of indices alone
EXTRA = 100  # clips that come and go


class Tiny:
    """Mapper: arrays of a few bytes, with the names that the stages give theirs."""

    def __init__(self, stage: str):
        self.stage = stage

    def __call__(self, jobs: list[Any]) -> list[Any]:
        import numpy as np

        from avset.storage.items import Item

        def arrays(i: int) -> dict[str, Any]:
            if self.stage == "spectrograms":
                stft = np.full((4, 2, 16), i % 100, np.float16)
                return {"stft": stft, "waveform": np.full(64, i % 1000, np.int16)}
            if self.stage == "frames":
                return {"frames": np.full((1, 2, 2, 3), i % 256, np.uint8), "times": np.zeros(1)}
            if self.stage == "regions":
                return {"regions": np.full((1, 4, 8), i % 100, np.float16), "embedding": np.ones(8, np.float32)}
            caption = {name: np.ones(8, np.float32) for name in ("caption", "curve")}
            return {**caption, "tokens": np.ones((1, 8), np.float32)}

        return [Item(arrays(int(job.clip_id[1:-2])), {"cosine": 0.5}) for job in jobs]


AXES = {
    "spectrograms": {"stft": ("T", "plane", "F"), "waveform": ("L",)},
    "frames": {"frames": ("V", "H", "W", "C"), "times": ("V",)},
    "regions": {"regions": ("V", "R", "D"), "embedding": ("D",)},
    "captions": {"caption": ("D",), "tokens": ("K", "E"), "curve": ("S",)},
}


def write_clips(count: int) -> None:
    """The artifacts of `clips`, `encoder` and `mixtures` for so many clips that nobody has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from avset import params
    from avset.sources.clips import BOXES, INDEX
    from avset.storage.artifacts import Record
    from avset.storage.files import make_folder, write_json
    from avset.storage.tables import write_table

    p = params.load()
    media = [f"c{i:07d}" for i in range(count)]
    told = {"status": "ok", "reason": "", "detail": "", "split": "train", "labels": ["violin"], "start_s": 0.0,
            "origin_start_s": 30.0, "duration_s": 10.0, "width": 640, "height": 360, "fps": 25.0, "sample_rate": 44100,
            "channels": 2}  # fmt: skip
    columns = {
        "clip_id": [f"{name}_0" for name in media], "media_id": media, "content": media,
        "media": [f"media/{name}.mkv" for name in media], "sha256": hashes("media", count),
        "origin": [f"https://video.example/watch?v={name}" for name in media],
    }  # fmt: skip
    table = {field.name: pa.array(columns.get(field.name) or [told[field.name]] * count, field.type) for field in INDEX}
    make_folder(p.clips_folder)
    pq.write_table(pa.table(table, INDEX), p.clips_folder / "index.parquet", compression="zstd")
    write_table(p.clips_folder / "boxes.parquet", [], BOXES)
    Record("clips").write(p.clips_folder)
    write_json(p.data / "encoder" / "encoder.json", {"sha256": ""})


def hashes(word: str, count: int) -> list[str]:
    """So many digests."""
    return [hashlib.sha256(f"{word} {i}".encode()).hexdigest() for i in range(count)]


def write_indices(count: int) -> None:
    """The stores of so many clips, without their shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from avset import params
    from avset.storage.artifacts import ARTIFACTS, Record, identity_of
    from avset.storage.files import make_folder
    from avset.storage.shards import spread
    from avset.storage.tables import media_digests

    data = params.load().data
    known = media_digests(params.load().clips_folder / "index.parquet")
    names = known["clip_id"].to_pylist()
    shards = {clip: shard.name for shard in spread(names) for clip in shard.clips}
    digests = {"clips": known["digest"].to_pylist()}
    for stage in ("frames", "spectrograms", "regions", "captions"):
        digests[stage] = hashes(stage, count)
        columns = {"clip_id": names, "status": ["ok"] * count, "reason": [""] * count, "detail": [""] * count,
                   "shard": [shards[name] for name in names], "digest": digests[stage],
                   "input": digests[ARTIFACTS[stage].of], "made": ["av 1, numpy 2, torch 3"] * count}  # fmt: skip
        own = {"of": names, "cosine": [0.5] * count} if stage == "captions" else {}
        make_folder(data / stage)
        pq.write_table(pa.table(columns | own), data / stage / "index.parquet", compression="zstd")
        parents = {"encoder": identity_of(data / "encoder", "encoder")} if stage in ("regions", "captions") else {}
        Record(stage, inputs=parents).write(data / stage)


def run_stage(stage: str) -> None:
    """One per-clip stage as `python -m stages.<stage>` runs it, but for its mapper."""
    from dataclasses import replace
    from functools import partial

    from avset import params
    from avset.compute.build import build, media_payloads, store_payloads
    from avset.storage.artifacts import ARTIFACTS
    from avset.storage.store import Store

    p = params.load()
    source = {"regions": "frames", "captions": "regions"}.get(stage)
    clips = store_payloads(Store(p.data / source)) if source else media_payloads(p)
    ARTIFACTS[stage] = replace(ARTIFACTS[stage], arrays=AXES[stage])
    of = {clip: clip for clip in clips} if stage == "captions" else None
    build(stage, p, clips, partial(Tiny, stage), {}, batch_size=64, of=of)


def open_training_set(count: int) -> None:
    """What `train` does before its first step; of indices alone, what needs no shard."""
    import pyarrow as pa
    from torch.utils.data import DataLoader

    from avset import params
    from avset.storage.artifacts import Record
    from avset.storage.store import Store
    from avset.storage.tables import write_table
    from avset.training.batches import TrainingMixtures
    from avset.training.dataset import Corpus

    data = params.load().data
    empty = pa.schema(
        [("mixture_id", pa.string()), ("source", pa.int64()), ("sdr", pa.float64()), ("method", pa.string())]
    )
    write_table(data / "mixtures" / "scores.parquet", [], empty)
    write_table(data / "mixtures" / "mixtures.parquet", [], empty)
    Record("mixtures", inputs={"spectrograms": Store(data / "spectrograms").digest}).write(data / "mixtures")
    corpus = Corpus.load(data)
    clips = corpus.training_clips()
    regions, recordings = corpus.features({"regions"}), corpus.recordings(clips)
    mixtures = TrainingMixtures(clips, corpus.spectrograms, regions, 4, 4, 2, (0.5, 1.5), 0, 10**6, recordings)
    corpus.identity()
    if count > WHOLE:
        return print([mixtures.choose(i)[0].tolist() for i in range(1000)][-1], file=sys.stderr)
    corpus.bank(clips), corpus.mean_region(clips)
    next(iter(DataLoader(mixtures, 20)))
    used = seconds(lambda: [mixtures[i] for i in range(1000)], wall=False)
    print(f"random mixtures: {used:.2f} ms each", file=sys.stderr)


def phase(name: str, count: int) -> None:
    """One phase, in this process; prints seconds of the processor and peak bytes as JSON."""
    import pyarrow.parquet  # noqa: F401

    import stages  # noqa: F401
    from avset import params
    from avset.storage import inspect

    if name in OPENING:
        import avset.training.dataset  # noqa: F401
    if name in ("more", "fewer", "lost"):
        write_clips(count + EXTRA * {"more": 1, "fewer": 0, "lost": 2}[name])
    if name == "gone":
        shutil.rmtree(Path(os.environ["AVSET_CACHE"]) / "items")
    others = ("frames", "regions", "captions")
    work = {
        "import": lambda: None, "others": lambda: [run_stage(stage) for stage in others],
        "regions": lambda: run_stage("regions"), "open": lambda: open_training_set(count),
        "again": lambda: open_training_set(count),
        "verify": lambda: inspect.verify(params.load().data / "spectrograms", 20),
    }  # fmt: skip
    used = seconds(work.get(name, lambda: run_stage("spectrograms")), wall=False)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([used, int(status["VmHWM"].split()[0]) * 1024]))


def measure(count: int, root: Path) -> dict[str, tuple[float, float, int]]:
    """Every phase on `count` clips: seconds of the processor, peak bytes, shards written."""
    import yaml

    project = root / "project"
    project.mkdir(parents=True)
    for name in ("pipeline", "stages", "dvc.yaml"):
        (project / name).symlink_to(ROOT / name)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["runtime"] |= {"executor": "inline", "min_free_gb": 0.1}
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    paths = os.pathsep.join(map(str, (project, ROOT / "pipeline", ROOT)))
    told = {"AVSET_CACHE": str(root / "cache"), "PYTHONPATH": paths}
    found = {}
    for name in ["make", *(PHASES if count <= WHOLE else OPENING)]:
        before = {path.stat().st_ino for path in (root / "cache").rglob("*.h5")}
        command = [sys.executable, "-m", "bench.scale", name, str(count)]
        done = subprocess.run(
            command, cwd=project, env=os.environ | told, stdout=subprocess.PIPE, text=True, check=True
        )
        if name != "make":
            used, peak = json.loads(done.stdout.splitlines()[-1])
            written = sum(path.stat().st_ino not in before for path in (root / "cache").rglob("*.h5"))
            found[name] = (used, peak, written)
    return found


def table(found: dict[int, dict[str, tuple[float, float, int]]]) -> Iterator[str]:
    """What was measured by the number of clips; the last column compares the largest number with the smallest."""
    sizes = sorted(found)
    yield "| phase | " + " | ".join(f"{n} clips: s | peak MB | shards written" for n in sizes) + " | growth |"
    yield "|---|" + "---|" * (3 * len(sizes) + 1)
    for name, what in PHASES.items():
        cells = []
        for n in sizes:
            used, peak, written = found[n].get(name, (None, None, None))
            cells.append(f"{used:.1f} | {peak / 1e6:.0f} | {written}" if used is not None else " | | ")
        ends = [found[n][name][0] for n in (sizes[0], sizes[-1]) if name in found[n]]
        growth = f"{ends[-1] / max(ends[0], 0.1):.2g} for {sizes[-1] / sizes[0]:.3g}" if len(ends) == 2 else ""
        yield f"| {what} | {' | '.join(cells)} | {growth} |"


def text(device: str, clips: Sequence[int] = (10_000,)) -> Iterator[str]:
    """The table, for some numbers of clips."""
    found = {}
    for count in clips:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            found[count] = measure(count, Path(folder))
    yield from table(found)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        write_clips(int(sys.argv[2]))
        if int(sys.argv[2]) > WHOLE:
            write_indices(int(sys.argv[2]))
    else:
        phase(sys.argv[1], int(sys.argv[2]))

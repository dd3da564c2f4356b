"""How the stages' bookkeeping grows with the number of clips: time and memory, with tiny payloads.

`python bench/scale.py` makes synthetic data sets of 10 000 and 100 000 clips (`--clips` for others) in a temporary
folder, runs each phase in a process of its own, and prints a table: seconds, peak memory, files written.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
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
    "verify": "store verify: places of all, content of 20",
}
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
    from avset import params
    from avset.params import digest
    from avset.sources.clips import BOXES, INDEX
    from avset.storage.artifacts import Record
    from avset.storage.files import write_json
    from avset.storage.tables import write_table

    p = params.load()
    rows = [
        {"clip_id": f"c{i:07d}_0", "media_id": f"c{i:07d}", "status": "ok", "reason": "", "detail": "",
         "split": "train", "labels": ["violin"], "origin": "https://video.example/watch?v=" + digest(i)[:11],
         "media": f"media/c{i:07d}.mkv", "start_s": 0.0, "origin_start_s": 30.0, "duration_s": 10.0, "width": 640,
         "height": 360, "fps": 25.0, "sample_rate": 44100, "channels": 2, "sha256": digest(["media", i]),
         "content": f"c{i:07d}"}
        for i in range(count)
    ]  # fmt: skip
    write_table(p.clips_folder / "index.parquet", rows, INDEX)
    write_table(p.clips_folder / "boxes.parquet", [], BOXES)
    Record("clips").write(p.clips_folder)
    write_json(p.data / "encoder" / "encoder.json", {"sha256": ""})


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


def open_training_set() -> None:
    """What `train` does before its first step."""
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
    clips = corpus.complete()
    mixtures = TrainingMixtures(
        clips,
        corpus.spectrograms,
        corpus.features({"regions"}),
        4,
        4,
        2,
        (0.5, 1.5),
        0,
        10**6,
        corpus.recordings(clips),
    )
    corpus.bank(clips), corpus.mean_region(clips), corpus.identity()
    next(iter(DataLoader(mixtures, 20)))
    started = time.monotonic()
    for i in range(1000):
        mixtures[i]
    print(f"random mixtures: {(time.monotonic() - started):.2f} ms each", file=sys.stderr)


def phase(name: str, count: int) -> None:
    """One phase, in this process; prints seconds and peak bytes as JSON."""
    import pyarrow.parquet  # noqa: F401

    import stages  # noqa: F401
    from avset import params
    from avset.storage import inspect

    if name == "open":
        import avset.training.dataset  # noqa: F401
    if name in ("more", "fewer", "lost"):
        write_clips(count + EXTRA * {"more": 1, "fewer": 0, "lost": 2}[name])
    if name == "gone":
        shutil.rmtree(Path(os.environ["AVSET_CACHE"]) / "items")
    start = time.monotonic()
    if name in ("first", "same", "more", "fewer", "gone", "lost"):
        run_stage("spectrograms")
    elif name == "others":
        for stage in ("frames", "regions", "captions"):
            run_stage(stage)
    elif name == "regions":
        run_stage("regions")
    elif name == "open":
        open_training_set()
    elif name == "verify":
        inspect.verify(params.load().data / "spectrograms", 20)
    seconds = time.monotonic() - start
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([seconds, int(status["VmHWM"].split()[0]) * 1024]))


def measure(count: int, root: Path) -> dict[str, tuple[float, float, int]]:
    """Every phase on `count` clips: seconds, peak bytes, shards written."""
    import yaml

    project = root / "project"
    project.mkdir(parents=True)
    for name in ("pipeline", "stages", "dvc.yaml"):
        (project / name).symlink_to(ROOT / name)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["runtime"] |= {"executor": "inline", "min_free_gb": 0.1}
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    environment = {**os.environ, "AVSET_CACHE": str(root / "cache"), "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    os.chdir(project)
    write_clips(count)
    found = {}
    for name in PHASES:
        before = {path.stat().st_ino for path in (root / "cache").rglob("*.h5")}
        command = [sys.executable, str(ROOT / "bench" / "scale.py"), "--phase", name, "--clips", str(count)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        seconds, peak = json.loads(done.stdout.splitlines()[-1])
        written = sum(path.stat().st_ino not in before for path in (root / "cache").rglob("*.h5"))
        found[name] = (seconds, peak, written)
    os.chdir(ROOT)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        return phase(options.phase, options.clips[0])
    sys.path.insert(0, str(ROOT))
    found = {}
    for count in options.clips:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            found[count] = measure(count, Path(folder))
    print("| phase | " + " | ".join(f"{n} clips: s | peak MB | shards written" for n in found) + " |")
    print("|---|" + "---|" * 3 * len(found))
    for name, what in PHASES.items():
        cells = [f"{s:.1f} | {peak / 1e6:.0f} | {written}" for s, peak, written in (found[n][name] for n in found)]
        print(f"| {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

"""`dvc repro` on a directory of 50 videos, 10 of them bad: 40 clips, 10 reasons, and a model that separates."""

import csv
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import toy
from media import make_video
from repository import Project

from avset.params import clips_of
from avset.sources import demo
from avset.storage.tables import read_table

pytestmark = pytest.mark.slow

LABELS = ("flute", "cello", "trumpet", "xylophone")
MEDIA = demo.Options(train_per_label=7, validation_per_label=1, test_per_label=2, duets=0, duration=3.0)
BAD = {  # file -> its reason, and the stage that finds it
    "zero.mp4": ("corrupt", "clips"), "text.mp4": ("corrupt", "clips"), "junk.mkv": ("corrupt", "clips"),
    "page.webm": ("corrupt", "clips"), "listed.mp4": ("missing", "clips"), "deaf.mp4": ("no_audio", "clips"),
    "blind.mp4": ("no_video", "clips"), "blink.mov": ("too_short", "clips"), "half.mp4": ("truncated", "clips"),
    "silent.avi": ("silent", "spectrograms"),
}  # fmt: skip


def make_good(folder: Path) -> list[tuple[str, str, str]]:
    """40 videos of the demo's instruments: file, label, split."""
    chosen = [entry for entry in demo.listing(MEDIA).entries if entry.labels[0] in LABELS]
    for entry in chosen:
        demo.fetch(entry, MEDIA, folder / f"{entry.media_id}.mp4")
    return [(f"{entry.media_id}.mp4", entry.labels[0], entry.split) for entry in chosen]


def make_bad(folder: Path) -> None:
    whole = make_video(folder / "half.mp4", 8.0).read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 10])
    (folder / "junk.mkv").write_bytes(random.Random(0).randbytes(5000))
    (folder / "text.mp4").write_text("This is no film.\n" * 99)
    (folder / "page.webm").write_text("<!doctype html><title>Not found</title>")
    (folder / "zero.mp4").touch()
    (folder / "listed.mp4").symlink_to(folder / "gone.mp4")
    make_video(folder / "deaf.mp4", audio=False)
    make_video(folder / "blind.mp4", video=False)
    make_video(folder / "blink.mov", 0.3)
    make_video(folder / "silent.avi", vcodec="mpeg4", acodec="libmp3lame", amplitude=0.0)


def settings(videos: Path, table: Path) -> dict[str, Any]:
    """A folder with the demo's encoder and sizes, and a short training."""
    tree = toy.params(dataset="folder")
    own, sizes = tree["datasets"]["folder"], tree["scales"]["demo"]
    own["clips"] |= {"options": {"path": str(videos), "table": str(table)}, "length": 3.0}
    own["mixtures"] = {"different_category": True}
    sizes["model"]["channels"] = [12, 24, 48, 64]
    sizes["mixtures"] |= {"validation": 6, "test": 16}
    sizes["train"] = {"steps": 160, "batch_size": 8, "validate_every": 160, "workers": 1, "threads": 1}
    return tree


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after its `dvc repro`."""
    root = tmp_path_factory.mktemp("fifty")
    (root / "videos").mkdir()
    rows = make_good(root / "videos")
    make_bad(root / "videos")
    rows += [(name, "flute", "train") for name in BAD]
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "split"), *rows])
    made = Project(root, settings(root / "videos", root / "table.csv"))
    (made.folder / "inputs" / "folder").mkdir()  # the videos lie elsewhere: DVC follows no broken link
    made.repro()
    return made


def test_fifty_files_are_forty_clips_and_ten_reasons(project: Project):
    data = project.folder / "data" / "folder" / "demo"
    rows = read_table(clips_of(data) / "index.parquet")
    assert len({row["media_id"] for row in rows}) == 50
    failed = {}
    for stage, store in (("clips", clips_of(data)), ("spectrograms", data / "spectrograms")):
        for row in read_table(store / "index.parquet"):
            if row["reason"] not in ("", "upstream"):
                failed[row["clip_id"].rsplit("_", 1)[0]] = (row["reason"], stage)
                assert row["detail"] or row["reason"].startswith("no_")
    assert failed == {Path(name).stem: why for name, why in BAD.items()}
    ok = {stage: {row["clip_id"] for row in read_table(data / stage / "index.parquet") if row["status"] == "ok"}
          for stage in ("spectrograms", "captions")}  # fmt: skip
    assert len(ok["spectrograms"]) == 40 == len(ok["spectrograms"] & ok["captions"])
    assert all(clip.split("-")[0] in LABELS for clip in ok["spectrograms"])


def test_the_report_counts_them_by_class(project: Project):
    covered = json.loads((project.folder / "reports" / "folder" / "demo" / "coverage.json").read_text())
    found = Counter(reason for reason, stage in BAD.values() if stage == "clips")
    assert covered["clips"]["reasons"] == found
    assert covered["clips"]["labels"]["flute"]["reasons"] == found
    assert covered["clips"]["labels"]["cello"]["failed"] == 0


def test_the_model_separates(project: Project):
    """After 160 steps on 28 clips: better than doing nothing for all queries, on clips never heard."""
    numbers = json.loads((project.folder / "reports" / "folder" / "demo" / "metrics.json").read_text())
    gains = {kind: numbers["avset"][kind]["nsdr"] for kind in ("text", "video", "caption")}
    assert min(gains.values()) > 1.0, gains
    assert numbers["avset"]["text"]["n"] == 32


def test_a_mended_file_is_all_that_is_computed(project: Project):
    videos = project.folder.parent / "videos"
    shutil.copy(videos / "flute-train-000.mp4", videos / "zero.mp4")
    assert "clips: 50/50 clips (49 cached)" in project.dvc("repro", "-f", "-s", "clips")
    said = project.dvc("repro", "captions")
    for stage in ("frames", "regions", "captions"):
        assert f"{stage}: 42/42 clips (41 cached)" in said, said

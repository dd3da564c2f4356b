"""A directory of the user's own videos from end to end: bad files are rows with a reason, the rest becomes a model."""

import csv
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from media import make_video
from test_ledger import check

from avset.errors import AvsetError
from avset.sources import SPLITS
from avset.storage.inspect import failures
from avset.storage.store import Store
from avset.storage.tables import read_table
from avset.training.dataset import Corpus

pytestmark = pytest.mark.slow

ALL = (*toy.STAGES, "train", "evaluate", "report")
TONES = {"flute": 880.0, "cello": 220.0, "drum": 110.0}  # Hz
DETUNED = 1.17  # from one video of a label to the next: no two are the same recording
GOOD = {  # media -> label, split, seconds
    "deep/long": ("flute", "train", 5.2), "low": ("cello", "train", 2.0), "beat": ("drum", "train", 2.0),
    "v1": ("flute", "validation", 2.0), "v2": ("cello", "validation", 2.0),
    "t1": ("flute", "test", 2.0), "t2": ("cello", "test", 2.0), "t3": ("drum", "test", 2.0),
}  # fmt: skip
BAD = {  # media -> the reasons in the indices of clips, frames, spectrograms
    "junk": ("corrupt", "upstream", "upstream"),
    "text": ("corrupt", "upstream", "upstream"),
    "page": ("corrupt", "upstream", "upstream"),
    "zero": ("corrupt", "upstream", "upstream"),
    "listed": ("missing", "upstream", "upstream"),
    "deaf": ("no_audio", "upstream", "upstream"),
    "blind": ("no_video", "upstream", "upstream"),
    "blink": ("too_short", "upstream", "upstream"),
    "half": ("truncated", "upstream", "upstream"),
    "silent": ("", "", "silent"),
}
SUFFIX = {"junk": ".mkv", "page": ".webm", "blink": ".mov", "silent": ".avi"}  # of the others: .mp4


def file_of(name: str) -> str:
    return name + SUFFIX.get(name, ".mp4")


def make_good(videos: Path, names: list[str]) -> None:
    for name in names:
        label, split, seconds = GOOD[name]
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(videos / f"{name}.mp4", seconds, tone=TONES[label] * DETUNED ** SPLITS.index(split))


def make_bad(videos: Path) -> None:
    whole = make_video(videos / "half.mp4", 8.0).read_bytes()
    (videos / "half.mp4").write_bytes(whole[: len(whole) // 10])
    (videos / "junk.mkv").write_bytes(random.Random(0).randbytes(2000) + whole[2000:20000])
    (videos / "page.webm").write_text("<!doctype html><title>Not found</title>")
    (videos / "text.mp4").write_text("This is no film.\n" * 99)
    (videos / "zero.mp4").write_bytes(b"")
    (videos / "listed.mp4").symlink_to(videos / "gone.mp4")
    make_video(videos / "deaf.mp4", audio=False)
    make_video(videos / "blind.mp4", video=False)
    make_video(videos / "blink.mov", 0.3)
    make_video(videos / "silent.avi", vcodec="mpeg4", acodec="libmp3lame", amplitude=0.0)


def write_table(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A CSV of (media, label, split)."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "split"), *((file_of(name), *rest) for name, *rest in rows)])
    return path


def settings(videos: Path, **options: Any) -> dict[str, Any]:
    """A folder at the tiny scale, with three frames a clip."""
    tree = toy.params(dataset="folder")
    own, sizes = tree["datasets"]["folder"], tree["scales"]["demo"]
    own["clips"] |= {"options": {"path": str(videos), **options}, "length": 2.0, "min_success": 0.3}
    own["mixtures"] = {"different_category": True}
    sizes["frames"] = {"size": 128, "count": 3, "spacing": 0.5}
    sizes["mixtures"] |= {"validation": 2, "test": 3}
    sizes["train"] |= {"steps": 4, "validate_every": 2}
    return tree


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after all stages on good and bad files with a table of labels. Read it, don't change it."""
    root = tmp_path_factory.mktemp("labelled")
    make_good(root / "videos", list(GOOD))
    make_bad(root / "videos")
    rows = [(name, *GOOD[name][:2]) for name in GOOD] + [(name, "flute", "train") for name in BAD]
    table = write_table(root / "labels.csv", rows)
    folder = toy.project(root / "project", settings(root / "videos", table=str(table)))
    toy.run(folder, root / "cache", *ALL)
    return folder


def index(folder: Path, stage: str) -> dict[str, dict[str, Any]]:
    place = folder / "data" / "folder" / ("clips" if stage == "clips" else f"demo/{stage}")
    return {row["clip_id"]: row for row in read_table(place / "index.parquet")}


def test_a_long_file_is_cut_into_clips(labelled: Path):
    rows = [row for row in index(labelled, "clips").values() if row["origin"].endswith("long.mp4")]
    times = [(row["clip_id"].split("_")[-1], row["start_s"], row["duration_s"]) for row in rows]
    assert [(name, start) for name, start, _ in times] == [("0", 0.0), ("2000", 2.0), ("4000", 4.0)]
    assert [seconds for _, _, seconds in times] == pytest.approx([2.0, 2.0, 1.2], abs=0.05)
    assert len({row["media"] for row in rows}) == 1 and {tuple(row["labels"]) for row in rows} == {("flute",)}
    store = Store(labelled / "data" / "folder" / "demo" / "frames")
    assert [store.read(row["clip_id"], "times")[1] for row in rows[:2]] == [1.0, 3.0]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_a_row_with_its_reason(labelled: Path, name: str):
    for stage, reason in zip(("clips", "frames", "spectrograms"), BAD[name], strict=True):
        rows = [row for clip, row in index(labelled, stage).items() if clip.rsplit("_", 1)[0] == name]
        assert rows and {(row["reason"], row["status"]) for row in rows} == {(reason, "failed" if reason else "ok")}
        assert all(row["detail"] for row in rows if reason in ("corrupt", "truncated", "silent", "missing"))


def test_the_rest_is_complete_and_nothing_else(labelled: Path):
    corpus = Corpus.load(labelled / "data" / "folder" / "demo")
    names = Counter(clip.rsplit("_", 1)[0] for clip in corpus.complete())
    long = next(name for name in names if "long" in name)
    assert names == {name: 1 for name in GOOD if name != "deep/long"} | {long: 3}
    assert "silent_0" in corpus.regions.clips and "silent_0" not in corpus.spectrograms.clips
    assert not {clip for m in corpus.mixtures for clip in m.clips} & {f"{name}_0" for name in BAD}
    heard = corpus.spectrograms.read("t1_0", "waveform").astype(float)
    assert np.abs(np.fft.rfft(heard)).argmax() * 11025 / len(heard) == pytest.approx(880 * DETUNED**2, abs=1)


def test_the_rest_is_evaluated_and_reported(labelled: Path):
    out = labelled / "reports" / "folder" / "demo"
    numbers, covered = (json.loads((out / f"{name}.json").read_text()) for name in ("metrics", "coverage"))
    assert {"text", "word", "video", "caption"} <= numbers["avset"].keys() and not numbers["localization"]
    assert numbers["ideal"]["nsdr"] > numbers["avset"]["text"]["nsdr"] and numbers["mixture"]["nsdr"] == 0
    classes = [line.split(",")[2] for line in (out / "nsdr_by_class.csv").read_text().splitlines()[1:]]
    assert set(classes) <= set(TONES)
    reasons = {"corrupt": 4, "missing": 1, "no_audio": 1, "no_video": 1, "too_short": 1, "truncated": 1}
    assert covered["clips"]["reasons"] == reasons
    assert covered["spectrograms"]["reasons"].keys() == {"upstream", "silent"}
    check(covered["ledger"])
    lines = {line["step"]: line for line in covered["ledger"]}
    assert (lines["media"]["in"], lines["media"]["failed"]) == (len(GOOD) + len(BAD), reasons)
    assert lines["spectrograms"]["failed"] == {"silent": 1} and not lines["captions"]["failed"]
    assert lines["avset.text"]["in"] == lines["avset.text"]["ok"] == 2 * lines["mixtures.test"]["ok"] > 0
    assert covered["clips"]["labels"]["flute"]["reasons"] == reasons
    assert covered["clips"]["labels"]["drum"] == {"ok": 2, "failed": 0, "reasons": {}}
    assert (out / "html" / "index.html").stat().st_size > 100_000


def test_what_failed_is_told_again_and_by_name(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = toy.clone(labelled, tmp_path / "project")
    toy.run(folder, labelled.parent / "cache", "clips", "spectrograms")
    said = capsys.readouterr().err
    assert "failed: 4 corrupt, 1 missing, 1 no_audio, 1 no_video (7 of them before);" in said
    assert "failed: 1 silent (1 of them before);" in said
    assert "clips: of 20 clips 11 ok, 4 corrupt, 1 missing, 1 no_audio, 1 no_video, 1 too_short, 1 truncated" in said
    assert "spectrograms: of 20 clips 10 ok, 1 silent, 9 upstream" in said
    told = {Path(one["file"]).name: (one["stage"], one["reason"]) for one in failures(folder / "data/folder/demo")}
    expected = {name: next((s, r) for s, r in zip(("clips", "frames", "spectrograms"), BAD[name], strict=True) if r)
                for name in BAD}  # fmt: skip
    assert told == {file_of(name): fate for name, fate in expected.items()}


def test_a_mended_file_is_all_that_is_computed(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder, zero = toy.clone(labelled, tmp_path / "project"), labelled.parent / "videos" / "zero.mp4"
    make_video(zero, tone=330.0)
    try:
        toy.run(folder, labelled.parent / "cache", "clips", "frames", "regions", "captions")
    finally:
        zero.write_bytes(b"")
    counts = re.findall(r"(\w+): (\d+)/\2 clips \((\d+) cached\)", capsys.readouterr().err)
    assert [stage for stage, _, _ in counts] == ["clips", "frames", "regions", "captions"]
    assert [int(of) - int(cached) for _, of, cached in counts] == [1] * 4


def test_without_labels_everything_but_text_works(tmp_path: Path):
    """No text query and no place to look for; training and report don't need them."""
    videos = tmp_path / "videos"
    names = [name for name in GOOD if "/" not in name]
    make_good(videos, names)
    table = write_table(tmp_path / "splits.csv", [(name, "", GOOD[name][1]) for name in names])
    tree = settings(videos, table=str(table))
    folder = toy.project(tmp_path / "project", tree)
    with pytest.raises(AvsetError, match=r"the 2 recordings of different labels .*different_category .* to false"):
        toy.run(folder, tmp_path / "cache", "clips")
    tree["datasets"]["folder"]["mixtures"]["different_category"] = False
    toy.run(toy.project(folder, tree), tmp_path / "cache", *ALL)
    numbers = json.loads((folder / "reports" / "folder" / "demo" / "metrics.json").read_text())
    assert sorted(numbers["avset"]) == ["caption", "video"] and not numbers["localization"]
    assert numbers["captions"].keys() == {"cosine", "n"} and "encoder" not in numbers
    assert (folder / "reports" / "folder" / "demo" / "html" / "index.html").stat().st_size > 100_000


def test_no_file_and_too_few_good_files_are_clear_errors(tmp_path: Path):
    videos = tmp_path / "videos"
    videos.mkdir()
    tree = settings(videos)
    folder = toy.project(tmp_path / "project", tree)
    with pytest.raises(AvsetError, match=r"no video in .*add files that end in .*clips\.options\.extensions"):
        toy.run(folder, tmp_path / "cache", "clips")
    make_good(videos, ["low"])
    make_video(videos / "d.mp4", audio=False)
    for name in ("a", "b", "c"):
        (videos / f"{name}.mp4").write_text("no film")
    said = (r"clips: 1 of 5 clips succeeded, fewer than clips\.min_success = 0\.3; reasons: corrupt \(.*"
            r"no_audio \(there is no sound track\)")  # fmt: skip
    with pytest.raises(AvsetError, match=said):
        toy.run(folder, tmp_path / "cache", "clips")
    assert Counter(row["reason"] for row in index(folder, "clips").values()) == {"": 1, "corrupt": 3, "no_audio": 1}
    make_video(videos / "a.mp4")  # a file that was mended is tried again
    with pytest.raises(AvsetError, match=r"less than the 2 recordings .*add videos.*one label to each of the 2"):
        toy.run(folder, tmp_path / "cache", "clips")
    assert Counter(row["reason"] for row in index(folder, "clips").values()) == {"": 2, "corrupt": 2, "no_audio": 1}


def test_an_unknown_option_of_a_source_is_named(tmp_path: Path):
    folder = toy.project(tmp_path / "project", settings(tmp_path, tables="x.csv"))
    with pytest.raises(AvsetError, match=r"clips\.options\.tables: unknown key; did you mean clips\.options\.table\?"):
        toy.run(folder, tmp_path / "cache", "clips")

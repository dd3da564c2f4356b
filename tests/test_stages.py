"""Every stage on a tiny data set: what it writes, that its bytes have no history, and what it says when it can't."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from test_layout import body
from test_store import tree_digest

import stages
from avset.compute.making import only_writer
from avset.errors import AvsetError, MissingArtifact, ParamsError
from avset.features.encoder import Encoder
from avset.report.report import WRITTEN
from avset.storage.artifacts import Record
from avset.storage.shards import BITS, bits_of
from avset.storage.store import Store
from avset.storage.tables import read_table
from avset.training import train

PER_CLIP = ("frames", "spectrograms", "regions", "captions")
NAMES = sorted(path.stem for path in (toy.ROOT / "stages").glob("[a-z]*.py"))
CLIPS = 11 * 3 + 4  # a solo of each label and split, and the duets
SECONDS, RATE, HOP, BINS = 2.0, 11025, 256, 512


@pytest.fixture
def copy(toy_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The toy project and its item cache, to be changed."""
    return toy.clone(toy_data, tmp_path / "project"), toy.clone(toy_data.parent / "cache", tmp_path / "cache")


def items(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "items").rglob("*") if path.is_file())


def made(folder: Path) -> dict[str, str]:
    """Digests of all that the stages made."""
    return tree_digest(folder / "data" / "demo")


def as_command(monkeypatch: pytest.MonkeyPatch, main: Callable[..., None], *arguments: str) -> int:
    """The exit code of a stage's command line, run in this process."""
    monkeypatch.setattr("sys.argv", ["stage", *arguments])
    with pytest.raises(SystemExit) as ended:
        stages.command(main)
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("stage", "name", "axes", "shape", "dtype"),
    [
        ("frames", "frames", "V H W C", (1, 128, 128, 3), "uint8"),
        ("frames", "times", "V", (1,), "float64"),
        ("spectrograms", "stft", "T plane F", (1 + int(SECONDS * RATE) // HOP, 2, BINS), "float16"),
        ("spectrograms", "waveform", "L", (int(SECONDS * RATE),), "int16"),
        ("regions", "regions", "V R D", (1, 16, 128), "float16"),
        ("regions", "embedding", "D", (128,), "float32"),
        ("captions", "caption", "D", (128,), "float32"),
        ("captions", "tokens", "K E", (3, 48), "float32"),
        ("captions", "curve", "S", (4,), "float32"),
    ],
)
def test_a_store_holds_every_clip(toy_data: Path, stage: str, name: str, axes: str, shape: tuple, dtype: str):
    store = Store(toy_data / "data" / "demo" / "demo" / stage)
    assert len(store.clips) == CLIPS
    for clip in store.clips:
        found = store.dataset(clip, name)
        assert ([axis.label for axis in found.dims], found.shape, found.dtype) == (axes.split(), shape, dtype)
        assert (np.isfinite(found[:]).all() and np.ptp(found[:].astype(float)) > 0) or name == "times"
    assert store.record.artifact == stage
    assert all(len(digest) == 64 for digest in store.record.inputs.values())


def test_clips_tells_all_of_its_media(toy_data: Path):
    folder = toy_data / "data" / "demo" / "clips"
    rows, boxes = read_table(folder / "index.parquet"), read_table(folder / "boxes.parquet")
    digests = tree_digest(folder)
    assert len(rows) == CLIPS and {row["split"] for row in rows} == {"train", "validation", "test"}
    assert all(digests[row["media"]] == row["sha256"] for row in rows)
    assert all((row["duration_s"], row["width"], row["fps"]) == (SECONDS, 128, 10.0) for row in rows)
    labels = {row["clip_id"]: set(row["labels"]) for row in rows}
    assert sorted(map(len, labels.values())) == [1] * 33 + [2] * 4
    assert {(box["clip_id"], box["label"]) for box in boxes} == {(c, name) for c in labels for name in labels[c]}
    assert all(0 <= box["x0"] < box["x1"] <= 1 and 0 <= box["y0"] < box["y1"] <= 1 for box in boxes)


def test_the_frame_is_the_centre_and_the_spectrum_that_of_the_samples(toy_data: Path):
    frames, store = (Store(toy_data / "data" / "demo" / "demo" / name) for name in ("frames", "spectrograms"))
    clip = store.clips[0]
    assert frames.read(clip, "times").tolist() == [SECONDS / 2]
    wave, t = store.read(clip, "waveform") / 32767, 40
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1022) / 1022)
    expected = np.fft.rfft(wave[t * HOP - 511 :][:1022] * window)
    found = store.read(clip, "stft")[t]
    assert np.abs(found[0] + 1j * found[1] - expected).max() < 1e-3 * np.abs(expected).max()


def test_captions_tell_how_well_they_fit(toy_data: Path):
    captions, regions = (Store(toy_data / "data" / "demo" / "demo" / name) for name in ("captions", "regions"))
    for clip in captions.clips:
        row, caption, image = captions.rows[clip], captions.read(clip, "caption"), regions.read(clip, "embedding")
        cosine = caption @ image / np.linalg.norm(caption) / np.linalg.norm(image)
        assert row["cosine"] == pytest.approx(cosine, abs=1e-5) == captions.read(clip, "curve")[-1]
        assert row["low"] == (cosine < 0.8) and row["steps"] == 30 and len(row["words"].split()) >= 3
        assert row["of"] == clip
    assert len({row["seed"] for row in captions.rows.values()}) == CLIPS


def test_mixtures_are_of_one_split_and_different_categories(toy_data: Path):
    folder = toy_data / "data" / "demo"
    rows = {row["clip_id"]: row for row in read_table(folder / "clips" / "index.parquet")}
    drawn, own = (read_table(folder / "demo" / "mixtures" / f"{name}.parquet") for name in ("mixtures", "scores"))
    assert [m["split"] for m in drawn] == ["validation"] * 3 + ["test"] * 4
    for m in drawn:
        assert [rows[clip]["split"] for clip in m["clips"]] == [m["split"]] * 2
        assert [rows[clip]["labels"] for clip in m["clips"]] == [[label] for label in m["labels"]]
        assert len(set(m["labels"])) == 2 and all(0.5 <= gain <= 1.5 for gain in m["gains"])
        assert all(0 <= offset <= 22 for offset in m["offsets"])
    gains = {(row["method"], row["mixture_id"], row["source"]): row["nsdr"] for row in own}
    assert len(gains) == 5 * 7 * 2
    assert {gain for (method, _, _), gain in gains.items() if method == "mixture"} == {0}
    assert all(gain > 3 for (method, _, _), gain in gains.items() if method.startswith("ideal"))
    names = [(m["mixture_id"], n) for m in drawn for n in (0, 1)]
    pairs = [(gains["ideal", *name], gains["ideal_linear", *name]) for name in names]
    assert np.mean(pairs, 0)[0] < np.mean(pairs, 0)[1], "more bins, a higher bound"


@pytest.mark.slow
def test_half_a_cache_gives_the_same_bytes(toy_data: Path, copy: tuple[Path, Path], capsys: pytest.CaptureFixture):
    """Items and media files are gone, others are damaged: these are made again, and nothing else is."""
    folder, cache = copy
    shutil.rmtree(cache / "shards")
    for gone in ("clips", *(f"demo/{stage}" for stage in PER_CLIP)):  # what lies there would be taken over
        shutil.rmtree(folder / "data" / "demo" / gone)
    before = {path: path.stat().st_mtime_ns for path in items(cache)}
    fetched = [path for path in before if b"sha256" in path.read_bytes()]
    others = [path for path in before if path not in fetched]
    media = sorted(path for path in (cache / "media").rglob("*") if path.is_file())
    gone, damaged = [fetched[0], media[5], *others[::2]], [fetched[1], media[7], *others[1::8]]
    for path in gone:
        path.unlink()
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    toy.run(folder, cache, "clips", *PER_CLIP)
    assert made(folder) == made(toy_data)
    again = {path for path in items(cache) if path.stat().st_mtime_ns != before[path]}
    assert items(cache) == list(before)
    assert again - set(fetched) == {*gone, *damaged} & set(others)
    assert 3 <= len(again & set(fetched)) <= 4, "two items, and those of two media files"


@pytest.mark.slow
@pytest.mark.parametrize("swept", [False, True])
def test_clips_that_came_and_went_leave_no_trace(
    toy_data: Path, copy: tuple[Path, Path], capsys: pytest.CaptureFixture, swept: bool
):
    """Also if the items that are in shards are gone from the cache."""
    folder, cache = copy
    for path in items(cache) if swept else ():
        if b"sha256" not in path.read_bytes():
            path.unlink()
    old = Store(folder / "data" / "demo" / "demo" / "regions").rows
    tree = toy.params()
    tree["datasets"]["demo"]["clips"]["options"]["duets"] += 2
    toy.project(folder, tree)
    toy.run(folder, cache, "clips", *PER_CLIP)
    said = capsys.readouterr().err
    assert said.count(f"{CLIPS + 2}/{CLIPS + 2} clips ({CLIPS} cached)") == 5, "two clips more, two clips of work"
    new = Store(folder / "data" / "demo" / "demo" / "regions").rows.keys() - old.keys()
    touched = {f"{bits_of(clip)[:BITS]}.h5" for clip in new}
    before, after = made(toy_data), made(folder)
    for stage in PER_CLIP:
        changed = {
            name for name in after if name.startswith(f"demo/{stage}/shards/") and after[name] != before.get(name)
        }
        assert {Path(name).name for name in changed} == touched, f"{stage}: more shards than those of the new clips"
    toy.project(folder, toy.params())
    toy.run(folder, cache, "clips", *PER_CLIP)
    assert made(folder) == before


def test_nothing_pending_makes_no_mapper(
    toy_data: Path, copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    folder, cache = copy
    monkeypatch.setattr("avset.compute.run.Worker", lambda *_: pytest.fail("a mapper was made"))
    monkeypatch.setattr(Encoder, "load", lambda *_: pytest.fail("the encoder was loaded"))
    toy.run(folder, cache, "clips", *PER_CLIP)
    assert made(folder) == made(toy_data)
    said = capsys.readouterr().err
    assert all(f"{stage}: dataset demo, scale demo\n" in said for stage in PER_CLIP)
    assert said.count(f"{CLIPS}/{CLIPS} clips ({CLIPS} cached), failed: none") == 5


def test_another_scale_takes_the_same_media_and_touches_nothing_of_the_first(
    toy_data: Path, copy: tuple[Path, Path], capsys: pytest.CaptureFixture
):
    folder, cache = copy
    tree = toy.params(scale="small")
    tree["scales"]["small"] = tree["scales"]["demo"] | {"frames": {"size": 32, "count": 2, "spacing": 0.5}}
    toy.run(toy.project(folder, tree), cache, "frames", "spectrograms")
    said = capsys.readouterr().err
    assert "frames: dataset demo, scale small\n" in said and "frames: 37/37 clips (0 cached)" in said
    assert "spectrograms: 37/37 clips (37 cached)" in said, "what both scales share is not computed again"
    small = Store(folder / "data" / "demo" / "small" / "frames")
    assert small.dataset(small.clips[0], "frames").shape == (2, 32, 32, 3)
    before, after = made(toy_data), made(folder)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"small"}


def test_a_second_writer_is_refused(copy: tuple[Path, Path]):
    folder, cache = copy
    with toy.inside(folder, cache):
        for made in ("clips", "demo/frames", "demo/encoder", "demo/mixtures"):
            with (
                only_writer(Path("data/demo") / made),
                pytest.raises(AvsetError, match=f"another process is making data/demo/{made}"),
            ):
                import_module(f"stages.{made.split('/')[-1]}").main(path=Path("params.yaml"))
        with only_writer(Path("data/demo/demo/frames")):  # free again, also after an error
            pass


def test_a_file_of_a_user_in_the_folder_of_an_artifact_stays(copy: tuple[Path, Path]):
    folder, cache = copy
    with toy.inside(folder, cache):
        for made in ("clips", "demo/frames", "demo/encoder", "demo/mixtures"):
            notes = Path("data/demo") / made / "notes.txt"
            notes.write_text("mine")
            with pytest.raises(AvsetError, match=f"data/demo/{made} will be replaced, and 'notes.txt' in it"):
                import_module(f"stages.{made.split('/')[-1]}").main(path=Path("params.yaml"))
            assert notes.read_text() == "mine"


def test_the_report_replaces_what_it_made_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stage = body("report")
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"] + stage["plots"]]
    assert {Path(out).name for out in outs} == {name.split("/")[0] for name in WRITTEN}
    toy.project(tmp_path, toy.params())
    scores, reports = tmp_path / "data" / "demo" / "demo" / "scores", tmp_path / "reports" / "demo" / "demo"
    Record("models").write(scores.parent / "models" / "avset")
    for folder in (scores / "avset", scores / "former", scores / "mine", tmp_path / "data/demo/clips", reports):
        folder.mkdir(parents=True)
    (scores / "avset" / "facts.json").write_text("{}")
    (scores / "mine" / "notes.txt").write_text("mine")
    (reports / "notes.txt").write_text("mine")
    (reports / "example.png").write_text("of the last report")
    Record("scores").write(scores / "former")
    Record("clips", facts={"funnel": {}}).write(tmp_path / "data/demo/clips")
    for name in ("mixtures", "sets"):
        (scores.parent / name).mkdir()
        Record(name, facts={"drawn": {}, "empty": {}}).write(scores.parent / name)
    report = import_module("stages.report")
    monkeypatch.setattr(report, "write_report", lambda *arguments: {})
    monkeypatch.setattr(report, "media_payloads", lambda p: {})
    monkeypatch.setattr(report, "numbers_as_text", str)
    toy.run(tmp_path, tmp_path / "cache", "report")
    assert sorted(path.name for path in scores.iterdir()) == ["avset", "mine"]
    assert sorted(path.name for path in reports.iterdir()) == ["notes.txt", "record.json"]


@pytest.mark.parametrize(
    ("stage", "needs"),
    [("frames", "clips"), ("spectrograms", "clips"), ("regions", "frames"), ("captions", "regions"),
     ("mixtures", "spectrograms"), ("sets", "spectrograms"), ("train", "spectrograms"),
     ("evaluate", "spectrograms"), ("report", "evaluate")],
)  # fmt: skip
def test_a_missing_artifact_is_one_line_that_names_its_stage(
    tmp_path: Path, stage: str, needs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    with toy.inside(toy.project(tmp_path, toy.params()), tmp_path / "cache"):
        assert as_command(monkeypatch, import_module(f"stages.{stage}").main) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(f"{stage}: ")]
    assert line.startswith("error: data/demo/") and f"dvc repro {needs}`" in line


def test_the_encoder_that_is_missing_is_named(toy_data: Path, copy: tuple[Path, Path]):
    folder, cache = copy
    shutil.rmtree(folder / "data" / "demo" / "demo" / "encoder")
    with pytest.raises(MissingArtifact, match="dvc repro encoder"):
        toy.run(folder, cache, "regions")


def test_a_wrong_parameter_is_one_line_that_names_its_key(tmp_path: Path):
    tree = toy.params(scales__demo__frames__size="big")
    folder = toy.project(tmp_path, tree)
    done = subprocess.run([sys.executable, "-m", "stages.frames"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: scales.demo.frames.size: ") and "not 'big'" in line


@pytest.mark.parametrize("stage", NAMES)
def test_help_says_what_a_stage_makes(stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    assert as_command(monkeypatch, import_module(f"stages.{stage}").main, "--help") == 0
    said = capsys.readouterr().out
    made = {"clips": "data/<dataset>/clips/", "report": "reports/<dataset>/<scale>/"}
    artifact = {"train": "models", "evaluate": "scores"}.get(stage, stage)
    assert f"Makes {made.get(stage, f'data/<dataset>/<scale>/{artifact}/')}" in said and "--params" in said


def test_a_full_disk_is_told_before_work_begins(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = toy.project(tmp_path, toy.params(runtime__min_free_gb=1e9))
    with pytest.raises(AvsetError, match=r"GB free, less than runtime\.min_free_gb = 1e\+09"):
        toy.run(folder, tmp_path / "cache", "clips")
    assert not (folder / "data").exists()


@pytest.mark.parametrize("stage", PER_CLIP)
def test_clips_made_anew_are_those_of_the_store(toy_data: Path, stage: str, capsys: pytest.CaptureFixture):
    """With an empty item cache: nothing is looked up, nothing is written."""
    before = made(toy_data)
    toy.run(toy_data, toy_data.parent / "nothing", stage, verify=3)
    said = capsys.readouterr().out.splitlines()
    assert said and all("of 3 clips made anew differs by at most 0 (allowed: " in line for line in said)
    assert made(toy_data) == before and not (toy_data.parent / "nothing" / "items").exists()


def test_a_store_of_another_recipe_is_not_compared(copy: tuple[Path, Path]):
    folder, cache = copy
    toy.project(folder, toy.params(captions__tokens=2))
    with pytest.raises(AvsetError, match=r"made with other recipe; run `dvc repro captions`"):
        toy.run(folder, cache, "captions", verify=1)


def test_too_few_clips_end_a_stage(copy: tuple[Path, Path]):
    """All clips are below an absurd threshold: the rows are written, with their reason, and the stage fails."""
    folder, cache = copy
    tree = toy.params()
    tree["clips"]["silence"] = -10
    toy.project(folder, tree)
    with pytest.raises(AvsetError, match=r"spectrograms: \d of 37 clips succeeded.*min_success = 1\.0.*silent \(-"):
        toy.run(folder, cache, "spectrograms")
    rows = read_table(folder / "data" / "demo" / "demo" / "spectrograms" / "index.parquet")
    assert len(rows) == CLIPS and "silent" in {row["reason"] for row in rows}


@pytest.mark.slow
def test_videos_of_several_clips_train_on_one_caption_each(
    toy_data: Path, copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Every video cut in two: the bank of Eq. 2 has a caption a video, and no mixture has a video twice."""
    folder, cache = copy
    tree = toy.params(datasets__demo__clips__length=SECONDS / 2, datasets__demo__captions__per="video")
    tree["scales"]["demo"]["mixtures"]["validation"] = 6
    tree["datasets"]["demo"]["mixtures"]["different_category"] = False
    toy.project(folder, tree)
    toy.run(folder, cache, *toy.STAGES)
    drawn = read_table(folder / "data" / "demo" / "demo" / "mixtures" / "mixtures.parquet")
    assert all(len({clip.rsplit("_", 1)[0] for clip in m["clips"]}) == 2 for m in drawn)
    assert f"{CLIPS}/{CLIPS} clips (0 cached), failed: none" in capsys.readouterr().err.split("captions: ")[2]
    fit, seen = train.fit, []

    def watch(model: Any, data: Any, constants: Any, *rest: Any) -> Any:
        seen.append((data, constants["captions"], constants["own"]))
        return fit(model, data, constants, *rest)

    monkeypatch.setattr(train, "fit", watch)
    toy.run(folder, cache, "train")
    (data, captions, own), store = seen[0], Store(folder / "data" / "demo" / "demo" / "captions")
    assert len(data.clips) == 2 * len(captions) and set(Counter(own.tolist()).values()) == {2}
    for clip, number in zip(data.clips, own.tolist(), strict=True):
        assert store.rows[clip]["of"] == clip.rsplit("_", 1)[0] + "_0", "of two halves the first"
        assert np.array_equal(store.read(clip, "caption"), captions[number])
    for i in range(len(data)):
        a, b = (data.clips[k].rsplit("_", 1)[0] for k in data.choose(i)[0])
        assert a != b


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_an_empty_cache_and_several_processes_give_the_same_bytes(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("avset.compute.run.WORTH_A_PROCESS", 1)
    tree: dict[str, Any] = toy.params(runtime__workers=2, runtime__executor="processes")
    folder = toy.project(tmp_path / "project", tree)
    toy.run(folder, tmp_path / "cache")
    assert capsys.readouterr().err.count(f"{CLIPS}/{CLIPS} clips (0 cached)") == 1 + len(PER_CLIP)
    assert made(folder) == made(toy_data)


def test_a_device_that_is_not_there_is_named():
    import torch

    from avset.params import resolve
    from stages import device_of

    assert device_of(resolve(toy.params(runtime__device="cpu"))) == "cpu"
    if not torch.cuda.is_available():
        assert device_of(resolve(toy.params(runtime__device="auto"))) == "cpu"
        with pytest.raises(AvsetError, match=r"runtime\.device is cuda"):
            device_of(resolve(toy.params(runtime__device="cuda")))


def test_the_first_stage_checks_the_options_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They take time to import, so the stages after it leave that to `clips`."""
    toy.project(tmp_path, toy.params(datasets__demo__clips__options__duratoin=2.0))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"clips\.options\.duratoin: unknown key; did you mean .*\.duration"):
        stages.begin("encoder", Path("params.yaml"))
    stages.begin("frames", Path("params.yaml"))

"""Objects: boxes that are given or detected, crops of them, and the stage."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision
import toy
from test_artifacts import check_datasets, check_files, datasets, tables

from avset.errors import AvsetError, MissingArtifact
from avset.features import detector, objects, tower, tower_weights
from avset.features.boxes import crops
from avset.features.objects import NOTHING, ObjectMapper
from avset.sources.given import boxes_of
from avset.storage.store import Store
from avset.storage.tables import read_table, write_table
from avset.training.dataset import Corpus

BOX = {"clip_id": "a", "time_s": 1.0, "label": "x", "x0": 0.25, "y0": 0.0, "x1": 0.5, "y1": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tower."""
    made = tmp_path_factory.mktemp("tower")
    tower_weights.export("small", "none", made)
    return made


def test_a_crop_is_what_is_inside():
    frame = torch.arange(64 * 64 * 3, dtype=torch.float).view(64, 64, 3).remainder(251).to(torch.uint8)
    boxes = torch.tensor([[0.25, 0.5, 0.5, 0.75], [0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]])
    found = crops(frame[None], boxes[None], 16)
    assert found.shape == (1, 3, 16, 16, 3)
    torch.testing.assert_close(found[0, 0], frame[32:48, 16:32].float(), atol=1e-2, rtol=0)
    whole = crops(frame[None], boxes[None, 1:2], 64)[0, 0]
    torch.testing.assert_close(whole, frame.float(), atol=1e-2, rtol=0)
    assert found[0, 2].flatten(0, 1).unique(dim=0).shape == (1, 3)


def test_given_boxes_are_those_of_the_nearest_time_in_the_square():
    """Of a picture twice as wide as high: a quarter of its width is half of the square."""
    rows = [BOX | {"time_s": 0.0, "x1": 0.3}, BOX | {"confidence": 0.4}, BOX | {"label": "y", "confidence": 0.9},
            BOX | {"label": "y", "x0": 0.0, "x1": 0.2}]  # fmt: skip
    boxes, classes, confidences = objects.given(rows, 1.2, (200, 100), ("x", "y"))
    np.testing.assert_allclose(boxes, [[0, 0, 0.5, 0.5]] * 2)
    assert (classes.tolist(), confidences.tolist()) == ([1, 0], pytest.approx([0.9, 0.4]))
    assert [len(part) for part in objects.given([], 0.0, (8, 8), ("x",))] == [0, 0, 0]


def test_objects_of_a_clip_have_their_places_and_their_features(folder: Path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    rows = [BOX, BOX | {"time_s": 5.0, "label": "y"}, BOX | {"time_s": 5.0, "label": "x", "confidence": 0.5}]
    mapper = ObjectMapper(folder, ("x", "y"), 3, 32)
    found = mapper("a", frames, np.array([1.0, 5.0]), rows, (64, 64))
    assert found["classes"].tolist() == [[0, 1, NOTHING], [1, 0, NOTHING]] and found["boxes"].shape == (2, 3, 4)
    assert found["confidences"].tolist() == [[1.0, 1.0, 0.0], [1.0, 0.5, 0.0]]
    with torch.no_grad():
        crop = crops(torch.from_numpy(frames[1:]), torch.from_numpy(found["boxes"][1:]), 32)
        expected = tower.load(folder)(crop[0, :1]).mean((2, 3))[0]
    np.testing.assert_allclose(found["features"][1, 0], expected, rtol=1e-4, atol=1e-5)
    assert not found["features"][:, 2].any() and found["features"].dtype == np.float32
    assert mapper("a", frames[:1], np.array([1.0]), rows, (64, 64))["features"].tobytes() == (
        found["features"][:1].tobytes()
    ), "whatever the company"


def test_noise_moves_boxes_by_a_share_of_their_size_and_always_the_same_way(folder: Path):
    boxes = np.tile(np.array([[0.4, 0.4, 0.6, 0.5]]), (500, 1))
    mapper = ObjectMapper(folder, ("x",), 3, 32, noise=0.1)
    moved = mapper.shaken(boxes, "a")
    np.testing.assert_allclose((moved - boxes).std(0), [0.02, 0.01, 0.02, 0.01], rtol=0.15)
    assert np.array_equal(moved, mapper.shaken(boxes, "a")) and not np.array_equal(moved, mapper.shaken(boxes, "b"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_boxes_is_read(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture):
    path = tmp_path / f"boxes.{suffix}"
    if suffix == "csv":
        path.write_text("clip_id,time_s,label,x0,y0,x1,y1\na,1.0,x,0.25,0.0,0.5,0.5\nb,1.0,x,0,0,1,1\n")
    else:
        write_table(path, [BOX, BOX | {"clip_id": "b"}])
    assert boxes_of(path, {"a"}) == {"a": [{k: v for k, v in BOX.items() if k != "clip_id"} | {"confidence": 1.0}]}
    assert "1 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "why"),
    [("a,1\n", "no column label"), ("a,1,x,0.5,0,0.2,1\n", "row 2.*no area"), ("a,nan,x,0,0,1,1\n", "row 2"),
     ("a,1,x\n", "row 2")],
)  # fmt: skip
def test_a_row_that_is_no_box_is_named(tmp_path: Path, text: str, why: str):
    head = "clip_id,time_s" if "label" in why else "clip_id,time_s,label,x0,y0,x1,y1"
    (tmp_path / "boxes.csv").write_text(f"{head}\n{text}")
    with pytest.raises(AvsetError, match=why):
        boxes_of(tmp_path / "boxes.csv", {"a"})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a detector of torchvision that nobody trained, of two classes, and their names."""
    torch.manual_seed(0)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
    path = tmp_path_factory.mktemp("detector") / "weights.pth"
    torch.save(model.state_dict(), path)
    Path(f"{path}.json").write_text(json.dumps(["cat", "dog"]))
    return path


@pytest.mark.slow
def test_a_detector_of_torchvision(tiny: Path, folder: Path, tmp_path: Path):
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    weights, names = detector.weights_of(name, str(tiny))
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    mapper = ObjectMapper(folder, tuple(names), 4, 32, architecture=name, weights=str(weights))
    found = mapper("a", frames, np.zeros(1), [], (64, 64))
    kept = found["confidences"][0] > 0
    assert kept.any() and set(found["classes"][0, kept].tolist()) <= {0, 1}
    assert ((found["boxes"] >= 0) & (found["boxes"] <= 1)).all() and (np.diff(found["confidences"][0]) <= 0).all()
    sure = ObjectMapper(folder, tuple(names), 4, 32, least=1.0, architecture=name, weights=str(weights))
    assert not sure("a", frames, np.zeros(1), [], (64, 64))["confidences"].any()
    with pytest.raises(AvsetError, match="does not fit the detector"):
        detector.load("fasterrcnn_resnet50_fpn_v2", weights, 0.5)


def test_a_detector_that_is_not_there_is_told_before_anything_runs(toy_data: Path, tmp_path: Path):
    for weights, boxes, why in (
        ("no.pth", "torchvision:fasterrcnn_resnet50_fpn_v2", "'no.pth' has no weights of a detector"),
        (None, "torchvision:yolo", "torchvision has no detector 'yolo'; it has .*fasterrcnn_resnet50_fpn_v2"),
        (None, "boxes.csv", "'boxes.csv' is not there"),
    ):
        changes = {"objects__weights": weights, "objects__boxes": boxes}
        folder = tmp_path / "project"
        if not folder.exists():
            toy.clone(toy_data, folder)
        with pytest.raises(AvsetError, match=why):
            toy.run(toy.project(folder, toy.params(**changes)), tmp_path / "cache", "objects")


def test_the_stage_makes_objects_of_the_true_boxes(toy_data: Path, tmp_path: Path):
    folder = toy.project(toy.clone(toy_data, tmp_path / "project"), toy.params())
    data = folder / "data" / "demo" / "demo"
    with pytest.raises(MissingArtifact, match=r"make it with `dvc repro systems/dvc\.yaml:tower`"):
        toy.run(folder, tmp_path / "cache", "objects")
    with (
        toy.inside(folder, tmp_path / "cache"),
        pytest.raises(MissingArtifact, match=r"make it with `dvc repro systems/dvc\.yaml:objects`"),
    ):
        Corpus.load(data.relative_to(folder)).features({"boxes"})
    toy.run(folder, tmp_path / "cache", "tower", "objects")
    store, corpus = Store(data / "objects"), Corpus.load(data)
    assert store.clips == corpus.frames.clips and set(corpus.features({"boxes", "frames"})) == {"boxes", "frames"}
    names = store.record.recipe["names"]
    index = {row["clip_id"]: row for row in read_table(data.parent / "clips" / "index.parquet")}
    for clip in store.clips:
        arrays = store.arrays(clip)
        shapes = {name: array.shape for name, array in arrays.items()}
        assert shapes == {"boxes": (1, 4, 4), "classes": (1, 4), "confidences": (1, 4), "features": (1, 4, 128)}
        seen = {names[c]: box for c, box in zip(arrays["classes"][0], arrays["boxes"][0], strict=True) if c != NOTHING}
        assert set(seen) == set(index[clip]["labels"])
        for label, box in seen.items():
            np.testing.assert_allclose(box, corpus.boxes[f"{clip}/{label}"][0], atol=1e-6)
    page = tables("dataset")["objects/shards/<shard>.h5"]
    for shard in {store.shard(clip) for clip in store.clips}:
        with h5py.File(shard) as file:
            for group in file.values():
                check_datasets(datasets(group), page, {})
    for name in ("tower", "objects"):
        check_files(data, False, [row for row in tables("file")["Files"] if row["file"].startswith(f"{name}/")], name)
    before = store.digest
    toy.run(folder, tmp_path / "cache", "objects")
    assert Store(data / "objects").digest == before

"""What an artifact promises of its bytes, and that those who read it notice any other. All: `python tests/flips.py`."""

import json
import os
import random
from pathlib import Path
from typing import Any

import flips
import pytest
import torch
import toy

from avset.errors import AvsetError
from avset.features.encoder import Encoder
from avset.models.checkpoint import SeparationModel
from avset.params import clips_of
from avset.storage import checksums, inspect
from avset.storage.artifacts import Record, identity_of
from avset.storage.store import Store
from avset.storage.tables import read_table, write_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact of two tables."""
    for name in ("mixtures", "scores"):
        write_table(tmp_path / f"{name}.parquet", [{"a": 1}])
    Record("mixtures", recipe={"a": 1}).write(tmp_path)
    return tmp_path


def test_a_record_promises_every_file_and_itself(folder: Path):
    record, data = json.loads((folder / "record.json").read_text()), (folder / "scores.parquet").read_bytes()
    told = {"sha256": checksums.sha256_of(folder / "scores.parquet"), "size": len(data)}
    assert record["files"].keys() == {"mixtures.parquet", "scores.parquet"}
    assert record["files"]["scores.parquet"] == told
    assert Record.read(folder) == Record("mixtures", recipe={"a": 1})
    assert checksums.damages(folder) == {}


def test_the_identity_is_that_of_the_content_whether_checksums_are_there_or_not(folder: Path):
    before = identity_of(folder, "mixtures")
    told = {k: v for k, v in json.loads((folder / "record.json").read_text()).items() if k not in ("files", "sha256")}
    (folder / "record.json").write_bytes(checksums.as_text(told))
    assert identity_of(folder, "mixtures") == before


def test_any_bit_of_a_record_or_a_file_is_noticed(folder: Path):
    rng = random.Random(0)
    for path in [folder / "record.json"] * 40 + [folder / "scores.parquet"] * 40:
        whole, stat = path.read_bytes(), path.stat()
        flips.flip(path, rng)
        checksums.memory.clear()  # that of another process
        checksums.records.clear()
        assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
        with pytest.raises(AvsetError, match=rf"{path.name} is damaged .*then run `dvc checkout"):
            read_table(folder / "scores.parquet")
        assert inspect.verify(folder)[1].keys() == {path.name} if path.name != "record.json" else True
        path.write_bytes(whole)
        checksums.memory.clear()
        checksums.records.clear()
    assert read_table(folder / "scores.parquet") == [{"a": 1}]


def test_what_is_missing_or_came_later_is_named(folder: Path):
    (folder / "scores.parquet").unlink()
    (folder / "notes.txt").write_text("mine")
    assert inspect.verify(folder)[1] == {
        "notes.txt": "record.json does not name it", "scores.parquet": "it is not there"
    }  # fmt: skip


def test_an_artifact_older_than_the_checksums_is_read_with_a_warning(folder: Path, capsys: pytest.CaptureFixture):
    (folder / "record.json").write_text('{"artifact": "mixtures"}')
    for _ in range(2):
        assert read_table(folder / "scores.parquet") == [{"a": 1}]
    assert capsys.readouterr().err.count("was made before there were checksums") == 1


def test_a_file_is_hashed_once_until_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = folder / "scores.parquet"
    before, read = checksums.sha256_of(path), []
    real = checksums.hashlib.file_digest
    monkeypatch.setattr(checksums.hashlib, "file_digest", lambda *told: read.append(1) or real(*told))
    assert checksums.sha256_of(path) == before and not read
    path.write_bytes(b"other")
    assert checksums.sha256_of(path) != before and len(read) == 1


def test_what_reads_a_clip_notices_a_flipped_byte_of_it_alone(toy_data: Path, tmp_path: Path):
    data = toy.clone(toy_data, tmp_path / "toy") / "data" / "demo" / "demo"
    store = Store(data / "frames")
    clip, other = store.clips[0], next(c for c in store.clips if store.shard(c) != store.shard(store.clips[0]))
    path = store.shard(clip)
    at, stat = store.dataset(clip, "frames").id.get_offset(), path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = Store(data / "frames")
    assert again.read(other, "frames").shape == store.read(other, "frames").shape
    for read in (lambda: again.read(clip, "frames"), lambda: again.arrays(clip), lambda: again.read(clip, "times")):
        with pytest.raises(AvsetError, match=f"{path.name} is damaged .{clip} in it is not what the index promises"):
            read()
    assert inspect.verify(data / "frames")[1].keys() == {f"shards/{path.name}", clip}


def test_a_flipped_byte_of_a_medium_ends_the_stages_that_read_it(toy_data: Path, tmp_path: Path):
    project = toy.clone(toy_data, tmp_path / "toy")
    row = read_table(clips_of(project / "data" / "demo" / "demo") / "index.parquet")[0]
    flips.flip(project / "data" / "demo" / "clips" / row["media"], random.Random(0))
    for stage in ("frames", "spectrograms"):
        with toy.inside(project, tmp_path / "cache"):
            made = project / "data" / "demo" / "demo" / stage
            made.rename(tmp_path / stage)  # from which items would be taken
        with pytest.raises(AvsetError, match=f"{row['media']} is damaged"):
            toy.run(project, tmp_path / "cache", stage)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(scored: Path, tmp_path: Path, value: float):
    data = toy.clone(scored, tmp_path / "scored") / "data" / "demo" / "demo"
    model = SeparationModel.load(data / "models" / "avset")
    state: dict[str, Any] = dict(model.method.own_state())
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name].view(-1)[0] = value
    with pytest.raises(AvsetError, match=rf"model.safetensors has weights that are not finite \({name}\)"):
        model.save(tmp_path, {})
    encoder = Encoder.load(data / "encoder").model.state_dict()
    encoder["text_projection"][0, 0] = value
    with pytest.raises(AvsetError, match=r"not finite \(text_projection\)"):
        checksums.finite(data / "encoder" / "weights.safetensors", encoder)
    assert torch.isfinite(next(iter(SeparationModel.load(data / "models" / "avset").method.parameters()))).all()


@pytest.mark.slow
def test_single_bits_are_never_silent(scored: Path, tmp_path: Path):
    """One in each artifact."""
    count = len(flips.READERS)
    summary = flips.attack(scored, tmp_path, flips.READERS, random.Random(0))
    assert summary["wrong"] == 0 and summary["seen by verify"] == count
    assert summary["outcomes"]["refused"] >= count // 3 and summary["outcomes"].keys() <= {"refused", "the same"}

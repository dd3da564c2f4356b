"""Finished artifacts come back whole, or not at all."""

from pathlib import Path

import pytest
from test_store import tree_digest

from avset.storage.cache import cache_folder
from avset.storage.finished import keep, restore

KEY = "ab" * 32


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that took long to make."""
    folder = tmp_path / "model"
    (folder / "curves" / "train").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 99)
    (folder / "curves" / "train" / "loss.tsv").write_text("step\tloss\n")
    keep(folder, KEY)
    return folder


def test_what_is_kept_comes_back(model: Path, tmp_path: Path):
    assert restore(KEY, tmp_path / "again")
    assert tree_digest(tmp_path / "again") == tree_digest(model)
    assert not restore("cd" * 32, tmp_path / "other") and not (tmp_path / "other").exists()


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_what_is_damaged_goes(model: Path, tmp_path: Path, place: float):
    (path,) = cache_folder("finished").iterdir()
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    assert not restore(KEY, tmp_path / "again") and not path.exists()
    assert not (tmp_path / "again").exists()

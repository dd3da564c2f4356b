"""What a per-clip stage reuses: items, kept shards, the store that was there; and what it refuses to reuse."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from test_store import tree_digest

import stages.frames
from avset.compute.build import gate, largest_difference
from avset.compute.identity import RECIPES
from avset.errors import AvsetError
from avset.storage.artifacts import Record
from avset.storage.items import Item
from avset.storage.store import Store

FRAMES, CLIPS = Path("data/demo/demo/frames"), 37


@pytest.fixture
def project(toy_data: Path, tmp_path: Path) -> Path:
    """The toy project with code of its own, to be changed; its item cache lies beside it."""
    toy.clone(toy_data.parent / "cache", tmp_path / "cache")
    return toy.with_own_code(toy.clone(toy_data, tmp_path / "project"))


def run(project: Path, cache: str = "cache", **options: object) -> None:
    toy.run(project, project.parent / cache, "frames", **options)


def edit(project: Path, old: str, new: str) -> None:
    path = project / "pipeline" / "avset" / "media" / "frames.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def compute_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avset.compute.run.Worker", lambda *_: pytest.fail("a mapper was made"))


def test_a_comment_computes_nothing(project: Path, monkeypatch: pytest.MonkeyPatch):
    before = tree_digest(project / FRAMES)
    edit(project, "def decode_frames", "# The heart of it.\ndef decode_frames")
    compute_nothing(monkeypatch)
    run(project)
    assert tree_digest(project / FRAMES) == before


def test_a_tidying_is_refused_until_it_is_adopted_and_computes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    before, recipes = tree_digest(project / FRAMES), (project / RECIPES).read_text()
    edit(project, "grid", "lattice")
    with pytest.raises(AvsetError, match=r"the code of frames changed since version \d: adopt it"):
        run(project)
    assert tree_digest(project / FRAMES) == before
    run(project, adopt=5)
    assert "frames: 5 of 37 clips made anew are the same to the byte" in capsys.readouterr().out
    assert (project / RECIPES).read_text() != recipes
    compute_nothing(monkeypatch)
    run(project)
    assert f"frames: {CLIPS}/{CLIPS} clips ({CLIPS} cached)" in capsys.readouterr().err
    assert tree_digest(project / FRAMES) == before


def test_other_results_are_not_adopted_and_a_new_version_reuses_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    real, recipes = stages.frames.Decode.decode, (project / RECIPES).read_text()

    def other(self: stages.frames.Decode, **told: Any) -> Item:
        made = real(self, **told)
        return Item({**made.arrays, "frames": made.arrays["frames"] ^ 1})

    monkeypatch.setattr(stages.frames.Decode, "decode", other)
    edit(project, "grid", "lattice")
    with pytest.raises(AvsetError, match=r"frames: 4 of 4 clips made anew differ \(frames: at most 1\)"):
        run(project, adopt=4)
    assert (project / RECIPES).read_text() == recipes
    first = Store(project / FRAMES)
    before = first.read(first.clips[0], "frames")
    run(project, new_version=True)
    assert f"frames: {CLIPS}/{CLIPS} clips (0 cached)" in capsys.readouterr().err
    second = Store(project / FRAMES)
    assert int(second.record.version[0]) == int(first.record.version[0]) + 1
    assert (second.read(second.clips[0], "frames") ^ before == 1).all()


def test_a_stage_tells_both_ends(capsys: pytest.CaptureFixture):
    gate("toy", Counter({("", ""): 3, ("corrupt", "a"): 1, ("corrupt", "b"): 1, ("upstream", ""): 2}), 0.5)
    assert capsys.readouterr().err == "toy: of 7 clips 3 ok, 2 corrupt, 2 upstream\n"
    gate("toy", Counter({("", ""): 3}), 1.0)
    assert not capsys.readouterr().err, "nothing failed"
    with pytest.raises(AvsetError, match="3 of 5 clips succeeded"):
        gate("toy", Counter({("", ""): 3, ("corrupt", "a"): 2, ("upstream", ""): 9}), 0.7)


def test_differences_are_told_by_outcome_field_and_array():
    old = Item({"x": np.zeros(3), "y": np.zeros(3)}, {"cosine": 0.5, "steps": 3})
    new = Item({"x": np.array([0.0, -2.0, 1.0]), "y": np.zeros(3)}, {"cosine": 0.25, "steps": 3})
    assert largest_difference([(old, old), (old, new)]) == "fields: cosine, x: at most 2"
    assert largest_difference([(old, Item({"x": np.zeros(4)}, old.fields))]) == "x: at most inf, y: at most inf"
    assert (
        largest_difference([(Item(reason="silent"), Item(reason="corrupt"))]) == "outcome: silent before, corrupt now"
    )


def test_nothing_to_compare_with_is_said(project: Path):
    shutil.rmtree(project / FRAMES)
    with pytest.raises(AvsetError, match=r"frames: no item of version \d is here to compare with; .*dvc pull frames"):
        run(project, "empty", adopt=5)


def test_the_store_that_lies_there_fills_an_empty_cache(project: Path, monkeypatch: pytest.MonkeyPatch):
    before = tree_digest(project / FRAMES)
    compute_nothing(monkeypatch)
    run(project, "empty")
    assert tree_digest(project / FRAMES) == before


def test_a_store_of_another_version_fills_nothing(project: Path, capsys: pytest.CaptureFixture):
    record = Record.read(project / FRAMES)
    Record("frames", "0-another", record.recipe).write(project / FRAMES)
    run(project, "empty")
    assert f"frames: {CLIPS}/{CLIPS} clips (0 cached)" in capsys.readouterr().err
    assert Record.read(project / FRAMES) == record

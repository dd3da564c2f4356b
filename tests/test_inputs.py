"""What DVC watches of a data set's inputs, with the real DVC: edits, links, experiments in a folder of their own."""

import csv
from pathlib import Path

import pytest
import toy
from media import make_video
from repository import Project

from avset.sources import folder, music
from avset.sources.inputs import unwatched


def test_what_dvc_does_not_watch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("films/deep", "inputs/other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("films/labels.csv", "splits.csv"):
        (tmp_path / name).write_text("file,label\n")
    films = str(tmp_path / "films")
    (tmp_path / "inputs" / "mine").symlink_to(films)
    (tmp_path / "inputs" / "other" / "films").symlink_to(films)
    (tmp_path / "inputs" / "other" / "linked.csv").symlink_to(tmp_path / "splits.csv")

    def named(dataset: str, path: str, table: str | None = None) -> dict[str, str]:
        return unwatched(folder.Options(path=path, table=table), dataset)

    assert named("mine", "inputs/mine", "inputs/mine/labels.csv") == {}
    assert named("mine", "inputs/other/../mine", films + "/labels.csv") == {}  # the same place
    assert named("mine", films + "/deep", "splits.csv") == {"table": "splits.csv"}
    assert named("other", "inputs/mine") == {"path": "inputs/mine"}
    assert named("other", "inputs/other/films", "inputs/other/linked.csv") == {"path": "inputs/other/films"}
    assert unwatched(music.Options(height=360, splits="gone.csv"), "music") == {}  # addresses; another error names it


@pytest.mark.slow
def test_dvc_watches_a_linked_folder_and_its_table(tmp_path: Path):
    """An edit of the table, a new video: `dvc status` says so. `exp run --temp` finds a link that git knows."""
    films = tmp_path / "films"
    films.mkdir()
    for name, tone in (("a", 220.0), ("b", 440.0), ("c", 660.0), ("d", 880.0), ("e", 990.0), ("f", 550.0)):
        make_video(films / f"{name}.mp4", tone=tone)
    splits = ("train", "train", "validation", "validation", "test", "test")
    rows = [(f"{name}.mp4", label, split) for name, label, split in zip("abcdef", "xyxyxy", splits, strict=True)]
    with (films / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "split"), *rows])
    tree = toy.params(dataset="folder", datasets__folder__clips__options__table="inputs/folder/labels.csv")
    project = Project(tmp_path / "own", tree, git=True)
    (project.folder / "inputs" / "folder").symlink_to(films)
    project.commit()
    assert project.repro("clips") == (["clips"], [])
    assert "up to date" in project.dvc("status", "clips")
    (films / "labels.csv").write_text((films / "labels.csv").read_text().replace("a.mp4,x", "a.mp4,z"))
    assert "modified:           inputs/folder" in project.dvc("status", "clips")
    assert project.repro("clips") == (["clips"], [])
    make_video(films / "g.mp4", tone=770.0)
    assert "modified:           inputs/folder" in project.dvc("status", "clips")
    project.dvc("exp", "run", "--temp", "-S", "datasets.folder.clips.length=1.0", "clips")

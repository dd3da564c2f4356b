"""`dvc repro` on a tiny data set: what runs, what does not, and what comes back."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml
from repository import Project
from test_layout import DVC, PLUMBING

pytestmark = pytest.mark.slow

STAGES = ["captions", "clips", "encoder", "evaluate@avset", "frames", "mixtures", "regions", "report",
          "sets", "spectrograms", "train@avset"]  # fmt: skip


def change(project: Project, **changes: Any) -> None:
    """Write the parameters anew."""
    toy.project(project.folder, toy.params(**changes))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, toy_data: Path, scored: Path) -> Project:
    """A project in which all is done. The tests below use it in their order, each leaves it as it was."""
    return Project.done(tmp_path_factory.mktemp("repro"), toy_data, scored)


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> dict[str, str]:
    """The hashes of the outputs that were done."""
    return project.hashes()


def test_a_run_does_nothing_where_all_is_done(project: Project, undisturbed: dict[str, str]):
    assert project.repro() == ([], [])
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    stages = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"]
    bodies = [stage.get("do", stage) for stage in stages.values()]
    assert len(undisturbed) == sum(len(body["outs"] + body.get("plots", [])) for body in bodies)
    page = project.folder / "reports" / "demo" / "demo" / "html" / "index.html"
    assert page.stat().st_size > 100_000


def test_the_encoder_comes_before_the_downloads(project: Project):
    planned = re.findall(r"Running stage '([^']+)'", project.dvc("repro", "--dry", "--force"))
    assert sorted(planned) == STAGES and planned[:2] == ["encoder", "clips"]


def test_how_to_compute_is_no_part_of_what(project: Project, undisturbed: dict[str, str]):
    change(project, runtime__workers=2, runtime__executor="inline", runtime__min_free_gb=0)
    assert project.repro() == ([], [])
    change(project)
    assert project.hashes() == undisturbed


def test_plumbing_is_no_part_of_what(project: Project):
    deps = [d for stage in DVC.values() for d in stage.get("do", stage)["deps"]]
    names = [name for name in PLUMBING if not any(name.startswith(f"{dep}/") for dep in deps)]
    assert len(names) > 20
    before = {project.folder / name: (project.folder / name).read_text() for name in names}
    for path, text in before.items():
        path.write_text(f"{text}\nREFACTORED = True\n")
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    for path, text in before.items():
        path.write_text(text)


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [("datasets__demo__captions__per", "video", {"captions"}),
     ("regions__positional", False, {"regions", "train@avset"}),
     ("evaluate__prompts", {"text": "the sound of a {label}"}, {"evaluate@avset"}),
     ("presets__avset__losses__trimodal", 0.5, {"train@avset"}),
     ("presets__paper__losses__trimodal", 0.5, set()),  # of no listed method
     ("train__start_from", "demo", {"train@avset"}),
     ("methods", ["avset", "mix_and_separate"], {"evaluate@mix_and_separate", "report", "train@mix_and_separate"})],
)  # fmt: skip
def test_a_change_is_seen_where_it_is_read(project: Project, key: str, value: Any, stages: set[str]):
    """And nowhere else; what is downstream follows when it runs."""
    change(project, **{key: value})
    assert json.loads(project.dvc("status", "--json")).keys() == stages
    change(project)


def test_a_model_to_start_from_is_watched(project: Project):
    (weights := project.folder / "inputs" / "models" / "model.safetensors").write_text("a model")
    assert json.loads(project.dvc("status", "--json")).keys() == {"train@avset"}
    weights.unlink()


def test_another_scale_has_the_same_clips_and_everything_else_anew(project: Project, undisturbed: dict[str, str]):
    change(project, scale="small", scales__small=toy.params()["scales"]["demo"])
    assert json.loads(project.dvc("status", "--json")).keys() == set(STAGES) - {"clips"}
    assert project.repro("frames") == (["frames"], [])
    assert (project.folder / "data" / "demo" / "small" / "frames" / "record.json").exists()
    change(project)
    assert project.repro() == ([], ["frames"])
    assert project.hashes() == undisturbed


def test_other_captions_redo_what_reads_them_and_come_back(project: Project, undisturbed: dict[str, str]):
    change(project, captions__tokens=2)
    assert project.repro() == (["captions", "evaluate@avset", "report", "train@avset"], [])
    changed = {path for path, md5 in project.hashes().items() if md5 != undisturbed[path]}
    assert {"data/demo/demo/captions", "data/demo/demo/models/avset", "data/demo/demo/scores/avset"} <= changed
    assert not changed & {f"data/demo/demo/{name}" for name in ("frames", "spectrograms", "regions", "mixtures")}
    assert not any(path.startswith("data/demo/clips/") for path in changed)
    change(project)
    ran, restored = project.repro()
    assert set(ran) <= {"report"}, "its small files are in git; DVC keeps them only at a commit"
    assert {*restored} >= {"captions", "evaluate@avset", "train@avset"}
    assert project.hashes() == undisturbed

"""The real `dvc repro` on a tiny data set: what runs, what does not, what comes back, and what survives kill -9."""

import json
import os
import re
import signal
import subprocess
import sys
import time
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


def tiny(**changes: Any) -> dict[str, Any]:
    """The tiny parameters with some changes, see toy.params."""
    tree = toy.params(**changes)
    tree["datasets"]["demo"]["clips"]["options"]["duration"] = 1.5
    tree["scales"]["demo"]["train"] |= {"steps": 4, "validate_every": 2}
    return tree


def change(project: Project, **changes: Any) -> None:
    """Write the parameters anew."""
    toy.project(project.folder, tiny(**changes))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first `dvc repro`. The tests below use it in their order, each leaves it as it was."""
    made = Project(tmp_path_factory.mktemp("repro"), tiny())
    assert made.repro() == (STAGES, [])
    return made


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> dict[str, str]:
    """The hashes of the outputs of the first run."""
    return project.hashes()


def test_a_second_run_does_nothing(project: Project, undisturbed: dict[str, str]):
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
     ("evaluate__prompts", {"text": "the sound of a {label}"}, {"evaluate@avset"})],
)  # fmt: skip
def test_a_change_is_seen_where_it_is_read(project: Project, key: str, value: Any, stages: set[str]):
    """And nowhere else; what is downstream follows when it runs."""
    change(project, **{key: value})
    assert json.loads(project.dvc("status", "--json")).keys() == stages
    change(project)


def test_another_scale_has_the_same_clips_and_everything_else_anew(project: Project, undisturbed: dict[str, str]):
    change(project, scale="small", scales__small=tiny()["scales"]["demo"])
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
    assert ran == ["report"], "DVC keeps no runs of a stage whose small files are in git"
    assert restored == ["captions", "evaluate@avset", "train@avset"]
    assert project.hashes() == undisturbed


def test_another_loss_trains_anew_and_nothing_before(project: Project, undisturbed: dict[str, str]):
    change(project, presets__avset__losses__trimodal=0.5)
    assert project.repro() == (["evaluate@avset", "report", "train@avset"], [])
    assert project.hashes()["data/demo/demo/models/avset"] != undisturbed["data/demo/demo/models/avset"]
    change(project, presets__paper__losses__trimodal=0.5)
    assert set(project.repro()[0]) <= {"report"}, "the preset of no listed method"
    change(project)
    assert set(project.repro()[0]) <= {"report"}
    assert project.hashes() == undisturbed


def test_a_method_comes_and_goes(project: Project, undisturbed: dict[str, str]):
    metrics = project.folder / "reports" / "demo" / "demo" / "metrics.json"
    one = json.loads(metrics.read_text())
    change(project, methods=["avset", "mix_and_separate"])
    assert project.repro() == (["evaluate@mix_and_separate", "report", "train@mix_and_separate"], [])
    both = json.loads(metrics.read_text())
    assert both.keys() == one.keys() | {"mix_and_separate"} and both["avset"] == one["avset"]
    change(project)
    assert set(project.repro()[0]) <= {"report"}
    assert json.loads(metrics.read_text()) == one
    assert project.repro() == ([], [])
    assert {path: md5 for path, md5 in project.hashes().items() if path in undisturbed} == undisturbed


def test_a_killed_run_goes_on_to_the_same_bytes(undisturbed: dict[str, str], tmp_path: Path):
    project = Project(tmp_path, tiny())
    command = [sys.executable, "-m", "dvc", "repro", "clips"]
    with subprocess.Popen(
        command, cwd=project.folder, env=project.environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        deadline = time.monotonic() + 300
        while project.items() < 8 and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGKILL)
    finished = project.items()
    assert 8 <= finished < 37, "killed midway through the clips"
    assert not (project.folder / "data" / "demo" / "clips" / "record.json").exists()
    said = project.dvc("repro", "clips")
    counted = re.search(r"clips: 37/37 clips \((\d+) cached\)", said)
    assert counted and int(counted[1]) == finished, "what was finished is not done again"
    clips = project.hashes()
    assert len(clips) > 3 and clips.items() <= undisturbed.items()

"""The real `dvc repro` on a tiny data set: what runs, what does not, what comes back, and what survives kill -9."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = ["captions", "clips", "encoder", "evaluate@avset", "frames", "mixtures", "regions", "report",
          "spectrograms", "train@avset"]  # fmt: skip


class Project:
    """A folder with the code, tiny parameters and a DVC repository without git; its item cache is its own."""

    def __init__(self, root: Path):
        self.folder, self.cache = root / "project", root / "cache"
        self.folder.mkdir(parents=True)
        for name in ("pipeline", "stages"):  # copies: DVC follows no links out of a repository
            shutil.copytree(toy.ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(toy.ROOT / "dvc.yaml", self.folder)
        self.set()
        self.environment = {
            **os.environ, "AVSET_CACHE": str(self.cache), "DVC_SITE_CACHE_DIR": str(root / "site"),
            "DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):  # the copies; and 40 processes that compile torch anew
            self.environment.pop(name, None)
        self.dvc("init", "--no-scm", "--quiet")
        own = (toy.ROOT / ".dvc" / "config").read_text()
        (self.folder / ".dvc" / "config").write_text(own.replace("[core]", "[core]\n    no_scm = true"))
        shutil.copy(toy.ROOT / ".dvcignore", self.folder)

    def set(self, **changes: Any) -> None:
        """Write the tiny parameters with some changes, see toy.params."""
        tree = toy.params(**changes)
        demo = tree["profiles"]["demo"]
        demo["clips"]["options"]["duration"] = 1.5
        demo["train"] |= {"steps": 4, "validate_every": 2}
        toy.project(self.folder, tree)

    def dvc(self, *arguments: str) -> str:
        """What a DVC command says; it must succeed."""
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def repro(self) -> tuple[list[str], list[str]]:
        """Run the pipeline: the stages that ran, and those that came back from the run cache."""
        said = self.dvc("repro")
        restored = re.findall(r"Stage '([\w@]+)' is cached - skipping run", said)
        return sorted(re.findall(r"Running stage '([\w@]+)':", said)), sorted(restored)

    def hashes(self) -> dict[str, str]:
        """The content of every output, by path, from dvc.lock."""
        locked = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in locked.values() for out in stage["outs"]}

    def items(self) -> int:
        """How many items the cache has."""
        return sum(path.is_file() and not path.name.startswith(".") for path in self.cache.glob("items/*/*"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first `dvc repro`. The tests below use it in their order, each leaves it as it was."""
    made = Project(tmp_path_factory.mktemp("repro"))
    assert made.repro() == (STAGES, [])
    return made


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> dict[str, str]:
    """The hashes of the outputs of the first run."""
    return project.hashes()


def test_a_second_run_does_nothing(project: Project, undisturbed: dict[str, str]):
    assert project.repro() == ([], [])
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    assert len(undisturbed) == len(STAGES) - 1 + 8
    page = project.folder / "reports" / "demo" / "html" / "index.html"
    assert page.stat().st_size > 100_000


def test_how_to_compute_is_no_part_of_what(project: Project, undisturbed: dict[str, str]):
    project.set(runtime__workers=2, runtime__executor="inline", runtime__min_free_gb=0)
    assert project.repro() == ([], [])
    project.set()
    assert project.hashes() == undisturbed


def test_other_captions_redo_what_reads_them_and_come_back(project: Project, undisturbed: dict[str, str]):
    project.set(captions__tokens=2)
    assert project.repro() == (["captions", "evaluate@avset", "report", "train@avset"], [])
    changed = {path for path, md5 in project.hashes().items() if md5 != undisturbed[path]}
    assert {"data/demo/captions", "data/demo/models/avset", "data/demo/scores/avset"} <= changed
    assert not changed & {f"data/demo/{name}" for name in ("clips", "frames", "spectrograms", "regions", "mixtures")}
    project.set()
    ran, restored = project.repro()
    assert ran == ["report"] or ran == [], "only the report may run: its small files are in git, not in the cache"
    assert {"captions", "evaluate@avset", "train@avset"} <= set(restored)
    assert project.hashes() == undisturbed


def test_another_loss_trains_anew_and_nothing_before(project: Project, undisturbed: dict[str, str]):
    project.set(presets__avset__losses__trimodal=0.5)
    assert project.repro() == (["evaluate@avset", "report", "train@avset"], [])
    assert project.hashes()["data/demo/models/avset"] != undisturbed["data/demo/models/avset"]
    project.set(presets__paper__losses__trimodal=0.5)
    assert set(project.repro()[0]) <= {"report"}, "the preset of no listed method"
    project.set()
    assert set(project.repro()[0]) <= {"report"}
    assert project.hashes() == undisturbed


def test_a_method_comes_and_goes(project: Project, undisturbed: dict[str, str]):
    metrics = project.folder / "reports" / "demo" / "metrics.json"
    one = json.loads(metrics.read_text())
    project.set(methods=["avset", "mix_and_separate"])
    assert project.repro() == (["evaluate@mix_and_separate", "report", "train@mix_and_separate"], [])
    both = json.loads(metrics.read_text())
    assert both.keys() == one.keys() | {"mix_and_separate"} and both["avset"] == one["avset"]
    project.set()
    assert set(project.repro()[0]) <= {"report"}
    assert json.loads(metrics.read_text()) == one
    assert project.repro() == ([], [])
    assert {path: md5 for path, md5 in project.hashes().items() if path in undisturbed} == undisturbed


def test_a_killed_run_goes_on_to_the_same_bytes(undisturbed: dict[str, str], tmp_path: Path):
    project = Project(tmp_path)
    command = [sys.executable, "-m", "dvc", "repro"]
    with subprocess.Popen(
        command, cwd=project.folder, env=project.environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        deadline = time.monotonic() + 120
        while project.items() < 8 and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGKILL)
    finished = project.items()
    assert 8 <= finished < 37, "killed midway through the clips"
    assert not (project.folder / "data" / "demo" / "clips" / "store.json").exists()
    said = project.dvc("repro")
    counted = re.search(r"clips: 37/37 clips \((\d+) cached\)", said)
    assert counted and int(counted[1]) == finished, "what was finished is not done again"
    assert project.hashes() == undisturbed

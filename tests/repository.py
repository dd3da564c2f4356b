"""A project folder with a DVC repository of its own, for tests of the real `dvc repro`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import toy
import yaml


class Project:
    """A folder with the code, some parameters and a DVC repository without git; its item cache is its own."""

    def __init__(self, root: Path, tree: dict[str, Any]):
        self.folder, self.cache = root / "project", root / "cache"
        self.folder.mkdir(parents=True)
        for name in ("pipeline", "stages"):  # copies: DVC follows no links out of a repository
            shutil.copytree(toy.ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(toy.ROOT / "dvc.yaml", self.folder)
        toy.project(self.folder, tree)
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

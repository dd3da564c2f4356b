"""A project folder with a DVC repository of its own, and clones of it, for tests of the real DVC."""

import atexit
import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import toy
import yaml


@cache
def warm() -> "subprocess.Popen[str]":
    """The process that does the commands of DVC, see tests/warm.py."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("warm.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.kill)  # between two commands it has nothing to lose
    return process


class Project:
    """A folder with the code, some parameters and a DVC repository, with git or without; its item cache is its own.

    Its commands run with `umask`, and begin with `prefix`.
    """

    def __init__(self, root: Path, tree: dict[str, Any], git: bool = False):
        self.prefix: Sequence[str] = ()
        self.umask = -1
        self._settle(root)
        self.folder.mkdir(parents=True)
        for name in ("pipeline", "stages"):  # copies: DVC follows no links out of a repository
            shutil.copytree(toy.ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(toy.ROOT / "dvc.yaml", self.folder)
        toy.project(self.folder, tree)
        if git:
            self.git("init", "--quiet")
            shutil.copy(toy.ROOT / ".gitignore", self.folder)
        self.dvc("init", "--quiet", *([] if git else ["--no-scm"]))
        own = (toy.ROOT / ".dvc" / "config").read_text()
        (self.folder / ".dvc" / "config").write_text(own if git else own.replace("[core]", "[core]\n    no_scm = true"))
        shutil.copy(toy.ROOT / ".dvcignore", self.folder)

    @classmethod
    def done(cls, root: Path, toy_data: Path, scored: Path, git: bool = False) -> "Project":
        """The toy project after all stages: they ran in this process, and DVC takes what is there for theirs."""
        made = cls(root, toy.params(), git)
        for name in ("data", "reports"):
            shutil.copytree(scored / name, made.folder / name)
        shutil.copytree(toy_data.parent / "cache", made.cache)
        made.dvc("commit", "--force")
        return made

    def _settle(self, root: Path) -> None:
        self.folder, self.cache = root / "project", root / "cache"
        self.environment = {
            **os.environ, "AVSET_CACHE": str(self.cache), "DVC_SITE_CACHE_DIR": str(root / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(root), "DVC_SYSTEM_CONFIG_DIR": str(root), "DVC_NO_ANALYTICS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }  # fmt: skip
        self.environment["PYTHONPATH"] = str(self.folder / "pipeline")  # the copies
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or 40 processes compile them anew

    def clone(self, root: Path) -> "Project":
        """A git clone, with an item cache of its own, which is empty."""
        other = copy.copy(self)
        other._settle(root)
        self.git("clone", "--quiet", str(self.folder), str(other.folder))
        return other

    def git(self, *arguments: str) -> str:
        """What a git command says; it must succeed."""
        return self.run("git", *arguments)

    def dvc(self, *arguments: str) -> str:
        """What a DVC command says; it must succeed."""
        if self.prefix:
            return self.run(sys.executable, "-m", "dvc", *arguments)
        said = self.folder.parent / "said"
        said.unlink(missing_ok=True)
        told = {"words": arguments, "folder": str(self.folder), "environment": self.environment, "umask": self.umask}
        stdin, stdout = warm().stdin, warm().stdout
        assert stdin and stdout
        print(json.dumps(told | {"said": str(said)}), file=stdin, flush=True)
        assert stdout.readline() == "0\n", said.read_text()
        return said.read_text()

    def run(self, *arguments: str) -> str:
        """What a command says; it must succeed."""
        done = subprocess.run(
            [*self.prefix, *arguments], cwd=self.folder, env=self.environment, umask=self.umask,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(self) -> None:
        """Keep everything in git."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A state.")

    def repro(self, *arguments: str) -> tuple[list[str], list[str]]:
        """Run the pipeline: the stages that ran, and those that came back from the run cache."""
        said = self.dvc("repro", *arguments)
        restored = re.findall(r"Stage '([\w@]+)' is cached - skipping run", said)
        return sorted(re.findall(r"Running stage '([\w@]+)':", said)), sorted(restored)

    def hashes(self) -> dict[str, str]:
        """The content of every output, by path, from dvc.lock."""
        locked = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in locked.values() for out in stage["outs"]}

    def files(self, *folders: str) -> dict[str, str]:
        """The sha256 of every file of some artifacts, by path."""
        found = (path for folder in folders for path in (self.folder / folder).rglob("*") if path.is_file())
        return {str(p.relative_to(self.folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    def items(self) -> int:
        """How many items the cache has."""
        return sum(path.is_file() and not path.name.startswith(".") for path in self.cache.glob("items/*/*"))

"""The recipe of a stage: its version decides what is reused, and the digest of its code is the alarm.

stages/recipes.json is in git and has a row for every recipe whose results are kept: the version, the digest `born` of
the code for which the version was raised, and the digest `code` of the code that is known to have the version now.
Items, shards and models are kept under version and `born`: two branches that raise the same number do not meet.
Therefore a tidying costs nothing: `python -m stages.<stage> --adopt 20` makes some clips anew, and if they are the same
to the byte the new code gets the old version. A change that is meant gets a new version by `--new-version`. Without
either the stage refuses to run.
"""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from avset.errors import AvsetError
from avset.params import ON_DEMAND, digest
from avset.storage.files import write_json

RECIPES = Path("stages/recipes.json")


def code_of(stage: str) -> list[Path]:
    """The modules that decide the content of a stage: its script and the other .py dependencies in dvc.yaml.

    Of a stage that is run on demand alone, in the file of those.
    """
    files = [Path(name) for name in ("dvc.yaml", ON_DEMAND)]
    stages = [yaml.safe_load(file.read_bytes())["stages"] for file in files if file.exists()]
    tree = next(found[stage] for found in stages if stage in found)
    return sorted(Path(name) for name in tree.get("do", tree)["deps"] if name.endswith(".py"))


def code_digest(modules: Iterable[Path]) -> str:
    """sha256 of what modules do and how they are called: comments, docstrings and layout aside."""
    return digest(sorted([path.name, _meaning(path.read_bytes())] for path in modules))


@cache
def _meaning(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


class Recipe:
    """The recipe `name` of a stage, whose code is in `modules` (default: `code_of` the stage).

    `command` are the words after `python -m stages.` that run the stage (default: its name).
    """

    def __init__(self, stage: str, name: str = "", modules: Iterable[Path] | None = None, command: str = ""):
        self.name, self._command = name or stage, f"python -m stages.{command or stage}"
        self.code = code_digest(code_of(stage) if modules is None else modules)
        self.known = _read().get(self.name)

    @property
    def number(self) -> int:
        """The number of the version in recipes.json; 0 if it has none."""
        return int(self.known["version"]) if self.known else 0

    @property
    def version(self) -> str:
        """The version under which results are kept: "3-1f0c5a9b27de"; without a row, those of each code."""
        return f"{self.number}-{(self.known['born'] if self.known else self.code)[:12]}"

    def check(self) -> None:
        """AvsetError if the code is not known to have the version."""
        if self.known and self.code != self.known["code"]:
            raise AvsetError(
                f"the code of {self.name} changed since version {self.number}: adopt it with `{self._command} "
                "--adopt 20` if results stay the same, or raise the version with `--new-version`"
            )

    def adopt(self) -> None:
        """From now on the code as it is has the version that it had before."""
        self._write(self.number, self.known["born"] if self.known else self.code)

    def renew(self) -> None:
        """From now on the code as it is has a version of its own; nothing that was kept is reused."""
        self._write(self.number + 1, self.code)
        print(f"{self.name}: version {self.number}")

    def _write(self, number: int, born: str) -> None:
        self.known = {"version": number, "born": born, "code": self.code}
        write_json(RECIPES, _read() | {self.name: self.known})


def _read() -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads(RECIPES.read_bytes()))
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise AvsetError(f"{RECIPES} is not valid JSON ({e}); bring it back with git") from e

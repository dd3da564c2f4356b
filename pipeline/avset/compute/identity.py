"""What decides the content of an artifact."""

import ast
import hashlib
from pathlib import Path

import yaml

from avset import params


def code_digest(stage: str, package: str = "") -> str:
    """sha256 of the code that decides a stage's content: the .py dependencies of dvc.yaml, comments aside.

    A dependency that is a folder counts only by the modules in `package`, a folder in it.
    """
    tree = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][stage]
    names = [d for d in tree.get("do", tree)["deps"] if d.endswith(".py") and not d.startswith("stages/")]
    names += [path.as_posix() for path in Path(package).rglob("*.py")] if package else []
    return params.digest({name: _meaning(Path(name)) for name in sorted(names)})


def _meaning(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()

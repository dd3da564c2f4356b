"""A pipeline of its own for tables: a node for every artifact that a row needs and the main pipeline has not.

A node is a stage of the main dvc.yaml, run with changed parameters. It works in work/<node>/, which is the project by
links, and what it made becomes nodes/<node>/, which DVC watches. Its name tells its identity: the stage, the method,
the values of the parameters that the stage tracks, and the nodes before it. Nothing here knows what a stage does: a
new stage of dvc.yaml takes part by itself.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from avset import params
from avset.presets import module_of
from avset.storage.checksums import RECORD
from avset.storage.files import make_folder, write_atomic, write_json
from avset.tables.asked import FILE, value_of
from avset.values import read

NODES, WORK, PLAN = "nodes", "work", "plan.json"
WRITTEN = ("results.md", "results.csv", "results.html")
OWN = {"data", "reports", "tables", "params.yaml", "dvc.lock"}  # of the top folder; a node has its own, or none
CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
[cache]
    type = hardlink,reflink,copy
"""
IGNORED = "/*\n!/results.*\n"  # by git

Tree = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A stage of the main dvc.yaml: the files and artifacts that it reads, what it tracks, the artifact it makes.

    Paths are from the top folder; in those of a stage `each` method stands `${key}` for its preset. `address` is what
    `dvc repro` takes.
    """

    name: str
    address: str
    each: bool
    files: tuple[str, ...]
    reads: tuple[str, ...]
    tracks: tuple[str, ...]
    makes: str


@dataclass(frozen=True)
class Node:
    """A step with the parameters of a row; `reads`: artifact -> the node that makes it, None: the main pipeline."""

    step: Step
    method: str
    key: str
    tree: Tree = field(repr=False)
    reads: Mapping[str, "Node | None"] = field(repr=False)

    @property
    def name(self) -> str:
        """Of the folder, and of the stage in the tables' dvc.yaml."""
        return "-".join(part for part in (self.step.name, self.method, self.key[:12]) if part)

    @property
    def out(self) -> Path:
        """The artifact, from the tables' folder."""
        return Path(NODES) / self.name

    @property
    def makes(self) -> Path:
        """The artifact while it is made, from the top folder of the node's project."""
        return Path(self.step.makes.replace("${key}", self.method))

    def all(self) -> Iterator["Node"]:
        """The node and all before it."""
        for node in self.reads.values():
            if node is not None:
                yield from node.all()
        yield self


def steps_of(tree: Tree) -> dict[str, Step]:
    """The stages of the main pipeline by the artifact that they make; not the report, which makes none.

    Those of dvc.yaml, and of a dvc.yaml in a folder beside it, which makes what some methods need.
    """
    told = {"dataset": tree["dataset"], "scale": tree["scale"]}

    def filled(text: str) -> str:
        return re.sub(r"\$\{(dataset|scale)\}", lambda found: str(told[found[1]]), text)

    found = {}
    for file in (Path("dvc.yaml"), *sorted(Path().glob("*/dvc.yaml"))):
        for name, stage in read(file)["stages"].items():
            body = stage.get("do", stage)
            deps, outs = ([filled(path) for path in body.get(k, []) if isinstance(path, str)] for k in ("deps", "outs"))
            if not outs or not outs[0].startswith("data/"):
                continue
            files = tuple(path for path in deps if not path.startswith("data/"))
            reads = tuple(dict.fromkeys(artifact_of(path) for path in deps if path.startswith("data/")))
            tracks, makes = tuple(filled(key) for key in body.get("params", [])), artifact_of(outs[0])
            address = name if file.parent == Path() else f"{file}:{name}"
            found[makes] = Step(name, address, "foreach" in stage, files, reads, tracks, makes)
    return found


def artifact_of(path: str) -> str:
    """The folder of the artifact that a path in data/ belongs to."""
    parts = Path(path).parts
    inner = 3 if parts[2] == params.CLIPS else 5 if parts[3] in ("models", "scores") else 4
    return "/".join(parts[:inner])


@dataclass
class Plan:
    """What is to be made: the tables, as plan.json tells them, and the nodes by name."""

    folder: Path
    tree: Tree
    method: str  # what ablations change
    made_of: str
    tables: list[dict[str, Any]] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    cells: dict[str, Node] = field(default_factory=dict)  # the nodes that score
    linked: set[str] = field(default_factory=set)  # stages of the main pipeline whose artifacts are used

    @cached_property
    def top(self) -> str:
        """The way from the tables' folder to the top folder."""
        return os.path.relpath(".", self.folder)

    def write(self) -> None:
        """Write the pipeline: dvc.yaml, plan.json, a folder for each node, and a DVC repository around them."""
        make_folder(self.folder / ".dvc")
        if not (self.folder / ".dvc" / "config").exists():
            write_atomic(self.folder / ".dvc" / "config", CONFIG.encode())
        write_atomic(self.folder / ".dvcignore", f"/{WORK}/\n".encode())
        write_atomic(self.folder / ".gitignore", IGNORED.encode())
        for node in self.nodes.values():
            self._settle(node)
        nodes = {name: {"stage": node.step.name, "method": node.method, "makes": str(node.makes)}
                 for name, node in self.nodes.items()}  # fmt: skip
        told = {name: self.tree[name] for name in ("dataset", "scale")}
        told |= {"method": self.method, "made_of": self.made_of}
        write_json(self.folder / PLAN, {**told, "tables": self.tables, "nodes": nodes})
        stages = {name: self._stage(node) for name, node in self.nodes.items()}
        write_json(self.folder / "dvc.yaml", {"stages": stages | {"results": self._results()}})

    def told(self, waiting: int) -> list[str]:
        """What is planned, in lines; `waiting` cells are to be made."""
        lines = [
            f"{table['name']}: {row['name']} is left out: {row['missing']}"
            for table in self.tables
            for row in table["rows"]
            if row["missing"]
        ]
        asked = sum(len(row["cells"]) for table in self.tables for row in table["rows"] if row["method"])
        shared = f" ({len(self.tables)} tables ask for {asked})" if asked > len(self.cells) else ""
        return [*lines, f"tables: {len(self.cells)} cells{shared}, {waiting} to make, in {self.folder}"]

    def _settle(self, node: Node) -> None:
        """The project of a node: the code by links, its own parameters, and the artifacts that it reads."""
        here = self.folder / WORK / node.name
        make_folder((here / node.makes).parent)
        for path in Path().iterdir():
            if path.name not in OWN and path.name[0] != ".":
                _link(here / path.name, path)
        for artifact, source in node.reads.items():
            name = artifact.replace("${key}", node.method)
            _link(here / name, self.folder / source.out if source else Path(name))
        write_json(here / "params.yaml", _for_node(node.tree))

    def _stage(self, node: Node) -> Tree:
        step = node.step
        files = [path if path != "${item}" else file_of(node.tree, node.method) for path in step.files]
        files += [one for key in step.tracks for one in files_in(tracked(node.tree, key, node.method))]
        deps = [path if Path(path).is_absolute() else f"{self.top}/{path}" for path in dict.fromkeys(files)]
        deps += [str(source.out) if source else f"{self.top}/{name}/{RECORD}" for name, source in node.reads.items()]
        return {"cmd": f"python -m avset.tables make {node.name}", "deps": sorted(deps),
                "outs": [str(node.out), f"{node.out}.json"]}  # fmt: skip

    def _results(self) -> Tree:
        cells = [cell for table in self.tables for row in table["rows"] for cell in row["cells"]]
        made = {path for cell in cells for path in (cell["scores"], cell["cost"]) if path}
        rooms = (Path(__file__).parent, Path(__file__).parents[1] / "report")
        files = [
            path for room in rooms for path in room.iterdir() if path.suffix in (".py", ".html") and path.stat().st_size
        ]
        code = [os.path.relpath(path, self.folder.absolute()) for path in files]
        inputs = [PLAN, f"{self.top}/params.yaml", f"{self.top}/{FILE}"]
        return {"cmd": "python -m avset.tables results", "deps": sorted({*inputs, *code, *made}),
                "outs": [{name: {"cache": False}} for name in WRITTEN]}  # fmt: skip


def _for_node(tree: Any) -> Any:
    """The parameters as a node's folder reads them: what lies where it has no link is named from the root."""
    if isinstance(tree, dict):
        return {key: _for_node(value) for key, value in tree.items()}
    if isinstance(tree, str) and files_in(tree) and (Path(tree).parts[0] in OWN or tree[0] == "."):
        return str(Path(tree).absolute())
    return [_for_node(value) for value in tree] if isinstance(tree, list) else tree


def _link(name: Path, target: Path) -> None:
    """A relative link to a path."""
    make_folder(name.parent)
    way = os.path.relpath(target, name.parent)
    if name.is_symlink() and str(name.readlink()) == way:
        return
    name.unlink(missing_ok=True)
    name.symlink_to(way)


def file_of(tree: Tree, method: str) -> str:
    """The file of a method, from the top folder where it lies there."""
    if told := tree["methods"].get(method):
        return str(told)
    module = module_of(tree["presets"][method]["kind"])
    ours = Path("pipeline", *module.split(".")).with_suffix(".py")
    if ours.is_file():
        return str(ours)
    own = Path(import_module(module).__file__ or "").absolute()
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def files_in(value: Any) -> list[str]:
    """The texts in a value that are the paths of files."""
    if isinstance(value, dict | list):
        return [path for inner in (value.values() if isinstance(value, dict) else value) for path in files_in(inner)]
    return [value] if isinstance(value, str) and len(value) < 1000 and Path(value).is_file() else []


def tracked(tree: Tree, key: str, method: str) -> Any:
    """The value of a parameter that a stage tracks; None if there is none."""
    try:
        return value_of(tree, key.replace("${key}", method))
    except KeyError:
        return None

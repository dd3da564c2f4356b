"""From tables to a DVC pipeline of its own: a node for every artifact that a row needs and the main pipeline has not.

A node is a stage of the main dvc.yaml, run with changed parameters. It works in work/<node>/, which is the project by
links, and what it made becomes nodes/<node>/, which DVC watches. Its name tells its identity: the stage, the method,
the values of the parameters that the stage tracks, and the nodes before it. So two rows that ask for the same cell
share it, and what a row does not change is the main pipeline's own artifact, linked. Nothing here knows what a stage
does: a new stage of dvc.yaml takes part by itself.
"""

import copy
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from avset import params
from avset.errors import AvsetError, MissingArtifact, ParamsError
from avset.params import digest
from avset.presets import LearnedSettings, MethodSettings, module_of
from avset.storage.artifacts import ARTIFACTS, Record, identity_of
from avset.storage.checksums import RECORD
from avset.storage.files import make_folder, require, write_atomic, write_json
from avset.tables.asked import FILE, Asked, Row, Table, choose_tables, flat, load, rows_of, value_of
from avset.values import choose, nearest, read

NODES, WORK, PLAN = "nodes", "work", "plan.json"
WRITTEN = ("results.md", "results.csv", "results.html")
FIXED = {"dataset", "scale", "methods", "runtime"}  # what no row changes
OWN = {"data", "reports", "tables", "params.yaml", "dvc.lock"}  # of the top folder; a node has its own, or none
CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
[cache]
    type = hardlink,reflink,copy
"""
IGNORED = "/*\n!/results.*\n"  # by git
CHEAP = {"evaluate.examples": 1, "evaluate.controls": False}  # what no table shows

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
        files = [path if path != "${item}" else _file_of(node.tree, node.method) for path in step.files]
        files += [one for key in step.tracks for one in _files_in(_value(node.tree, key, node.method))]
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


def _link(name: Path, target: Path) -> None:
    """A relative link to a path."""
    make_folder(name.parent)
    way = os.path.relpath(target, name.parent)
    if name.is_symlink() and str(name.readlink()) == way:
        return
    name.unlink(missing_ok=True)
    name.symlink_to(way)


def _file_of(tree: Tree, method: str) -> str:
    """The file of a method, from the top folder where it lies there."""
    if told := tree["methods"].get(method):
        return str(told)
    module = module_of(tree["presets"][method]["kind"])
    ours = Path("pipeline", *module.split(".")).with_suffix(".py")
    if ours.is_file():
        return str(ours)
    own = Path(import_module(module).__file__ or "").absolute()
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def _files_in(value: Any) -> list[str]:
    """The texts in a value that are the paths of files."""
    if isinstance(value, dict | list):
        return [path for inner in (value.values() if isinstance(value, dict) else value) for path in _files_in(inner)]
    return [value] if isinstance(value, str) and len(value) < 1000 and Path(value).is_file() else []


def _value(tree: Tree, key: str, method: str) -> Any:
    try:
        return value_of(tree, key.replace("${key}", method))
    except KeyError:
        return None


def plan(only: str = "", seeds: int = 1, steps: int | None = None, method: str = "") -> Plan:
    """What the tables take, on the data set and at the scale of params.yaml, from the top folder.

    only   names or numbers of tables, with commas; "": all
    seeds  how often each method that learns is trained
    steps  of every training; None: those of params.yaml
    method  the preset that ablations change; "": that of tables.yaml

    ParamsError: an unknown table or key, a value that does not fit. MissingArtifact: an artifact of the main pipeline
    is not there. AvsetError: a method needs something that no stage makes.
    """
    tree, asked = read(Path("params.yaml")), load(method=method)
    params.resolve(tree)
    if method:
        choose(method, tree["presets"], "--method")
    return _Planner(tree, asked, seeds, steps).plan(choose_tables(asked, only))


def made_of(tree: Tree, asked: Asked) -> str:
    """The digest of what a plan is made of; how to compute is no part of it."""
    return digest([{key: value for key, value in tree.items() if key != "runtime"}, asked.recipe()])


class _Planner:
    def __init__(self, tree: Tree, asked: Asked, seeds: int, steps: int | None):
        self.tree, self.asked, self.seeds, self.length = tree, asked, seeds, steps
        self.steps = steps_of(tree)
        self.made = Plan(Path("tables") / tree["dataset"] / tree["scale"], tree, asked.method, made_of(tree, asked))
        self._keys: dict[tuple[int, str, str], str] = {}
        self._needs: dict[int, list[str]] = {}  # of the method of a row: id of the row's parameters -> artifacts
        self._trees: list[Tree] = []  # so that no id is used twice

    def plan(self, tables: Mapping[str, Table]) -> Plan:
        for name, table in tables.items():
            rows = [
                self._row(name, table, row, encoder)
                for encoder in (["", *self.asked.encoders] if table.encoders else [""])
                for row in rows_of(table, list(self.tree["presets"]))
            ]
            told = table.recipe() | {"name": name, "rows": rows}
            self.made.tables.append({k: v for k, v in told.items() if k not in ("method", "encoders", "others")})
        self._require()
        return self.made

    def _row(self, table: str, asked: Table, row: Row, encoder: str) -> Tree:
        """A row as plan.json tells it; its cells become nodes."""
        method = row.method or asked.method or self.asked.method
        told: Tree = {
            "name": row.name, "encoder": encoder, "method": method, "query": row.query or asked.query,
            "paper": row.paper.get(self.tree["dataset"]), "missing": "", "needs": [], "steps": None, "cells": [],
        }  # fmt: skip
        if row.scores:
            return told | {"method": ""} | self._outside(Path(row.scores))
        if method not in self.tree["presets"]:
            return told | {"missing": f"params.yaml has no preset {method}"}
        where = f"{FILE.name}, {table}, {row.name}"
        try:
            tree = self._variant(method, row.set, encoder)
            p = params.resolve(tree)
            learns = isinstance(p.preset(method), LearnedSettings)
        except ParamsError as e:
            raise ParamsError(f"{where}: {e}") from None
        needs = self._needed(p.preset(method), f"{where}: {method}")
        for number in range(self.seeds if learns else 1):
            own = copy.deepcopy(tree)
            _set(own, _placed(own, "train.seed", method), p.train.seed + number)
            self._needs[id(own)] = needs
            self._trees.append(own)
            node = self._node(self._of("scores"), own, method)
            self.made.cells[node.name] = node
            self.made.nodes |= {one.name: one for one in node.all()}
            told["cells"].append({"seed": p.train.seed + number, **self._cell(node)})
        names = sorted(Path(makes).name for makes in needs)
        return told | {"needs": names, "steps": p.train.steps if learns else None}

    def _outside(self, folder: Path) -> Tree:
        """The cell of a system that is none of our methods; missing if its scores are not of these mixtures."""
        frozen = {name: self._of(name) for name in ("mixtures", "sets")}
        self.made.linked |= set(frozen.values())
        self._require()
        if not (folder / RECORD).is_file():
            return {"missing": f"{folder} has no scores; make them with `avset score --output`"}
        inputs = Record.read(folder).inputs
        if any(inputs.get(name) != identity_of(Path(path), name) for name, path in frozen.items()):
            return {"missing": f"the scores in {folder} are of other mixtures; run `avset score` again"}
        way = os.path.relpath(folder, self.made.folder)
        mixtures = [f"{self.made.top}/{path}" for path in frozen.values()]
        return {"cells": [{"seed": None, "scores": way, "cost": "", "mixtures": mixtures, "nodes": []}]}

    def _cell(self, node: Node) -> Tree:
        """The nodes of a cell; and from the tables' folder its scores, the time of its training, its mixtures."""
        of = {Path(name.removesuffix("/${key}")).name: (name, source) for name, source in node.reads.items()}
        places = {name: str(source.out) if source else f"{self.made.top}/{path}" for name, (path, source) in of.items()}
        mixtures = [places[name] for name in ("mixtures", "sets") if name in places]
        nodes = list(dict.fromkeys(one.name for one in node.all()))
        return {"scores": str(node.out), "cost": f"{places['models']}.json", "mixtures": mixtures, "nodes": nodes}

    def _variant(self, method: str, changes: Mapping[str, Any], encoder: str) -> Tree:
        """The parameters of a row."""
        tree = copy.deepcopy(self.tree)
        every = max(1, min(self.length or 1, value_of(tree, _placed(tree, "train.validate_every", method))))
        length = {"train.steps": self.length, "train.validate_every": every} if self.length else {}
        for key, value in {**CHEAP, **length, **_encoder(encoder), **changes}.items():
            place = _placed(tree, key, method)
            _set(tree, place, copy.deepcopy(value))
        tree["methods"] = {method: _file_of(self.tree, method)}
        return tree

    def _of(self, artifact: str) -> str:
        """The folder of the artifact of this name."""
        return next(makes for makes in self.steps if Path(makes.removesuffix("/${key}")).name == artifact)

    def _needed(self, settings: MethodSettings, who: str) -> list[str]:
        """The folders of the artifacts that a method needs; AvsetError if no stage makes one."""
        kind = import_module(module_of(settings.kind)).Method
        found = set()
        for need in kind.needs_of(settings):
            name = next((name for name, one in ARTIFACTS.items() if need == name or need in one.arrays), need)
            makes = next((makes for makes in self.steps if Path(makes).name == name), None)
            if makes is None:
                raise AvsetError(f"{who} needs {need}, which no stage of dvc.yaml makes; leave the row out")
            found.add(makes)
        return sorted(found)

    def _reads(self, step: Step, tree: Tree) -> list[str]:
        """What a step reads; where it is that of a method, with what the method needs."""
        return list(dict.fromkeys([*step.reads, *(self._needs.get(id(tree), []) if step.each else [])]))

    def _key(self, makes: str, tree: Tree, method: str) -> str:
        """The identity of an artifact that is made with some parameters."""
        step = self.steps[makes]
        at = (id(tree), makes, method if step.each else "")
        if at not in self._keys:
            values = {key: _value(tree, key, method) for key in step.tracks}
            self._keys[at] = digest(
                [step.name, at[2], values, {one: self._key(one, tree, method) for one in self._reads(step, tree)}]
            )
        return self._keys[at]

    def _node(self, makes: str, tree: Tree, method: str) -> Node:
        """The node of an artifact, and those before it."""
        step = self.steps[makes]
        reads: dict[str, Node | None] = {}
        for one in self._reads(step, tree):
            ours = not self.steps[one].each and self._key(one, tree, "") == self._key(one, self.tree, "")
            reads[one] = None if ours else self._node(one, tree, method)
        self.made.linked |= {one for one, node in reads.items() if node is None}
        return Node(step, method if step.each else "", self._key(makes, tree, method), tree, reads)

    def _require(self) -> None:
        """MissingArtifact if an artifact of the main pipeline is not there; its stage is named."""
        for artifact in sorted(self.made.linked):
            require(Path(artifact) / RECORD)


def _encoder(folder: str) -> Tree:
    """The parameters of the encoder in a folder; MissingArtifact if a file is not there."""
    if not folder:
        return {}
    files = {"architecture": "encoder.json", "weights": "encoder.safetensors"}
    for name in files.values():
        if not (Path(folder) / name).is_file():
            raise MissingArtifact(f"{FILE.name}: encoders: {folder} has no {name}; make it, or take it off the list")
    return {f"encoder.{key}": str(Path(folder) / name) for key, name in files.items()}


def _for_node(tree: Any) -> Any:
    """The parameters as a node's folder reads them: what lies where it has no link is named from the root."""
    if isinstance(tree, dict):
        return {key: _for_node(value) for key, value in tree.items()}
    if isinstance(tree, str) and _files_in(tree) and (Path(tree).parts[0] in OWN or tree[0] == "."):
        return str(Path(tree).absolute())
    return [_for_node(value) for value in tree] if isinstance(tree, list) else tree


def _placed(tree: Tree, key: str, method: str) -> str:
    """The full name of a parameter: `preset.` is that of the row, and a section may stand in three places."""
    if key.startswith("preset."):
        key = f"presets.{method}.{key.removeprefix('preset.')}"
    if key.split(".")[0] in FIXED:
        raise ParamsError(f"{key}: no row can change it; a table has one data set, scale and way to compute")
    homes = ("", f"datasets.{tree['dataset']}.", f"scales.{tree['scale']}.")
    for home in homes:
        with suppress(KeyError):
            value_of(tree, home + key)
            return home + key
    known = flat(tree)
    short = {name.removeprefix(home) for name in known for home in homes if name.startswith(home)}
    near = nearest(key, sorted(short))
    raise ParamsError(f"{key}: params.yaml has no such key" + (f"; did you mean {near}?" if near else ""))


def _set(tree: Tree, key: str, value: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        tree = tree[part]
    tree[last] = value

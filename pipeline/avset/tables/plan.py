"""From tables to the nodes that make their cells.

Two rows that ask for the same cell share its nodes, and what a row does not change is the main pipeline's own artifact.
"""

import copy
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from avset import params
from avset.errors import AvsetError, MissingArtifact, ParamsError
from avset.params import digest
from avset.presets import LearnedSettings, MethodSettings, module_of
from avset.storage.artifacts import ARTIFACTS, Record, identity_of
from avset.storage.checksums import RECORD
from avset.storage.files import require
from avset.tables.asked import FILE, Asked, Row, Table, choose_tables, flat, load, rows_of, value_of
from avset.tables.nodes import Node, Plan, Step, Tree, file_of, steps_of, tracked
from avset.values import choose, nearest, read

FIXED = {"dataset", "scale", "methods", "runtime"}  # what no row changes
CHEAP = {"evaluate.examples": 1, "evaluate.controls": False}  # what no table shows


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
        tree["methods"] = {method: file_of(self.tree, method)}
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
            values = {key: tracked(tree, key, method) for key in step.tracks}
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

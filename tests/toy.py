"""A tiny data set for tests: the demo with few short clips, made by the stages themselves in a folder."""

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from avset.storage.artifacts import Record

ROOT = Path(__file__).parents[1]
STAGES = ("clips", "frames", "spectrograms", "encoder", "regions", "captions", "mixtures", "sets")


def params(**changes: Any) -> dict[str, Any]:
    """The project's parameters made tiny; `changes` by dotted key with `__` for the dots."""
    tree = copy.deepcopy(_own())
    tree["datasets"]["demo"]["clips"]["options"] |= {
        "train_per_label": 1, "validation_per_label": 1, "test_per_label": 1, "duets": 4, "test_duets": 0,
        "duration": 2.0,
    }  # fmt: skip
    demo = tree["scales"]["demo"]
    demo["captions"] |= {"steps": 30}
    demo["mixtures"] |= {"validation": 3, "test": 4}
    further = demo["sets"]["further"]
    further["same_category"] |= {"count": 2}
    further["three"] |= {"count": 2}
    further["duets"] |= {"count": 2}
    demo["train"] |= {"steps": 6, "batch_size": 2, "validate_every": 3, "workers": 1}
    demo["model"] |= {"channels": [4, 8, 8, 8]}
    demo["evaluate"] |= {"examples": 2}
    tree["runtime"] |= {"workers": 1, "device": "cpu"}
    if "methods" in changes:
        changes["methods"] = methods(*changes["methods"])
    for dotted, value in changes.items():
        *above, last = dotted.split("__")
        node = tree
        for key in above:
            node = node[key]
        node[last] = value
    return tree


def methods(*names: str) -> dict[str, str]:
    """The presets of these names, each with the file of its method."""
    return {name: f"pipeline/avset/models/{_own()['presets'][name]['kind']}.py" for name in names}


@cache
def _own() -> dict[str, Any]:
    """The project's own parameters. Read them, don't change them."""
    return dict(yaml.load((ROOT / "params.yaml").read_text(), yaml.CSafeLoader))


def project(folder: Path, tree: dict[str, Any]) -> Path:
    """A folder in which stages run: the code by link, parameters of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pipeline", "stages", "systems", "dvc.yaml"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    for name in {"models", *tree["datasets"]} - {"folder"}:  # who asks for `folder` says where its videos are
        (folder / "inputs" / name).mkdir(parents=True, exist_ok=True)
        (folder / "inputs" / name / ".gitkeep").touch()
    (folder / "params.yaml").write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False))
    return folder


@contextmanager
def inside(folder: Path, cache: Path) -> Iterator[None]:
    """Run in a folder, with an item cache of its own."""
    before, kept = Path.cwd(), os.environ.get("AVSET_CACHE")
    os.chdir(folder)
    os.environ["AVSET_CACHE"] = str(cache)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("AVSET_CACHE") if kept is None else os.environ.update(AVSET_CACHE=kept)


def run(folder: Path, cache: Path, *stages: str, **options: Any) -> None:
    """Run stages in a project folder, in this process."""
    with inside(folder, cache):
        for stage in stages or STAGES:
            import_module(f"stages.{stage}").main(path=Path("params.yaml"), **options)


def with_own_code(folder: Path) -> Path:
    """A project folder whose code is a copy, to be changed; what runs in this process is the code of the checkout."""
    for name in ("pipeline", "stages"):
        (folder / name).unlink()
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    return folder


def seal(folder: Path) -> None:
    """Let the record of an artifact promise its files as they are now: what was changed on purpose is no damage."""
    Record.read(folder).write(folder)


def clone(source: Path, target: Path) -> Path:
    """A copy of a project folder with its artifacts."""
    return Path(shutil.copytree(source, target, symlinks=True))

"""The shape of the house: dependencies of stages, directions of imports, one door for each package."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
TREE = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = sorted(p.stem for p in (ROOT / "stages").glob("[a-z]*.py"))
PLUMBING = {  # moves data and never decides its content, so no stage depends on it
    "pipeline/__init__.py", "pipeline/actors.py", "pipeline/errors.py", "pipeline/group.py", "pipeline/params.py",
    "pipeline/parallel.py", "pipeline/shards.py", "pipeline/store.py", "pipeline/stores.py", "pipeline/survey.py",
    "pipeline/workers.py", "pipeline/models/__init__.py", "stages/__init__.py",
}  # fmt: skip
DEMO = {str(p.relative_to(ROOT)) for p in (ROOT / "pipeline/sources/demo").glob("*.py")}
DOORS = {  # who may import a package
    "av": {
        "pipeline/media.py",
        "pipeline/frames.py",
        "pipeline/waveforms.py",
        "pipeline/sources/demo/media.py",
        "pipeline/sources/download/excerpt.py",
    },
    "dvclive": {"stages/train.py"},
    "h5py": {
        "pipeline/store.py",
        "pipeline/shards.py",
        "pipeline/stores.py",
        "pipeline/evaluate.py",
        "pipeline/examples.py",
    },
    "jinja2": {"pipeline/page.py"},
    "matplotlib": {"pipeline/plots.py"},
    "mir_eval": {"pipeline/metrics.py"},
    "open_clip": {"pipeline/encoders.py", "pipeline/weights.py", "pipeline/sources/demo/train_encoder.py"},
    "PIL": {"pipeline/frames.py", "pipeline/plots.py", *DEMO},
    "pyarrow": {"pipeline/store.py", "pipeline/shards.py", "pipeline/clips.py", "stages/evaluate.py"},
    "ray": {"pipeline/actors.py", "pipeline/group.py"},
    "scipy": {"pipeline/metrics.py"},
    "soundfile": {"pipeline/recordings.py", "pipeline/page.py"},
    "torchaudio": {"pipeline/waveforms.py"},
    "typer": {"pipeline/__main__.py", "stages/__init__.py", "stages/clips.py", "stages/train.py", "stages/evaluate.py"},
    "yaml": {"pipeline/params.py", "stages/__init__.py"},
    "yt_dlp": {"pipeline/sources/download/sites.py"},
}


def modules() -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for d in ("pipeline", "stages") for p in (ROOT / d).rglob("*.py"))


def imports(file: str) -> set[str]:
    """Dotted names that a file imports, anywhere in it; `from a import b` counts as a and a.b."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files_of(name: str) -> set[str]:
    """The files of our own module with a dotted name, parents included; none for a stranger's."""
    found, parts = set(), name.split(".")
    for i in range(1, len(parts) + 1):
        path = "/".join(parts[:i])
        found |= {f for f in (f"{path}.py", f"{path}/__init__.py") if (ROOT / f).is_file()}
    return found if parts[0] in ("pipeline", "stages") else set()


def closure(file: str) -> set[str]:
    """All our files that a file imports, directly or not. Plumbing is not followed."""
    seen, todo = set(), {file}
    while todo:
        file = todo.pop()
        seen.add(file)
        if file not in PLUMBING:
            todo |= {f for name in imports(file) for f in files_of(name)} - seen
    return seen - PLUMBING


def body(stage: str) -> dict:
    return DVC[stage].get("do", DVC[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_import_closure(stage: str):
    listed = {d for d in body(stage)["deps"] if not d.startswith("data/")}
    code = {d for d in listed if d.endswith(".py")}
    folders = [d for d in listed if (ROOT / d).is_dir()]
    needed = {f for f in closure(f"stages/{stage}.py") if not any(f.startswith(d + "/") for d in folders)}
    assert sorted(code) == sorted(needed), f"dvc.yaml, {stage}: deps"


def reads(tree: ast.AST) -> set[str]:
    """The parameters that code reads of a variable `p`: "captions" (whole), "captions.tokens"."""
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = {".".join(name.split(".")[1:3]).removesuffix(".recipe") for name in dotted if name.startswith("p.")}
    return {name for name in found if name.split(".")[0] in TREE or name.split(".")[0] in TREE["profiles"]["demo"]}


@pytest.mark.parametrize("stage", STAGES)
def test_params_that_a_stage_reads_are_tracked(stage: str):
    """In its script, or in what it takes from stages/__init__.py; but `runtime` must not be."""
    script = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    taken = {n.split(".")[1] for n in imports(f"stages/{stage}.py") if n.startswith("stages.")}
    shared = ast.parse((ROOT / "stages/__init__.py").read_text())
    parts = [f for f in shared.body if isinstance(f, ast.FunctionDef) and f.name in taken]
    read = set().union(*(reads(part) for part in [script, *parts]))
    wholes = {name.split(".")[0] for name in read} - {"runtime", "dataset"}
    read = {n for n in read if n.split(".")[0] in wholes and ("." in n or not any(m.startswith(n + ".") for m in read))}
    tracked = [str(t).replace("${dataset}", "demo") for t in body(stage).get("params", [])]
    for name in sorted(read):
        section, _, key = name.partition(".")
        if not isinstance(TREE.get(section, {}), dict):
            needed = [section]
        else:
            blocks = (
                (section, TREE.get(section, {})),
                (f"profiles.demo.{section}", TREE["profiles"]["demo"].get(section, {})),
            )
            needed = [f"{where}.{k}" for where, block in blocks for k in block if key in ("", k)]
        for path in needed:
            assert any(path == t or path.startswith(t + ".") for t in tracked), f"dvc.yaml, {stage}: track {path}"


def test_every_stage_has_a_command_and_says_what_it_makes():
    assert sorted(DVC) == STAGES
    for stage in STAGES:
        assert body(stage)["cmd"].startswith(f"python -m stages.{stage}")
        assert body(stage)["desc"]


def test_runtime_is_tracked_by_no_stage():
    assert not [s for s in STAGES for key in body(s).get("params", []) if str(key).startswith("runtime")]


def test_imports_go_downwards():
    for file in modules():
        names = imports(file)
        if file.startswith("pipeline/"):
            assert not any(n.split(".")[0] == "stages" for n in names), f"{file} imports a stage"
        elif file != "stages/__init__.py":
            assert not any(re.match(r"stages\.[a-z]+$", n) and n.split(".")[1] in STAGES for n in names), file
        if file.startswith("pipeline/models/"):
            allowed = {"pipeline.models", "pipeline.spectrograms"}
            ours = {n for n in names if n.startswith("pipeline")}
            assert all(any(n.startswith(a) for a in allowed) for n in ours), f"{file}: a model knows too much"
    plumbing = {"errors", "params", "store", "shards", "workers", "actors", "parallel", "group"}
    for name in plumbing:
        ours = {n.split(".")[1] for n in imports(f"pipeline/{name}.py") if n.startswith("pipeline.")}
        assert ours <= plumbing, f"plumbing: {name} imports {ours}"


@pytest.mark.parametrize("package", sorted(DOORS))
def test_one_package_one_door(package: str):
    users = {f for f in modules() if any(n.split(".")[0] == package for n in imports(f))}
    assert users <= DOORS[package]


def test_help_is_quick_because_nothing_heavy_is_imported():
    heavy = "{'torch', 'open_clip', 'ray', 'av', 'matplotlib', 'scipy', 'h5py', 'pyarrow'}"
    code = f"import sys, pipeline.__main__; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_lock_pins_versions_and_names_no_host():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert len(lines) > 100
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", line)] == []

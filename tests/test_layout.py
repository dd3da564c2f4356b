"""The shape of the house: dependencies of stages, directions of imports, one door for each package."""

import ast
import graphlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from notice import pins

from avset.params import ON_DEMAND
from avset.presets import KINDS
from avset.storage.artifacts import ARTIFACTS
from stages import FIRST

ROOT = Path(__file__).parents[1]
DVC, LATER = (yaml.safe_load((ROOT / name).read_text())["stages"] for name in ("dvc.yaml", ON_DEMAND))
TREE = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = sorted(p.stem for p in (ROOT / "stages").glob("[a-z]*.py"))
LIBRARY = "pipeline/avset"
STORES = [name for name, artifact in ARTIFACTS.items() if artifact.arrays and not artifact.demanded]
PLUMBING = {  # moves data and never decides its content, so no stage depends on it
    *(f"{LIBRARY}/{name}.py" for name in ("__init__", "console", "errors")),
    *(f"{LIBRARY}/{name}.py" for name in ("architecture", "params", "presets", "values")),
    *(str(p.relative_to(ROOT)) for room in ("compute", "storage") for p in (ROOT / LIBRARY / room).glob("*.py")),
    *(str(p.relative_to(ROOT)) for p in (ROOT / LIBRARY).glob("*/__init__.py") if not p.read_text()),
    "stages/__init__.py",
}
ROOMS = (  # each imports from those before it alone
    "errors", "console", "values", "presets", "architecture", "params", "storage", "compute", "features", "media",
    "sources", "models", "training", "evaluation", "report", "tables", "inference", "exchange",
    "show", "web", "doctor", "commands", "__main__",
)  # fmt: skip
DRAWERS = {f"sources/demo/{name}.py" for name in ("canvas", "pictures", "pools")}
DOORS = {  # who may import a package
    "av": {"media/container.py", "media/fingerprint.py", "media/frames.py", "media/films.py", "media/writers.py",
           "sources/demo/media.py", "sources/download/excerpt.py"},
    "dvclive": {"stages/train.py"},
    "dvc": {"storage/hub.py", "doctor/project.py", "storage/previous.py"},
    "filelock": {"compute/making.py", "sources/download/__init__.py"},
    "h5py": {"storage/hdf5.py", "storage/inspect.py", "storage/shards.py", "storage/store.py",
             "evaluation/examples.py"},
    "jinja2": {"report/page.py"},
    "matplotlib": {"report/plots.py"},
    "mir_eval": {"evaluation/metrics.py"},
    "open_clip": {"features/encoder.py", "features/weights.py", "sources/demo/train_encoder.py"},
    "PIL": {"media/frames.py", "report/plots.py", *DRAWERS},
    "platformdirs": {"storage/cache.py"},
    "pyarrow": {"storage/inspect.py", "storage/shards.py", "storage/tables.py",
                "sources/clips.py", "sources/reuse.py", "evaluation/duets.py", "evaluation/localization.py",
                "evaluation/presence.py",
                "evaluation/scores.py"},
    "ray": {"compute/ray_train.py", "compute/ray_worker.py"},
    "ruamel": {"values.py"},
    "scipy": {"evaluation/metrics.py", "tables/paired.py"},
    "soundfile": {"media/recordings.py", "media/writers.py", "report/page.py"},
    "starlette": {"web/server.py"},
    "torchaudio": {"media/waveforms.py"},
    "tinysoundfont": {"sources/demo/soundfont.py"},
    "typer": {"__main__.py", "commands/keep.py", "commands/options.py", "commands/study.py", "commands/use.py",
              "stages/__init__.py", "stages/clips.py", "stages/evaluate.py", "stages/train.py"},
    "uvicorn": {"web/serve.py"},
    "yaml": {"compute/identity.py", "storage/previous.py"},
    "yt_dlp": {"sources/download/sites.py"},
}  # fmt: skip

TESTED_IN = {  # modules whose tests are in the file of another that they work for
    "architecture": "params", "values": "params",
    "compute/group": "distributed", "compute/making": "stages", "compute/ray_train": "distributed",
    "compute/worker": "crew", "errors": "store",
    "evaluation/estimates": "evaluate", "evaluation/examples": "report", "features/padding": "encoder",
    "features/resnet": "tower", "features/samples": "waveforms", "features/tower_weights": "tower",
    "features/detector": "objects", "features/weights": "encoder", "models/checkpoint": "separate",
    "models/contract": "train", "models/parts": "co_separation", "models/unet": "avset", "presets": "train",
    "sources/dry_run": "clips", "sources/given": "objects",
    "storage/artifacts": "inspect", "storage/cache": "store", "storage/files": "store", "storage/gc": "inspect",
    "storage/items": "store", "storage/mapped": "store", "storage/tables": "store", "storage/tensors": "separate",
    "training/batches": "mixtures",
}  # fmt: skip
TESTED_THROUGH = {  # modules that tests reach through their stage or command alone
    "commands/keep", "commands/options", "commands/study", "commands/use", "compute/process",
    "evaluation/evaluate", "evaluation/localization", "evaluation/scores", "inference/localize",
    "sources/names", "sources/reuse", "sources/stems", "storage/hdf5", "storage/previous",
}  # fmt: skip


def modules() -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for d in ("pipeline", "stages") for p in (ROOT / d).rglob("*.py"))


@cache
def imports(file: str) -> frozenset[str]:
    """Dotted names that a file imports, anywhere in it; `from a import b` counts as a and a.b."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def files_of(name: str) -> set[str]:
    """The files of our own module with a dotted name, parents included; none for a stranger's."""
    found, parts = set(), name.split(".")
    for i in range(1, len(parts) + 1):
        path = "/".join(parts[:i] if parts[0] == "stages" else ["pipeline", *parts[:i]])
        found |= {f for f in (f"{path}.py", f"{path}/__init__.py") if (ROOT / f).is_file()}
    return found if parts[0] in ("avset", "stages") else set()


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
    found: dict = (DVC | LATER)[stage]
    return found.get("do", found)


METHODS = {f"pipeline/{module.replace('.', '/')}.py" for _, module in KINDS.values()}  # each is a dependency of its own


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_import_closure(stage: str):
    """A stage of each method depends on the file of that method, and on what any method is made of."""
    listed = {d for d in body(stage)["deps"] if not d.startswith("data/")}
    code = {d for d in listed if d.endswith(".py")}
    folders = [d for d in listed if (ROOT / d).is_dir()]
    reached = closure(f"stages/{stage}.py")
    if "${item}" in listed:
        assert DVC[stage]["foreach"] == "${methods}"
        assert not reached & METHODS, f"{stage} knows a method"
        reached |= set().union(*map(closure, METHODS)) - METHODS
    needed = {f for f in reached if f in code or not any(f.startswith(d + "/") for d in folders)}
    assert sorted(code) == sorted(needed), f"dvc.yaml, {stage}: deps"


@pytest.mark.parametrize("name", ARTIFACTS)
def test_dvc_makes_every_artifact_of_its_parents(name: str):
    """The rows of avset.storage.artifacts and the stages of dvc.yaml tell the same."""
    artifact = ARTIFACTS[name]
    stage = body(artifact.stage)
    inner = re.compile(r"data/\$\{dataset\}/(?:\$\{scale\}/)?(\w+)")
    read = {found[1] for d in stage["deps"] if (found := inner.match(d))}
    assert read == set(artifact.parents)
    made = {found[1] for d in stage["outs"] if isinstance(d, str) and (found := inner.match(d))}
    assert made == {name}


def test_the_registry_names_what_stages_make():
    """By the names of the artifacts; a model has that of its method."""
    made = {name: out for name in ("encoder", *STORES) for out in body(name)["outs"]}
    made["avset"] = body("train")["outs"][0].replace("${key}", "avset")
    named = yaml.safe_load((ROOT / "dvc.yaml").read_text())["artifacts"]
    assert {name: told["path"] for name, told in named.items()} == made
    for name, told in named.items():
        assert told["type"] == ("features" if name in STORES else "model") and told["desc"] and told["labels"]


def reads(tree: ast.AST) -> set[str]:
    """The parameters that code reads of a variable `p`: "captions" (whole), "captions.tokens"."""
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = {".".join(name.split(".")[1:3]).removesuffix(".recipe") for name in dotted if name.startswith("p.")}
    known = {*TREE, *TREE["datasets"]["demo"], *TREE["scales"]["demo"]}
    return {name for name in found if name.split(".")[0] in known}


@pytest.mark.parametrize("stage", STAGES)
def test_params_that_a_stage_reads_are_tracked(stage: str):
    """In its script, or in what it takes from stages/__init__.py; but `runtime` must not be."""
    script = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    taken = {n.split(".")[1] for n in imports(f"stages/{stage}.py") if n.startswith("stages.")}
    shared = ast.parse((ROOT / "stages/__init__.py").read_text())
    parts = [f for f in shared.body if isinstance(f, ast.FunctionDef) and f.name in taken]
    read = set().union(*(reads(part) for part in [script, *parts]))
    wholes = {name.split(".")[0] for name in read} - {"runtime", "dataset", "scale"}
    read = {n for n in read if n.split(".")[0] in wholes and ("." in n or not any(m.startswith(n + ".") for m in read))}
    tracked = [re.sub(r"\${\w+}", "demo", t) for t in body(stage).get("params", [])]
    for name in sorted(read):
        section, _, key = name.partition(".")
        if not isinstance(TREE.get(section, {}), dict):
            needed = [section]
        else:
            blocks = {"": TREE, "datasets.demo.": TREE["datasets"]["demo"], "scales.demo.": TREE["scales"]["demo"]}
            needed = [
                f"{where}{section}.{k}" for where, block in blocks.items() for k in block.get(section, {})
                if key in ("", k)
            ]  # fmt: skip
        for path in needed:
            assert any(path == t or path.startswith(t + ".") for t in tracked), f"dvc.yaml, {stage}: track {path}"


def test_every_stage_has_a_command_and_says_what_it_makes():
    assert sorted([*DVC, *LATER]) == STAGES
    for stage in STAGES:
        assert body(stage)["cmd"].startswith(f"python -m stages.{stage}")
        assert "$" not in body(stage)["cmd"], "a name of params.yaml would reach a shell"
        assert body(stage)["desc"]


def test_the_first_stage_is_the_one_that_checks_for_all():
    assert next(iter(DVC)) == FIRST


def test_runtime_is_tracked_by_no_stage():
    assert not [s for s in STAGES for key in body(s).get("params", []) if str(key).startswith("runtime")]


def room_of(name: str) -> str:
    """The room of a dotted name of ours: "storage" of avset.storage.store.Store."""
    return name.split(".")[1]


def test_imports_go_downwards():
    for file in modules():
        names = {n for n in imports(file) if n.split(".")[0] in ("avset", "stages")}
        if not file.startswith(LIBRARY):
            others = {n for n in names if n.startswith("stages.") and n.split(".")[1] in STAGES}
            assert file == "stages/__init__.py" or not others, f"{file}: a stage imports another"
            continue
        assert not any(n.startswith("stages") for n in names), f"{file} imports a stage"
        room = Path(file).relative_to(LIBRARY).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in ROOMS, f"{room}: give the room its place among the others"
        allowed = ROOMS[: ROOMS.index(room) + 1]
        upward = {n for n in names if "." in n and room_of(n) not in allowed and room_of(n) in ROOMS}
        assert not upward, f"{file}, in {room}, imports {sorted(upward)}"


def test_a_method_knows_no_other():
    for file in METHODS:
        assert not closure(file) & METHODS - {file}, file


def test_models_know_no_clips_and_no_parameters():
    for path in (ROOT / LIBRARY / "models").glob("*.py"):
        ours = {n for n in imports(str(path.relative_to(ROOT))) if n.startswith("avset.")}
        known = ("avset.models", "avset.features", "avset.errors", "avset.presets", "avset.storage.files",
                 "avset.storage.tensors", "avset.storage.checksums")  # fmt: skip
        assert all(n.startswith(known) for n in ours), f"{path.name}: a model knows too much"


def test_no_circle_of_imports():
    files = [f for f in modules() if f.startswith(LIBRARY)]
    graph = {f: {g for n in imports(f) for g in files_of(n)} & set(files) - {f} for f in files}
    graph = {f: {g for g in to if not g.endswith("__init__.py")} for f, to in graph.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", sorted(DOORS))
def test_one_package_one_door(package: str):
    users = {f for f in modules() if any(n.split(".")[0] == package for n in imports(f))}
    assert {f.removeprefix(f"{LIBRARY}/") for f in users} == DOORS[package]


def test_every_module_has_a_test_file_of_its_name():
    """Or its room has one: `test_report` tests `report/page`."""
    ours = {Path(f).relative_to(LIBRARY).with_suffix("").as_posix(): f for f in modules() if f.startswith(LIBRARY)}
    assert not {*TESTED_IN, *TESTED_THROUGH} - ours.keys(), "these are gone"
    for name, file in ours.items():
        *rooms, stem = name.split("/")
        if stem == "__init__" or name in TESTED_THROUGH:
            continue
        own = files_tested(TESTED_IN.get(name, stem.strip("_")))
        of_rooms = [f"{LIBRARY}/{'/'.join(rooms[: i + 1])}/__init__.py" in files_tested(r) for i, r in enumerate(rooms)]
        assert file in own or any(of_rooms), f"{file}: give it tests/test_{stem}.py, or a line in TESTED_IN"


def files_tested(name: str) -> set[str]:
    """Our files that a test file imports; none if there is no such file."""
    file = f"tests/test_{name}.py"
    return {f for n in imports(file) for f in files_of(n)} if (ROOT / file).is_file() else set()


def test_help_is_quick_because_nothing_heavy_is_imported():
    heavy = "{'torch', 'open_clip', 'ray', 'av', 'matplotlib', 'scipy', 'h5py', 'pyarrow'}"
    code = f"import sys, avset.__main__; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_place_gives_names_to_what_is_finished():
    """There it is on the disk before: see `avset.storage.files.place`. The doctor only tries what a disk can do."""
    for file in modules():
        calls = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.Call)]
        named = [(call.func.attr, len(call.args)) for call in calls if isinstance(call.func, ast.Attribute)]
        naming = [n for n in named if n in {("rename", 1), ("replace", 1), ("rename", 2), ("link", 2), ("move", 2)}]
        own = {f"{LIBRARY}/storage/files.py", f"{LIBRARY}/doctor/machine.py"}
        assert not naming or file in own, f"{file}: use place, link, or replace_folder"


def test_the_lock_pins_versions_by_hashes_and_names_no_host():
    entries = re.split(r"\n(?! )", (ROOT / "requirements.lock").read_text().strip())
    assert len(entries) > 100
    form = r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert [entry for entry in entries if not re.fullmatch(form, entry)] == []
    assert {"uv", "setuptools"} <= pins().keys() and "pip" not in pins()


def test_the_notice_tells_of_every_pin():
    """`make lock` writes both."""
    told = re.findall(r"^(\w[\w.-]*) ([\w.+!-]+): \S", (ROOT / "NOTICE").read_text(), re.MULTILINE)
    assert dict(told) == pins()

"""What starts with what: no command and no stage imports a heavy package that it does not use."""

import ast
import subprocess
import sys

import pytest
from test_layout import ROOT, STAGES, files_of

HEAVY = {
    "av", "dvc", "dvclive", "h5py", "jinja2", "matplotlib", "mir_eval", "open_clip", "pandas", "PIL", "pyarrow",
    "ray", "scipy", "soundfile", "torch", "torchaudio", "torchvision", "yt_dlp",
}  # fmt: skip
STORES = {"h5py", "pyarrow"}
SOUND = {"torch", "av"}
BROUGHT = {  # beyond STORES, by the import of a stage
    "clips": {"av", "PIL"},
    "frames": {"av", "PIL"},
    "spectrograms": SOUND,
    "encoder": {"torch"},
    "regions": set(),
    "captions": set(),
    "mixtures": SOUND,
    "sets": SOUND,
    "train": SOUND | {"PIL"},
    "evaluate": SOUND | {"PIL"},
    "report": {"torch", "av", "PIL", "soundfile", "matplotlib", "jinja2"},
    "tower": {"torch"},
    "objects": set(),
}


def at_import(file: str) -> set[str]:
    """Dotted names that a file imports when it is imported itself: not those of functions and of type checkers."""
    names, todo = set(), list(ast.parse((ROOT / file).read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
        elif not isinstance(node, ast.FunctionDef):
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return names


def brought(file: str) -> set[str]:
    """The heavy packages that our modules import because this one is imported."""
    seen, todo, found = set(), {file}, set()
    while todo:
        file = todo.pop()
        seen.add(file)
        names = at_import(file)
        todo |= {f for name in names for f in files_of(name)} - seen
        found |= {name.split(".")[0] for name in names} & HEAVY
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_package_beyond_its_own(stage: str) -> None:
    assert brought(f"stages/{stage}.py") - STORES <= BROUGHT[stage]


def loaded(code: str) -> set[str]:
    """The heavy packages in memory at the end of a piece of code, in a process of its own."""
    told = f"import sys\n{code}\nprint(*({HEAVY} & set(sys.modules)), sep=',', end='', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split(",")) - {""}


def test_help_imports_nothing_heavy() -> None:
    asked = [[], ["separate"], ["localize"], ["tables"], ["doctor"], ["store"]]
    code = f"from avset.__main__ import app\nfor words in {asked}: app([*words, '--help'], standalone_mode=False)"
    assert loaded(code) == set()


def test_the_library_itself_imports_nothing_heavy() -> None:
    assert loaded("import avset\ndir(avset)\nassert 'numpy' not in sys.modules") == set()


def test_the_doctor_starts_without_what_may_be_broken() -> None:
    assert loaded("import avset.doctor") == set()


def test_looking_after_stores_needs_no_torch() -> None:
    assert loaded("import avset.storage.inspect, avset.storage.gc") <= STORES | {"av"}


def test_media_are_decoded_without_torch() -> None:
    assert loaded("import stages.clips, stages.frames") <= STORES | {"av", "PIL"}


@pytest.mark.slow
def test_stages_bring_nothing_by_way_of_others() -> None:
    """What the packages import in turn: all stages but the report, which ends the pipeline."""
    unused = {
        "dvc",
        "matplotlib",
        "mir_eval",
        "open_clip",
        "pandas",
        "ray",
        "scipy",
        "torchaudio",
        "torchvision",
        "yt_dlp",
    }
    code = "import stages." + ", stages.".join(stage for stage in STAGES if stage != "report")
    assert loaded(code) & unused == set()

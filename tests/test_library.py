"""The door of the library: its names, its command, and what a wheel holds."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import avset
from stages import command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", avset.__all__)
def test_a_name_of_the_library_is_that_of_its_module(name: str):
    assert getattr(avset, name).__name__ == name
    assert name in dir(avset)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(avset.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"avset.{home}" for name, home in avset._HOMES.items()}
    assert sorted(seen) == avset.__all__
    assert all(getattr(avset, name).__module__ == home for name, home in seen.items())


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'avset' has no attribute 'Seperator'"):
        _ = avset.Seperator  # type: ignore[attr-defined]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """What the console script prints."""
    module, _, function = PROJECT["scripts"]["avset"].partition(":")
    monkeypatch.setattr("sys.argv", ["avset", *arguments])
    with pytest.raises(SystemExit) as ended:
        getattr(import_module(module), function)()
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    assert run(["--version"], monkeypatch, capsys) == f"avset {avset.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [[], ["separate"], ["localize"], ["store"], *(["store", c] for c in ("ls", "info", "diff", "verify", "gc"))],
)
def test_help_is_short_or_long(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    told = run([*words, "-h"], monkeypatch, capsys)
    assert "Usage: " in told and told == run([*words, "--help"], monkeypatch, capsys)


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage(stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr("sys.argv", [stage, "-h"])
    with pytest.raises(SystemExit) as ended:
        command(import_module(f"stages.{stage}").main)
    assert not ended.value.code and f"{stage}: " in capsys.readouterr().out


def test_the_shell_completes_commands():
    asked = {"_AVSET_COMPLETE": "complete_bash", "COMP_WORDS": "avset lo", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['avset']; from avset.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == ["localize"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copied sources with `lib`, the folder of modules that setuptools puts into a wheel, and `*.egg-info`."""
    source = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    build = "from setuptools import setup; setup()"
    words = ["-q", "build", "--build-lib", "lib", "egg_info", "--egg-base", "."]
    subprocess.run([sys.executable, "-c", build, *words], cwd=source, check=True, capture_output=True)
    return source


@pytest.mark.slow
def test_a_wheel_holds_the_library_alone(installed: Path):
    """Neither a top-level `pipeline` nor `stages`: PyPI has a package of that name, which would overwrite ours."""
    assert [path.name for path in (installed / "lib").iterdir()] == ["avset"]
    files = {str(path.relative_to(installed / "lib")) for path in (installed / "lib").rglob("*") if path.is_file()}
    tracked = {str(p.relative_to(ROOT / "pipeline")) for p in (ROOT / "pipeline/avset").rglob("*") if p.is_file()}
    assert files == {name for name in tracked if "__pycache__" not in name}
    data = {"avset/py.typed", "avset/report/page.html"}
    assert files >= data | {f"avset/sources/demo/encoder.{kind}" for kind in ("json", "safetensors")}


@pytest.mark.slow
def test_a_wheel_has_a_name_a_version_and_the_command(installed: Path):
    (about,) = installed.glob("*.egg-info")
    lines = (about / "PKG-INFO").read_text().splitlines()
    assert {"Name: avset", f"Version: {avset.__version__}"} <= set(lines)
    assert "avset = avset.__main__:main" in (about / "entry_points.txt").read_text()


def test_who_cites_names_this_version():
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert told["version"] == avset.__version__ and told["title"] == PROJECT["name"]


def test_the_library_needs_nothing_of_the_stages_alone():
    """`pip install avset` is enough for whoever has a model; the extra `pipeline` brings the rest."""
    extra = [re.match(r"\w+", line)[0] for line in PROJECT["optional-dependencies"]["pipeline"]]  # type: ignore[index]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extra})); import avset; [getattr(avset, n) for n in dir(avset)]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "pipeline", capture_output=True, text=True)
    assert len(extra) >= 5 and done.returncode == 0, done.stderr


def test_the_lock_does_not_pin_the_project():
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert not [name for name in pinned if name.startswith(PROJECT["name"])]

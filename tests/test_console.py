"""What users type and see: `~`, tables, and terminals that know ASCII alone."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy
import yaml

from avset import console, params
from avset.storage.cache import cache_root
from avset.storage.tables import write_table

ASCII = {"PYTHONIOENCODING": "ascii"}
C = {"LC_ALL": "C"}
NAME = "videos/Geige – „Ж“.mp4"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_home_is_known_wherever_a_path_is_typed(home: Path, monkeypatch: pytest.MonkeyPatch):
    for text, path in (("~/a/b", home / "a/b"), ("~", home), ("a~b/~", Path("a~b/~")), ("~nobody-here/x", None)):
        assert console.typed_path(text) == (path or Path(text))
    monkeypatch.setenv("AVSET_CACHE", "~/kept")
    assert cache_root() == home / "kept"
    tree = toy.params(dataset="folder", datasets__folder__clips__options={"path": "~/films", "extensions": ["~", "~x"]})
    tree["scales"]["demo"]["encoder"] = {"architecture": "~/clip.json", "weights": "~/clip.pt"}
    tree["runtime"]["download"]["cookies"] = "~/cookies.txt"
    shutil.copy(toy.ROOT / "pipeline" / "avset" / "sources" / "demo" / "encoder.json", home / "clip.json")
    toy.project(home, tree)
    p = params.load(home / "params.yaml")
    assert p.clips.options == {"path": str(home / "films"), "extensions": [str(home), "~x"]}
    assert (p.encoder.architecture, p.encoder.weights) == (str(home / "clip.json"), str(home / "clip.pt"))
    assert p.runtime.download.cookies == str(home / "cookies.txt")


def test_a_table_keeps_its_columns_where_letters_are_missing(monkeypatch: pytest.MonkeyPatch):
    """One character for one, as far as there is one."""
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", out)
    console.speak_plainly()
    print(console.aligned([("a", "±", "x"), ("–", "1.00", "“q”")], 1) + "Ж \udce9", flush=True)
    assert out.buffer.getvalue().decode().splitlines() == [
        "a     ~    x", "-  ----  ---", '-  1.00  "q"', "\\u0416 \\udce9",
    ]  # fmt: skip


@pytest.mark.parametrize("environment", [ASCII, C])
def test_no_command_ends_for_want_of_a_letter(tmp_path: Path, environment: dict[str, str]):
    """Files, errors, tables, JSON, help and wrong usage, each in letters that an old terminal lacks."""
    tree = toy.params(dataset="folder")
    tree["runtime"]["download"]["proxy"] = "Ж"
    toy.project(tmp_path, tree)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    failed = {"clip_id": "a_0", "media_id": "a", "origin": NAME, "reason": "corrupt", "detail": "—"}
    write_table(tmp_path / "data" / "folder" / "clips" / "index.parquet", [failed])
    code = """
import sys
from avset.__main__ import main
for line in ("store failures", "store failures --json", "store failures --csv", "store ls", "store info Ж",
             "separate Ж.wav -q x -o Ж.wav", "separate --help", "separate Ж –x", "store verify Ж",
             "store gc --dry-run"):
    sys.argv = ["avset", *line.split()]
    try:
        main()
    except SystemExit as ended:
        print("[", line.encode("ascii", "replace").decode(), ended.code, "]")
"""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    script = tmp_path / "run.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, env=known | environment)
    said, errors = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0 and "Traceback" not in errors, errors
    assert environment != ASCII or 'videos/Geige - \\u201e\\u0416".mp4' in said
    assert json.loads(said.split("0 ]\n")[1].split("[ store")[0])[0]["file"] == NAME
    assert errors.count("error: ") == 3

"""The notebooks run, cell by cell, without Jupyter."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the cells display, in the place of IPython's."""
    found, display = list[Any](), ModuleType("IPython.display")
    display.Audio = lambda sound, rate: (sound, rate)  # type: ignore[attr-defined]
    display.display = found.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def test_separate(shown: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Two players are heard and seen in their film, and nonsense is not; no cell has an output in git."""
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((NOTEBOOKS / "separate.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    names: dict[str, Any] = {}
    for cell in code:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    found = names["found"]
    assert min(found.presence[:2]) > 0.3 > 0.1 > found.presence[2]
    (first, rate), (second, _), (rest, _) = shown
    assert rate == found.sample_rate and min(np.abs(first).max(), np.abs(second).max()) > 0.01
    whole = first + second + rest
    assert np.abs(rest).max() < np.abs(whole).max() and not found.sounds[2].any()
    heats = [attention.heat.max() for attention in found.heat_maps]
    assert min(heats[:2]) > heats[2]
    assert capsys.readouterr().out.count("presence") == 3
    names["plt"].close("all")

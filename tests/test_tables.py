"""Tables: which cells a plan has, what they share, which differences hold, and that only what changed runs again."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
import yaml

from avset.errors import AvsetError
from avset.evaluation.metrics import Clusters, standard_error
from avset.evaluation.scores import MIXTURES, SCORES
from avset.storage.artifacts import ARTIFACTS, Artifact, Record, identity_of
from avset.storage.files import make_folder
from avset.storage.tables import write_table
from avset.tables import make, results
from avset.tables.asked import FILE
from avset.tables.nodes import Plan, steps_of
from avset.tables.page import as_html, as_markdown, as_table
from avset.tables.paired import holm, paired_test
from avset.tables.plan import plan

DATA = Path("data/demo/demo")
ROWS = "rows: [{name: as it is}, {name: other, set: {%s}}]"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder in which every artifact of the main pipeline seems to be there, with our tables."""
    folder = toy.project(tmp_path / "project", toy.params())
    monkeypatch.chdir(folder)
    for makes in steps_of(toy.params()):
        (folder / makes).mkdir(parents=True, exist_ok=True)
        (folder / makes / "record.json").touch()
    write_tables((toy.ROOT / FILE).read_text())
    return folder


def write_tables(text: str) -> None:
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text)


def one_table(rows: str, more: str = "") -> None:
    """A tables.yaml with one table."""
    write_tables(f"method: avset\n{more}\ntables:\n  one:\n    title: One\n    reference: as it is\n    {rows}\n")


def cells(made: Plan, table: str, row: str) -> list[str]:
    found = next(one for one in made.tables if one["name"] == table)["rows"]
    return [cell["scores"] for one in found if one["name"] == row for cell in one["cells"]]


def stages(made: Plan) -> set[str]:
    return {node.step.name for node in made.nodes.values()}


def test_rows_that_ask_for_the_same_share_a_cell(project: Path):
    made = plan()
    same = [("systems", "AV-SeT"), ("losses", "both"), ("text", "with"), ("tokens", "3"), ("level", "region"),
            ("encoder", "shared"), ("weights", "1e-3 / 1e-2")]  # fmt: skip
    assert len({tuple(cells(made, *row)) for row in same}) == 1
    assert cells(made, "systems", "AV-SeT (avset)") == cells(made, "claims", "mask, both, caption as a query")
    assert cells(made, "losses", "none") == cells(made, "text", "without") == cells(made, "weights", "0 / 0")
    assert cells(made, "losses", "none") != cells(made, "losses", "both")
    assert stages(made) == {"captions", "train", "evaluate"}, "all else is the main pipeline's"
    assert sum(node.step.name == "captions" for node in made.nodes.values()) == 3, "tokens: 1, 2 and 4"


@pytest.mark.parametrize(
    ("change", "own"),
    [("preset.losses.trimodal: 0.5", set()), ("captions.tokens: 2", {"captions"}),
     ("regions.positional: false", {"regions", "captions"}),
     ("frames.spacing: 0.5", {"frames", "regions", "captions"}), ("mixtures.seed: 1", {"mixtures", "sets"}),
     ("scales.demo.encoder.weights: other.safetensors", {"encoder", "regions", "captions"})],
)  # fmt: skip
def test_a_row_makes_what_its_change_reaches_and_links_the_rest(project: Path, change: str, own: set[str]):
    one_table(ROWS % change)
    made = plan()
    assert stages(made) == own | {"train", "evaluate"} and len(made.cells) == 2
    assert {Path(one).name for one in made.linked} == {"clips", "frames", "spectrograms", "encoder", "regions",
                                                      "captions", "mixtures", "sets"}  # fmt: skip
    made.write()
    cell = next(node for node in made.cells.values() if own <= {one.step.name for one in node.all()})
    work = made.folder / "work" / cell.name
    for name in ("frames", "regions"):
        target = (work / DATA / name).resolve()
        assert (target == (project / DATA / name)) == (name not in own)
    assert (work / "pipeline" / "avset").is_dir() and not (work / "tables").exists()


def test_an_encoder_in_a_folder_is_a_variant_that_shares_its_frames(project: Path):
    (project / "mine").mkdir()
    one_table("encoders: true\n    rows: [{name: as it is}]", "encoders: [mine]")
    with pytest.raises(AvsetError, match=r"mine has no encoder\.json; make it, or take it off"):
        plan()
    for name in ("encoder.json", "encoder.safetensors"):
        (project / "mine" / name).write_text((toy.ROOT / "pipeline/avset/sources/demo/encoder.json").read_text())
    made = plan()
    assert [row["encoder"] for row in made.tables[0]["rows"]] == ["", "mine"]
    assert stages(made) == {"encoder", "regions", "captions", "train", "evaluate"} and len(made.cells) == 2
    made.write()
    deps = json.loads((made.folder / "dvc.yaml").read_bytes())["stages"]
    (encoder,) = [body["deps"] for name, body in deps.items() if name.startswith("encoder-")]
    assert "../../../mine/encoder.safetensors" in encoder, "another file of that name is another encoder"


def test_every_preset_has_a_row_among_the_systems(project: Path):
    assert {node.method for node in plan("systems").cells.values()} == toy.params()["presets"].keys()


def test_a_method_that_learns_nothing_is_not_repeated(project: Path):
    one_table("rows: [{name: as it is}, {name: factors, method: nmf_mfcc}]")
    made = plan(seeds=3, steps=2)
    assert len(set(cells(made, "one", "as it is"))) == 3 and len(cells(made, "one", "factors")) == 1
    assert [row["steps"] for row in made.tables[0]["rows"]] == [2, None]
    trees = [node.tree for node in made.cells.values() if node.method == "avset"]
    assert {tree["train"]["seed"] for tree in trees} == {0, 1, 2}
    assert {tree["scales"]["demo"]["train"]["validate_every"] for tree in trees} == {2}


def test_a_changed_weight_is_a_change_of_its_own_rows(project: Path):
    before = plan("systems,losses")
    toy.project(project, toy.params(presets__mix_and_separate__weight_decay=0.5))
    after = plan("systems,losses")
    changed = before.cells.keys() ^ after.cells.keys()
    assert len(changed) == 2 and all("mix_and_separate" in name for name in changed)


def test_a_row_without_its_preset_is_told_and_not_dropped(project: Path):
    one_table("rows: [{name: as it is}, {name: ours, method: ghosts}]")
    made = plan()
    assert made.told(1) == ["one: ours is left out: params.yaml has no preset ghosts",
                            "tables: 1 cells, 1 to make, in tables/demo/demo"]  # fmt: skip


def test_a_row_of_scores_is_of_these_mixtures_or_is_told(project: Path):
    def freeze(content: bytes) -> dict[str, str]:
        for name in ("mixtures", "sets"):
            for file in ARTIFACTS[name].files:
                (DATA / name / file).write_bytes(content)
            Record(name).write(DATA / name)
        return {name: identity_of(DATA / name, name) for name in ("mixtures", "sets")}

    one_table("rows: [{name: as it is}, {name: theirs, scores: outside/theirs}]")
    inputs = freeze(b"one")
    assert plan().tables[0]["rows"][1]["missing"].startswith("outside/theirs has no scores; make them")
    Path("outside/theirs").mkdir(parents=True)
    Record("scores", inputs=inputs).write(Path("outside/theirs"))
    made = plan()
    made.write()
    assert cells(made, "one", "theirs") == ["../../../outside/theirs"] and len(made.cells) == 1
    deps = json.loads((made.folder / "dvc.yaml").read_bytes())["stages"]["results"]["deps"]
    assert "../../../outside/theirs" in deps and "" not in deps
    freeze(b"other")
    assert "are of other mixtures" in plan().tables[0]["rows"][1]["missing"]
    one_table("rows: [{name: as it is}, {name: theirs, scores: outside/theirs, method: avset}]")
    with pytest.raises(AvsetError, match="a row with scores has no method"):
        plan()


ON_DEMAND = """
stages:
  objects:
    wdir: ..
    cmd: python -m stages.objects
    deps: ["data/${dataset}/${scale}/frames"]
    params: ["scales.${scale}.frames"]
    outs: ["data/${dataset}/${scale}/objects"]
"""


def test_what_only_some_methods_need_is_made_beside_the_pipeline(project: Path, monkeypatch: pytest.MonkeyPatch):
    """Who needs an array of it reads the artifact, and is told by its stage if it is not there; nobody else is."""
    from avset.models.avset import Method

    (project / "demanded").mkdir()
    (project / "demanded" / "dvc.yaml").write_text(ON_DEMAND)
    monkeypatch.setitem(
        ARTIFACTS, "objects", Artifact("objects", "objects", ("frames",), {"boxes": ("V", "O", "side")})
    )
    one_table("rows: [{name: as it is}]")
    plan()
    monkeypatch.setattr(Method, "needs", frozenset({"regions", "boxes"}))
    record = project / DATA / "objects" / "record.json"
    record.parent.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    with pytest.raises(AvsetError, match=rf"{DATA}/objects/record.json is not there; make it with `dvc repro"):
        plan()
    record.touch()
    made = plan()
    made.write()
    assert made.tables[0]["rows"][0]["needs"] == ["objects", "regions"]
    deps = json.loads((made.folder / "dvc.yaml").read_bytes())["stages"]
    for name in (name for name in deps if name != "results"):
        assert f"../../../{DATA}/objects/record.json" in deps[name]["deps"]
        assert (made.folder / "work" / name / DATA / "objects").resolve() == record.parent
    one_table(ROWS % "frames.spacing: 0.5")
    assert "objects" in stages(plan()), "other frames have other objects"


def test_what_is_not_up_to_date_is_named(project: Path, monkeypatch: pytest.MonkeyPatch):
    made = plan("losses")
    make.check_current(made)
    (project / ".dvc").mkdir()
    asked: list[str] = []
    monkeypatch.setattr(make, "_status", lambda folder, *names: asked.extend(names) or {"captions": []})
    with pytest.raises(AvsetError, match="captions of the main pipeline is not up to date; run `dvc repro captions`"):
        make.check_current(made)
    assert "regions" in asked and "train" not in asked


MINE = """
from avset.models.contract import Method as Contract
from avset.presets import MethodSettings as Settings

class Method(Contract):
    needs = frozenset({"frames"})
"""


def test_a_method_of_ones_own_has_a_row_among_the_systems(project: Path, monkeypatch: pytest.MonkeyPatch):
    (project / "my_lab").mkdir()
    (project / "my_lab" / "model.py").write_text(MINE)
    monkeypatch.syspath_prepend(project)
    toy.project(project, toy.params(presets__mine={"kind": "my_lab.model"}))
    made = plan("systems")
    (cell,) = cells(made, "systems", "mine")
    made.write()
    work = made.folder / "work" / Path(cell).name
    assert (work / "my_lab" / "model.py").is_file()
    assert json.loads((work / "params.yaml").read_bytes())["methods"] == {"mine": "my_lab/model.py"}
    told = json.loads((made.folder / "dvc.yaml").read_bytes())["stages"][Path(cell).name]
    assert "../../../my_lab/model.py" in told["deps"]


def test_ablations_of_another_method(project: Path):
    made = plan("losses,systems", method="avset")
    rows = {table["name"]: {row["method"] for row in table["rows"]} for table in made.tables}
    assert rows["losses"] == {"avset"} and "paper" in rows["systems"], "a row's own method stays"
    made.write()
    assert "not made" in results.write(made.folder), "the page is of the same plan"
    with pytest.raises(AvsetError, match=r"--method: .avste. is not one of"):
        plan(method="avste")


def test_the_page_of_an_older_plan_is_refused(project: Path):
    made = plan("4")
    made.write()
    toy.project(project, toy.params(runtime__workers=2))
    assert results.write(made.folder).count("| not made |") == 3  # how to compute is no part of it
    toy.project(project, toy.params(train__seed=5))
    with pytest.raises(AvsetError, match="changed since the plan was made; run `avset tables`"):
        results.write(made.folder)


@pytest.mark.parametrize(
    ("only", "found"),
    [("5,text", ["losses", "text"]), ("2", ["systems"]), ("7 , 5", ["losses", "text"]), ("claims,", ["claims"])],
)
def test_tables_are_chosen_by_name_or_number(project: Path, only: str, found: list[str]):
    assert [table["name"] for table in plan(only).tables] == found


@pytest.mark.parametrize(
    ("rows", "told"),
    [(ROWS % "preset.losses.trimodel: 1.0", r"one, other: presets.avset.losses.trimodel: params.yaml has no such key; "
      r"did you mean presets.avset.losses.trimodal\?"),
     (ROWS % "caption.tokens: 2", r"one, other: caption.tokens: .* did you mean captions.tokens\?"),
     (ROWS % "preset.losses.trimodal: -1.0", "one, other: presets.avset.losses.trimodal: .* not -1.0"),
     (ROWS % "model.crop: 60", "one, other: scales.demo.model.crop: .* multiple of 32"),
     (ROWS % "runtime.workers: 2", "one, other: runtime.workers: no row can change it"),
     (ROWS % "dataset: music", "one, other: dataset: no row can change it"),
     ("rows: [{name: other}]", r"tables.one.reference: 'as it is' is not one of other"),
     ("rows: [{name: as it is}, {name: as it is}]", "two rows of the name 'as it is'; rename one"),
     ("rows: [{name: as it is, sets: {}}]", r"tables.one.rows.0.sets: unknown key; did you mean .*set\?"),
     ("rows: []", "tables.one.rows: "), ("", "tables.one.rows: missing from tables/tables.yaml")],
)  # fmt: skip
def test_bad_input_is_one_sentence_with_the_thing_and_the_cure(project: Path, rows: str, told: str):
    one_table(rows)
    with pytest.raises(AvsetError, match=told) as caught:
        plan()
    assert "\n" not in str(caught.value)


def test_an_unknown_table_is_refused(project: Path):
    with pytest.raises(AvsetError, match=r"--only: 'loses' is not one of .*; did you mean losses\?"):
        plan("loses")


@pytest.mark.parametrize("name", ["regions", "captions"])
def test_what_a_method_needs_must_be_there(project: Path, name: str):
    (project / DATA / name / "record.json").unlink()
    with pytest.raises(AvsetError, match=rf"{DATA / name}.* is not there; make it with `dvc repro {name}`"):
        plan("losses")


def test_what_no_stage_makes_is_refused_by_name(project: Path, monkeypatch: pytest.MonkeyPatch):
    from avset.models.avset import Method

    monkeypatch.setattr(Method, "needs", frozenset({"graphs"}))
    with pytest.raises(AvsetError, match=r"losses, none: paper needs graphs, which no stage of dvc\.yaml makes"):
        plan("losses")


def pairs(videos: int, each: int, rng: np.random.Generator) -> list[list[str]]:
    """Mixtures of two videos, every video in `each` of them."""
    orders = [rng.permutation(videos) for _ in range(each)]
    return [[str(order[i]), str(order[i + 1])] for order in orders for i in range(0, videos - 1, 2)]


def test_the_standard_error_is_that_of_all_other_tables():
    rng = np.random.default_rng(0)
    videos, values = pairs(12, 3, rng), rng.standard_normal((2, 18))
    assert Clusters(videos).standard_error(values) == pytest.approx([standard_error(one, videos) for one in values])


@pytest.mark.parametrize(
    ("differences", "p"),
    [([1.0, 2.0, 3.0], 2 / 8), ([1.0, 2.0, 3.0, 4.0], 2 / 16), ([1.0, -1.0, 1.0, -1.0], 1.0), ([0.0, 0.0, 0.0], 1.0)],
)
def test_the_paired_test_counts_signs(differences: list[float], p: float):
    """Of 2^n ways to flip signs, two are as far from zero as when all are equal."""
    assert paired_test(np.array(differences), [[str(i)] for i in range(len(differences))]) == pytest.approx(p)


def test_one_mixture_or_a_video_in_all_of_them_tells_nothing():
    assert math.isnan(paired_test(np.array([1.0]), [["a", "b"]]))
    assert math.isnan(paired_test(np.array([1.0, 2.0]), [["a", "b"], ["a", "c"]]))


def test_the_paired_test_holds_its_level_where_mixtures_share_videos():
    """Without a true difference it rejects about one time in twenty; a test that takes mixtures as draws does not."""
    rng = np.random.default_rng(0)
    rejected = naive = 0
    for _ in range(80):
        videos, effect = pairs(24, 3, rng), rng.standard_normal(24)
        differences = np.array([effect[int(one)] + effect[int(other)] for one, other in videos])
        rejected += paired_test(differences, videos, 99) < 0.05
        naive += paired_test(differences, [[str(i)] for i in range(len(videos))], 99) < 0.05
    assert rejected <= 10 < 15 <= naive
    assert paired_test(differences + 9.0, videos, 99) <= 0.02, "and finds one that is there"


def test_several_tests_are_raised_by_holm():
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Scores of two methods on eight mixtures of sixteen videos: `b` is 2 dB better than `a`, with two seeds each."""
    names = [f"test-{i}" for i in range(8)]
    mixtures = [
        {"mixture_id": name, "split": "test", "clips": ["", ""], "contents": [f"{name}-0", f"{name}-1"],
         "labels": ["x", "y"], "offsets": [0, 0], "gains": [1.0, 1.0], "seed": 0} for name in names
    ]  # fmt: skip
    write_table(tmp_path / "mixtures" / "mixtures.parquet", mixtures, MIXTURES)
    for method, gain in (("a", 1.0), ("b", 3.0)):
        for seed in (0, 1):
            rows = [
                {"method": method, "query": "video", "mixture_id": name, "source": n, "clip_id": "", "label": "x",
                 "sdr": 0.0, "sir": 5.0, "sar": 7.0, "nsdr": gain + 0.1 * i + 0.2 * seed, "moving": 0.5,
                 "silent": False}
                for i, name in enumerate(names) for n in (0, 1)
            ]  # fmt: skip
            write_table(tmp_path / f"{method}{seed}" / "scores.parquet", rows, SCORES)
            (tmp_path / f"{method}{seed}.json").write_text(json.dumps({"seconds": 10.0 + seed}))
    return tmp_path


def table(**changes: Any) -> dict[str, Any]:
    def row(name: str, method: str, query: str = "video", missing: str = "") -> dict[str, Any]:
        made = [{"seed": seed, "scores": f"{method}{seed}", "cost": f"{method}{seed}.json", "mixtures": ["mixtures"],
                 "nodes": [f"train-{method}-{seed}", f"evaluate-{method}-{seed}"]} for seed in (0, 1)]  # fmt: skip
        return {"name": name, "encoder": "", "method": method, "query": query, "paper": None, "missing": missing,
                "needs": [], "steps": 6, "cells": [] if missing else made}  # fmt: skip

    rows = [row("AV-SeT", "a"), row("<b>", "b"), row("AVSGS", "c", missing="params.yaml has no preset c"),
            row("words", "a", "text")]  # fmt: skip
    return {"name": "systems", "title": "All", "numbers": [2], "note": "", "split": "test", "duets": False,
            "reference": "AV-SeT", "published": True, "rows": rows} | changes  # fmt: skip


def test_a_row_has_means_errors_and_a_difference_that_holds(scores: Path):
    reference, better, missing, words = results.results_of(table(), scores, "solos")["rows"]
    assert reference["nsdr"] == pytest.approx(1.45) and better["nsdr"] == pytest.approx(3.45)
    assert reference["sd"] == pytest.approx(0.2 / math.sqrt(2)) and reference["seconds"] == 10.5
    videos = [[f"test-{i}-0", f"test-{i}-1"] for i in range(8) for _ in range(2)]
    assert reference["sem"] == pytest.approx(standard_error(np.repeat(np.arange(8) * 0.1, 2), videos))
    assert better["separation_difference"] == pytest.approx(2.0) and better["separation_p"] == pytest.approx(2 / 256)
    assert better["separation_holds"] and "separation_p" not in reference
    assert missing["missing"] == "params.yaml has no preset c" and missing["paper"] == [9.20, 14.05, 12.17]
    assert words["missing"] == "a answers no text query"


def test_a_row_of_scores_has_means_and_no_cost(scores: Path):
    told = table()
    theirs = {**told["rows"][1], "method": "", "steps": None}
    theirs["cells"] = [{**theirs["cells"][0], "seed": None, "cost": ""}]
    row = results.results_of({**told, "rows": [told["rows"][0], theirs]}, scores, "demo")["rows"][1]
    assert row["nsdr"] == pytest.approx(3.35) and row["separation_difference"] == pytest.approx(1.9)
    assert (row["supervision"], row["seconds"], row["seeds"]) == ("", None, 1)


def test_a_difference_that_seeds_do_not_share_does_not_hold():
    names = [str(i) for i in range(8)]
    videos = {name: [name] for name in names}
    zero = [{(name, 0): 0.0 for name in names}] * 2
    assert results.compare([{(n, 0): 2.0 for n in names}, {(n, 0): -0.5 for n in names}], zero, videos)[2] is False
    assert results.compare([{(n, 0): 2.0 for n in names}, {(n, 0): 0.5 for n in names}], zero, videos)[2] is True


@pytest.mark.parametrize(("dataset", "paper"), [("solos", True), ("demo", False), ("music21", False)])
def test_the_papers_numbers_stand_beside_those_of_its_own_data_sets(scores: Path, dataset: str, paper: bool):
    made = [results.results_of(table(), scores, dataset)]
    text = as_markdown(dataset, made)
    assert ("8.58 / 14.16 / 12.35" in text) == paper
    assert "## All (Table 2)" in text and "Missing: AVSGS: params.yaml has no preset c." in text
    assert "| <b> | b | 3.45 |" in text and "+2.00 (p 0.008, holds) |" in text
    assert "All rows: supervision none, query video query, sources 16, silent 0, seeds 2, steps 6." in text
    rows = list(csv.DictReader(io.StringIO(as_table(made))))
    assert [row["name"] for row in rows] == ["AV-SeT", "<b>", "AVSGS", "words"]
    assert float(rows[1]["nsdr"]) == pytest.approx(3.45) and rows[2]["missing"] == "params.yaml has no preset c"
    page = as_html(dataset, made)
    assert "&lt;b&gt;" in page and "<b>" not in page and ("8.58 / 14.16" in page) == paper
    assert not re.search(r"<script|https?://(?!www\.w3)", page), "offline, static"


def test_the_page_has_the_cells_that_are_there_and_says_why_the_others_are_not(scores: Path):
    """Of two seeds one; a row of which one failed; one that nobody tried; the reference, which is out of date."""
    shutil.rmtree(scores / "b1")
    make_folder(scores / make.WORK)
    (scores / make.WORK / "train-d-0.failed").write_text("a | batch is too large.")
    row = table()["rows"][0]
    late = [{**row, "name": name, "cells": [{**cell, "scores": f"{name}{cell['seed']}", "nodes": [f"train-{name}-0"]}
             for cell in row["cells"]]} for name in "de"]  # fmt: skip
    asked = table(rows=[*table()["rows"][:2], *late])
    made = results.results_of(asked, scores, "demo")
    first, half, failed, waiting = made["rows"]
    assert (first["seeds"], half["seeds"], half["partial"]) == (2, 1, ["seed 1: not made"])
    assert half["nsdr"] == pytest.approx(3.35) and half["separation_difference"] == pytest.approx(1.9)
    assert failed["missing"] == "failed: train: a | batch is too large" and waiting["missing"] == "not made"
    text = as_markdown("demo", [made])
    assert "| d | a | failed |" in text and "| e | a | not made |" in text and "| AV-SeT | a | 1.45 |" in text
    for told in ("<b>: seed 1: not made.", "d: failed: train: a | batch is too large.", "e: not made."):
        assert f"Missing: {told}" in text
    rows = list(csv.DictReader(io.StringIO(as_table([made]))))
    assert [row["missing"] for row in rows] == ["", "seed 1: not made", failed["missing"], "not made"]
    assert re.search(r">d</span></th>\s*<td[^>]*>a</td>\s*<td[^>]*>failed</td>", as_html("demo", [made]))
    old = results.results_of(asked, scores, "demo", {"train-a-0", "train-a-1"})["rows"]
    assert old[0]["missing"] == "not made: its code or its data changed since" and "separation_p" not in old[1]


def test_a_cell_that_fails_keeps_the_last_line_of_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / make.WORK / "x").mkdir(parents=True)
    (tmp_path / make.PLAN).write_text(json.dumps({"nodes": {"x": {"stage": "none", "method": "", "makes": "data"}}}))
    with pytest.raises(AvsetError, match="x was not made, see above"):
        make.make("x")
    assert "No module named" in make.failure_of(tmp_path, "x") and make.failure_of(tmp_path, "y") == ""


@pytest.mark.parametrize("stop", [AvsetError("a cell failed"), KeyboardInterrupt()])
def test_a_run_that_stops_leaves_the_page_of_what_it_has(project: Path, monkeypatch: pytest.MonkeyPatch, stop):
    made = plan("4")
    made.write()

    def stopped(_: Plan) -> None:
        raise stop

    monkeypatch.setattr(make, "repro", stopped)
    monkeypatch.setattr(make, "_status", lambda folder: dict.fromkeys(made.nodes))
    with pytest.raises(type(stop)):
        results.repro(made)
    assert (made.folder / "results.md").read_text().count("| not made |") == 3
    assert "not made" in (made.folder / "results.html").read_text()


def test_the_time_that_is_left_is_told_once_a_cell_was_timed(tmp_path: Path):
    names = ["train-a-1", "evaluate-a-1", "train-a-2", "evaluate-a-2", "evaluate-a-3", "results"]
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": dict.fromkeys(names)}))
    (tmp_path / "nodes").mkdir()
    assert make.progress(tmp_path) == "tables: 0 of 3 cells are made"
    for name, seconds in (("train-a-1", 500.0), ("evaluate-a-1", 100.0), ("train-a-2", None)):
        (tmp_path / "nodes" / f"{name}.json").write_text(json.dumps({"seconds": seconds}))
    assert make.progress(tmp_path) == "tables: 1 of 3 cells are made; the others take about 20 min"


@pytest.mark.slow
def test_cells_are_made_once_and_a_changed_weight_remakes_its_rows_alone(toy_data: Path, tmp_path: Path):
    folder = toy.clone(toy_data, tmp_path / "project")
    tree = toy.params(presets__avset__warmup=0)
    rows = "rows: [{name: as it is}, {name: mask, set: {preset.losses.trimodal: 0.0, preset.losses.caption: 0.0}}]"
    text = f"method: avset\ntables:\n  one: {{title: One, duets: true, query: text, reference: as it is, {rows}}}\n"
    (folder / "tables").mkdir()
    (folder / FILE).write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{toy.ROOT / 'pipeline'}", "AVSET_CACHE": str(tmp_path / "cache"),
                   "DVC_SITE_CACHE_DIR": str(tmp_path / "site"), "DVC_NO_ANALYTICS": "1"}  # fmt: skip

    def run() -> tuple[str, list[str]]:
        command = [sys.executable, "-m", "avset", "tables", "--steps", "2"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        ran = re.findall(r"Running stage '(\w+?)(?:-[^']*)?':", done.stdout)
        return done.stdout, sorted(ran)

    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    said, ran = run()
    assert ran == ["evaluate", "evaluate", "results", "train", "train"] and "2 cells, 2 to make" in said
    out = folder / "tables" / "demo" / "demo"
    first = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert [row["steps"] for row in first] == ["2", "2"] and all(float(row["seconds"]) > 0 for row in first)
    assert all(row["own"] and row["nsdr"] for row in first)
    said, ran = run()
    assert ran == [] and "2 cells, 0 to make" in said
    tree["presets"]["avset"]["losses"]["trimodal"] = 0.5
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    said, ran = run()
    assert ran == ["evaluate", "results", "train"] and "2 cells, 1 to make" in said
    second = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert second[0]["nsdr"] != first[0]["nsdr"] and second[1]["nsdr"] == first[1]["nsdr"]

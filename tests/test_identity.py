"""A version decides what is reused; the digest of the code is an alarm."""

import json
from pathlib import Path

import pytest

from avset.compute.identity import RECIPES, Recipe, code_digest
from avset.errors import AvsetError

CODE = '''"""What it does."""

STEPS = 3


def ascend(start):
    """Three steps up."""
    end = start + STEPS
    return end
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only module of the stage `captions`, version 1 of whose recipe it has."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {captions: {deps: [captions.py, data/regions]}}")
    Path("captions.py").write_text(CODE)
    Path("stages").mkdir()
    Recipe("captions").renew()
    return Path("captions.py")


@pytest.mark.parametrize(
    "change",
    [("STEPS = 3", "STEPS = 3  # of the ascent"), ("Three steps", "Some steps"), ("STEPS = 3", "STEPS = (\n    3\n)")],
)
def test_comments_docstrings_and_layout_are_no_change(module: Path, change: tuple[str, str]):
    module.write_text(CODE.replace(*change))
    assert module.read_text() != CODE
    Recipe("captions").check()


def test_a_module_may_move(module: Path, tmp_path: Path):
    elsewhere = tmp_path / "room" / "captions.py"
    elsewhere.parent.mkdir()
    elsewhere.write_text(CODE)
    assert code_digest([elsewhere]) == code_digest([module])


@pytest.mark.parametrize("change", [("STEPS = 3", "STEPS = 4"), ("end", "top")])
def test_other_code_neither_adopted_nor_versioned_is_refused(module: Path, change: tuple[str, str]):
    module.write_text(CODE.replace(*change))
    with pytest.raises(AvsetError) as refused:
        Recipe("captions").check()
    assert str(refused.value).startswith(
        "the code of captions changed since version 1: adopt it with `python -m stages."
    )
    assert "--adopt 20" in str(refused.value) and "--new-version" in str(refused.value)


def test_adopted_code_keeps_the_version_and_other_results_get_a_new_one(module: Path):
    first = Recipe("captions").version
    module.write_text(CODE.replace("end", "top"))
    Recipe("captions").adopt()
    Recipe("captions").check()
    assert Recipe("captions").version == first
    module.write_text(CODE.replace("STEPS = 3", "STEPS = 4"))
    Recipe("captions").renew()
    Recipe("captions").check()
    assert Recipe("captions").version.startswith("2-") and first.startswith("1-")
    module.write_text(CODE)
    with pytest.raises(AvsetError, match="changed since version 2"):
        Recipe("captions").check()


def test_two_branches_that_raise_the_same_number_do_not_meet(module: Path):
    common, versions = RECIPES.read_text(), set()
    for steps in (4, 5):
        RECIPES.write_text(common)
        module.write_text(CODE.replace("STEPS = 3", f"STEPS = {steps}"))
        Recipe("captions").renew()
        versions.add(Recipe("captions").version)
    assert len(versions) == 2 and all(version.startswith("2-") for version in versions)


def test_without_a_row_every_code_is_a_version_of_its_own(module: Path):
    RECIPES.unlink()
    first = Recipe("captions").version
    module.write_text(CODE.replace("end", "top"))
    Recipe("captions").check()
    assert Recipe("captions").version != first


def test_a_damaged_file_of_versions_is_named(module: Path):
    RECIPES.write_text("{")
    with pytest.raises(AvsetError, match=r"stages/recipes.json is not valid JSON"):
        Recipe("captions")


def test_the_recipes_of_this_checkout_are_those_of_its_code(monkeypatch: pytest.MonkeyPatch):
    """Else every stage would refuse to run. `--adopt`, or `--new-version`, is a part of a change."""
    from avset import params
    from avset.sources.clips import drawing
    from stages.train import recipe_of

    monkeypatch.chdir(Path(__file__).parents[1])
    names = set(json.loads(RECIPES.read_text()))
    drawn = drawing("demo")
    assert drawn
    recipes = [Recipe(name) for name in ("clips", "frames", "spectrograms", "regions", "captions")]
    for recipe in (*recipes, drawn, recipe_of(params.load(), "avset")):
        recipe.check()
        names.discard(recipe.name)
    assert names == set()

"""Every test runs with the shapes in the signatures checked, on one thread, with a cache of its own."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the Makefile says so too: plugins may import numpy earlier
LIBRARY = Path(__file__).parents[1] / "pipeline" / "avset"
ROOMS = [f"avset.{p.stem}" for p in LIBRARY.glob("[a-z]*") if p.name != "sources"]  # drawing is too slow with checks
hook = install_import_hook([*ROOMS, "avset.sources.clips", "avset.sources.folder"], "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With --dist loadgroup, what needs the toy data runs in one process, which makes them once."""
    for item in items:
        if "toy_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("toy"))


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The item cache of one test: empty, and gone afterwards."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AVSET_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with all stages up to the mixtures done on a tiny data set. Read it, don't change it."""
    import toy

    folder = toy.project(tmp_path_factory.mktemp("toy") / "project", toy.params())
    toy.run(folder, folder.parent / "cache")
    return folder


@pytest.fixture(scope="session")
def scored(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with a trained, evaluated and reported model. Read it, don't change it."""
    import toy

    folder = toy.clone(toy_data, tmp_path_factory.mktemp("scored") / "project")
    toy.run(folder, folder.parent / "cache", "train", "evaluate", "report")
    return folder

"""Every test runs with the shapes in the signatures checked, on one thread, with a cache of its own."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from jaxtyping import install_import_hook

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a script is born without Ctrl-C
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray says 15, which starves beside a busy program
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the Makefile says so too: plugins may import numpy earlier
LIBRARY = Path(__file__).parents[1] / "pipeline" / "avset"
ROOMS = [f"avset.{p.stem}" for p in LIBRARY.glob("[a-z]*") if p.name != "sources"]  # drawing is too slow with checks
hook = install_import_hook([*ROOMS, "avset.sources.clips", "avset.sources.folder"], "beartype.beartype")
LONGEST = ("sharing", "crashes", "pipeline", "ray_worker", "distributed")  # files, the longest first


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who needs the model of `scored` is slow.

    With --dist loadfile, the files that take longest begin first, so that the processes end together.
    """
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    for item in items:
        if "scored" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The item cache of one test: empty, and gone afterwards."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AVSET_CACHE", str(folder))
    return folder


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """Run the command line `main` with some words: (exit code, what it said, its errors)."""

    def command(main: Callable[[], None], *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["avset", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return command


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a folder for all processes of this run: the first that asks fills it, the others wait."""
    own = tmp_path_factory.getbasetemp()
    base = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        folder = base / name
        with FileLock(base / f"{name}.lock"):
            if not folder.exists():
                new = base / f"{name}.new"
                shutil.rmtree(new, ignore_errors=True)
                fill(new)
                new.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def toy_data(once: Once) -> Path:
    """A project folder with all stages up to the mixtures done on a tiny data set. Read it, don't change it."""
    import toy
    from power import Order

    def fill(root: Path) -> None:
        with Order().watching() as order:
            toy.run(toy.project(root / "project", toy.params()), root / "cache")
        (root / "faults").write_text("\n".join(order.faults))

    return once("toy", fill) / "project"


@pytest.fixture(scope="session")
def scored(toy_data: Path, once: Once) -> Path:
    """The toy project with a trained, evaluated and reported model. Read it, don't change it."""
    import toy
    from power import Order

    def fill(root: Path) -> None:
        root.mkdir()
        project = toy.clone(toy_data, root / "project")
        with Order().watching() as order:
            toy.run(project, root / "cache", "train", "evaluate", "report")
        (root / "faults").write_text("\n".join(order.faults))

    return once("scored", fill) / "project"

"""A model as people share it: a folder that needs nothing else, from a hub, or from a DVC repository."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
import toy
from repository import Project

from avset import params
from avset.__main__ import main
from avset.errors import AvsetError
from avset.inference.files import separate_file_to_file
from avset.inference.hub import locate
from avset.inference.separate import Separator
from avset.report.card import export
from avset.sources import Entry, demo
from avset.storage.artifacts import Record, identity_of
from avset.storage.checksums import damages
from avset.storage.hub import check_start, unwatched

MODEL = Path("data/demo/demo/models/avset")


@pytest.fixture
def shared(scored: Path, tmp_path: Path) -> Path:
    folders = [scored / path for path in (MODEL, "data/demo/demo/encoder", "reports/demo/demo")]
    export(*folders, "demo", tmp_path / "shared")
    return tmp_path / "shared"


def test_a_shared_model_is_whole_and_tells_what_it_is(scored: Path, shared: Path):
    assert Separator.load(shared).model.settings == Separator.load(scored / MODEL).model.settings
    assert damages(shared) == {} and identity_of(shared, "models") == identity_of(scored / MODEL, "models")
    assert Record.read(shared) == Record.read(scored / MODEL)
    text = (shared / "README.md").read_text()
    mean = json.loads((scored / "reports/demo/demo/metrics.json").read_text())["avset"]["text"]["nsdr"]
    assert f"| avset | text | {mean:.2f} |" in text and "synthesised sound only" in text
    counts = json.loads((scored / "reports/demo/demo/coverage.json").read_text())["clips"]["labels"]
    for label, count in counts.items():
        assert f"| {label} | {' | '.join([str(count['ok'])] * 6)} | none |" in text, "listed, and in five stages"
    assert identity_of(shared, "models") in text and "began with" not in text
    with pytest.raises(AvsetError, match="shared is there already"):
        export(scored / MODEL, scored / "data/demo/demo/encoder", scored / "reports/demo/demo", "demo", shared)


def test_a_card_tells_what_was_lost_and_what_it_started_from(scored: Path, tmp_path: Path):
    folder = toy.clone(scored, tmp_path / "project")
    model, encoder, reports = (folder / path for path in (MODEL, "data/demo/demo/encoder", "reports/demo/demo"))
    coverage = json.loads((reports / "coverage.json").read_text())
    violin = coverage["frames"]["labels"]["violin"]
    coverage["frames"]["labels"]["violin"] = {"ok": violin["ok"] - 1, "failed": 1, "reasons": {"corrupt": 1}}
    coverage["frames"]["reasons"] = {"corrupt": 1}
    (reports / "coverage.json").unlink()
    (reports / "coverage.json").write_text(json.dumps(coverage | {"lists": {"my.csv": {"rows": 9, "used": 7}}}))
    toy.seal(reports)
    told = Record.read(model)
    recipe = told.recipe | {"train": told.recipe["train"] | {"start_from": "demo"}}
    replace(told, recipe=recipe, inputs=told.inputs | {"start": "1" * 64}).write(model)
    export(model, encoder, reports, "vggsound", tmp_path / "to")
    text, ok = (tmp_path / "to" / "README.md").read_text(), violin["ok"]
    assert f"| violin | {ok} | {ok} | {ok - 1} | {ok} | {ok} | {ok} | 1 corrupt (frames) |" in text
    assert "- `corrupt`: the file cannot be decoded" in text and "- list `my.csv`: 9 rows, 7 used" in text
    assert "VGGSound lists (University of Oxford; lists CC BY 4.0)" in text and "license: other" in text
    assert f"began with the weights of `demo` (model `{'1' * 64}`)" in text


def test_only_a_model_of_the_parameters_is_exported(
    scored: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line
):
    """Of another one the card would tell the wrong data."""
    monkeypatch.chdir(scored)
    code, _, said = command_line(main, "export", tmp_path / "again", "--model", shared)
    assert code == 1 and "is none of data/demo/demo/models, whose data and scores the card tells; set dataset" in said
    code, said, _ = command_line(main, "export", tmp_path / "again")
    assert code == 0 and (tmp_path / "again" / "README.md").read_text() == (shared / "README.md").read_text()


def test_a_card_has_no_scores_of_another_model(scored: Path, tmp_path: Path):
    folder = toy.clone(scored, tmp_path / "project")
    weights = folder / MODEL / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes().replace(b"steps", b"Steps", 1))
    toy.seal(folder / MODEL)
    for reports, said in ((folder / "reports/demo/demo", "Nobody scored this model"), (tmp_path, "Nobody counted")):
        export(folder / MODEL, folder / "data/demo/demo/encoder", reports, "folder", tmp_path / f"to {reports.name}")
        assert said in (tmp_path / f"to {reports.name}" / "README.md").read_text()


@pytest.fixture
def hub(shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A hub on this machine that has the shared model; gives the paths that it was asked for."""
    asked, home = list[str](), "/some/one/resolve/main/"

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            file = shared / self.path.removeprefix(home)
            self.there = self.path.startswith(home) and file.is_file()
            self.send_response(200 if self.there else 404)
            self.data = file.read_bytes() if self.there else b""
            self.send_header("ETag", f'"{hashlib.sha256(self.data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", str(len(self.data)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(self.data)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()


def test_a_model_comes_from_a_hub_and_is_checked(hub: list[str], shared: Path):
    folder = locate("hf:some/one")
    assert Separator.load(folder).encoder.digest == Separator.load(shared).encoder.digest
    assert folder != shared and all(Path(path).suffix in (".json", ".safetensors") for path in hub)
    with pytest.raises(AvsetError, match=r"^hf:some/other cannot be fetched: .*; look for the name"):
        locate("hf:some/other")


def test_the_model_that_comes_with_the_library_knows_what_is_not_there(private_cache: Path, tmp_path: Path):
    separator = Separator.load(locate("demo"))
    assert locate("demo").parent == private_cache / "shared"
    film = tmp_path / "a.mp4"
    demo.fetch(Entry("accordion-test-000", "test", ("accordion",), "demo"), demo.Options(duration=4.0), film)
    queries = [f"person playing {thing}" for thing in ("an accordion", "a violin")] + ["quantum chromodynamics"]
    found = separator.separate(film, queries)
    assert found.presence and found.presence[0] > 0.5 > max(found.presence[1:])
    assert found.energies[0] > 0.5 and not found.sounds[1:].any()
    assert all(separator.separate(film, queries, keep_absent=True).energies)
    outputs = [tmp_path / f"{number}.wav" for number in range(3)]
    done = separate_file_to_file(separator, film, queries, outputs, residual=tmp_path / "rest.wav")
    assert done.presence == pytest.approx(found.presence) and done.energies[1:] == (0, 0)
    sounds = [soundfile.read(path, dtype="int16")[0].astype(int) for path in (*outputs, tmp_path / "rest.wav")]
    assert np.abs(sounds[0]).max() > 1000 and not sounds[1].any() and not sounds[2].any()
    kept = separate_file_to_file(separator, film, queries, outputs, overwrite=True, keep_absent=True)
    assert kept.energies[1] > 0.05


def test_where_no_model_is(tmp_path: Path):
    for address in (str(tmp_path / "none"), "hf:no-owner", "a:b"):
        with pytest.raises(AvsetError, match=r"there is no model .*; give a folder, demo, hf:"):
            locate(address)
    assert locate(tmp_path) == tmp_path


def test_what_a_training_may_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And of which folders DVC notices changes."""
    monkeypatch.chdir(tmp_path)
    for name in ("inputs/models/a", "b"):
        (tmp_path / name).mkdir(parents=True)
    places = {"inputs/models/a": False, str(tmp_path / "b"): True, "demo": False, "hf:a/b": False, "#HEAD:avset": False}
    assert {place: unwatched(place) for place in places} == places
    for place in (*places, None):
        check_start(params.resolve(toy.params(train__start_from=place), toy.ROOT))
    with pytest.raises(AvsetError, match=r"^train\.start_from: there is no model 'c'; give a folder, demo, hf:"):
        check_start(params.resolve(toy.params(train__start_from="c"), toy.ROOT))


@pytest.mark.slow
def test_a_model_comes_from_a_dvc_repository(toy_data: Path, scored: Path, tmp_path: Path, private_cache: Path):
    project = Project.done(tmp_path / "theirs", toy_data, scored, git=True)
    project.commit()
    for tag in ("v1", "avset@v1.0.0", "regions@v1.0.0"):
        project.git("tag", "--annotate", tag, "--message", tag)
    address = f"{project.folder}#v1:{MODEL}"
    folder = locate(address)
    assert Separator.load(folder).model.settings == Separator.load(scored / MODEL).model.settings
    named = locate(f"{project.folder}#avset@v1.0.0:avset")
    assert identity_of(named, "models") == identity_of(folder, "models")
    for name, made in (("avset", MODEL), ("regions", MODEL.parents[1] / "regions")):
        project.dvc("artifacts", "get", str(project.folder), name, "--out", str(tmp_path / name))
        assert damages(tmp_path / name) == {} and Record.read(tmp_path / name) == Record.read(scored / made)
    shutil.rmtree(project.folder / ".dvc" / "cache")
    assert locate(address) == folder, "what was fetched once is there"
    for wrong in (f"{project.folder}#v2:{MODEL}", f"{project.folder}#v1:{MODEL.parent}/other"):
        with pytest.raises(AvsetError, match=r"cannot be fetched: .*; give a folder"):
            locate(wrong)
    assert {path.name for path in (private_cache / "shared").iterdir()} == {folder.name, named.name}

"""A model as people share it: a folder that needs nothing else, from a hub, or from a DVC repository."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
import toy
from repository import Project

from avset.errors import AvsetError
from avset.inference.files import separate_file_to_file
from avset.inference.hub import locate
from avset.inference.separate import Separator
from avset.report.card import export
from avset.sources import Entry, demo
from avset.storage.artifacts import Record, identity_of
from avset.storage.checksums import damages

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
    clips = json.loads((scored / "reports/demo/demo/coverage.json").read_text())["clips"]["ok"]
    assert f"clips: {clips} (" in text and identity_of(shared, "models") in text
    with pytest.raises(AvsetError, match="shared is there already"):
        export(scored / MODEL, scored / "data/demo/demo/encoder", scored / "reports/demo/demo", "demo", shared)


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


@pytest.mark.slow
def test_a_model_comes_from_a_dvc_repository(toy_data: Path, scored: Path, tmp_path: Path, private_cache: Path):
    project = Project.done(tmp_path / "theirs", toy_data, scored, git=True)
    project.commit()
    project.git("tag", "v1")
    address = f"{project.folder}#v1:{MODEL}"
    folder = locate(address)
    assert Separator.load(folder).model.settings == Separator.load(scored / MODEL).model.settings
    shutil.rmtree(project.folder / ".dvc" / "cache")
    assert locate(address) == folder, "what was fetched once is there"
    for wrong in (f"{project.folder}#v2:{MODEL}", f"{project.folder}#v1:{MODEL.parent}/other"):
        with pytest.raises(AvsetError, match=r"cannot be fetched: .*; give a folder"):
            locate(wrong)
    assert [path.name for path in (private_cache / "shared").iterdir()] == [folder.name]

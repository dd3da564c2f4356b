"""The page: what its server gives and refuses; the queue; and a real Chromium that listens."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
import soundfile
from media import make_video
from starlette.testclient import TestClient

from avset.errors import AvsetError
from avset.inference.pictures import picture_size
from avset.inference.separate import Separator
from avset.inference.wishes import Query, of_picture
from avset.storage.tables import read_table
from avset.web.examples import Example, examples
from avset.web.jobs import BROKEN, Allowed, Busy, Jobs
from avset.web.serve import listening, local, serve
from avset.web.server import PLAYER, STATIC, application
from bench import separation as bench

HOME = "http://127.0.0.1:8484"
ASK = "/api/separations"
QUERIES = ["person playing a violin", "drum"]
ALLOWED = Allowed(megabytes=0.5, minutes=0.1)


@pytest.fixture(scope="module")
def separator() -> Separator:
    """A model that was never trained, with the demo's encoder."""
    return bench.made("cpu")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("film") / "film.mp4", 2.0)


@pytest.fixture
def client(separator: Separator, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The page of a server whose temporary files are in `tmp_path`."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    app = application(separator, [Example(("violin", "drum"), lambda _: film)], ALLOWED, ("127.0.0.1",))
    with TestClient(app, HOME) as client:
        yield client
    assert not list(tmp_path.glob("avset-web-*"))


def finished(client: TestClient, **given: Any) -> tuple[str, dict[str, Any]]:
    """Ask for a separation, and wait for its end."""
    asked = client.post(ASK, **given)
    assert asked.status_code == 202, asked.text
    key = asked.json()["key"]
    while (told := client.get(f"{ASK}/{key}").json())["state"] in ("waiting", "running"):
        time.sleep(0.02)
    return key, told


def test_the_page_gives_what_the_library_gives(client: TestClient, separator: Separator, film: Path, tmp_path: Path):
    expected = separator.separate(film, QUERIES)
    files = {"params": {"query": QUERIES, "name": r"C:\films\my band.mp4"}, "content": film.read_bytes()}
    for given in (files, {"params": {"query": QUERIES, "example": "1"}}):
        key, told = finished(client, **given)
        assert told["state"] == "done" and told["name"] == ("my band.mp4" if given is files else "violin and drum")
        assert [sound["query"] for sound in told["sounds"]] == QUERIES
        np.testing.assert_allclose([sound["energy"] for sound in told["sounds"]], expected.energies, rtol=1e-5)
        names = [sound["name"] for sound in told["sounds"]]
        mixture = expected.sounds.sum(0) + expected.residual
        for name, sound in zip(
            [*names, "rest", "mixture"], [*expected.sounds, expected.residual, mixture], strict=True
        ):
            written, rate = soundfile.read(io.BytesIO(client.get(f"{ASK}/{key}/{name}.wav").content), always_2d=True)
            assert rate == told["sample_rate"] == expected.sample_rate
            np.testing.assert_allclose(written.T, np.clip(sound, -1, 1), atol=1e-4)
            assert client.get(f"{ASK}/{key}/{name}.jpg").content.startswith(b"\xff\xd8")
        heat = told["heat"]
        shape = (len(QUERIES), len(told["times"]), heat["rows"] * heat["columns"])
        assert np.shape(heat["values"]) == shape and np.max(heat["values"]) <= heat["high"]
        assert client.get(f"{ASK}/{key}/frame-{len(told['times']) - 1}.jpg").status_code == 200
        assert not [file for file in tmp_path.rglob("*") if file.name == "file"], "no upload is kept"
        assert client.get(f"{ASK}/{key}/../{key}/file").status_code == 404
        assert client.delete(f"{ASK}/{key}").status_code == 204
        assert client.get(f"{ASK}/{key}").status_code == 404
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_box_of_what_the_page_shows_and_what_is_not_wanted(client: TestClient, separator: Separator, film: Path):
    """A box of the centre square is one of the whole picture, of which the library speaks."""
    asked = ['{"box": [0.5, 0, 1, 0.5], "without": ["drum"]}', '{"text": "violin", "without": ["a  flute"]}']
    _, told = finished(client, params={"query": asked, "example": "1", "shares": "1"})
    assert told["state"] == "done", told
    box = of_picture((0.5, 0.0, 1.0, 0.5), *picture_size(film))
    queries = [Query(box=box, without=["drum"]), Query("violin", without=["a flute"])]
    expected = separator.separate(film, queries, shares=True)
    np.testing.assert_allclose([sound["energy"] for sound in told["sounds"]], expected.energies, rtol=1e-5)
    assert [sound["box"] for sound in told["sounds"]] == [[0.5, 0, 1, 0.5], None]
    assert [values is None for values in told["heat"]["values"]] == [True, False]
    for path, code in (("1", 200), ("2", 400), ("x", 404)):
        answer = client.get(f"/api/examples/{path}")
        assert answer.status_code == code and (code != 200 or answer.content.startswith(b"\xff\xd8"))


SILENCE = b"".join((b"RIFF", (36 + 2**17).to_bytes(4, "little"), b"WAVEfmt ", (16).to_bytes(4, "little"),
                    bytes.fromhex("0100010040 1f0000803e0000 02001000"), b"data", (2**17).to_bytes(4, "little"),
                    bytes(2**17)))  # fmt: skip


@pytest.mark.parametrize(
    ("params", "body", "code", "said"),
    [({}, b"x", 400, "empty"), ({"query": ["violin", " "]}, b"x", 400, "empty"),
     ({"query": ["violin"] * 2}, b"x", 400, "the same"), ({"query": list("abcdefg")}, b"x", 400, "7 queries"),
     ({"query": "v" * 201}, b"x", 400, "200 letters"), ({"query": "violin"}, b"", 400, "no file"),
     ({"query": "violin", "example": "2"}, b"", 400, "no such example"),
     ({"query": "{"}, b"x", 400, "cannot be read"),
     ({"query": '{"text": "a", "like": "/etc/a.wav"}'}, b"x", 400, "cannot be read"),
     ({"query": '{"box": [0, 0, 1]}'}, b"x", 400, "a box|no box"),
     ({"query": '{"box": [0.5, 0, 0.4, 1]}'}, b"x", 400, "is no box"),
     ({"query": '{"text": "a", "box": [0, 0, 1, 1]}'}, b"x", 400, "text and box"),
     ({"query": '{"text": "a", "without": ["a"]}'}, b"x", 400, "wanted and not wanted"),
     ({"query": '{"text": "a", "without": ["' + "v" * 201 + '"]}'}, b"x", 400, "200 letters"),
     ({"query": '{"box": [0, 0, 1, 1]}', "name": "long.wav"}, SILENCE, 202, "cannot take a picture from 'long.wav'"),
     ({"query": "violin", "example": "²"}, b"", 400, "no such example"),
     ({"query": "violin"}, bytes(600_000), 413, "larger than 0.5 MB"),
     ({"query": "violin"}, [bytes(300_000)] * 2, 413, "larger than 0.5 MB"),
     ({"query": "violin", "name": "/my/notes.txt"}, b"no sound", 202, "notes.txt"),
     ({"query": "violin " * 28}, SILENCE, 202, "too long|longer"),
     ({"query": "violin", "name": "long.wav"}, SILENCE, 202, "longer than 0.1 minutes")],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence_without_a_path(
    client: TestClient, tmp_path: Path, params: dict[str, Any], body: Any, code: int, said: str
):
    content = iter(body) if isinstance(body, list) else body
    if code == 202:
        told = finished(client, params=params, content=content)[1]
    else:
        answer = client.post(ASK, params=params, content=content)
        assert answer.status_code == code
        told = answer.json()
    assert re.search(said, told["error"]) and len(told["error"].splitlines()) == 1
    assert str(tmp_path.parent) not in told["error"] and "/" not in told["error"]
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("headers", "code"),
    [({}, 200), ({"host": "127.0.0.1"}, 200), ({"origin": HOME}, 200), ({"origin": "http://evil.example"}, 403),
     ({"origin": "null"}, 403), ({"host": "evil.example"}, 403), ({"host": "[::1"}, 403),
     ({"host": "evil.example", "origin": "http://evil.example"}, 403)],
)  # fmt: skip
def test_the_page_of_another_site_gets_nothing(client: TestClient, headers: dict[str, str], code: int):
    for path in ("/", "/api/about", "/static/app.js"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == code and answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


def test_the_page_is_of_its_own_files_alone(client: TestClient):
    page = client.get("/")
    nonce = re.search(r'name="nonce" content="(.+?)"', page.text)
    assert nonce and f"'nonce-{nonce[1]}'" in page.headers["content-security-policy"]
    assert nonce[1] not in client.get("/").text
    for folder, files in (("/static", STATIC), ("/static/player", PLAYER)):
        for file in files.iterdir():
            foreign = set(re.findall(rb"//[\w-]+\.[\w.-]+", file.read_bytes())) - {b"//www.w3.org"}  # SVG's name
            assert file.suffix == ".LICENSE" or not foreign, f"{file.name}: {foreign}"
            assert client.get(f"{folder}/{file.name}").status_code == 200
    assert client.get("/static/../server.py").status_code == client.get("/static/%2e%2e/server.py").status_code == 404
    told = client.get("/api/about").json()
    assert told["examples"] == [["violin", "drum"]] and told["allowed"]["megabytes"] == 0.5


def test_one_separation_at_a_time_and_the_others_know_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    jobs = Jobs(Allowed(unfinished=4))
    go, began, done = threading.Event(), threading.Event(), []

    def work(name: str) -> dict[str, Any]:
        began.set()
        assert go.wait(60)
        done.append(name)
        if name == "second":
            raise AvsetError("it is no sound")
        if name == "third":
            raise ValueError(str(tmp_path))
        return {"name": name}

    opened = [jobs.open() for _ in range(4)]
    with pytest.raises(Busy, match="4 separations"):
        jobs.open()
    for job, name in zip(opened, ("first", "second", "third", "fourth"), strict=True):
        (job.folder / "file").touch()
        jobs.start(job, lambda name=name: work(name))
    assert began.wait(60)
    waiting = [{"state": "waiting", "before": before} for before in (1, 2, 3)]
    assert [jobs.status(job) for job in opened] == [{"state": "running"}, *waiting]
    jobs.sweep()
    assert [jobs.find(job.key) for job in opened] == opened, "none is old"
    jobs.remove(opened[3])
    go.set()
    while any(job.unfinished for job in opened[:3]):
        time.sleep(0.01)
    assert done == ["first", "second", "third"]
    assert [jobs.status(job) for job in opened[:3]] == [
        {"state": "done", "name": "first"}, {"state": "failed", "error": "it is no sound"},
        {"state": "failed", "error": BROKEN},
    ]  # fmt: skip
    jobs.allowed = Allowed(kept=0.0)
    jobs.sweep()
    assert jobs.find(opened[0].key) is None and not list(tmp_path.rglob("file"))
    jobs.close()
    assert not list(tmp_path.iterdir())


def test_an_address_of_this_machine_alone_is_the_default(monkeypatch: pytest.MonkeyPatch):
    assert [local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "name")] == [
        True, True, True, False, False, False]  # fmt: skip
    with listening("127.0.0.1", 0) as door, pytest.raises(AvsetError, match="--port"):
        listening(*door.getsockname())
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(AvsetError, match=r"pip install 'avset\[web\]'"):
        serve(Path(), Path(), "127.0.0.1", 0, "cpu", ALLOWED)


def test_examples_are_test_clips_of_the_model_s_data_or_drawn(toy_data: Path, tmp_path: Path):
    clips = toy_data / "data" / "demo" / "clips"
    tests = {clips / row["media"] for row in read_table(clips / "index.parquet") if row["split"] == "test"}
    found = examples(clips)
    assert len(found) > 1 and {one.path(tmp_path) for one in found} < tests
    assert len(found[0].labels) == 2, "a mixture comes first"
    drawn = examples(tmp_path)
    assert len(drawn) == len({one.labels for one in drawn}) and all(len(one.labels) == 2 for one in drawn)
    assert drawn[0].path(tmp_path).read_bytes()[4:8] == b"ftyp"


@pytest.mark.slow
@pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium on this machine")
def test_a_browser_shows_and_plays_what_was_asked_for(scored: Path, tmp_path: Path):
    """By keyboard from the example to the sound; nothing is asked of another machine; nothing is left."""
    command = [sys.executable, "-m", "avset", "web", "--model", "data/demo/demo/models/avset", "--port", "0"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    server = subprocess.Popen(command, cwd=scored, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        address = server.stdout.readline().split()[0]
        with chromium.tab(tmp_path / "profile") as tab:
            tab.screen(1280)
            tab.open(address, chromium.TAP)
            tab.until("document.querySelectorAll('#examples button').length")
            tab.do("document.querySelector('#examples button').focus()")
            tab.press(" ", 32, " ")
            assert tab.do("[...document.querySelectorAll('#queries .text')].every((input) => input.value)")
            tab.do("document.querySelector('#queries input').focus()")
            tab.press("Enter", 13, "\r")
            tab.until("!document.getElementById('found').hidden || document.getElementById('error').textContent")
            assert tab.do("document.getElementById('error').textContent") == ""
            assert tab.do("document.activeElement.id") == "title"
            assert tab.do("loudest().every((loud) => loud === 0)"), "nothing plays before somebody asks for it"
            tab.press(" ", 32, " ")
            tab.until("loudest()[0] > 0.001")
            assert tab.do("loudest().slice(1).every((loud) => loud === 0)"), "the sound plays alone"
            solos = "[...document.querySelectorAll('.solo')]"
            tab.do(f"{solos}.at(-1).click()")
            tab.until(f"{solos}.at(-1).ariaPressed === 'true' && {solos}[0].ariaPressed === 'false'")
            tab.until("document.getElementById('play').textContent === 'Play'")
            tab.do("document.getElementById('at').focus()")
            tab.press("Home", 36)
            assert tab.do("document.getElementById('at').value") == "0"
            for width in (1280, 390):
                for dark in (False, True):
                    tab.screen(width, dark=dark)
                    assert tab.do("document.documentElement.scrollWidth") == width
                    tab.screenshot(tmp_path / f"{width}-{dark}.png")
            drawn = "document.getElementById('picture').getContext('2d').getImageData(0, 0, 384, 384).data"
            assert tab.do(f"new Set({drawn}).size") > 16, "the picture is there"
            assert tab.until("performance.getEntriesByType('resource').length > 10")
            asked = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
            wrong = [e["params"] for e in tab.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        assert asked and all(url.startswith((address, f"blob:{address}", "data:")) for url in asked)
        assert wrong == []
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert not list(temporary.glob("avset-*"))
    finally:
        server.kill()
        server.wait()
        assert server.stdout
        server.stdout.close()

"""Lists of an address or of a file: what is fetched, when, and what is refused."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from avset.errors import AvsetError
from avset.sources import lists
from avset.sources.lists import open_list, read_tree, shown

LIST = b'{"flute": ["aaaaaaaaaaa"]}'


class Handler(BaseHTTPRequestHandler):
    """Answers by path, and writes down who asked for what."""

    server: "Server"

    def log_message(self, *told: object) -> None:
        pass

    def answer(self, code: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if length != -1:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        asked = self.server.asked
        asked.append((self.path, self.headers["User-Agent"]))
        name = self.path.rsplit("/", 1)[-1]
        if name == "moved.json":
            self.answer(302, Location="/list.json")
        elif name == "page.json":
            self.answer(200, b"\xef\xbb\xbf \n<!DOCTYPE html><title>Sign in</title>")
        elif name == "half.json":
            self.answer(200, LIST[:9], length=len(LIST))
        elif name == "half-once.json":
            self.answer(200, LIST[: 9 if len(asked) == 1 else None], length=len(LIST))
        elif name == "busy-once.json":
            self.answer(503 if len(asked) == 1 else 200, b"" if len(asked) == 1 else LIST)
        elif name == "strange.json":
            self.answer(200, LIST, length=-1, **{"Content-Length": "many"})
        elif name == "endless.json":
            self.answer(200, b" " * 5000, length=-1)
        elif name == "no-length.json":
            self.answer(200, LIST, length=-1)
        elif name == "list.json":
            self.answer(200, LIST)
        else:
            self.answer(404, b"<h1>not here</h1>")


class Server(ThreadingHTTPServer):
    """A server of lists on the loopback device."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "PAUSE", 0.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def text(place: str) -> str:
    with open_list(place, "videos") as handle:
        return handle.read()


def error(place: str, read: object = text) -> str:
    with pytest.raises(AvsetError) as caught:
        read(place) if read is text else read_tree(place, "videos")
    told = str(caught.value)
    assert place in told and "clips.options.videos" in told and "\n" not in told
    return told


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "lists").rglob("*")) if (cache / "lists").exists() else []


def test_a_list_is_fetched_once_and_read_without_the_server_afterwards(server: Server, private_cache: Path) -> None:
    place = f"{server.address}/list.json"
    assert text(place) == LIST.decode()
    assert [file.read_bytes() for file in kept(private_cache)] == [LIST]
    assert server.asked == [("/list.json", "avset")]
    server.shutdown()
    server.server_close()
    assert read_tree(place, "videos") == json.loads(LIST)


@pytest.mark.parametrize("name", ["moved", "no-length", "busy-once", "half-once"])
def test_lists_that_come_by_a_detour(server: Server, name: str) -> None:
    assert text(f"{server.address}/{name}.json") == LIST.decode()
    assert len(server.asked) == (1 if name == "no-length" else 2)


@pytest.mark.parametrize(
    ("name", "why", "asked"),
    [("none", "answers 404", 1), ("page", "an HTML page", 1), ("half", "broke off after 9 of 26 bytes", 3),
     ("strange", "many", 3)],
)  # fmt: skip
def test_what_is_no_list_is_named_and_not_kept(
    server: Server, private_cache: Path, name: str, why: str, asked: int
) -> None:
    assert why in error(f"{server.address}/{name}.json")
    assert len(server.asked) == asked and kept(private_cache) == []


def test_nothing_larger_than_a_list_is_kept(server: Server, private_cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(lists, "LARGEST", 1000)
    assert "more than 1000 bytes" in error(f"{server.address}/endless.json")
    assert kept(private_cache) == []


def test_no_server_at_all(server: Server, private_cache: Path) -> None:
    server.shutdown()
    server.server_close()
    assert "refused" in error(f"{server.address}/list.json")
    assert kept(private_cache) == []


def test_an_address_that_is_none() -> None:
    assert "no list at" in error("http://127.0.0.1:port/list.json")


def test_proxies_of_the_environment_are_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    place = "http://lists.invalid/list.json"
    assert text(place) == LIST.decode()
    assert [path for path, _ in server.asked] == [place]


def test_a_kept_list_that_turns_out_to_be_another_one_is_dropped(server: Server, private_cache: Path) -> None:
    place = f"{server.address}/endless.json"
    assert text(place).isspace() and len(kept(private_cache)) == 1
    assert "no JSON" in error(place, read_tree)
    assert kept(private_cache) == []


@pytest.mark.parametrize("place", ["nowhere.csv", "ftp://127.0.0.1/list.csv", "file:///etc/hostname", "/", "a\0b"])
def test_only_files_and_http_addresses_are_lists(place: str) -> None:
    with pytest.raises(AvsetError, match=r"is not there; set clips\.options\.videos"):
        open_list(place, "videos")


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"flute": ["a"], "flute": ["b"]}', "'flute' stands in it twice"), ("[" * 100_000, "no JSON"),
     ("1" * 5000, "no JSON"), ("", "no JSON"), ("<html>", "no JSON"), ("[" + " " * 1000 + "]", "more than 900 bytes")],
)  # fmt: skip
def test_json_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str) -> None:
    monkeypatch.setattr(lists, "LARGEST_TREE", 900 if "900" in why else 10**6)
    (tmp_path / "list.json").write_text(text)
    assert why in error(str(tmp_path / "list.json"), read_tree)


def test_a_byte_order_mark_is_no_part_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_tree(str(tmp_path / "list.json"), "videos") == [1]


@pytest.mark.parametrize("foreign", ["x" * 10_000, "\n" * 60, "\0\x1b[31m\u202e\ud800", "\U0001f3bb" * 70, "'\"\\"])
def test_a_foreign_text_is_short_and_harmless(foreign: str) -> None:
    told = shown(foreign)
    assert told.isprintable() and len(told) < 150
    assert ("characters)" in told) == (len(foreign) > 30)

"""The clips stage on lists of videos on the net: real HTTP from this machine, real yt-dlp, real faults."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
from media import make_video
from server import Fault, Server
from test_store import tree_digest

from avset.errors import AvsetError
from avset.storage.store import Store
from avset.storage.tables import read_table
from avset.training.dataset import Corpus

LIST = """good-one,2,playing flute,train
-dash-first,0,playing flute,train
late,5,playing cello,test
gone,0,playing cello,test
page,0,"playing violin, fiddle",train
deaf,0,playing flute,train
beyond,300,playing flute,train
../../etc,0,playing flute,train
other,0,dog barking,train
"""
REASONS = {"gone_0": "unavailable", "page_0": "unavailable", "deaf_0": "no_audio", "beyond_300000": "too_short"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Name -> the bytes of a small video."""
    folder = tmp_path_factory.mktemp("media")
    made = {"long": make_video(folder / "long.mp4", 16.0, gop=10), "deaf": make_video(folder / "deaf.mp4", audio=False)}
    return {name: path.read_bytes() for name, path in made.items()}


@pytest.fixture
def server(videos: dict[str, bytes]) -> Iterator[Server]:
    """Serves what LIST names."""
    with Server() as running:
        for name in ("good-one", "-dash-first", "late", "beyond", "other"):
            running.put(f"/{name}.mp4", videos["long"])
        running.put("/deaf.mp4", videos["deaf"])
        running.put("/page.mp4", videos["long"], Fault(html=True))
        yield running


def settings(server: Server, table: Path, **download: Any) -> dict[str, Any]:
    """VGGSound on the server's videos, in a hurry."""
    tree = toy.params(dataset="vggsound")
    own = tree["datasets"]["vggsound"]["clips"]
    own["options"] = {"table": str(table), "address": server.url + "/{id}.mp4", "validation": 0.0}
    own["min_success"] = 0.2
    tree["runtime"]["executor"] = "inline"
    tree["runtime"]["download"] |= {"pace": 0.0, "retries": 1, "timeout": 5.0, **download}
    return tree


@pytest.fixture
def project(server: Server, tmp_path: Path) -> Path:
    """A project on LIST."""
    (tmp_path / "list.csv").write_text(LIST)
    return toy.project(tmp_path / "project", settings(server, tmp_path / "list.csv"))


def clips(folder: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """The index after a run of the stage."""
    toy.run(folder, folder.parent / "cache", "clips", **options)
    return index(folder)


def index(folder: Path, dataset: str = "vggsound") -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in read_table(folder / "data" / dataset / "clips" / "index.parquet")}


def test_pieces_are_fetched_and_every_row_is_told(project: Path, server: Server, videos: dict[str, bytes]):
    rows = clips(project)
    assert {clip: row["reason"] for clip, row in rows.items() if row["reason"]}.items() >= REASONS.items()
    invalid = [row for row in rows.values() if row["reason"] == "invalid"]
    assert len(invalid) == 1 and "../../etc" in invalid[0]["detail"] and invalid[0]["media_id"].startswith("row-")
    assert {clip for clip, row in rows.items() if not row["reason"]} == {"good-one_2000", "-dash-first_0", "late_5000"}
    good = rows["good-one_2000"]
    assert (good["origin_start_s"], good["duration_s"], good["labels"], good["split"]) == (
        2.0,
        10.0,
        ["flute"],
        "test",
    ), "it is a piece of the same video as late, which the list has for testing"
    assert good["content"] == rows["late_5000"]["content"]
    assert good["media"] == "media/good-one.mkv" and 0 <= good["start_s"] <= 2.0
    funnel = json.loads((project / "data" / "vggsound" / "clips" / "record.json").read_text())["facts"]["funnel"]
    assert funnel["table"]["rows"] == 9 and funnel["recordings"] == {"rows": 3, "repeated": 2, "distinct": 1}
    inside = {path.name for path in (project / "data" / "vggsound" / "clips" / "media").iterdir()}
    assert inside == {"good-one.mkv", "-dash-first.mkv", "late.mkv"}
    assert "/other.mp4" not in {request.path for request in server.log}


@pytest.mark.slow
def test_what_is_known_is_not_asked_again_and_a_retry_asks_what_failed(project: Path, server: Server, videos: dict):
    clips(project)
    server.log.clear()
    before = tree_digest(project / "data")
    clips(project)
    assert not server.log and tree_digest(project / "data") == before
    clips(project, retry=["removed", "private"])
    assert not server.log, "none of them failed for such a reason"
    server.put("/gone.mp4", videos["long"])
    rows = clips(project, retry=["transient"])
    assert {request.path for request in server.log} == {"/gone.mp4", "/page.mp4"}
    assert rows["gone_0"]["status"] == "ok" and rows["page_0"]["reason"] == "unavailable"
    server.log.clear()
    clips(project, retry=["all"])
    assert {request.path for request in server.log} == {f"/{name}.mp4" for name in ("page", "deaf", "beyond")}
    with pytest.raises(AvsetError, match="'gone' is no reason"):
        clips(project, retry=["gone"])


def test_other_labels_and_lengths_fetch_nothing(project: Path, server: Server):
    clips(project)
    server.log.clear()
    (project.parent / "list.csv").write_text(LIST.replace("playing flute", "playing harp"))
    tree = settings(server, project.parent / "list.csv")
    tree["datasets"]["vggsound"]["clips"]["length"] = 5.0
    rows = clips(toy.project(project, tree))
    assert rows["good-one_7000"]["labels"] == ["harp"] and rows["good-one_7000"]["duration_s"] == 5.0
    assert not server.log


@pytest.mark.slow
@pytest.mark.parametrize(("status", "reason", "row"), [(429, "rate_limited", 3), (404, "unavailable", 4)])
def test_a_site_that_refuses_everybody_ends_the_stage_and_nothing_is_lost(
    server: Server, tmp_path: Path, videos: dict, status: int, reason: str, row: int
):
    names = [f"video{i}" for i in range(8)]
    (tmp_path / "list.csv").write_text("".join(f"{name},0,playing flute,train\n" for name in names))
    for i, name in enumerate(names):
        server.put(f"/{name}.mp4", videos["long"], *([Fault(status=status)] if i >= 2 else []))
    project = toy.project(tmp_path / "project", settings(server, tmp_path / "list.csv", give_up_after=3))
    with pytest.raises(AvsetError, match=rf"last {row} videos.*{reason}.*kept"):
        clips(project)
    assert not (project / "data" / "vggsound" / "clips" / "index.parquet").exists()
    asked = {request.path for request in server.log}
    assert asked == {f"/{name}.mp4" for name in names[: 2 + row]}, "the rest was not even asked for"
    for name in names:
        server.faults[f"/{name}.mp4"] = []
    server.log.clear()
    assert {row["status"] for row in clips(project).values()} == {"ok"}
    assert {request.path for request in server.log} == {f"/{name}.mp4" for name in names[2:]}


def test_half_a_video_is_kept_when_the_connection_fails(server: Server, tmp_path: Path, videos: dict):
    """A whole video: what had arrived before the site broke down is not fetched again."""
    (tmp_path / "list.json").write_text(json.dumps({"videos": {"flute": ["one", "two", "three"]}}))
    for name in ("one", "two"):
        server.put(f"/{name}.mp4", videos["long"])
    server.put("/three.mp4", videos["long"], Fault(reset=40_000, times=2, plain=False), Fault(status=503, plain=False))
    tree = settings(server, tmp_path / "list.json", retries=0)
    own = tree["datasets"]["music"]["clips"]
    own |= {"options": {"solos": str(tmp_path / "list.json"), "address": server.url + "/{id}.mp4"}, "min_success": 0.5}
    project = toy.project(tmp_path / "project", tree | {"dataset": "music"})
    toy.run(project, tmp_path / "cache", "clips")
    assert {row["media_id"]: row["reason"] for row in index(project, "music").values()}["three"] == "network"
    kept = [path for path in (tmp_path / "cache" / "partial").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert sum(path.stat().st_size for path in kept) >= 30_000
    server.faults["/three.mp4"] = []
    server.log.clear()
    toy.run(project, tmp_path / "cache", "clips")
    assert {row["status"] for row in index(project, "music").values()} == {"ok"}
    assert {request.path for request in server.log} == {"/three.mp4"}
    fetched = sum(request.sent for request in server.log if request.start is not None)
    assert 0 < fetched <= len(videos["long"]) - 30_000 + 10_000
    assert not [path for path in (tmp_path / "cache" / "partial").rglob("*") if path.suffix != ".lock"]


def test_a_dry_run_counts_and_asks_for_no_video(project: Path, server: Server, capsys: pytest.CaptureFixture):
    toy.run(project, project.parent / "cache", "clips", dry_run=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["videos"] == {"listed": 8, "invalid": 1, "in_cache": 0, "to_fetch": 7}
    assert told["labels"]["cello"] == {"test": 2} and told["estimate"]["clips"] == 7
    assert not server.log and not (project / "data").exists()


@pytest.mark.slow
def test_secrets_stay_out_of_artifacts_keys_and_logs(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture):
    """A proxy with a password and cookies: the same keys as without, and no trace of them."""
    (tmp_path / "list.csv").write_text(LIST)
    cookies = tmp_path / "crumbs.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tcrumbsecret\n")
    access = {"cookies": str(cookies), "proxy": "http://someone:pwsecret@127.0.0.1:9", "give_up_after": 99}
    project = toy.project(tmp_path / "project", settings(server, tmp_path / "list.csv", **access))
    with pytest.raises(AvsetError, match="0 of 8 clips") as ended:  # nobody listens at the proxy
        clips(project)
    assert {row["reason"] for row in index(project).values()} == {"network", "invalid"}
    toy.project(project, settings(server, tmp_path / "list.csv", cookies=str(cookies)))
    clips(project)
    assert any("crumbsecret" in request.headers.get("Cookie", "") for request in server.log)
    items = {path.name for path in (tmp_path / "cache" / "items").rglob("*") if path.is_file()}
    toy.project(project, settings(server, tmp_path / "list.csv"))
    server.log.clear()
    clips(project)
    assert not server.log and items == {
        path.name for path in (tmp_path / "cache" / "items").rglob("*") if path.is_file()
    }
    said = "".join(capfd.readouterr()) + str(ended.value)
    written = [path for root in ("project/data", "cache") for path in (tmp_path / root).rglob("*") if path.is_file()]
    assert len(written) > 10
    for secret in ("pwsecret", "crumbsecret", "someone", "crumbs.txt"):
        assert secret not in said
        assert not [path for path in written if secret.encode() in path.read_bytes() or secret in path.name]


def start(project: Path) -> subprocess.Popen:
    environment = {**os.environ, "AVSET_CACHE": str(project.parent / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.Popen(
        [sys.executable, "-m", "stages.clips"], cwd=project, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_at_any_point_nothing_is_fetched_twice_and_the_bytes_are_the_same(
    server: Server, tmp_path: Path, videos: dict
):
    """Three workers, slow bodies, kill -9 after each few media; then compared with a run that nobody disturbed."""
    names = [f"video{i:02d}" for i in range(16)]
    (tmp_path / "list.csv").write_text("".join(f"{name},2,playing flute,train\n" for name in names))
    for name in names:
        server.put(f"/{name}.mp4", videos["long"], Fault(slow=0.02))
    tree = settings(server, tmp_path / "list.csv", workers=3)
    tree["runtime"]["executor"] = "processes"
    project = toy.project(tmp_path / "project", tree)
    finished, kills, kept = 0, 0, tmp_path / "cache" / "fetched" / "items"
    while finished < len(names):
        server.log.clear()
        before = finished
        with start(project) as running:
            deadline = time.monotonic() + 300
            while running.poll() is None and time.monotonic() < deadline:
                finished = sum(path.is_file() and not path.name.startswith(".") for path in kept.rglob("*"))
                if finished >= before + 4 and finished < len(names):
                    os.killpg(running.pid, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.01)
        finished = sum(path.is_file() and not path.name.startswith(".") for path in kept.rglob("*"))
        asked = {request.path for request in server.log}
        assert len(asked) <= len(names) - before, "what was finished is not asked for again"
    with start(project) as last:
        assert last.wait(300) == 0
    assert kills >= 2 and finished == len(names)
    other = toy.project(tmp_path / "other" / "project", settings(server, tmp_path / "list.csv"))
    clips(other)
    assert tree_digest(other / "data") == tree_digest(project / "data")


@pytest.mark.slow
def test_music_from_its_list_to_the_report(server: Server, tmp_path: Path):
    """Long videos cut on a grid, one caption a video, the first two of a class for validation and test."""
    tones = {"flute": 880.0, "cello": 220.0, "tuba": 110.0}
    listed = {"videos": {label: [f"{label}{i}" for i in range(4)] for label in tones}}
    for label, tone in tones.items():
        for i in range(4):
            path = make_video(tmp_path / f"{label}{i}.mp4", 5.0 + i / 4, tone=tone * (1 + i / 4))
            server.put(f"/{path.name}", path)
    server.put("/list.json", json.dumps(listed).encode())
    tree = toy.params(dataset="music")
    sizes = tree["scales"]["demo"]
    tree["datasets"]["music"]["clips"] |= {
        "length": 2.0,
        "options": {"solos": server.url + "/list.json", "address": server.url + "/{id}.mp4"},
    }
    sizes["mixtures"] |= {"validation": 2, "test": 3}
    sizes["train"] |= {"steps": 4, "validate_every": 2}
    tree["runtime"]["download"] |= {"pace": 0.0}
    project = toy.project(tmp_path / "project", tree)
    toy.run(project, tmp_path / "cache", *toy.STAGES, "train", "evaluate", "report")
    rows = index(project, "music")
    assert {row["split"] for row in rows.values() if row["media_id"] == "tuba0"} == {"validation"}
    assert {row["split"] for row in rows.values() if row["media_id"] == "tuba1"} == {"test"}
    assert sorted(row["origin_start_s"] for row in rows.values() if row["media_id"] == "tuba3") == [0.0, 2.0, 4.0]
    captions = Store(project / "data" / "music" / "demo" / "captions")
    assert {captions.rows[clip]["of"] for clip in rows if rows[clip]["media_id"] == "tuba3"} == {"tuba3_2000"}
    corpus = Corpus.load(project / "data" / "music" / "demo")
    assert all(len({corpus.contents[clip] for clip in m.clips}) == len(m.clips) for m in corpus.mixtures)
    numbers = json.loads((project / "reports" / "music" / "demo" / "metrics.json").read_text())
    assert {"text", "video", "caption"} <= numbers["avset"].keys()
    covered = json.loads((project / "reports" / "music" / "demo" / "coverage.json").read_text())
    assert covered["lists"]["solos"]["rows"] == 12 and covered["clips"]["labels"]["tuba"]["failed"] == 0

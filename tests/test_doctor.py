"""`avset doctor`: what is well, what is wrong with its cure, and that no broken environment stops it."""

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import toy

from avset.__main__ import main
from avset.doctor import checks, examine, guarded, machine, project
from avset.doctor.finding import Finding, unreachable, within

Patch = pytest.MonkeyPatch
GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_CEILING_DIRECTORIES": "/"}
TEST = ("-c", "user.name=test", "-c", "user.email=test@localhost")


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder .git of a repository with one commit."""
    made = tmp_path_factory.mktemp("committed")
    for words in (["init", "--quiet"], [*TEST, "commit", "--quiet", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *words], cwd=made, check=True, env=os.environ | GIT)
    return made / ".git"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Patch, committed: Path) -> Path:
    """A project with tiny parameters, in git and set up for DVC, in which the test runs. There is no net."""
    for name, value in (GIT | {"DVC_GLOBAL_CONFIG_DIR": str(tmp_path), "DVC_SYSTEM_CONFIG_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made = toy.project(tmp_path / "project", toy.params())
    (made / ".dvc").mkdir()
    (made / "requirements.lock").write_text(f"typer=={metadata.version('typer')} \\\n    --hash=sha256:{'0' * 64}\n")
    monkeypatch.chdir(made)
    shutil.copytree(committed, made / ".git")
    monkeypatch.setattr(project, "unreachable", lambda address, any_answer=False: "there is no net")
    return made


def changed(**changes: Any) -> None:
    """Write the parameters anew."""
    toy.project(Path(), toy.params(**changes))


def found(check: str, status: str) -> str:
    """What a check finds with this status, a line each, with its cure."""
    p, told = project.parameters(Path("params.yaml"))
    name = {"cache": "file systems", "project": "file systems", "yt-dlp": "source"}.get(check, check)
    findings = [told] if check == "parameters" else guarded(name, checks(p)[name])
    return "\n".join(f"{one.found}; {one.cure}" for one in findings if (one.check, one.status) == (check, status))


def test_a_project_that_is_well(folder: Path):
    findings = list(examine())
    assert {one.check for one in findings} >= {"parameters", "packages", "disk", "cache", "project", "git", "weights"}
    assert [one for one in findings if one.status == "fail"] == []
    assert not any(one.cure for one in findings if one.status == "ok")
    assert not list(folder.glob(".doctor*")), "nothing is left"


def gone(name: str) -> Callable[[Patch], None]:
    """A machine without a module."""
    spec = project.find_spec

    def broken(patch: Patch) -> None:
        for room in (project, machine):
            patch.setattr(room, "find_spec", lambda one: None if one == name else spec(one))

    return broken


def raising(owner: Any, name: str, code: int) -> Callable[[Patch], None]:
    """A machine whose file system refuses something."""

    def broken(patch: Patch) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise OSError(code, os.strerror(code))

        patch.setattr(owner, name, refuse)

    return broken


def settings(text: str) -> Callable[[Patch], None]:
    """A project with a DVC configuration."""

    def written(patch: Patch) -> None:
        Path(".dvc/config").write_text(text)

    return written


def remote(address: str, more: str = "") -> Callable[[Patch], None]:
    """A project with a default remote."""
    return settings(f"[core]\n remote = team\n['remote \"team\"']\n url = {address}\n {more}\n")


def no_plugin(patch: Patch) -> None:
    gone("dvc_s3")(patch)
    remote("s3://bucket/x")(patch)


def cache_is_a_file(patch: Patch) -> None:
    Path("file").write_text("x")
    patch.setenv("AVSET_CACHE", "file")


def no_git(patch: Patch) -> None:
    patch.setenv("PATH", "")


def no_repository(patch: Patch) -> None:
    shutil.rmtree(".git")


def no_commit(patch: Patch) -> None:
    shutil.rmtree(".git")
    subprocess.run(["git", "init", "--quiet"], check=True)


def no_dvc(patch: Patch) -> None:
    shutil.rmtree(".dvc")


def other_version(patch: Patch) -> None:
    Path("requirements.lock").write_text("typer==0.0.1\n")


def lacking_package(patch: Patch) -> None:
    patch.setattr(machine.metadata, "requires", lambda name: ["no-such-package>=1", 'nor-this; extra == "dev"'])


def full_disk(patch: Patch) -> None:
    usage = shutil.disk_usage(".")
    patch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=5 * 10**8))


def videos(patch: Patch) -> None:
    Path("films").mkdir()
    Path("films/a.mp4").write_bytes(b"x")
    Path("labels.csv").write_text("file,label,split\na.mp4,violin,train\nb.mp4,violin,test\n")


def tower(patch: Patch) -> None:
    seal = Path("data/demo/demo/tower/record.json")
    seal.parent.mkdir(parents=True)
    seal.touch()


def nothing(patch: Patch) -> None:
    """Only the parameters are as told."""


FOLDER = {"dataset": "folder", "datasets__folder__clips__options__path": "films"}
ONLINE = {"dataset": "music"}
RAY = {"runtime__executor": "ray"}
ENCODER = "scales__demo__encoder__"
SYSTEMS = {"methods": ["avsgs", "sound_of_pixels", "avset"]}


@pytest.mark.parametrize(
    ("check", "status", "said", "break_it", "changes"),
    [
        ("parameters", "fail", "captions.tokens: ", nothing, {"captions__tokens": 0}),
        ("parameters", "fail", "clips.options.heigth: unknown key; did you mean clips.options.height?", nothing,
         {**ONLINE, "datasets__music__clips__options__heigth": 9}),
        ("packages", "warn", "typer", other_version, {}),
        ("packages", "fail", "not installed: no-such-package; pip install -e .[pipeline]", lacking_package, {}),
        ("disk", "fail", "data: 0.5 GB free", full_disk, {}),
        ("disk", "fail", "cache: 0.5 GB free", full_disk, {}),
        ("disk", "warn", "temporary: 0.5 GB free", full_disk, {}),
        ("cache", "fail", "file is no folder; point AVSET_CACHE", cache_is_a_file, {}),
        ("cache", "fail", "Read-only file system; point AVSET_CACHE", raising(Path, "replace", errno.EROFS), {}),
        ("project", "fail", "Permission denied", raising(Path, "write_bytes", errno.EACCES), {}),
        ("cache", "warn", "no locks (No locks available)", raising(fcntl, "flock", errno.ENOLCK), {}),
        ("cache", "warn", "no hard links to", raising(os, "link", errno.EXDEV), {}),
        ("git", "fail", "git is not installed", no_git, {}),
        ("git", "ok", "core.no_scm", settings("[core]\n no_scm = true\n"), {}),
        ("git", "fail", "no git repository: fatal: not a git repository", no_repository, {}),
        ("git", "warn", "there is no commit yet", no_commit, {}),
        ("git", "fail", "run from the top folder", no_dvc, {}),
        ("remote", "ok", "none", nothing, {}),
        ("remote", "ok", "team: ", remote("../.."), {}),
        ("remote", "warn", "/no/such/folder is not there", remote("/no/such/folder"), {}),
        ("remote", "fail", "DVC's plugin for s3 is not installed; pip install -e .[s3]",
         no_plugin, {}),
        ("remote", "fail", "pip install 'dvc[gs]'", remote("gs://bucket/x"), {}),
        ("remote", "fail", "http://localhost:1 cannot be reached: there is no net",
         remote("s3://bucket/x", "endpointurl = http://localhost:1"), {}),
        ("remote", "fail", "core.remote is team, which is no remote", settings("[core]\n remote = team\n"), {}),
        ("remote", "warn", "no default among team", settings("['remote \"team\"']\n url = x\n"), {}),
        ("remote", "fail", "DVC cannot read its configuration", settings("[core]\n nonsense = 1\n"), {}),
        ("source", "fail", "there is no directory 'films'", nothing, FOLDER),
        ("source", "ok", "films: 1 files (1 ", videos, FOLDER),
        ("source", "fail", "cannot read the table 'gone.csv'", videos,
         {**FOLDER, "datasets__folder__clips__options__table": "gone.csv"}),
        ("source", "fail", "raw.githubusercontent.com cannot be reached: there is no net", nothing, ONLINE),
        ("source", "fail", "clips.options.splits: 'gone.csv' is not there", nothing,
         {**ONLINE, "datasets__music__clips__options__splits": "gone.csv"}),
        ("yt-dlp", "fail", "yt-dlp is not installed; pip install -e .[youtube]", gone("yt_dlp"), ONLINE),
        ("yt-dlp", "warn", "yt-dlp 2020.1.2, ",
         lambda patch: patch.setattr(project.metadata, "version", lambda name: "2020.1.2"), ONLINE),
        ("yt-dlp", "warn", "no JavaScript runtime", no_git, ONLINE),
        ("yt-dlp", "fail", "cookies.txt is not there", nothing,
         {**ONLINE, "runtime__download__cookies": "cookies.txt"}),
        ("ray", "ok", "starts by itself", nothing, RAY),
        ("ray", "fail", "Ray is not installed", gone("ray"), RAY),
        ("ray", "fail", "RAY_ADDRESS=127.0.0.1:1 does not answer",
         lambda patch: patch.setenv("RAY_ADDRESS", "127.0.0.1:1"), RAY),
        ("ray", "fail", "RAY_ADDRESS=ray://here:there does not answer",
         lambda patch: patch.setenv("RAY_ADDRESS", "ray://here:there"), RAY),
        ("weights", "fail", "gone.json is not there", nothing, {f"{ENCODER}architecture": "gone.json"}),
        ("systems", "fail", "data/demo/demo/tower is not there, which avsgs, sound_of_pixels need; dvc repro "
         "systems/dvc.yaml:tower", nothing, SYSTEMS),
        ("systems", "fail", "data/demo/demo/objects is not there, which avsgs needs; dvc repro "
         "systems/dvc.yaml:objects", nothing, SYSTEMS),
        ("systems", "ok", "data/demo/demo/tower is there, which avsgs, sound_of_pixels need", tower, SYSTEMS),
        ("systems", "fail", "resnet18-f37072fd.pth cannot be reached: there is no net; give a path in tower.weights",
         nothing, {**SYSTEMS, "scales__demo__tower": {"architecture": "resnet18", "weights": "imagenet"}}),
        ("systems", "fail", "there are no ImageNet weights of small", nothing,
         {**SYSTEMS, "scales__demo__tower__weights": "imagenet"}),
        ("systems", "fail", "gone.pth is not there; give another path in tower.weights", nothing,
         {**SYSTEMS, "scales__demo__tower__weights": "gone.pth"}),
        ("systems", "fail", "gone.csv is not there; give another path in objects.boxes", nothing,
         {**SYSTEMS, "objects__boxes": "gone.csv"}),
        ("systems", "fail", "gone.pth is not there; give another path in objects.weights", nothing,
         {**SYSTEMS, "objects__boxes": "torchvision:x", "objects__weights": "gone.pth"}),
        ("devices", "ok", "runtime.device is cpu", nothing, {}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_cure(
    folder: Path, monkeypatch: Patch, check: str, status: str, said: str, break_it: Any, changes: dict[str, Any]
):
    if changes:
        changed(**changes)
    break_it(monkeypatch)
    assert said in found(check, status)


def test_devices(folder: Path, monkeypatch: Patch):
    """With a graphics processor that is not there, is busy, or broken."""
    import torch

    changed(runtime__device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "runtime.device is cuda, but torch" in found("devices", "fail")
    changed(runtime__device="auto")
    monkeypatch.setattr(machine, "GPUS", ("/no/such/device",))
    assert "no GPU" in found("devices", "ok")
    monkeypatch.setattr(machine, "GPUS", (os.devnull,))
    assert "though this machine has a GPU" in found("devices", "warn")

    def memory(number: int) -> tuple[int, int]:
        if number == 2:
            raise RuntimeError("CUDA error: device-side assert")
        return (70, 80) if number == 0 else (10 * 10**9, 80 * 10**9)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    assert "GPU 1: 10 of 80 GB free; another process" in found("devices", "warn")
    assert "GPU 2 does not work: CUDA error" in found("devices", "fail")
    assert "GPU 0" in found("devices", "ok")


def test_a_cluster_that_answers(folder: Path, monkeypatch: Patch):
    changed(**RAY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        assert "answers" in found("ray", "ok")


def test_a_check_that_breaks_is_told_and_the_others_go_on(folder: Path, monkeypatch: Patch, capsys: Any):
    monkeypatch.setattr(machine, "file_systems", lambda: ({}[name] for name in ["bug"]))
    findings = list(examine())
    (broken,) = [one for one in findings if one.status == "fail"]
    assert broken == Finding("file systems", "fail", "the check itself broke (KeyError: 'bug')", "report it")
    assert "Traceback" in capsys.readouterr().err
    assert findings[-1].check == "devices"


@pytest.mark.slow
def test_published_weights(folder: Path, monkeypatch: Patch):
    """In a cache, on the net, unreachable, or of no such name."""
    changed(**{f"{ENCODER}architecture": "RN50-quickgelu", f"{ENCODER}weights": "openai"})
    assert "cannot be reached: there is no net" in found("weights", "fail")
    (folder / "data" / "demo" / "demo" / "encoder").mkdir(parents=True)
    assert "is made already" in found("weights", "warn")
    monkeypatch.setattr(project, "unreachable", lambda address: "" if address.endswith(".bin") else "404")
    assert "to be fetched from https://huggingface.co/timm/resnet50_clip.openai/" in found("weights", "ok")
    changed(**{f"{ENCODER}architecture": "RN50-quickgelu", f"{ENCODER}weights": "opnai"})
    assert "'opnai' is neither a file nor a tag of RN50-quickgelu (its tags: openai" in found("weights", "fail")
    changed(**{f"{ENCODER}architecture": "RN50-quikgelu", f"{ENCODER}weights": "openai"})
    assert "'RN50-quikgelu' is neither an architecture of open_clip (RN50-quickgelu" in found("weights", "fail")


def test_an_address_is_asked_for_its_head_alone(monkeypatch: Patch):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(int(self.path[1:]))
            self.send_header("Location", "http://localhost:1/")
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("no_proxy", "*")
        assert [unreachable(f"{address}/{code}") for code in (200, 302, 404)] == ["", "", "the server answers 404"]
        assert unreachable(f"{address}/404", any_answer=True) == ""
        server.shutdown()
    assert unreachable(address) and unreachable("nonsense")


def test_who_does_not_answer_is_not_waited_for():
    from threading import Event

    assert within(0.01, Event().wait, "late") == "late"


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--json"], 0), ([], 1), (["--json"], 1)])
def test_the_command(folder: Path, monkeypatch: Patch, capsys: Any, words: list[str], code: int):
    changed(captions__tokens=3 - 3 * code)
    monkeypatch.setattr("sys.argv", ["avset", "doctor", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == code
    if words:
        told = json.loads(said)
        assert all(set(one) == set(Finding._fields) for one in told)
        assert [one["check"] for one in told if one["status"] == "fail"] == ["parameters"] * code
    else:
        assert said.splitlines()[0].startswith("fail  parameters  captions.tokens" if code else "ok    parameters")

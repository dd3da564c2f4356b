"""One project and a team: clones and remotes, a DVC cache and an item cache in common, and other projects."""

import copy
import grp
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from repository import Project

from avset.storage.store import Store

pytestmark = pytest.mark.slow

INDEX = "data/demo/clips/index.parquet"
PER_CLIP = ("frames", "spectrograms")  # all four are built alike, see tests/test_build.py
MADE = ["captions", "clips", "encoder", "evaluate@avset", "frames", "mixtures", "regions", "sets", "spectrograms",
        "train@avset"]  # fmt: skip


def small() -> dict[str, Any]:
    """Parameters with a second data set and a second scale in use."""
    tree = toy.params(dataset="small", scale="small")
    tree["datasets"]["small"], demo = copy.deepcopy(tree["datasets"]["demo"]), copy.deepcopy(tree["scales"]["demo"])
    tree["scales"]["small"] = demo | {
        "captions": demo["captions"] | {"steps": 5}, "mixtures": demo["mixtures"] | {"validation": 1, "test": 1},
        "train": demo["train"] | {"steps": 2, "validate_every": 2}, "evaluate": {"examples": 1},
    }  # fmt: skip
    return tree


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that all users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="team-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def team(place: Path, toy_data: Path, scored: Path) -> Project:
    """The project of whoever computed it: in git, its data on a remote in a local directory. Clone it."""
    made = Project.done(place / "first", toy_data, scored, git=True)
    config, remote = made.folder / ".dvc" / "config", f"\n['remote \"team\"']\n    url = {place / 'remote'}\n"
    config.write_text(config.read_text().replace("[core]", "[core]\n    remote = team") + remote)
    made.commit()
    assert made.repro() == ([], []) and made.git("status", "--short") == ""
    assert "pushed" in made.dvc("push", "--run-cache")
    return made


@pytest.fixture(scope="module")
def second(place: Path, team: Project) -> Project:
    """A clone in which a second data set was made; its data and its run cache are on the remote, git knows nothing."""
    made = team.clone(place / "second")
    shutil.copytree(team.cache, made.cache)
    toy.project(made.folder, small())
    toy.run(made.folder, made.cache, *toy.STAGES, "train", "evaluate", "report")
    made.dvc("commit", "--force")
    made.dvc("push", "--run-cache")
    return made


def local(project: Project, config: str) -> None:
    """DVC's configuration of one clone."""
    (project.folder / ".dvc" / "config.local").write_text(config)


def test_who_pulls_computes_nothing(team: Project, tmp_path: Path):
    clone = team.clone(tmp_path)
    assert "Data and pipelines are up to date." in clone.dvc("repro", "--dry", "--allow-missing"), "CI without data"
    clone.dvc("pull")
    assert clone.repro() == ([], []) and clone.git("status", "--short") == ""
    assert clone.files("data/demo") == team.files("data/demo") and len(clone.files("data/demo")) > 50
    assert not clone.cache.exists(), "no item was asked for"


def test_one_clip_more_costs_one_item_in_a_pulled_clone(team: Project, tmp_path: Path):
    """Its item cache is empty, and DVC removes a store before the stage runs: what was there is in DVC's cache."""
    clone = team.clone(tmp_path)
    clone.dvc("pull")
    places = [*(f"data/demo/demo/{stage}" for stage in PER_CLIP), "data/demo/clips/media"]
    before = team.files(*places)
    toy.project(clone.folder, toy.params(datasets__demo__clips__options__duets=5))
    said = clone.dvc("repro", *PER_CLIP)
    assert "clips: 37 media are those of the clips that were here before" in said
    for stage in PER_CLIP:
        assert f"{stage}: 38/38 clips (37 cached)" in said
    after = clone.files(*places)
    changed = {path for path in before if after[path] != before[path]}
    assert all(sum(path.startswith(f"data/demo/demo/{stage}/shards") for path in changed) <= 1 for stage in PER_CLIP)
    assert len(after) >= len(before) + 1 and not any("media" in path for path in changed)


def test_a_second_push_pushes_nothing(team: Project):
    assert "Everything is up to date." in team.dvc("push")


def there(team: Project, clone: Project) -> set[str]:
    """The artifacts that a clone has."""
    return {path for path in team.hashes() if path.startswith("data/") and (clone.folder / path).exists()}


def test_other_captions_fetch_regions_and_no_pictures(team: Project, tmp_path: Path):
    clone = team.clone(tmp_path)
    toy.project(clone.folder, toy.params(captions__tokens=2))
    pulling = ("--pull", "--allow-missing", "captions")
    assert clone.repro(*pulling) == (["captions"], [])
    assert there(team, clone) == {INDEX, "data/demo/demo/captions", "data/demo/demo/encoder", "data/demo/demo/regions"}
    assert clone.repro(*pulling) == ([], []), "what is missing is not missed"


def test_other_queries_fetch_stores_and_no_media(team: Project, tmp_path: Path):
    clone = team.clone(tmp_path)
    toy.project(clone.folder, toy.params(evaluate__prompts={"text": "the sound of a {label}"}))
    assert clone.repro("--pull", "--allow-missing", "evaluate@avset") == (["evaluate@avset"], [])
    assert there(team, clone) == {path for path in team.hashes() if path.startswith("data/")} - {
        "data/demo/clips/media", "data/demo/clips/media.parquet", "data/demo/clips/record.json"
    }  # fmt: skip
    scores = "data/demo/demo/scores/avset"
    assert clone.hashes()[scores] != team.hashes()[scores]


def test_the_run_cache_brings_what_git_does_not_know(team: Project, second: Project, tmp_path: Path):
    """All but the report, which is drawn again: its small files are in git, not on the remote."""
    clone = team.clone(tmp_path)
    toy.project(clone.folder, small())
    assert clone.repro("--pull", "evaluate@avset") == ([], MADE)
    assert clone.files("data/small") == second.files("data/small") and clone.items() == 0
    assert clone.repro("--dry") == (["report"], [])


def test_no_stage_writes_into_a_file_that_is_there(second: Project):
    """The files of a workspace are those of DVC's cache, which others may share; root could write into them."""
    objects = [path for path in (second.folder / ".dvc/cache/files").rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in objects}
    inodes = {path.stat().st_ino for path in objects}
    linked = [path for path in (second.folder / "data/small").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in linked} == {0o444}
    assert {path.stat().st_ino for path in linked} <= inodes
    toy.run(second.folder, second.cache, *toy.STAGES, "train", "evaluate", "report")
    assert (second.folder / "data/small/small/models/avset/model.safetensors").stat().st_ino not in inodes, "made anew"
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in objects} == before
    assert "up to date" in second.dvc("status")


def test_gc_keeps_what_the_workspace_needs(team: Project, second: Project):
    objects = second.folder / ".dvc/cache/files/md5"
    second.dvc("fetch", "--all-commits")
    before = {path for path in objects.rglob("*") if path.is_file()}
    second.dvc("gc", "--workspace", "--force")
    after = {path for path in objects.rglob("*") if path.is_file()}
    gone = [
        md5 for path, md5 in team.hashes().items() if path.startswith("data/") and md5 not in second.hashes().values()
    ]
    assert gone and all(objects / md5[:2] / md5[2:] in before - after for md5 in gone)
    assert second.repro() == ([], [])
    second.git("checkout", "--quiet", ".")
    second.dvc("pull")
    assert second.files("data/demo") == team.files("data/demo"), "the remote has it"


@pytest.fixture
def bucket() -> Iterator[str]:
    """A bucket of an S3-compatible server on loopback: DVC's configuration of it as a remote."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            urllib.request.Request(f"{endpoint}/team", method="PUT")
        ).close()
        yield f"['remote \"s3\"']\n    url = s3://team/avset\n    endpointurl = {endpoint}\n[core]\n    remote = s3\n"
    finally:
        server.stop()


def test_s3_is_a_remote_like_any_other(team: Project, bucket: str, tmp_path: Path):
    other = team.clone(tmp_path)
    for project in (team, other):
        local(project, bucket)
        project.environment |= {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "secret", "NO_PROXY": "127.0.0.1"}
    assert "pushed" in team.dvc("push", "--run-cache")
    local(team, "")
    assert "fetched" in other.dvc("pull", "--run-cache")
    assert other.repro() == ([], []) and not other.cache.exists()
    assert other.files("data/demo") == team.files("data/demo")
    runs = other.files(".dvc/cache/runs")
    assert len(runs) == 11 and runs.items() <= team.files(".dvc/cache/runs").items()


def shared_folder(path: Path, group: int) -> Path:
    """A folder in which a group may write, and whose content belongs to it."""
    path.mkdir(parents=True)
    os.chown(path, -1, group)
    path.chmod(0o2775)
    return path


def check_group(folder: Path, group: int, files: int) -> None:
    """That the group owns all in a folder, may enter and write its folders, and has the bits `files` on its files."""
    for path in folder.rglob("*"):
        there = path.stat()
        asked = stat.S_ISGID | stat.S_IRWXG if path.is_dir() else files
        assert there.st_gid == group and there.st_mode & asked == asked, f"{path}: {oct(there.st_mode)}"


def cache_config(folder: Path) -> str:
    return f"[cache]\n    dir = {folder}\n    shared = group\n    type = hardlink,symlink,copy\n"


def test_two_clones_share_a_cache_and_each_file_is_there_once(team: Project, tmp_path: Path):
    cache = shared_folder(tmp_path / "cache", os.getgid())
    clones = [team.clone(tmp_path / name) for name in ("one", "two")]
    for clone in clones:
        clone.umask = 0o002
        local(clone, cache_config(cache))
    one, two = clones
    one.dvc("pull")
    two.dvc("checkout")
    before = one.files("data/demo")
    assert before == team.files("data/demo")
    assert all((one.folder / path).samefile(two.folder / path) for path in before)
    check_group(cache, os.getgid(), stat.S_IRGRP)
    toy.project(two.folder, toy.params(captions__tokens=2))
    toy.run(two.folder, two.cache, "captions")
    two.dvc("commit", "--force", "captions")
    assert one.files("data/demo") == before
    assert {path for path, content in two.files("data/demo").items() if content != before.get(path)} == {
        path for path in before if path.startswith("data/demo/demo/captions/")
    }
    check_group(cache, os.getgid(), stat.S_IRGRP)


def as_user(user: int, group: int) -> Sequence[str]:
    """How a command begins that another user runs; skips the test where there is no way."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root, with setpriv, can be two users")
    plain = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # a Python in root's home
    code = f"import sys, dvc, avset; sys.exit(sys.base_prefix != {sys.base_prefix!r})"
    for prefix in (plain, [*plain, *reading]):
        if subprocess.run([*prefix, sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True).returncode == 0:
            return prefix
    pytest.skip("no other user can run this Python")


@pytest.fixture
def users() -> tuple[dict[str, int], int]:
    """Two users by name, and a group."""
    return {name: pwd.getpwnam(name).pw_uid for name in ("daemon", "nobody")}, grp.getgrnam("daemon").gr_gid


def give(folder: Path, user: int, group: int) -> None:
    """Give a folder and all in it to a user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)


def test_two_users_share_a_cache(team: Project, place: Path, users: tuple[dict[str, int], int]):
    """A kernel that protects hard links links to nobody else's files; then there are symbolic ones."""
    named, group = users
    prefixes = [as_user(user, group) for user in named.values()]
    cache = shared_folder(place / "users" / "cache", group)
    clones = []
    for (name, user), prefix in zip(named.items(), prefixes, strict=True):
        clone = team.clone(place / "users" / name)
        local(clone, cache_config(cache))
        give(place / "users" / name, user, group)
        clone.prefix, clone.umask = prefix, 0o002
        clone.environment |= {"HOME": str(place / "users" / name)}
        clones.append(clone)
    one, two = clones
    one.dvc("pull", "--run-cache")
    two.dvc("checkout")
    before = one.files("data/demo")
    assert all((one.folder / path).samefile(two.folder / path) for path in before), "nothing was copied"
    for clone in clones:
        toy.project(clone.folder, toy.params(captions__tokens=2))
    assert two.repro("captions") == (["captions"], [])
    assert one.files("data/demo") == before == team.files("data/demo")
    check_group(cache, group, stat.S_IRGRP)
    assert {path.stat().st_uid for path in cache.rglob("*")} == set(named.values())
    assert one.repro("captions") == ([], ["captions"]), "the other has made them"
    assert one.files("data/demo/demo/captions") == two.files("data/demo/demo/captions") and one.items() == 0


def few(duets: int) -> dict[str, Any]:
    """Parameters for eleven short clips and some duets."""
    counts = {"train_per_label": 1, "validation_per_label": 0, "test_per_label": 0, "duets": duets, "duration": 1.0}
    return toy.params(datasets__demo__clips__options=counts)


def test_a_shared_item_cache_stays_open_whatever_the_umask(tmp_path: Path):
    root = shared_folder(tmp_path / "items", os.getgid())
    before = os.umask(0o077)
    try:
        toy.run(toy.project(tmp_path / "project", few(0)), root, "clips", "frames")
    finally:
        os.umask(before)
    assert len([path for path in root.rglob("*") if path.is_file()]) > 3 * 11
    check_group(root, os.getgid(), stat.S_IRGRP | stat.S_IWGRP)


def test_two_users_share_an_item_cache(place: Path, users: tuple[dict[str, int], int]):
    named, group = users
    prefixes = dict(zip(named, (as_user(user, group) for user in named.values()), strict=True))
    root = shared_folder(place / "items", group)
    code = "import sys, stages.clips, stages.frames; stages.clips.main(); stages.frames.main()"

    def run(name: str, duets: int, umask: int) -> list[int]:
        """How many clips of each stage were in the cache."""
        folder = toy.project(place / "with-items" / name, few(duets))
        give(folder, named[name], group)
        done = subprocess.run(
            [*prefixes[name], sys.executable, "-c", code], cwd=folder, umask=umask, capture_output=True, text=True,
            env={**os.environ, "AVSET_CACHE": str(root), "HOME": str(folder)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [int(count) for count in re.findall(r"\((\d+) cached\)", done.stderr)]

    assert run("daemon", 0, 0o077) == [0, 0]
    assert run("nobody", 1, 0o022) == [11, 11], "one uses what the other made, and adds to it"
    check_group(root, group, stat.S_IRGRP | stat.S_IWGRP)
    mine = next(p for p in root.glob("items/*/*") if p.stat().st_uid == named["nobody"] and b"times" in p.read_bytes())
    mine.write_bytes(mine.read_bytes()[:-1] + b"?")
    shutil.rmtree(root / "shards", ignore_errors=True)
    run("daemon", 1, 0o077)
    assert mine.stat().st_uid == named["daemon"], "damaged, and made again by the other"


def test_another_project_imports_a_store(team: Project, tmp_path: Path):
    origin = tmp_path / "origin.git"
    team.git("clone", "--quiet", "--bare", str(team.folder), str(origin))
    address = origin.as_uri()
    other = team.clone(tmp_path)
    shutil.rmtree(other.folder)
    other.folder.mkdir()
    other.git("init", "--quiet")
    other.dvc("init", "--quiet")
    other.dvc("import", address, "data/demo/demo/regions", "--out", "regions")
    other.dvc("get", address, "data/demo/clips", "--out", "clips")
    store, own = Store(other.folder / "regions"), Store(team.folder / "data/demo/demo/regions")
    assert store.digest == own.digest and len(store.clips) == 37
    assert np.array_equal(store.read(store.clips[0], "regions"), own.read(store.clips[0], "regions"))
    assert Store(other.folder / "clips").digest == Store(team.folder / "data/demo/clips").digest
    assert len(list((other.folder / "clips" / "media").iterdir())) == 37


def test_another_program_reads_from_the_repository(team: Project, tmp_path: Path):
    """In a process of its own, as a user would: a table, one clip of one shard, a parameter."""
    code = """
import json, sys
import dvc.api, h5py, pyarrow.parquet
files = dvc.api.DVCFileSystem(sys.argv[1])
with files.open("data/demo/demo/regions/index.parquet") as file:
    row = pyarrow.parquet.read_table(file).to_pylist()[0]
with files.open(f"data/demo/demo/regions/shards/{row['shard']}.h5") as file, h5py.File(file) as opened:
    total = float(opened[row["clip_id"] + "/regions"][()].astype(float).sum())
files.get("data/demo/demo/captions", "captions", recursive=True)
print(json.dumps([row["clip_id"], total, dvc.api.params_show(repo=sys.argv[1])["captions"]["tokens"]]))
"""
    other = team.clone(tmp_path)
    clip, total, tokens = json.loads(other.run(sys.executable, "-c", code, str(team.folder)).splitlines()[-1])
    own = Store(team.folder / "data/demo/demo/regions")
    assert total == own.read(clip, "regions").astype(float).sum() and tokens == 3
    assert Store(other.folder / "captions").digest == Store(team.folder / "data/demo/demo/captions").digest

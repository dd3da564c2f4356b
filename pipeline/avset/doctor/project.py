"""The project: its parameters, the weights, the source of its clips, git, and DVC's remote."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from avset import params
from avset.doctor.finding import BROKEN, Finding, unreachable
from avset.errors import AvsetError
from avset.params import DETECTOR, TRUTH, Objects, Params, Tower
from avset.storage.checksums import RECORD
from avset.storage.hub import check_start
from avset.values import told as shown

OLD = 90  # days; sites change faster than that
RUNTIMES = ("deno", "node", "bun", "qjs")  # of JavaScript: YouTube asks yt-dlp to run some
PLUGINS = {"https": "http", "webdavs": "webdav"}  # scheme of a remote -> DVC's plugin, where they differ
GIT_PATIENCE = 10.0  # s


def parameters(path: Path) -> tuple[Params | None, Finding]:
    """params.yaml as a whole, with the options of the source; None if something in it is wrong."""
    try:
        p = params.load(path)
        params.check_options(p)
        check_start(p)
    except BROKEN as e:
        return None, Finding("parameters", "fail", str(e), f"correct {path}")
    what = f"dataset {p.dataset}, scale {p.scale}, methods {', '.join(p.methods)}"
    return p, Finding("parameters", "ok", what)


def weights(p: Params) -> Iterator[Finding]:
    """Whether the encoder's weights are here, or can be fetched; nothing is."""
    architecture, wanted, made = p.encoder.architecture, p.encoder.weights, (p.data / "encoder").is_dir()
    what = f"{architecture} / {wanted}"
    if architecture.endswith(".json") and not Path(architecture).is_file():
        yield Finding("weights", "fail", f"{architecture} is not there", "set encoder.architecture to a file or a name")
        return
    if Path(wanted).is_file():
        yield Finding("weights", "ok", f"{wanted}: {Path(wanted).stat().st_size / 1e6:.1f} MB")
        return
    from avset.features.weights import whereabouts  # brings torch and open_clip

    for here, addresses in whereabouts(architecture, wanted):
        if here:
            yield Finding("weights", "ok", f"{what}: in the cache, {here}")
            continue
        why = ""
        for address in addresses:
            why = unreachable(address)
            if not why:
                yield Finding("weights", "ok", f"{what}: to be fetched from {address}")
                break
        else:
            cure = "check the network (HTTPS_PROXY, HF_ENDPOINT), or give the path of a checkpoint in encoder.weights"
            found = f"{what}: {addresses[-1]} cannot be reached: {why}"
            if made:
                yield Finding("weights", "warn", f"{found}; the encoder in {p.data} is made already", cure)
            else:
                yield Finding("weights", "fail", found, cure)


def source(p: Params) -> Iterator[Finding]:
    """The inputs of the clips: the folder and its table, or yt-dlp, what it needs, and the way to the site."""
    from avset.sources import clips  # brings the decoders

    module, options = clips.load_source(p.clips.source, p.clips.options)
    if clips.online(options):
        yield from _downloads(p, options)
    elif p.clips.source == "folder":
        entries = module.listing(options).entries
        splits = Counter(entry.split for entry in entries)
        found = f"{options.path}: {len(entries)} files ({', '.join(f'{n} {name}' for name, n in splits.items())})"
        gone = [entry.origin for entry in entries if not Path(entry.origin).is_file()]
        if gone:
            found += f"; {len(gone)} are not there: {', '.join(gone[:3])}"
            yield Finding("source", "warn", found, "bring the files back, or correct clips.options.table")
        else:
            yield Finding("source", "ok", found)


def systems(p: Params) -> Iterator[Finding]:
    """What only some of the methods need (avset.params.ON_DEMAND): whether it is made, or could be."""
    from avset.models.checkpoint import needs_of  # brings torch
    from avset.training.dataset import on_demand

    needed: dict[str, list[str]] = {}
    for method in p.methods:
        for artifact in on_demand(needs_of(p.presets[method])):
            needed.setdefault(artifact, []).append(method)
    for artifact, methods in sorted(needed.items(), reverse=True):  # objects are made of the tower
        folder, who = p.data / artifact, f"{', '.join(methods)} {'need' if len(methods) > 1 else 'needs'}"
        if (folder / RECORD).is_file():
            yield Finding("systems", "ok", f"{folder} is there, which {who}")
            continue
        cure = f"dvc repro {params.target(artifact)}"
        yield Finding("systems", "fail", f"{folder} is not there, which {who}", cure)
        yield from _tower(p.tower) if artifact == "tower" else _objects(p.objects)


def _tower(asked: Tower) -> Iterator[Finding]:
    """Whether the weights of the tower are here, or can be fetched."""
    from avset.features.tower_weights import ADDRESSES, IMAGENET, NONE
    from avset.features.weights import in_cache

    address = ADDRESSES.get(asked.architecture, "")
    if asked.weights == IMAGENET and not address:
        yield Finding(
            "systems", "fail", f"there are no ImageNet weights of {asked.architecture}", "tower.weights: none"
        )
    elif asked.weights == IMAGENET and not in_cache(address).is_file() and (why := unreachable(address)):
        yield Finding("systems", "fail", f"{address} cannot be reached: {why}", "give a path in tower.weights")
    elif asked.weights not in (IMAGENET, NONE) and not Path(asked.weights).is_file():
        yield Finding("systems", "fail", f"{asked.weights} is not there", "give another path in tower.weights")


def _objects(asked: Objects) -> Iterator[Finding]:
    """Whether the table of the boxes, or the file of the detector's weights, is there."""
    detected = asked.boxes.startswith(DETECTOR)
    given = asked.weights if detected else asked.boxes
    if given and given != TRUTH and not Path(given).is_file():
        key = "weights" if detected else "boxes"
        yield Finding("systems", "fail", f"{given} is not there", f"give another path in objects.{key}")


def _downloads(p: Params, options: Any) -> Iterator[Finding]:
    """What a source on the net needs."""
    if not find_spec("yt_dlp"):
        yield Finding("yt-dlp", "fail", "yt-dlp is not installed", "pip install -e .[youtube]")
    else:
        version = metadata.version("yt-dlp")
        told = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
        age = (date.today() - date(*map(int, told.groups()))).days if told else 0
        cure = "pip install -U 'yt-dlp[default]', since sites change" if age > OLD else ""
        yield Finding("yt-dlp", "warn" if cure else "ok", f"yt-dlp {version}, {age} days old", cure)
        runtime = next(filter(shutil.which, RUNTIMES), "")
        if not runtime:
            cure = "install deno (https://deno.com)"
            yield Finding("yt-dlp", "warn", "no JavaScript runtime, so that YouTube gives fewer formats", cure)
    if p.runtime.download.cookies and not Path(p.runtime.download.cookies).expanduser().is_file():
        yield Finding("yt-dlp", "fail", f"{p.runtime.download.cookies} is not there", "set runtime.download.cookies")
    hosts: dict[str, str] = {}
    for key, place in options.model_dump().items():
        if not isinstance(place, str):
            continue
        address = urlsplit(place)
        if address.scheme in ("http", "https"):
            page = shown(f"{address.scheme}://{address.netloc}")
            hosts.setdefault(page.partition("://")[2], page)
        elif not Path(place).is_file():
            yield Finding("source", "fail", f"clips.options.{key}: {place!r} is not there", "give the path of the list")
    for host, page in hosts.items():
        if why := unreachable(page, any_answer=True):
            cure = "check the network, HTTPS_PROXY and runtime.download.proxy"
            yield Finding("source", "fail", f"{host} cannot be reached: {why}", cure)
        else:
            yield Finding("source", "ok", f"{host} answers")


def git() -> Iterator[Finding]:
    """DVC finds its project by git, and `dvc exp run` needs a commit and no conflicts."""
    if not Path(".dvc").is_dir():
        yield Finding("git", "fail", "there is no .dvc in this folder", "run from the top folder of the project")
    elif _dvc_config()["core"].get("no_scm"):
        yield Finding("git", "ok", "core.no_scm is set: DVC works without git")
    elif not shutil.which("git"):
        yield Finding("git", "fail", "git is not installed, and DVC needs it", "install git")
    elif why := _git("rev-parse", "--is-inside-work-tree")[1]:
        yield Finding("git", "fail", f"no git repository: {why}", "run `git init`, or clone the project")
    elif _git("rev-parse", "--verify", "HEAD")[1]:
        yield Finding("git", "warn", "there is no commit yet", "commit once: `dvc exp run` needs it")
    elif conflicts := _git("diff", "--name-only", "--diff-filter=U")[0]:
        yield Finding("git", "fail", f"a merge is not done: {' '.join(conflicts.split())}", "resolve the conflicts")
    else:
        yield Finding("git", "ok", f"at commit {_git('rev-parse', '--short', 'HEAD')[0]}")


def _git(*words: str) -> tuple[str, str]:
    """What git answers, and why it refuses ("" if it does not)."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=GIT_PATIENCE)
    said = " ".join(done.stderr.split()) or f"git {words[0]} ends with {done.returncode}"
    return done.stdout.strip(), said if done.returncode else ""


def remote() -> Iterator[Finding]:
    """The default remote of DVC: whether it is configured, its plugin installed, its folder there."""
    config = _dvc_config() if Path(".dvc").is_dir() else None
    if config is None:
        return
    name, known = config["core"].get("remote"), config["remote"]
    if not name:
        found = f"no default among {', '.join(known)}" if known else "none: nothing is shared"
        yield Finding("remote", "warn" if known else "ok", found, "dvc remote default NAME" if known else "")
    elif name not in known:
        yield Finding("remote", "fail", f"core.remote is {name}, which is no remote", "dvc remote add -d NAME URL")
    else:
        yield _remote(name, known[name])


def _remote(name: str, told: dict[str, Any]) -> Finding:
    address = str(told["url"])
    scheme = urlsplit(address).scheme if "://" in address else ""
    what = f"{name}: {shown(address)}"
    if scheme:
        plugin = PLUGINS.get(scheme, scheme)
        if not find_spec(f"dvc_{plugin}"):
            cure = "pip install -e .[s3]" if plugin == "s3" else f"pip install 'dvc[{plugin}]'"
            return Finding("remote", "fail", f"{what}, but DVC's plugin for {scheme} is not installed", cure)
        endpoint = str(told.get("endpointurl") or "")
        if endpoint and (why := unreachable(endpoint, any_answer=True)):
            return Finding("remote", "fail", f"{what}: {shown(endpoint)} cannot be reached: {why}", "check the network")
        return Finding("remote", "ok", f"{what}; whether it lets you in, `dvc status -c` says")
    folder = Path(".dvc") / address  # an absolute path stays as it is
    if not folder.is_dir():
        return Finding("remote", "warn", f"{what} is not there", "mount its disk; if it is new, `dvc push` makes it")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("remote", "warn", f"{what} can be read only", "`dvc pull` works; ask its owner for `dvc push`")
    return Finding("remote", "ok", what)


def _dvc_config() -> Any:
    """DVC's configuration of this project, of all levels."""
    from dvc.config import Config, ConfigError

    try:
        return Config(".dvc")
    except ConfigError as e:
        raise AvsetError(f"DVC cannot read its configuration: {e}") from e

"""The machine: room on its disks, what the file systems can do, devices, Ray, installed packages."""

import fcntl
import os
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from avset.doctor.finding import Finding, existing
from avset.params import Runtime
from avset.storage.cache import cache_root

FEW_FILES = 100_000  # that a disk can still take
GPUS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # devices of GPUs: without one there is no need to ask torch
RAY_PATIENCE = 1.0  # s that a Ray cluster has to answer
LOCK = Path("requirements.lock")
ELSEWHERE = "point AVSET_CACHE at a folder that you can write to"


def disk(gigabytes: float) -> Iterator[Finding]:
    """Room where artifacts, items and temporary files go; a stage refuses to start with less than `gigabytes`."""
    places = {"data": Path.cwd(), "cache": cache_root(), "temporary": Path(tempfile.gettempdir())}
    for name, place in places.items():
        folder = existing(place)
        free, files = shutil.disk_usage(folder).free / 1e9, os.statvfs(folder)
        found = f"{name}: {free:.1f} GB free in {folder}"
        if free < gigabytes:
            status, cure = ("warn", "set TMPDIR") if name == "temporary" else ("fail", "lower runtime.min_free_gb")
            yield Finding("disk", status, found, f"free space, or {cure}")  # type: ignore[arg-type]
        elif files.f_files and files.f_favail < FEW_FILES:
            yield Finding("disk", "warn", f"{found}, but for {files.f_favail} files only", "remove small files")
        else:
            yield Finding("disk", "ok", found)


def file_systems() -> Iterator[Finding]:
    """Writing, renaming, hard links and locks, in the item cache and in the project."""
    for name, place in (("cache", cache_root()), ("project", Path.cwd())):
        folder = existing(place)
        if not folder.is_dir():
            yield Finding(name, "fail", f"{folder} is no folder", ELSEWHERE)
            continue
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as inside:
                yield from _abilities(name, folder, Path(inside) / "file")
        except OSError as e:
            cure = ELSEWHERE if name == "cache" else "have its owner let you write there"
            yield Finding(name, "fail", f"cannot write to {folder}: {e.strerror}", cure)


def _abilities(name: str, folder: Path, file: Path) -> Iterator[Finding]:
    """What can be done with a new file in a folder; OSError if it cannot be written."""
    new = file.with_name("new")
    new.write_bytes(b"doctor")
    new.replace(file)
    lacks = []
    with file.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            lacks.append(f"no locks ({e.strerror})")
    if lacks:
        yield Finding(name, "warn", f"{folder}: {lacks[0]}", "run one process at a time, or take another disk")
    link = existing(Path.cwd()) / f".doctor-{uuid4().hex[:8]}"
    try:
        os.link(file, link)
    except OSError as e:
        found = f"{folder}: no hard links to {link.parent} ({e.strerror}), so that files are copied"
        yield Finding(name, "warn", found, "put AVSET_CACHE and the project on one disk to save space")
    finally:
        with suppress(OSError):
            link.unlink()
    if not lacks:
        yield Finding(name, "ok", f"{folder}: files can be written, renamed and locked")


def devices(runtime: Runtime) -> Iterator[Finding]:
    """Processors that runtime.device asks for, and how much of their memory is free."""
    cores = f"{os.cpu_count()} cores"
    if runtime.device == "cpu":
        yield Finding("devices", "ok", f"{cores}; runtime.device is cpu")
        return
    if runtime.device == "auto" and not any(Path(one).exists() for one in GPUS):
        yield Finding("devices", "ok", f"{cores}, no GPU")
        return
    import torch

    if not torch.cuda.is_available():
        lacking, cure = f"torch {torch.__version__} finds no CUDA device", "set runtime.device to auto or cpu"
        if runtime.device == "cuda":
            yield Finding("devices", "fail", f"runtime.device is cuda, but {lacking}", cure)
        else:
            cure = "install the torch that fits the driver, or set runtime.device to cpu"
            yield Finding("devices", "warn", f"{lacking}, though this machine has a GPU", cure)
        return
    for number in range(torch.cuda.device_count()):
        try:
            free, total = (size / 1e9 for size in torch.cuda.mem_get_info(number))
        except RuntimeError as e:
            yield Finding(
                "devices", "fail", f"GPU {number} does not work: {' '.join(str(e).split())[:200]}", "try another"
            )
            continue
        found = f"{torch.cuda.get_device_name(number)}: {free:.0f} of {total:.0f} GB free"
        if free < total / 2:
            yield Finding("devices", "warn", found, "another process uses it; wait, or set CUDA_VISIBLE_DEVICES")
        else:
            yield Finding("devices", "ok", found)


def ray(runtime: Runtime) -> Iterator[Finding]:
    """The cluster at $RAY_ADDRESS, if the executor is Ray."""
    if runtime.executor != "ray":
        return
    address = os.environ.get("RAY_ADDRESS", "") or "local"
    if not find_spec("ray"):
        yield Finding("ray", "fail", "Ray is not installed", "pip install -e .[pipeline]")
    elif address == "local":
        yield Finding("ray", "ok", "no RAY_ADDRESS: a cluster of this machine alone starts by itself")
    elif ":" not in address:
        yield Finding("ray", "ok", f"RAY_ADDRESS={address}: the cluster that runs on this machine")
    else:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), RAY_PATIENCE).close()
            yield Finding("ray", "ok", f"RAY_ADDRESS={address} answers")
        except (OSError, ValueError, OverflowError) as e:
            cure = "start it (docs/cluster.md), or unset RAY_ADDRESS"
            yield Finding("ray", "fail", f"RAY_ADDRESS={address} does not answer: {e}", cure)


def packages() -> Iterator[Finding]:
    """Installed versions against those that are pinned; what we need ourselves must be there."""
    python = f"Python {platform.python_version()}"
    try:
        asked = [line.partition("extra ==") for line in metadata.requires("avset") or ()]
        needed = {_name(line) for line, _, extra in asked if not extra or "pipeline" in extra}
    except metadata.PackageNotFoundError:
        yield Finding("packages", "warn", f"{python}; avset itself is not installed", "pip install -e .[pipeline]")
        needed = set()
    lock = LOCK.read_text() if LOCK.is_file() else ""
    pins = {_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.M)}
    lacking, other = [], []
    for name, pinned in {**dict.fromkeys(needed, ""), **pins}.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking += [name] if name in needed else []
            continue
        if pinned and version != pinned:
            other.append(f"{name} {version} (pinned: {pinned})")
    if lacking:
        yield Finding("packages", "fail", f"not installed: {', '.join(sorted(lacking))}", "pip install -e .[pipeline]")
    elif other:
        found = f"{python}; {len(other)} other versions than in {LOCK}: {', '.join(sorted(other)[:5])}"
        yield Finding("packages", "warn", found, f"pip install -r {LOCK} if results differ")
    elif pins:
        yield Finding("packages", "ok", f"{python}, versions as in {LOCK}")


def _name(requirement: str) -> str:
    """The name of a package, as PyPI compares it."""
    found = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0] if found else requirement).lower()

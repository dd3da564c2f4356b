"""The folder $AVSET_CACHE, and all folders in it: items by a key of everything that decides their value, media, ..."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
from safetensors import SafetensorError

from avset.console import typed_path
from avset.errors import RETRIED, AvsetError
from avset.storage.files import write_atomic, writing
from avset.storage.items import Item, versions
from avset.storage.reading import passing, patiently

DAY = 86400  # s
HEADER = 1_000_000  # bytes of an item that may be its header


class Folder(NamedTuple):
    """A folder of $AVSET_CACHE: where below it its files lie (a glob), and a regular expression of their names.

    A file whose name begins with a dot is one that a process is writing.
    """

    files: str
    names: str


FOLDERS = {  # all that there are
    "items": Folder("*/*", r"[0-9a-f]{62}"),  # what a stage computed for a clip
    "fetched": Folder("items/*/*", r"[0-9a-f]{62}"),  # what became of a medium that was asked for
    "media": Folder("*/*", r"[0-9a-f]{62}\.\w+"),  # media files, by their content
    "shards": Folder("*/*/*", r"[0-9a-f]{64}\.(h5|rows)"),  # finished shards of stores, by stage and bits
    "mapped": Folder("*", r"[0-9a-f]{64}"),  # what artifacts are read from by mapping it into memory
    "runs": Folder("*", r"[0-9a-f]{64}\.pt"),  # states of trainings
    "finished": Folder("*", r"[0-9a-f]{64}\.zip"),  # finished models
    "shared": Folder("*", r"[0-9a-f]{64}"),  # models of other repositories, by address and commit
    "lists": Folder("*", r"[0-9a-f]{64}"),  # lists of videos, by their address
    "forgotten": Folder("*", r"[0-9a-f]{64}"),  # the keys of failures that are to be tried again
    "held": Folder("*", r"[0-9a-f]{64}"),  # the jobs that a stage is computing in its own process
    "partial": Folder("*/*", r".*"),  # what was downloaded so far of a video
    "pace": Folder("*", r"host-.*"),  # when the last download from a host started
    "yt-dlp": Folder("**/*", r".*"),  # what yt-dlp keeps for itself
}
FETCHING = ".fetch-"  # with a random end: a folder beside those above, in which one medium is fetched
ABANDONED = {f"{FETCHING}{'?' * 8}": 2 * DAY, f"partial/{'[0-9a-f]' * 64}*": 30 * DAY}  # if so old: of killed downloads


def cache_root() -> Path:
    """The folder $AVSET_CACHE; if that is not set, the user's cache."""
    return typed_path(os.environ.get("AVSET_CACHE") or platformdirs.user_cache_dir("avset"))


def cache_folder(name: str) -> Path:
    """One of the `FOLDERS` of $AVSET_CACHE; it need not exist."""
    assert name in FOLDERS, name
    return cache_root() / name


class ItemCache:
    """Items by key, in the folder $AVSET_CACHE or in another one. Any number of writers, no locks.

    An item waits for no disk, unless the cache is `lasting`: what a power cut tears is made again.
    """

    def __init__(self, root: Path | None = None, lasting: bool = False):
        self.root, self.lasting = root or cache_root(), lasting

    def path(self, key: str) -> Path:
        """Where the item of `key` lies, or would."""
        return self.root / "items" / key[:2] / key[2:]

    def __contains__(self, key: str) -> bool:
        path = self.path(key)
        with suppress(FileNotFoundError):
            return patiently(path.is_file) and path.stat().st_size > 0  # a power cut leaves empty files
        return False

    def put(self, key: str, item: Item, input: str = "") -> None:
        """Keep an item with its key and the digest of its `input`, unless its failure is one to be tried again."""
        if item.reason in RETRIED:
            return
        told = json.dumps({"input": input, "key": key, "made": item.made or versions()}, sort_keys=True).encode()
        data = item.dump() + told + len(told).to_bytes(2, "big")
        write_atomic(self.path(key), hashlib.sha256(data).digest() + data, self.lasting)
        with suppress(OSError):
            (self.root / "forgotten" / key).unlink(missing_ok=True)

    def reason(self, key: str) -> str | None:
        """Why a kept item failed, "" if it did not; None if there is no such item. No array of it is read."""
        try:
            with self.path(key).open("rb") as f:
                size = int.from_bytes(f.read(40)[32:], "little")
                header = json.loads(f.read(min(size, HEADER)))
            return str(json.loads(header["__metadata__"]["item"])[1])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError):  # whoever reads the item will say so
            return ""

    def forgotten(self) -> set[str]:
        """The keys of failures that are to be tried again: neither an item, nor a shard, nor a store tells them."""
        folder = self.root / "forgotten"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def forget(self, key: str) -> None:
        """Let the failure of `key` be tried again."""
        write_atomic(self.root / "forgotten" / key, b"")
        with writing(self.path(key)):
            self.path(key).unlink(missing_ok=True)

    def get(self, key: str) -> tuple[Item, str] | None:
        """The item and the sha256 of its content; None if there is none.

        An item that is damaged, or lies under another's key, is removed: there is none.
        """
        path = self.path(key)
        try:
            data = patiently(path.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as e:
            if passing(e):
                raise
            raise AvsetError(f"cannot read {path}: {e.strerror}; remove it, or have its owner make it readable") from e
        end = max(32, len(data) - 2 - int.from_bytes(data[-2:], "big"))
        whole = hashlib.sha256(data[32:end])
        content = whole.hexdigest()
        whole.update(data[end:])
        with suppress(ValueError, KeyError, SafetensorError):
            told = data[end:-2].decode()  # an item of an older version tells what made it, and not its key
            made = json.loads(told) if told.startswith("{") else {"key": key, "made": told}
            if whole.digest() == data[:32] and made["key"] == key:
                return Item.parse(data[32:end], made["made"]), content
        with writing(path):
            path.unlink(missing_ok=True)
        return None


def fetched_items(cache: ItemCache) -> ItemCache:
    """Where the cache keeps what became of each medium that was asked for, by the medium's `identity` alone."""
    return ItemCache(cache.root / "fetched", lasting=True)


def kept_media(cache: ItemCache, fields: dict[str, Any]) -> Path:
    """Where the cache keeps a media file, by its content."""
    sha256, suffix = str(fields["sha256"]), str(fields["suffix"])
    return cache.root / "media" / sha256[:2] / (sha256[2:] + suffix)

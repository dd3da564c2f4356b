"""The folder $AVSET_CACHE: items by a key of everything that decides their value, media by their content."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs
from safetensors import SafetensorError

from avset.errors import RETRIED, AvsetError
from avset.storage.files import write_atomic, writing
from avset.storage.items import Item, versions


class ItemCache:
    """Items by key, in the folder $AVSET_CACHE (default: the user's cache). Any number of writers, no locks."""

    def __init__(self, root: Path | None = None):
        named = os.environ.get("AVSET_CACHE")
        self.root = root or Path(named or platformdirs.user_cache_dir("avset"))

    def path(self, key: str) -> Path:
        """Where the item of `key` lies, or would."""
        return self.root / "items" / key[:2] / key[2:]

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def put(self, key: str, item: Item) -> None:
        """Keep an item, unless its failure is one to be tried again."""
        if item.reason in RETRIED:
            return
        made = (item.made or versions()).encode()
        data = item.dump() + made + len(made).to_bytes(2, "big")
        write_atomic(self.path(key), hashlib.sha256(data).digest() + data)

    def get(self, key: str) -> tuple[Item, str] | None:
        """The item and the sha256 of its content; None if it is not there, or damaged (then it is removed)."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise AvsetError(f"cannot read {path}: {e.strerror}; remove it, or have its owner make it readable") from e
        end = max(32, len(data) - 2 - int.from_bytes(data[-2:], "big"))
        whole = hashlib.sha256(data[32:end])
        content = whole.hexdigest()
        whole.update(data[end:])
        with suppress(ValueError, KeyError, SafetensorError):
            if whole.digest() == data[:32]:
                return Item.parse(data[32:end], data[end:-2].decode()), content
        with writing(path):
            path.unlink(missing_ok=True)
        return None


DAY = 86400  # s


ABANDONED = {".fetch-*": 2 * DAY, "partial/*": 30 * DAY}  # folders that old are of runs that were killed and left


def fetched(cache: ItemCache) -> ItemCache:
    """Where the cache keeps what became of each medium that was asked for, by its `identity` alone."""
    return ItemCache(cache.root / "fetched")


def kept_media(cache: ItemCache, fields: dict[str, Any]) -> Path:
    """Where the cache keeps a media file, by its content."""
    return cache.root / "media" / fields["sha256"][:2] / (fields["sha256"][2:] + fields["suffix"])

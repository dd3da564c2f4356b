"""Lists of videos on the net, as text: of an address, fetched once, or of a file."""

import base64
import hashlib
import json
import time
import urllib.request
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from typing import Any, TextIO
from urllib.error import HTTPError
from urllib.parse import unquote_to_bytes

from avset.errors import AvsetError, ClipError
from avset.sources.guard import guarded
from avset.storage.cache import cache_folder
from avset.storage.files import write_atomic
from avset.values import told

SHOWN = 60  # characters of a list's text in a message of ours
LARGEST = 500_000_000  # bytes of a list
LARGEST_TREE = 20_000_000  # bytes of a JSON list
ATTEMPTS = 3  # to fetch a list
PAUSE = 2.0  # s before the second attempt, twice that before the third
TIMEOUT = 60.0  # s without a byte
HEADERS = {"User-Agent": "avset", "Accept-Encoding": "identity"}


def open_list(place: str, option: str) -> TextIO:
    """Open a list: a local file, or an http(s) address, whose text then stays in the item cache.

    Bytes that are no UTF-8 become surrogates, which no id and no label may contain. AvsetError names the cure.
    """
    path = _file_of(place, option)
    try:
        return path.open(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as e:
        cure = f"set clips.options.{option} to a readable list"
        raise AvsetError(f"cannot read {told(place)!r}: {e.strerror}; {cure}") from e


def read_tree(place: str, option: str) -> Any:
    """A JSON list. AvsetError if the text is no JSON, has a key twice, or has more than LARGEST_TREE bytes."""
    why = f"it has more than {LARGEST_TREE} bytes"
    if _file_of(place, option).stat().st_size <= LARGEST_TREE:
        try:
            with open_list(place, option) as handle:
                return json.loads(handle.read(), object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as e:
            why = f"it is no JSON ({e})"
    raise refused(place, option, why)


def refused(place: str, option: str, why: str) -> AvsetError:
    """The error for a list that is not the right one. The cache drops what it kept of the address."""
    if is_address(place):
        _kept(place).unlink(missing_ok=True)
    return AvsetError(f"{told(place)!r} is not the list for clips.options.{option}: {why}; give the right one")


def is_address(place: str) -> bool:
    """Whether a list is on the net."""
    return place.lower().startswith(("http://", "https://"))


def shown(text: str) -> str:
    """A text of a list, short and printable, for a message of ours."""
    start = repr(text[:SHOWN])
    whole = len(text) <= SHOWN and len(start) <= 2 * SHOWN
    return start if whole else f"{start[: 2 * SHOWN]}... ({len(text)} characters)"


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"{shown(repeated[0])} stands in it twice")
    return dict(pairs)


def _kept(address: str) -> Path:
    """Where the cache keeps the list of an address."""
    return cache_folder("lists") / hashlib.sha256(address.encode()).hexdigest()


def _file_of(place: str, option: str) -> Path:
    """The file of a list; an address is fetched once, through the proxies that the environment names."""
    if is_address(place):
        if not _kept(place).is_file():
            write_atomic(_kept(place), _download(place, option))
        return _kept(place)
    path = Path(place)
    if not path.is_file() or path.stat().st_size > LARGEST:
        cure = f"set clips.options.{option} to a list or to its http(s) address"
        wrong = f"has more than {LARGEST} bytes" if path.is_file() else "is not there"
        raise AvsetError(f"the file {told(place)!r} {wrong}; {cure}")
    return path


def _download(address: str, option: str) -> bytes:
    """What an address delivers. After a failure that may pass it is asked again."""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE * attempt)
        try:
            with guarded(address):
                body = _body(address)
        except ClipError as e:
            why = e.detail
            break
        except HTTPError as e:
            e.close()
            why = f"the server answers {e.code}"
            if e.code < 500 and e.code != 429:
                break
        except (OSError, HTTPException, ValueError) as e:
            why = str(getattr(e, "reason", "") or e or type(e).__name__)
        else:
            page = body[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"
            if not page and len(body) <= LARGEST:
                return body
            why = "that is an HTML page" if page else f"it has more than {LARGEST} bytes"
            break
    raise AvsetError(f"no list at {told(address)}: {told(why)}; give a local file in clips.options.{option}")


def _body(address: str) -> bytes:
    """All that an address delivers, or a little more than LARGEST bytes; OSError if it breaks off before its end."""
    scheme, _, rest = address.partition("://")
    machine, slash, path = rest.partition("/")
    user, at, machine = machine.rpartition("@")
    request = urllib.request.Request(f"{scheme}://{machine}{slash}{path}", headers=HEADERS)
    if at:
        secret = base64.b64encode(unquote_to_bytes(user)).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    with urllib.request.build_opener().open(request, timeout=TIMEOUT) as response:
        size = int(response.headers.get("Content-Length", 0))
        body = bytearray()
        while len(body) <= LARGEST and (chunk := response.read(1 << 20)):
            body += chunk
    if len(body) < min(size, LARGEST):
        raise OSError(f"the transfer broke off after {len(body)} of {size} bytes")
    return bytes(body)

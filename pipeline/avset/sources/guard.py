"""Where an address may lead: a list, or a site, of a stranger sends nobody to machines that only we can reach.

Redirections, formats and segments of a video, names that resolve to such a machine and numbers that are written in
other ways all end in a connection. So every connection is looked at, by an audit hook of Python (PEP 578), whatever
library makes it.
"""

import ipaddress
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from avset.errors import ClipError

SCHEMES = ("http", "https")
Kinds = frozenset[str]
_allowed: ContextVar[tuple[Kinds, Kinds] | None] = ContextVar("allowed", default=None)  # named, connected to


def kind_of(host: str) -> str:
    """What kind of place a numeric address is: "" if it is anywhere on the net, else "loopback", "link-local", ..."""
    place = ipaddress.ip_address(host.partition("%")[0])
    inside = getattr(place, "ipv4_mapped", None) or getattr(place, "sixtofour", None)
    if isinstance(place, ipaddress.IPv6Address) and place in ipaddress.ip_network("64:ff9b::/96"):
        inside = ipaddress.IPv4Address(place.packed[-4:])
    if isinstance(place, ipaddress.IPv6Address) and not any(place.packed[:12]) and place.packed[12]:
        inside = ipaddress.IPv4Address(place.packed[-4:])
    place = inside or place
    here = place.is_loopback or place.is_unspecified  # a connection to 0.0.0.0 goes to the own machine
    for kind, found in (("loopback", here), ("link-local", place.is_link_local)):
        if found:
            return kind
    return "" if place.is_global and not place.is_multicast else "private"


def kinds_of(address: str) -> set[str]:
    """The kinds of the places that an address leads to; none if its host is not known."""
    with suppress(OSError, ValueError):
        host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
        return _kinds(host)
    return set()


def _kinds(host: str) -> set[str]:
    return {kind_of(str(found[4][0])) for found in socket.getaddrinfo(host, None)}


@contextmanager
def guarded(address: str, proxy: str | None = None) -> Iterator[None]:
    """In the block, connections go to the net, and to places of the kind at which `address` itself lies.

    Behind a proxy, ours or one of the environment, connections to the proxy's kind are allowed too. What the proxy
    does with a name we cannot see; of urllib's requests the names are looked at. ClipError("unavailable") refuses, also
    all schemes but http and https.
    """
    proxies = [proxy] if proxy else [place for name, place in urllib.request.getproxies().items() if name != "no"]
    own = frozenset({"", *kinds_of(address)})
    _watch()
    token = _allowed.set((own, own.union(*map(kinds_of, proxies))))
    try:
        yield
    finally:
        _allowed.reset(token)


@cache
def _watch() -> None:
    sys.addaudithook(_look)


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse a connection, or a request, that a guarded block must not make."""
    if event not in ("socket.connect", "urllib.Request", "ftplib.connect"):
        return
    allowed = _allowed.get()
    if allowed is None:
        return
    if event == "socket.connect":
        connection, place = arguments
        internet = connection.family in (socket.AF_INET, socket.AF_INET6)
        found = _kinds(str(place[0])) - allowed[1] if internet else set()
    elif event == "ftplib.connect" or urlsplit(str(arguments[0])).scheme not in SCHEMES:
        raise ClipError("unavailable", "the address leads to one that is neither http nor https")
    else:
        found = kinds_of(str(arguments[0])) - allowed[0]
    if found:
        raise ClipError("unavailable", f"the address leads to a {min(found)} host, where it did not begin")

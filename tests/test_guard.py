"""Addresses of strangers lead to no machine that only we can reach."""

import urllib.request

import pytest
from server import Fault, Server

from avset.errors import AvsetError, ClipError
from avset.sources.guard import guarded, kind_of
from avset.sources.lists import open_list

OWN = ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "0.0.0.0")


@pytest.mark.parametrize(
    ("host", "kind"),
    [("8.8.8.8", ""), ("2606:4700::1", ""), ("127.8.8.8", "loopback"), ("::1", "loopback"), ("::", "loopback"),
     ("::ffff:127.0.0.1", "loopback"), ("64:ff9b::7f00:1", "loopback"), ("2002:7f00:1::", "loopback"),
     ("169.254.169.254", "link-local"), ("::ffff:169.254.169.254", "link-local"), ("fe80::1%eth0", "link-local"),
     ("10.1.2.3", "private"), ("fd00::1", "private"), ("100.64.0.1", "private"), ("224.0.0.1", "private")],
)  # fmt: skip
def test_a_host_is_of_a_kind(host: str, kind: str):
    assert kind_of(host) == kind


@pytest.mark.parametrize("host", OWN)
def test_what_began_on_the_net_does_not_come_here(host: str):
    with Server() as server:
        address = server.put("/list.csv", b"a").replace("127.0.0.1", host)
        with guarded("http://8.8.8.8/list.csv"), pytest.raises(ClipError, match="leads to a loopback host"):
            urllib.request.urlopen(address, timeout=5)
        assert not server.log


@pytest.mark.parametrize(
    "there", ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://10.0.0.1/", "ftp://127.0.0.1/list.csv"]
)
def test_a_redirected_list_stays_where_it_began(there: str):
    with Server() as server:
        address = server.put("/list.csv", b"a", Fault(location=there))
        with pytest.raises(AvsetError, match=r"no list at .*leads to"):
            open_list(address, "table")


def test_a_redirection_of_the_same_kind_is_followed():
    with Server() as server:
        there = server.put("/other.csv", b"a,b")
        address = server.put("/list.csv", b"", Fault(location=there))
        with open_list(address, "table") as handle:
            assert handle.read() == "a,b"

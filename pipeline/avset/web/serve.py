"""`avset web`: load a model, and serve its page until Ctrl-C. Door of uvicorn."""

import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from avset.errors import AvsetError
from avset.params import clips_of
from avset.web.jobs import Allowed

LOCAL = ("localhost", "127.0.0.1", "::1")


def serve(model: Path, encoder: Path, host: str, port: int, device: str, allowed: Allowed) -> None:
    """Serve the page of a model. AvsetError if a package is not there, or if the address cannot be had."""
    try:
        import uvicorn

        from avset.web.server import application
    except ImportError as e:
        raise AvsetError(f"the page needs the package {e.name}; pip install 'avset[web]'") from e
    from avset.inference.separate import load
    from avset.web.examples import examples

    with listening(host, port) as door:
        separator = load(model, encoder, device)
        hosts = LOCAL if local(host) else ()
        app = application(separator, examples(clips_of(encoder.parent)), allowed, hosts)
        shown = f"[{host}]" if ":" in host else host
        print(
            f"http://{shown}:{door.getsockname()[1]}/ shows the page of {separator.model.name}; Ctrl-C ends it",
            flush=True,
        )
        if not hosts:
            print(f"everyone who reaches {host} may use it: there is no password", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                                timeout_graceful_shutdown=3, limit_concurrency=200)  # fmt: skip
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([door])


def listening(host: str, port: int) -> socket.socket:
    """A socket at an address; AvsetError if it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as e:
        raise AvsetError(f"cannot serve at {host}, port {port} ({e}); give another --port or --host") from e


def local(host: str) -> bool:
    """Whether this machine alone reaches an address."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"

"""A web server on this machine that serves files with ranges, keeps a log, and fails in the ways that it is told."""

import re
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".m4a": "audio/mp4",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".ts": "video/mp2t",
}
HTML = b"<!doctype html><html><head><title>Sorry</title></head><body><p>Not this time.</p></body></html>"
PIECE = 1 << 14  # bytes written at once


@dataclass
class Fault:
    """What is wrong with answers to a path: with the first `times` requests that it concerns, then no more."""

    status: int = 0
    reset: int | None = None  # bytes of a longer body after which the connection breaks
    slow: float = 0.0  # s before each piece of the body
    longer: int = 0  # bytes by which Content-Length is too large
    html: bool = False  # a page instead of the file
    deaf: bool = False  # ranges are ignored
    location: str = ""  # of a redirection
    times: int = 1_000_000
    ranged: bool = True  # concerns requests for ranges
    plain: bool = True  # concerns requests for all


@dataclass
class Request:
    """One line of the log, in the order in which requests came."""

    path: str
    start: int | None  # None: no range was asked for
    end: int | None  # exclusive
    headers: dict[str, str]
    sent: int = 0  # bytes of the body, when the answer is over


@dataclass
class Server:
    """Use it as a context. Its address is `url`; `log` grows with every request."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    log: list[Request] = field(default_factory=list)

    def put(self, path: str, content: bytes | Path, *faults: Fault) -> str:
        """Serve something; returns its address."""
        self.files[path] = content.read_bytes() if isinstance(content, Path) else content
        self.faults[path] = list(faults)
        return self.url + path

    def ranges(self, path: str) -> list[tuple[int, int]]:
        """The bytes [start, end) of a file that went out in answers to requests for ranges, in order."""
        asked = [r for r in self.log if r.path == path and r.start is not None]
        return [(r.start or 0, (r.start or 0) + r.sent) for r in asked]

    def fault(self, path: str, ranged: bool) -> Fault:
        """The fault of the next answer."""
        for fault in self.faults.get(path, []):
            if fault.times > 0 and (fault.ranged if ranged else fault.plain):
                fault.times -= 1
                return fault
        return Fault()

    def __enter__(self) -> Self:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"owner": self}))
        self.http.daemon_threads = False
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()  # waits for the connections: who left one open is late


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: Server
    protocol_version = "HTTP/1.1"
    timeout = 5  # s without a request

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        fault = self.owner.fault(path, asked is not None)
        given = (int(asked[1]), int(asked[2]) + 1 if asked[2] else None) if asked else (None, None)
        request = Request(path, *given, dict(self.headers))
        self.owner.log.append(request)
        content = self.owner.files.get(path)
        status, start, end, kind = 200, 0, 0, TYPES.get(Path(path).suffix, "application/octet-stream")
        headers: dict[str, str] = {}
        if content is None or fault.status:
            status, content, kind = fault.status or 404, b"no", "text/plain"
        elif fault.location:
            status, content, headers = 302, b"", {"Location": fault.location}
        elif fault.html:
            content, kind = HTML, "text/html"
        end = len(content)
        if status == 200 and asked and not fault.deaf:
            start = int(asked[1])
            end = min(end, int(asked[2]) + 1 if asked[2] else end)
            status = 206 if start < end else 416
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}" if start < end else f"bytes */{end}"}
            start, end = (start, end) if start < end else (0, 0)
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "ETag": f'"{len(content)}"'}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(end - start + fault.longer))
        self.end_headers()
        request.sent = self.send_body(content[start:end] if body else b"", fault)
        self.close_connection = self.close_connection or fault.longer != 0

    def send_body(self, body: bytes, fault: Fault) -> int:
        """The bytes that went out before the connection broke."""
        stop = len(body) if fault.reset is None else min(fault.reset, len(body))
        sent = 0
        with suppress(OSError):
            while sent < stop:
                time.sleep(fault.slow)
                piece = body[sent : min(sent + PIECE, stop)]
                self.wfile.write(piece)
                sent += len(piece)
        if sent < len(body):  # who has the whole body may use the connection again
            self.close_connection = True
            self.wait_for_the_client()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return sent

    def wait_for_the_client(self) -> None:
        """Until it has read what was sent, or some seconds: a reset throws away what is unread."""
        here, there = (f":{port:04X}" for port in (self.server.server_address[1], self.client_address[1]))
        over = time.monotonic() + 5
        while time.monotonic() < over:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            unread = [row[4].split(":")[1] for row in rows if row[1].endswith(there) and row[2].endswith(here)]
            if not any(int(count, 16) for count in unread):
                break
            time.sleep(0.001)

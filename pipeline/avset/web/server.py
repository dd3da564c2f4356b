"""The server of the page. Door of Starlette.

    GET    /                             the page, and /static/ what it is made of
    GET    /api/about                    the model, what is allowed, the examples
    GET    /api/examples/1               the picture in the middle of an example, to draw a box on
    POST   /api/separations?query=...    the bytes of a file, with its ?name=, or ?example=1 -> its key; ?shares=1:
                                         where sounds claim more than there is, each gets its share
    GET    /api/separations/KEY          how it stands: waiting, running, done or failed
    GET    /api/separations/KEY/FILE     a sound (.wav) or a picture (.jpg)
    DELETE /api/separations/KEY          forget it

A query is words, or JSON: {"text": words} or {"box": [left, upper, right, lower]}, in fractions of the centre square,
with "without": [words].

An error is {"error": a sentence}. A path of this machine is in no answer. The page of another site gets nothing.
"""

import asyncio
import json
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avset import report
from avset.errors import AvsetError
from avset.inference.separate import Separator
from avset.inference.wishes import Query
from avset.web.examples import Example
from avset.web.jobs import Allowed, Busy, Job, Jobs
from avset.web.results import middle_picture, separated

STATIC = Path(__file__).parent / "static"
PLAYER = Path(report.__file__).parent / "player"  # which the report's page has, too
SWEEP = 15.0  # s between two looks for what is old
GONE = "there is no such separation; it is removed some minutes after it was asked for last"
MADE = re.compile(r"(sound-\d+|rest|mixture)\.(wav|jpg)|frame-\d+\.jpg")  # files that results have
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' blob: data:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Pages:
    """What the addresses answer: a separator, its examples, and the separations that were asked for."""

    def __init__(self, separator: Separator, examples: list[Example], allowed: Allowed):
        self.separator, self.examples, self.allowed, self.jobs = separator, examples, allowed, Jobs(allowed)
        self._pictures: dict[int, bytes] = {}  # of examples, by number

    async def page(self, request: Request) -> Response:
        """The page; its style sheets, and those that its scripts make, are told by a number used once."""
        nonce = secrets.token_urlsafe(16)
        text = (STATIC / "index.html").read_text().format(nonce=nonce, player=(PLAYER / "player.html").read_text())
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY.format(nonce=nonce)})

    async def about(self, request: Request) -> Response:
        """What the page has to know at first."""
        allowed = {key: value for key, value in asdict(self.allowed).items() if key != "unfinished"}
        labels = [example.labels for example in self.examples]
        return JSONResponse({"model": self.separator.model.name, "allowed": allowed, "examples": labels})

    async def picture(self, request: Request) -> Response:
        """The picture in the middle of an example."""
        number = request.path_params["number"]
        example = self._example(str(number))
        assert example
        if number not in self._pictures:
            self._pictures[number] = await asyncio.to_thread(_middle_of, example)
        return Response(self._pictures[number], media_type="image/jpeg")

    async def ask(self, request: Request) -> Response:
        """Take a file, or an example, and let it wait."""
        asked = request.query_params
        queries = self._checked(asked.getlist("query"))
        example = self._example(asked.get("example"))
        job = self.jobs.open()
        try:
            file = job.folder / "file"
            if example is None:
                await self._receive(request, file)
        except BaseException:  # also if the browser is closed
            self.jobs.remove(job)
            raise
        name = _shown(asked.get("name", "")) if example is None else " and ".join(example.labels)
        shares = asked.get("shares") == "1"
        self.jobs.start(job, partial(self._work, job, file, example, name, queries, shares))
        return JSONResponse({"key": job.key}, 202)

    async def status(self, request: Request) -> Response:
        """How a separation stands."""
        return JSONResponse(self.jobs.status(self._found(request)))

    async def file(self, request: Request) -> Response:
        """A sound or a picture of a separation."""
        path = self._found(request).folder / request.path_params["file"]
        if not MADE.fullmatch(path.name) or not path.is_file():
            raise HTTPException(404, GONE)
        return FileResponse(path)

    async def forget(self, request: Request) -> Response:
        """Forget a separation and its files."""
        self.jobs.remove(self._found(request))
        return Response(status_code=204)

    def _work(
        self, job: Job, file: Path, example: Example | None, name: str, queries: list[Query], shares: bool
    ) -> dict[str, Any]:
        source = file
        try:
            source = example.path(job.folder) if example else file
            found = separated(self.separator, source, queries, job.folder, self.allowed.minutes, shares)
            return found | {"name": name}
        except AvsetError as e:
            raise AvsetError(_without_paths(str(e).replace(str(source), name), name)) from e
        finally:
            file.unlink(missing_ok=True)

    def _checked(self, told: list[str]) -> list[Query]:
        if not told:
            raise AvsetError('a query is empty; say what to listen for, as "person playing a violin"')
        if len(told) > self.allowed.queries:
            raise AvsetError(f"{len(told)} queries are too many; give {self.allowed.queries} at most")
        queries = [_query(one) for one in told]
        for one in (other for query in queries for other in (query, *query.unwanted)):
            if len(one.text or "") > self.allowed.letters:
                raise AvsetError(f"a query is too long; give {self.allowed.letters} letters at most")
        if any(len(query.unwanted) > self.allowed.queries for query in queries):
            raise AvsetError(f"a query leaves out too much; give {self.allowed.queries} at most")
        if len({query.label() for query in queries}) < len(queries):
            raise AvsetError("two queries are the same; give each of them once")
        return queries

    def _example(self, number: str | None) -> Example | None:
        if number is None:
            return None
        if not number.isdecimal() or not 0 < int(number) <= len(self.examples):
            raise AvsetError(f"there is no such example; give a number from 1 to {len(self.examples)}")
        return self.examples[int(number) - 1]

    async def _receive(self, request: Request, file: Path) -> None:
        """Write the bytes that come; HTTPException if they are too many, or do not come."""
        most = int(self.allowed.megabytes * 1e6)
        large = HTTPException(
            413, f"the file is larger than {self.allowed.megabytes:g} MB; cut it, or use `avset separate`"
        )
        told = request.headers.get("content-length", "0")
        if told.isdecimal() and int(told) > most:
            raise large
        size, chunks = 0, aiter(request.stream())
        with file.open("wb") as out:
            while chunk := await self._next(chunks):
                size += len(chunk)
                if size > most:
                    raise large
                out.write(chunk)
        if not size:
            raise AvsetError("there is no file, or it is empty; give an audio or video file")

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self.allowed.patience):
                return await anext(chunks, b"")
        except TimeoutError as e:
            raise HTTPException(408, "the file does not come any more; send it again") from e
        except ClientDisconnect as e:
            raise HTTPException(400, "the browser left before the file was there") from e

    def _found(self, request: Request) -> Job:
        if job := self.jobs.find(request.path_params["key"]):
            return job
        raise HTTPException(404, GONE)


def application(
    separator: Separator, examples: list[Example], allowed: Allowed, hosts: Collection[str] = ()
) -> Starlette:
    """The server as an ASGI application. It answers to names of `hosts` alone, if there are any."""
    pages = Pages(separator, examples, allowed)
    key = "/api/separations/{key}"
    routes = [
        Route("/", pages.page),
        Route("/api/about", pages.about),
        Route("/api/examples/{number:int}", pages.picture),
        Route("/api/separations", pages.ask, methods=["POST"]),
        Route(key, pages.status),
        Route(key, pages.forget, methods=["DELETE"]),
        Route(f"{key}/{{file}}", pages.file),
        Mount("/static/player", StaticFiles(directory=PLAYER)),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={AvsetError: _told, HTTPException: _told_by_http, OSError: _full},
        lifespan=partial(_life, pages.jobs),
    )


class Guard:
    """Answers to its own page alone, and tells browsers to be careful.

    A page of another site may be shown by the same browser: its requests have another `Origin`, or, where it has given
    its own name this machine's address, another `Host`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"], headers["Referrer-Policy"] = "nosniff", "no-referrer"
                headers["Cross-Origin-Resource-Policy"], headers["Cache-Control"] = "same-origin", "no-store"
            await send(message)

        answer = self.app if scope["type"] != "http" or self._own(Headers(scope=scope)) else _STRANGE
        await answer(scope, receive, careful)

    def _own(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        named = not self.hosts or _hostname(host) in self.hosts
        return named and (origin is None or urlsplit(origin).netloc == host)


_STRANGE = JSONResponse(
    {"error": "this page answers to its own address alone; open the address that avset web told"}, 403
)


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _query(told: str) -> Query:
    """A query as the page tells it; AvsetError if it is none."""
    if not told.startswith("{"):
        return Query(_words(told))
    try:
        found = json.loads(told)
        box, without = found.pop("box", None), found.pop("without", [])
        if not {*found} <= {"text"} or not isinstance(without, list):
            raise ValueError
        return Query(
            _words(found["text"]) if found else None, box=box and tuple(map(float, box)),
            without=[_words(one) for one in without],
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise AvsetError("a query cannot be read; give words, or a box, and what is not wanted") from e


def _words(text: str) -> str:
    return " ".join(text.split())


def _middle_of(example: Example) -> bytes:
    with tempfile.TemporaryDirectory(prefix="avset-") as folder:
        return middle_picture(example.path(Path(folder)))


def _shown(name: str) -> str:
    """The name of a file as its user knows it, on one line."""
    return " ".join(name.replace("\\", "/").rpartition("/")[2].split())[:100] or "the file"


def _without_paths(text: str, name: str) -> str:
    """A sentence in which the file has the name that its user gave it. Of any other path the last part is left."""
    return re.sub(r"'/[^']*'", lambda _: repr(name), text)


async def _told(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 503 if isinstance(error, Busy) else 400)


async def _told_by_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _full(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server cannot keep the file now: its disk fails or is full"}, 507)


@asynccontextmanager
async def _life(jobs: Jobs, _: Starlette) -> AsyncIterator[None]:
    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP)
            jobs.sweep()

    sweeper = asyncio.create_task(sweep())
    try:
        yield
    finally:
        sweeper.cancel()
        await asyncio.to_thread(jobs.close)

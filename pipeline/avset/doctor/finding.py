"""What a check of `avset doctor` finds, and what the checks share."""

import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from subprocess import SubprocessError
from threading import Thread
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.error import HTTPError

from avset.errors import AvsetError

BROKEN = (AvsetError, OSError, ImportError, SubprocessError)  # what a broken environment raises
PATIENCE = 5.0  # s that an address has to answer


class Finding(NamedTuple):
    """One line of the doctor: what was looked at, whether it is well, what was seen, and the cure if it is not."""

    check: str
    status: Literal["ok", "warn", "fail"]  # warn: stages run, but something is slower or less than it could be
    found: str
    cure: str = ""


def existing(place: Path) -> Path:
    """The nearest folder that is there: a place itself, or one above it."""
    place = place.absolute()
    return next(folder for folder in (place, *place.parents) if folder.exists())


class Answer(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: a hub redirects to addresses of which the head cannot be fetched."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """None: the redirection is the answer."""


def unreachable(address: str, any_answer: bool = False) -> str:
    """Why an address cannot be read, "" if it can; only its head is fetched, by the proxies of the environment.

    With `any_answer` a refusal counts as an answer: the machine is there.
    """

    def ask() -> str:
        try:
            request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "avset"})
            urllib.request.build_opener(Answer).open(request, timeout=PATIENCE).close()
        except HTTPError as e:
            e.close()
            return "" if any_answer or e.code < 400 else f"the server answers {e.code}"
        except (OSError, HTTPException, ValueError) as e:
            return str(getattr(e, "reason", "") or e or type(e).__name__)
        return ""

    return within(PATIENCE, ask, f"no answer in {PATIENCE:g} s")


T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], late: T) -> T:
    """What a call returns, or `late` if it takes longer: a name server may not answer for minutes."""
    answers: SimpleQueue[T] = SimpleQueue()
    Thread(target=lambda: answers.put(call()), daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return late

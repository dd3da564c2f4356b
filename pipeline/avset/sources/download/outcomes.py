"""What an exception of a download means: a reason of avset.errors, and whether it is worth asking again.

Only `SURE` words of a site about the video itself are its fate. A site also has words about us, about the program that
asks ("no longer supported in this application") and about nothing ("Video unavailable"); numbers of HTTP are about a
server. These words change with the site, so whatever is not known for sure is asked again on another day.

Exceptions of yt-dlp are told by the names of their classes, so that nothing is imported here.
"""

import errno
import re
from collections.abc import Iterator

from avset.errors import AvsetError, ClipError
from avset.values import told

DETAIL_LENGTH = 300  # characters of a detail
CLASSES = {  # of an exception, or of a cause of it
    "GeoRestrictedError": "region",
    "UserNotLive": "live",
    "UnsupportedError": "unavailable",  # a page without a video: perhaps that of a proxy, or an excuse
    "TransportError": "network",  # resets, time-outs, proxies, certificates, bodies that end early
    "ContentTooShortError": "network",
    "ConnectionError": "network",
    "TimeoutError": "network",
}
FORBIDDEN = 403  # perhaps the address has expired: the site is asked again, then "rate_limited"
EXPIRED = (404, 410)  # so too, of media that the site has just named; then "unavailable"
STATUS = {  # of HTTP; 500 and above are "network", others "error"
    401: "unavailable",
    402: "unavailable",
    FORBIDDEN: "rate_limited",
    404: "unavailable",
    408: "network",
    410: "unavailable",
    416: "network",  # the file was longer when the site told its size
    429: "rate_limited",
    451: "region",
}
SURE = (  # words about the video itself, as YouTube and others write them
    ("removed", "removed by the (uploader|user|author|owner)|(video|clip) (has been|was) (removed|deleted|taken down)"),
    ("removed", "account associated with (it|th(is|e) video) has been terminated|uploader has closed th"),
    ("removed", "no longer available due to a copyright claim|blocked it on copyright grounds"),
    ("removed", "this video (does not|doesn.t) exist"),
    ("private", r"\bprivate video\b|video is (set to )?private"),
    ("private", "members[- ]only content|available to this channel.s members|video requires payment"),
)
WORDS = (  # of sites, about anything else; the first pattern that matches counts
    ("invalid", "not a valid url|file:// urls are disabled"),
    ("bot_check", "not a (ro)?bot|captcha|anti-bot|unusual traffic|likely being blocked"),
    ("rate_limited", "rate.?limit|try again later|too many requests"),
    ("age", "confirm your age|age.?(restrict|limit|verif|gate)|inappropriate for some"),
    ("live", r"live event|premieres?\b|not currently live|upcoming|begin in|processing this video|is offline"),
    ("region", "(in|from|to) your (country|region|location|territory)|geo.?(restrict|block)"),
    ("network", "failed to extract any player response|incomplete data|needs to be reloaded|giving up after"),
    ("error", "unable to extract|requested format|no video formats"),  # of yt-dlp
)
ADVICE = r"\s*[(.;]?\s*(caused by|use --|see  ?http|also see|confirm you are on|please report|you might want)"
POOLS = r"HTTPS?Connection\w*\([^()]*\): |Max retries exceeded with url: \S+ |<[\w.]+ object at 0x\w+>,? ?:? ?"


def understand(error: Exception, secrets: tuple[str, ...] = ()) -> tuple[ClipError, bool]:
    """The ClipError that an exception stands for, without secrets in its detail, and whether to ask again.

    An AvsetError that is no ClipError goes through; a disk that cannot be written becomes one.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ClipError):
            return ClipError(cause.reason, scrub(cause.detail, secrets)), cause.reason == "network"
        if isinstance(cause, AvsetError):
            raise cause
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            cure = "free space, or point AVSET_CACHE elsewhere"
            raise AvsetError(f"cannot write what is downloaded: {cause.strerror}; {cure}") from error
    text = getattr(causes[0], "orig_msg", None) or str(causes[0])
    status = _status(causes, text)
    reason = _reason(causes, status, text)
    name = type(causes[0]).__name__
    again = reason == "network" or status == FORBIDDEN or (status in EXPIRED and name != "ExtractorError")
    return ClipError(reason, scrub(f"{name}: {text}" if reason == "error" else text, secrets)), again


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception that an extractor raised, then its causes."""
    told: object = error
    if type(error).__name__ == "DownloadError":  # wraps another one, with advice for the command line
        told = error.__context__ or (getattr(error, "exc_info", None) or (None, None))[1] or error
    for _ in range(8):
        if not isinstance(told, BaseException):
            return
        yield told
        told = getattr(told, "cause", None) or told.__cause__


def _status(causes: list[BaseException], text: str) -> int | None:
    """The status of HTTP that was the cause."""
    status = next((s for s in (getattr(cause, "status", None) for cause in causes) if isinstance(s, int)), None)
    named = re.search(r"HTTP Error (\d{3})", text)
    return status or (int(named[1]) if named else None)


def _reason(causes: list[BaseException], status: int | None, text: str) -> str:
    names = (kind.__name__ for cause in causes for kind in type(cause).__mro__)
    if known := next((CLASSES[name] for name in names if name in CLASSES), None):
        return known
    if status is not None:
        return STATUS.get(status, "network" if status >= 500 else "error")
    said = "unavailable" if getattr(causes[0], "expected", False) else "error"  # words of the site, or a bug
    return next((reason for reason, words in (*SURE, *WORDS) if re.search(words, text, re.IGNORECASE)), said)


def scrub(text: str, secrets: tuple[str, ...] = ()) -> str:
    """A text in one line, at most `DETAIL_LENGTH` long, without secrets, queries and users of addresses, and paths."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split()).removeprefix("ERROR: ").removeprefix("[download] ")
    for secret in secrets:
        text = text.replace(secret, "...")
    text = re.sub(POOLS, "", text)
    text = re.sub(ADVICE + ".*", "", text, flags=re.IGNORECASE)
    text = told(text)
    text = re.sub(r"(?<![\w:/.])~?/[^\s/'\":]+(/[^\s'\":]*)+", "...", text)
    return text if len(text) <= DETAIL_LENGTH else text[: DETAIL_LENGTH - 3] + "..."

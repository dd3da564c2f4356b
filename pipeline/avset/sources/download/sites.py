"""Videos of sites as yt-dlp finds them: extraction, formats, and their files. Its only door."""

import io
import logging
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from avset.errors import AvsetError, ClipError
from avset.params import Download, digest
from avset.sources.download.remote import RemoteFile
from avset.storage.cache import cache_folder

WANTED_FORMATS = "bv*+ba/b/bv*/ba"  # pictures and sound in two files or one; else `extract` refuses the video
DIRECT = ("http", "https")  # protocols of one file
SEGMENTED = ("m3u8", "m3u8_native", "http_dash_segments")
RETRIES = 2  # by yt-dlp, of one segment
PATIENCE = 60.0  # s; sites show a video, advertisements first, before they give its file
PAGE = re.compile(rb"\s*<(!doctype|html|head|body)", re.IGNORECASE)
PAGE_BYTES = 512  # of a file, enough to tell
COOKIES = "set runtime.download.cookies to a cookies.txt in Netscape format, or cookies_from_browser to a browser"


@contextmanager
def client(access: Download, height: int) -> Iterator[Any]:
    """yt-dlp, silent. It writes only its cache and the files of `save_format`, and runs no ffmpeg.

    `height` is the shorter side (px) that is wanted: the largest format not above it, else the smallest.
    AvsetError if yt-dlp is not installed, or if the cookies cannot be read.
    """
    try:
        from yt_dlp import YoutubeDL
    except ImportError as error:
        raise AvsetError("videos of sites need yt-dlp; pip install 'avset[youtube]'") from error
    browser, _, profile = (access.cookies_from_browser or "").partition(":")
    options = {
        "logger": logging.Logger("yt-dlp", logging.CRITICAL + 1),
        "quiet": True,
        "noprogress": True,
        "format": WANTED_FORMATS,
        "format_sort": [f"res:{height}", "hdr:sdr", "proto"],
        "noplaylist": True,
        "playlist_items": "1",
        "extract_flat": "in_playlist",
        "default_search": "error",
        "geo_bypass": False,
        "cookiefile": _cookies(access),
        "cookiesfrombrowser": (browser, profile or None, None, None) if browser else None,
        "proxy": access.proxy,
        "socket_timeout": access.timeout,
        "retries": RETRIES,
        "fragment_retries": RETRIES,
        "skip_unavailable_fragments": False,
        "keep_fragments": True,  # a killed download finds them again
        "_no_ytdl_file": True,
        "updatetime": False,
        "hls_prefer_native": True,
        "ffmpeg_location": f"{os.devnull}/ffmpeg",  # there is none
        "cachedir": str(cache_folder("yt-dlp")),
    }
    downloader = YoutubeDL(options)
    try:
        downloader.cookiejar  # noqa: B018 (it is read now)
    except Exception:  # the text may hold cookies
        downloader.params["cookiefile"] = None
        downloader.close()
        raise AvsetError(f"cannot read the cookies; {COOKIES}") from None
    with downloader:
        yield downloader


def _cookies(access: Download) -> io.StringIO | None:
    """A copy of cookies.txt, for yt-dlp to write to."""
    if access.cookies is None:
        return None
    try:
        return io.StringIO(Path(access.cookies).expanduser().read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        raise AvsetError(f"cannot read the cookies; {COOKIES}") from None


def extract(client: Any, address: str, start: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What yt-dlp knows of a video, and the format with pictures and sound, or one of each.

    Waits until the site lets the formats be fetched. ClipError live; too_short if the video ends before second `start`;
    unavailable if the site names no single video, or gives us no pictures or no sound of it: what it gives depends on
    the client. Other errors of yt-dlp go through.
    """
    info = client.extract_info(address, download=False)
    if not info or info.get("_type", "video") != "video":
        raise ClipError("unavailable", "the site gives no single video there")
    if info.get("live_status") in ("is_live", "is_upcoming", "post_live") or info.get("is_live"):
        raise ClipError("live", str(info.get("live_status") or "is_live").replace("_", " "))
    formats = info.get("requested_formats") or [info]
    for kind, codec in (("pictures", "vcodec"), ("sound", "acodec")):
        if all(form.get(codec) == "none" for form in formats):
            raise ClipError("unavailable", f"the site gives no {kind} of it")
    if (info.get("duration") or math.inf) + 1 <= start:  # sites round it
        raise ClipError("too_short", f"the video ends at {info['duration']:.2f} s, not after {start:.2f} s")
    for form in formats:
        if form["protocol"] not in DIRECT + SEGMENTED:
            raise ClipError("error", f"the site gives it by {form['protocol']} only")
    wait = max(form.get("available_at") or 0 for form in formats) - time.time()
    time.sleep(min(max(wait, 0.0), PATIENCE))
    return info, formats


def remote_file(client: Any, form: dict[str, Any]) -> RemoteFile:
    """The file of a format, read through yt-dlp's networking, with its cookies, proxy and time limit."""
    from yt_dlp.networking import Request
    from yt_dlp.networking.exceptions import HTTPError, TransportError

    def request(start: int, end: int) -> Any:
        wanted = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
        try:
            return client.urlopen(Request(form["url"], headers={**(form.get("http_headers") or {}), **wanted}))
        except HTTPError as error:
            error.close()
            raise

    return RemoteFile(request, (TransportError,))


def refuse_page(start: bytes, path: Path | None = None) -> None:
    """ClipError("unavailable") if a file that starts so is a page: an excuse of the site. Its copy at `path` goes."""
    if PAGE.match(start[:PAGE_BYTES]):
        if path:
            path.unlink()
        raise ClipError("unavailable", "the site gives a page instead of the video")


def save_format(client: Any, info: dict[str, Any], form: dict[str, Any], folder: Path) -> Path:
    """Fetch all of a format into the folder; returns the file. Bytes that are there already are not fetched again."""
    known = ("format_id", "protocol", "ext", "width", "height", "tbr", "filesize")
    told = [info.get("duration"), *(form.get(key) for key in known)]
    if form["protocol"] in DIRECT:
        with suppress(io.UnsupportedOperation):
            file = remote_file(client, form)
            path = folder / digest([file.size, file.version, *told])
            file.save(path)
            with path.open("rb") as start:
                refuse_page(start.read(PAGE_BYTES), path)
            return path
    path = folder / digest(told)
    path.with_name(path.name + ".part").unlink(missing_ok=True)  # yt-dlp makes it anew from the segments that are there
    alone = {key: value for key, value in info.items() if key != "requested_formats"}
    done, _ = client.dl(str(path), {**alone, **form})
    pages = [piece for piece in folder.glob(f"{path.name}*-Frag*") if PAGE.match(piece.read_bytes()[:PAGE_BYTES])]
    if pages or not done:
        for piece in [*pages, path]:
            piece.unlink(missing_ok=True)
        raise ClipError("network", "the site gave pages instead of segments" if pages else "yt-dlp gave up")
    return path

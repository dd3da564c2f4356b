"""An extractor of yt-dlp for tests: fake:<what> fails like a site, fake:<what>:<address of a server> has formats."""

import time

from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.networking.exceptions import IncompleteRead, ProxyError, TransportError
from yt_dlp.utils import ExtractorError, UserNotLive

SAID = {  # words of sites
    "removed": "Video unavailable. This video has been removed by the uploader",
    "terminated": "This video is no longer available because the account associated with it has been terminated.",
    "copyright": "Video unavailable. This video contains content of a label, who has blocked it on copyright grounds",
    "gone": "This video isn't available anymore",
    "private": "Private video. Sign in if you've been granted access to this video",
    "members": "Join this channel to get access to members-only content like this video, and other exclusive perks.",
    "level": "This video is available to this channel's members on level: Gold (or any higher level).",
    "paid": "This video requires payment to watch.",
    "login": "This video is only available for registered users. Use --cookies, --username and --password",
    "age": "Sign in to confirm your age. This video may be inappropriate for some users. Use --cookies-from-browser",
    "bot": "Sign in to confirm you’re not a bot. Use --cookies for the authentication. See  https://x.org/y?z  for how",
    "captcha": "Video unavailable. YouTube is requiring a captcha challenge before playback",
    "blocked": "All player responses are invalid. Your IP is likely being blocked by Youtube",
    "limit": "Video unavailable. This content isn't available, try again later. The current session has been "
    "rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay",
    "country": "Video unavailable. This video contains content of a label, who has blocked it in your country",
    "upcoming": "This live event will begin in 3 days.",
    "premiere": "Premieres in 2 hours",
    "processing": "We're processing this video. Check back later.",
    "drm": "This video is DRM protected",
    "player": "Failed to extract any player response",
    "app": "The following content is not available on this app. Watch on the latest version of YouTube.",
    "device": "YouTube is no longer supported in this application or device.",
    "code": "This video is unavailable. Error code: 152 - 18",
    "latest": "Video unavailable. Watch on the latest version of YouTube.",
    "signin": "Please sign in. Use --cookies-from-browser or --cookies for the authentication",
    "bug": "Unable to extract player version",
}


class FakeIE(InfoExtractor):
    """What stands between the colons decides."""

    _VALID_URL = r"fake:(?P<id>\w+)(?::(?P<base>.+))?"

    def _real_extract(self, url: str) -> dict:
        what, base = self._match_valid_url(url).group("id", "base")
        if what in SAID:
            raise ExtractorError(SAID[what], expected=True)
        return getattr(self, f"_{what}")(what, base)

    def _info(self, what: str, formats: list[dict], **more: object) -> dict:
        return {"id": what, "title": "../../a title", "formats": formats, **more}

    def _geo(self, what: str, base: str) -> dict:
        self.raise_geo_restricted("The uploader has not made this video available in your country", ["DE", "FR"])

    def _notlive(self, what: str, base: str) -> dict:
        raise UserNotLive(video_id=what)

    def _reset(self, what: str, base: str) -> dict:
        raise ExtractorError("Unable to download API page: reset", cause=TransportError("Connection reset by peer"))

    def _proxy(self, what: str, base: str) -> dict:
        raise ProxyError("Cannot connect to proxy http://me:secret@10.1.2.3:8080: refused")

    def _half(self, what: str, base: str) -> dict:
        raise IncompleteRead(partial=10, expected=20)

    def _crash(self, what: str, base: str) -> dict:
        return {}["a key at /home/somebody/site.py"]

    def _nothing(self, what: str, base: str) -> dict:
        return self._info(what, [])

    def _images(self, what: str, base: str) -> dict:
        return self._info(what, [{"format_id": "sb", "url": f"{base}/sb.jpg", "vcodec": "none", "acodec": "none"}])

    def _list(self, what: str, base: str) -> dict:
        return self.playlist_result([self.url_result(f"fake:removed:{i}") for i in range(3)], what)

    def _islive(self, what: str, base: str) -> dict:
        return self._info(what, [{"format_id": "0", "url": f"{base}/a.mp4"}], live_status="is_live")

    def _silent(self, what: str, base: str) -> dict:
        return self._info(what, [{"format_id": "0", "url": f"{base}/v.mp4", "vcodec": "avc1", "acodec": "none"}])

    def _radio(self, what: str, base: str) -> dict:
        return self._info(what, [{"format_id": "0", "url": f"{base}/s.m4a", "vcodec": "none", "acodec": "mp4a"}])

    def _rtmp(self, what: str, base: str) -> dict:
        return self._info(what, [{"format_id": "0", "url": "rtmp://127.0.0.1/x", "protocol": "rtmp"}])

    def _pair(self, what: str, base: str) -> dict:
        """Pictures and sound in two files, of 12 s; the site wants a moment of patience."""
        now = time.time() + 0.1
        pictures = {"format_id": "v", "url": f"{base}/v.mp4", "vcodec": "avc1", "acodec": "none", "height": 128}
        sound = {"format_id": "s", "url": f"{base}/s.m4a", "vcodec": "none", "acodec": "mp4a", "available_at": now}
        return self._info(what, [sound, pictures], duration=12)

    def _sizes(self, what: str, base: str) -> dict:
        """One file for each height, named by it."""
        heights = (144, 240, 480, 720)
        return self._info(what, [{"format_id": f"{h}", "url": f"{base}/{h}.mp4", "height": h} for h in heights])

    def _upright(self, what: str, base: str) -> dict:
        """Two sizes of a video that is taller than wide."""
        sizes = ((240, 426), (360, 640))
        return self._info(
            what, [{"format_id": f"{w}", "url": f"{base}/{w}.mp4", "width": w, "height": h} for w, h in sizes]
        )

    def _segments(self, what: str, base: str) -> dict:
        """Pictures and sound in segments, by the protocol of DASH."""
        pieces = [{"url": f"{base}/seg{i}.ts"} for i in range(6)]
        return self._info(
            what, [{"format_id": "d", "url": base, "ext": "mp4", "protocol": "http_dash_segments", "fragments": pieces}]
        )

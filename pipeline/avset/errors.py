"""Every error that this project raises on purpose. One sentence: what is wrong, and the cure."""

REASONS = {  # why a clip is not in an artifact
    "missing": "the file is not there",
    "invalid": "the row of the list cannot be used",
    "removed": "the video is no longer there",
    "private": "the video is not public",
    "unavailable": "the site does not show the video, and does not say for sure that it is gone",
    "region": "the video is not shown in this country",
    "age": "the video is shown to signed-in adults only",
    "live": "the video is a live stream, or not out yet",
    "bot_check": "the site asks for proof that the visitor is human",
    "rate_limited": "the site refuses for now",
    "network": "the connection failed",
    "corrupt": "the file cannot be decoded",
    "truncated": "the file ends before its declared duration",
    "no_video": "there is no picture track",
    "no_audio": "there is no sound track",
    "silent": "the sound is below the silence threshold",
    "too_short": "the excerpt is shorter than clips.min_seconds",
    "worker_died": "the worker process died twice on this clip",
    "timeout": "the clip took longer than runtime.time_limit",
    "system": "the machine could not read the file: its disk, its network or its memory failed",
    "too_large": "the clip needs more memory than runtime.memory_limit",
    "error": "an unexpected error, see detail",
    "upstream": "an earlier stage failed on this clip",
}
REFUSED = {"bot_check", "rate_limited"}  # says something about us, and nothing about the video


# Not a property of the clip, so never remembered: every run tries the clip again.
RETRIED = {"worker_died", "timeout", "too_large", "system", "error", "upstream", "network", *REFUSED}
TRANSIENT = {*RETRIED, "unavailable", "live", "region", "age"}  # another time, place or account may change it


class AvsetError(Exception):
    """Base of all our errors; the command line prints its text without a traceback."""


class ParamsError(AvsetError):
    """A parameter is missing, unknown or out of range; the text names its key and the allowed values."""


class MissingArtifact(AvsetError):
    """An input artifact does not exist; the text names the command that makes it."""


class ClipError(AvsetError):
    """One clip cannot be used: `reason` is a key of `REASONS`, and `detail` says what was seen in the clip."""

    def __init__(self, reason: str, detail: str = ""):
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail or REASONS[reason]}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # pickled, to leave a worker process
        return type(self), (self.reason, self.detail)

"""Every error that this project raises on purpose. One sentence: what is wrong, and the cure."""

REASONS = {  # why a clip is not in an artifact
    "missing": "the file is not there",
    "corrupt": "the file cannot be decoded",
    "truncated": "the file ends before its declared duration",
    "no_video": "there is no picture track",
    "no_audio": "there is no sound track",
    "silent": "the sound is below the silence threshold",
    "too_short": "the excerpt is shorter than clips.min_seconds",
    "worker_died": "the worker process died on it twice",
    "error": "an unexpected error, see detail",
    "upstream": "an earlier stage failed on this clip",
}
RETRIED = {"worker_died", "error", "upstream"}  # not a property of the clip, so tried again at the next run


class AvsetError(Exception):
    """Base of all our errors; the command line prints its text without a traceback."""


class ParamsError(AvsetError):
    """A parameter is missing, unknown or out of range; the text names its key and the allowed values."""


class MissingArtifact(AvsetError):
    """An input artifact does not exist; the text names the command that makes it."""


class ClipError(AvsetError):
    """One clip cannot be used: `reason` is a key of `REASONS`, `detail` says what was seen."""

    def __init__(self, reason: str, detail: str = ""):
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail or REASONS[reason]}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # picklable: it crosses process borders
        return type(self), (self.reason, self.detail)

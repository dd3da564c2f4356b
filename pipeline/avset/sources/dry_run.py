"""What a source would deliver, before anything is fetched: rows of its lists, videos by class and split, cost."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from avset.compute.limited import Limits
from avset.console import aligned
from avset.errors import ClipError
from avset.params import Clips, Download
from avset.sources import SPLITS, Entry, Listing
from avset.sources.clips import online

TYPICAL = 240.0  # s of a video if no list tells its length
LEAD = 5.0  # s fetched before a piece, back to its keyframe
MEDIA_RATE = 80e3  # bytes a second of media at 360 px, pictures and sound
LINE_RATE = 2e6  # bytes a second of all downloads together
EXTRACTION = 5.0  # s of a download until the first byte
PROBED = 30  # local files whose length is read
SHOWN = 10  # invalid rows in the text; JSON has all


def estimate(
    listing: Listing, kept: set[str], clips: Clips, access: Download, options: Any, limits: Limits
) -> dict[str, Any]:
    """The counts and estimates that `--dry-run` prints; the cache has the media `kept` already."""
    usable = [entry for entry in listing.entries if not entry.fault]
    fetched = [entry for entry in usable if entry.media_id not in kept]
    remote = online(options)
    typical, size = (TYPICAL, None) if remote else _typical_file(usable, getattr(options, "duration", TYPICAL), limits)
    rate = MEDIA_RATE * getattr(options, "height", 360) / 360
    seconds = [_seconds(entry, typical) + LEAD * bool(entry.parts) for entry in fetched]
    volume = sum(seconds) * rate if size is None else size * len(fetched)
    cost = {
        "clips": sum(_clips(entry, typical, clips) for entry in usable),
        "media_hours": sum(_seconds(entry, typical) for entry in usable) / 3600,
        "gigabytes": volume / 1e9,
        "hours": _hours(len(fetched), volume, access) if remote else None,
    }
    assumed = {"seconds_per_video": typical, "bytes_per_second": rate, "line_bytes_per_second": LINE_RATE,
            "extraction_seconds": EXTRACTION, "pace_seconds": access.pace, "workers": access.workers}  # fmt: skip
    return {
        "lists": listing.funnel,
        "videos": {"listed": len(listing.entries), "invalid": len(listing.entries) - len(usable),
                   "in_cache": len(usable) - len(fetched), "to_fetch": len(fetched)},
        "splits": dict(Counter(entry.split for entry in usable)),
        "labels": _by_label(usable),
        "invalid": [entry.fault for entry in listing.entries if entry.fault],
        "estimate": cost,
        "assumed": assumed if remote else {"seconds_per_video": typical},
    }  # fmt: skip


def _typical_file(entries: list[Entry], otherwise: float, limits: Limits) -> tuple[float, float | None]:
    """Mean length (s) and size (bytes) of local files, from some of them; `otherwise` where there are none."""
    from avset.media.container import probe

    files = [Path(entry.origin) for entry in entries if Path(entry.origin).is_file()]
    lengths = []
    for path in files[:: math.ceil(len(files) / PROBED) or 1]:
        try:
            lengths.append(limits(probe, path).duration)
        except ClipError:
            continue
    size = sum(path.stat().st_size for path in files) / len(files) if files else None
    return (sum(lengths) / len(lengths) if lengths else otherwise), size


def _seconds(entry: Entry, typical: float) -> float:
    return sum(b - a for a, b in entry.parts) if entry.parts else typical


def _clips(entry: Entry, typical: float, clips: Clips) -> int:
    """About how many clips a medium gives."""
    lengths = [b - a for a, b in entry.parts] or [typical]
    return sum(1 if clips.length is None else max(1, round(seconds / clips.length)) for seconds in lengths)


def _hours(videos: int, volume: float, access: Download) -> float:
    return max(videos * access.pace, videos * EXTRACTION / access.workers, volume / LINE_RATE) / 3600


def _by_label(entries: list[Entry]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for entry in entries:
        for label in entry.labels or ("unlabelled",):
            counts.setdefault(label, Counter())[entry.split] += 1
    return {label: dict(counts[label]) for label in sorted(counts)}


def as_text(expected: dict[str, Any]) -> str:
    """An `estimate` as text."""
    lines = [("list", "what", "rows")]
    lines += [(name, what, f"{n}") for name, told in expected["lists"].items() for what, n in told.items()]
    parts = [aligned(lines, 2, rule=False).rstrip()] if expected["lists"] else []
    rows = [(repr(k)[1:-1], *(str(v.get(s, 0)) for s in SPLITS)) for k, v in expected["labels"].items()]
    total = ("videos", *(str(expected["splits"].get(s, 0)) for s in SPLITS))
    parts.append(aligned([("class", *SPLITS), *rows, total], 1, rule=False).rstrip())
    if faults := expected["invalid"]:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        parts.append("\n  ".join(["invalid rows:", *faults[:SHOWN], *more]))
    parts.append(in_a_line(expected))
    parts.append("assumed: " + ", ".join(f"{k} {v:g}" for k, v in expected["assumed"].items()))
    return "\n\n".join(parts)


def in_a_line(expected: dict[str, Any]) -> str:
    """An `estimate` in a sentence."""
    videos, cost = expected["videos"], expected["estimate"]
    fetch = f"{videos['in_cache']} in the cache, {videos['to_fetch']} to fetch"
    hours = "" if cost["hours"] is None else f" in {cost['hours']:.1f} h"
    return (
        f"{videos['listed']} videos, {videos['invalid']} with an invalid row, {fetch}: about {cost['gigabytes']:.2f} GB"
        f"{hours}; about {cost['clips']} clips, {cost['media_hours']:.1f} h of media"
    )

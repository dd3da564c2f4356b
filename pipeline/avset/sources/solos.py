"""Solos: videos of single musicians with 13 instruments, and the times at which they play (App. A.5)."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from avset.sources import Listing
from avset.sources.download import SUFFIX, fetch
from avset.sources.lists import read_tree, refused
from avset.sources.lists.funnel import Funnel, listing_of, narrowed, unite
from avset.sources.lists.rows import LATEST, Online, Reading, read_splits

__all__ = ["SUFFIX", "Options", "fetch", "listing"]

HOME = "https://raw.githubusercontent.com/JuanFMontesinos/Solos/master/Solos/json_files"
STAMP_RATE = 25  # frames/s of the time stamps


class Options(Online):
    """Which lists, and how they are split. A list is an address, or a file."""

    videos: str = Field(default=f"{HOME}/solos_ids.json", description="ids by class")
    timestamps: str | None = Field(default=f"{HOME}/solos_timestamps.json", description="null: whole videos")
    splits: str | None = Field(
        default=None,
        description="CSV with the columns id,split; a video that it does not name is left out. null: the first and "
        "the second video of every class are for validation and test, all others for training",
    )


def listing(options: Options) -> Listing:
    """One entry per video, with its parts in s, sorted by media_id.

    A video without time stamps (10 of the published ones) has a fault: nothing tells when anybody plays. No row with a
    fault counts as the first of its class. AvsetError names a list that is not the right one.
    """
    funnel: Funnel = {}
    splits = read_splits(options.splits, options, funnel) if options.splits else None
    times = _times(options.timestamps) if options.timestamps else None
    reading = Reading(options.videos, "videos", "{class: [id, ...]}")
    tree = read_tree(options.videos, "videos")
    lists = {"videos": reading.by_class(options, tree, labels_of, splits, parts_of=lambda video: _parts(times, video))}
    funnel["videos"] = {"rows": reading.rows, **reading.passed_over}
    return listing_of(funnel, narrowed(funnel, "repeated", lists, unite(lists)), splits)


def labels_of(name: str) -> tuple[str, ...]:
    """The label of a class: "DoubleBass" is a double bass."""
    return (re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower(),)


def _times(place: str) -> dict[str, Any]:
    """Id -> [[first, last frame], ...], of all classes in which the video stands."""
    tree = read_tree(place, "timestamps")
    if not isinstance(tree, dict) or not all(isinstance(videos, dict) for videos in tree.values()):
        raise refused(place, "timestamps", "it is no {class: {id: [[from, to], ...]}}")
    times: dict[str, Any] = {}
    for videos in tree.values():
        for video, stamps in videos.items():
            both = isinstance(stamps, list) and isinstance(times.get(video), list)
            times[video] = times[video] + stamps if both else stamps
    return times


def _parts(times: dict[str, Any] | None, video: str) -> Iterator[tuple[float, float]]:
    """The parts (s) of a video; ValueError if it has no time stamps, or wrong ones."""
    stamps = times.get(video) if times is not None else None
    if times is not None and not (stamps and isinstance(stamps, list)):
        raise ValueError(f"there are no time stamps for {video}")
    for stamp in stamps or ():
        numbers = isinstance(stamp, list) and len(stamp) == 2 and all(type(side) in (int, float) for side in stamp)
        if not numbers or not all(0 <= side <= LATEST * STAMP_RATE for side in stamp):
            raise ValueError(f"a time stamp of {video} is not [from, to] in frames")
        yield stamp[0] / STAMP_RATE, stamp[1] / STAMP_RATE

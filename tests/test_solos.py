"""Solos: classes, time stamps, splits."""

import json
from pathlib import Path

import pytest
from test_funnel import adds_up
from test_rows import GOOD, HOSTILE, harmless

from avset.errors import AvsetError
from avset.sources import Entry, Listing
from avset.sources.solos import Options, listing

VIDEOS = {"DoubleBass": ["bass0000001", "bass0000002", "bass0000003"], "Tuba": ["tuba0000001"]}
STAMPS = {
    "DoubleBass": {"bass0000001": [[0, 250], [300, 325]], "bass0000002": [[30, 40], [10, 20]], "bass0000003": [[0, 1]]},
    "Tuba": {"tuba0000001": [[25, 6050]]},
}


def found(folder: Path, videos: object = VIDEOS, stamps: object = STAMPS, **options: object) -> Listing:
    for name, tree in (("videos", videos), ("timestamps", stamps)):
        (folder / f"{name}.json").write_text(json.dumps(tree))
    places = {name: str(folder / f"{name}.json") for name in ("videos", "timestamps")}
    return listing(Options(**{**places, **options}))


def test_time_stamps_are_frames_of_a_twenty_fifth_of_a_second(tmp_path: Path) -> None:
    listed = found(tmp_path)
    origin = "https://www.youtube.com/watch?v=bass0000001"
    assert listed.entries[0] == Entry(
        "bass0000001", "validation", ("double bass",), origin, ((0.0, 10.0), (12.0, 13.0))
    )
    assert listed.entries[1].parts == ((0.4, 0.8), (1.2, 1.6)) and listed.entries[1].split == "test"
    assert listed.entries[3].labels == ("tuba",) and listed.entries[3].parts == ((1.0, 242.0),)
    assert listed.funnel == {"videos": {"rows": 4, "repeated": 0, "invalid": 0, "used": 4}}
    assert {entry.parts for entry in found(tmp_path, timestamps=None).entries} == {()}


@pytest.mark.parametrize(
    "stamps", [None, [], {}, "0-10", 5, [[5, 5]], [[20, 10]], [[-1, 10]], [[0, 10], [0]], [[0, 1, 2]], [[0, "10"]],
               [[False, True]], [0, 10], [[0, 10**400]], [[0, float("nan")]], [[0, float("inf")]], [[0, 25 * 10**6]]]
)  # fmt: skip
def test_a_video_without_proper_time_stamps_is_a_fault_and_not_the_first(tmp_path: Path, stamps: object) -> None:
    known = {key: value for key, value in STAMPS["DoubleBass"].items() if key != "bass0000001"}
    given = known if stamps is None else {**known, "bass0000001": stamps}
    listed = found(tmp_path, stamps={"DoubleBass": given, "Tuba": STAMPS["Tuba"]})
    (fault,) = [entry for entry in listed.entries if entry.fault]
    harmless(fault)
    assert fault.fault.startswith("'DoubleBass', video 1 of videos.json: ") and fault.labels == ("double bass",)
    splits = {entry.media_id: entry.split for entry in listed.entries if not entry.fault}
    assert splits == {"bass0000002": "validation", "bass0000003": "test", "tuba0000001": "validation"}


def test_a_user_s_splits_decide(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("id,split\nbass0000003,test\ntuba0000001,train\n")
    listed = found(tmp_path, splits=str(tmp_path / "splits.csv"))
    assert [(entry.media_id, entry.split) for entry in listed.entries] == [
        ("bass0000003", "test"),
        ("tuba0000001", "train"),
    ]
    assert listed.funnel["splits"] == {"rows": 2, "repeated": 0, "without a usable row": 0, "used": 2}


def test_hostile_lists(tmp_path: Path) -> None:
    videos = {"Flute": [*HOSTILE, None, *GOOD], "<B>": ["html0000001"], "x" * 10_000: [GOOD[0]]}
    stamps = {"Flute": {video: [[0, 25]] for video in [*HOSTILE, *GOOD, "html0000001"]}}
    listed = found(tmp_path, videos, stamps)
    adds_up(listed)
    entries = listed.entries
    for entry in entries:
        harmless(entry)
    assert {entry.media_id for entry in entries if not entry.fault} == {*GOOD, "html0000001"}
    assert sum(bool(entry.fault) for entry in entries) == len(HOSTILE) + 2


def test_a_video_of_two_classes_has_the_parts_of_both(tmp_path: Path) -> None:
    stamps = {"Flute": {"both0000001": [[0, 25]]}, "Tuba": {"both0000001": [[50, 75]]}}
    (entry,) = found(tmp_path, {"Flute": ["both0000001"], "Tuba": ["both0000001"]}, stamps).entries
    assert entry.labels == ("flute", "tuba") and entry.parts == ((0.0, 1.0), (2.0, 3.0))


def test_another_list_is_refused(tmp_path: Path) -> None:
    for stamps in ([], {"Tuba": [[0, 1]]}, "x"):
        with pytest.raises(AvsetError, match=r"clips\.options\.timestamps: it is no {class: {id"):
            found(tmp_path, stamps=stamps)
    with pytest.raises(AvsetError, match=r"is not the list for clips\.options\.videos"):
        found(tmp_path, videos=STAMPS)
    with pytest.raises(AvsetError, match=r"none of its 4 rows is a {class: \[id, \.\.\.\]}"):
        found(tmp_path, stamps={})

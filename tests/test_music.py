"""MUSIC and MUSIC21: solos, duets, what is trained on, and splits."""

import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_funnel import adds_up
from test_rows import GOOD, HOSTILE, harmless

from avset.errors import AvsetError
from avset.sources import Entry, Listing
from avset.sources.music import Options, listing

SOLOS = {"flute": ["flute000001", "-lute000002", "flute000003"], "acoustic_guitar": ["guitar00001", "guitar00002"]}
DUETS = {"flute violin flute": ["duet0000001"], "saxophone acoustic_guitar": ["duet0000002", "duet0000003"]}


def found(folder: Path, solos: object = SOLOS, duets: object = DUETS, **options: object) -> Listing:
    for name, videos in (("solos", solos), ("duets", duets)):
        (folder / f"{name}.json").write_text(json.dumps({"version": 1.0, "videos": videos}))
    places = {name: str(folder / f"{name}.json") for name in ("solos", "duets")}
    return listing(Options(**{**places, **options}))


def splits(listed: Listing) -> dict[str, str]:
    return {entry.media_id: entry.split for entry in listed.entries}


def test_solos_are_split_by_their_order_in_the_list(tmp_path: Path) -> None:
    listed = found(tmp_path)
    assert listed.entries[0] == Entry("-lute000002", "test", ("flute",), "https://www.youtube.com/watch?v=-lute000002")
    assert splits(listed) == {
        "-lute000002": "test", "flute000001": "validation", "flute000003": "train",
        "guitar00001": "validation", "guitar00002": "test",
    }  # fmt: skip
    assert listed.entries[-1].labels == ("acoustic guitar",)
    assert listed.funnel == {"solos": {"rows": 5, "repeated": 0, "invalid": 0, "used": 5}}


def test_training_on_duets_is_scored_on_solos(tmp_path: Path) -> None:
    listed = found(tmp_path, train=["duets"])
    assert Counter(splits(listed).values()) == {"train": 3, "validation": 2, "test": 2}
    labels = {entry.media_id: entry.labels for entry in listed.entries if entry.split == "train"}
    assert labels == {
        "duet0000001": ("flute", "violin"),
        "duet0000002": ("saxophone", "acoustic guitar"),
        "duet0000003": ("saxophone", "acoustic guitar"),
    }
    assert listed.funnel["solos"] == {"rows": 5, "not trained on": 1, "repeated": 0, "invalid": 0, "used": 4}
    assert Counter(splits(found(tmp_path, train=["solos", "duets"])).values()) == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }


def test_duets_for_testing_stand_beside_the_solos(tmp_path: Path) -> None:
    listed = found(tmp_path, test_duets=True)
    assert Counter(splits(listed).values()) == {"train": 1, "validation": 2, "test": 2 + 3}
    duets = [entry for entry in listed.entries if len(entry.labels) == 2]
    assert len(duets) == 3 and {entry.split for entry in duets} == {"test"}
    for wrong in ({"train": ["duets"]}, {"duets": None}):
        with pytest.raises(ValidationError, match="for one or the other"):
            Options(test_duets=True, **wrong)


def test_a_user_s_splits_decide(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("flute000001,train\n-lute000002,test\nduet0000001,test\nelsewhere01,train\n")
    given = {"splits": str(tmp_path / "splits.csv"), "train": ["solos", "duets"]}
    listed = found(tmp_path, **given)
    assert splits(listed) == {"-lute000002": "test", "duet0000001": "test", "flute000001": "train"}
    assert listed.funnel == {
        "solos": {"rows": 5, "without a split": 3, "repeated": 0, "invalid": 0, "used": 2},
        "duets": {"rows": 3, "without a split": 2, "repeated": 0, "invalid": 0, "used": 1},
        "splits": {"rows": 4, "repeated": 0, "without a usable row": 1, "used": 3},
    }
    assert splits(found(tmp_path, **{**given, "train": ["duets"]})) == {"-lute000002": "test", "duet0000001": "test"}
    (tmp_path / "splits.csv").write_text("flute000001,training\n")
    with pytest.raises(AvsetError, match=r"line 1 of splits\.csv"):
        found(tmp_path, **given)


def test_a_video_of_two_classes_has_both_labels_and_one_split(tmp_path: Path) -> None:
    listed = found(tmp_path, {"flute": ["a" * 11, "b" * 11, "c" * 11], "tuba": ["d" * 11, "c" * 11, "a" * 11]})
    assert splits(listed)["c" * 11] == "test" and splits(listed)["a" * 11] == "validation"
    assert listed.entries[0].labels == ("flute", "tuba") and len(listed.entries) == 4
    assert listed.funnel["solos"] == {"rows": 6, "repeated": 2, "invalid": 0, "used": 4}


def test_hostile_lists(tmp_path: Path) -> None:
    html = "<img_src=x>"
    solos = {"flute": [*HOSTILE, "dQw4w9WgXcQ\n", None, 1, [[]], *GOOD], html: ["html0000001"], "x" * 10_000: [GOOD[0]],
             "": ["empty000001"], "line\nbreak": ["newline0001"], "nul\0": ["nul00000001"]}  # fmt: skip
    listed = found(tmp_path, solos)
    adds_up(listed)
    entries = listed.entries
    for entry in entries:
        harmless(entry)
    usable = {entry.media_id: entry for entry in entries if not entry.fault}
    assert set(usable) == {*GOOD, "html0000001", "empty000001", "newline0001"}
    assert usable["html0000001"].labels == ("<img src=x>",) and usable["newline0001"].labels == ("line", "break")
    assert len(entries) - len(usable) == len(HOSTILE) + 4 + 2  # and the two labels
    assert [usable[video].split for video in GOOD] == ["validation", "test", "train", "train", "train"]


def test_invalid_rows_stay_whatever_is_trained_on_and_split(tmp_path: Path) -> None:
    solos = {"flute": ["#NAME?", "flute000001", "#NAME?", "flute000003", 1.2e5, "flute000004"]}
    (tmp_path / "splits.csv").write_text("flute000003,test\nduet0000001,train\n")
    for given in ({}, {"splits": str(tmp_path / "splits.csv")}):
        listed = found(tmp_path, solos, train=["duets"], **given)
        adds_up(listed)
        assert [e.origin for e in listed.entries if e.fault] and listed.funnel["solos"]["invalid"] == 3
        assert {e.origin for e in listed.entries if e.fault} == {f"'flute', video {n} of solos.json" for n in (1, 3, 5)}


def test_another_list_is_refused(tmp_path: Path) -> None:
    for tree in ([], {"flute": ["a" * 11]}, {"videos": ["a" * 11]}, {"videos": {"flute": ["short"]}}):
        (tmp_path / "list.json").write_text(json.dumps(tree))
        with pytest.raises(AvsetError, match=r"list\.json' is not the list for clips\.options\.solos"):
            listing(Options(solos=str(tmp_path / "list.json")))


def test_duets_without_a_list_of_duets_are_refused(tmp_path: Path) -> None:
    assert len(found(tmp_path, duets=None).entries) == 5
    for wrong in ({"train": ["duets"], "duets": None}, {"train": []}, {"train": ["trios"]}):
        with pytest.raises(ValidationError, match=r"train|duets"):
            Options.model_validate(wrong)

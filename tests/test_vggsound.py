"""VGGSound: labels, splits, hostile tables."""

import csv
import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_funnel import adds_up
from test_rows import GOOD, HOSTILE, harmless

from avset.errors import AvsetError
from avset.sources import Box, Entry, Listing
from avset.sources.clips import boxes_of
from avset.sources.vggsound import INSTRUMENTS, Options, listing, truth
from avset.storage.items import Item

ROWS = [
    ("-violin0001", "30", "playing violin, fiddle", "train"),
    ("guitar00001", "0", "playing acoustic guitar", "test"),
    ("guitar00002", "7", "playing electric guitar", "train"),
    ("speech00001", "12", "female speech, woman speaking", "test"),
]


def found(folder: Path, rows: list = ROWS, **options: object) -> Listing:
    with (folder / "vggsound.csv").open("w", newline="") as f:
        csv.writer(f).writerows(rows)
    return listing(Options(**{"table": str(folder / "vggsound.csv"), "validation": 0.0, **options}))


def test_rows_of_the_instruments_are_ten_seconds_each(tmp_path: Path) -> None:
    listed = found(tmp_path)
    origin = "https://www.youtube.com/watch?v=-violin0001"
    assert listed.entries[0] == Entry("-violin0001", "train", ("violin",), origin, ((30.0, 40.0),))
    assert [(entry.media_id, entry.split, entry.labels) for entry in listed.entries[1:]] == [
        ("guitar00001", "test", ("guitar",)), ("guitar00002", "train", ("guitar",)),
    ]  # fmt: skip
    assert listed.funnel == {"table": {"rows": 4, "without a class": 1, "repeated": 0, "invalid": 0, "used": 3}}


def test_classes_of_the_user_and_all_of_them(tmp_path: Path) -> None:
    listed = found(tmp_path, classes={"string": ["playing violin, fiddle", "playing acoustic guitar"]})
    assert [entry.labels for entry in listed.entries] == [("string",), ("string",)]
    assert {entry.labels[0] for entry in found(tmp_path, classes=None).entries} == {row[2] for row in ROWS}
    with pytest.raises(AvsetError, match=r"clips\.options\.classes\.violin: .* near are 'playing violin, fiddle'"):
        found(tmp_path, classes={"violin": "playing violin"})
    with pytest.raises(ValidationError, match="classes"):
        found(tmp_path, classes={})


def test_validation_is_a_share_of_train(tmp_path: Path) -> None:
    rows = [(f"{n:011d}", "0", "playing harp", "train" if n < 2000 else "test") for n in range(2500)]
    splits = [entry.split for entry in found(tmp_path, rows, validation=0.25).entries]
    assert splits.count("validation") / 2000 == pytest.approx(0.25, abs=0.03) and splits.count("test") == 500
    assert {entry.split for entry in found(tmp_path, rows).entries} == {"train", "test"}


def test_caps(tmp_path: Path) -> None:
    rows = [(f"{n:011d}", "0", ["playing harp", "playing flute"][n % 2], "train") for n in range(300)]
    listed = found(tmp_path, rows, max_per_class={"train": 3})
    labels = [entry.labels[0] for entry in listed.entries]
    assert (labels.count("harp"), labels.count("flute"), listed.funnel["table"]["used"]) == (3, 3, 6)
    assert listed.funnel["table"]["over max_per_class"] == 294


def test_a_video_of_train_and_test_is_for_the_test(tmp_path: Path) -> None:
    (entry,) = found(
        tmp_path, [("harp0000001", "0", "playing harp", "train"), ("harp0000001", "5", "playing flute", "test")]
    ).entries
    assert (entry.split, entry.labels, entry.parts) == ("test", ("harp", "flute"), ((0.0, 15.0),))


def test_hostile_tables(tmp_path: Path) -> None:
    rows: list = [(video, "0", "playing harp", "train") for video in [*HOSTILE, *GOOD]]
    times = ["-1", "nan", "inf", "1e9", "", "zero"]
    rows += [(f"badtimes{n:03d}", start, "playing harp", "train") for n, start in enumerate(times)]
    rows += [
        ("fields00001", "0"),
        ("fields00002", "0", "playing harp", "train", "more"),
        ("split000001", "0", "playing harp", "dev"),
    ]
    rows += [("html0000001", "0", "<b onclick='x'>", "train"), ("long0000001", "0", "x" * 10_000, "train")]
    rows += [("newline0001", "0", "playing\nharp", "train")]
    listed = found(tmp_path, rows, classes=None)
    for entry in listed.entries:
        harmless(entry)
    usable = {entry.media_id: entry.labels for entry in listed.entries if not entry.fault}
    assert usable == {**dict.fromkeys(GOOD, ("playing harp",)), "html0000001": ("<b onclick='x'>",)}
    assert len(listed.entries) - len(usable) == len(HOSTILE) + len(times) + 3 + 1 + 2
    adds_up(listed)


@pytest.mark.parametrize(
    "lost", ["#NAME?", "#REF!", "#N/A", "", "1.23457E+11", "1.2E+05", "12345678", "2001-03-05", "Mar-05", "TRUE", "# x"]
)
def test_what_a_spreadsheet_made_of_an_id_is_an_invalid_row_with_its_line(tmp_path: Path, lost: str) -> None:
    """Lines alike are told one by one, and a row that begins with # is no comment."""
    table = tmp_path / "sheet.csv"
    head = '\ufeff# of the year 2020,,,\n"# another, quoted",,,\n\n'
    row = f'{lost},30,"playing violin, fiddle",train\n' if lost != "# x" else "#x,30,playing harp,train\n"
    table.write_text(f"{head}{row}{row}abcdefghi03,5,playing harp,train\n{row},,,\n")
    listed = listing(Options(table=str(table)))
    adds_up(listed)
    assert listed.funnel["table"] == {"rows": 5, "repeated": 0, "invalid": 4, "used": 1}
    assert sorted(entry.origin for entry in listed.entries if entry.fault) == [
        f"line {n} of sheet.csv" for n in (4, 5, 7, 8)
    ]


@pytest.mark.parametrize(
    "row", ["abcdefghi04,5,{},train", "abcdefghi04,{},playing harp,train", "abcdefghi04,5,playing harp,{}"]
)
def test_a_lost_label_time_or_split_is_an_invalid_row(tmp_path: Path, row: str) -> None:
    (tmp_path / "sheet.csv").write_text("abcdefghi03,5,playing harp,train\n" + row.format("#VALUE!"))
    for classes in ({"classes": None}, {}):
        listed = listing(Options(table=str(tmp_path / "sheet.csv"), **classes))
        adds_up(listed)
        assert listed.funnel["table"]["invalid"] == 1 and listed.entries[-1].origin == "line 2 of sheet.csv"


def test_another_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AvsetError, match="1000 of its first 1000 rows are no row of id, start, label, split"):
        found(tmp_path, [(f"{n:011d}", "0.000", "10.000", "/m/09x0r") for n in range(1500)])
    with pytest.raises(AvsetError, match=r"no video is left of the lists \(table: 1 rows, 1 without a class"):
        found(tmp_path, [("speech00001", "12", "female speech, woman speaking", "test")])


def test_the_default_classes_are_the_fifteen_of_the_paper() -> None:
    from avset.sources.audioset import INSTRUMENTS as AUDIOSET

    assert sorted(INSTRUMENTS) == sorted(AUDIOSET)


def test_boxes_of_vgg_ss_are_the_truth_of_the_middle(tmp_path: Path) -> None:
    """The first rows of the list as it is published; of labels of a class alone."""
    row = {"file": "RgyqhpOJFM4_000030", "class": "playing cello", "bbox": [[0.396875, 0.021875, 0.6875, 0.99375]]}
    other = {"file": "zpWuikVorYg_000032", "class": "elk bugling", "bbox": [[0.403125, 0.253125, 0.6, 0.75]]}
    flat = {
        "file": "3MUeg3nD2OU_000120",
        "class": "playing acoustic guitar",
        "bbox": [[0.3, 0, 0.3, 1], [0, 0, 1.01, 1]],
    }
    path = tmp_path / "vggss.json"
    path.write_text(json.dumps([row, other, flat]))
    assert truth(Options()) == {}
    found = truth(Options(boxes=str(path)))
    cello = Box(35.0, "cello", 0.396875, 0.021875, 0.6875, 0.99375)
    assert found == {"RgyqhpOJFM4": [cello], "3MUeg3nD2OU": [Box(125.0, "guitar", 0, 0, 1, 1)]}
    media = {"status": "ok", "clip_id": "c", "start_s": 2.0, "origin_start_s": 30.0, "duration_s": 10.0}
    (box,) = boxes_of(media, Item(fields={"boxes": []}), [cello])
    assert (box["clip_id"], box["time_s"], box["label"]) == ("c", 7.0, "cello")
    assert boxes_of(media | {"origin_start_s": 40.0}, Item(fields={"boxes": []}), [cello]) == []
    path.write_text(json.dumps([row | {"bbox": [[0, 1]]}]))
    with pytest.raises(AvsetError, match=r"clips\.options\.boxes: .* is not the list of VGG-SS"):
        truth(Options(boxes=str(path)))

"""Rows of lists: ids, addresses, times and labels from outside, and what becomes of bad ones."""

import csv
import io
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from avset.errors import AvsetError
from avset.sources import Entry
from avset.sources.lists.rows import LATEST, Online, Reading, read_splits, spans

GOOD = ["dQw4w9WgXcQ", "-rm-rf-home", "--aE2O5G5WE", "___________", "-----------"]
HOSTILE = [
    "", ".", "..", "../../etc/x", "/etc/passwd", "a/b/c/d/e/f", "..\\..\\autoexec", "C:\\windows1", "~root/.sshx",
    "--exec", "--exec=rm -rf ~", "-o/tmp/pwned", "$(touch x)!", "`touch abc`", "a;touch bcd", "abc def ghi",
    "abcdefghij\t", "a\0bcdefghij", "\x1b[31mabcdef", "ünïcødeéèêë", "１２３４５６７８９０１", "\u202eabcdefghij",
    "🎻🎻🎻🎻🎻🎻🎻🎻🎻🎻🎻", "<script>abc", "%2e%2e%2fabc", "{id}{id}abc", "dQw4w9WgXc", "dQw4w9WgXcQQ", "x" * 10_000,
    "a&list=evil", "a#fragment1",
]  # fmt: skip


def entry(video: object, *labels: str, parts: tuple = (), **options: str) -> Entry:
    reading = Reading("folder/list.csv", "videos", "row", rows=5)
    return reading.entry(Online(**options), "line 7", f"row {video!r}", video, "test", labels, parts)


def harmless(found: Entry) -> None:
    """What every entry of any list must be."""
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", found.media_id)
    assert found.origin.isprintable() and len(found.origin) < 300
    assert found.fault.isprintable() and len(found.fault) < 300
    assert all(label.isprintable() and len(label) <= 100 for label in found.labels)
    assert all(0 <= start < end <= LATEST for start, end in found.parts)


@pytest.mark.parametrize("video", GOOD)
def test_ids_of_eleven_letters_are_ids_even_if_they_look_like_options(video: str) -> None:
    assert entry(video, "flute") == Entry(video, "test", ("flute",), f"https://www.youtube.com/watch?v={video}")


@pytest.mark.parametrize("video", [*HOSTILE, "dQw4w9WgXcQ\n", None, 12345678901, ["dQw4w9WgXcQ"], {}, True])
def test_a_hostile_id_is_a_fault_that_quotes_it(video: object) -> None:
    found = entry(video, "flute")
    harmless(found)
    assert found.fault.startswith("line 7 of list.csv: ") and found.fault.endswith(" is no video id")
    assert found.media_id.startswith("row-") and found.origin == "line 7 of list.csv"
    assert (found.split, found.labels, found.parts) == ("test", ("flute",), ())


@pytest.mark.parametrize("video", [v for v in HOSTILE if v not in ("--exec", "dQw4w9WgXc", "dQw4w9WgXcQQ")])
def test_hostile_ids_are_none_at_other_addresses_either(video: str) -> None:
    assert entry(video, address="http://127.0.0.1:8000/{id}.mp4").fault


@pytest.mark.parametrize("video", ["a", "Take_2.final", "-x", "x" * 64])
def test_other_addresses_have_other_ids(video: str) -> None:
    assert entry(video, address="http://127.0.0.1:8000/{id}/{id}.mp4").origin.endswith(f":8000/{video}/{video}.mp4")
    assert entry(video, address="https://www.youtube.com.evil.example/{id}").fault == ""
    for address in ("https://youtu.be/{id}", "https://m.youtube.com/watch?v={id}"):
        assert entry(video, address=address).fault


@pytest.mark.parametrize("video", ["row-0123456789", ".hidden", "x" * 65])
def test_ids_that_would_collide_with_ours_or_hide(video: str) -> None:
    assert entry(video, address="http://127.0.0.1/{id}").fault


@pytest.mark.parametrize(
    "address",
    ["", "{id}", "ftp://a.example/{id}", "file:///{id}", "javascript:alert({id})", "https://a.example/", "https:///{id}",
     "https://{id}.example/{id}", "https://user:secret@a.example/{id}", "https://a.example/{id}{x}", "https://a/{id} b",
     "https://a.example/{id}\n", "https://a.example/ü{id}", "https://[/{id}"],
)  # fmt: skip
def test_an_address_is_a_template_of_http_pages(address: str) -> None:
    with pytest.raises(ValidationError, match="address"):
        Online(address=address)


@pytest.mark.parametrize("label", ["", "x" * 101, "a\nb", "\0", "a\u202eb", "\udcff"])
def test_labels_are_one_short_line(label: str) -> None:
    found = entry(GOOD[0], label)
    harmless(found)
    assert found.fault.endswith("is no label") and found.labels == ()


def test_labels_may_be_any_text_else() -> None:
    labels = ("<img src=x onerror=alert(1)>", "violin, fiddle", "二胡", "'; DROP TABLE clips; --")
    assert entry(GOOD[0], *labels).labels == labels


ANYWHERE = Online(address="http://127.0.0.1/{id}")
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "part",
    [(-1.0, 9.0), (20.0, 10.0), (5.0, 5.0), (NAN, 1.0), (0.0, NAN), (0.0, INF), (-INF, 0.0), (0.0, LATEST + 1.0)],
)
def test_times_that_are_no_part_of_a_video(part: tuple[float, float]) -> None:
    found = entry(GOOD[0], parts=((0.0, 10.0), part))
    harmless(found)
    assert found.fault.endswith("s is no part of a video")


def test_parts_are_sorted_and_united_where_they_overlap() -> None:
    assert spans([(20, 30), (0, 10), (5, 12), (12, 14), (21, 22)]) == ((0, 12), (12, 14), (20, 30))
    assert spans([]) == ()


def table(path: Path, text: str | bytes) -> list[tuple[str, str, list[str]]]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(Reading(str(path), "table", "row of a, b").table(("a", "b")))


def test_a_table_is_read_line_by_line(tmp_path: Path) -> None:
    text = '\ufeff# made on a Sunday\n# a, b\na,b\n\n1, "x,y"\r\n  \n-2,"say ""z"""\n'
    assert table(tmp_path / "t.csv", text) == [
        ("line 5", '1, "x,y"', ["1", "x,y"]),
        ("line 7", '-2,"say ""z"""', ["-2", 'say "z"']),
    ]


def test_lines_that_cannot_be_read_have_no_fields_and_cost_no_other(tmp_path: Path) -> None:
    lines = ["1,2", "1", "1,2,3", '"open,1', 'x"y,"open', '1,"a"b', "2,3", "\0,\0", "9" * 200_000 + ",1", "3,4"]
    found = table(tmp_path / "t.csv", "\n".join(lines))
    assert [fields for _, _, fields in found] == [
        ["1", "2"],
        [],
        [],
        [],
        [],
        [],
        ["2", "3"],
        ["\0", "\0"],
        [],
        ["3", "4"],
    ]
    assert [where for where, _, _ in found] == [f"line {n}" for n in range(1, 11)]


def test_a_line_without_an_end_is_one_short_row(tmp_path: Path) -> None:
    found = table(tmp_path / "t.csv", "1,2\n" + "x,y\0" * 100_000 + "\n3,4\n" + "x" * 100_000)
    assert [(where, len(row)) for where, row, _ in found] == [
        ("line 1", 3), ("line 2", 100_000), ("line 3", 3), ("line 4", 100_000),
    ]  # fmt: skip


def test_bytes_that_are_no_text_stay_in_their_row(tmp_path: Path) -> None:
    (_, row, fields), (_, _, good) = table(tmp_path / "t.csv", b"\xff\xfe,2\n1,2\n")
    found = Reading("t.csv", "table", "row").entry(Online(), "line 1", row, fields[0], "train", ())
    harmless(found)
    assert "is no video id" in found.fault and good == ["1", "2"]


def test_an_empty_list_and_one_without_a_usable_row_are_refused(tmp_path: Path) -> None:
    for text in ("", "# only a comment\n", "a,b\n"):
        with pytest.raises(AvsetError, match=r"t\.csv' is not the list for clips\.options\.table: it is empty"):
            table(tmp_path / "t.csv", text)
    (tmp_path / "t.csv").write_text("1\n2\n")
    reading = Reading(str(tmp_path / "t.csv"), "table", "row of a, b")
    with pytest.raises(AvsetError, match="none of its 2 rows is a row of a, b; give the right one"):
        for where, row, _ in reading.table(("a", "b")):
            reading.fault(where, row, "train")


def faults(path: Path, text: str) -> list[Entry]:
    path.write_text(text)
    reading = Reading(str(path), "table", "row of a, b")
    return [reading.fault(where, row, "train") for where, row, fields in reading.table(("a", "b")) if not fields]


def test_a_long_list_that_is_mostly_unusable_is_refused_early(tmp_path: Path) -> None:
    assert len(faults(tmp_path / "t.csv", "1,2\n1\n" * 1500)) == 1500
    for text, why in (
        ("1\n" * 600 + "1,2\n" * 400 + "1\n", "601 of its first 1001"),
        ("1\n" * 5000, "1000 of its first"),
    ):
        with pytest.raises(AvsetError, match=rf"t\.csv' is not .*: {why} .*rows are no row of a, b"):
            faults(tmp_path / "t.csv", text)


def test_a_bad_row_has_one_name_wherever_it_stands_and_its_repetition_another(tmp_path: Path) -> None:
    first, second, other = faults(tmp_path / "t.csv", "bad\n1,2\nbad\nworse\n")
    assert [other.media_id, first.media_id] == [e.media_id for e in faults(tmp_path / "t.csv", "1,2\nworse\nbad\n")]
    assert len({first.media_id, second.media_id, other.media_id}) == 3
    assert re.fullmatch(r"row-[0-9a-f]{10}", first.media_id)
    assert first.fault == "line 1 of t.csv: 'bad' is no row of a, b"


def by_class(
    tree: object, splits: dict[str, str] | None = None, first: tuple[str, ...] = ("validation", "test")
) -> dict:
    reading = Reading("list.json", "videos", "{class: [id, ...]}")
    options = Online(address="http://127.0.0.1/{id}")
    found = reading.by_class(options, tree, lambda name: (name.lower(),), splits, first, lambda video: [(0.0, 1.0)])
    for each in found:
        harmless(each)
    assert len(found) <= reading.rows
    return {each.fault or each.media_id: each.split for each in found}


def test_the_first_usable_videos_of_a_class_are_for_validation_and_test() -> None:
    found = by_class({"A": ["a/b", "a1", "a1", "a2", "a3"], "B": ["b1"], "C": []})
    assert found == {
        "'A', video 1 of list.json: 'a/b' is no video id": "train",
        "a1": "validation", "a2": "test", "a3": "train", "b1": "validation",
    }  # fmt: skip
    assert by_class({"A": ["a1", "a2", "a3"]}, first=()) == {"a1": "train", "a2": "train", "a3": "train"}


def test_a_list_of_splits_decides_and_leaves_out() -> None:
    found = by_class({"A": ["a1", "a2", "a3", "a/b", None]}, {"a1": "train", "a2": "test", "z": "test"})
    assert found == {
        "a1": "train", "a2": "test", "'A', video 4 of list.json: 'a/b' is no video id": "train",
        "'A', video 5 of list.json: a NoneType is no video id": "train",
    }  # fmt: skip


def test_classes_that_are_none() -> None:
    found = by_class({"x" * 200: ["a1"], "line\nbreak": ["a2"], "A": {"a": "b"}, "B": "b1", "<b>": [1, "c1"]})
    assert sorted(found)[-2:] == ["b1", "c1"] and len(found) == 6
    for tree in ([], None, "abc", {}, {"A": []}, {"A": ["a/b"]}):
        with pytest.raises(AvsetError, match=r"'list\.json' is not the list for clips\.options\.videos"):
            by_class(tree)


def test_splits_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_text("id,split\n# mine\n-a, train\nb,test\nb,test\n")
    funnel: dict[str, dict[str, int]] = {}
    assert read_splits(str(path), ANYWHERE, funnel) == {"-a": "train", "b": "test"}
    assert funnel == {"splits": {"rows": 3, "repeated": 1}}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a,train\nb,dev\n", 2), ("a,train\na,test\n", 2), ("a\n", 1), ("id,split\na,b,test\n", 2),
     ("a,train\n#NAME?,test\n", 2), (",train\n", 1), ("a,train\n#a,train\n", 2), ("a,train\nid,split\n", 2)],
)  # fmt: skip
def test_splits_that_are_wrong_are_named_with_their_line(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(AvsetError, match=rf"line {line} of splits\.csv.*train, validation or test"):
        read_splits(str(tmp_path / "splits.csv"), ANYWHERE, {})


def test_a_written_table_is_read_back(tmp_path: Path) -> None:
    """The dialect is that of csv.writer, for every id that fits into one line."""
    buffer = io.StringIO()
    hostile = [video for video in HOSTILE if video.strip() == video and video]
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([video, "x"] for video in hostile)
    found = table(tmp_path / "t.csv", buffer.getvalue())
    assert [fields[0] for _, _, fields in found] == hostile

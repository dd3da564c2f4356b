"""AudioSet: classes and their descendants, splits, and hostile lists."""

import csv
import json
import random
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_funnel import adds_up
from test_rows import GOOD, HOSTILE, harmless

from avset.errors import AvsetError
from avset.sources import Entry, Listing
from avset.sources.audioset import COLUMNS, INSTRUMENTS, Options, listing
from avset.sources.lists.funnel import position

NODES = {  # name -> label, children
    "Music": ("/m/music", ["/m/guitar", "/m/violin", "/m/oboe", "/t/none"]),
    "Guitar": ("/m/guitar", ["/m/electric", "/m/tapping"]),
    "Electric guitar": ("/m/electric", []),
    "Tapping (guitar technique)": ("/m/tapping", ["/m/guitar"]),  # a loop
    "Violin, fiddle": ("/m/violin", ["/m/pizzicato"]),
    "Pizzicato": ("/m/pizzicato", []),
    "Oboe": ("/m/oboe", []),
    "Speech": ("/m/speech", []),
}
CLASSES = {"guitar": "Guitar", "violin": "Violin, fiddle", "oboe": "Oboe"}
ROWS = [  # id, start, end, labels
    ("-guitar0001", 0, 10, "/m/guitar,/m/speech"),
    ("electric001", 30, 40, "/m/electric"),
    ("both0000001", 5, 15, "/m/violin,/m/tapping"),
    ("pizzicato01", 420, 430, "/m/pizzicato,/m/violin"),
    ("speech00001", 0, 10, "/m/speech"),
    ("unknown0001", 0, 10, "/m/never_seen"),
]


class Files:
    """The lists of one test."""

    def __init__(self, folder: Path):
        self.folder = folder
        with (folder / "labels.csv").open("w", newline="") as f:
            names = [(n, label, name) for n, (name, (label, _)) in enumerate(NODES.items()) if name != "Oboe"]
            csv.writer(f).writerows([("index", "mid", "display_name"), *names])
        nodes = [{"id": label, "name": name, "child_ids": children} for name, (label, children) in NODES.items()]
        (folder / "ontology.json").write_text(json.dumps(nodes))
        self.write("balanced", ROWS)

    def write(self, name: str, rows: list, header: str = ",".join(COLUMNS) + "\n", separator: str = ",") -> str:
        lines = [separator.join([video, f"{a:.3f}", f"{b:.3f}", f'"{labels}"']) for video, a, b, labels in rows]
        return self.raw(name, header + "\n".join(lines))

    def raw(self, name: str, text: str) -> str:
        (self.folder / f"{name}.csv").write_text(text)
        return str(self.folder / f"{name}.csv")

    def listing(self, **options: object) -> Listing:
        places = {name: str(self.folder / f"{name}.csv") for name in ("balanced", "labels")}
        ontology = str(self.folder / "ontology.json")
        return listing(Options(**{"train": None, "classes": CLASSES, "ontology": ontology, **places, **options}))

    def entries(self, **options: object) -> dict[str, Entry]:
        return {entry.media_id: entry for entry in self.listing(**options).entries}

    def error(self, **options: object) -> str:
        with pytest.raises(AvsetError) as caught:
            self.listing(**options)
        return str(caught.value)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_rows_are_filtered_by_classes_with_their_descendants(files: Files) -> None:
    found = files.listing(single=False)
    assert {entry.media_id: entry.labels for entry in found.entries} == {
        "-guitar0001": ("guitar",), "electric001": ("guitar",), "both0000001": ("guitar", "violin"),
        "pizzicato01": ("violin",),
    }  # fmt: skip
    assert found.entries[0].origin == "https://www.youtube.com/watch?v=-guitar0001"
    assert found.entries[-1].parts == ((420.0, 430.0),)
    assert found.funnel == {"balanced": {"rows": 6, "without a class": 2, "repeated": 0, "invalid": 0, "used": 4}}


def test_single_leaves_out_videos_of_several_classes(files: Files) -> None:
    found = files.listing()
    assert [entry.media_id for entry in found.entries] == ["-guitar0001", "electric001", "pizzicato01"]
    assert found.funnel["balanced"]["of several classes"] == 1
    adds_up(found)


def test_without_descendants_a_class_is_its_own_label(files: Files) -> None:
    assert sorted(files.entries(descendants=False)) == ["-guitar0001", "both0000001", "pizzicato01"]
    classes = {"guitar": "Guitar"}
    assert sorted(files.entries(descendants=False, ontology=None, classes=classes)) == ["-guitar0001"]
    assert "'Oboe' is not in the list" in files.error(descendants=False, ontology=None)
    assert "clips.options.descendants to false" in files.error(ontology=None)


def test_a_class_may_have_several_names_and_a_name_several_classes(files: Files) -> None:
    found = files.entries(classes={"strings": ["Guitar", "Pizzicato"], "bowed": "Violin, fiddle"}, single=False)
    assert found["pizzicato01"].labels == ("strings", "bowed") and found["electric001"].labels == ("strings",)


def test_an_unknown_name_is_an_error_with_near_ones(files: Files) -> None:
    assert "clips.options.classes.violin" in files.error(classes={"violin": "Violin"})
    assert "'Violin, fiddle'" in files.error(classes={"violin": "Violin"})
    with pytest.raises(ValidationError, match="classes"):
        Options(classes={})


def test_the_published_form_is_read_like_the_plain_one(files: Files) -> None:
    plain = files.listing()
    comments = (
        "# Segments csv created\n# num_ytids=6, num_segs=6\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    files.write("balanced", ROWS, comments, ", ")
    assert files.listing() == plain


def test_lists_and_splits(files: Files) -> None:
    many = [(f"{n:011d}", 0, 10, "/m/guitar") for n in range(3000)]
    balanced = files.write("balanced", many[:1000])
    train, evaluation = files.write("train", many[1000:2000]), files.write("evaluation", many[2000:])

    def fractions(first: int, **options: object) -> dict[str, float]:
        splits = [entry.split for name, entry in files.entries(**options).items() if first <= int(name) < first + 1000]
        return {split: splits.count(split) / 1000 for split in sorted(set(splits))}

    assert fractions(0, train=train) == pytest.approx({"test": 0.5, "validation": 0.5}, abs=0.05)
    assert fractions(1000, train=train) == {"train": 1.0}
    assert fractions(0, train=train, evaluation=evaluation) == {"validation": 1.0}
    assert fractions(2000, train=train, evaluation=evaluation) == {"test": 1.0}
    assert fractions(0) == pytest.approx({"test": 0.1, "train": 0.8, "validation": 0.1}, abs=0.04)
    assert fractions(0, evaluation=evaluation) == pytest.approx({"train": 8 / 9, "validation": 1 / 9}, abs=0.04)
    before = files.entries(train=train)
    files.write("balanced", many[500:1000])
    assert files.entries(train=train).items() <= before.items() and balanced


def test_a_video_of_two_lists_is_no_training_video(files: Files) -> None:
    train = files.write("train", [("-guitar0001", 50, 60, "/m/guitar"), ("only0000001", 0, 10, "/m/oboe")])
    found = files.listing(train=train)
    first = found.entries[0]
    assert first.split != "train" and first.parts == ((0.0, 10.0), (50.0, 60.0))
    assert found.funnel["train"] == {"rows": 2, "repeated": 1, "of several classes": 0, "invalid": 0, "used": 1}
    adds_up(found)


def test_a_video_that_stands_twice_with_other_classes_is_not_single(files: Files) -> None:
    files.write("balanced", [*ROWS, ("electric001", 35, 45, "/m/violin"), ("-guitar0001", 5, 12, "/m/guitar")])
    found = files.listing()
    assert [entry.media_id for entry in found.entries] == ["-guitar0001", "pizzicato01"]
    assert found.entries[0].parts == ((0.0, 12.0),)
    assert found.funnel["balanced"] == {
        "rows": 8, "without a class": 2, "repeated": 2, "of several classes": 2, "invalid": 0, "used": 2,
    }  # fmt: skip


def test_caps_by_split(files: Files) -> None:
    rows = [(f"{n:011d}", 0, 10, ["/m/guitar", "/m/violin"][n % 2]) for n in range(400)]
    train = files.write("train", rows)
    small = files.listing(train=train, max_per_class={"train": 20, "validation": 1})
    labels = [entry.labels[0] for entry in small.entries if entry.split == "train"]
    assert (labels.count("guitar"), labels.count("violin")) == (20, 20)
    assert small.funnel["train"]["used"] == 40
    adds_up(small)
    files.write("train", random.Random(0).sample(rows, len(rows)))
    assert files.listing(train=train, max_per_class={"train": 20, "validation": 1}) == small
    larger = files.listing(train=train, max_per_class={"train": 21, "validation": 1}).entries
    assert set(small.entries) < set(larger)
    taken = {entry.media_id for entry in small.entries if entry.split == "train" and entry.labels == ("guitar",)}
    assert taken == set(sorted((video for video, *_, label in rows if label == "/m/guitar"), key=position)[:20])


def test_rows_that_would_be_kept_and_cannot_be_used_are_faults(files: Files) -> None:
    times = ["nan,1", "0,inf", "-5,5", "20,10", "5,5", "1e300,2e300", ",10", "a,b", "0x1,9"]
    lines = [f'badtimes{n:03d},{pair},"/m/guitar"' for n, pair in enumerate(times)]
    lines += [
        'a/b,0,10,"/m/guitar"',
        'a/b,0,10,"/m/speech"',
        "too,few,fields",
        'one,0,10,"/m/guitar",more',
        "wrong,0,10,guitar",
    ]
    good = [f'{video},0.0,10.0,"/m/guitar"' for video in GOOD]
    files.raw("balanced", "\n".join([*good, *lines]))
    found = files.listing()
    faults = [entry for entry in found.entries if entry.fault]
    for entry in found.entries:
        harmless(entry)
    assert sorted(entry.media_id for entry in found.entries if not entry.fault) == sorted(GOOD)
    assert len(faults) == len(lines) - 1  # a bad id without a class is not selected
    assert sum(entry.labels == ("guitar",) for entry in faults) == len(times) + 1
    assert found.funnel["balanced"] == {
        "rows": 19, "without a class": 1, "repeated": 0, "of several classes": 0, "invalid": 13, "used": 5,
    }  # fmt: skip
    adds_up(found)


def test_hostile_ids(files: Files, tmp_path: Path) -> None:
    with (tmp_path / "balanced.csv").open("w", newline="") as f:
        rows = [(video, "0.0", "10.0", "/m/guitar") for video in [*HOSTILE, "a\nb/../../c"]]
        csv.writer(f, quoting=csv.QUOTE_ALL).writerows([*rows, (GOOD[1], "0.0", "10.0", "/m/guitar")])
    found = files.entries()
    for entry in found.values():
        harmless(entry)
    assert len(found) == len(HOSTILE) + 2 + 1  # the id with a newline is two lines
    assert [name for name, entry in found.items() if not entry.fault] == [GOOD[1]]


def test_another_list_is_refused_and_told_what_it_should_be(files: Files) -> None:
    vggsound = files.raw("other", "\n".join(f'{n:011d},30,"playing violin, fiddle",train' for n in range(1500)))
    told = files.error(train=vggsound)
    assert "clips.options.train" in told and "1000 of its first 1000 rows" in told and ", ".join(COLUMNS) in told
    assert "clips.options.balanced" in files.error(balanced=files.raw("other", "<html>\n<body>\n"))
    short = files.raw("other", 'index,mid,display_name\n0,/m/guitar,"Guitar"\n1,/m/violin\n')
    assert "clips.options.labels: line 3, '1,/m/violin', is no row of" in files.error(labels=short)
    for tree in (
        "{}",
        "[1]",
        '[{"id": "/m/x"}]',
        '[{"id": 1, "name": "x", "child_ids": []}]',
        '[{"id": "/m/x", "name": "x", "child_ids": [[]]}]',
    ):
        assert "clips.options.ontology" in files.error(ontology=files.raw("other", tree))
    assert "no video is left of the lists (balanced: 6 rows, 6 without a class" in files.error(classes={"oboe": "Oboe"})


def test_the_default_classes_are_the_fifteen_of_the_paper() -> None:
    names = "banjo cello drum guitar harp harmonica oboe piano saxophone trombone trumpet violin flute accordion horn"
    assert sorted(INSTRUMENTS) == sorted(names.split())
    options = Options()
    assert options.classes["violin"] == ["Violin, fiddle"] and options.train.startswith("http://storage")

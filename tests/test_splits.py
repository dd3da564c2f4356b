"""Splits once the contents are known: a recording is in one split, and each split has enough for a mixture."""

import re
from collections import Counter
from itertools import product
from typing import Any

import pytest

from avset.errors import AvsetError
from avset.sources import SPLITS, Entry, splits
from avset.sources.lists.funnel import position, split_of

WEIGHTS = {"test": 0.1, "validation": 0.1, "train": 0.8}


def entry(name: str, split: str = "", *labels: str) -> Entry:
    """A free video if it has no split."""
    return Entry(name, split or split_of(name, WEIGHTS), labels, name, free=not split)


def settled(entries: list[Entry], same: dict[str, str] | None = None, **need: Any) -> list[splits.Recording]:
    found = splits.recordings(entries, {e.media_id: e.media_id for e in entries} | (same or {}))
    wanted = splits.Need(**{"count": 2, "labelled": False} | need)
    splits.fill(found, wanted)
    splits.check(found, wanted)
    return found


def by_name(found: list[splits.Recording]) -> dict[str, str]:
    return {e.media_id: one.split for one in found for e in one.members}


def test_a_recording_is_in_the_most_held_out_of_its_splits():
    entries = [
        entry("a", "train"),
        entry("b", "validation"),
        entry("c", "train"),
        entry("d", "test"),
        entry("e", "train"),
    ]
    found = splits.recordings(entries, {"a": "a", "b": "a", "c": "c", "d": "c"})
    assert by_name(found) == {"a": "validation", "b": "validation", "c": "test", "d": "test"}, "e has failed"
    assert splits.moved(found) == {"a": ["train", "validation"], "c": ["train", "test"]}
    said = " ".join(splits.as_text(found))
    assert "'a' = 'b'" in said and "'a' from train to validation" in said and "'c' from train to test" in said
    assert splits.funnel(found) == {"recordings": {"rows": 4, "repeated": 2, "distinct": 2}}
    rows = [{"media_id": name, "status": status} for name in "ace" for status in ("ok", "failed")]
    splits.settle(rows, found)
    assert [(row.get("split"), row.get("content")) for row in rows] == [
        ("validation", "a"), ("validation", None), ("test", "c"), ("test", None), (None, None), (None, None),
    ]  # fmt: skip


def test_what_the_user_says_counts_more_than_a_hash():
    drawn = next(name for name in map(str, range(99)) if split_of(name, WEIGHTS) == "test")
    found = splits.recordings([entry("a", "train"), entry(drawn)], {"a": "a", drawn: "a"})
    assert set(by_name(found).values()) == {"train"} and not splits.moved(found)
    assert not splits.as_text(splits.recordings([entry("a", "train")], {"a": "a"}))


@pytest.mark.parametrize(("count", "seed"), [*product((6, 7, 20), range(10))])
def test_every_split_gets_two_recordings(count: int, seed: int):
    entries = [entry(f"{seed}-{i}") for i in range(count)]
    sizes = Counter(by_name(settled(entries)).values())
    assert min(sizes[split] for split in SPLITS) >= 2 and sum(sizes.values()) == count


@pytest.mark.parametrize("seed", range(20))
def test_every_split_gets_two_labels_where_that_is_possible(seed: int):
    """Of the first two labels there are as many as needed, and no more; unlabelled videos don't help."""
    labels = ["harp"] * 2 + ["horn"] * 1 + ["flute"] * 3 + [""] * 9
    entries = [entry(f"{seed}-{i}", "", *filter(None, [label])) for i, label in enumerate(labels)]
    found = settled(entries, labelled=True)
    for split in SPLITS:
        assert len({one.label for one in found if one.split == split} - {""}) >= 2


def test_many_files_stay_where_their_hash_puts_them_and_copies_count_once():
    entries = [entry(f"v{i}") for i in range(400)]
    assert by_name(settled(entries)) == {e.media_id: e.split for e in entries}
    few = [entry(f"x{i}") for i in range(12)]
    found = settled(few, {f"x{i}": "x0" for i in range(6)})
    assert len({split for name, split in by_name(found).items() if name in {f"x{i}" for i in range(6)}}) == 1


def test_only_free_videos_are_moved_and_those_nearest():
    given = [entry(f"g{i}", "train") for i in range(5)]
    free = sorted((entry(f"f{i}") for i in range(9)), key=lambda e: position(e.media_id))
    free = [e for e in free if e.split == "train"][:5]
    found = by_name(settled([*given, *free]))
    assert all(found[e.media_id] == "train" for e in given)
    assert [found[e.media_id] for e in free] == ["test"] * 2 + ["validation"] * 2 + ["train"]


@pytest.mark.parametrize(
    ("entries", "need", "told"),
    [
        (
            [entry(f"v{i}") for i in range(5)],
            {},
            r"the 2 distinct recordings .*in all 5.*add videos, or .*, or ",
        ),
        (
            [entry(f"v{i}", "train") for i in range(9)],
            {},
            "validation and test .*train 9, validation 0, test 0.*table empty",
        ),
        ([entry(f"v{i}", "", "harp") for i in range(20)], {"labelled": True}, "of other labels.*different_category"),
        ([entry(f"v{i}") for i in range(20)], {"labelled": True}, "one label to each of the 20"),
        ([entry(f"v{i}") for i in range(8)], {"count": 3}, "lower mixtures.n_sources"),
    ],
)
def test_what_is_missing_is_told_with_three_cures(entries: list[Entry], need: dict[str, Any], told: str):
    with pytest.raises(AvsetError) as caught:
        settled(entries, **need)
    assert re.search(told, str(caught.value)) and str(caught.value).count(", or ") == 2

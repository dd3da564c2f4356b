"""From rows to one entry per video: shares, repetitions, caps."""

import random
from collections import Counter

import pytest

from avset.errors import AvsetError
from avset.sources import Entry, Listing
from avset.sources.lists.funnel import Caps, at_most, known_name, listing_of, narrowed, position, split_of, unite

RANDOM = random.Random(0)
IDS = ["".join(RANDOM.choices("abcdefghijklmnopqrstuvwxyz-_0123456789", k=11)) for _ in range(4000)]


def entry(
    media_id: str, split: str = "train", labels: str = "A", *parts: tuple[float, float], fault: str = ""
) -> Entry:
    return Entry(media_id, split, tuple(labels), f"http://a.example/{media_id}", parts, fault)


def ids(lists: dict[str, list[Entry]]) -> set[str]:
    return {entry.media_id for entries in lists.values() for entry in entries}


def test_positions_are_uniform_and_stable() -> None:
    values = [position(name) for name in IDS]
    assert all(0 <= value < 1 for value in values)
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.02)
    assert position("") == int("e3b0c44298fc", 16) / 2**48  # the sha256 of nothing


def test_shares_follow_their_weights_and_stay() -> None:
    weights = {"test": 1.0, "validation": 1.0, "train": 8.0}
    counts = Counter(split_of(name, weights) for name in IDS)
    assert counts["train"] / len(IDS) == pytest.approx(0.8, abs=0.02)
    assert counts["test"] / len(IDS) == pytest.approx(0.1, abs=0.02)
    assert all(split_of(name, weights) == split_of(name, {k: 10 * w for k, w in weights.items()}) for name in IDS)
    assert {split_of(name, {"train": 1.0}) for name in IDS} == {"train"}
    assert {split_of(name, {"validation": 0.0, "train": 1.0}) for name in IDS} == {"train"}


def test_a_video_that_stands_twice_is_one() -> None:
    rows = [entry("x", "train", "A", (20.0, 30.0)), entry("y"), entry("x", "train", "BA", (0.0, 10.0), (25.0, 35.0))]
    first, second = unite({"list": rows})["list"]
    assert (first.media_id, first.labels, first.parts) == ("x", ("A", "B"), ((0.0, 10.0), (20.0, 35.0)))
    assert second == entry("y")


def test_all_of_a_video_includes_its_parts() -> None:
    assert unite({"list": [entry("x", "train", "A", (0.0, 1.0)), entry("x")]})["list"][0].parts == ()


@pytest.mark.parametrize(
    ("splits", "kept"),
    [(["train", "test"], ("test", 1)), (["validation", "train"], ("validation", 0)), (["train", "train"], ("train", 0)),
     (["validation", "test"], ("test", 1))],
)  # fmt: skip
def test_no_video_is_in_two_splits(splits: list[str], kept: tuple[str, int]) -> None:
    united = unite({str(n): [entry("x", split, "AB"[n])] for n, split in enumerate(splits)})
    split, where = kept
    assert len(united[str(where)]) == 1 and united[str(1 - where)] == []
    assert united[str(where)][0].split == split and united[str(where)][0].labels == ("A", "B")


def test_one_video_a_hundred_thousand_times_is_united_at_once() -> None:  # pairwise it would be hours
    rows = [entry("x", "train", "A", (2.0 * n, 2.0 * n + 1)) for n in range(100_000)]
    assert len(unite({"list": rows})["list"][0].parts) == 100_000


def test_caps_are_exact_for_videos_of_one_class() -> None:
    rows = [entry(name, RANDOM.choice(["train", "test"]), RANDOM.choice("ABC")) for name in IDS[:600]]
    found = at_most({"list": rows}, Caps(train=50, test=7))["list"]
    counts = Counter((each.split, each.labels[0]) for each in found)
    assert counts == {(split, label): n for split, n in (("train", 50), ("test", 7)) for label in "ABC"}


def test_a_larger_cap_only_adds_and_the_order_does_not_matter() -> None:
    rows = [entry(name, "train", RANDOM.choice(["A", "B", "AB", "BC", "C", "ABC"])) for name in IDS[:500]]
    before: set[str] = set()
    for cap in (1, 2, 5, 50, 150, None):
        shuffled = RANDOM.sample(rows, len(rows))
        found = at_most({"one": shuffled[:200], "two": shuffled[200:]}, Caps(train=cap))
        counts = Counter(label for entries in found.values() for each in entries for label in each.labels)
        assert cap is None or max(counts.values()) <= cap
        assert before < ids(found)
        assert ids(found) == ids(at_most({"all": rows}, Caps(train=cap)))
        before = ids(found)
    assert before == {each.media_id for each in rows}


def test_faults_take_no_place_under_a_cap() -> None:
    rows = [entry(f"row-{n}", fault="bad") for n in range(20)] + [entry(name) for name in IDS[:20]]
    found = at_most({"list": rows}, Caps(train=5))["list"]
    assert Counter(bool(each.fault) for each in found) == {True: 20, False: 5}


def test_a_listing_is_sorted_and_its_funnel_adds_up() -> None:
    lists = {"one": [entry("c"), entry("a"), entry("a")], "two": [entry("b", "test"), entry("row-1", fault="bad")]}
    funnel: dict[str, dict[str, int]] = {
        "one": {"rows": 9, "odd": 6}, "two": {"rows": 2}, "splits": {"rows": 4, "repeated": 1},
    }  # fmt: skip
    left = narrowed(funnel, "repeated", lists, unite(lists))
    found = listing_of(funnel, left, {"a": "train", "b": "test", "z": "test"})
    assert [each.media_id for each in found.entries] == ["a", "b", "c", "row-1"]
    assert found.funnel == {
        "one": {"rows": 9, "odd": 6, "repeated": 1, "invalid": 0, "used": 2},
        "two": {"rows": 2, "repeated": 0, "invalid": 1, "used": 1},
        "splits": {"rows": 4, "repeated": 1, "without a usable row": 1, "used": 2},
    }
    adds_up(found)


def adds_up(listed: Listing) -> None:
    """Every row of every list is used, or is told with a reason; the invalid ones are entries of their own."""
    for told in listed.funnel.values():
        assert told["rows"] == sum(n for step, n in told.items() if step != "rows")
    invalid = sum(told.get("invalid", 0) for told in listed.funnel.values())
    assert invalid == sum(bool(each.fault) for each in listed.entries)
    assert len({each.origin for each in listed.entries if each.fault}) == invalid, "each is told with its own line"


@pytest.mark.parametrize("rows", [[], [entry("row-1", fault="bad")]])
def test_a_listing_without_a_usable_video_is_refused_with_its_funnel(rows: list[Entry]) -> None:
    with pytest.raises(AvsetError, match=r"no video is left of the lists \(one: 9 rows, \d invalid, 0 used\)"):
        listing_of({"one": {"rows": 9}}, {"one": rows})


def test_unknown_names_come_with_near_ones() -> None:
    assert known_name("Violin, fiddle", ["Violin, fiddle"], "classes.violin") == "Violin, fiddle"
    with pytest.raises(AvsetError, match=r"clips\.options\.classes\.violin: 'Violin' .* near are 'Violin, fiddle'"):
        known_name("Violin", ["Speech", "Violin, fiddle"], "classes.violin")

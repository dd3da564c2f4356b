"""The published lists themselves, in the directory that AVSET_LISTS names: their known numbers come out."""

import os
from collections import Counter
from pathlib import Path

import pytest

from avset.sources import Listing, audioset, music, solos
from avset.sources.lists.rows import Online, Reading

LISTS = Path(os.environ.get("AVSET_LISTS", "nowhere"))
pytestmark = pytest.mark.skipif(not LISTS.is_dir(), reason="AVSET_LISTS names no directory with the published lists")


def splits(listed: Listing) -> Counter[str]:
    return Counter(entry.split for entry in listed.entries)


def balanced(**options: object) -> Listing:
    places = {
        "balanced": "balanced_train_segments.csv",
        "labels": "class_labels_indices.csv",
        "ontology": "audioset_ontology.json",
    }
    given = {name: str(LISTS / file) for name, file in places.items()}
    return audioset.listing(audioset.Options(**{"train": None, **given, **options}))


def test_rows_and_ids_of_the_balanced_list() -> None:
    reading = Reading(str(LISTS / "balanced_train_segments.csv"), "balanced", "row")
    ids = [fields[0] for _, _, fields in reading.table(audioset.COLUMNS)]
    assert (len(ids), len(set(ids)), sum(video.startswith("-") for video in ids)) == (22_160, 22_160, 459)
    assert [Online().checked(video) for video in ids] == ids


@pytest.mark.parametrize(("descendants", "some", "one"), [(True, 1455, 1301), (False, 1206, 1110)])
def test_instruments_of_the_balanced_list(descendants: bool, some: int, one: int) -> None:
    found = balanced(descendants=descendants)
    assert found.funnel == {
        "balanced": {
            "rows": 22_160, "without a class": 22_160 - some, "repeated": 0, "of several classes": some - one,
            "invalid": 0, "used": one,
        }
    }  # fmt: skip
    assert len(found.entries) == one and not any(entry.fault for entry in found.entries)
    counts = Counter(entry.labels[0] for entry in found.entries)
    assert set(counts) == set(audioset.INSTRUMENTS) - {"oboe"}  # known to the ontology, but in no list


def test_caps_on_the_balanced_list() -> None:
    found = balanced(max_per_class={"train": 20, "validation": 3, "test": 3})
    counts = Counter((entry.split, entry.labels[0]) for entry in found.entries)
    assert Counter(split for (split, _), n in counts.items() if n > (20 if split == "train" else 3)) == {}
    assert [counts[split, "guitar"] for split in ("train", "validation", "test")] == [20, 3, 3]
    assert {label for split, label in counts if split == "train"} == set(audioset.INSTRUMENTS) - {"oboe"}


@pytest.mark.parametrize(
    ("train", "counts"),
    [(["solos"], (514, 11, 11)), (["duets"], (149, 11, 11)), (["solos", "duets"], (663, 11, 11))],
)
def test_music(train: list[str], counts: tuple[int, int, int]) -> None:
    places = {f"{name}s": str(LISTS / f"MUSIC_{name}_videos.json") for name in ("solo", "duet")}
    found = music.listing(music.Options.model_validate({**places, "train": train}))
    assert splits(found) == dict(zip(("train", "validation", "test"), counts, strict=True))
    assert found.funnel["solos"]["rows"] == 536 and found.funnel.get("duets", {"rows": 149})["rows"] == 149
    assert not any(entry.fault for entry in found.entries)
    assert len({label for entry in found.entries for label in entry.labels}) == 11
    assert {len(entry.labels) for entry in found.entries if entry.split != "train"} == {1}


def test_music21() -> None:
    found = music.listing(music.Options(solos=str(LISTS / "MUSIC21_solo_videos.json")))
    assert splits(found) == {"train": 1122, "validation": 21, "test": 21}
    assert len({entry.labels for entry in found.entries}) == 21


def test_solos() -> None:
    places = {"videos": str(LISTS / "solos_ids.json"), "timestamps": str(LISTS / "solos_timestamps.json")}
    found = solos.listing(solos.Options.model_validate(places))
    assert splits(found) == {"train": 728, "validation": 13, "test": 13}
    assert len({entry.labels for entry in found.entries}) == 13
    faults = [entry for entry in found.entries if entry.fault]
    assert Counter(entry.labels[0] for entry in faults) == {"trumpet": 9, "violin": 1}
    assert sum(end - start for entry in found.entries for start, end in entry.parts) / 3600 == pytest.approx(
        64.2, abs=0.05
    )

"""MUSIC: videos of musicians, solos of 11 instruments and duets (App. A.5). MUSIC21 is the same with another list."""

from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from avset.sources import Entry, Listing
from avset.sources.download import SUFFIX, fetch
from avset.sources.lists import read_tree
from avset.sources.lists.funnel import Funnel, listing_of, narrowed, unite
from avset.sources.lists.rows import FIRST, Online, Reading, read_splits

__all__ = ["SUFFIX", "Options", "fetch", "listing"]

HOME = "https://raw.githubusercontent.com/roudimit/MUSIC_dataset/master"


class Options(Online):
    """Which lists, which are trained on, and how they are split. A list is an address, or a file."""

    solos: str = Field(default=f"{HOME}/MUSIC_solo_videos.json", description="MUSIC21: MUSIC21_solo_videos.json there")
    duets: str | None = Field(
        default=f"{HOME}/MUSIC_duet_videos.json", description="read where train or test_duets says so"
    )
    train: list[Literal["solos", "duets"]] = Field(
        default=["solos"], min_length=1, description="lists to train on (Table 1: one or the other)"
    )
    test_duets: bool = Field(
        default=False, description="all duets are for testing: real ones have no reference, and are in no mixture"
    )
    splits: str | None = Field(
        default=None,
        description="CSV with the columns id,split; a video that it does not name is left out. null: the first and "
        "the second solo of every class are for validation and test, all others for training",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Options":
        if "duets" in self.train and self.duets is None:
            raise ValueError("train names duets, but duets is null")
        if self.test_duets and (self.duets is None or "duets" in self.train):
            raise ValueError(
                "test_duets is true, but duets is null, or train names duets: they are for one or the other"
            )
        return self


def listing(options: Options) -> Listing:
    """One entry per video, whole, sorted by media_id.

    Validation and test have solos also if training is on duets: only mixtures of solos can be scored. Duets are for
    testing beside them if `test_duets` says so. A row that
    cannot be used does not count as the first of its class. AvsetError names a list that is not the right one.
    """
    funnel: Funnel = {}
    splits = read_splits(options.splits, options, funnel) if options.splits else None
    lists: dict[str, list[Entry]] = {}
    wanted = options.test_duets or "duets" in options.train
    places = {"solos": options.solos, "duets": options.duets if wanted else None}
    for name, place in places.items():
        if place is not None:
            reading = Reading(place, name, '{"videos": {class: [id, ...]}}')
            tree = read_tree(place, name)
            videos = tree.get("videos") if isinstance(tree, dict) else None
            entries = reading.by_class(options, videos, labels_of, splits, FIRST if name == "solos" else ())
            if options.test_duets and name == "duets" and splits is None:
                entries = [replace(e, split="test") for e in entries]
            lists[name] = [e for e in entries if e.fault or e.split != "train" or name in options.train]
            untrained = {} if name in options.train else {"not trained on": len(entries) - len(lists[name])}
            funnel[name] = {"rows": reading.rows, **reading.passed_over, **untrained}
    return listing_of(funnel, narrowed(funnel, "repeated", lists, unite(lists)), splits)


def labels_of(name: str) -> tuple[str, ...]:
    """The labels of a class: "saxophone acoustic_guitar" is a saxophone and an acoustic guitar."""
    return tuple(dict.fromkeys(word.replace("_", " ") for word in name.split()))

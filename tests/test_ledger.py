"""The ledger adds up: every line in itself, and with the line that it comes from; what is lost is seen."""

from pathlib import Path
from typing import Any

import pytest

from avset.report.ledger import Line, ledger
from avset.storage.artifacts import Record
from avset.storage.tables import write_table

FUNNEL = {
    "a": {"repeated": 4, "rows": 9, "without a class": 1, "used": 4}, "b": {"rows": 3, "invalid": 1, "used": 2},
    "splits": {"rows": 99, "used": 7}, "recordings": {"rows": 6, "repeated": 2, "distinct": 4},
}  # fmt: skip
MEDIA = {  # the clips of each medium: their reasons in the indices of clips, spectrograms, regions
    "m0": [("", "", ""), ("", "silent", "")], "m1": [("", "", "error"), ("too_short", "upstream", "upstream")],
    "m2": [("removed", "upstream", "upstream")], "m3": [("corrupt", "upstream", "upstream")] * 2,
    "m4": [("", "", "")], "m5": [("", "", "")], "m6": [("invalid", "upstream", "upstream")],
}  # fmt: skip
MIXTURES = [("validation", "v0", "xy"), ("test", "t0", "xy"), ("test", "t1", ["x", ""]), ("test", "t2", "yx")]
SCORED = {"video": ["t0", "t0", "t1", "t1"], "text": ["t0", "t0", "t1"]}


def check(lines: list[Line]) -> None:
    """Every line adds up; so do lines of the same things that follow each other."""
    by_name = {line["step"]: line for line in lines}
    for line in lines:
        assert line["in"] == line["ok"] + sum(line["failed"].values()), line
        assert "unaccounted" not in line["failed"], line
        before = by_name.get(line["of"])
        if before and before["unit"] == line["unit"]:
            assert line["in"] == before["ok"], line


def made(folder: Path, media: dict[str, Any] = MEDIA, labels: bool = True) -> list[Line]:
    clips = [(name, f"{name}_{i}", reasons) for name, parts in media.items() for i, reasons in enumerate(parts)]
    indices = {}
    for at, stage in ((0, "clips"), (1, "spectrograms"), (2, "frames"), (2, "objects"), (2, "regions")):
        rows = [{"media_id": name, "clip_id": clip, "reason": reasons[at]} for name, clip, reasons in clips]
        if stage in ("objects", "regions"):
            rows = [row | {"reason": row["reason"] and "upstream"} for row in rows]
        indices[stage] = folder / stage / "index.parquet"
        write_table(indices[stage], rows)
    drawn = [
        {"split": split, "mixture_id": name, "labels": [label if labels else "" for label in own]}
        for split, name, own in MIXTURES
    ]
    write_table(folder / "mixtures" / "mixtures.parquet", drawn)
    Record("mixtures", recipe={"validation": 1, "test": 5, "seed": 0}).write(folder / "mixtures")
    kinds = SCORED if labels else {"video": SCORED["video"]}
    rows = [{"query": kind, "mixture_id": name} for kind, names in kinds.items() for name in names]
    write_table(folder / "scores" / "scores.parquet", rows)
    Record("scores", recipe={"prompts": {"text": "{label}"}}).write(folder / "scores")
    return ledger(indices, FUNNEL, folder / "mixtures", {"ours": folder / "scores"})


def told(lines: list[Line]) -> dict[str, tuple[int, int, dict[str, int]]]:
    return {line["step"]: (line["in"], line["ok"], line["failed"]) for line in lines}


def test_the_ledger_adds_up_from_the_lists_to_the_queries(tmp_path: Path):
    lines = made(tmp_path)
    check(lines)
    assert told(lines) == {
        "a": (9, 4, {"repeated": 4, "without a class": 1}),
        "b": (3, 2, {"invalid": 1}),
        "media": (6, 4, {"removed": 1, "corrupt": 1}),
        "clips": (6, 5, {"too_short": 1}),
        "frames": (5, 4, {"error": 1}),
        "spectrograms": (5, 4, {"silent": 1}),
        "objects": (4, 4, {}),
        "regions": (4, 4, {}),
        "mixtures.validation": (1, 1, {}),
        "mixtures.test": (5, 3, {"not possible": 2}),
        "ours.mixtures": (3, 2, {"incomplete": 1}),
        "ours.video": (4, 4, {}),
        "ours.text": (4, 3, {"unlabelled": 1}),
    }
    assert [line["step"] for line in lines] == list(told(lines)), "in the order of the stages"


def test_texts_that_nobody_could_ask_are_a_line_too(tmp_path: Path):
    lines = made(tmp_path, labels=False)
    check(lines)
    assert told(lines)["ours.text"] == (4, 0, {"unlabelled": 4})


@pytest.mark.parametrize("lost", ["m2", "m4"])
def test_what_vanishes_is_seen(tmp_path: Path, lost: str):
    """A video of the lists that is in no index."""
    lines = made(tmp_path, {name: parts for name, parts in MEDIA.items() if name != lost})
    assert told(lines)["media"][2]["unaccounted"] == 1
    with pytest.raises(AssertionError):
        check(lines)

"""Training refuses stores that do not belong together, and says which."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

from avset.errors import AvsetError
from avset.params import clips_of
from avset.storage.artifacts import Record
from avset.storage.files import write_json
from avset.storage.store import Store
from avset.storage.tables import read_table, write_table
from avset.training.dataset import Corpus


@pytest.fixture
def data(toy_data: Path, tmp_path: Path) -> Path:
    """The folder of the toy data set, to be mixed up."""
    return toy.clone(toy_data / "data" / "demo", tmp_path / "data" / "demo") / "demo"


def store_of(data: Path, stage: str) -> Path:
    """The store of a stage, clips among them."""
    return clips_of(data) if stage == "clips" else data / stage


def change(index: Path, column: str, value: Any, count: int) -> list[str]:
    """Put another value into the first rows of an index; returns their clips."""
    rows = read_table(index)
    write_table(index, [row | {column: value} if i < count else row for i, row in enumerate(rows)])
    toy.seal(index.parent)
    return [row["clip_id"] for row in rows[:count]]


def test_what_belongs_together_loads(data: Path):
    corpus = Corpus.load(data)
    assert len(corpus.complete()) == 37 and set(corpus.splits.values()) == {"train", "validation", "test"}
    assert corpus.labels.keys() == corpus.contents.keys() == set(corpus.complete())


@pytest.mark.parametrize(
    ("changed", "column", "value", "stage", "source"),
    [
        ("clips", "sha256", "0" * 64, "frames", "clips"),
        ("clips", "start_s", 0.5, "frames", "clips"),
        ("spectrograms", "input", "0" * 64, "spectrograms", "clips"),
        ("frames", "digest", "0" * 64, "regions", "frames"),
        ("regions", "digest", "0" * 64, "captions", "regions"),
        ("captions", "input", "0" * 64, "captions", "regions"),
    ],
)
def test_a_clip_of_another_making_is_named(
    data: Path, changed: str, column: str, value: Any, stage: str, source: str, monkeypatch: pytest.MonkeyPatch
):
    clips = change(store_of(data, changed) / "index.parquet", column, value, 2)
    inputs = {"spectrograms": Store(data / "spectrograms").digest}
    replace(Record.read(data / "mixtures"), inputs=inputs).write(data / "mixtures")
    names = f"2 of 37 clips were made of something else ({', '.join(clips)}); run `dvc repro {stage}`"
    with pytest.raises(AvsetError) as refused:
        Corpus.load(data)
    said = f"{data / stage} does not belong to {store_of(data, source)}: {names}, or `dvc checkout` both"
    assert str(refused.value) == said


def exchange_encoder(data: Path) -> None:
    write_json(data / "encoder" / "encoder.json", {"sha256": "0"})
    toy.seal(data / "encoder")


def forget_encoder(data: Path, stage: str) -> None:
    replace(Record.read(data / stage), inputs={"encoder": "0" * 64}).write(data / stage)


@pytest.mark.parametrize(
    ("mix", "stage", "source"),
    [
        (lambda data: forget_encoder(data, "regions"), "regions", "encoder"),
        (lambda data: forget_encoder(data, "captions"), "captions", "encoder"),
        (exchange_encoder, "regions", "encoder"),
        (lambda data: change(data / "spectrograms" / "index.parquet", "detail", "x", 1), "mixtures", "spectrograms"),
    ],
)
def test_a_store_of_another_encoder_is_named(data: Path, mix: Callable[[Path], Any], stage: str, source: str):
    mix(data)
    with pytest.raises(AvsetError) as refused:
        Corpus.load(data)
    assert str(refused.value) == f"{data / stage} was made with another {data / source}; run `dvc repro {stage}`"


def test_a_caption_of_a_video_belongs_to_the_clip_that_it_is_of(data: Path):
    rows = read_table(data / "captions" / "index.parquet")
    rows[1] |= {"of": rows[0]["of"], "input": rows[0]["input"], "digest": rows[0]["digest"]}
    write_table(data / "captions" / "index.parquet", rows)
    toy.seal(data / "captions")
    Corpus.load(data)


def test_captions_of_many_clips_are_stacked_in_their_order(data: Path):
    captions = Store(data / "captions")
    clips = captions.clips[::-2]
    assert np.array_equal(captions.stack(clips, "caption"), [captions.read(clip, "caption") for clip in clips])

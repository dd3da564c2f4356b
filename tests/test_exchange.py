"""Other people's systems: mixtures go out exactly, and estimates come back to the row that they deserve."""

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from avset import params
from avset.__main__ import main
from avset.errors import AvsetError
from avset.evaluation.estimates import estimates
from avset.evaluation.metrics import SILENT
from avset.exchange import export as exporting
from avset.exchange import score as scoring
from avset.exchange.frozen import Frozen
from avset.inference.separate import Separator
from avset.media.waveforms import resample
from avset.media.writers import as_wav
from avset.storage.artifacts import Record
from avset.storage.tables import read_table
from avset.training.dataset import Corpus


@pytest.fixture
def frozen(scored: Path, monkeypatch: pytest.MonkeyPatch) -> Frozen:
    monkeypatch.chdir(scored)
    return Frozen.load(params.load())


@pytest.fixture
def run(scored: Path, monkeypatch: pytest.MonkeyPatch, command_line):
    """Run the command line in the scored project: (exit code, what it said, its errors)."""
    monkeypatch.chdir(scored)
    return partial(command_line, main)


def put(folder: Path, name: str, sound: np.ndarray, rate: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.wav").write_bytes(as_wav(np.asarray(sound, np.float32), rate))


def references_as_estimates(frozen: Frozen, folder: Path, split: str = "test") -> None:
    """Perfect estimates of a split."""
    for one in frozen.of([split]):
        for n, source in enumerate(frozen.sources(one)):
            put(folder, f"{one.mixture_id}-{n}", source, frozen.transform.sample_rate)


def test_a_wav_of_floats_is_exact_and_every_reader_knows_it(tmp_path: Path):
    sound = np.random.default_rng(0).normal(0, 2, 1001).astype(np.float32)
    data = as_wav(sound, 11025)
    (tmp_path / "a.wav").write_bytes(data)
    found, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 11025 and np.array_equal(found, sound) and data == as_wav(sound, 11025)


def test_an_export_is_exact_goes_on_and_takes_no_strangers_place(run, frozen: Frozen, tmp_path: Path):
    folder = tmp_path / "out"
    code, said, _ = run("mixtures", "export", folder, "--split", "test", "--split", "three")
    assert code == 0 and "4 mixtures of test, 2 mixtures of three" in said
    facts = json.loads((folder / "manifest.json").read_text())
    rows = list(csv.DictReader((folder / "manifest.csv").read_text().splitlines()))
    assert facts["identities"] == frozen.identities and facts["samples"] == frozen.transform.length
    assert len(rows) == 4 * 2 + 2 * 3 and len(list(folder.rglob("*.wav"))) == 6 + len(rows)
    first = frozen.of(["test"])[0]
    assert rows[0]["query_text"] == f"person playing a {first.labels[0]}" and rows[0]["clip_id"] == first.clips[0]
    for row in rows[:2]:
        found, rate = soundfile.read(folder / row["reference"], dtype="float32")
        assert rate == facts["sample_rate"] and np.array_equal(found, frozen.sources(first)[int(row["source"])])
    mixture, _ = soundfile.read(folder / rows[0]["mixture"], dtype="float32")
    assert np.array_equal(mixture, frozen.sources(first).sum(0))
    (folder / rows[0]["mixture"]).unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert run("mixtures", "export", folder, "--split", "three", "--split", "test")[0] == 0
    assert before.items() <= {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}.items()
    assert (folder / rows[0]["mixture"]).is_file()
    (folder / rows[1]["reference"]).write_bytes(b"mine")
    code, _, error = run("mixtures", "export", folder, "--split", "test", "--split", "three")
    assert code == 1 and rows[1]["reference"] in error and "--overwrite" in error
    code, _, error = run("mixtures", "export", folder, "--rate", 16000)
    assert code == 1 and "manifest.json is there" in error and (folder / rows[1]["reference"]).read_bytes() == b"mine"
    assert run("mixtures", "export", folder, "--rate", 16000, "--overwrite")[0] == 0
    found, rate = soundfile.read(folder / rows[1]["reference"], dtype="float32")
    assert rate == 16000 and np.array_equal(found, resample(frozen.sources(first)[1], facts["sample_rate"], 16000))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--split", "thre"], "did you mean three"), (["--rate", "7"], "--rate must be from 1000"),
     (["--split", ""], "'' is not one of")],
)  # fmt: skip
def test_an_export_that_cannot_be_is_one_line(run, tmp_path: Path, arguments: list[str], said: str):
    code, _, error = run("mixtures", "export", tmp_path / "out", *arguments)
    assert code == 1 and said in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_our_own_estimates_get_our_own_row(frozen: Frozen, scored: Path, tmp_path: Path):
    data = scored / "data" / "demo" / "demo"
    corpus, separator = Corpus.load(data, further=True), Separator.load(data / "models" / "avset")
    for one in estimates(separator.model, corpus.mixtures_of("three"), "video", corpus, {}):
        for n, sound in enumerate(one.estimates):
            put(tmp_path / "video", f"{one.mixture.mixture_id}-{n}", sound, frozen.transform.sample_rate)
    found = scoring.score(frozen, tmp_path, "theirs")
    ours = [row for row in read_table(data / "scores" / "avset" / "scores.parquet") if row["query"] == "video"]
    ours = [row for row in ours if row["mixture_id"].startswith("three-")]
    assert found.splits == ["three"] and not found.told and not found.strange
    for mine, theirs in zip(ours, found.rows, strict=True):
        assert {key: mine[key] for key in ("query", "mixture_id", "source", "clip_id", "label", "silent")} == {
            key: theirs[key] for key in ("query", "mixture_id", "source", "clip_id", "label", "silent")
        }  # fmt: skip
        assert [theirs[key] for key in ("sdr", "sir", "sar", "nsdr")] == pytest.approx(
            [mine[key] for key in ("sdr", "sir", "sar", "nsdr")], abs=1e-4
        )


def test_what_cannot_be_scored_counts_as_silence_and_is_told(run, frozen: Frozen, tmp_path: Path):
    folder, rate, length = tmp_path / "theirs", frozen.transform.sample_rate, frozen.transform.length
    references_as_estimates(frozen, folder)
    one, two, three, four = (mixture.mixture_id for mixture in frozen.of(["test"]))
    sounds = {mixture.mixture_id: frozen.sources(mixture) for mixture in frozen.of(["test"])}
    (folder / f"{one}-0.wav").unlink()
    put(folder, f"{one}-1", np.zeros(length), rate)
    put(folder, f"{two}-0", np.full(length, np.nan), rate)
    put(folder, f"{two}-1", sounds[two][1][: length // 2], rate)
    (folder / f"{three}-0.wav").write_bytes(b"This is no sound. " * 99)
    put(folder, f"{three}-1", np.pad(sounds[three][1], (0, 3 * length)), rate)
    put(folder, f"{four}-0", sounds[four][0][:-300], rate)
    soundfile.write(folder / f"{four}-1.flac", sounds[four][1], rate)
    for name in ("notes.txt", "test-9999-0.wav", "deep/in/test-0000-0.wav", ".DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    code, said, error = run("score", folder, "--json", "--output", tmp_path / "scores")
    told = json.loads(said)
    reasons = {(row["mixture_id"], row["source"]): row["reason"] for row in told["told"]}
    assert code == 0 and reasons == {
        (one, 0): "missing", (one, 1): "silent", (two, 0): "not_finite", (two, 1): "length", (three, 0): "unreadable",
        (three, 1): "length", (four, 0): "fitted", (four, 1): "several",
    }  # fmt: skip
    assert told["strange"] == ["deep/in/test-0000-0.wav", "notes.txt", "test-9999-0.wav"]
    assert f"{one}, source 0, text: missing: there is no file; it counts as silence, -30 dB" in error
    assert "notes.txt: not scored" in error and "1 of 8 estimates: missing" in error
    (row,) = told["scores"]
    found = read_table(tmp_path / "scores" / "scores.parquet")
    assert (
        (row["n"], row["silent"], row["split"], row["query"])
        == (8, 7, "test", "text")
        == (len(found), 7, "test", "text")
    )
    assert sorted(one["sdr"] for one in found)[:7] == [SILENT] * 7 and max(one["sdr"] for one in found) > 15
    assert row["sdr"] == pytest.approx(np.mean([one["sdr"] for one in found]), abs=1e-3)


def test_any_rate_channels_and_order_and_the_row_stands_beside_ours(run, frozen: Frozen, scored: Path, tmp_path: Path):
    """A blind system, whose outputs come the other way round, in stereo at 44.1 kHz, and a folder for each query."""
    rate, blind = frozen.transform.sample_rate, tmp_path / "blind"
    (blind / "oracle").mkdir(parents=True)
    for one in frozen.of(["duets"]):
        for n, source in enumerate(frozen.sources(one)[::-1]):
            loud = resample(source, rate, 44100)
            soundfile.write(blind / "oracle" / f"{one.mixture_id}-{n}.flac", np.stack([loud, loud], 1), 44100)
    references_as_estimates(frozen, blind / "word", "three")
    out = tmp_path / "scores"
    code, said, error = run("score", blind, "--output", out)
    assert code == 0 and not error, error
    assert said.index("three\n") < said.index("duets\n") and "avset" in said and "knows no query" in said
    rows = read_table(out / "scores.parquet")
    assert min(row["sdr"] for row in rows) > 30 and {row["query"] for row in rows} == {"oracle", "word"}
    assert Record.read(out).inputs == frozen.identities
    code, said, _ = run("score", blind, "--split", "duets", "--csv")
    (row,) = csv.DictReader(said.splitlines())
    assert (row["split"], row["query"], row["n"]) == ("duets", "oracle", str(2 * len(frozen.of(["duets"])))) and float(
        row["nsdr"]
    ) > 20
    code, _, error = run("score", blind, "--output", out)
    assert code == 1 and "is there already" in error
    (out / "mine.txt").touch()
    code, _, error = run("score", blind, "--output", out, "--overwrite")
    assert code == 1 and "'mine.txt' is in it" in error


def test_what_cannot_be_a_row_is_one_line(run, frozen: Frozen, tmp_path: Path):
    references_as_estimates(frozen, tmp_path / "avset")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "song.wav").touch()
    for arguments, said in (
        ([tmp_path / "nowhere"], "there is no folder"), ([tmp_path / "none"], "'song.wav' is none"),
        ([tmp_path / "avset"], "'avset', is taken"), ([tmp_path / "avset", "--name", "a b"], "letters, digits"),
        ([tmp_path / "avset", "--name", "x", "--split", "three"], "no estimate of three, only of test"),
        ([tmp_path / "avset", "--name", "x", "--split", "tst"], "did you mean test"),
        ([tmp_path / "avset", "--name", "x", "-q", "a/b"], "--query: 'a/b'"),
        ([tmp_path / "avset", "--name", "x", "-q", "ideal"], "--query: 'ideal'"),
    ):  # fmt: skip
        code, output, error = run("score", *arguments)
        assert code == 1 and said in error and not output and len(error.splitlines()) == 1, error


def test_an_export_is_no_folder_of_estimates(frozen: Frozen, tmp_path: Path):
    """Its references would be perfect."""
    exporting.export(frozen, tmp_path, ["test"])
    with pytest.raises(AvsetError, match="has no estimate"):
        scoring.score(frozen, tmp_path, "theirs")
    references_as_estimates(frozen, tmp_path)
    assert scoring.score(frozen, tmp_path, "theirs").strange == []

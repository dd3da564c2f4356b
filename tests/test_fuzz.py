"""A sample of the fuzz corpus, and that its harness sees what it looks for. All of it: `python tests/fuzz.py`."""

import os
import signal
from pathlib import Path

import fuzz
import pytest


@pytest.mark.slow
def test_damaged_files_end_as_clips_or_by_reasons() -> None:
    count = 60
    report = fuzz.run(count, seed=0)
    assert report.faults == [] and report.touched == []
    assert report.opened == 0 and report.grown < 32 * 2**20
    assert report.files == sum(report.reasons.values()) == count
    assert report.clips >= report.reasons["clip"] > count / 10 and report.most[0] < 1000
    assert report.reasons["corrupt"] > count / 10 and len(report.reasons) > 4


def test_the_corpus_is_a_function_of_its_seed(tmp_path: Path) -> None:
    fuzz.good(tmp_path)
    assert list(fuzz.corpus(tmp_path, 30, 5)) == list(fuzz.corpus(tmp_path, 30, 5))
    assert list(fuzz.corpus(tmp_path, 30, 5)) != list(fuzz.corpus(tmp_path, 30, 6))
    for path in tmp_path.iterdir():  # the structures that are cut and swapped are found, and cover the file
        parts = fuzz.elements(path.read_bytes())
        assert len(parts) > 20 and max(part.end for part in parts) == path.stat().st_size
        assert all(part.start <= part.size < part.body <= part.end or path.suffix == ".ts" for part in parts)


@pytest.mark.slow
def test_crashes_hangs_and_changes_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "LIMIT", 1.0)
    reader, path = fuzz.Reader(), tmp_path / "absent.mp4"
    assert reader.read(path)["reason"] == "missing"
    assert reader.process
    os.kill(reader.process.pid, signal.SIGKILL)
    assert reader.read(path)["reason"] == "CRASH"
    assert reader.read(path)["reason"] == "missing"
    assert reader.process
    os.kill(reader.process.pid, signal.SIGSTOP)
    assert reader.read(path)["reason"] == "HANG"
    reader.close()

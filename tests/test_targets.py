"""What is refused of the files that a user names, before anything is computed."""

import os
import unicodedata
from pathlib import Path

import pytest

from avset.errors import AvsetError
from avset.media import targets
from avset.media.targets import WRITABLE, check_files, check_query, check_time, same_place


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an input, links to it, and a result of an earlier run; it is the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("In.wav").write_text("sound")
    Path("soft.wav").symlink_to("In.wav")
    os.link("In.wav", "hard.wav")
    Path("loop.wav").symlink_to("loop.wav")
    Path("old.wav").write_text("old")
    Path("dir.wav").mkdir()
    os.mkfifo("pipe.wav")
    Path("elsewhere").symlink_to(".")
    return tmp_path


REFUSED = [
    ("In.wav", "out", None, "give a name that ends in .wav, .flac, .mp3"),
    ("In.wav", "/dev/stdout", None, "give a name that ends in .wav"), ("In.wav", "-", None, "give a name that ends in"),
    ("In.wav", "In.wav", None, "that is the input"), ("In.wav", "./x/../In.wav", None, "that is the input"),
    ("In.wav", "soft.wav", None, "that is the input"), ("soft.wav", "In.wav", None, "that is the input"),
    ("In.wav", "hard.wav", None, "that is the input"), ("In.wav", "elsewhere/In.wav", None, "that is the input"),
    ("In.wav", "in.WAV", None, "that is the input"), ("old.wav", "In.wav", "soft.wav", "that is the output"),
    ("old.wav", "a.wav", "a.wav", "that is the output"), ("old.wav", "new/a.wav", "new/./A.wav", "that is the output"),
    ("old.wav", "a.wav", "elsewhere/A.WAV", "that is the output"), ("old.wav", "x.wav", "old.wav", "that is the input"),
    ("old.wav", "\u00e9.wav", "e\u0301.wav", "that is the output"),
    ("In.wav", "dir.wav", None, "it is a folder"), ("In.wav", "pipe.wav", None, "it is no plain file"),
    ("In.wav", "old.wav/a.wav", None, "is no folder"), ("In.wav", "loop.wav", None, "symbolic links"),
    ("In.wav", f"{'x' * 300}.wav", None, "File name too long"),
    ("gone.wav", "a.wav", None, "there is no such file"), ("dir.wav", "a.wav", None, "it is a folder"),
    ("pipe.wav", "a.wav", None, "it is no plain file"), ("loop.wav", "a.wav", None, "symbolic links"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "output", "residual", "said"), REFUSED)
def test_a_place_that_must_not_be_written_is_refused_even_if_it_may_be_replaced(
    folder: Path, file: str, output: str, residual: str | None, said: str
):
    outputs = {"output": Path(output), "residual": residual and Path(residual)}
    with pytest.raises(AvsetError) as refused:
        check_files(Path(file), outputs, WRITABLE, overwrite=True)
    assert said in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_what_is_there_needs_a_word_and_other_places_do_not(folder: Path):
    for output in ("old.wav", "elsewhere/old.wav"):
        with pytest.raises(AvsetError, match=r"already; give another name, or allow it with --overwrite"):
            check_files(Path("In.wav"), {"output": Path(output)}, WRITABLE)
        check_files(Path("In.wav"), {"output": Path(output)}, WRITABLE, overwrite=True)
    check_files(Path("In.wav"), {"output": Path("a/b/In.wav"), "residual": Path("b.flac")}, WRITABLE)
    Path("away.wav").symlink_to("not/yet.wav")
    check_files(Path("In.wav"), {"output": Path("away.wav"), "residual": None}, WRITABLE)
    with pytest.raises(AvsetError, match="that is the output"):
        check_files(Path("In.wav"), {"output": Path("away.wav"), "residual": Path("not/yet.wav")}, WRITABLE)


@pytest.mark.parametrize(
    ("path", "said"),
    [("locked/a.wav", "the folder '.*locked' may not be written to"), ("locked/deep/a.wav", "may not be written to"),
     ("old.wav", "write-protected"), ("In.wav", "it may not be read")],
)  # fmt: skip
def test_rights_are_asked_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str):
    """The superuser may do anything, so the answers of the system are made up."""
    Path("locked").mkdir()
    file = Path("In.wav" if path == "In.wav" else "soft.wav")
    monkeypatch.setattr(targets.os, "access", lambda place, mode: place.name not in {"locked", path})
    with pytest.raises(AvsetError, match=said):
        check_files(file, {"output": Path("new.wav" if path == "In.wav" else path)}, WRITABLE, overwrite=True)


def test_places_are_compared_as_a_disk_that_ignores_case_would(tmp_path: Path):
    for one in ("Stra\u00dfe.wav", "\u00c9T\u00c9.wav"):
        for other in (one.upper(), one.lower(), unicodedata.normalize("NFD", one)):
            assert same_place(tmp_path / one, tmp_path / other)
    assert not same_place(tmp_path / "a" / "x.wav", tmp_path / "b" / "x.wav")
    assert not same_place(tmp_path / "x.wav", tmp_path / "x.flac")


def test_a_query_has_words_and_a_time_is_one():
    for text in ("", " ", "\n\t"):
        with pytest.raises(AvsetError, match="the query is empty"):
            check_query(text)
    for time in (-1.0, float("nan"), float("inf")):
        with pytest.raises(AvsetError, match="no picture at"):
            check_time(time)
    check_query("violin")
    check_time(None)
    check_time(0.0)

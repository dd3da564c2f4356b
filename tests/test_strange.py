"""What colleagues and strangers may leave in shared folders, lists and files goes no further."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from avset.compute.making import making
from avset.console import as_csv
from avset.sources import download
from avset.storage.cache import cache_folder
from avset.storage.files import new_folder, open_to_append, share, write_atomic
from avset.storage.hdf5 import open_hdf5
from avset.values import told


def test_no_link_is_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    victim = mine / "thesis"
    victim.write_text("years")
    victim.chmod(0o600)
    pace = cache_folder("pace") / "host-a_b"
    pace.parent.mkdir(parents=True, exist_ok=True)
    pace.symlink_to(victim)
    download._wait_for_turn("http://a.b/c", 0.0)
    assert not pace.is_symlink() and float(pace.read_text()) > 0
    partial = download._folder("http://a.b/c", 360)
    partial.mkdir(parents=True)
    (partial / "piece").symlink_to(victim)
    with download._partial("http://a.b/c", 360) as folder:
        assert list(folder.iterdir()) == []
    (tmp_path / "link").symlink_to(victim)
    share(tmp_path / "link")
    with pytest.raises(OSError, match="symbolic links"):
        open_to_append(tmp_path / "link")
    write_atomic(tmp_path / "link", b"own")
    (tmp_path / ".regions.new").symlink_to(mine)
    Path("data/.locks").mkdir(parents=True)
    Path("data/.locks/regions").symlink_to(victim)
    with making(Path("regions")) as fresh:
        (fresh / "thesis").write_text("other")
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("years", 0o600)
    new_folder(tmp_path / "link")
    assert [path.name for path in mine.iterdir()] == ["thesis"]


@pytest.mark.parametrize(
    ("address", "part", "seen"),
    [("https://u:p@h.org:8/a.csv?token=x#y", "", "https://h.org:8/a.csv"),
     ("HTTPS://h/a?X-Amz-Signature=s&v=ID&k=t", "ID", "HTTPS://h/a?v=ID"),
     ("s3://key:secret@bucket/a", "", "s3://bucket/a"), ("http://a@b@c/d", "", "http://c/d"),
     ("see 'https://h/a?t=x' and /b?c", "", "see 'https://h/a' and /b?c"), ("https://h?t=x", "", "https://h")],
)  # fmt: skip
def test_no_secret_of_an_address_is_told(address: str, part: str, seen: str):
    assert told(address, part) == seen


def test_no_cell_is_a_formula_and_every_text_comes_back():
    texts = ["=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "'=1", "''-x", " =1", "a=b", "'a", ""]
    numbers = [-3.05, 4, "-3.05", "+1e-5", None]
    cells = next(csv.reader(io.StringIO(as_csv([[*texts, *numbers]]), newline="")))
    assert cells[len(texts) :] == ["-3.05", "4", "-3.05", "+1e-5", ""]
    changed = [cell != text for cell, text in zip(cells, texts, strict=False)]
    assert changed == [True] * 10 + [False] * 3
    assert [cell[change:] for cell, change in zip(cells, changed, strict=False)] == texts


def _external(file: h5py.File, other: Path) -> None:
    file["a/x"] = h5py.ExternalLink(str(other), "secret")


def _soft(file: h5py.File, other: Path) -> None:
    file["a/y"] = h5py.ExternalLink(str(other), "/")
    file["a/x"] = h5py.SoftLink("/a/y/secret")


def _raw(file: h5py.File, other: Path) -> None:
    file.create_dataset("a/x", (8,), "u1", external=[(str(other), 0, 8)])


def _virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "secret", (3,))
    file.create_virtual_dataset("a/x", layout)


@pytest.mark.parametrize("attack", [_external, _soft, _raw, _virtual])
def test_an_hdf5_file_that_leads_to_another_is_refused(tmp_path: Path, attack):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(3.0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        attack(file, other)
    with pytest.raises(OSError, match=r"in it is (a link|kept in another file)"):
        open_hdf5(tmp_path / "a.h5")


def test_params_of_any_type_are_taken_or_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    import fuzz_params

    report = fuzz_params.run(8, 5)
    assert report.faults == [] and report.taken + report.refused == report.files == 8
    monkeypatch.setattr("avset.params.load", lambda path: SimpleNamespace()[path])
    assert len(fuzz_params.run(2, 5).faults) == 2, "a traceback is seen"

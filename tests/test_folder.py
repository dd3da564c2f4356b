"""The user's own directory: names, splits, tables, and what is wrong with them."""

import os
import re
import unicodedata
from pathlib import Path

import pytest
from pydantic import ValidationError

from avset.errors import AvsetError, ClipError
from avset.sources import Entry
from avset.sources.folder import SUFFIX, Options, fetch, listing


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def table(root: Path, text: str) -> Path:
    path = root / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def listed(root: Path, **options: object) -> dict[str, Entry]:
    """Entries by their path relative to the directory."""
    found = listing(Options.model_validate({"path": str(root), **options})).entries
    assert len({entry.media_id for entry in found}) == len(found)
    return {str(Path(entry.origin).relative_to(root)): entry for entry in found}


def error(root: Path, **options: object) -> str:
    with pytest.raises(AvsetError) as caught:
        listing(Options.model_validate({"path": str(root), **options}))
    return str(caught.value)


def test_videos_are_found_in_subdirectories_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, "b.mp4", "a.MKV", "deep/er/c.webm", "notes.txt", "d.mp4.part")
    assert sorted(listed(tmp_path)) == ["a.MKV", "b.mp4", "deep/er/c.webm"]
    assert sorted(listed(tmp_path, extensions=[".TXT"])) == ["notes.txt"]
    ids = [entry.media_id for entry in listing(Options(path=str(tmp_path))).entries]
    assert ids == sorted(ids) and SUFFIX is None


def test_plain_names_stay_and_others_become_safe_and_distinct(tmp_path: Path) -> None:
    names = ["plain-1_x.mp4", "-i.mp4", "two words.mp4", "two_words.mp4", "two/words.mp4",
             "ünï.mp4", "☃.mp4", "☂.mp4", "new\nline.mp4", "--.mp4", "x" * 250 + ".mp4", "x" * 249 + "y.mp4",
             "same.mp4", "same.mkv", "a/" * 20 + "b.mp4", "quote'\";$(rm).mp4"]  # fmt: skip
    found = listed(fill(tmp_path, *names))
    assert set(found) == set(names)
    for entry in found.values():
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", entry.media_id)
    assert found["plain-1_x.mp4"].media_id == "plain-1_x" and found["two_words.mp4"].media_id == "two_words"
    assert found["two words.mp4"].media_id.startswith("two_words-")


def test_a_name_that_imitates_a_hash_does_not_collide(tmp_path: Path) -> None:
    imitated = listed(fill(tmp_path, "two words.mp4"))["two words.mp4"].media_id
    found = listed(fill(tmp_path, f"{imitated}.mp4"))
    assert len(found) == 2  # and `listed` checks that the ids differ


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))).write_bytes(b"")
    assert "xff.mp4" in error(tmp_path) and "rename" in error(tmp_path)


def test_links_are_followed_once_and_broken_ones_do_not_vanish(tmp_path: Path) -> None:
    fill(tmp_path, "videos/a.mp4", "elsewhere/b.mp4")
    videos = tmp_path / "videos"
    (videos / "more").symlink_to(tmp_path / "elsewhere")
    (videos / "loop").symlink_to(videos)
    (videos / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    found = listed(videos)
    assert sorted(found) == ["a.mp4", "gone.mp4", "more/b.mp4"]
    with pytest.raises(ClipError, match=r"missing.*gone"):
        fetch(found["gone.mp4"], Options(path=str(videos)), tmp_path / "t" / "gone.mp4")


def test_splits_follow_the_fractions_and_stay_when_files_are_added(tmp_path: Path) -> None:
    few = listed(fill(tmp_path, *(f"clip{i}.mp4" for i in range(400))), validation=0.2, test=0.1)
    count = {split: sum(e.split == split for e in few.values()) for split in ("train", "validation", "test")}
    assert sum(count.values()) == 400
    assert 220 < count["train"] < 340 and 50 < count["validation"] < 115 and 20 < count["test"] < 65
    more = listed(fill(tmp_path, *(f"new{i}.mp4" for i in range(100))), validation=0.2, test=0.1)
    assert all(more[name] == entry for name, entry in few.items())


def test_companions_and_what_programs_leave_behind_are_no_videos(tmp_path: Path) -> None:
    rubbish = ["._a.mp4", ".hidden.mp4", ".Trash/a.mp4", ".Trash-1000/files/a.mp4", "$RECYCLE.BIN/S-1/$RA.mp4",
               "@eaDir/a.mp4/SYNOVIDEO.mp4", "x/Thumbs/a.mp4", "__MACOSX/a.mp4", "~$a.mp4", "a.mp4.part", "a.part.mp4",
               "a.mp4.crdownload", "a.f137.mp4.ytdl", "a.mp4.part-Frag12", "a.temp.mp4", "a.mp4.tmp"]  # fmt: skip
    fill(tmp_path, *rubbish, "notes.txt")
    assert "16 hidden or unfinished" in error(tmp_path)
    fill(tmp_path, "a.mp4", "part.mp4", "part.1.mp4", "trash/b.mp4")
    assert sorted(listed(tmp_path)) == ["a.mp4", "part.1.mp4", "part.mp4", "trash/b.mp4"]
    assert listing(Options(path=str(tmp_path))).funnel == {"files": {"rows": 20, "no videos": 16, "used": 4}}
    named = table(tmp_path, "file,label\n.hidden.mp4,flute\n")
    assert listed(tmp_path, table=str(named))[".hidden.mp4"].labels == ("flute",), "who names it, wants it"


def test_splits_that_no_table_gives_are_free(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    found = listed(tmp_path, table=str(table(tmp_path, "file,label,split\na.mp4,,test\nb.mp4,harp,\n")))
    assert {name: entry.free for name, entry in found.items()} == {"a.mp4": False, "b.mp4": True, "c.mp4": True}
    assert listing(Options(path=str(tmp_path))).filled


def test_the_table_gives_labels_and_splits(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "sub/b, c.mkv", "d.mp4", "untold.mp4", "odd.dat")
    text = (
        '\ufefffile, label, split\n./a.mp4,flute,test\n"sub/b, c.mkv", flute; violin ;flute,validation\n'
        "d.mp4,,train\nodd.dat,horn,\n"
    )
    found = listed(tmp_path, table=str(table(tmp_path, text)))
    assert sorted(found) == ["a.mp4", "d.mp4", "odd.dat", "sub/b, c.mkv", "untold.mp4"]
    assert (found["a.mp4"].labels, found["a.mp4"].split) == (("flute",), "test")
    assert (found["sub/b, c.mkv"].labels, found["sub/b, c.mkv"].split) == (("flute", "violin"), "validation")
    assert (found["d.mp4"].labels, found["d.mp4"].split) == ((), "train")
    assert found["odd.dat"].labels == ("horn",)
    assert found["untold.mp4"].labels == ()


FLUTE = {form: unicodedata.normalize(form, "Flöte 1.mp4") for form in ("NFC", "NFD")}


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (FLUTE["NFD"], FLUTE["NFC"]),
        (FLUTE["NFC"], FLUTE["NFD"]),
        ("sub/b.mp4", "sub\\b.mp4"),
        ("sub/b.mp4", ".\\SUB\\B.MP4"),
        ("B.MP4", "b.mp4"),
        ("sub/b.mp4", "./sub//b"),
        ("b.mp4", " b.mp4 "),
        (" b.mp4", "b.mp4"),
        ("two  words.mp4", "two\u00a0words.mp4"),
        ("b.mp4", "b\u200b.mp4"),
        ("Straße.v2.mp4", "STRASSE.V2"),
        ("ﬁn.mp4", "fin.mp4"),
    ],
)
def test_names_are_compared_as_people_see_them(tmp_path: Path, file: str, told: str) -> None:
    fill(tmp_path, file, "other.mp4")
    found = listed(tmp_path, table=str(table(tmp_path, f'file,label,split\n"{told}",flute,test\n')))
    assert sorted(found) == sorted([file, "other.mp4"])
    assert (found[file].labels, found[file].split) == (("flute",), "test")


def test_an_exact_name_comes_first_and_an_ambiguous_one_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "A.mp4", "b.mp4", "b.mkv", "b.txt")
    assert listed(tmp_path, table=str(table(tmp_path, "file,label\na.mp4,x\nA.mp4,y\n")))["A.mp4"].labels == ("y",)
    assert re.search(
        r"line 2 .*'a\.MP4' may be any of 'A\.mp4', 'a\.mp4'",
        error(tmp_path, table=str(table(tmp_path, "file,label\na.MP4,x\n"))),
    )
    assert "'b.mkv', 'b.mp4'" in error(tmp_path, table=str(table(tmp_path, "file,label\nb,x\n")))
    assert re.search(
        "line 3 .*'b.mp4' stands there twice.*line 2",
        error(tmp_path, table=str(table(tmp_path, "file,label\nb.mp4,x\nB.mp4,y\n"))),
    )


def test_rows_without_a_file_are_errors_that_name_the_nearest(tmp_path: Path) -> None:
    fill(tmp_path, "flute 1.mp4", "deep/er/harp.mp4")
    one = error(tmp_path, table=str(table(tmp_path, "file,label\nflute 1.mp4,x\nflute_1.mp4,y\n")))
    assert re.search(r"1 of 2 rows .*line 3 .*'flute_1\.mp4' \(nearest: 'flute 1\.mp4'", one)
    assert "(nearest: 'deep/er/harp.mp4')" in error(tmp_path, table=str(table(tmp_path, "file,label\nharp.mp4,x\n")))
    many = "file,label\n" + "".join(f"{i}{i}{i},x\n" for i in range(9))
    assert re.search(
        r"9 of 9 rows .*'222' \(nearest: .*; and 6 more", error(tmp_path, table=str(table(tmp_path, many)))
    )


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    assert "no directory" in error(tmp_path / "absent") and "clips.options.path" in error(tmp_path / "absent")
    fill(tmp_path, "a.txt")
    assert ".mp4" in error(tmp_path) and "a.txt" not in error(tmp_path)
    assert ".xyz" in error(tmp_path, extensions=[".xyz"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "columns []"),
        ("file,split\na.mp4,test\n", "file,label"),
        ("file,label,splt\na.mp4,flute,test\n", "splt"),
        ("file,label,split\na.mp4,flute,dev\n", "line 2.*'dev'.*train, validation, test"),
        ("file,label\na.mp4,flute\na.mp4,violin\n", "line 3.*'a.mp4'.*twice"),
        ("file,label\na.mp4,flute,test,x\n", "line 2.*too many"),
        ("file,label\na.mp4\n", "line 2.*too few"),
        ("file,label\n,flute\n", "line 2.*relative"),
        ("file,label\n../a.mp4,flute\n", r"line 2.*'\.\./a\.mp4'.*relative"),
        ("file,label\n/a.mp4,flute\n", "line 2.*relative"),
        ("file,label\nC:\\videos\\a.mp4,flute\n", "line 2.*relative"),
        ("file,label\n..\\a.mp4,flute\n", "line 2.*relative"),
        ('file,label\n"a.mp4,flute\n', "cannot read"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    fill(tmp_path, "a.mp4")
    message = error(tmp_path, table=str(table(tmp_path, text)))
    assert "table.csv" in message
    assert told in message or re.search(told, message)


def test_a_table_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4")
    assert "none.csv" in error(tmp_path, table=str(tmp_path / "none.csv"))
    (tmp_path / "film.csv").write_bytes(b"\x00\xff\xfe film")
    assert "film.csv" in error(tmp_path, table=str(tmp_path / "film.csv"))


def test_options_are_checked() -> None:
    for wrong in (
        {},
        {"path": ".", "tset": 0.1},
        {"path": ".", "test": 0.6},
        {"path": ".", "extensions": ["mp4"]},
    ):
        with pytest.raises(ValidationError):
            Options.model_validate(wrong)


def test_fetch_copies_and_replaces(tmp_path: Path) -> None:
    entry = listed(fill(tmp_path / "videos", "-i.mp4"))["-i.mp4"]
    target = tmp_path / "clips" / "media.mp4"
    for _ in range(2):
        assert fetch(entry, Options(path=str(tmp_path / "videos")), target).boxes == []
        assert target.read_bytes() == Path(entry.origin).read_bytes()
        assert not target.samefile(entry.origin), "a cache may lock or share what it holds"


@pytest.mark.parametrize(("content", "told"), [(b"", "empty"), (bytes.fromhex("00051607") + b"x", "AppleDouble")])
def test_an_empty_file_and_a_companion_are_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ClipError, match=f"corrupt.*'a.mp4'.*{told}"):
        fetch(listed(tmp_path)["a.mp4"], Options(path=str(tmp_path)), tmp_path / "t.mp4")

"""An error of the system passes, or is told as one; it is never taken for the end of a file, or for its damage."""

import errno
import io
import os
import platform
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import soundfile
from media import make_video

from avset.compute.run import GIVE_UP_AFTER, Job, compute
from avset.errors import AvsetError, ClipError
from avset.media.container import probe
from avset.media.recordings import read_audio
from avset.params import Runtime
from avset.storage import reading
from avset.storage.cache import ItemCache
from avset.storage.items import Item


class Bad(io.FileIO):
    """A file on a bad disk: `left` opens or reads (-1: all) fail once so many bytes were read."""

    error, opening, after, left = errno.EIO, False, 0, 0

    def __init__(self, *told: Any):
        self.fail(self.opening)
        super().__init__(*told)

    def readinto(self, buffer: Any) -> int | None:
        self.fail(not self.opening and self.tell() + len(buffer) > self.after)
        return super().readinto(buffer)

    @classmethod
    def fail(cls, here: bool) -> None:
        if here and cls.left:
            cls.left -= 1
            raise OSError(cls.error, os.strerror(cls.error), "a")


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> type[Bad]:
    monkeypatch.setattr(reading, "WAITS", (0.0,) * 3)
    monkeypatch.setattr(reading.io, "FileIO", Bad)
    for name in ("error", "opening", "after", "left"):
        monkeypatch.setattr(Bad, name, getattr(Bad, name))
    return Bad


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ETIMEDOUT", "EMFILE", "ENFILE", "ENOMEM"])
@pytest.mark.parametrize("place", ["open", 0, 40000])
def test_an_error_of_the_system_is_told_as_one_or_passes(bad: type[Bad], tmp_path: Path, name: str, place: Any):
    file, sound = make_video(tmp_path / "a.mkv", 2.0, acodec="flac"), tmp_path / "a.wav"
    soundfile.write(sound, np.sin(np.arange(40000)) / 2, 22050)
    usual, heard = probe(file), read_audio(sound)[0]
    bad.error, bad.opening, bad.after = getattr(errno, name), place == "open", 0 if place == "open" else place
    bad.left = 3
    assert probe(file) == usual and bad.left == 0
    bad.left = 3
    assert np.array_equal(read_audio(sound)[0], heard) and bad.left == 0
    bad.left = -1
    with pytest.raises(ClipError, match=f"system: 'a.mkv': {os.strerror(bad.error)}"):
        probe(file)
    bad.left = -1
    with pytest.raises(AvsetError, match="disk is to blame, and not the file; run again"):
        read_audio(sound)


def test_a_file_that_is_replaced_is_not_read_on(bad: type[Bad], tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"1" * 1000)
    file = reading.PatientFile(path)
    assert file.read(10) == b"1" * 10
    path.write_bytes(b"2" * 1001)
    bad.left = 1
    assert file.read(10) == b""
    with pytest.raises(ClipError, match="system: 'a': it was replaced"):
        file.check()


def test_who_may_not_read_is_told_so(bad: type[Bad], tmp_path: Path):
    (tmp_path / "a").write_bytes(b"1")
    bad.error, bad.opening, bad.left = errno.EACCES, True, -1
    with pytest.raises(AvsetError, match="see its permissions"):
        reading.PatientFile(tmp_path / "a")
    with pytest.raises(ClipError, match="missing"):
        reading.PatientFile(tmp_path / "b")


def unreadable(jobs: list[Job]) -> list[Item]:
    error = {"b": MemoryError(), "c": FileNotFoundError(errno.ENOENT, "bug")}.get(jobs[0].clip_id[0])
    raise error or OSError(errno.ESTALE, "Stale file handle", "a.mp4")


def test_what_the_machine_cannot_read_is_not_remembered_and_ends_the_stage_after_a_row():
    runtime = Runtime.model_construct(executor="processes", workers=1, time_limit=0.0)
    jobs = [Job(name, f"{number:064x}") for number, name in enumerate("abc")]
    found = compute("frames", jobs, lambda: unreadable, runtime)
    assert {clip: item.reason for clip, item in found.items()} == {"a": "system", "b": "system", "c": "error"}
    assert not any(job.key in ItemCache() for job in jobs)
    row = [Job(f"a{number}", f"{number:064x}") for number in range(GIVE_UP_AFTER + 5)]
    with pytest.raises(AvsetError, match=f"could not read the last {GIVE_UP_AFTER} clips .*Stale.* run again"):
        compute("frames", row, lambda: unreadable, runtime)


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="a shim in front of the C library needs LD_PRELOAD")
def test_no_error_of_the_c_library_gives_another_result():
    try:
        told = faults.run(every=False)
    except RuntimeError as e:
        pytest.skip(str(e))
    assert told["wrong"] == [] and all("the system" in counts for counts in told["readers"].values())

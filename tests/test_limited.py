"""Media of strangers are read in another process, which has limits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile import ALLOWED, SIDE, absent, die, lying, padded, peak, pid, speak
from media import RATE, SILENCE, make_video
from test_clips import ACCESS
from test_run import INLINE, relatives, until
from toy import ROOT

from avset.compute.limited import Limits
from avset.compute.run import compute
from avset.errors import AvsetError, ClipError
from avset.inference import files
from avset.media.container import probe
from avset.media.fingerprint import fingerprint
from avset.media.frames import decode_frames
from avset.media.recordings import read_blocks, read_long_blocks
from avset.media.waveforms import decode_audio
from avset.sources import clips, folder
from avset.storage.cache import ItemCache

AMPLE = Limits(600.0, 2.0)
SHORT = Limits(0.3, 2.0)
LITTLE = Limits(600.0, 0.2)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
ENDLESS = [(".mkv", {}), (".ts", {}), (".flv", {"vcodec": "flv", "acodec": "libmp3lame"})]


def reason(limits: Limits, *call: object) -> str:
    with pytest.raises(ClipError) as caught:
        limits(*call)
    return caught.value.reason


def test_what_is_read_is_the_same_in_another_process(tmp_path: Path):
    video, times = make_video(tmp_path / "a.mkv", 1.0), np.array([0.0, 0.5])
    assert AMPLE(probe, video) == probe(video)
    ours, theirs = AMPLE(decode_frames, video, times, 64), decode_frames(video, times, 64)
    assert ours.tobytes() == theirs.tobytes() and ours.shape == theirs.shape and ours.flags.writeable
    direct = decode_audio(video, 0.1, 0.8, RATE, SILENCE)
    assert decode_audio(video, 0.1, 0.8, RATE, SILENCE, AMPLE).tobytes() == direct.tobytes()
    ours, theirs = AMPLE(fingerprint, video, 1.0), fingerprint(video, 1.0)
    assert np.array_equal(ours.sound, theirs.sound) and np.array_equal(ours.pictures, theirs.pictures)
    ours, theirs = ([block for block, _ in read] for read in (AMPLE.each(read_long_blocks, video), read_blocks(video)))
    assert np.concatenate(ours, 1).tobytes() == np.concatenate(theirs, 1).tobytes()


def test_a_process_serves_many_calls_wherever_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = AMPLE(pid)
    monkeypatch.chdir(tmp_path)
    assert AMPLE(os.getcwd) == str(tmp_path) and AMPLE(speak) == "heard"
    with pytest.raises(FileNotFoundError, match="'x'"):
        AMPLE(absent, "x")
    assert reason(AMPLE, probe, tmp_path / "none.mp4") == "missing"
    assert AMPLE(pid) == first != os.getpid()
    assert reason(AMPLE, die) == "worker_died"
    assert AMPLE(pid) != first


@pytest.mark.parametrize(("suffix", "how"), ENDLESS)
def test_a_file_without_end_is_ended_from_outside(tmp_path: Path, suffix: str, how: dict):
    assert reason(SHORT, probe, padded(tmp_path / f"a{suffix}", **how)) == "timeout"


def test_a_users_file_without_end_is_refused_in_one_sentence(tmp_path: Path):
    video = padded(tmp_path / "a.mkv")
    with pytest.raises(AvsetError, match=r"cannot read sound from .*timeout"):
        list(files.limited_blocks(video, SHORT))
    with pytest.raises(AvsetError, match=r"cannot take a picture from .*timeout"):
        files.read_frame(video, limits=SHORT)


@LINUX
@pytest.mark.parametrize("suffix", [".mov", ".avi", ".nut"])
@pytest.mark.parametrize("tracks", [1, 4])
def test_a_picture_larger_than_allowed_is_not_decoded(tmp_path: Path, suffix: str, tracks: int):
    video = lying(tmp_path / f"a{suffix}", tracks, SIDE)
    before = AMPLE(peak)
    assert reason(AMPLE, probe, video) == reason(AMPLE, decode_frames, video, np.zeros(1), 64) == "corrupt"
    assert AMPLE(peak) < before + 100, "250 megapixels were decoded"


@LINUX
def test_a_clip_that_needs_too_much_memory_is_a_row_and_the_rest_goes_on(tmp_path: Path):
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "good.mp4", 1.0)
    lying(tmp_path / "videos" / "large.mov", 1, SIDE)
    lying(tmp_path / "videos" / "heavy.mov", 1, ALLOWED)
    (tmp_path / "videos" / "honest.mov").unlink()
    options = folder.Options(path=str(tmp_path / "videos"))
    jobs = clips.jobs_of(folder.listing(options).entries, options, "code", "")

    mapper = clips.Fetch("folder", {"path": options.path}, ACCESS, LITTLE)
    forgotten = compute("clips", jobs, lambda: mapper, INLINE)
    kept = {job.clip_id: item[0].reason for job in jobs if (item := ItemCache().get(job.key))}
    assert kept == {"good": "", "large": "corrupt"}
    assert forgotten["heavy"].reason == "too_large", "with another limit it may be read: that is not remembered"
    assert LITTLE(peak) < 200


COMMAND = """
import sys
from pathlib import Path
from avset.compute.limited import Limits
from hostile import stay
Limits(600.0, 2.0)(stay, Path(sys.argv[1]))
"""


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path, private_cache: Path):
    path = os.pathsep.join(str(ROOT / name) for name in ("pipeline", "tests"))
    running = [
        subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path)], stderr=subprocess.DEVNULL,
                         env={**os.environ, "PYTHONPATH": path})
        for _ in range(3)
    ]  # fmt: skip
    others = until(lambda: len(found := {int(one.name) for one in tmp_path.iterdir()}) == 3 and found)
    cache = str(private_cache)
    assert others == relatives(cache) - {one.pid for one in running}
    for one, number in zip(running, (signal.SIGKILL, signal.SIGTERM, signal.SIGINT), strict=True):
        one.send_signal(number)
        assert one.wait(300) != 0
    until(lambda: not relatives(cache))

"""Real yt-dlp, real HTTP, a server on this machine; extractors that fail are a plugin of yt-dlp (yt_dlp_plugins)."""

import errno
import gc
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from media import make_video, read_number
from server import Fault, Server
from test_excerpt import DASH, onset_of
from toy import ROOT
from yt_dlp.utils import ExtractorError

from avset.compute.run import deadline
from avset.errors import TRANSIENT, AvsetError, ClipError
from avset.media.frames import decode_frames
from avset.params import load
from avset.sources import Entry
from avset.sources.download import _wait_for_turn, fetch, settle
from avset.sources.download.outcomes import DETAIL_LENGTH, scrub, understand

LENGTH, ONSET = 12.0, 5.0  # s, of the small videos
ACCESS = load(ROOT / "params.yaml").runtime.download.model_copy(
    update={"pace": 0.0, "retries": 2, "timeout": 2.0, "proxy": ""}
)
PART = ((4.0, 6.0),)
SCRIPT = """
import sys
from pathlib import Path
from test_download import download
download(sys.argv[1], Path(sys.argv[2]), ())
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the videos that the tests serve."""
    folder = tmp_path_factory.mktemp("videos")
    common = {"duration": LENGTH, "fps": 10, "gop": 10, "onset": ONSET, "size": (96, 96), "sample_rate": 44100}
    make_video(folder / "a.mp4", **common)
    make_video(folder / "a.webm", **{**common, "sample_rate": 48000}, vcodec="libvpx-vp9", acodec="libopus")
    make_video(folder / "v.mp4", **common, audio=False, options=DASH)
    make_video(folder / "s.m4a", **common, video=False)
    pieces = {"hls_time": "2", "hls_list_size": "0", "hls_segment_filename": str(folder / "seg%d.ts")}
    make_video(folder / "a.m3u8", **common, container="hls", options=pieces)
    gc.collect()
    gc.freeze()  # so that looking for leaks after each test is quick
    make_video(folder / "long.mov", duration=120.0, fps=2, gop=4, onset=30.0, sample_rate=48000, acodec="pcm_s16le")
    return folder


@pytest.fixture
def server(videos: Path) -> Iterator[Server]:
    with Server() as running:
        for path in videos.iterdir():
            running.put(f"/{path.name}", path)
        yield running
        gc.collect()  # a leak is a warning, and so an error


def download(address: str, target: Path, parts: tuple = PART, **access: object) -> float:
    """Second of the video at which `target` starts."""
    entry = Entry("a", "train", (), address, parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    return fetch(entry, SimpleNamespace(height=360), target, ACCESS.model_copy(update=access)).start


def refusal(address: str, folder: Path, **access: object) -> ClipError:
    """Why an address cannot be downloaded; the text must be fit for an index."""
    with pytest.raises(ClipError) as told:
        download(address, folder / "x.mkv", **access)
    detail = told.value.detail
    assert len(detail) <= DETAIL_LENGTH
    assert "\n" not in detail
    assert str(folder) not in detail
    return told.value


def check(target: Path, start: float, low: float, high: float) -> None:
    """Pictures and sound of the video from `low` to `high` are at their time in the target."""
    numbers = [math.floor(t * 10) for t in np.linspace(low, high, 9)]
    shown = decode_frames(target, np.array(numbers) / 10 + 0.05 - start, 96)
    assert [read_number(picture) for picture in shown] == numbers
    assert onset_of(target, 4.5 - start, 5.5 - start) + start == pytest.approx(ONSET, abs=2e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "pair"])
@pytest.mark.parametrize("parts", [PART, ((0.3, 1.0), (4.0, 7.6)), ()], ids=["piece", "hull", "whole"])
def test_a_video_is_where_it_should_be(name: str, parts: tuple, server: Server, tmp_path: Path):
    address = f"fake:pair:{server.url}" if name == "pair" else f"{server.url}/{name}"
    start = download(address, tmp_path / "x.mkv", parts)
    check(tmp_path / "x.mkv", start, parts[0][0] if parts else 0.0, parts[-1][1] if parts else LENGTH - 0.15)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["{}/a.m3u8", "fake:segments:{}"])
def test_a_video_in_segments_is_put_together(address: str, server: Server, tmp_path: Path):
    start = download(address.format(server.url), tmp_path / "x.mkv")
    shown = decode_frames(tmp_path / "x.mkv", np.array([4.55 - start, 5.95 - start]), 96)
    assert [read_number(picture) for picture in shown] == [45, 59]
    assert sorted(r.path for r in server.log if "seg" in r.path) == [f"/seg{i}.ts" for i in range(6)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # yt-dlp's
@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("", Fault(status=403, times=1)),
        ("", Fault(reset=100, times=1)),
        ("network", Fault(reset=100)),
        ("network", Fault(html=True)),
        ("rate_limited", Fault(status=429)),
    ],
    ids=repr,
)
def test_faults_of_one_segment(reason: str, fault: Fault, server: Server, tmp_path: Path):
    server.put("/seg3.ts", server.files["/seg3.ts"], fault)
    if reason:
        assert refusal(f"fake:segments:{server.url}", tmp_path, retries=1).reason == reason
        server.put("/seg3.ts", server.files["/seg3.ts"])
    download(f"fake:segments:{server.url}", tmp_path / "x.mkv")
    assert len([r for r in server.log if "seg1" in r.path]) == 1
    download(f"fake:segments:{server.url}", tmp_path / "y.mkv")
    assert (tmp_path / "x.mkv").read_bytes() == (tmp_path / "y.mkv").read_bytes()


def test_of_a_long_video_little_more_than_the_piece_is_read(server: Server, tmp_path: Path):
    start = download(f"{server.url}/long.mov", tmp_path / "x.mkv", ((29.0, 31.0),))
    assert onset_of(tmp_path / "x.mkv", 29.5 - start, 30.5 - start) + start == pytest.approx(30.0, abs=2e-3)
    read = server.ranges("/long.mov")
    assert sum(end - begin for begin, end in read) < 0.3 * len(server.files["/long.mov"])
    assert all(a[1] <= b[0] or b[1] <= a[0] for a in read for b in read if a is not b), "read twice"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (Fault(reset=20_000, plain=False), PART),
        (Fault(reset=20_000, plain=False), ()),
        (Fault(reset=0, plain=False, times=1), PART),
        (Fault(status=403, times=1), PART),
        (Fault(status=403, plain=False, times=1), PART),
        (Fault(status=403, plain=False, times=1), ()),
        (Fault(status=500, plain=False, times=1), PART),
        (Fault(slow=0.02), PART),
        (Fault(longer=100, plain=False), PART),
        (Fault(longer=-100, plain=False, times=1), ()),
        (Fault(deaf=True), PART),
        (Fault(deaf=True), ()),
        (Fault(location="/a.webm", times=1), PART),
    ],
    ids=repr,
)
def test_faults_that_are_overcome(fault: Fault, parts: tuple, server: Server, tmp_path: Path):
    address = server.put("/f.mp4", server.files["/a.mp4"], fault)
    check(tmp_path / "x.mkv", download(address, tmp_path / "x.mkv", parts), 4.0, 6.0)


@pytest.mark.parametrize(
    ("reason", "fault", "asked"),
    [
        ("unavailable", Fault(status=404), 1),
        ("unavailable", Fault(status=410, plain=False), 3),
        ("unavailable", Fault(status=401), 1),
        ("region", Fault(status=451), 1),
        ("rate_limited", Fault(status=429), 1),
        ("rate_limited", Fault(status=429, plain=False), 1),
        ("rate_limited", Fault(status=403), 3),
        ("rate_limited", Fault(status=403, plain=False), 3),
        ("network", Fault(status=503, plain=False), 3),
        ("network", Fault(reset=0, plain=False), 3),
        ("network", Fault(slow=1.0, plain=False), 3),
        ("network", Fault(longer=-100, plain=False), 3),
        ("unavailable", Fault(html=True), 1),
        ("unavailable", Fault(html=True, plain=False), 1),
    ],
    ids=repr,
)
def test_faults_that_are_told(reason: str, fault: Fault, asked: int, server: Server, tmp_path: Path):
    """`asked`: fresh extractions, each of which is a request for all of the file."""
    address = server.put("/f.mp4", server.files["/a.mp4"], fault)
    assert refusal(f"{address}?token=secret", tmp_path, timeout=0.5 if fault.slow else 5.0).reason == reason
    server.__exit__()
    assert sum(r.start is None for r in server.log) == asked


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("removed", "removed terminated copyright"),
        ("private", "private members level paid"),
        ("unavailable", "device code latest signin app gone login drm radio silent list"),
        ("age", "age"),
        ("bot_check", "bot captcha blocked"),
        ("rate_limited", "limit"),
        ("region", "country geo"),
        ("live", "upcoming premiere processing notlive islive"),
        ("network", "player reset half proxy"),
        ("error", "bug crash nothing images rtmp"),
    ],
)
def test_what_sites_say(reason: str, what: str, tmp_path: Path, capfd: pytest.CaptureFixture):
    for name in what.split():
        told = refusal(f"fake:{name}:http://127.0.0.1:9", tmp_path, retries=0)
        assert told.reason == reason, (name, told)
        assert not [word for word in ("Use --", "http://me", "secret", "/home/", "?z") if word in told.detail]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("removed", "This video is no longer available because the uploader has closed their YouTube account."),
        ("removed", "Video unavailable. This video is no longer available due to a copyright claim by a label"),
        ("removed", "This video has been removed for violating YouTube's policy on hate speech."),
        ("removed", "Sorry, this video was deleted"),
        ("removed", "This video does not exist."),
        ("private", "This is a private video. Please sign in to verify that you may see it."),
        ("region", "This video contains content of a label, who has blocked it in your country on copyright grounds"),
        ("rate_limited", "This content isn't available, try again later. This session has been rate-limited"),
        *(("unavailable", words) for words in (
            "Video unavailable",
            "Video unavailable. This content isn't available.",
            "Video unavailable. Playback on other websites has been disabled by the video owner",
            "This video contains content of a label, who has blocked it from display on this website or application",
            "This browser version is no longer supported. Update it to watch private videos",
            "Login with OAuth is no longer supported.",
            "Your account has been terminated.",
            "The client that you use was removed and is not found",
            "What a site will say next year",
        )),
    ],
)  # fmt: skip
def test_only_sure_words_about_the_video_itself_are_its_fate(reason: str, words: str):
    told, again = understand(ExtractorError(words, expected=True))
    assert (told.reason, again) == (reason, False)
    assert (told.reason in TRANSIENT) == (reason not in ("removed", "private"))


@pytest.mark.parametrize(
    ("what", "height", "path"),
    [("sizes", 360, "/240.mp4"), ("sizes", 720, "/720.mp4"), ("sizes", 100, "/144.mp4"), ("upright", 360, "/360.mp4")],
)
def test_the_largest_format_not_above_the_height_or_the_smallest(what, height, path, server: Server, tmp_path: Path):
    for name in (144, 240, 360, 480, 720):
        server.put(f"/{name}.mp4", server.files["/a.mp4"])
    fetch(
        Entry("a", "train", (), f"fake:{what}:{server.url}", PART),
        SimpleNamespace(height=height),
        tmp_path / "x.mkv",
        ACCESS,
    )
    assert {r.path for r in server.log} == {path}


def test_a_start_after_the_end_is_too_short(server: Server, tmp_path: Path):
    for address in (f"fake:pair:{server.url}", f"{server.url}/a.mp4"):
        with pytest.raises(ClipError, match="too_short"):
            download(address, tmp_path / "x.mkv", ((20.0, 30.0),))


@pytest.mark.parametrize(
    "address", ["http://[", "nothing", "-x", "file:///etc/passwd", "", "a\nb", "http:/\\../..", "x" * 10_000]
)
def test_hostile_addresses_are_refused_and_nothing_escapes(address: str, tmp_path: Path, private_cache: Path):
    assert refusal(address, tmp_path, retries=0).reason in ("invalid", "network", "error", "unavailable")
    assert {path.name for path in tmp_path.iterdir()} <= {"x.mkv"}
    assert {path.name for path in private_cache.iterdir()} <= {"pace", "partial", "yt-dlp"}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # yt-dlp's
def test_a_playlist_of_local_files_is_not_followed(videos: Path, server: Server, tmp_path: Path):
    for name in ("p.mp4", "p.m3u8"):
        server.put(f"/{name}", (videos / "a.m3u8").read_bytes().replace(b"seg", f"file://{videos}/seg".encode()))
        assert refusal(f"{server.url}/{name}", tmp_path, retries=0).reason in ("invalid", "error", "corrupt")


def test_cookies_are_sent_and_never_written(server: Server, tmp_path: Path):
    jar = tmp_path / "cookies.txt"
    jar.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tverysecret\n")
    before = jar.stat()
    jar.chmod(0o400)
    download(f"{server.url}/a.mp4", tmp_path / "x.mkv", cookies=str(jar))
    assert {r.headers.get("Cookie") for r in server.log} == {"session=verysecret"}
    assert (jar.stat().st_mtime_ns, jar.stat().st_size) == (before.st_mtime_ns, before.st_size)
    assert b"verysecret" not in (tmp_path / "x.mkv").read_bytes()


@pytest.mark.parametrize("access", [{"cookies": "/nowhere/c.txt"}, {"cookies_from_browser": "lynx"}])
def test_cookies_that_cannot_be_read_are_the_users_to_mend(access: dict, tmp_path: Path):
    with pytest.raises(AvsetError, match=r"runtime\.download\.cookies") as told:
        download("fake:removed", tmp_path / "x.mkv", **access)
    assert "nowhere" not in str(told.value)
    (tmp_path / "c.txt").write_text("verysecret")
    with pytest.raises(AvsetError, match="cannot read the cookies") as told:
        download("fake:removed", tmp_path / "x.mkv", cookies=str(tmp_path / "c.txt"))
    assert "verysecret" not in str(told.value)


def test_a_dead_proxy_is_a_network_failure_without_its_password(server: Server, tmp_path: Path):
    told = refusal(f"{server.url}/a.mp4", tmp_path, retries=0, proxy="http://me:verysecret@127.0.0.1:9")
    assert told.reason == "network"
    assert "verysecret" not in told.detail


def test_without_yt_dlp_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(AvsetError, match=r"pip install 'avset\[youtube\]'"):
        download("fake:removed", tmp_path / "x.mkv")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("ERROR: a\n b", "a b"),
        ("at https://me:pw@x.org/a?key=1&b=2 now", "at https://x.org/a now"),
        ("cannot open /home/me/cookies.txt: no", "cannot open ...: no"),
        ("gone. Use --cookies for it. See  https://x.org", "gone"),
        ("via tok-en-word twice tok-en-word", "via ... twice ..."),
        ("either/or, 1/2 s", "either/or, 1/2 s"),
        ("x" * 400, "x" * (DETAIL_LENGTH - 3) + "..."),
    ],
)
def test_details_are_clean(text: str, clean: str):
    assert scrub(text, ("tok-en-word",)) == clean


def test_downloads_from_one_host_start_at_a_pace():
    began: list[float] = []

    def start(address: str) -> None:
        _wait_for_turn(address, 0.2)
        began.append(time.monotonic())

    threads = [threading.Thread(target=start, args=(f"https://a.org/{i}",)) for i in range(4)]
    since = time.monotonic()
    for thread in threads:
        thread.start()
    _wait_for_turn("https://b.org/", 999.0)  # another host does not wait for this one
    for thread in threads:
        thread.join()
    assert max(began) - since > 0.59, "the fourth waits for three others"


@pytest.mark.slow
def test_nothing_stays_open(server: Server, tmp_path: Path):
    broken = server.put("/f.mp4", b"x", Fault(status=500, plain=False))
    threads, files = threading.active_count(), []
    for _ in range(2):
        for address, parts in ((f"{server.url}/a.mp4", PART), (f"fake:pair:{server.url}", ()), (broken, PART)):
            with suppress(ClipError):
                download(address, tmp_path / "x.mkv", parts, retries=0)
        until = time.monotonic() + 30
        while threading.active_count() > threads and time.monotonic() < until:
            time.sleep(0.01)
        assert threading.active_count() == threads  # the server has one for each open connection
        files.append(len(list(Path("/proc/self/fd").iterdir())))
    assert files[0] == files[1]


@pytest.mark.parametrize("parts", [PART, ()], ids=["piece", "whole"])
def test_the_time_limit_of_a_clip_interrupts(
    parts: tuple, server: Server, tmp_path: Path, capfd: pytest.CaptureFixture
):
    address = server.put("/f.mp4", server.files["/a.mp4"], Fault(slow=0.2, plain=False))
    with pytest.raises(ClipError, match="timeout"), deadline(0.4):
        download(address, tmp_path / "x.mkv", parts)
    assert capfd.readouterr() == ("", "")


def test_waits_grow_and_depend_on_the_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    clock = SimpleNamespace(time=time.time, sleep=waits.append)
    monkeypatch.setattr("avset.sources.download.time", clock)
    refusal("fake:reset", tmp_path, pace=10.0, retries=4)
    backs_off, turns = waits[0::2], waits[1::2]  # the first turn comes at once
    assert len(backs_off) == 4
    assert all(5 * 2**i <= wait <= 15 * 2**i for i, wait in enumerate(backs_off))
    assert all(0 <= wait <= 10 for wait in turns)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_no_fault_of_the_video(number: int):
    with pytest.raises(AvsetError, match="AVSET_CACHE") as told:
        understand(OSError(number, "no"))
    assert not isinstance(told.value, ClipError)
    with pytest.raises(AvsetError, match="memory"):
        understand(AvsetError("no memory"))


def test_what_was_fetched_survives_a_failure_until_it_is_settled(server: Server, tmp_path: Path, private_cache: Path):
    address = server.put("/f.mp4", server.files["/a.mp4"], Fault(reset=30_000, plain=False, times=2))
    server.faults["/f.mp4"].append(Fault(status=500, plain=False))
    size = len(server.files["/f.mp4"])
    with pytest.raises(ClipError, match="network"):
        download(address, tmp_path / "x.mkv", (), retries=0)
    (part,) = kept(private_cache)
    have = part.stat().st_size
    assert 0 < have < size
    assert part.read_bytes() == server.files["/f.mp4"][:have]
    server.faults["/f.mp4"], server.log[:] = [], []
    for name in "xy":  # the second time the first result was lost
        download(address, tmp_path / f"{name}.mkv", ())
    assert server.ranges("/f.mp4") == [(0, 1), (have, size), (0, 1)]
    assert (tmp_path / "x.mkv").read_bytes() == (tmp_path / "y.mkv").read_bytes()
    settle(Entry("a", "train", (), address), SimpleNamespace(height=360))
    assert not kept(private_cache)
    server.put("/f.mp4", b"another file" * 1000)
    with pytest.raises(ClipError, match="corrupt"):
        download(address, tmp_path / "x.mkv", ())
    assert not kept(private_cache)


def kept(cache: Path) -> list[Path]:
    """The files of downloads that are not settled."""
    return [path for path in (cache / "partial").glob("*/*") if path.is_file()]


def test_nothing_of_another_version_is_mixed_in(server: Server, tmp_path: Path, private_cache: Path):
    address = server.put("/f.mp4", server.files["/a.mp4"], Fault(reset=30_000, plain=False, times=2))
    server.faults["/f.mp4"].append(Fault(status=500, plain=False))
    with pytest.raises(ClipError, match="network"):
        download(address, tmp_path / "x.mkv", (), retries=0)
    server.put("/f.mp4", server.files["/a.webm"])
    check(tmp_path / "x.mkv", download(address, tmp_path / "x.mkv", ()), 0.0, 6.0)


def run(address: str, target: Path, cache: Path) -> subprocess.Popen:
    """A process that downloads all of an address."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent / "pipeline")])
    environment = {**os.environ, "PYTHONPATH": paths, "AVSET_CACHE": str(cache)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, address, str(target)], env=environment)


def fetched_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in kept(cache))


@pytest.mark.slow
@pytest.mark.parametrize("address", ["{}/f.mov", "fake:segments:{}", "fake:pair:{}"])
def test_random_kills_lose_nothing_and_fetch_nothing_twice(address: str, server: Server, tmp_path: Path):
    draw, cache = random.Random(address), tmp_path / "cache"
    server.put("/f.mov", server.files["/long.mov"], Fault(slow=0.01, plain=False))
    for path in ("/v.mp4", "/s.m4a", *(f"/seg{i}.ts" for i in range(6))):
        server.faults[path] = [Fault(slow=0.2)]
    address = address.format(server.url)
    for kills in range(5):
        process = run(address, tmp_path / "x.mkv", cache)
        have = fetched_bytes(cache)
        while process.poll() is None and fetched_bytes(cache) <= have:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.6))
        if process.poll() is not None or kills == 4:
            break
        process.kill()
        process.wait()
    assert process.wait() == 0
    assert kills > 1
    for path in ("/f.mov", "/v.mp4", "/s.m4a"):
        begins = [begin for begin, end in server.ranges(path) if end > 1]
        assert begins == sorted(begins), path
    assert len([r for r in server.log if "seg" in r.path]) <= 6 + kills
    server.faults.clear()
    download(address, tmp_path / "y.mkv", ())
    assert (tmp_path / "x.mkv").read_bytes() == (tmp_path / "y.mkv").read_bytes()

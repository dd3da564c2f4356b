"""What is shown while clips are computed."""

from collections import Counter

import pytest

from avset.compute import progress
from avset.compute.progress import Progress


def test_progress_tells_rate_and_time_left_of_the_last_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress("toy", 10_000, Counter({"": 998, "silent": 2}))
    for i in range(1, 101):  # 2 clips a second, then 5
        now += 6
        shown.add([("c", "", "")] * (12 if i < 50 else 30), workers=3)
    last = capsys.readouterr().err.splitlines()[-1]
    failed = "failed: 2 silent (2 of them before)"
    assert last == f"toy: 3118/10000 clips (1000 cached), {failed}; 5.0 clips/s by 3 workers, 23 min left"
    assert [progress.duration(s) for s in (5.4, 119.0, 121.0, 7100.0, 7300.0)] == [
        "5 s",
        "119 s",
        "2 min",
        "118 min",
        "2.0 h",
    ]

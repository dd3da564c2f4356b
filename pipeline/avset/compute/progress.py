"""Lines on stderr that tell how far a stage is."""

import sys
import time
from collections import Counter, deque

from avset.compute.worker import Receipts


class Progress:
    """Lines on stderr, at most one in `every` seconds: done, failed, rate of the last minute, time left.

    `before` counts the clips that were done before, by reason; "" for those that did not fail.
    """

    every, marks = 5.0, 12

    def __init__(self, stage: str, total: int, before: Counter[str]):
        self.stage, self.total, self.cached, self.done = stage, total, before.total(), 0
        self.before = self.cached - before[""]
        self.reasons = Counter({reason: n for reason, n in before.items() if reason})
        self.start = time.monotonic()
        self.past: deque[tuple[float, int]] = deque(maxlen=self.marks)  # when, and how many were done

    def add(self, receipts: Receipts, workers: int = 1) -> None:
        """Count receipts; write a line if the last one is old enough."""
        self.done += len(receipts)
        self.reasons.update(reason for _, reason, _ in receipts if reason)
        if not self.past and self.done:  # the time in which the workers start does not count
            self.past.append((time.monotonic(), self.done))
        elif self.past and (now := time.monotonic()) - self.past[-1][0] > self.every:
            then, before = self.past[0]
            self.past.append((now, self.done))
            rate = max(self.done - before, 1) / (now - then)
            left = duration((self.total - self.cached - self.done) / rate)
            self.say(f"{rate:.1f} clips/s by {workers} worker{'s' * (workers != 1)}, {left} left")

    def end(self) -> None:
        """The last line."""
        self.say(f"{time.monotonic() - self.start:.1f} s")

    def say(self, text: str) -> None:
        """One line of progress."""
        failed = ", ".join(f"{n} {reason}" for reason, n in sorted(self.reasons.items())) or "none"
        failed += f" ({self.before} of them before)" if self.before else ""
        counts = f"{self.cached + self.done}/{self.total} clips ({self.cached} cached), failed: {failed}"
        print(f"{self.stage}: {counts}; {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time in the unit that suits it: s, min or h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{int(unit == 'h')}f} {unit}"
    return f"{seconds:.0f} s"

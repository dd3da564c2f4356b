"""A real Chromium without a window, driven by its own protocol through a pipe: no driver, no other package."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
           "--no-first-run", "--disable-background-networking", "--disable-component-update")  # fmt: skip
LATE = 120.0  # s
AS_3_AND_4 = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3]]
for pipe, number in zip(pipes, (3, 4)):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""  # where Chromium looks for its pipes

TAP = """
const connect = AudioNode.prototype.connect, taps = [];
AudioNode.prototype.connect = function (to, ...more) {
  if (to instanceof AudioDestinationNode) taps.push(connect.call(this, this.context.createAnalyser()));
  return connect.call(this, to, ...more);
};
window.loudest = () => taps.map((tap) => {
  const samples = new Float32Array(tap.fftSize);
  tap.getFloatTimeDomainData(samples);
  return Math.max(...samples.map(Math.abs));
});
"""  # what is heard, by an ear of our own at each way to the loudspeaker


class Tab:
    """One page."""

    def __init__(self, process: subprocess.Popen, to: int, come: int):
        self._process, self._to, self._come = process, to, come
        self._rest, self._number, self.session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """Have a command of the protocol done."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._come, 2**16)
            assert piece, "Chromium is gone"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def do(self, script: str) -> Any:
        """The value of an expression on the page; a click in it is a user's."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """The value of an expression when it is true; an element is none."""
        end = time.monotonic() + LATE
        while not (found := self.do(script)):
            assert time.monotonic() < end, f"{script} is not true"
            time.sleep(0.1)
        return found

    def open(self, address: str, before: str = "") -> None:
        """Go to an address; a script may run before those of the page."""
        if before:
            self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key, and let go."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def screen(self, width: int, height: int = 900, dark: bool = False) -> None:
        """Be a window of so many pixels, with a light or a dark scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A page in a Chromium of its own, which keeps its files in a folder."""
    (read, to), (come, write) = os.pipe(), os.pipe()
    assert PROGRAM
    command = [sys.executable, "-c", AS_3_AND_4, str(read), str(write), PROGRAM, *OPTIONS,
               f"--user-data-dir={profile}", "--remote-debugging-pipe"]  # fmt: skip
    process = subprocess.Popen(
        command, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    os.close(read), os.close(write)
    try:
        try:
            page = Tab(process, to, come)
        except AssertionError:
            pytest.skip("Chromium does not start on this machine")
        yield page
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has children
        process.wait()
        os.close(to), os.close(come)

"""DVC and the stages in a process that has imported them already: to start Python costs more than what they do.

`python tests/warm.py` reads commands of DVC as lines of JSON, does each in a fork of itself, and answers with its exit
status. A stage is a fork too; the demo in .ci/run runs `python -m stages.<stage>` as dvc.yaml says it.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))

import dvc.__main__
import dvc.cli.parser
import dvc.repo
import dvc.stage.run
from dvc.stage.exceptions import StageCmdFailedError

import stages

STAGES = [path.stem for path in (Path(__file__).parents[1] / "stages").glob("[a-z]*.py")]
LONGEST = 600  # s that a command may take; then it ends, and the tests after it go on
LATE = ("avset.features.captions", "avset.report.plots", "open_clip")  # what stages import when they need it


def forked(do: Callable[[], Any]) -> int:
    """Do something in a process of its own; its exit status."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code: Any = 1
    signal.alarm(LONGEST)
    try:
        code = do()
    except SystemExit as e:
        code = e.code
    except BaseException:
        traceback.print_exc()
    leave(code or 0)


def leave(code: int) -> NoReturn:
    """End a fork, without what the process in whose place it is would do at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def settle(folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def command(words: Sequence[str], folder: str, environment: dict[str, str], umask: int, said: str) -> int:
    """DVC in a folder; what it says is in the file `said`."""
    for descriptor, path in enumerate((os.devnull, said, said)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
    settle(folder, environment)
    if umask >= 0:
        os.umask(umask)
    sys.argv = [dvc.__main__.__file__, *words]  # DVC starts others by it
    return dvc.cli.main(words)


def run_stage(_shell: str, cmd: str, *, cwd: str, env: dict[str, str], **_: Any) -> None:
    """In the place of DVC's, which starts a shell."""

    def work() -> None:
        settle(cwd, env)
        name, _, method = env["DVC_STAGE"].partition("@")
        assert cmd == f"python -m stages.{name}"
        sys.argv = [name, *([method] if method else [])]
        stages.command(import_module(f"stages.{name}").main)

    if code := forked(work):
        raise StageCmdFailedError(cmd, code)


def main() -> None:
    for name in (*(f"stages.{stage}" for stage in STAGES), *LATE):
        import_module(name)
    dvc.stage.run._run = run_stage
    for line in sys.stdin:
        print(forked(partial(command, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

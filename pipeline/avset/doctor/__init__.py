"""`avset doctor`: everything that a run needs and that can be known before it, in a few seconds. It changes nothing."""

import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from avset.doctor import machine, project
from avset.doctor.finding import BROKEN, Finding
from avset.params import Params


def examine(path: Path = Path("params.yaml")) -> Iterator[Finding]:
    """The findings of all checks, as they come. If the parameters are wrong, what depends on them is left out."""
    p, told = project.parameters(path)
    yield told
    for name, findings in checks(p).items():
        yield from guarded(name, findings)


def checks(p: Params | None) -> dict[str, Iterable[Finding]]:
    """What there is to check, the quick things first; what needs parameters only if they are right."""
    found: dict[str, Iterable[Finding]] = {
        "packages": machine.packages(),
        "disk": machine.disk(p.runtime.min_free_gb if p else 0.0),
        "file systems": machine.file_systems(),
        "git": project.git(),
        "remote": project.remote(),
    }
    if p:
        found["source"] = project.source(p)
        found["systems"] = project.systems(p)
        found["ray"] = machine.ray(p.runtime)
        found["weights"] = project.weights(p)
        found["devices"] = machine.devices(p.runtime)
    return found


def guarded(name: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings of a check; if the check itself fails, that is one more, and the other checks go on.

    An error that no broken environment explains is a bug of ours: its traceback goes to stderr.
    """
    try:
        yield from findings
    except BROKEN as e:
        yield Finding(name, "fail", " ".join(str(e).split()) or type(e).__name__)
    except Exception as e:
        traceback.print_exc(file=sys.stderr)
        yield Finding(name, "fail", f"the check itself broke ({type(e).__name__}: {e})", "report it")

"""Damaged files of parameters: `python tests/fuzz_params.py --count 20000 --seed 0`.

Every file is read as the stages read it, with the options of its source. It is taken, or refused in a sentence.
"""

import argparse
import copy
import io
import math
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e-300, 1e300, math.nan, math.inf, -math.inf, 2**31, 2**63, -(2**64),
    10**400, "", " ", "-", "nan", "1", "x" * 5000, "a\nb", "\0", "\ud7ff", "../..", "/etc/passwd", "~", "~nobody/x",
    "${dataset}", "$(touch x)", "a;b", "{label}", "{", "{label!r}", "{0}", "http://[", "http://u:p@h/{id}", "avset",
    "os.path", "a..b", ".", "..", [], [[]], [None], [1, 2, 3], [math.nan, 1], ["a", {}], {}, {"": 1}, {"a": {}},
    {1: 2}, {None: None}, {True: 1}, {"kind": "avset"}, [-1, -1], [0.0, math.inf], b"\xff", {"id": "{id}"},
]  # fmt: skip
TEXTS = (
    "&a ", "*a", "!!python/object/apply:os.system [x]", "!!binary aGk=", "!!set {a}", "!!timestamp 2020-01-01", "<<: 1",
    "<<: *a", "? [a, b]\n: c", "---\n", "...\n", "%YAML 9.9\n", "\t", "\0", "\ufeff", "{", "[", "]", "}", '"', "|\n",
    ">", "'", "`", ": ", "- ", "# ", "\x85", "1e999", ".nan", "-.inf", "0x", "0o9", "1:30", "[" * 3000, "{a: " * 200,
    "&b [*b]", "&c {x: *c}", "dataset: x\n", "!<tag:yaml.org,2002:int> x", "2020-13-45", "!!float x", "!!int []",
)  # fmt: skip
BYTES = (b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\0\0")


@dataclass
class Report:
    """What became of the files."""

    files: int = 0
    taken: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)  # tracebacks, and values that no stage can use
    kinds: Counter[str] = field(default_factory=Counter)  # of faults


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with each of its keys."""
    for key, inner in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def damaged(rng: random.Random, tree: dict[str, Any], text: str) -> bytes:
    """A file of parameters after one to three wounds: of its values, or of its text."""
    if rng.random() < 0.3:
        data = bytearray(text.encode())
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data) + 1)
            wound = rng.choice((rng.choice(TEXTS).encode(), rng.choice(BYTES), rng.choice(text.splitlines()).encode()))
            data[at : at + rng.choice((0, 0, 1, 5, 40))] = wound
        return bytes(data)
    tree = copy.deepcopy(tree)
    tree["dataset"], tree["scale"] = rng.choice(sorted(tree["datasets"])), rng.choice(sorted(tree["scales"]))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        node, key = rng.choice(list(places(tree)))
        value = copy.deepcopy(rng.choice(STRANGE))
        match rng.randrange(6):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[value if isinstance(value, str | int | float | bool | None) else repr(value)] = node.pop(key)
            case 2 if isinstance(node[key], int | float) and not isinstance(node[key], bool):
                node[key] = rng.choice((-node[key], node[key] * 1e9, node[key] + 0.5, str(node[key]), [node[key]]))
            case 3:
                for _ in range(rng.choice((2, 30, 90))):
                    value = rng.choice(([value], {"a": value}))
                node[key] = value
            case _:
                node[key] = value
    out = io.StringIO()
    YAML(typ="safe").dump(tree, out)
    return out.getvalue().encode("utf-8", "surrogatepass")


def unusable(p: Any) -> str:
    """A number in the parameters that no stage can use, if there is one: it is infinite, none, or below zero."""

    def look(value: Any, key: str) -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from look(inner, f"{key}.{name}")
        elif isinstance(value, list):
            for inner in value:
                yield from look(inner, key)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            below = value < 0 and not key.endswith((".silence", ".low"))  # of dBFS, and a cosine
            if below or not math.isfinite(value):
                yield f"{key}: {value}"

    return next(look(p.model_dump(mode="json"), ""), "")


def run(count: int, seed: int, keep: Path | None = None) -> Report:
    """Read `count` damaged files; `keep` gets those with a traceback."""
    from avset import params
    from avset.errors import AvsetError

    rng, report, text = random.Random(seed), Report(), (ROOT / "params.yaml").read_text(encoding="utf-8")
    tree = YAML(typ="safe").load(text)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        path = Path(name) / "params.yaml"
        (path.parent / "pipeline").symlink_to(ROOT / "pipeline")
        for number in range(count):
            data = damaged(rng, tree, text)
            path.write_bytes(data)
            report.files += 1
            try:
                p = params.load(path)
                params.check_options(p)
                report.taken += 1
                fault = unusable(p)
            except AvsetError as e:
                report.refused += 1
                fault = "" if str(e).strip() and len(str(e)) < 20_000 else "a message without an end"
            except Exception as e:
                last = traceback.extract_tb(e.__traceback__)[-1]
                fault = f"{type(e).__name__} in {last.name}: {e}"[:300]
            if fault:
                report.faults.append(f"{number}: {fault}")
                report.kinds[fault.split(":")[0]] += 1
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}.yaml").write_bytes(data)
    return report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="directory for the files with a fault")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT)]
    os.chdir(ROOT)
    began = time.monotonic()
    report = run(options.count, options.seed, options.keep)
    print(f"files {report.files}, taken {report.taken}, refused {report.refused}, faults {len(report.faults)}")
    print(f"seconds {time.monotonic() - began:.0f}", *report.faults[:40], dict(report.kinds), sep="\n")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()

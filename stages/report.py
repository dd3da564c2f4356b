"""report: metrics, coverage, pictures, and a page to listen to.

Makes reports/<dataset>/<scale>/: metrics.json, coverage.json, tables and pictures for `dvc plots show` (all small,
in git), and html/index.html (self-contained, in the DVC cache).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avset.compute.build import media_payloads
from avset.compute.limited import Limits
from avset.compute.making import making
from avset.params import folder_of
from avset.report.films import Films
from avset.report.report import WRITTEN, write_report
from avset.report.tables import numbers_as_text
from avset.storage.artifacts import ARTIFACTS, Record
from avset.storage.checksums import RECORD, checked
from avset.storage.files import require
from stages import PARAMS, ParamsFile, begin, command


def main(path: ParamsFile = PARAMS) -> None:
    """Report the methods of the parameters, and no others."""
    p = begin("report", path)
    scores = p.data / "scores"
    for folder in require(scores).iterdir():
        made = (folder / RECORD).exists() and Record.read(folder).artifact == "scores"
        if made and folder.name not in p.methods:  # of an earlier list of methods; DVC's cache has it
            print(f"report: {folder} is not in `methods`, removed")
            shutil.rmtree(folder)
    with making(p.reports) as fresh:
        known = [json.loads(checked(scores / name / "facts.json").read_bytes()) for name in p.methods]
        read = {name for method in p.methods for name in Record.read(p.data / "models" / method).inputs}
        indices = {
            a.name: folder_of(p.data, a.name) / "index.parquet"
            for a in ARTIFACTS.values()
            if a.per_clip and (a.name in read or not a.demanded)
        }
        facts: dict[str, Any] = next((one for one in known if "captions" in one), {})  # equal for all that have them
        facts = {name: facts[name] for name in ("captions", "encoder") if name in facts}
        funnel = Record.read(p.clips_folder).facts["funnel"]
        scores, models, mixtures, sets = (p.data / name for name in ("scores", "models", "mixtures", "sets"))
        further = Record.read(sets).facts
        drawn = Record.read(mixtures).facts.get("drawn", {}) | further["drawn"]
        numbers = write_report(
            p.dataset, scores, models, mixtures, list(p.methods), indices, facts, fresh, funnel, drawn, sets,
            further["empty"], further.get("lists", {}),
            Films(media_payloads(p), Limits(p.runtime.time_limit, p.runtime.memory_limit)),
        )  # fmt: skip
        Record("reports").write(fresh)
        if p.reports.exists():
            shutil.copytree(p.reports, fresh, ignore=made_by_us(p.reports), dirs_exist_ok=True)
    print(numbers_as_text(numbers))
    print(f"\nlisten: {(p.reports / 'html' / 'index.html').absolute()}")


def made_by_us(reports: Path) -> Callable[[str, list[str]], list[str]]:
    """Tells `shutil.copytree` what a former report wrote; the rest is the user's, and stays."""
    return lambda folder, names: [n for n in names if (Path(folder) / n).relative_to(reports).as_posix() in WRITTEN]


if __name__ == "__main__":
    command(main)

"""report: metrics, coverage, pictures, and a page to listen to.

Makes reports/<dataset>/<scale>/: metrics.json, coverage.json, tables and pictures for `dvc plots show` (all small,
in git), and html/index.html (self-contained, in the DVC cache).
"""

import json
import shutil
from typing import Any

from avset.compute.making import only_writer
from avset.params import folder_of
from avset.report.report import write_report
from avset.report.tables import numbers_as_text
from avset.storage.artifacts import ARTIFACTS, Record
from avset.storage.checksums import checked
from avset.storage.files import require
from stages import PARAMS, ParamsFile, begin, command


def main(path: ParamsFile = PARAMS) -> None:
    """Report the methods of the parameters, and no others."""
    p = begin("report", path)
    scores = p.data / "scores"
    for folder in require(scores).iterdir():
        if folder.name not in p.methods:  # of an earlier list of methods; DVC's cache has it
            print(f"report: {folder} is not in `methods`, removed")
            shutil.rmtree(folder)
    with only_writer(p.reports):
        shutil.rmtree(p.reports, ignore_errors=True)
        indices = {a.name: folder_of(p.data, a.name) / "index.parquet" for a in ARTIFACTS.values() if a.per_clip}
        known = [json.loads(checked(scores / name / "facts.json").read_text()) for name in p.methods]
        facts: dict[str, Any] = next(filter(None, known), {})  # the same for all methods that use encoder and captions
        funnel = Record.read(p.clips_folder).facts["funnel"]
        numbers = write_report(
            p.dataset, scores, p.data / "mixtures", list(p.methods), indices, facts, p.reports, funnel
        )
        Record("reports").write(p.reports)
    print(numbers_as_text(numbers))
    print(f"\nlisten: {(p.reports / 'html' / 'index.html').absolute()}")


if __name__ == "__main__":
    command(main)

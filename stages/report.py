"""report: metrics, coverage, pictures, and a page to listen to.

Makes reports/<dataset>/<scale>/: metrics.json, coverage.json, tables and pictures for `dvc plots show` (all small,
in git), and html/index.html (self-contained, in the DVC cache).
"""

import json
import shutil

from avset.compute.making import only_writer
from avset.report import report
from avset.storage.files import require
from stages import PARAMS, ParamsFile, begin, command

STAGES = ("frames", "spectrograms", "regions", "captions")


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
        indices = {"clips": p.clips_folder / "index.parquet"}
        indices |= {stage: p.data / stage / "index.parquet" for stage in STAGES}
        facts = json.loads(require(scores / p.methods[0] / "facts.json").read_text())
        funnel = json.loads(require(p.clips_folder / "store.json").read_text()).get("funnel")
        numbers = report.build(p.dataset, scores, p.data / "mixtures", p.methods, indices, facts, p.reports, funnel)
    print(report.table(numbers))
    print(f"\nlisten: {(p.reports / 'html' / 'index.html').absolute()}")


if __name__ == "__main__":
    command(main)

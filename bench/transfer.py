"""How far one voice's instruments are from another's: trained on some, tested on others, with the demo's pictures.

    python -m bench.transfer --bank-a FluidR3_GM.sf2 --bank-b TimGM6mb.sf2

The same melodies, rooms and microphones sound as our synthesis, as bank A, or as both in turn, from as many clips; each
model is tested on synthesis, on bank A, and on bank B, which no model has heard. All is made by the ordinary stages,
from parameters of its own, in a work folder.
"""

import argparse
import copy
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import chdir, redirect_stdout
from importlib import import_module
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from avset.storage.tables import read_table

ROOT = Path(__file__).parents[1]
DATA = ("clips", "frames", "spectrograms", "encoder", "regions", "captions", "mixtures", "sets")
TRAINED, TESTED = ("synthesis", "bank_a", "both"), ("synthesis", "bank_a", "bank_b")
ORACLE = "template"
Scores = Mapping[tuple[str, str, str], list[float]]  # trained on, tested on, query -> NSDR of each source


def params(tree: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    """The project's parameters with a data set for each voice, and a preset for each that is trained on."""
    tree = copy.deepcopy(tree)
    plain, scale = tree["datasets"]["demo"], tree["scales"]["demo"]
    voices = {"synthesis": ("synthesis", None), "bank_a": ("soundfont", asked.bank_a), "both": ("both", asked.bank_a),
              "bank_b": ("soundfont", asked.bank_b)}  # fmt: skip
    for name, (voice, bank) in voices.items():
        tree["datasets"][name] = copy.deepcopy(plain)
        tree["datasets"][name]["clips"]["options"] |= {
            "voice": voice, "bank": bank and str(Path(bank).absolute()), "duets": 0, "test_duets": 0,
            "train_per_label": asked.clips if name in TRAINED else 1,
            "validation_per_label": 1, "test_per_label": asked.test if name in TESTED else 1,
        }  # fmt: skip
    preset = tree["presets"][asked.preset] | {"level": asked.level}
    tree["presets"] |= {name: copy.deepcopy(preset) for name in TRAINED}
    tree["methods"] = dict.fromkeys(TRAINED, f"pipeline/avset/models/{preset['kind']}.py")
    tree["scale"] = "demo"
    scale["sets"]["further"] = {}
    scale["mixtures"] |= {"validation": asked.mixtures // 3 + 1, "test": asked.mixtures}
    scale["train"] |= {"steps": asked.steps, "validate_every": -(-asked.steps // 2)}
    tree["evaluate"] |= {"controls": False, "phrases": {}}
    return tree


def project(folder: Path) -> None:
    """A folder in which stages run: the code by link."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pipeline", "stages", "dvc.yaml"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)


def run(folder: Path, tree: dict[str, Any], dataset: str, stage: str, **options: str) -> None:
    """One stage on one data set."""
    (folder / "params.yaml").write_text(yaml.safe_dump(tree | {"dataset": dataset}, sort_keys=False))
    with chdir(folder), redirect_stdout(sys.stderr):
        import_module(f"stages.{stage}").main(path=Path("params.yaml"), **options)


def scores(folder: Path, tree: dict[str, Any]) -> Scores:
    """Make the data, train, and test; NSDR in dB."""
    for dataset in dict.fromkeys((*TRAINED, *TESTED)):
        for stage in DATA:
            run(folder, tree, dataset, stage)
    for name in TRAINED:
        run(folder, tree, name, "train", method=name)
    found: dict[tuple[str, str, str], list[float]] = {}
    for tested in TESTED:
        data = folder / "data" / tested / "demo"
        tables = [read_table(data / "mixtures" / "scores.parquet")]
        for name in TRAINED:
            own = folder / "data" / name / "demo" / "models" / name
            if name != tested:
                shutil.copytree(own, data / "models" / name, dirs_exist_ok=True)
            run(folder, tree, tested, "evaluate", method=name)
            tables.append(read_table(data / "scores" / name / "scores.parquet"))
        for row in (row for table in tables for row in table if row["mixture_id"].startswith("test-")):
            found.setdefault((row["method"], tested, row["query"]), []).append(row["nsdr"])
    return found


def table(found: Scores) -> str:
    """Text / video on each voice, with the standard error of a mean over sources; and a bound of each column."""
    lines = ["| trained on | " + " | ".join(f"{name.replace('_', ' ')}: text, video" for name in TESTED) + " |",
             "|---|" + "---|" * len(TESTED)]  # fmt: skip
    for name in TRAINED:
        cells = [", ".join(told(found[name, tested, query]) for query in ("text", "video")) for tested in TESTED]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    bound = [told(found[ORACLE, tested, ""]) for tested in TESTED]
    return "\n".join([*lines, f"| (its own class template) | {' | '.join(bound)} |"])


def told(values: list[float]) -> str:
    """Mean and standard error in dB."""
    return f"{fmean(values):.2f} ± {stdev(values) / len(values) ** 0.5:.2f}"


def main() -> None:
    """The table, on stdout."""
    parser = argparse.ArgumentParser(prog="python -m bench.transfer", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bank-a", required=True, metavar="PATH", help="a sound font to train and to test on")
    parser.add_argument("--bank-b", required=True, metavar="PATH", help="another one, to test on")
    parser.add_argument("--clips", type=int, default=30, help="for training, of each label")
    parser.add_argument("--test", type=int, default=6, help="test clips of each label")
    parser.add_argument("--mixtures", type=int, default=66, help="test mixtures of each voice")
    parser.add_argument("--steps", type=int, default=1200, help="of each training")
    parser.add_argument("--preset", default="avset")
    parser.add_argument("--level", choices=("region", "video"), default="region", help="video is about 8 times cheaper")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where it is made and kept; else a temporary one")
    asked = parser.parse_args()
    tree = params(yaml.safe_load((ROOT / "params.yaml").read_text()), asked)
    with tempfile.TemporaryDirectory(prefix="transfer-") as spare:
        folder = (asked.work or Path(spare)).absolute()
        project(folder)
        print(table(scores(folder, tree)))


if __name__ == "__main__":
    main()

"""The transfer table: its parameters are the project's but for the voices, and its cells are means over sources."""

import argparse
from pathlib import Path

import pytest
import toy
import yaml

from avset import params
from bench import transfer


def asked(**changes: object) -> argparse.Namespace:
    told = {"bank_a": "a.sf2", "bank_b": "b.sf2", "clips": 2, "test": 1, "mixtures": 2, "steps": 6, "preset": "avset",
            "level": "video"}  # fmt: skip
    return argparse.Namespace(**told | changes)


@pytest.mark.parametrize(("name", "voice", "bank", "count"), [
    ("synthesis", "synthesis", None, 2), ("bank_a", "soundfont", "a.sf2", 2), ("both", "both", "a.sf2", 2),
    ("bank_b", "soundfont", "b.sf2", 1),
])  # fmt: skip
def test_each_voice_is_a_data_set_and_differs_in_its_voice_alone(
    name: str, voice: str, bank: str | None, count: int, tmp_path: Path
):
    plain = yaml.safe_load((toy.ROOT / "params.yaml").read_text())
    tree = transfer.params(plain, asked())
    transfer.project(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree | {"dataset": name}))
    p = params.load(tmp_path / "params.yaml")
    options = p.clips.options
    assert (options["voice"], options["bank"] and Path(options["bank"]).name) == (voice, bank)
    assert options["train_per_label"] == count and options["duration"] == params.load().clips.options["duration"]
    ours, theirs = (p.presets[one].recipe() for one in ("synthesis", "avset"))
    assert ours == theirs | {"level": "video"} and p.methods.keys() == set(transfer.TRAINED)
    assert plain["datasets"]["demo"]["clips"]["options"]["voice"] == "synthesis", "the project's own parameters stay"


def test_a_cell_is_the_mean_over_the_sources_with_its_standard_error():
    found = {(name, tested, query): [float(n), n + 2.0] for n, name in enumerate(transfer.TRAINED)
             for tested in transfer.TESTED for query in ("text", "video")}  # fmt: skip
    found |= {(transfer.ORACLE, tested, ""): [4.0, 4.0] for tested in transfer.TESTED}
    rows = transfer.table(found).splitlines()
    assert rows[0].endswith("| bank a: text, video | bank b: text, video |") and len(rows) == 6
    assert rows[3] == "| bank a |" + " 2.00 ± 1.00, 2.00 ± 1.00 |" * 3
    assert rows[5].startswith("| (its own class template) | 4.00 ± 0.00 |")


@pytest.mark.slow
def test_the_table_is_made_by_the_stages(tmp_path: Path):
    from test_soundfont import bank_of

    from avset.sources.demo import soundfont

    pytest.importorskip(soundfont.PACKAGE)
    for name, more in (("a", []), ("b", [0])):
        (tmp_path / f"{name}.sf2").write_bytes(bank_of([*soundfont.PROGRAMS.values(), *more]))
    told = asked(bank_a=str(tmp_path / "a.sf2"), bank_b=str(tmp_path / "b.sf2"), clips=1, steps=2)
    tree = transfer.params(toy.params(), told)
    folder = tmp_path / "work"
    transfer.project(folder)
    found = transfer.scores(folder, tree)
    assert {key[:2] for key in found} >= {(name, tested) for name in transfer.TRAINED for tested in transfer.TESTED}
    assert transfer.table(found).count("±") == 3 * 3 * 2 + 3

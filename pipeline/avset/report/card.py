"""A model as people share it: a folder with weights, settings, encoder, and a model card made of facts alone."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avset import __version__
from avset.errors import AvsetError
from avset.models.checkpoint import SeparationModel
from avset.report.coverage import Counts, counts_by_stage, funnel_rows, own_failures, reason_rows
from avset.storage.artifacts import ARTIFACTS, PRESENCE, Record, identity_of
from avset.storage.checksums import RECORD, checked
from avset.storage.files import fresh_folder, make_folder, require, write_atomic, write_json

VIDEOS = "The videos stay those of their authors, each under terms of its own; nothing of them is in this folder."
TERMS = {  # source of clips -> whose the data are, and under which licence, as far as that is known
    "demo": "Drawn and played by this project, under its own licence (MIT).",
    "folder": "Videos of the person who trained the model; ask that person for the terms.",
    "audioset": f"Videos on the net that AudioSet lists (Google; lists CC BY 4.0, ontology CC BY-SA 4.0). {VIDEOS}",
    "vggsound": f"Videos on the net that VGGSound lists (University of Oxford; lists CC BY 4.0). {VIDEOS}",
    "music": f"Videos on the net that MUSIC lists; of its lists no licence is known here. {VIDEOS}",
    "solos": f"Videos on the net that Solos lists; of its lists no licence is known here. {VIDEOS}",
}
LIMITS = {  # source of clips -> what a model that was trained on them knows
    "demo": "The model knows drawn players and synthesised sound only. Recordings of instruments are strange to it.",
    "folder": "The model knows what its videos showed. Nobody measured it on others.",
}
ONLINE = "The model knows the kinds of sounds of its lists. It never saw what is off screen."


def export(model: Path, encoder: Path, reports: Path, source: str, target: Path) -> None:
    """Write a model (data/<dataset>/<scale>/models/<method>) and its encoder as a folder that needs nothing else.

    target/   model.safetensors (weights and settings), config.json (the settings to read), record.json (what made
              it, and checksums), presence.safetensors (if there is one), README.md (the card), encoder/
    reports   reports/<dataset>/<scale>: its scores and the coverage of its data; without them the card says so
    source    `clips.source` of its data set

    MissingArtifact if a file is not there; AvsetError if one is damaged, or if `target` is there already.
    """
    if target.exists():
        raise AvsetError(f"{target} is there already; give a folder that is not")
    settings, record = SeparationModel.load(model).settings.plain(), Record.read(model)
    with fresh_folder(target) as fresh:
        for name in ARTIFACTS["models"].files:
            _copy(model / name, fresh / name)
        if (model / PRESENCE).exists():
            _copy(model / PRESENCE, fresh / PRESENCE)
        for name in (*ARTIFACTS["encoder"].files, RECORD):
            _copy(encoder / name, fresh / "encoder" / name)
        write_json(fresh / "config.json", settings)
        write_atomic(fresh / "README.md", card(model, settings, record, reports, source).encode())
        record.write(fresh)


def _copy(path: Path, target: Path) -> None:
    make_folder(target.parent)
    shutil.copyfile(checked(path) if path.name != RECORD else require(path), target)


def card(model: Path, settings: Mapping[str, Any], record: Record, reports: Path, source: str) -> str:
    """The model card: Markdown behind the front matter that model hubs read. Scores of another model are left out."""
    method, dataset, scale = model.name, reports.parent.name, reports.name
    transform, limits = settings["sizes"]["transform"], LIMITS.get(source, ONLINE)
    sections = {
        "Use": _use(settings, transform),
        "Data": f"`{dataset}` at scale `{scale}`. {TERMS[source]}\n\n{_coverage(reports)}{_start(record)}",
        "Scores": _scores(reports, method) if _scored(model) else "Nobody scored this model.",
        "Limits": f"{limits} No label was used in training, unless the method is told objects. A word"
        " that the encoder was never shown means nothing to the model, and neither does \"no violin\".",
        "Training": "```json\n" + json.dumps(record.recipe, indent=1, sort_keys=True) + "\n```",
        "Identity": f"- model: `{identity_of(model, 'models')}`\n- encoder: `{settings['encoder']}`\n"
        f"- version of the training code: `{record.version}`; avset {__version__}",
    }  # fmt: skip
    licence = "mit" if source == "demo" else "other"
    head = (
        f"---\nlibrary_name: avset\npipeline_tag: audio-to-audio\nlicense: {licence}\ntags: [audio-visual,"
        f" source-separation, text-query]\n---\n\n# {method} on {dataset}\n\nLanguage-guided audio-visual source"
        " separation (Tan et al., CVPR 2023): type what you want to hear, get it out of the mixture.\n"
    )
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def _scored(model: Path) -> bool:
    """Whether the scores beside a model are its own."""
    scores = model.parents[1] / "scores" / model.name
    return (scores / RECORD).exists() and Record.read(scores).inputs.get("models") == identity_of(model, "models")


def _use(settings: Mapping[str, Any], transform: Mapping[str, Any]) -> str:
    return (
        '```\navset separate FILE --query "person playing a violin" -o violin.wav --model THIS_FOLDER\n```\n\n'
        f"A method of kind `{settings['method']['kind']}` that makes masks at {transform['sample_rate']} Hz."
    )


def _coverage(reports: Path) -> str:
    """The data statement: how many clips there are, of what, and what is not there, and why."""
    path = reports / "coverage.json"
    if not path.exists():
        return "Nobody counted the data: there is no report."
    coverage = json.loads(checked(path).read_bytes())
    counts = counts_by_stage(coverage)
    stages = {stage: counts[stage] for stage in ARTIFACTS if stage in counts}  # JSON has no order
    tables = [_markdown((by, "listed", *stages, "lost"), _counts(stages, f"{by}s")) for by in ("split", "label")]
    reasons = "\n".join(f"- `{reason}`: {meaning}" for reason, meaning in reason_rows(coverage))
    asked = "A method learns from the clips of `train` that all stages have; the others test it."
    return "\n\n".join(part for part in (_lists(coverage), asked, *tables, reasons) if part)


def _lists(coverage: Mapping[str, Any]) -> str:
    """What became of the rows of the source's lists, a line for each."""
    lists = funnel_rows(coverage)
    return "\n".join(f"- list `{name}`: {', '.join(f'{n} {what}' for what, n in steps)}" for name, steps in lists)


def _counts(stages: Mapping[str, Counts], by: str) -> list[tuple[str, ...]]:
    """For each split or label the clips that are listed, those that each stage has, and where and why others went."""
    rows = []
    for name, listed in stages["clips"][by].items():
        inner = {stage: counts[by][name] for stage, counts in stages.items() if name in counts[by]}
        lost = [f"{n} {reason} ({stage})" for stage, one in inner.items() for reason, n in own_failures(one).items()]
        there = [str(inner[stage]["ok"]) if stage in inner else "0" for stage in stages]
        rows.append((name, str(listed["ok"] + listed["failed"]), *there, ", ".join(lost) or "none"))
    return rows


def _start(record: Record) -> str:
    """Which model the training began with, if with one."""
    if "start" not in record.inputs:
        return ""
    return (
        f"\n\nThe training began with the weights of `{record.recipe['train']['start_from']}` (model "
        f"`{record.inputs['start']}`), which had learned from data of its own."
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


def _scores(reports: Path, method: str) -> str:
    """The scores of the method on the frozen test mixtures, and the bounds beside it; where it points."""
    tables = [
        _table(reports / "nsdr_by_method.csv", method, ("query", "nsdr", "sem", "sdr", "sir", "sar", "n", "videos")),
        _table(reports / "localization.csv", method, ("attention", "pointing", "other", "ciou", "n", "videos")),
    ]
    found = [table for table in tables if table]
    if not found:
        return "Nobody reported the scores of this model."
    return (
        "\n\n".join(found)
        + "\n\nIn dB, means over test mixtures that were frozen before training; `sem` is the standard error, "
        "clustered by video. Rows without a query are oracles."
    )


def _table(path: Path, method: str, keys: Sequence[str]) -> str:
    """The rows of a method in a CSV file of the report, and those of no query, as Markdown; empty if there are none."""
    if not path.exists():
        return ""
    with path.open(newline="", encoding="utf-8") as f:
        rows = [row for row in csv.DictReader(f) if row["method"] in (method, "") or not row[keys[0]]]
    if not any(row["method"] in (method, "") for row in rows):
        return ""
    return _markdown(("", *keys), [(row["method"], *(_number(row[key]) for key in keys)) for row in rows])


def _number(text: str) -> str:
    return f"{float(text):.2f}" if "." in text else text

"""The report on small artifacts made here, with real masks of synthetic tones."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import chromium
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from media import make_video
from PIL import Image

from avset import errors
from avset.errors import AvsetError, MissingArtifact
from avset.evaluation import examples
from avset.features import spectrograms
from avset.report import page, plots, tables
from avset.report.coverage import count_clips
from avset.report.numbers import separation_means
from avset.report.published import published_rows
from avset.report.report import typical_example, write_report

RATE, GRID = 11_025, (3, 3)
EVIL = '<b>viola</b> & "co"'
PITCHES = {"violin": 392.0, "piano": 262.0, "flute": 587.0, EVIL: 330.0}
BOUNDS = {"mixture": 0.0, "template": 3.0, "fixed": 8.0, "ideal": 11.0, "ideal_linear": 15.0}
SKILL = {"ideal": 1.0, "text": 0.8, "word": 0.55, "video": 0.85, "caption": 0.7}


def tone(label: str, length: int, seed: int) -> np.ndarray:
    """A little melody of harmonic notes that fade."""
    rng, time = np.random.default_rng(seed), np.arange(length) / RATE
    note = np.floor(time / 0.4).astype(int)
    pitch = PITCHES[label] * 2 ** (rng.choice([0, 2, 4, 7, 9], note.max() + 1)[note] / 12)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = sum(np.sin(k * phase) / k**1.3 for k in range(1, 8)) * np.exp(-3 * (time % 0.4))
    return (0.2 * sound + 1e-4 * rng.normal(size=length)).astype(np.float32)


def scene(label: str, seed: int, side: int = 96) -> tuple[np.ndarray, list[float]]:
    """A bright ellipse on a gradient, and its box in fractions."""
    rng = np.random.default_rng(seed)
    x0, y0 = rng.uniform(0.1, 0.5, 2)
    x1, y1 = x0 + 0.4, y0 + 0.4
    y, x = np.mgrid[:side, :side] / side
    shape = (((x - (x0 + x1) / 2) / 0.2) ** 2 + ((y - (y0 + y1) / 2) / 0.2) ** 2) < 1
    picture = np.stack([60 + 90 * x, 70 + 60 * y, 110 - 40 * x], -1)
    picture[shape] = np.array([210, 120, 60]) if label == "violin" else np.array([70, 170, 190])
    return (picture + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8), [x0, y0, x1, y1]


def attention(box: list[float], sharpness: float, seed: int) -> np.ndarray:
    rows, columns = ((np.arange(n) + 0.5) / n for n in GRID)
    distance = (columns - (box[0] + box[2]) / 2) ** 2 + (rows[:, None] - (box[1] + box[3]) / 2) ** 2
    noise = np.random.default_rng(seed).normal(0, 0.03, GRID)
    return (np.exp(-distance * sharpness) + noise).ravel().astype(np.float32)


def plain_sdr(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    return 10 * np.log10((reference**2).sum(-1) / ((reference - estimate) ** 2).sum(-1))


def write_example(file: h5py.File, name: str, labels: list[str], length: int, seed: int) -> None:
    references = np.stack([tone(label, length, seed + i) for i, label in enumerate(labels)]) / len(labels)
    stft = spectrograms.stft(torch.from_numpy(references), 1022, 256)
    mixture, mixed = references.sum(0), stft.sum(0)
    magnitude = spectrograms.warp(mixed.abs(), 64)
    ideal = spectrograms.ratio_mask(spectrograms.warp(stft.abs(), 64), magnitude, limit=1.0)
    frames, boxes = zip(*(scene(label, seed + i) for i, label in enumerate(labels)), strict=True)
    group = file.create_group(name)
    clips = [f"{label[:3]}{seed}_{1000 * i}" for i, label in enumerate(labels)]
    lists = {"labels": labels, "clip_ids": clips, "grid": GRID, "boxes": [[box] for box in boxes]}
    lists |= {"scored": [0.0, length / RATE], "starts": [0.5] * len(labels)}
    group.attrs.update({k: json.dumps(v) for k, v in lists.items()}, sample_rate=RATE)
    maps = {k: np.stack([attention(b, s, seed) for b in boxes]) for k, s in (("text", 9), ("caption", 5))}
    data = {"mixture": mixture, "references": references, "frames": np.stack(frames)}
    data |= {"mixture_magnitude": magnitude.numpy()} | {f"{k}_attention": v for k, v in maps.items()}
    for key, value in data.items():
        group[key] = value
    for kind, skill in SKILL.items():
        masks = skill * ideal + (1 - skill) * (1 - ideal)
        linear = spectrograms.unwarp(masks, mixed.shape[0])
        estimates = spectrograms.istft(linear * mixed, length, 1022, 256).numpy()
        inner = group.create_group(kind)
        inner["estimates"], inner["masks"] = estimates, masks.numpy()
        inner["nsdr"] = plain_sdr(references, estimates) - plain_sdr(references, mixture)
        if kind != "ideal":
            inner["attention"] = np.stack([attention(box, 7, seed + 5) for box in boxes])
            form = "person playing a {}" if kind == "text" else "{}" if kind == "word" else kind
            inner.attrs["queries"] = json.dumps([form.format(label) for label in labels])


def score_rows(key: str, gains: dict[str, float], n: int = 6) -> list[dict]:
    """Rows of a scores.parquet with planted NSDR: gain - 1, gain, gain + 1, ... by place."""
    labels = list(PITCHES)
    return [
        {
            "method": key,
            "query": query,
            "mixture_id": f"m{i // 2}",
            "source": i % 2,
            "clip_id": f"c{i}",
            "label": labels[i % 3],
            "sdr": gain + 0.5,
            "sir": gain + 5.0,
            "sar": 100.0 if key == "mixture" else 9.0,
            "nsdr": 0.0 if key == "mixture" else gain + (i % 3 - 1.0),
            "moving": 0.5,
            "silent": i == 0 and query == "word",
        }
        for query, gain in gains.items()
        for i in range(n)
    ]


def mixture_rows(n: int = 3, split: str = "test", first: int = 0) -> list[dict]:
    """Rows of a mixtures.parquet that fit those of `score_rows`; each mixture has two videos of its own."""
    labels = list(PITCHES)
    return [
        {"mixture_id": f"m{i}", "split": split, "contents": [f"v{2 * i}", f"v{2 * i + 1}"],
         "labels": [labels[2 * i % 3], labels[(2 * i + 1) % 3]]}
        for i in range(first, first + n)
    ]  # fmt: skip


def write_table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def artifacts(root: Path, mixtures: int = 2, length: int = 8192, others: tuple[str, ...] = ("nmf",)) -> dict:
    """All inputs of `write_report` in `root`, as its arguments."""
    data = root / "data" / "demo" / "demo"
    gains = {"text": 6.0, "word": 4.0, "video": 7.0, "caption": 5.0}
    write_table(data / "scores/avset/scores.parquet", score_rows("avset", gains))
    for k, other in enumerate(others):
        write_table(data / f"scores/{other}/scores.parquet", score_rows(other, {"video": 1.0 + k}))
    write_table(data / "mixtures/scores.parquet", [r for k, v in BOUNDS.items() for r in score_rows(k, {"": v})])
    write_table(data / "mixtures/mixtures.parquet", mixture_rows())
    fixed = {"label": "violin", "chance": 0.25, "labels": 1, "other": None}
    places = [
        {"clip_id": f"c{i}", "content": f"v{i // 2}", "attention": kind, "hit": i < hits, "iou": 0.2 + 0.1 * i, **fixed}
        for kind, hits in (("text", 4), ("caption", 3), ("sound", 2))
        for i in range(5)
    ]
    duets = [
        places[0] | {"labels": 2, "attention": kind, "hit": hit, "other": not hit}
        for kind, hits in (("text", (True, True)), ("norm", (True, False)))
        for hit in hits
    ]
    write_table(data / "scores/avset/localization.parquet", places + duets)
    answer = {"labels": ["violin", "piano"], "weaker": -3.0, "random": 0.5, "query": "text", "content": "v"}
    answers = [
        answer | {"clip_id": "c0", "likeness": 0.2, "residual": -20.0, "distance": 0.25},
        answer | {"clip_id": "c1", "likeness": None, "residual": -10.0, "distance": 0.75},
        answer | {"clip_id": "c0", "query": "absent", "likeness": 0.9, "residual": -1.0, "distance": 0.0},
    ]
    write_table(data / "scores/avset/duets.parquet", answers)
    sounds = [p | {"hit": False} for p in places if p["attention"] == "sound"]
    write_table(data / "scores/nmf/localization.parquet", sounds)
    write_table(data / "scores/avset/presence.parquet", presence_rows())
    pairs = [("violin", "piano"), (EVIL, "flute"), ("flute", "violin"), ("piano", EVIL)]
    for k, method in enumerate(("avset", *others)):
        with h5py.File(data / f"scores/{method}/examples.h5", "w") as file:
            for i in range(mixtures):
                write_example(file, f"mixture_{i:03d}", list(pairs[i % 4]), length, 10 * i + 100 * k)
    reasons = [""] * 8 + ["silent", "corrupt"]
    clips = [
        {
            "clip_id": f"c{i}",
            "media_id": f"c{i}",
            "status": "failed" if reason else "ok",
            "reason": reason,
            "split": "test" if i % 2 else "train",
            "labels": ["violin"] if i else ["violin", "piano"],
        }
        for i, reason in enumerate(reasons)
    ]
    later = ["no_video", *reasons[1:8], "upstream", "upstream"]
    frames = [{"clip_id": f"c{i}", "status": "failed" if r else "ok", "reason": r} for i, r in enumerate(later)]
    indices = {
        "clips": write_table(data.parent / "clips/index.parquet", clips),
        "frames": write_table(data / "frames/index.parquet", frames),
    }
    return {
        "dataset": "demo", **{name: data / name for name in ("scores", "models", "mixtures")},
        "methods": ["avset", *others], "indices": indices,
        "facts": {"encoder": {"zero_shot": 0.98765}}, "out": root / "reports" / "demo" / "demo",
    }  # fmt: skip


def presence_rows() -> list[dict]:
    """Rows of a presence.parquet: what is there has 0.08 and 0.9, what is not 0.04 and 0.6, nonsense 0.02."""
    return [
        {"mixture_id": "m0", "sources": sources, "words": "", "truth": truth, "sound": score, "picture": None,
         "energy": 1 - score}
        for sources in (1, 2)
        for truth, scores in (("present", (0.08, 0.9)), ("absent", (0.04, 0.6)), ("nonsense", (0.02,)))
        for score in scores
    ]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One report, as (arguments, metrics, folder)."""
    arguments = artifacts(tmp_path_factory.mktemp("report"))
    return arguments, write_report(**arguments), arguments["out"]


def test_numbers_are_the_planted_means_and_metrics_has_some(built):
    _, numbers, out = built
    text = numbers["avset"]["text"]
    assert (text["nsdr"], text["nsdr_median"], text["n"], text["videos"], text["silent"]) == (6, 6, 6, 6, 0)
    assert (text["sdr"], text["sir"], text["sar"]) == (6.5, 11, 9)
    assert text["nsdr_sem"] == pytest.approx(np.std([-0.5, 0, 0.5], ddof=1) / 3**0.5, rel=0.25), "of three mixtures"
    assert text["per_class"] == {
        k: {"nsdr": v, "n": 2, "videos": 2} for k, v in zip(list(PITCHES)[:3], (5, 6, 7), strict=True)
    }
    assert numbers["avset"]["word"]["silent"] == 1
    kept = json.loads((out / "metrics.json").read_text())
    assert kept["avset"]["text"] == {"nsdr": 6, "moving": 0.5, "sdr": 6.5, "sir": 11, "sar": 9, "n": 6}
    assert kept["mixture"] == {"nsdr": 0, "sdr": 0.5, "sir": 5, "sar": 100, "n": 6, "of": 6, "videos": 6}
    assert kept["ideal"]["nsdr"] == 11 and kept["nmf"]["video"]["nsdr"] == 1
    assert kept["localization"]["text"] == {"pointing": 0.8, "ciou": 0.4}
    assert kept["localization"]["duets"] == {
        "text": {"pointing": 1, "other": 0, "ciou": 0}, "norm": {"pointing": 0.5, "other": 0.5, "ciou": 0},
        "chance": {"pointing": 0.25},
    }  # fmt: skip
    assert kept["encoder"] == {"zero_shot": 0.9877}
    told = {"auc": 0.75, "alone": 0.75, "nonsense": 1, "kept": 0.5, "silenced": 0.5}
    assert kept["avset"]["presence"] == {"sound": told, "energy": {"auc": 0.25, "alone": 0.25, "nonsense": 0}}
    assert "presence" not in kept["nmf"], "a method that cannot tell has no row"
    assert kept.keys() == {"avset", "nmf", *BOUNDS, "localization", "encoder"}


def test_metrics_are_sorted_and_end_with_a_line(built):
    text = (built[2] / "metrics.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_localisation_is_of_the_first_method_and_of_the_others_sounds(built):
    numbers = built[1]
    assert numbers["localization"]["text"] == {"pointing": 0.8, "ciou": 0.4, "iou": 0.4, "n": 5, "videos": 3}
    assert numbers["localization"]["caption"]["pointing"] == 0.6
    assert numbers["localization"]["sound"]["pointing"] == 0.4
    assert numbers["localization"]["chance"] == {"pointing": 0.25}
    assert numbers["nmf"]["localization"] == {"sound": {"pointing": 0, "ciou": 0.4, "iou": 0.4, "n": 5, "videos": 3}}


def test_answers_in_real_duets_stand_beside_their_control(built):
    _, numbers, out = built
    told = {"likeness": 0.2, "weaker": -3.0, "residual": -15.0, "distance": 0.5, "random": 0.5, "n": 2, "videos": 1}
    assert numbers["avset"]["answers"]["text"] == told
    kept = json.loads((out / "metrics.json").read_text())
    assert kept["avset"]["answers"] == {
        "text": {"likeness": 0.2, "residual": -15, "distance": 0.5, "n": 2},
        "absent": {"likeness": 0.9, "residual": -1, "distance": 0, "n": 1},
    }
    html = (out / "html" / "index.html").read_text()
    assert Reader(html).table("who answers")[1:] == [
        ["AV-SeT", "text query", "0.200", "-3.0", "-15.0", "0.500", "0.500", "2", "1"],
        ["AV-SeT", "control: absent class", "0.900", "-3.0", "-1.0", "0.000", "0.500", "1", "1"],
    ]
    assert "not whether they are right" in html and "not whether they are right" in tables.numbers_as_text(numbers)


def test_presence_has_a_table(built):
    lines = tables.numbers_as_text(built[1]).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("presence"))
    assert lines[at + 2].split() == ["avset", "sound", "0.750", "0.750", "1.000", "0.500", "0.500", "1.000"]
    assert lines[at + 3].split() == ["avset", "energy", "0.250", "0.250", "0.000"]
    rows = Reader((built[2] / "html" / "index.html").read_text()).table("presence")
    assert rows[1] == ["AV-SeT", "sound", "0.750", "0.750", "1.000", "0.500", "0.500", "1.000", "4", "4"]
    assert rows[2] == ["AV-SeT", "energy alone", "0.250", "0.250", "0.000", "", "", "", "4", "4"]


def counted(ok: int, **reasons: int) -> dict:
    return {"ok": ok, "failed": sum(reasons.values()), "reasons": reasons}


def test_coverage_counts_reasons_splits_and_labels(built):
    covered = json.loads((built[2] / "coverage.json").read_text())
    assert covered["clips"] == {
        **counted(8, silent=1, corrupt=1),
        "splits": {"test": counted(4, corrupt=1), "train": counted(4, silent=1)},
        "labels": {"piano": counted(1), "violin": counted(8, silent=1, corrupt=1)},
    }
    assert covered["frames"] == {
        **counted(7, no_video=1, upstream=2),
        "splits": {"test": counted(4, upstream=1), "train": counted(3, no_video=1, upstream=1)},
        "labels": {"piano": counted(0, no_video=1), "violin": counted(7, no_video=1, upstream=2)},
    }
    assert covered.keys() == {"clips", "frames", "ledger"}, "no lists without a funnel"
    assert [list(line.values()) for line in covered["ledger"]] == [
        [{"corrupt": 1, "silent": 1}, 10, "", 8, "media", "media"], [{}, 8, "media", 8, "clips", "clips"],
        [{"no_video": 1}, 8, "clips", 7, "frames", "clips"],
    ]  # fmt: skip
    rows = Reader((built[2] / "html" / "index.html").read_text()).table("step")
    assert rows[1:] == [["media", "media", "10", "8", "corrupt 1, silent 1"], ["clips", "clips", "8", "8", ""],
                        ["frames", "clips", "8", "7", "no_video 1"]]  # fmt: skip


def test_a_clip_counts_once_under_each_of_its_labels_or_as_unlabelled(tmp_path):
    """Against a plain loop, on an index of several row groups; what `clips` does not know is counted too."""
    rng, names = np.random.default_rng(0), ["a", "b", EVIL]
    clips = [
        {"clip_id": f"{i}", "reason": ["", "", "removed", "age"][rng.integers(4)],
         "split": "train" if i % 3 else "test", "labels": [names[k] for k in rng.integers(0, 3, i % 4)]}
        for i in range(500)
    ]  # fmt: skip
    later = [{"clip_id": row["clip_id"], "reason": "upstream" if row["reason"] else "silent"} for row in clips[::-1]]
    paths = {"clips": tmp_path / "clips.parquet", "sounds": tmp_path / "sounds.parquet"}
    pq.write_table(pa.Table.from_pylist(clips), paths["clips"], row_group_size=64)
    write_table(paths["sounds"], [*later, {"clip_id": "stranger", "reason": ""}])
    covered = count_clips(paths)
    for stage, reasons in (("clips", {"removed", "age"}), ("sounds", {"upstream", "silent"})):
        fates = {row["clip_id"]: row["reason"] for row in (clips if stage == "clips" else later)}
        extra = stage == "sounds"
        for name in (*names, "unlabelled"):
            mine = [fates[r["clip_id"]] for r in clips if name in (r["labels"] or ["unlabelled"])]
            expected = {k: mine.count(k) for k in sorted(reasons) if k in mine}
            stranger = extra and name == "unlabelled"
            assert covered[stage]["labels"][name] == counted(mine.count("") + stranger, **expected)
        assert covered[stage]["ok"] == list(fates.values()).count("") + extra
        assert covered[stage]["splits"].keys() == {"train", "test", *(["unknown"] if extra else [])}


def test_clips_of_many_classes_are_counted(tmp_path):
    numbers = np.arange(30_000)
    table = pa.table(
        {"clip_id": numbers.astype(str), "reason": [""] * len(numbers), "split": ["train"] * len(numbers),
         "labels": [[f"class {i % 300}"] for i in numbers]}
    )  # fmt: skip
    pq.write_table(table, tmp_path / "index.parquet")
    labels = count_clips({"clips": tmp_path / "index.parquet"})["clips"]["labels"]
    assert len(labels) == 300 and {n["ok"] for n in labels.values()} == {100}


def test_curves_have_a_row_per_method_query_and_class(built):
    lines = (built[2] / "nsdr_by_method.csv").read_text().splitlines()
    assert lines[0] == "method,query,nsdr,sem,median,moving,sdr,sir,sar,n,of,videos,silent,shared"
    assert lines[1].endswith(",6.0,0.5,6.5,11.0,9.0,6,6,6,0,"), "nothing to share where all have all"
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["avset", "text", "6.0"], ["avset", "word", "4.0"], ["avset", "video", "7.0"],
        ["avset", "caption", "5.0"], ["nmf", "video", "1.0"], ["template", "", "3.0"], ["fixed", "", "8.0"],
        ["ideal", "", "11.0"], ["ideal_linear", "", "15.0"],
    ]  # fmt: skip
    classes = (built[2] / "nsdr_by_class.csv").read_text().splitlines()
    assert classes[0] == "method,query,label,nsdr,n,videos"
    assert "avset,text,violin,5.0,2,2" in classes
    assert len(classes) == 1 + 9 * 3
    places = (built[2] / "localization.csv").read_text().splitlines()
    assert places[:2] == ["method,attention,pointing,other,ciou,iou,n,videos", ",text,0.8,,0.4,0.4,5,3"]
    assert [line.split(",")[:2] for line in places[2:]] == [
        ["", "caption"],
        ["", "sound"],
        ["nmf", "sound"],
        ["", "chance"],
        ["", "duets: text"],
        ["", "duets: norm"],
        ["", "duets: chance"],
    ]


@pytest.mark.parametrize("name", ["example", "localization", "queries"])
def test_pictures_are_small_and_without_metadata(built, name):
    content = (built[2] / f"{name}.png").read_bytes()
    assert len(content) <= plots.LIMIT
    assert not {b"tEXt", b"iTXt", b"zTXt", b"tIME"} & {content[i : i + 4] for i in range(len(content))}
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert picture.shape[1] >= 500
    assert picture.std() > 20


@pytest.mark.slow
def test_the_same_artifacts_make_the_same_bytes(built, tmp_path):
    arguments, _, out = built
    write_report(**arguments | {"out": tmp_path})
    names = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert len(names) == 11
    for name in names:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def test_the_page_is_that_of_the_data_set_whatever_the_folder(tmp_path):
    arguments = artifacts(tmp_path, others=())
    (arguments["scores"] / "avset" / "examples.h5").unlink()
    write_report(**arguments | {"dataset": "music"})
    html = (arguments["out"] / "html" / "index.html").read_text()
    assert "<h1>music</h1>" in html and "as published" in html


def test_the_page_asks_nobody_for_anything(built):
    html = (built[2] / "html" / "index.html").read_text()
    assert html.count("<script") == 2 + 1 and html.count('<script type="application/json">') == 2, (
        "data, and the player"
    )
    assert "http" not in re.sub(r"base64,[^\"]*|http-equiv|http://www.w3.org/1999/xhtml", "", html)
    assert "url(" not in html
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', html.partition('<script type="module">')[0])
    assert len(sources) > 30
    assert all(s.startswith("data:") for s in sources)


def test_the_policy_of_the_page_allows_its_style_and_its_script_and_nothing_else(built):
    html = (built[2] / "html" / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    style = html.partition("<style>")[2].partition("</style>")[0]
    script = html.partition('<script type="module">')[2].partition("</script>")[0]
    allowed = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    nonce = re.search(r'<meta name="nonce" content="(\w{64})">', html)[1]
    assert policy == (
        f"default-src 'none'; img-src data:; media-src data:; script-src 'sha256-{allowed[0]}'; "
        f"style-src 'sha256-{allowed[1]}' 'nonce-{nonce}'; base-uri 'none'; form-action 'none'"
    )
    assert html.count(nonce) == 2, "only the player makes a style"
    bare = page.render_page("demo", built[1], {}, {})
    assert "script" not in bare.replace("separation report", "") and "nonce" not in bare
    assert html.index("Content-Security-Policy") < html.index("<style>") and not re.search(r"<[^>]*\sstyle=", html)


@pytest.mark.slow
@pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium on this machine")
def test_a_browser_plays_the_page_from_a_folder_under_its_policy(built, tmp_path):
    arguments, numbers, _ = built
    film = make_video(tmp_path / "film.mp4", 1.0, audio=False).read_bytes()
    heard = {"avset": examples.read(arguments["scores"] / "avset" / "examples.h5")}
    html = page.render_page("demo", numbers, {}, heard, films=lambda clip, start, seconds: film)
    attack = (
        '<p id="a" style="color:red">x</p><script>document.title="run"</script><img src="data:," onerror="alert(1)">'
    )
    file = tmp_path / "page.html"
    file.write_text(html.replace("</body>", f"{attack}</body>"))
    titles, opened = "[...document.querySelectorAll('#tracks h3')].map((one) => one.textContent)", "details[open]"
    with chromium.tab(tmp_path / "profile") as tab:
        tab.screen(390)
        tab.open(file.as_uri(), chromium.TAP)
        tab.until("document.querySelectorAll('#tracks li').length")
        assert tab.do(titles) == ["mixture", "violin", "piano", "residual", "violin, reference", "piano, reference"]
        assert tab.do("loudest().length") == 0, "nothing plays before somebody asks for it"
        tab.do("document.getElementById('play').click()")
        tab.until("loudest()[0] > 0.001")
        tab.do("document.querySelectorAll('.solo')[3].click()")
        tab.until("document.getElementById('play').textContent === 'Play'")
        tab.do("document.getElementById('at').value = 0.4; document.getElementById('at').oninput()")
        tab.until(
            f"[...document.querySelectorAll('{opened} video')].every((film) => Math.abs(film.currentTime - 0.4) < .03)"
        )
        tab.do(f"document.querySelectorAll('{opened} .ways input')[2].click()")
        tab.until("document.querySelectorAll('#tracks li').length === 6")
        assert tab.do("document.getElementById('at').value") == "0.4", "another query goes on where the first one was"
        tab.do("document.querySelectorAll('details:not([open]) summary')[0].click()")
        tab.until(f"{titles}.length && !{titles}.includes('piano')")
        assert tab.do(f"document.querySelectorAll('{opened}').length") == 1, "one player at a time"
        assert tab.do("document.documentElement.scrollWidth") == 390
        assert tab.do("document.title") == "demo · separation report", "no script of an attack ran"
        refused = [e["params"]["entry"]["text"] for e in tab.events if e["method"] == "Log.entryAdded"]
        asked = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
        assert not [e for e in tab.events if e["method"] == "Runtime.exceptionThrown"]
    assert sum("style-src" in one for one in refused) == 1, (
        "the styles of the page are taken, that of the attack is not"
    )
    assert sum("script" in one for one in refused) >= 1
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


def test_the_page_escapes_labels(built):
    html = (built[2] / "html" / "index.html").read_text()
    assert EVIL not in html
    assert "<b>viola" not in html
    assert "“person playing a &lt;b&gt;viola&lt;/b&gt; &amp; &#34;co&#34;”" in html


class Reader(HTMLParser):
    """The text of a page, the names of its tags, and its tables as rows of cells."""

    def __init__(self, html: str):
        super().__init__()
        self.text, self.tags, self.tables, self.cell = "", set(), [], False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert not [name for name, _ in attributes if name.startswith("on")], "a handler is a script"
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.cell:
            self.tables[-1][-1][-1] += data

    def table(self, head: str) -> list[list[str]]:
        """The rows of the first table whose first cell is `head`."""
        found = next(t for t in self.tables if t[0][0] == head)
        return [[" ".join(cell.split()) for cell in row] for row in found]


HOSTILE = [
    EVIL, "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='x", "</table></title><h1>x",
    "{{ 7 * 7 }}{% endfor %}", "&lt;b&gt;", "\u202etxet", "x" * 10_000, "a\nb", "ヴァイオリン",
]  # fmt: skip


def covers(labels: list[str], **stages: dict) -> dict:
    """A coverage of one clip that is ok and one that was removed of each label."""
    each = {"labels": {label: counted(1, removed=1) for label in labels}, "splits": {"train": counted(1)}}
    return {"clips": {**counted(len(labels), removed=len(labels)), **each}, **stages}


def test_the_page_shows_coverage_by_stage_class_and_reason(built):
    labels = {
        "cello": counted(300, removed=100), "erhu": counted(3, removed=1_000_000, silent=1),
        "unlabelled": counted(9_000_000), "oboe": counted(0, removed=400),
    }  # fmt: skip
    whole = counted(9_000_303, removed=1_000_500, silent=1)
    frames = counted(9_000_302, upstream=1_000_501, truncated=1)
    covered = {
        "clips": {**whole, "splits": {"train": counted(9_000_000), "test": counted(303)}, "labels": labels},
        "frames": {**frames, "splits": {}, "labels": {"unlabelled": frames}},
    }
    found = Reader(page.render_page("demo", built[1], covered, {}))
    assert found.table("stage") == [
        ["stage", "clips", "ok", "ok %", "failed", "why the others failed", "ok by split"],
        ["clips", "10,000,804", "9,000,303", "90.0", "1,000,501", "removed 1,000,500, silent 1",
         "train 9,000,000, test 303"],
        ["frames", "9,000,303", "9,000,302", "99.9", "1", "truncated 1", ""],
    ]  # fmt: skip
    assert found.table("class") == [
        ["class", "clips", "ok", "ok %", "removed", "silent"],
        ["erhu", "1,000,004", "3", "0.1", "1,000,000", "1"], ["cello", "400", "300", "75.0", "100", ""],
        ["oboe", "400", "0", "0", "400", ""], ["unlabelled", "9,000,000", "9,000,000", "100", "", ""],
    ]  # fmt: skip
    assert "frames by class" not in found.text, "no class has a name there"
    assert all(errors.REASONS[reason] in found.text for reason in ("removed", "silent", "truncated"))
    assert errors.REASONS["upstream"] not in found.text and "Lists" not in found.text


def test_the_page_folds_many_classes_and_leaves_out_the_smallest(built):
    for n, fold, rows in ((25, "<details open>", 25), (26, "<details>", 26), (501, "<details>", 500)):
        html = page.render_page("demo", built[1], covers([f"class {i:03d}" for i in range(n)]), {})
        assert re.findall("<details[^>]*>", html) == [fold]
        assert len(Reader(html).table("class")) == 1 + rows
        assert ("The largest 500 of 501 classes" in html) == (n > 500)
    whole = page.render_page("demo", built[1], {"clips": counted(9) | {"splits": {}, "labels": {"a": counted(9)}}}, {})
    assert re.findall("<details[^>]*>", whole) == ["<details>"], "nothing failed"
    hundreds = page.render_page("demo", built[1], covers([f"class {i:03d}" for i in range(300)]), {})
    assert len(hundreds) < 200_000


def test_the_page_says_what_became_of_the_clips_of_a_split(built):
    ledger = {"asked": 200, "drawn": 1, "clips": 9, "labels": 4, "copies": 2, "silent": 1, "usable": 2, "videos": 2}
    found = Reader(page.render_page("demo", built[1], {}, {}, drawn={"test": ledger}))
    assert found.table("split")[1] == ["test", *map(str, ledger.values())]


def test_the_page_draws_the_funnel_of_lists(built):
    funnel = {"unbalanced": {"kept": 1455, "rows": 22160}, "balanced": {"lines": 0}}
    html = page.render_page("demo", built[1], covers(["violin"], lists=funnel), {})
    assert Reader(html).table("rows") == [["rows", "22,160"], ["kept", "1,455"]], "the widest step comes first"
    assert Reader(html).table("lines") == [["lines", "0"]]
    assert '<span class="bar-66">1,455</span>' in html and ".bar-66 { --share: 6.6%; }" in html


def test_hostile_labels_reasons_and_lists_are_text(built):
    covered = covers(HOSTILE, lists={HOSTILE[1]: {HOSTILE[2]: 7}})
    covered["clips"]["reasons"] = dict.fromkeys(HOSTILE, 1)
    covered["clips"]["splits"] = {HOSTILE[1]: counted(3)}
    html = page.render_page(HOSTILE[4], built[1], covered, {})
    plain = Reader(page.render_page("demo", built[1], covers(["violin"], lists={"a": {"b": 7}}), {}))
    found = Reader(html)
    assert found.tags == plain.tags, "no tag comes from a label"
    labels = [row[0] for row in found.table("class")[1:]]
    assert sorted(labels) == sorted(" ".join(name.split()) for name in HOSTILE)
    assert all(name in found.text for name in HOSTILE)


def test_the_page_plays_what_it_shows(built):
    arguments, _, out = built
    html = (out / "html" / "index.html").read_text()
    sounds = [soundfile.read(io.BytesIO(base64.b64decode(s))) for s in re.findall(r"audio/mpeg;base64,([^\"]+)", html)]
    first = examples.read(arguments["scores"] / "avset" / "examples.h5")[0]
    other = examples.read(arguments["scores"] / "nmf" / "examples.h5")[0]
    ways = [first.separations[k] for k in ("text", "word", "video", "caption")]
    truth = [first.mixture]
    for way in (*ways, other.separations["text"], first.separations["ideal"]):
        truth += [*way.estimates, first.mixture - way.estimates.sum(0)]
    truth += [*first.references]
    assert len(sounds) == 2 * len(truth)  # two mixtures
    gains = []
    for (played, rate), sound in zip(sounds, truth, strict=False):
        assert rate == RATE
        assert len(played) == len(sound)
        assert np.corrcoef(played, sound)[0, 1] > 0.98
        gains.append(played @ sound / (sound @ sound))
    np.testing.assert_allclose(gains, gains[0], rtol=0.03)


def test_the_page_shows_scores_boxes_and_gains(built):
    arguments, _, out = built
    html = (out / "html" / "index.html").read_text()
    example = examples.read(arguments["scores"] / "avset" / "examples.h5")[0]
    assert f"<b>{example.separations['video'].nsdr[1]:+.1f}</b>" in html
    x0, y0, x1, _ = example.boxes[0][0]
    assert f'x="{100 * x0:.2f}%" y="{100 * y0:.2f}%" width="{100 * (x1 - x0):.2f}%"' in html
    assert "7.00 <small>± 0." in html
    assert html.count('<span class="id">mixture_') == 2
    assert "its own frames" in html and "“video”" not in html
    assert "as published" not in html


def test_a_published_data_set_brings_the_papers_rows(built):
    _, numbers, _ = built
    assert "8.58" in page.render_page("solos_full", numbers, {}, {})
    assert published_rows("music")[0] == ("AV-SeT", "video", 7.98, 13.92, 12.35)
    assert published_rows("demo") == []


def test_examples_beyond_the_budget_are_counted(built):
    arguments, numbers, _ = built
    heard = {"avset": examples.read(arguments["scores"] / "avset" / "examples.h5")}
    whole = page.render_page("demo", numbers, {}, heard)
    short = page.render_page("demo", numbers, {}, heard, budget=int(0.7 * len(whole)))
    assert short.count('<span class="id">mixture_') == 1
    assert "1 more example" in short
    assert len(short) < 0.7 * len(whole)


def test_the_table_reads_from_bound_to_bound(built):
    lines = tables.numbers_as_text(built[1]).splitlines()
    assert [line.split()[0] for line in lines[2:12]] == ["mixture", *["avset"] * 4, "nmf", *list(BOUNDS)[1:]]
    assert [cell for i, cell in enumerate(lines[3].split()) if i != 3] == [
        "avset", "text", "6.00", "0.50", "6.00", "6.50", "11.00", "9.00", "6", "6", "0",
    ]  # fmt: skip
    assert lines[2].split()[-4:] == ["–", "6", "6", "0"]  # a mixture holds no artefacts
    assert any(line.split() == ["chance", "0.250"] for line in lines)
    assert any(line.split() == ["encoder.zero_shot", "0.9877"] for line in lines)


def test_a_report_without_examples_and_localisation(tmp_path):
    arguments = artifacts(tmp_path, others=())
    for name in ("examples.h5", "localization.parquet"):
        (arguments["scores"] / "avset" / name).unlink()
    funnel = {"list": {"rows": 20, "invalid": 10, "used": 10}}
    numbers = write_report(**arguments, funnel=funnel)
    assert json.loads((arguments["out"] / "coverage.json").read_text())["lists"] == funnel
    assert "localization" not in numbers
    assert "Listen" not in (arguments["out"] / "html" / "index.html").read_text()
    assert not (arguments["out"] / "example.png").exists()


def test_a_single_mixture_has_no_standard_error(tmp_path):
    arguments = artifacts(tmp_path, others=())
    write_table(arguments["scores"] / "avset/scores.parquet", score_rows("avset", {"text": 3.0}, n=2))
    write_table(arguments["mixtures"] / "mixtures.parquet", mixture_rows(1))
    (arguments["scores"] / "avset" / "examples.h5").unlink()
    numbers = write_report(**arguments)
    assert numbers["avset"]["text"]["nsdr_sem"] is None
    assert "too few videos to know a standard error" in tables.numbers_as_text(numbers)
    assert "NaN" not in (arguments["out"] / "metrics.json").read_text()


def test_queries_that_were_asked_of_fewer_sources_are_compared_on_the_shared_ones(tmp_path):
    """Text was asked of the first and third source alone; a mixture of four that were drawn was not scored at all."""
    arguments = artifacts(tmp_path, others=())
    rows = score_rows("avset", {"text": 6.0, "video": 7.0})
    rows = [row for i, row in enumerate(rows) if i in (0, 2) or row["query"] == "video"]
    write_table(arguments["scores"] / "avset/scores.parquet", rows)
    write_table(arguments["mixtures"] / "mixtures.parquet", mixture_rows(4))
    (arguments["scores"] / "avset" / "examples.h5").unlink()
    numbers = write_report(**arguments)
    text, video = numbers["avset"]["text"], numbers["avset"]["video"]
    assert (text["n"], text["of"], text["videos"], video["n"], video["of"], video["videos"]) == (2, 8, 4, 6, 8, 6)
    assert (text["nsdr"], video["nsdr"]) == (6, 7), "gain - 1 and gain + 1; the mean of all"
    assert (text["shared"], video["shared"]) == (6, 7) and numbers["ideal"]["shared"] == 11
    kept = json.loads((arguments["out"] / "metrics.json").read_text())
    assert (kept["avset"]["text"]["n"], kept["mixture"]["n"], kept["mixture"]["of"]) == (2, 6, 8)
    said = tables.numbers_as_text(numbers)
    html = " ".join((arguments["out"] / "html" / "index.html").read_text().split())
    for told in (
        "2 of 8 sources were not scored",
        "text query: not asked of all sources, because a text needs a source with one label",
        "Compare the column shared, the NSDR on the 2 sources",
    ):
        assert told in said and told in html
    assert "2 of 8" in said.splitlines()[3] and "6 of 8" in said.splitlines()[4] and "<td>2 of 8</td>" in html
    assert (arguments["out"] / "nsdr_by_method.csv").read_text().splitlines()[1].endswith(",2,8,4,0,6.0")


def test_a_further_set_stands_apart(tmp_path):
    arguments = artifacts(tmp_path, others=())
    rows = score_rows("avset", {"text": 6.0})
    rows = [row | {"nsdr": -1.0} if row["mixture_id"] == "m2" else row for row in rows]
    write_table(arguments["scores"] / "avset/scores.parquet", rows)
    drawn = [*mixture_rows(2), mixture_rows(1, "same_category", 2)[0] | {"labels": ["piano", "piano"]}]
    (arguments["scores"] / "avset" / "examples.h5").unlink()
    write_table(arguments["mixtures"] / "mixtures.parquet", drawn[:2])
    own = [row for key, gain in BOUNDS.items() for row in score_rows(key, {"": gain})]
    for name, found in (("mixtures", drawn[2:]), ("scores", [row for row in own if row["mixture_id"] == "m2"])):
        write_table(tmp_path / "sets" / f"{name}.parquet", found)
    write_table(arguments["mixtures"] / "scores.parquet", [row for row in own if row["mixture_id"] != "m2"])
    numbers = write_report(**arguments, sets=tmp_path / "sets", empty={"quartets": "too few clips"})
    assert numbers["avset"]["text"]["nsdr"] == np.mean([5, 6, 7, 5]) and numbers["mixture"]["n"] == 4
    kept = json.loads((arguments["out"] / "metrics.json").read_text())
    assert kept["same_category"]["avset"] == {"text": {"nsdr": -1, "moving": 0.5, "n": 2}}
    assert kept["same_category"].keys() == {"avset", *BOUNDS}
    said = tables.numbers_as_text(numbers)
    assert "one category [dB]" in said and "In 1 of 1 mixtures two sources are of one category" in said
    assert "same_category" not in said, "neither a method nor a fact"
    html = (arguments["out"] / "html" / "index.html").read_text()
    assert html.count("<h2>Separation: one category</h2>") == 1
    assert "same_category" not in (arguments["out"] / "nsdr_by_class.csv").read_text()
    apart = (arguments["out"] / "nsdr_by_set.csv").read_text().splitlines()
    assert apart[1].startswith("same_category,avset,text,-1.0,") and len(apart) == 1 + 5
    assert "quartets: too few clips." in html
    assert json.loads((arguments["out"] / "coverage.json").read_text())["sets"] == {"quartets": "too few clips"}


def test_what_is_missing_or_wrong_is_named(built, tmp_path, monkeypatch):
    arguments, _, out = built
    monkeypatch.chdir(out.parents[2])
    data = Path("data/demo/demo")
    arguments = arguments | {
        "out": tmp_path,
        "scores": data / "scores",
        "models": data / "models",
        "mixtures": data / "mixtures",
    }
    with pytest.raises(MissingArtifact, match=r"ours/scores.parquet is not there; make it with `dvc repro evaluate`"):
        write_report(**arguments | {"methods": ["avset", "ours"]})
    indices = {"clips": data.parent / "clips/index.parquet", "captions": data / "captions/index.parquet"}
    with pytest.raises(MissingArtifact, match="dvc repro captions"):
        write_report(**arguments | {"indices": indices})
    with pytest.raises(AvsetError, match=r"the fact avset\.text\.nsdr would overwrite"):
        write_report(**arguments | {"facts": {"avset": {"text": {"nsdr": 99.0}}}})
    with pytest.raises(AvsetError, match="nothing to report"):
        write_report(**arguments | {"methods": []})
    with pytest.raises(AvsetError, match="cannot be called 'ideal'"):
        separation_means({"ideal": score_rows("ideal", {"text": 1.0})}, score_rows("mixture", {"": 0.0}) * 2, [])
    broken = tmp_path / "examples.h5"
    with h5py.File(broken, "w") as file:
        file.create_group("m0").attrs["labels"] = "[]"
    with pytest.raises(AvsetError, match="is not a file of examples"):
        examples.read(broken)
    with pytest.raises(MissingArtifact, match="dvc repro evaluate"):
        examples.read(data / "scores" / "none" / "examples.h5")


def test_the_typical_example_is_the_median(tmp_path):
    path = tmp_path / "examples.h5"
    with h5py.File(path, "w") as file:
        for i, gain in enumerate((9.0, 1.0, 5.0)):
            write_example(file, f"m{i}", ["violin", "piano"], 2048, i)
            file[f"m{i}/text/nsdr"][...] = gain
    assert typical_example(examples.read(path)).mixture_id == "m2"


def test_a_spectrogram_shows_a_tone_where_the_warped_axis_has_it():
    time = np.arange(16_384) / RATE
    for frequency in (300.0, 1000.0, 4000.0):
        magnitude = plots.magnitude(np.sin(2 * np.pi * frequency * time).astype(np.float32))
        place = np.log(1 + 20 * frequency / (RATE / 2)) / np.log(21) * (plots.BINS - 1)
        assert abs(int(magnitude[:, 20].argmax()) - place) < 2
        loud = plots.loudness(magnitude, float(magnitude.max()))
        assert loud.max() == pytest.approx(1, abs=1e-6)
        assert loud.min() == 0
        picture = plots.coloured(loud).sum(-1)[:, 20]
        assert abs(int(picture.argmax()) - (plots.BINS - 1 - place)) < 2


def test_loudness_is_linear_in_decibels():
    steps = np.array([[1.0, 0.1, 0.01, 0.001, 0.0]], np.float32)
    np.testing.assert_allclose(plots.loudness(steps, 1.0), [[1, 2 / 3, 1 / 3, 0, 0]], atol=1e-5)


def test_a_heat_map_is_hot_in_its_cell_and_grey_elsewhere():
    frame = np.full((90, 90, 3), (20, 160, 90), np.uint8)
    found = plots.heat_map(frame, np.eye(9, dtype=np.float32)[5], (3, 3)).astype(int)
    assert found[45, 75].sum() == found.sum(-1).max()
    assert np.ptp(found[80, 10]) < 5  # far from it: no colour is left


def test_heat_maps_have_one_scale():
    """What is half as present glows half as brightly, whatever else is in the picture; the legend says the same."""
    frame, cell = np.full((90, 90, 3), 80, np.uint8), np.eye(9, dtype=np.float32)[4]
    none, half, full, more = (plots.heat_map(frame, heat * cell, (3, 3)).astype(int) for heat in (0, 0.5, 1, 7))
    assert np.ptp(none) <= 1 and (full == more).mean() > 0.5
    assert none[45, 45].sum() < half[45, 45].sum() < full[45, 45].sum()
    shown = plots.with_legend(full.astype(np.uint8))
    assert shown.shape == (108, 90, 3) and (shown[:90] == full).all()
    bar = plots.legend(400)[0].astype(int).sum(-1)
    assert bar[0] < 10 and bar[-1] > 600 and (np.diff(bar) >= -3).all()


def test_figures_that_are_too_big_lose_resolution(monkeypatch):
    """And no more than they must."""
    figure = plots.Figure(figsize=(4, 4))
    figure.add_subplot().imshow(np.random.default_rng(0).random((600, 600)))
    content = plots.figure_png(figure)
    assert len(content) <= plots.LIMIT
    taken = plots.DOTS.index(Image.open(io.BytesIO(content)).width // 4)
    monkeypatch.setattr(plots, "DOTS", [plots.DOTS[taken - 1]])
    assert taken > 0 and len(plots.figure_png(figure)) > plots.LIMIT


def test_queries_keep_their_order_and_strangers_come_last():
    kinds = ["zither", "caption", "other", "ideal", "word", "absent", "video", "text", "none"]
    shown = examples.ordered(dict.fromkeys(kinds))
    assert shown == ["text", "word", "video", "caption", "none", "zither", "absent", "other"]

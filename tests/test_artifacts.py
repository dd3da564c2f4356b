"""docs/artifacts.md, held to what the stages make: every table, and the examples as they stand."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import toy
from safetensors import safe_open

from avset.errors import REASONS
from avset.params import clips_of
from avset.sources import Entry, clips
from avset.storage.cache import FOLDERS, ItemCache
from avset.storage.items import Item
from avset.storage.shards import bits_of
from avset.storage.store import Store
from avset.storage.tables import read_table, write_table

PAGE = (toy.ROOT / "docs" / "artifacts.md").read_text()
PER_CLIP = ("frames", "spectrograms", "regions", "captions")
METHOD = {"models", "scores"}  # folders of what only the slow tests make
Row = dict[str, str]
KINDS = {"string": str, "integer": int, "number": int | float | None, "boolean": bool, "object": dict, "list": list}


def tables(head: str) -> dict[str, list[Row]]:
    """By the files that its heading names (or the heading itself): the rows of the tables that begin with `head`."""
    found: dict[str, list[Row]] = {}
    names, keys = [""], []
    for line in PAGE.splitlines():
        cells = [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
        if line.startswith("#"):
            names, keys = re.findall("`([^`]+)`", line) or [line.lstrip("# ")], []
        elif not line.startswith("|"):
            keys = []
        elif not keys:
            keys = cells
        elif keys[0] == head and set(line) - set("|-"):
            for name in names:
                found.setdefault(name, []).append({**dict(zip(keys, cells, strict=True)), head: cells[0].strip("`")})
    return found


def pattern(template: str) -> str:
    """`<word>` is a part of a path or of a dotted name, `<…>` anything, `<scores>` one part or two."""
    part = r"[^/]+" if "/" in template else r"[^/.@]+"
    pieces = re.split("(<[^>]*>)", template)
    known = {"<…>": ".+", "<scores>": f"{part}(?:[.]{part})?", "<media_id>": "[^/]+", "<suffix>": "[^/.]+"}
    return "".join(known.get(p, part) if p.startswith("<") else re.escape(p) for p in pieces)


def compare(documented: Iterable[Row], head: str, found: Iterable[str]) -> dict[str, Row]:
    """The row that fits each name best; every name has one, and every row a name, unless it says `only if`."""
    rows, matched = list(documented), {}
    for name in found:
        fits = [row for row in rows if re.fullmatch(pattern(row[head]), name)]
        assert fits, f"{name} is not on the page"
        matched[name] = max(fits, key=lambda row: len(re.sub("<[^>]*>", "", row[head])))
    used = [row[head] for row in matched.values()]
    absent = [r[head] for r in rows if r[head] not in used and not re.search("only if|absent if", r["meaning"])]
    assert not absent, f"on the page, and not made: {absent}"
    return matched


def check_columns(path: Path, name: str, rows: list[Row]) -> None:
    schema = pq.read_schema(path)
    documented = compare(rows, "column", schema.names)
    for field in schema:
        told = re.sub("double", "float64", re.sub("element: ", "", str(field.type)))
        assert told == documented[field.name]["type"], f"{name}: {field.name}"
    nulls = {key: column.null_count for key, column in zip(schema.names, pq.read_table(path).columns, strict=True)}
    assert not [key for key, n in nulls.items() if n and documented[key]["null if"] == "–"], name


def walk(value: Any, whole: list[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a JSON tree, not going into those that the page describes as a whole."""
    if isinstance(value, dict) and value and not any(re.fullmatch(pattern(key), path) for key in whole):
        for key, inner in value.items():
            yield from walk(inner, whole, f"{path}.{key}".lstrip("."))
    else:
        yield path, value


def check_keys(tree: dict[str, Any], rows: list[Row]) -> None:
    found = dict(walk(tree, [row["key"] for row in rows if row["type"] == "object"]))
    for name, row in compare(rows, "key", found).items():
        assert isinstance(found[name], KINDS[row["type"]]), f"{name} is no {row['type']}"


def datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    group.visititems(lambda name, value: found.update({name: value} if isinstance(value, h5py.Dataset) else {}))
    return found


def check_datasets(found: dict[str, h5py.Dataset], rows: list[Row], sizes: dict[str, int]) -> None:
    """Types, contiguity, and letters, each of which stands for one size."""
    for name, row in compare(rows, "dataset", found).items():
        dataset, axes = found[name], row["axes"].split()
        assert (dataset.dtype, dataset.ndim) == (row["type"], len(axes)), name
        assert dataset.chunks is None and dataset.compression is None
        for letter, size in zip(axes, dataset.shape, strict=True):
            assert sizes.setdefault(letter, size) == size, f"{name}: {letter}"


def files(root: Path, slow: bool) -> dict[str, Path]:
    """By the names of the page, the files in `root`, and those of the clips beside it."""
    clips = clips_of(root)
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    found |= {f"clips/{path.relative_to(clips).as_posix()}": path for path in clips.rglob("*")}
    return {n: path for n, path in found.items() if path.is_file() and (n.split("/")[0] in METHOD) == slow}


def check_files(root: Path, slow: bool, documented: list[Row], folder: str = "") -> None:
    """Each file is on the page; each that has tables of its own there is as they say. `folder`: those in it alone."""
    rows = [{**row, "meaning": row["holds"]} for row in documented if (row["file"].split("/")[0] in METHOD) == slow]
    found = {name: path for name, path in files(root, slow).items() if name.startswith(folder)}
    for name, row in compare(rows, "file", found).items():
        if name.endswith(".parquet"):
            check_columns(found[name], name, tables("column")[row["file"]])
        elif name.endswith(".json"):
            check_keys(json.loads(found[name].read_text()), tables("key")[row["file"]])


def listed(folder: str) -> list[Row]:
    """The rows of the table of files that begins with a file of `folder`."""
    return [row for row in tables("file")["Files"] if (row["stage"] == "report") == (folder == "reports")]


def test_every_file_column_and_key_is_documented_and_no_other(toy_data: Path):
    check_files(toy_data / "data" / "demo" / "demo", False, listed("data"))


def test_every_array_is_documented_and_no_other(toy_data: Path):
    data, sizes = toy_data / "data" / "demo" / "demo", {}
    for stage in PER_CLIP:
        for path in sorted((data / stage / "shards").iterdir()):
            with h5py.File(path) as file:
                assert not file.attrs
                for clip, group in file.items():
                    assert not group.attrs and bits_of(clip).startswith(path.stem)
                    rows = tables("dataset")[f"{stage}/shards/<shard>.h5"]
                    check_datasets(datasets(group), rows, sizes)
                    for row in rows:
                        dataset = group[row["dataset"]]
                        assert [axis.label for axis in dataset.dims] == row["axes"].split()
                        assert list(dataset.attrs) == ["DIMENSION_LABELS"]
    assert sizes["H"] == sizes["W"] and (sizes["C"], sizes["plane"], sizes["K"]) == (3, 2, 3)
    assert sizes["F"] == 1022 // 2 + 1 and sizes["T"] == 1 + sizes["L"] // 256
    encoder = json.loads((data / "encoder" / "encoder.json").read_text())
    assert sizes["R"] == np.prod(encoder["grid"])
    assert (sizes["D"], sizes["E"]) == (encoder["embedding"], encoder["token_width"])
    assert sizes["S"] == 1 + read_table(data / "captions" / "index.parquet")[0]["steps"] // 10
    letters = {row["letter"] for row in tables("letter")["Names and letters"]}
    assert set(sizes) <= {letter for told in letters for letter in told.split(", ")}


def test_the_encoders_tensors_are_documented(toy_data: Path):
    check_tensors(
        toy_data / "data" / "demo" / "demo" / "encoder" / "weights.safetensors", "encoder/weights.safetensors"
    )


def check_tensors(path: Path, name: str) -> None:
    with safe_open(str(path), "numpy") as file:
        found = {key: str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118
    for key, row in compare(tables("tensor")[name], "tensor", found).items():
        assert found[key] in row["type"].split(", "), key


def test_columns_are_null_where_the_page_says(toy_data: Path, tmp_path: Path):
    """In the rows of clips that failed, by themselves or upstream."""
    entries = [Entry("a", "train", ("x",), "a.mp4"), Entry("b", "test", (), "b.mp4", fault="no such time")]
    failed = [row for e in entries for row in clips.index_rows(e, Item(reason="removed"), None, 1.0)]
    write_table(tmp_path / "index.parquet", failed, clips.INDEX)
    folder = toy.clone(toy_data, tmp_path / "project")
    index = folder / "data" / "demo" / "demo" / "regions" / "index.parquet"
    rows = read_table(index)
    rows[3] |= {"status": "failed", "reason": "corrupt"}
    write_table(index, rows)
    toy.seal(index.parent)
    toy.run(folder, toy.clone(toy_data.parent / "cache", tmp_path / "cache"), "captions")
    captions = folder / "data" / "demo" / "demo" / "captions" / "index.parquet"
    for name, path, mine in (
        ("clips/index.parquet", tmp_path / "index.parquet", failed),
        ("captions/index.parquet", captions, [rows[3]]),
    ):
        documented = {row["column"]: row["null if"] for row in tables("column")[name]}
        ids = {row["clip_id"] for row in mine}
        for row in (row for row in read_table(path) if row["clip_id"] in ids):
            assert row["status"] == "failed" and row["reason"] in REASONS
            assert {key for key, value in row.items() if value is None} == {
                key for key, when in documented.items() if when != "–"
            }
        assert set(documented.values()) <= {"–", "failed", "upstream"}


def test_identities_are_made_as_the_page_says(toy_data: Path):
    data = toy_data / "data" / "demo" / "demo"
    encoder = hashlib.sha256((data / "encoder" / "encoder.json").read_bytes()).hexdigest()
    weights = hashlib.sha256((data / "encoder" / "weights.safetensors").read_bytes()).hexdigest()
    assert json.loads((data / "encoder" / "encoder.json").read_text())["sha256"] == weights
    assert {Store(data / stage).record.inputs["encoder"] for stage in ("regions", "captions")} == {encoder}
    told = json.loads((data / "spectrograms" / "record.json").read_text())
    record = json.dumps({k: v for k, v in told.items() if k not in ("files", "sha256")}, indent=2, sort_keys=True)
    text = [f"{record}\n".encode(), (data / "spectrograms" / "index.parquet").read_bytes()]
    mixtures = json.loads((data / "mixtures" / "record.json").read_text())
    assert mixtures["inputs"] == {"spectrograms": hashlib.sha256(b"".join(text)).hexdigest()}
    for row in read_table(clips_of(data) / "index.parquet"):
        assert row["clip_id"] == f"{row['media_id']}_{round(row['origin_start_s'] * 1000)}"
        first = hashlib.sha256(row["clip_id"].encode()).digest()
        assert bits_of(row["clip_id"]) == "".join(f"{byte:08b}" for byte in first[:8])


def test_the_cache_is_laid_out_as_the_page_says(toy_data: Path):
    root = toy_data.parent / "cache"
    templates = [row["path"] for row in tables("path")["The item cache"]]
    digits = {"<2>": "[0-9a-f]{2}", "<62>": "[0-9a-f]{62}", "<64>": "[0-9a-f]{64}", "<suffix>": r"\.\w+", "<…>": ".+",
              "<stage>": "[a-z]+", "<bits>": "[01]{4,}"}  # fmt: skip
    pieces = [re.split("(<[^>]*>)", template) for template in templates]
    patterns = ["".join(digits.get(p, re.escape(p)) for p in split) for split in pieces]
    found = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    used = {next(t for t, p in zip(templates, patterns, strict=True) if re.fullmatch(p, name)) for name in found}
    assert {template.split("/")[0] for template in templates} == {*FOLDERS, ".fetch-<…>"}
    drawn = {"items", "shards", "fetched", "media"}  # the demo's source reads no net, and nothing was killed
    assert {template.split("/")[0] for template in used} == drawn
    assert not {t for t in set(templates) - used if t.split("/")[0] in drawn}
    path = next(root / name for name in found if name.startswith("items/"))
    data = path.read_bytes()
    assert hashlib.sha256(data[32:]).digest() == data[:32]
    header = json.loads(data[40 : 40 + int.from_bytes(data[32:40], "little")])["__metadata__"]
    fields, reason, detail = json.loads(header["item"])
    item, _ = ItemCache(root).get(path.parent.name + path.name) or (None, "")
    assert item and (item.fields, item.reason, item.detail) == (fields, reason, detail)


def test_the_examples_run_as_they_stand(toy_data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(toy_data)
    alone, ours = re.findall("```python\n(.*?)```", PAGE, re.DOTALL)
    for code, ok in ((alone, 4), (ours, 10)):
        lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
        assert len(lines) <= ok, "short"
    found: dict[str, Any] = {}
    exec(alone, found)
    store = Store(Path("data/demo/demo/regions"))
    assert np.array_equal(found["regions"], store.read(store.clips[0], "regions"))
    found = {}
    exec(ours, found)
    assert found["spectrum"].shape == (40, 512) and np.abs(found["waveform"]).max() <= 1
    assert np.abs(found["spectrum"]).max() > 0.1
    assert found["embeddings"].shape == (len(store.clips), 128) and found["labels"].keys() == store.rows.keys()


@pytest.mark.slow
def test_models_scores_and_reports_are_documented(scored: Path):
    data = scored / "data" / "demo" / "demo"
    check_files(data, True, listed("data"))
    check_files(scored / "reports" / "demo" / "demo", False, listed("reports"))
    for row in listed("reports"):
        if row["file"].endswith(".csv"):
            head = (scored / "reports" / "demo" / "demo" / row["file"]).read_text().splitlines()[0]
            assert head.split(",") == re.findall("`(.+?)`", row["holds"])
    curve = next((data / "models").rglob("loss.tsv"))
    assert curve.read_text().split("\n")[0] == "step\tloss"


@pytest.mark.slow
def test_the_checkpoint_is_documented(scored: Path):
    path, name = (
        scored / "data" / "demo" / "demo" / "models" / "avset" / "model.safetensors",
        "models/<method>/model.safetensors",
    )
    check_tensors(path, name)
    with safe_open(str(path), "numpy") as file:
        assert list(file.metadata()) == ["model"]
        check_keys(json.loads(file.metadata()["model"]), tables("key")[name])


@pytest.mark.slow
def test_the_listening_examples_are_documented(scored: Path):
    name = "scores/<method>/examples.h5"
    with h5py.File(scored / "data" / "demo" / "demo" / "scores" / "avset" / "examples.h5") as file:
        sizes: dict[str, int] = {}
        found = datasets(file)
        check_datasets(found, tables("dataset")[name], sizes)
        attributes = {f"{mixture}@{key}": value for mixture in file for key, value in file[mixture].attrs.items()}
        for mixture in file:
            for kind, group in file[mixture].items():
                attributes |= {f"{mixture}/{kind}@{key}": value for key, value in group.attrs.items()}
                assert {f"{mixture}/ideal/attention", f"{mixture}/ideal/nsdr"}.isdisjoint(found)
        for key, row in compare(tables("attribute")[name], "attribute", attributes).items():
            value = json.loads(attributes[key]) if row["type"] == "JSON" else attributes[key]
            assert isinstance(value, {"JSON": list, "integer": np.integer}[row["type"]])
            if key.endswith("@grid"):
                assert np.prod(value) == sizes["R"]


def test_the_parser_sees_what_is_missing_and_what_is_too_much():
    rows = [{"column": "a", "meaning": ""}, {"column": "<…>.b", "meaning": ""}, {"column": "c", "meaning": "only if x"}]
    assert list(compare(rows, "column", ["a", "x.y.b"])) == ["a", "x.y.b"]
    with pytest.raises(AssertionError, match="z is not on the page"):
        compare(rows, "column", ["a", "x.b", "z"])
    with pytest.raises(AssertionError, match=r"not made: \['a'\]"):
        compare(rows, "column", ["x.b"])
    assert {"clips/index.parquet", "captions/index.parquet", "scores/<method>/scores.parquet"} <= tables(
        "column"
    ).keys()

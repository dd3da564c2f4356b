"""params.yaml: a data set and a scale, complete and strict; every error names its key, and its layout is DVC's."""

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from avset import params
from avset.errors import ParamsError
from avset.sources.clips import load_source

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "params.yaml").read_text()
TREE = yaml.safe_load(TEXT)


def changed(*changes: tuple[str, object]) -> dict:
    """The project's own parameters with some values changed (or removed, if they are ...), by path."""
    tree = copy.deepcopy(TREE)
    for path, value in changes:
        *above, last = path.split("/")
        node = tree
        for key in above:
            node = node[key]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return tree


@pytest.mark.parametrize("scale", sorted(TREE["scales"]))
@pytest.mark.parametrize("dataset", sorted(TREE["datasets"]))
def test_every_data_set_is_complete_at_every_scale(dataset: str, scale: str):
    p = params.resolve(changed(("dataset", dataset), ("scale", scale)))
    assert (p.dataset, p.scale) == (dataset, scale)
    assert p.spectrograms.window_length == 1022
    assert p.clips.source == TREE["datasets"][dataset]["clips"]["source"]
    assert p.captions.steps == TREE["scales"][scale]["captions"]["steps"]


def test_clips_are_those_of_all_scales_and_everything_else_is_apart():
    demo, paper = (params.resolve(changed(("scale", scale))) for scale in ("demo", "paper"))
    assert demo.clips_folder == paper.clips_folder == Path("data/demo/clips")
    assert (demo.data, paper.data) == (Path("data/demo/demo"), Path("data/demo/paper"))
    assert (demo.reports, paper.reports) == (Path("reports/demo/demo"), Path("reports/demo/paper"))


@pytest.mark.parametrize(
    ("path", "stage"),
    [("data/a/clips/media/x.mp4", "clips"), ("data/a/b/regions", "regions"), ("data/a/b/models/avset", "train"),
     ("data/a/b/scores/avset/facts.json", "evaluate"), ("data/a/b", ""), ("data", ""), ("videos/a/b/regions", "")],
)  # fmt: skip
def test_a_path_tells_its_stage(path: str, stage: str):
    assert params.stage_of(Path(path)) == stage


def test_a_data_set_of_ones_own_is_five_lines():
    own = """
        clips: {source: folder, options: {path: films}, length: null, min_success: 0.5}
        captions: {per: clip}
        mixtures: {different_category: false}
    """
    p = params.resolve(changed(("datasets/films", yaml.safe_load(own)), ("dataset", "films")))
    assert p.data == Path("data/films/demo") and p.mixtures.test == 66


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("dataset", "muzic", r"dataset: 'muzic' is not one of audioset, .*, vggsound; did you mean music\?"),
        ("dataset", ["demo"], r"dataset: \['demo'\] is not one of"),
        ("scale", "papers", r"scale: 'papers' is not one of demo, paper; did you mean paper\?"),
        ("methods/avzet", "pipeline/avset/models/avset.py", r"methods: 'avzet' is not one of avset, "),
        (
            "methods/avset",
            "pipeline/avset/models/unet.py",
            r"methods\.avset: '.*unet\.py' is not the file of avset\.models\.",
        ),
        ("methods", ["avset"], r"methods: must be a mapping"),
        ("presets/avset/kind", "avzet", r"presets\.avset\.kind: 'avzet' is not one of avset, nmf_mfcc"),
        ("presets/avset/kind", ..., r"presets\.avset\.kind: missing"),
        (
            "presets/avset/kind",
            "no.such",
            r"presets\.avset\.kind: 'no\.such' is no module with .* \(No module named 'no'\)",
        ),
        ("presets/avset/kind", "pathlib", r"presets\.avset\.kind: 'pathlib' is not one of"),
        ("presets/nmf_mfcc/lr", 1, r"presets\.nmf_mfcc\.lr: unknown key; "),
        ("captions/tokens", 0, r"captions\.tokens: .*greater than or equal to 1, not 0"),
        ("captions/tokens", ..., r"captions\.tokens: missing"),
        ("captions/steps", 5, r"captions\.steps: stands in captions and in scales\.demo\.captions; keep one"),
        ("scales/demo/captions/per", "clip",
         r"captions\.per: stands in datasets\.demo\.captions and in scales\.demo\.captions; keep one"),
        ("captions", 3, r"captions: must be a mapping, not 3"),
        ("datasets/demo", "x", r"datasets\.demo: must be a mapping, not 'x'"),
        ("scales/demo/captions/lr", ..., r"captions\.lr: missing from params\.yaml"),
        ("scales/demo/frames/size", "big", r"scales\.demo\.frames\.size: .*integer, not 'big'"),
        ("scales/demo/frame", {}, r"scales\.demo: 'frame' is not one of .*; did you mean frames\?"),
        ("presets/avset/losses/trimodal", -1, r"presets\.avset\.losses\.trimodal: .*greater"),
        ("presets/avset/norm", "layer", r"presets\.avset\.norm: .*'group' or 'batch', not 'layer'"),
        ("runtime/executor", "slurm", r"runtime\.executor: .*'inline', 'processes' or 'ray'"),
        ("runtime", ..., r"runtime: missing"),
        ("caption", {}, r"top level: 'caption' is not one of .*; did you mean captions\?"),
    ],
)  # fmt: skip
def test_an_error_names_its_key(path: str, value: object, said: str):
    with pytest.raises(ParamsError, match=said):
        params.resolve(changed((path, value)))


@pytest.mark.parametrize(
    ("added", "removed", "said"),
    [
        ("captions/stepz", "", r"captions.stepz: unknown key; did you mean captions.steps (scales.demo.captions)?"),
        ("scales/demo/captions/stepz", "scales/demo/captions/steps",
         "scales.demo.captions.stepz: unknown key; did you mean scales.demo.captions.steps?"),
        ("captions/token", "captions/tokens", "captions.token: unknown key; did you mean captions.tokens?"),
        ("runtime/download/pase", "runtime/download/pace",
         "runtime.download.pase: unknown key; did you mean runtime.download.pace?"),
        ("presets/paper/losses/trimodel", "presets/paper/losses/trimodal",
         "presets.paper.losses.trimodel: unknown key; did you mean presets.paper.losses.trimodal?"),
        ("datasets/demo/mixtures/x", "", "datasets.demo.mixtures.x: unknown key; known here: n_sources, validation"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_named_itself_with_the_nearest(added: str, removed: str, said: str):
    """Also where that makes another key missing."""
    tree = changed((added, 1), *([(removed, ...)] if removed else []))
    with pytest.raises(ParamsError) as refused:
        params.resolve(tree)
    assert str(refused.value).startswith(said)


def test_a_misspelt_option_of_a_source_is_named_with_the_nearest():
    with pytest.raises(ParamsError, match=r"^clips\.options\.heigth: unknown key; did you mean clips\.options\.height"):
        load_source("music", {"heigth": 240})
    with pytest.raises(
        ParamsError, match=r"^clips\.options\.max_per_class\.trein: .*clips\.options\.max_per_class\.tr"
    ):
        load_source("audioset", {"max_per_class": {"trein": 5}})


def test_no_scale_has_the_name_of_the_clips_folder():
    with pytest.raises(ParamsError, match=r"scale: 'clips' is the folder"):
        params.resolve(changed(("scales/clips", TREE["scales"]["demo"]), ("scale", "clips")))


@pytest.mark.parametrize("dataset", sorted(TREE["datasets"]))
def test_options_of_a_source_are_set_without_a_plus(dataset: str):
    """All stand in params.yaml, but addresses and tables of names."""
    told = TREE["datasets"][dataset]["clips"]
    fields = import_module(f"avset.sources.{told['source']}").Options.model_fields
    long = {name for name, field in fields.items() if isinstance(field.default, str | dict) or name == "extensions"}
    assert fields.keys() - long <= told["options"].keys()


def modified(tmp_path: Path, key: str, value: Any) -> list[tuple[str, str]]:
    """The lines of params.yaml that `dvc exp run -S key=value` changes: before and after."""
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    apply_overrides(path, [f"{key}={value}"])
    before, after = TEXT.splitlines(), path.read_text().splitlines()
    return [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "folder"), ("scale", "paper"), ("methods.avset", "elsewhere/avset.py"), ("runtime.workers", 7),
        ("runtime.download.cookies", "cookies.txt"), ("clips.silence", -50), ("spectrograms.precision", "float32"),
        ("regions.positional", "false"), ("captions.tokens", 2), ("mixtures.seed", 3), ("train.decoded_frames", 2),
        ("evaluate.prompts.word", "a"), ("datasets.demo.clips.options.test_per_label", 3),
        ("datasets.folder.clips.options.path", "/where/your/videos/are"), ("datasets.folder.clips.length", "null"),
        ("datasets.music21.captions.per", "clip"), ("scales.demo.train.steps", 300), ("scales.paper.frames.size", 112),
        ("scales.paper.encoder.weights", "laion"), ("presets.avset.losses.trimodal", 0), ("presets.paper.lr", "1e-3"),
    ],
)  # fmt: skip
def test_a_change_by_dvc_changes_one_line(tmp_path: Path, key: str, value: Any):
    ((before, after),) = modified(tmp_path, key, value)
    assert before.partition("#")[2] == after.partition("#")[2], "the comment stays"
    tree = yaml.safe_load((tmp_path / "params.yaml").read_text())
    for name in key.split("."):
        tree = tree[name]
    assert tree == yaml.safe_load(str(value)) or tree == float(value)


def test_nothing_changed_by_dvc_changes_nothing(tmp_path: Path):
    assert modified(tmp_path, "captions.tokens", TREE["captions"]["tokens"]) == []


def test_files_that_are_no_parameters(tmp_path: Path):
    with pytest.raises(ParamsError, match="run from the top folder"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(ParamsError, match="not valid YAML"):
        params.load(tmp_path / "params.yaml")


def test_digest_is_of_the_content_alone():
    assert params.digest({"a": 1, "b": [2]}) == params.digest({"b": [2], "a": 1})
    assert params.digest({"a": 1}) != params.digest({"a": 1.5})

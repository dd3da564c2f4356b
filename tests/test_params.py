"""params.yaml: a data set and a scale, complete and strict; every error names its key, and its layout is DVC's."""

import copy
import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from avset import params, values
from avset.architecture import known
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
     ("data/a/b/scores/avset/facts.json", "evaluate"), ("data/a/b", ""),
     ("data/a/b/tower", "systems/dvc.yaml:tower"), ("data", ""), ("videos/a/b/regions", "")],
)  # fmt: skip
def test_a_path_tells_its_stage(path: str, stage: str):
    assert params.stage_of(Path(path)) == stage


@pytest.mark.parametrize(
    "name", ["a;b", "a b", "$(a)", "a\nb", "a\n", "-a", "a/b", "..", "", "`a`", "a|b", "'a", "a@b"]
)
def test_no_name_has_a_letter_that_a_shell_or_a_path_reads(name: str):
    tree = changed()
    tree["presets"][name] = TREE["presets"]["avset"]
    tree["methods"][name] = "pipeline/avset/models/avset.py"
    with pytest.raises(ParamsError, match="letters, digits, - and _ only"):
        params.resolve(tree)
    for axis in ("dataset", "scale"):
        tree = changed((axis, name))
        tree[f"{axis}s"][name] = TREE[f"{axis}s"]["demo"]
        with pytest.raises(ParamsError, match="letters, digits, - and _ only"):
            params.resolve(tree)


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
        ("presets/avset/kind", "avzet", r"presets\.avset\.kind: 'avzet' is not one of avset, avsgs"),
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
        ("scales/demo/sets/further/three/lists", "scales/demo/sets/further/three/seed",
         "scales.demo.sets.further.three.lists: unknown key; did you mean scales.demo.sets.further.three.list?"),
        ("scales/demo/sets/further/three/counts", "scales/demo/sets/further/three/count",
         "scales.demo.sets.further.three.counts: unknown key; did you mean scales.demo.sets.further.three.count?"),
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


def test_a_folder_without_a_table_has_no_labels_that_differ():
    p = params.resolve(changed(("dataset", "folder"), ("datasets/folder/mixtures/different_category", True)))
    with pytest.raises(ParamsError, match=r"datasets\.folder\.mixtures\.different_category: .*table has no labels"):
        params.check_options(p)


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


PROMPTS, TRAIN, CROP = "evaluate/prompts", "scales/demo/train", "scales/demo/model/crop"


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        # prompts
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "a {instrument} plays"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "{label} and {other}"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "{label.upper}"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "{label[0]}"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "{label!r}"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "{label:>9}"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "a {}"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "a violin"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": "{{label}}"}}),
        (r"evaluate\.prompts\.text: .*\{label\}, and no other", {PROMPTS: {"text": ""}}),
        (r"evaluate\.prompts\.text: .*brace", {PROMPTS: {"text": "a {label plays"}}),
        (r"evaluate\.prompts\.text: .*brace", {PROMPTS: {"text": "a {label} plays}"}}),
        (r"evaluate\.prompts\.text: .*string, not None", {PROMPTS: {"text": None}}),
        (r"evaluate\.prompts\.long: has 76 words; .* at most 75", {PROMPTS: {"long": "a " * 75 + "{label}"}}),
        *((rf"evaluate\.prompts\.{name}: .*name of another", {PROMPTS: {name: "{label}"}})
          for name in ("video", "caption", "sound", "oracle", "mixture", "ideal", "chance", "Video")),
        (r"evaluate\.prompts\.a/b: .*letters", {PROMPTS: {"a/b": "{label}"}}),
        (r"evaluate\.prompts\.: .*letters", {PROMPTS: {"": "{label}"}}),
        (r"evaluate\.prompts: .*at least 1", {PROMPTS: {}}),
        (r"evaluate\.prompts: .*dict", {PROMPTS: None}),
        # sizes
        (r"scales\.demo\.model\.crop: .*5 times.* multiple of 32, like 64, not 60", {CROP: 60}),
        (r"scales\.demo\.model\.log_bins: .* multiple of 32, like 96, not 100", {"scales/demo/model/log_bins": 100}),
        (r"scales\.demo\.model\.log_bins: .*not 16", {"scales/demo/model/log_bins": 16, CROP: 16}),
        (r"scales\.demo\.model\.crop: .*presets\.avset\.norm is batch",
         {"scales/demo/model/log_bins": 32, CROP: 32, f"{TRAIN}/batch_size": 1, f"{TRAIN}/workers": 1,
          "presets/avset/norm": "batch"}),
        (r"model\.channels\.1: .*greater", {"scales/demo/model/channels": [12, 0]}),
        (r"model\.channels: .*at least 1", {"scales/demo/model/channels": []}),
        *((r"spectrograms\.hop_length: must be below window_length = 1022", {"spectrograms/hop_length": hop})
          for hop in (1022, 4096)),
        (r"spectrograms\.hop_length: .*below", {"spectrograms/hop_length": 4095, "spectrograms/window_length": 4096}),
        (r"spectrograms\.sample_rate: .*384000", {"spectrograms/sample_rate": 10**9}),
        (r"train\.decoded_frames: a clip has 1 \(frames\.count\), not 2", {"train/decoded_frames": 2}),
        (r"train\.decoded_regions: the encoder sees 16 regions", {"train/decoded_regions": 17}),
        (r"train\.decoded_regions: the encoder sees 49 regions", {"train/decoded_regions": 50, "scale": "paper"}),
        (r"train\.decoded_regions: presets\.avset\.level is video",
         {"train/decoded_regions": 2, "presets/avset/level": "video"}),
        (r"captions\.tokens: the encoder reads at most 75", {"captions/tokens": 76}),
        # numbers
        (r"train\.gain: must go from", {"train/gain": [1.5, 0.5]}),
        (r"train\.gain: must go from", {"train/gain": [-1, 0.5]}),
        (r"train\.gain: must go from", {"train/gain": [0, 0]}),
        (r"train\.gain: .*at most 2", {"train/gain": [0.5, 1, 2]}),
        (r"train\.gain\.1: .*missing|train\.gain\.1", {"train/gain": [0.5]}),
        *((rf"{key.replace('/', '.')}: .*greater than or equal to 0, not -1", {key: -1})
          for key in ("train/seed", "mixtures/seed", "presets/nmf_mfcc/seed", "runtime/download/retries")),
        *((rf"{key.replace('/', '.')}: .*not 0", {key: 0})
          for key in (f"{TRAIN}/steps", f"{TRAIN}/batch_size", f"{TRAIN}/validate_every", f"{TRAIN}/threads",
                      "scales/demo/train/workers", "scales/demo/regions/batch_size", "scales/demo/captions/batch_size",
                      "scales/demo/captions/steps", "scales/demo/captions/lr", "scales/demo/mixtures/test",
                      "scales/demo/frames/count", "scales/demo/frames/spacing", "scales/demo/evaluate/examples",
                      "runtime/workers", "runtime/time_limit", "runtime/download/workers", "clips/min_seconds",
                      "clips/silence", "train/decoded_frames", "presets/avset/lr", "presets/nmf_mfcc/templates")),
        (r"train\.validate_every: must be at most train\.steps = 100, not 400", {f"{TRAIN}/steps": 100}),
        (r"train\.workers: 3 do not divide", {"scales/demo/train/workers": 3}),
        *((rf"{key.replace('/', '.')}: must be a finite number", {key: value})
          for value in (float("nan"), float("inf"), -float("inf"), 1e39)
          for key in ("presets/avset/lr", "clips/silence", "datasets/folder/clips/length")),
        *((rf"{key.replace('/', '.')}: .*less than or equal to", {key: 10**15})
          for key in ("runtime/time_limit", "runtime/memory_limit", "runtime/workers", "runtime/download/timeout",
                      "runtime/download/pace", f"{TRAIN}/threads", "scales/demo/frames/count", CROP)),
        (r"train\.gain\.1: must be a finite", {"train/gain": [0.5, float("inf")]}),
        (r"mixtures\.seed: must be an integer of 64 bits; this one has 64", {"mixtures/seed": 2**63}),
        (r"presets\.avset\.lr: must be an integer of 64 bits", {"presets/avset/lr": 10**400}),
        (r"captions\.tokens: .*integer, not True", {"captions/tokens": True}),
        (r"captions\.tokens: .*integer, not '3'", {"captions/tokens": "3"}),
        (r"captions\.tokens: .*integer, not 3\.5", {"captions/tokens": 3.5}),
        (r"captions\.tokens: .*not None", {"captions/tokens": None}),
        (r"regions\.positional: .*boolean, not 'yes'", {"regions/positional": "yes"}),
        (r"regions\.positional: .*boolean, not 1", {"regions/positional": 1}),
        (r"presets\.avset\.shared_encoder: .*boolean, not 'on'", {"presets/avset/shared_encoder": "on"}),
        (r"clips\.options\.date: a date is no parameter; write '2020-01-01' in quotes",
         {"datasets/demo/clips/options/date": datetime.date(2020, 1, 1)}),
        (r"runtime\.gpus_per_worker: a worker gets whole GPUs", {"runtime/gpus_per_worker": 1.5}),
        (r"runtime\.gpus_per_worker: Ray hides", {"runtime/executor": "ray", "runtime/device": "cuda"}),
        (r"clips\.length: all clips of 0\.5 s would be shorter", {"datasets/demo/clips/length": 0.5}),
        (r"presets\.avset\.losses: all weights are zero",
         {"presets/avset/losses": dict.fromkeys(("mask", "caption", "audio_language", "trimodal"), 0)}),
        (r"presets\.nmf_mfcc\.coefficients: .*25", {"presets/nmf_mfcc/coefficients": 26}),
        (r"presets\.nmf_mfcc\.templates: 1 make no 2 sounds",
         {"presets/nmf_mfcc/templates": 1, "methods": {"nmf_mfcc": "pipeline/avset/models/nmf_mfcc.py"}}),
        # names and files
        (r"methods\.avset: '\./x/avset/models/avset\.py' is not there",
         {"methods/avset": "./x/avset/models/avset.py"}),
        (r"methods\.avset: None is not the file", {"methods/avset": None}),
        (r"methods: must be a mapping", {"methods": {}}),
        (r"methods: must be a mapping", {"methods": None}),
        (r"methods: 'ideal' is another entry",
         {"presets/ideal": TREE["presets"]["avset"], "methods": {"ideal": "pipeline/avset/models/avset.py"}}),
        (r"methods: 'a\.b' must have letters",
         {"presets/a.b": TREE["presets"]["avset"], "methods": {"a.b": "pipeline/avset/models/avset.py"}}),
        (r"dataset: '\.\.' must have letters", {"datasets/..": TREE["datasets"]["demo"], "dataset": ".."}),
        (r"scale: 'a b' must have letters", {"scales/a b": TREE["scales"]["demo"], "scale": "a b"}),
        (r"datasets\.1: a key must be text", {"datasets": {1: TREE["datasets"]["demo"]}, "dataset": 1}),
        (r"dataset: None is not one of", {"dataset": None}),
        (r"datasets\.music\.clips\.lenght: unknown key; did you mean datasets\.music\.clips\.length\?",
         {"datasets/music/clips/lenght": 10}),
        (r"scales\.paper: 'trains' is not one of .*; did you mean train\?", {"scales/paper/trains": {}}),
        (r"encoder\.weights: .*at least 1", {"scales/demo/encoder/weights": ""}),
    ],
)  # fmt: skip
def test_what_can_be_known_is_refused_before_a_stage_runs(said: str, changes: dict[str, object]):
    with pytest.raises(ParamsError, match=said):
        params.resolve(changed(*changes.items()))


@pytest.mark.parametrize(
    ("code", "said"),
    [("1 / 0", r"\(division by zero\)"), ("class Settings: ...", "'Method'"),
     ("class Settings: ...\nMethod = None", "must derive from")],
)  # fmt: skip
def test_a_module_that_is_no_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str):
    package = f"own{len(code)}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "kind.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ParamsError, match=rf"presets\.avset\.kind: .*{package}\.kind.* {said}"):
        params.resolve(changed(("presets/avset/kind", f"{package}.kind")))


@pytest.mark.parametrize(
    "changes",
    [
        {CROP: 60, "methods": {"nmf_mfcc": "pipeline/avset/models/nmf_mfcc.py"}},
        {"scales/demo/model/log_bins": 32, CROP: 32, "presets/avset/norm": "batch"},
        {"train/gain": [1, 1]}, {"train/gain": [0, 1]}, {"presets/avset/lr": 1}, {"captions/tokens": 75},
        {"train/decoded_regions": 16, "train/decoded_frames": 1, "presets/avset/level": "region"},
        {"spectrograms/hop_length": 511},
        {PROMPTS: {"Hören": "{{so}} klingt {label}, {label}"}}, {"scales/demo/encoder/architecture": "hf-hub:a/b"},
        {"presets/ideal": TREE["presets"]["avset"]}, {"runtime/gpus_per_worker": 0.5}, {"runtime/gpus_per_worker": 2},
    ],
)  # fmt: skip
def test_what_is_right_is_taken(changes: dict[str, object]):
    params.resolve(changed(*changes.items()))


@pytest.mark.parametrize(
    "value",
    ["011025", "1e-3", "1e3", "0o17", "0x1F", "0b11", "1_000", "1:30", "1:30.5", "yes", "on", "Off", "y", "~", ".5",
     "5.", "+5", ".inf", "null", "2020-01-01", "1e400", "!!str 5", "'5'", "{a: 1, b: [2]}", "NO", "True", "|\n  x"],
)  # fmt: skip
def test_a_file_says_to_the_stages_what_it_says_to_dvc(tmp_path: Path, value: str):
    from dvc.utils.serialize import load_yaml

    path = tmp_path / "params.yaml"
    path.write_text(f"a: {value}\n")
    assert repr(values.read(path)) == repr(load_yaml(path))


@pytest.mark.parametrize(
    ("said", "old", "new"),
    [
        (r'found duplicate key "tokens" .*line', "  tokens: 3", "  tokens: 3\n  tokens: 4"),
        (r'found duplicate key "captions"', "captions:\n  tokens", "captions:\nmodel:\ncaptions:\n  tokens"),
        (r"captions\.tokens: .*integer, not '1:30'", "tokens: 3", "tokens: 1:30"),
        (r"regions\.positional: .*boolean, not 'yes'", "positional: true", "positional: yes"),
        (r"captions\.tokens: a date is no parameter", "tokens: 3", "tokens: 2020-01-01"),
        (r"captions\.tokens: a set is no parameter", "tokens: 3", "tokens: !!set {a}"),
        (r"captions\.tokens: must be a finite number", "tokens: 3", "tokens: .nan"),
        (r"captions\.tokens: must be an integer of 64 bits", "tokens: 3", "tokens: 99999999999999999999"),
        (r"not valid YAML: .*month", "tokens: 3", "tokens: 2020-13-01"),
        (r"not valid YAML: .*5000 digits|not valid YAML: .*digit", "tokens: 3", f"tokens: {'9' * 5000}"),
        (r"lies too deep, or in itself", "tokens: 3", "tokens: &a [*a]"),
        (r"not valid YAML: could not determine a constructor", "tokens: 3", "tokens: !!python/name:os.system"),
        (r"True: a key must be text|captions\.True", "tokens: 3", "true: 3"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_refused_with_its_place(tmp_path: Path, said: str, old: str, new: str):
    assert TEXT.count(old) == 1
    (tmp_path / "params.yaml").write_text(TEXT.replace(old, new))
    with pytest.raises(ParamsError, match=said):
        params.load(tmp_path / "params.yaml")


def test_a_sample_rate_with_a_leading_zero_is_what_dvc_reads(tmp_path: Path):
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    (tmp_path / "params.yaml").write_text(TEXT.replace("sample_rate: 11025", "sample_rate: 011025"))
    assert params.load(tmp_path / "params.yaml").spectrograms.sample_rate == 11025


def test_an_encoder_of_a_hub_is_known_once_it_is_made(tmp_path: Path):
    """Without its JSON file nothing tells how much it reads; the artifact does, if it is of that architecture."""
    (tmp_path / "encoder.json").write_text('{"architecture": "hf-hub:a/b", "context": 16, "grid": [3, 4]}')
    assert known("hf-hub:a/b", tmp_path) == (16, 12)
    assert known("hf-hub:a/c", tmp_path) is None
    assert known("ViT-B-32-quickgelu", tmp_path) == (77, 49) and known("RN50-quickgelu", tmp_path) == (77, 49)


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

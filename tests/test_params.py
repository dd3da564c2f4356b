"""params.yaml: one profile, complete and strict; every error names its key."""

import copy
from pathlib import Path

import pytest
import yaml

from avset import params
from avset.errors import ParamsError

ROOT = Path(__file__).parents[1]
TREE = yaml.safe_load((ROOT / "params.yaml").read_text())


def changed(path: str, value: object) -> dict:
    """The project's own parameters with one value changed (or removed, if it is ...)."""
    tree = copy.deepcopy(TREE)
    *above, last = path.split("/")
    node = tree
    for key in above:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return tree


@pytest.mark.parametrize("dataset", sorted(TREE["profiles"]))
def test_every_profile_is_complete(dataset: str):
    p = params.resolve(changed("dataset", dataset))
    assert p.dataset == dataset
    assert p.spectrograms.window_length == 1022
    assert p.data == Path("data") / dataset


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("dataset", "muzic", r"dataset: 'muzic' is not one of audioset, demo, folder, music, music21, solos, vggsound"),
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
        ("presets/nmf_mfcc/lr", 1, r"presets\.nmf_mfcc\.lr: unknown key; known here: kind, templates, "),
        ("captions/tokens", 0, r"captions\.tokens: .*greater than or equal to 1, not 0"),
        ("captions/token", 3, r"captions\.token: unknown key; known here: tokens, "),
        ("captions/tokens", ..., r"captions\.tokens: missing"),
        ("captions/steps", 5, r"captions\.steps: stands in the shared block and in profiles\.demo\.captions"),
        ("profiles/demo/frames/size", "big", r"profiles\.demo\.frames\.size: .*integer, not 'big'"),
        ("profiles/demo/frame", {}, r"profiles\.demo: 'frame' is not one of"),
        ("presets/avset/losses/trimodal", -1, r"presets\.avset\.losses\.trimodal: .*greater"),
        ("presets/avset/norm", "layer", r"presets\.avset\.norm: .*'group' or 'batch', not 'layer'"),
        ("runtime/executor", "slurm", r"runtime\.executor: .*'inline', 'processes' or 'ray'"),
        ("runtime", ..., r"runtime: missing"),
        ("extra", 1, r"top level: 'extra' is not one of"),
    ],
)
def test_an_error_names_its_key(path: str, value: object, said: str):
    with pytest.raises(ParamsError, match=said):
        params.resolve(changed(path, value))


def test_files_that_are_no_parameters(tmp_path: Path):
    with pytest.raises(ParamsError, match="run from the top folder"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(ParamsError, match="not valid YAML"):
        params.load(tmp_path / "params.yaml")


def test_digest_is_of_the_content_alone():
    assert params.digest({"a": 1, "b": [2]}) == params.digest({"b": [2], "a": 1})
    assert params.digest({"a": 1}) != params.digest({"a": 1.5})

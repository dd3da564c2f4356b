"""Fine-tuning: a training that begins with the weights of a model."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from test_evaluate import interrupted

from avset.errors import AvsetError
from avset.models.checkpoint import SeparationModel, Settings
from avset.storage.artifacts import Record, identity_of
from avset.storage.hub import PACKED
from avset.training.start import Start

MODEL = Path("data/demo/demo/models/avset")
START = "inputs/models/first"


@pytest.fixture
def project(scored: Path, tmp_path: Path) -> Path:
    """The toy project, and a model to start from: its own, with weights and means that no training made."""
    folder = toy.clone(scored, tmp_path / "project")
    shutil.copytree(folder / MODEL, folder / START)
    shake(folder / START)
    return folder


def shake(folder: Path) -> None:
    """Change all tensors of a model."""
    model = SeparationModel.load(folder)
    model.method.load_own_state({name: tensor + 1e-3 for name, tensor in model.method.own_state().items()})
    model.save(folder, {})
    toy.seal(folder)


def trained(folder: Path, cache: Path, **changes: Any) -> SeparationModel:
    sizes = {"scales__demo__train__steps": 2, "scales__demo__train__validate_every": 1, "train__start_from": START}
    toy.project(folder, toy.params(**(sizes | changes)))
    toy.run(folder, cache, "train")
    return SeparationModel.load(folder / MODEL)


def test_a_training_begins_with_the_weights_of_its_start(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """At a rate that moves nothing they stay; the means are those of the clips. Another start is another training."""
    before, start = (SeparationModel.load(project / folder) for folder in (MODEL, START))
    model = trained(project, tmp_path / "cache", presets__avset__lr=1e-30)
    for name, weight in model.method.named_parameters():
        assert torch.equal(weight, start.method.own_state()[name]), name
    for name, mean in model.method.named_buffers():
        assert torch.equal(mean, before.method.own_state()[name]), name
    told = Record.read(project / MODEL)
    assert told.recipe["train"]["start_from"] == START
    assert told.inputs["start"] == identity_of(project / START, "models")
    shake(project / START)
    trained(project, tmp_path / "cache", presets__avset__lr=1e-30)
    again = Record.read(project / MODEL)
    assert again.inputs["start"] == identity_of(project / START, "models") != told.inputs["start"]
    trained(project, tmp_path / "cache", presets__avset__lr=1e-30)
    said = capsys.readouterr().err
    assert said.count("best at step") == 2 and said.count("it is restored") == 1 and "does not watch" not in said


def test_a_killed_fine_tuning_goes_on(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    with interrupted():
        trained(project, tmp_path / "cache")
    trained(project, tmp_path / "cache")
    assert "goes on at step 1" in capsys.readouterr().err
    ended = (project / MODEL / "model.safetensors").read_bytes()
    trained(project, tmp_path / "other")
    assert (project / MODEL / "model.safetensors").read_bytes() == ended


@pytest.mark.slow
def test_several_processes_begin_alike(project: Path, tmp_path: Path):
    model = trained(project, tmp_path / "cache", scales__demo__train__workers=2, presets__avset__lr=1e-30)
    start = SeparationModel.load(project / START).method.own_state()
    assert all(torch.equal(weight, start[name]) for name, weight in model.method.named_parameters())


def of_method(**changes: Any) -> Callable[[Settings], Settings]:
    return lambda told: replace(told, method=told.method.model_copy(update=changes))


def of_sizes(**changes: Any) -> Callable[[Settings], Settings]:
    return lambda told: replace(told, sizes=replace(told.sizes, **changes))


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (lambda told: replace(told, encoder="0" * 64), r"was trained with encoder \w{12}, and this training has 0{12}"),
        (of_method(norm="batch"), r"another architecture: its norm is group, here it is batch; set params\.yaml"),
        (of_method(kind="avsgs"), r"another architecture: its kind is avset, here it is avsgs"),
        (of_sizes(channels=[4, 8]), r"its channels is \[4, 8, 8, 8\], here it is \[4, 8\]"),
        (of_sizes(dim=1, n_regions=2, tower="small", side=3, classes=4), r"its \w+ is .*; 1 more; set"),
        (lambda told: replace(told, positional=False), r"its positional is True, here it is False"),
    ],
)
def test_what_does_not_fit_is_named(scored: Path, ours: Callable[[Settings], Settings], said: str):
    settings = ours(SeparationModel.load(scored / MODEL).settings)
    with pytest.raises(AvsetError, match=f"^train.start_from: {scored / MODEL} .*{said}"):
        Start.of(str(scored / MODEL), settings)


def test_how_it_learned_may_differ(scored: Path):
    settings = of_method(lr=1.0, optimizer="sgd", best="loss", kl_reduction="mean")(
        SeparationModel.load(scored / MODEL).settings
    )
    found = Start.of(str(scored / MODEL), settings)
    assert found and found.identity == identity_of(scored / MODEL, "models")
    assert Start.of(None, settings) is None


def test_the_demo_s_model_has_the_encoder_of_its_scale(scored: Path):
    settings = SeparationModel.load(PACKED).settings
    assert settings.encoder == identity_of(scored / "data/demo/demo/encoder", "encoder")
    assert Start.of("demo", settings)

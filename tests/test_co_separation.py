"""Co-Separation, by analytic truth, and through the stages."""

import json
from pathlib import Path

import pytest
import torch
import toy
import yaml

from avset.errors import MissingArtifact
from avset.features.resnet import MEAN
from avset.features.spectrograms import Transform
from avset.models.checkpoint import SeparationModel
from avset.models.co_separation import Method
from avset.models.contract import Conditions, Sizes
from avset.models.parts import things
from avset.presets import CoSeparationSettings, NMFSettings
from avset.storage.artifacts import Record
from avset.storage.tables import read_table

PRESET = yaml.safe_load((toy.ROOT / "params.yaml").read_text())["presets"]["co_separation"]
SIZES = Sizes(Transform(11025, 1022, 256, 16, 16), 12, 4, [4, 8], "small", 2, 16)


def method(**changes: object) -> Method:
    torch.manual_seed(0)
    return Method(CoSeparationSettings.model_validate(PRESET | changes), SIZES)


def seen() -> dict[str, torch.Tensor]:
    """Of two mixtures of two sources: a red thing of class 0, and a blue one of class 1; the third place is empty."""
    frames = torch.zeros(2, 2, 1, 32, 32, 3, dtype=torch.uint8)
    frames[:, 0, :, :16, :16, 0] = frames[:, 1, :, :16, :16, 2] = 255
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.4, 0.4], [0.0] * 4]).expand(2, 2, 1, 3, 4).clone()
    classes = torch.tensor([[0, 0, -1], [1, 1, -1]])[None, :, None].expand(2, 2, 1, 3).clone()
    return {"frames": frames, "boxes": boxes, "classes": classes, "confidences": (classes >= 0).float()}


def taught(
    net: torch.nn.Module, things: dict[str, torch.Tensor], rate: float, steps: int, weights: dict[str, float]
) -> tuple[list[dict[str, float]], torch.Tensor]:
    """The losses of each step that teaches a method which thing is loud, and the masks that it makes then."""
    net.train()
    first = (torch.rand(2, 4, 1) > 0.5).float().repeat_interleave(4, 1)
    sources = torch.stack([4 * first, 1 - first], 1) * (0.9 + 0.2 * torch.rand(2, 1, 16, 16))
    batch = {"sources": sources, "mixture": sources.sum(1), **things}
    optimizer = torch.optim.Adam(net.parameters(), rate)
    found = []
    for _ in range(steps):
        terms = net.losses(batch)
        found.append({name: value.item() for name, value in terms.items()})
        optimizer.zero_grad()
        sum(weight * terms[name] for name, weight in weights.items()).backward()
        optimizer.step()
    return found, net.masks(batch["mixture"], Conditions(2, None, things))


def test_it_learns_which_thing_is_loud_and_which_is_quiet():
    found, masks = taught(method(), seen(), 0.02, 30, {"mask": 1.0, "classes": 0.05})
    assert all(found[-1][name] < 0.85 * found[0][name] for name in ("mask", "classes"))
    assert masks.shape == (2, 2, 16, 16)


def test_objects_are_the_first_of_each_class_of_the_centre_frame():
    told = {name: value.repeat_interleave(3, 2) for name, value in seen().items()}
    for name in ("classes", "confidences"):
        told[name][:, :, [0, 2]] = -1
    told["classes"][0, 1, 1] = torch.tensor([1, 0, 1])
    told["confidences"][0, 1, 1] = torch.tensor([0.9, 0.8, 0.7])
    net = method()
    boxes, classes = things(told, 2)
    assert classes.tolist() == [[[0, -1], [1, 0]], [[0, -1], [1, -1]]]
    assert boxes[0, 1, 1].tolist() == pytest.approx([0, 0, 0.4, 0.4])
    _, there = net.eval().each(torch.rand(2, 16, 16), told)
    assert there.tolist() == [[[0, -1, 2], [1, 0, 2]], [[0, -1, 2], [1, -1, 2]]], "and last the background"


def test_masks_of_a_source_are_the_sum_of_those_of_its_things():
    net, told, mixture = method().eval(), seen(), torch.rand(2, 16, 16)
    told["classes"][..., 1] = 1 - told["classes"][..., 0]
    each, _ = net.each(mixture, told)
    assert each.shape == (2, 2, 3, 16, 16) and (each > 0).all()
    found = net.masks(mixture, Conditions(2, None, told))
    torch.testing.assert_close(found, each[:, :, 0] + each[:, :, 1])
    one = {name: value.clone() for name, value in told.items()}
    one["confidences"][..., 1] = 0
    torch.testing.assert_close(net.masks(mixture, Conditions(2, None, one)), each[:, :, 0])


def test_a_thing_is_seen_alone_and_the_background_without_it():
    net, told = method(), seen()
    boxes, classes = things(told, 2)
    found = net.pictures(told["frames"][:, :, 0], boxes, classes)
    assert found.shape == (2, 2, 3, 16, 16, 3)
    torch.testing.assert_close(found[0, 0, 0, :15, :15], torch.tensor([255.0, 0, 0]).expand(15, 15, 3))
    grey = (255 * torch.tensor(MEAN)).floor()
    torch.testing.assert_close(found[0, 0, 2, :7, :7], grey.expand(7, 7, 3))
    assert not found[0, 0, 2, 9:].any()


def test_a_method_says_what_it_is_told():
    assert (CoSeparationSettings.supervision, NMFSettings.supervision) == ("labels and boxes", "none")


@pytest.mark.slow
def test_it_goes_through_the_stages(toy_data: Path, tmp_path: Path):
    folder = toy.project(toy.clone(toy_data, tmp_path / "project"), toy.params(methods=["co_separation"]))
    data, cache = folder / "data" / "demo" / "demo", tmp_path / "cache"
    toy.run(folder, cache, "tower")
    with pytest.raises(MissingArtifact, match=r"make it with `dvc repro systems/dvc\.yaml:objects`"):
        toy.run(folder, cache, "train", method="co_separation")
    toy.run(folder, cache, "objects")
    toy.run(folder, cache, "train", "evaluate", method="co_separation")
    first, again = (SeparationModel.load(data / "models" / "co_separation") for _ in range(2))
    assert (first.settings.sizes.classes, first.settings.sizes.side) == (11, 48)
    told = Conditions(2, None, {name: value[:1] for name, value in seen().items()})
    mixture = torch.rand(1, first.settings.transform.length)
    assert torch.equal(first.separate(mixture, told)[0], again.separate(mixture, told)[0])
    assert {row["query"] for row in read_table(data / "scores" / "co_separation" / "scores.parquet")} == {"video"}
    for artifact in ("models", "scores"):
        assert "objects" in Record.read(data / artifact / "co_separation").inputs
    toy.run(folder, cache, "report")
    covered = json.loads((folder / "reports" / "demo" / "demo" / "coverage.json").read_text())
    assert covered["objects"]["ok"] == covered["frames"]["ok"] and "objects" in {
        one["step"] for one in covered["ledger"]
    }

"""Sound of Pixels, by analytic truth, and through the stages."""

from pathlib import Path

import pytest
import torch
import toy
import yaml

from avset import params
from avset.errors import MissingArtifact, ParamsError
from avset.evaluation import examples
from avset.features.resnet import TOWER, ResNet
from avset.features.spectrograms import Transform
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Conditions, Points, Sizes
from avset.models.sound_of_pixels import Method
from avset.presets import SoundOfPixelsSettings
from avset.storage.artifacts import Record
from avset.storage.tables import read_table

PRESETS = yaml.safe_load((toy.ROOT / "params.yaml").read_text())["presets"]
SIZES = Sizes(Transform(11025, 1022, 256, 16, 16), 12, 4, [4, 8], "small")


def method(preset: str = "sound_of_pixels", **changes: object) -> Method:
    torch.manual_seed(0)
    return Method(SoundOfPixelsSettings.model_validate(PRESETS[preset] | changes), SIZES)


def seen(preset: str) -> dict[str, torch.Tensor]:
    """What two mixtures of two sources show: of each mixture a red and a blue picture; or regions of two kinds."""
    if preset == "sound_of_pixels_clip":
        return {"regions": (8 * torch.eye(12)[:2]).expand(2, 3, 4, 2, 12).permute(0, 3, 1, 2, 4).contiguous()}
    frames = torch.zeros(2, 2, 1, 32, 32, 3, dtype=torch.uint8)
    frames[:, 0, ..., 0] = frames[:, 1, ..., 2] = 255
    return {"frames": frames}


def conditions(preset: str) -> Conditions:
    told = seen(preset)
    return Conditions.of_queries(told["regions"]) if "regions" in told else Conditions(2, None, told)


@pytest.mark.parametrize(
    ("preset", "target"),
    [("sound_of_pixels", "binary"), ("sound_of_pixels_clip", "binary"), ("sound_of_pixels_clip", "ratio")],
)
def test_it_learns_which_picture_is_high_and_which_is_low(preset: str, target: str):
    net = method(preset, mask_target=target).train()
    sources = torch.zeros(2, 2, 16, 16)
    sources[:, 0, :8] = sources[:, 1, 8:] = 0.5 + torch.rand(2, 8, 16)
    batch = {"sources": sources, "mixture": sources.sum(1), **seen(preset)}
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    found = []
    for _ in range(40):
        found.append(net.losses(batch)["mask"])
        optimizer.zero_grad()
        found[-1].backward()
        optimizer.step()
    assert found[-1] < 0.5 * found[0]
    masks = net.masks(batch["mixture"], conditions(preset))
    assert masks.shape == (2, 2, 16, 16) and (masks - (sources > 0).float()).abs().mean() < 0.25
    assert set(masks.unique().tolist()) <= {0.0, 1.0} or target == "ratio"


def test_masks_are_those_of_the_equation():
    net = method(mask_target="ratio").eval()
    torch.nn.init.normal_(net.scale)
    mixture, shown = torch.rand(2, 16, 16), {"frames": torch.randint(0, 256, (2, 2, 3, 32, 48, 3), dtype=torch.uint8)}
    maps = net.listen(mixture)
    assert maps.shape == (2, 32, 16, 16)
    for b in range(2):
        for n in range(2):
            numbers = net.head(net.tower(shown["frames"][b, n]))  # (V, K, h, w)
            assert numbers.shape == (3, 32, 2, 3)
            vision = torch.sigmoid(numbers.amax((0, 2, 3)))
            logits = sum(net.scale[k] * vision[k] * maps[b, k] for k in range(32)) + net.bias
            torch.testing.assert_close(net.masks(mixture, Conditions(2, None, shown))[b, n], torch.sigmoid(logits))


@pytest.mark.parametrize("preset", ["sound_of_pixels", "sound_of_pixels_clip"])
def test_the_pixel_that_lets_sound_through_is_loud(preset: str):
    """One map, of ones, and one number that is large in one cell alone."""
    net = method(preset, maps=1).eval()
    assert isinstance(net, Points)
    told = conditions(preset)
    numbers = torch.full((2, 2, 3, 2, 2, 1), -9.0)
    numbers[0, 1, 1, 1, 0] = 9.0
    net.pixels, net.listen = lambda _: numbers, lambda mixture: torch.full((2, 1, 16, 16), 20.0)
    net.bias.data.fill_(-10.0)
    found = net.loudness(torch.rand(2, 16, 16), told)
    expected = torch.zeros(2, 2, 2, 2)
    expected[0, 1, 1, 0] = 1.0
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


def test_the_tower_starts_with_its_weights():
    net = method()
    torch.manual_seed(5)
    weights = {f"{TOWER}{name}": one for name, one in ResNet("small").state_dict().items()}
    net.prepare(weights)
    assert torch.equal(net.tower.conv1.weight, weights["tower.conv1.weight"])


@pytest.mark.parametrize(
    ("key", "changes"),
    [("presets.sound_of_pixels.lr_vision: regions are frozen", {"presets__sound_of_pixels__pixels": "regions"}),
     ("model.crop: the U-Net of sound_of_pixels", {"scales__demo__model__crop": 48})],
)  # fmt: skip
def test_what_it_cannot_run_with_is_named(key: str, changes: dict):
    with pytest.raises(ParamsError, match=key):
        params.resolve(toy.params(methods=["sound_of_pixels"], **changes), toy.ROOT)


def test_without_its_tower_the_stage_is_named(toy_data: Path, tmp_path: Path):
    folder = toy.project(toy.clone(toy_data, tmp_path / "project"), toy.params(methods=["sound_of_pixels"]))
    with pytest.raises(MissingArtifact, match=r"make it with `dvc repro systems/dvc\.yaml:tower`"):
        toy.run(folder, tmp_path / "cache", "train", method="sound_of_pixels")


@pytest.mark.slow
def test_it_goes_through_the_stages(toy_data: Path, tmp_path: Path):
    names = ["sound_of_pixels", "sound_of_pixels_clip"]
    folder = toy.project(toy.clone(toy_data, tmp_path / "project"), toy.params(methods=names))
    toy.run(folder, tmp_path / "cache", "tower")
    data = folder / "data" / "demo" / "demo"
    for name in names:
        toy.run(folder, tmp_path / "cache", "train", "evaluate", method=name)
        first, again = (SeparationModel.load(data / "models" / name) for _ in range(2))
        mixture, shown = (
            torch.rand(1, first.settings.transform.length),
            {"frames": seen("sound_of_pixels")["frames"][:1]},
        )
        told = Conditions(2, torch.rand(1, 2, 1, 9, first.settings.sizes.dim), shown)
        assert torch.equal(first.separate(mixture, told)[0], again.separate(mixture, told)[0])
        kinds = {row["query"] for row in read_table(data / "scores" / name / "scores.parquet")}
        assert ("text" in kinds) == (name == "sound_of_pixels_clip") and "video" in kinds
        places = read_table(data / "scores" / name / "localization.parquet")
        assert {row["attention"] for row in places} == {"sound"}
        for one in examples.read(data / "scores" / name / "examples.h5"):
            assert one.separations["video"].attention.shape == (2, one.grid[0] * one.grid[1])
    assert "tower" in Record.read(data / "models" / names[0]).inputs
    assert "tower" not in Record.read(data / "models" / names[1]).inputs
    toy.run(folder, tmp_path / "cache", "report")

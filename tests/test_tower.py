"""The picture tower: torchvision's own values, one door for its weights, and an identity."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from server import Server

from avset.errors import AvsetError, MissingArtifact
from avset.features import tower, tower_weights
from avset.features.resnet import MEAN, STD, ResNet

FRAMES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[torchvision.models.ResNet, Path]:
    """A ResNet-18 of torchvision that nobody trained, and the file that torchvision would publish of it."""
    torch.manual_seed(1)
    model = torchvision.models.resnet18().eval()
    for name, values in model.named_buffers():
        if "running" in name:
            values.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("published") / "resnet18.pth"
    torch.save(model.state_dict(), path)
    return model, path


def test_a_resnet_is_torchvisions(published: tuple[torchvision.models.ResNet, Path], tmp_path: Path):
    model, path = published
    tower_weights.export("resnet18", str(path), tmp_path)
    x = (FRAMES.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        found = tower.load(tmp_path)(FRAMES)
        assert found.shape == (2, 512, 2, 2)
        torch.testing.assert_close(found.mean((2, 3)), model(x))


def test_stride_16_has_the_same_weights_on_a_finer_plane():
    """The first of each two cells sees what the coarser one saw, but for the edges."""
    torch.manual_seed(0)
    coarse, fine = ResNet("resnet18").eval(), ResNet("resnet18", stride=16).eval()
    fine.load_state_dict(coarse.state_dict())
    frames = FRAMES.repeat_interleave(6, 1).repeat_interleave(6, 2)[:1]
    with torch.no_grad():
        found, expected = fine(frames), coarse(frames)
    assert found.shape[2:] == (24, 24) and expected.shape[2:] == (12, 12)
    torch.testing.assert_close(found[..., 8:16:2, 8:16:2], expected[..., 4:8, 4:8], rtol=1e-3, atol=1e-3)


def test_weights_come_from_their_address_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A classifier in the file, as in torchvision's, is left out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    state = ResNet("small").state_dict()
    torch.save(state | {"fc.weight": torch.zeros(2, 2)}, tmp_path / "file")
    with Server() as server:
        monkeypatch.setitem(tower_weights.ADDRESSES, "small", server.put("/small.pth", tmp_path / "file"))
        for name in "ab":
            tower_weights.export("small", "imagenet", tmp_path / name)
            assert all(torch.equal(one, state[key[6:]]) for key, one in tower.constants_of(tmp_path / name).items())
        assert len(server.log) == 1
        files = [sorted(path.read_bytes() for path in (tmp_path / name).iterdir()) for name in "ab"]
        assert files[0] == files[1]
        wrong = server.put("/small-00000000.pth", tmp_path / "file")
        monkeypatch.setitem(tower_weights.ADDRESSES, "small", wrong)
        with pytest.raises(AvsetError, match=r"small-00000000\.pth could not be fetched \(invalid hash"):
            tower_weights.export("small", "imagenet", tmp_path / "c")


def test_a_small_tower_is_drawn_the_same_each_time(tmp_path: Path):
    for name in "ab":
        torch.manual_seed(ord(name))
        tower_weights.export("small", "none", tmp_path / name)
    first, second = (tower.constants_of(tmp_path / name) for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())
    assert tower.architecture_of(tmp_path / "a") == "small"


@pytest.mark.parametrize(
    ("architecture", "weights", "why"),
    [("small", "imagenet", "no ImageNet weights of small"), ("resnet18", "no.pth", "'no.pth' is not there"),
     ("small", "", "do not fit it")],
)  # fmt: skip
def test_what_cannot_be_a_tower_is_told(
    architecture: str, weights: str, why: str, published: tuple[torchvision.models.ResNet, Path], tmp_path: Path
):
    with pytest.raises(AvsetError, match=why):
        tower_weights.export(architecture, weights or str(published[1]), tmp_path)
    with pytest.raises(MissingArtifact, match=r"make it with `dvc repro systems/dvc\.yaml:tower`"):
        tower.load(Path("data/demo/demo/tower"))

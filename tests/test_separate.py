"""A checkpoint carries itself; long recordings are separated piece by piece and add up."""

from pathlib import Path

import pytest
import torch

from pipeline import spectrograms as sp
from pipeline.checkpoints import Model, Settings
from pipeline.encoders import Encoder
from pipeline.errors import AvsetError, MissingArtifact
from pipeline.separate import Separator

TRANSFORM = sp.Transform(11025, 1022, 256, 64, 64)


def make_model(**changes: object) -> Model:
    torch.manual_seed(0)
    sizes = {"dim": 128, "channels": [4, 8], "n_regions": 9} | changes
    return Model(Settings(sizes, TRANSFORM, True, "cosine", "e" * 64)).eval()


@pytest.mark.parametrize("shared", [True, False])
def test_a_checkpoint_needs_no_parameters(tmp_path: Path, shared: bool):
    model = make_model(shared_encoder=shared, norm="batch", query_norm="l2")
    model.mean_caption.fill_(0.25)
    model.save(tmp_path, {"step": 3})
    first = (tmp_path / "model.safetensors").read_bytes()
    loaded = Model.load(tmp_path)
    assert loaded.settings == model.settings
    mixture, queries = torch.rand(1, 16383), torch.randn(1, 2, 1, 9, 128)
    for ours, theirs in zip(loaded.separate(mixture, queries), model.separate(mixture, queries), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.mean_caption[0] == 0.25
    loaded.save(tmp_path, {"step": 3})
    assert (tmp_path / "model.safetensors").read_bytes() == first


def test_files_that_are_no_checkpoint(tmp_path: Path):
    with pytest.raises(MissingArtifact, match=r"dvc repro"):
        Model.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678junk")
    with pytest.raises(AvsetError, match="not a checkpoint"):
        Model.load(tmp_path)


def test_masks_are_applied_to_the_complex_mixture():
    mixture = torch.randn(2, 16383) * 0.1
    spectrum, _ = TRANSFORM.analyse(mixture)
    ones, zeros = torch.ones(2, 1, 64, 64), torch.zeros(2, 1, 64, 64)
    assert torch.allclose(TRANSFORM.apply(ones, spectrum, 16383)[:, 0], mixture, atol=1e-5)
    assert TRANSFORM.apply(zeros, spectrum, 16383).abs().max() == 0


def test_the_ideal_mask_separates_tones():
    time = torch.arange(16383) / 11025
    tones = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (300.0, 1500.0)]) / 4
    estimates, masks = TRANSFORM.ideal(tones)
    assert masks.shape == (2, 64, 64)
    error = (estimates - tones)[:, 2000:-2000].square().mean() / tones.square().mean()
    assert error < 0.01


class EncoderOfNothing(Encoder):
    """Stands for an encoder with a digest."""

    def __init__(self, digest: str):
        torch.nn.Module.__init__(self)
        self.digest = digest


def separator(model: Model) -> Separator:
    return Separator(model, EncoderOfNothing(model.settings.encoder))


def test_another_encoder_is_refused():
    with pytest.raises(AvsetError, match="trained with encoder eeeeeeeeeeee, this one is ffffffffffff"):
        Separator(make_model(), EncoderOfNothing("f" * 64))


@pytest.mark.parametrize("length", [100, 8191, 16383, 16384, 40000, 100001])
def test_any_length_adds_up(length: int, monkeypatch: pytest.MonkeyPatch):
    """Masks of one give the mixture back, at every length and at the borders."""
    model = make_model()
    monkeypatch.setattr(
        model.net, "masks", lambda magnitude, queries: torch.ones(*queries.shape[:2], *magnitude.shape[1:])
    )
    mixture = torch.randn(length) * 0.1
    found = separator(model).separate(mixture, torch.zeros(3, 1, 1, 128))
    assert found.shape == (3, length)
    assert torch.allclose(found, mixture.expand(3, -1), atol=1e-5)


def test_long_recordings_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch):
    model = make_model()
    mixture, queries = torch.randn(90000) * 0.1, torch.randn(2, 1, 9, 128)
    together = separator(model).separate(mixture, queries)
    monkeypatch.setattr("pipeline.separate.WINDOWS", 1)
    assert torch.allclose(separator(model).separate(mixture, queries), together, atol=1e-5)

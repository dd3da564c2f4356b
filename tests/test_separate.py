"""A checkpoint carries itself; long recordings are separated piece by piece and add up."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from avset import params
from avset.errors import AvsetError, MissingArtifact
from avset.features import spectrograms as sp
from avset.features.encoder import Encoder
from avset.inference.masks import WINDOWS
from avset.inference.separate import Separator
from avset.media.waveforms import BLOCK
from avset.media.writers import AudioWriter
from avset.models.checkpoint import SeparationModel, Settings
from avset.models.contract import Conditions, Sizes
from avset.storage.tensors import named_as
from bench import separation as bench

RATE = 11025
TRANSFORM = sp.Transform(RATE, 1022, 256, 64, 64)
PRESET = params.load(Path(__file__).parents[1] / "params.yaml").presets["avset"]


def make_model(**changes: object) -> SeparationModel:
    torch.manual_seed(0)
    settings = PRESET.model_copy(update={"similarity": "cosine", **changes})
    model = SeparationModel(Settings(settings, Sizes(TRANSFORM, 128, 9, [4, 8]), True, "e" * 64))
    model.method.eval()
    return model


@pytest.mark.parametrize("shared", [True, False])
def test_a_checkpoint_needs_no_parameters(tmp_path: Path, shared: bool):
    model = make_model(shared_encoder=shared, norm="batch", query_norm="l2")
    model.method.mean_caption.fill_(0.25)
    model.save(tmp_path, {"step": 3})
    first = (tmp_path / "model.safetensors").read_bytes()
    loaded = SeparationModel.load(tmp_path)
    assert loaded.settings == model.settings
    mixture, conditions = torch.rand(1, 16383), Conditions.of_queries(torch.randn(1, 2, 1, 9, 128))
    for ours, theirs in zip(loaded.separate(mixture, conditions), model.separate(mixture, conditions), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.method.mean_caption[0] == 0.25
    loaded.save(tmp_path, {"step": 3})
    assert (tmp_path / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_orig_mod.module."])
def test_a_checkpoint_of_a_compiled_or_parallel_method_is_that_of_the_method(tmp_path: Path, prefix: str):
    model = make_model()
    model.save(tmp_path, {})
    path = tmp_path / "model.safetensors"
    with safe_open(path, "pt") as file:
        named = {f"{prefix}{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(named, path, file.metadata())
    loaded = SeparationModel.load(tmp_path).method.own_state()
    assert loaded.keys() == model.method.own_state().keys()
    assert all(torch.equal(loaded[name], one) for name, one in model.method.own_state().items())


def test_names_fit_whichever_side_was_wrapped():
    assert named_as(["a.b", "c"], {"module.a._orig_mod.b": 1, "c": 2, "x": 3}) == {"a.b": 1, "c": 2, "x": 3}
    assert named_as(["net._orig_mod.b"], {"net.b": 1}) == {"net._orig_mod.b": 1}
    assert named_as(["a.module.b", "a.b"], {"a.module.b": 1, "a.b": 2}) == {"a.module.b": 1, "a.b": 2}


def test_files_that_are_no_checkpoint(tmp_path: Path):
    with pytest.raises(MissingArtifact, match=r"dvc repro"):
        SeparationModel.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678junk")
    with pytest.raises(AvsetError, match="not a checkpoint"):
        SeparationModel.load(tmp_path)


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


def separator(model: SeparationModel) -> Separator:
    return Separator(model, EncoderOfNothing(model.settings.encoder))


def test_another_encoder_is_refused():
    with pytest.raises(AvsetError, match="trained with encoder eeeeeeeeeeee, this one is ffffffffffff"):
        Separator(make_model(), EncoderOfNothing("f" * 64))


@pytest.mark.parametrize("length", [3, 100, 8192, 16383, 100001])
@pytest.mark.parametrize(("rate", "channels"), [(11025, 1), (44100, 2), (48000, 3), (7999, 1)])
def test_any_length_adds_up(length: int, rate: int, channels: int, monkeypatch: pytest.MonkeyPatch):
    """Masks of one give the mixture back, at every length, rate and number of channels, and at the borders."""
    model = make_model()
    monkeypatch.setattr(
        model.method.net, "masks", lambda magnitude, queries: torch.ones(*queries.shape[:2], *magnitude.shape[1:])
    )
    mixture = torch.randn(channels, length) * 0.1
    found = separator(model).separate(mixture, torch.zeros(3, 1, 1, 128), sample_rate=rate)
    assert found.sounds.shape == (3, channels, length) and found.sample_rate == rate
    np.testing.assert_allclose(found.sounds, np.broadcast_to(mixture, found.sounds.shape), atol=1e-5)
    assert found.masks.shape == (3, 512, int(length / rate * RATE / 256) + 1) and (found.masks > 0.9999).all()


def test_long_recordings_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch):
    model = make_model()
    mixture, queries = torch.randn(90000) * 0.1, torch.randn(2, 1, 9, 128)
    together = separator(model).separate(mixture, queries, sample_rate=RATE)
    for count in (1, 3):
        monkeypatch.setattr("avset.inference.masks.WINDOWS", count)
        found = separator(model).separate(mixture, queries, sample_rate=RATE)
        np.testing.assert_allclose(found.sounds, together.sounds, atol=1e-5)


def test_separation_agrees_with_the_plain_way():
    """Window by window, with sampling grids and a plain U-Net, the text in CLIP's whole context."""
    ours = bench.made("cpu")
    net = bench.made_plain(ours.model.method.net)
    for seconds in (0.5, 20.0):  # one batch of windows, and two
        mixture = torch.from_numpy(bench.chord(seconds, bench.RATE))
        expected = bench.plain(net, ours.encoder, mixture, bench.TEXT)
        found = bench.ours(ours, mixture, bench.TEXT)
        assert expected.square().sum() > 1e-4 * mixture.square().sum()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 8191, 8192, WINDOWS * 8192, WINDOWS * 8192 + 8191, 300001])
def test_the_stream_does_not_depend_on_how_it_is_cut(length: int):
    ours, queries = separator(make_model()), torch.randn(2, 1, 9, 128)
    mixture = np.random.default_rng(0).uniform(-0.1, 0.1, length).astype(np.float32)
    whole = ours.separate(mixture, queries, sample_rate=22050)
    assert whole.sounds.shape == (2, length)
    for size in (999, 70000):
        blocks = ((mixture[None, at : at + size], 22050) for at in range(0, length, size))
        found = list(ours.stream(blocks, queries))
        np.testing.assert_array_equal(np.concatenate([block.mixture for block in found], 1)[0], mixture)
        np.testing.assert_array_equal(np.concatenate([block.sounds for block in found], 2)[:, 0], whole.sounds)


def test_no_more_is_held_of_a_long_recording_than_of_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reader is never further ahead of the writer than a bound without the length in it."""
    model = make_model()
    monkeypatch.setattr(
        model.method.net, "masks", lambda magnitude, queries: torch.ones(*queries.shape[:2], *magnitude.shape[1:])
    )
    asked: list[int] = []
    masks = model.method.masks
    monkeypatch.setattr(model.method, "masks", lambda windows, q: asked.append(len(windows)) or masks(windows, q))
    step, rate, new_rate, read = TRANSFORM.crop // 2 * TRANSFORM.hop_length, 44100, TRANSFORM.sample_rate, 0

    def recording(seconds: int) -> Iterator[tuple[np.ndarray, int]]:
        nonlocal read
        for _ in range(seconds):
            read += rate
            yield np.zeros((2, rate), np.float32), rate

    furthest = {}
    for seconds in (30, 60):
        read, written, furthest[seconds] = 0, 0, 0
        with AudioWriter(tmp_path / "out.wav", rate) as sound:
            for block in separator(model).stream(recording(seconds), torch.zeros(1, 1, 1, 128)):
                furthest[seconds] = max(furthest[seconds], read - written)
                sound.write(block.sounds[0])
                written += block.mixture.shape[1]
        assert written == seconds * rate
    ahead = (WINDOWS + 1) * step * 4 + BLOCK + 2 * rate  # a batch, a block of the resampler, two of the file
    assert max(furthest.values()) <= ahead < 30 * rate
    assert max(asked) <= WINDOWS + 1 and sum(asked) >= 90 * new_rate // step


def test_a_stream_leaves_gradients_to_its_caller():
    queries = torch.randn(1, 1, 9, 128)
    stream = separator(make_model()).stream([(np.ones((1, 3 * WINDOWS * 8192), np.float32), RATE)], queries)
    next(stream)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

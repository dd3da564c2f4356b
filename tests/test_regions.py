"""The mapper of frames to region embeddings."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoder import TIMM, VIT, artifact

from avset.features.encoder import Encoder
from avset.features.regions import RegionMapper

HOW = {"positional": True, "batch_size": 32, "device": "cpu"}


@pytest.fixture(scope="module", params=["resnet", "vit", "timm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of each kind of image tower."""
    kind = {"vit": {"vision": VIT}, "timm": {"vision": TIMM | {"timm_model_name": "test_efficientnet"}}}.get(
        request.param, {}
    )
    return artifact(tmp_path_factory.mktemp(request.param), **kind)[1]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Frames of five clips, of different numbers and sizes."""
    rng, shapes = np.random.default_rng(0), [(1, 72, 100), (3, 64, 64), (2, 90, 70), (3, 72, 100), (9, 64, 80)]
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def test_a_clip_gets_its_regions_and_its_centre_frames_embedding(folder: Path, clips: list[np.ndarray]):
    encoder = Encoder.load(folder)
    mapped = RegionMapper(folder, **HOW, dtype="float32")(clips)
    for frames, found in zip(clips, mapped, strict=True):
        embedding, regions = encoder.forward_image(encoder.preprocess(frames), True)
        assert found["regions"].shape == (len(frames), encoder.grid[0] * encoder.grid[1], 24)
        np.testing.assert_allclose(found["regions"], regions, atol=1e-4)
        np.testing.assert_allclose(found["embedding"], embedding[len(frames) // 2], atol=1e-4)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_bytes_do_not_depend_on_the_company_or_the_threads(
    folder: Path, clips: list[np.ndarray], batch_size: int, set_threads: Callable[[int], None]
):
    regions = RegionMapper(folder, **HOW | {"batch_size": batch_size}, dtype="float32")
    set_threads(1)
    together, alone = regions(clips), [regions([frames])[0] for frames in clips]
    set_threads(2)
    backwards = regions(clips[::-1])[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        for name in ("regions", "embedding"):
            assert a[name].tobytes() == b[name].tobytes() == c[name].tobytes()


def test_regions_are_stored_in_half_precision_and_targets_are_not(folder: Path, clips: list[np.ndarray]):
    half, single = (RegionMapper(folder, **HOW, dtype=dtype)(clips[:2])[1] for dtype in ("float16", "float32"))
    assert (half["regions"].dtype, half["embedding"].dtype) == (np.float16, np.float32)
    assert half["regions"].tobytes() == single["regions"].astype(np.float16).tobytes()
    assert half["embedding"].tobytes() == single["embedding"].tobytes()


def test_the_positional_flag_reaches_a_resnet(tmp_path: Path, clips: list[np.ndarray]):
    folder = artifact(tmp_path)[1]
    with_, without = (RegionMapper(folder, **HOW | {"positional": flag})(clips[:1])[0] for flag in (True, False))
    assert np.abs(with_["regions"] - without["regions"]).max() > 1e-2
    assert with_["embedding"].tobytes() == without["embedding"].tobytes()


def test_a_mapper_travels_light_and_loads_once(folder: Path, clips: list[np.ndarray]):
    regions = pickle.loads(pickle.dumps(RegionMapper(folder, **HOW)))
    assert "encoder" not in vars(regions)
    regions(clips[:1])
    first = regions.encoder
    regions(clips[:1])
    assert regions.encoder is first
    assert isinstance(first.mean, torch.Tensor)

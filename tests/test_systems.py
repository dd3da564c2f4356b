"""Each system of params.yaml, by its own optimiser: it learns a mixture, goes on where it was killed, and reloads."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from test_co_separation import SIZES

from avset import params
from avset.errors import AvsetError
from avset.features.resnet import TOWER, ResNet
from avset.models.checkpoint import SeparationModel, Settings, needs_of
from avset.models.contract import Conditions
from avset.presets import LearnedSettings
from avset.storage.artifacts import ARTIFACTS, Record
from avset.storage.items import Item
from avset.storage.shards import assemble, spread
from avset.storage.store import Store
from avset.storage.tables import read_table
from avset.training import train
from avset.training.batches import TrainingMixtures
from avset.training.dataset import Corpus

P = params.load(toy.ROOT / "params.yaml")
LEARNED = [name for name, preset in P.presets.items() if isinstance(preset, LearnedSettings)]
STEPS = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two clips, a low red thing and a high blue one, with all that any system needs of a clip."""
    rng, items = np.random.default_rng(0), {}
    for number, band in enumerate((slice(5, 60), slice(100, 400))):
        stft = 0.01 * rng.standard_normal((16, 2, 512))
        stft[..., band] *= 100
        frames = np.zeros((1, 32, 32, 3), np.uint8)
        frames[:, :16, :16, 2 * number] = 255
        things = {"boxes": np.array([[[0, 0, 0.5, 0.5], [0] * 4]], np.float32), "classes": np.array([[number, -1]]),
                  "confidences": np.array([[1, 0]], np.float32),
                  "features": rng.standard_normal((1, 2, 8)).astype(np.float32)}  # fmt: skip
        regions = rng.standard_normal((1, 4, 12)).astype(np.float32)
        arrays = {"stft": stft.astype(np.float16), "frames": frames, "regions": regions, **things}
        items[f"c{number}_0"] = Item(arrays)
    axes = {name: axes for one in ARTIFACTS.values() for name, axes in one.arrays.items()}
    folder = tmp_path_factory.mktemp("systems") / "store"
    assemble(folder, Record("frames"), spread(items), lambda clip: (items[clip], ""), {k: axes[k] for k in arrays})
    return Store(folder)


def fresh(name: str, store: Store) -> tuple[SeparationModel, TrainingMixtures]:
    """A system with its preset's settings, and mixtures that are always the same."""
    torch.manual_seed(0)
    model = SeparationModel(Settings(P.presets[name], replace(SIZES, object_width=8), True, ""))
    arrays = dict.fromkeys(model.method.needs - {"captions", "tower"}, store)
    bins = 16 if model.method.grid == "log" else None
    return model, TrainingMixtures(store.clips, store, arrays, 16, bins, 2, (1.0, 1.0), 0, 2 * STEPS)


def fit(name: str, store: Store, state: Path | None = None, killed: bool = False) -> tuple[SeparationModel, train.Run]:
    """A training, kept in `state`; one that is `killed` ends at its second validation."""
    model, data = fresh(name, store)
    constants = {"captions": torch.eye(12)[:2], "own": torch.arange(2)}
    weights = {f"{TOWER}{key}": one for key, one in ResNet("small").state_dict().items()}
    model.method.prepare({**constants, "mean_region": torch.zeros(12), **weights})
    told: list[int] = []

    def validate(_: SeparationModel) -> dict[str, float]:
        if killed and told:
            raise KeyboardInterrupt
        return {"nsdr": 0.0, "loss": 0.0}

    asked = {"steps": STEPS, "batch_size": 2, "validate_every": STEPS // 2, "threads": 1}
    return model, train.fit(model, data, constants, P.train.model_copy(update=asked), validate,
                            lambda step, _: told.append(step), state)  # fmt: skip


def masks(model: SeparationModel, data: TrainingMixtures) -> torch.Tensor:
    """Of the first mixture."""
    batch = {name: value[None] for name, value in data[0].items()}
    model.method.eval()
    return model.method.masks(batch["mixture"], Conditions(2, batch.get("regions"), batch)).detach()


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_it_learns_and_ends_the_same_if_it_was_killed(name: str, store: Store, tmp_path: Path):
    model, run = fit(name, store)
    assert run.losses[-1] < run.losses[0]
    with pytest.raises(KeyboardInterrupt):
        fit(name, store, tmp_path / "state", killed=True)
    again, resumed = fit(name, store, tmp_path / "state")
    assert resumed.losses == run.losses
    assert all(map(torch.equal, model.method.state_dict().values(), again.method.state_dict().values()))


@pytest.mark.parametrize("name", P.presets)
def test_its_checkpoint_makes_the_same_masks(name: str, store: Store, tmp_path: Path):
    model, data = fresh(name, store)
    model.save(tmp_path, {})
    torch.manual_seed(1)
    found = masks(SeparationModel.load(tmp_path), data)
    assert found.shape[:2] == (1, 2) and torch.equal(found, masks(model, data))


@pytest.mark.parametrize("name", LEARNED)
def test_a_part_learns_at_its_own_rate(name: str, store: Store):
    """Every parameter is in one group of the optimiser, which has its rate as a share of that of all."""
    method, settings = fresh(name, store)[0].method, P.presets[name]
    slow = getattr(settings, "lr_vision", None)
    assert set(method.rates) == ({"tower."} if slow else set())
    groups = train.make_optimizer(method, settings).param_groups
    rates = {one: group.get("share", 1.0) * settings.lr for group in groups for one in group["params"]}
    for key, parameter in method.named_parameters():
        assert rates.pop(parameter) == pytest.approx(slow if slow and key.startswith("tower.") else settings.lr)
    assert not rates


def test_a_rate_of_no_part_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch):
    method = fresh("avset", store)[0].method
    monkeypatch.setattr(type(method), "rates", {"towr.": 1e-4})
    with pytest.raises(AvsetError, match=r"avset\.models\.avset: rates has 'towr\.', with which no parameter's name"):
        train.make_optimizer(method, P.presets["avset"])


def test_a_clip_without_objects_is_complete_for_those_alone_who_need_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Corpus, "objects", SimpleNamespace(clips=["c1_0"]))
    for name, complete in (("avset", ["c0_0", "c1_0"]), ("sound_of_pixels", ["c0_0", "c1_0"]), ("avsgs", ["c1_0"])):
        needs = needs_of(P.presets[name])
        assert Corpus(store, store, store, store, [], {}, {}, store.rows, needs).complete() == complete


@pytest.mark.slow
def test_the_papers_and_the_authors_presets_have_rows_in_the_scores_and_in_the_report(toy_data: Path, tmp_path: Path):
    names = ["paper", "release", "mix_and_separate"]
    tree = toy.params(methods=names, evaluate__controls=False, evaluate__phrases={})
    folder = toy.project(toy.clone(toy_data, tmp_path / "project"), tree)
    for name in names:
        toy.run(folder, tmp_path / "cache", "train", "evaluate", method=name)
        rows = read_table(folder / "data" / "demo" / "demo" / "scores" / name / "scores.parquet")
        assert {row["query"] for row in rows} >= {"text", "video", "caption"}
    toy.run(folder, tmp_path / "cache", "report")
    assert json.loads((folder / "reports/demo/demo/metrics.json").read_text()).keys() >= set(names)

"""Training lowers its losses, teaches what it should, and goes on exactly where it was killed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import params, train
from pipeline.checkpoints import Model, Settings
from pipeline.mixtures import TrainingMixtures
from pipeline.spectrograms import Transform
from pipeline.store import Item, Store, assemble

ROOT = Path(__file__).parents[1]
PRESETS = params.load(ROOT / "params.yaml").presets
TRANSFORM = Transform(11025, 1022, 256, 16, 16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingMixtures:
    """Two kinds of clips, each with energy in one half of the axis and region features of its own."""
    torch.manual_seed(0)
    items = {}
    for i in range(6):
        planes = torch.randn(40, 2, 512) * 0.01
        low = i % 2 == 0
        planes[:, :, slice(5, 60) if low else slice(100, 400)] *= 100
        regions = torch.randn(1, 4, 32) * 0.1
        regions[:, :, 0 if low else 1] += 2
        items[f"c{i}_0"] = Item({"stft": planes.half().numpy(), "regions": regions.numpy()})
    folder = tmp_path_factory.mktemp("train") / "store"
    axes = {"stft": ("T", "plane", "F"), "regions": ("V", "R", "D")}
    assemble(folder, "toy", items, lambda clip: (items[clip], ""), {}, axes)
    return TrainingMixtures(sorted(items), Store(folder), Store(folder), 16, 2, (0.5, 1.5), 0, 4000)


def captions(data: TrainingMixtures) -> torch.Tensor:
    return torch.stack([torch.from_numpy(data.regions.read(c, "regions")).mean((0, 1)) for c in data.clips])


def make_model(preset: params.Preset) -> Model:
    torch.manual_seed(0)
    names = ("norm", "level", "query_norm", "scale", "shared_encoder", "embedding_input")
    switches = {name: getattr(preset, name) for name in names}
    sizes = {"dim": 32, "channels": [8, 8], "n_regions": 4}
    return Model(Settings(sizes | switches, TRANSFORM, True, preset.similarity, ""))


def settings(steps: int, every: int) -> params.Train:
    return params.Train(steps=steps, batch_size=4, validate_every=every, gain=(0.5, 1.5), threads=1, seed=0)


def fit(
    data: TrainingMixtures, preset: params.Preset, steps: int, state: Path | None = None, stop: int = 0
) -> tuple[train.Run, list]:
    log: list = []

    def validate(model: Model) -> dict[str, float]:
        if stop and len(log) == stop:
            raise KeyboardInterrupt
        return {"nsdr": float(len(log))}

    run = train.fit(
        make_model(preset), data, captions(data), preset, settings(steps, 5), validate,
        lambda step, values: log.append((step, values)), state,
    )  # fmt: skip
    return run, log


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_trains(data: TrainingMixtures, name: str):
    preset = PRESETS[name].model_copy(update={"warmup": 0})
    run, log = fit(data, preset, 10)
    expected = {"mask"} | {k for k in ("caption", "audio_language", "trimodal") if getattr(preset.losses, k)}
    assert {k.removeprefix("train/") for k in log[-1][1] if k.startswith("train/")} == expected | {"loss"}
    assert run.step == 10
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_the_loss_is_the_weighted_sum(data: TrainingMixtures):
    preset = PRESETS["avset"]
    batch = {k: v[None] for k, v in data[0].items()}
    terms = train.batch_losses(make_model(preset), batch, captions(data), preset)
    _, log = fit(data, preset, 5)
    values = log[0][1]
    weights = preset.losses.recipe()
    assert values["train/loss"] == pytest.approx(sum(weights[k] * values[f"train/{k}"] for k in terms), rel=1e-5)


def test_training_separates_by_video_and_by_caption(data: TrainingMixtures):
    _, log = fit(data, PRESETS["avset"].model_copy(update={"warmup": 5, "lr": 5e-3}), 150)
    first, last = log[0][1], log[-1][1]
    assert last["train/mask"] < 0.5 * first["train/mask"]
    assert last["train/caption"] < 0.5 * first["train/caption"]


def test_a_killed_run_ends_as_an_undisturbed_one(data: TrainingMixtures, tmp_path: Path):
    torch.set_num_threads(1)
    preset = PRESETS["avset"]
    whole, whole_log = fit(data, preset, 20)
    with pytest.raises(KeyboardInterrupt):
        fit(data, preset, 20, tmp_path / "state.pt", stop=2)
    resumed, log = fit(data, preset, 20, tmp_path / "state.pt")
    assert [step for step, _ in log] == [5, 10, 15, 20]
    assert [v["train/loss"] for _, v in log] == [v["train/loss"] for _, v in whole_log]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_best_state_is_that_of_the_best_validation(data: TrainingMixtures):
    preset = PRESETS["avset"]
    scores = iter([1.0, 3.0, 2.0])
    validate = lambda model: {"nsdr": next(scores)}  # noqa: E731
    run = train.fit(make_model(preset), data, captions(data), preset, settings(15, 5), validate, lambda *_: None)
    assert (run.best_step, run.best) == (10, 3.0)
    last = run.model.own_state()
    assert any(not torch.equal(last[k], v) for k, v in run.best_state.items())


def test_learning_rate_warms_up_and_anneals():
    preset = PRESETS["paper"]
    rates = [train.learning_rate(step, 10000, preset) for step in (0, 499, 999, 1000, 5500, 9999)]
    assert rates[0] == pytest.approx(preset.lr / 1000)
    assert rates[1] == pytest.approx(preset.lr / 2)
    assert rates[2] == rates[3] == pytest.approx(preset.lr)
    assert rates[4] == pytest.approx(preset.lr / 2, rel=1e-3)
    assert rates[5] < 1e-6
    release = PRESETS["release"]
    assert [train.learning_rate(s, 100, release) / release.lr for s in (0, 79, 80)] == pytest.approx([1, 1, 0.1])


def test_a_query_of_another_clip_gives_another_mask(data: TrainingMixtures):
    """The label of the audio-language loss and the caption of a source are those of its own clip."""
    preset = PRESETS["avset"]
    batch = {k: v[None] for k, v in data[0].items()}
    model, bank = make_model(preset), captions(data)
    terms = train.batch_losses(model, batch, bank, preset)
    swapped = train.batch_losses(model, {**batch, "clip": batch["clip"].flip(1)}, bank, preset)
    assert swapped["caption"] != terms["caption"]
    assert swapped["audio_language"] != terms["audio_language"]
    assert swapped["mask"] == terms["mask"]


def test_level_video_is_a_preset_of_the_same_model(data: TrainingMixtures):
    preset = PRESETS["mix_and_separate"]
    model = make_model(preset)
    assert model.net.n_regions == 1
    assert replace(model.settings) == model.settings

"""Training lowers its losses, teaches what it should, and goes on exactly where it was killed."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avset import params
from avset.errors import AvsetError
from avset.features.spectrograms import Transform
from avset.models.checkpoint import SeparationModel, Settings
from avset.models.contract import Sizes
from avset.presets import AVSeTSettings
from avset.storage.artifacts import Record
from avset.storage.items import Item
from avset.storage.shards import assemble, spread
from avset.storage.store import Store
from avset.training import dataset, train
from avset.training.batches import TrainingMixtures
from avset.training.dataset import Corpus

ROOT = Path(__file__).parents[1]
PRESETS = {k: v for k, v in params.load(ROOT / "params.yaml").presets.items() if v.kind == "avset"}
TRANSFORM = Transform(11025, 1022, 256, 16, 16)


def two_kinds(folder: Path) -> TrainingMixtures:
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
    axes = {"stft": ("T", "plane", "F"), "regions": ("V", "R", "D")}
    assemble(folder, Record("frames"), spread(items), lambda clip: (items[clip], ""), axes)
    return TrainingMixtures(sorted(items), Store(folder), {"regions": Store(folder)}, 16, 16, 2, (0.5, 1.5), 0, 4000)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingMixtures:
    return two_kinds(tmp_path_factory.mktemp("train") / "store")


def constants(data: TrainingMixtures) -> dict[str, torch.Tensor]:
    """A caption of each clip."""
    regions = data.features["regions"]
    bank = torch.stack([torch.from_numpy(regions.read(c, "regions")).mean((0, 1)) for c in data.clips])
    return {"captions": bank, "own": torch.arange(len(bank))}


def make_model(preset: AVSeTSettings) -> SeparationModel:
    torch.manual_seed(0)
    return SeparationModel(Settings(preset, Sizes(TRANSFORM, 32, 4, [8, 8]), True, ""))


def losses(preset: AVSeTSettings, batch: dict[str, torch.Tensor], data: TrainingMixtures) -> dict[str, torch.Tensor]:
    """The losses of a fresh model."""
    return make_model(preset).method.losses(batch | constants(data))


def settings(steps: int, every: int) -> params.Train:
    shared = params.load(ROOT / "params.yaml").train
    told = {"steps": steps, "batch_size": 4, "validate_every": every, "gain": (0.5, 1.5), "threads": 1}
    return shared.model_copy(update=told)


def fit(
    data: TrainingMixtures, preset: AVSeTSettings, steps: int, state: Path | None = None, stop: int = 0
) -> tuple[train.Run, list]:
    log: list = []

    def validate(model: SeparationModel) -> dict[str, float]:
        if stop and len(log) == stop:
            raise KeyboardInterrupt
        return {"nsdr": float(len(log)), "loss": 1.0}

    run = train.fit(
        make_model(preset), data, constants(data), settings(steps, 5), validate,
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
    assert all(torch.isfinite(p).all() for p in run.method.parameters())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_read_ahead_change_nothing(data: TrainingMixtures):
    runs = [
        train.fit(
            make_model(PRESETS["avset"]), data, constants(data), settings(10, 5),
            lambda model: {"nsdr": 0.0}, lambda *_: None, workers=workers,
        )
        for workers in (0, 2)
    ]  # fmt: skip
    for one, two in zip(*(run.method.state_dict().values() for run in runs), strict=True):
        assert torch.equal(one, two)


def test_the_loss_is_the_weighted_sum(data: TrainingMixtures):
    preset = PRESETS["avset"]
    batch = {k: v[None] for k, v in data[0].items()}
    terms = losses(preset, batch, data)
    _, log = fit(data, preset, 5)
    values = log[0][1]
    weights = preset.losses.recipe()
    assert values["train/loss"] == pytest.approx(sum(weights[k] * values[f"train/{k}"] for k in terms), rel=1e-5)


@pytest.mark.slow
def test_training_separates_by_video_and_by_caption(data: TrainingMixtures):
    _, log = fit(data, PRESETS["avset"].model_copy(update={"warmup": 5, "lr": 5e-3}), 150)
    first, last = log[0][1], log[-1][1]
    assert last["train/mask"] < 0.5 * first["train/mask"]
    assert last["train/caption"] < 0.5 * first["train/caption"]


def sparing(data: TrainingMixtures, frames: int | None, regions: int | None) -> TrainingMixtures:
    """The same mixtures, of which so many frames and regions are decoded."""
    fewer = copy.copy(data)
    fewer.decoded = (frames, regions)
    return fewer


def test_decoding_all_regions_by_draw_is_decoding_all(data: TrainingMixtures):
    preset = PRESETS["avset"].model_copy(update={"level": "region"})
    terms = []
    for mixtures in (data, sparing(data, 1, 4)):
        batch = {k: v[None] for k, v in mixtures[3].items()}
        terms.append(losses(preset, batch, data))
    assert "decoded" in batch and batch["decoded"].tolist() == [[[[0, 1, 2, 3]]] * 2]
    assert terms[0] == terms[1]


@pytest.mark.parametrize("scale", ["regions", "sum"])
def test_the_masks_of_drawn_regions_are_those_of_all_on_average(data: TrainingMixtures, scale: str):
    """Over all choices of one region the mean of the aggregated masks is Eq. 4 itself."""
    preset = PRESETS["avset"].model_copy(update={"level": "region", "scale": scale})
    model, masks = make_model(preset), []
    net = model.method.net
    decode = net.decode
    batch = {k: v[None] for k, v in data[3].items()}
    for choice in (None, 0, 1, 2, 3):
        if choice is not None:
            batch["decoded"] = torch.full((1, 2, 1, 1), choice)
        kept: list = []
        net.decode = lambda *args, kept=kept: kept.append(decode(*args)) or kept[0]
        model.method.losses(batch | constants(data))
        masks.append(kept[0][0])
    torch.testing.assert_close(torch.stack(masks[1:]).mean(0), masks[0])
    assert not torch.allclose(masks[1], masks[2])


def test_draws_are_without_repetition_uniform_and_stay_in_their_frames(data: TrainingMixtures):
    shape, fewer = (2, 3, 5), sparing(data, 2, 3)
    found = np.stack([fewer.draw_regions(shape, np.random.default_rng(i)) for i in range(2000)])
    assert found.shape == (2000, 2, 2, 3)
    frames = found // 5
    assert (frames == frames[..., :1]).all() and (frames[..., 0, 0] != frames[..., 1, 0]).all()
    assert (np.diff(found, axis=-1) > 0).all()
    counts = np.bincount(found.ravel(), minlength=15)
    assert counts.min() > 0.9 * counts.mean() and counts.max() < 1.1 * counts.mean()


def test_bfloat16_is_of_the_convolutions_alone(data: TrainingMixtures):
    preset = PRESETS["avset"]
    batch = {k: v[None] for k, v in data[3].items()}
    exact, method = losses(preset, batch, data), make_model(preset).method
    method.precision = "bfloat16"
    rough = method.losses(batch | constants(data))
    for name, term in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(term.item(), rel=0.05), name
        assert rough[name] != term, name


def test_a_killed_run_ends_as_an_undisturbed_one(data: TrainingMixtures, tmp_path: Path):
    torch.set_num_threads(1)
    preset = PRESETS["avset"]
    whole, whole_log = fit(data, preset, 20)
    with pytest.raises(KeyboardInterrupt):
        fit(data, preset, 20, tmp_path / "state.pt", stop=2)
    resumed, log = fit(data, preset, 20, tmp_path / "state.pt")
    assert [step for step, _ in log] == [5, 10, 15, 20]
    assert [v["train/loss"] for _, v in log] == [v["train/loss"] for _, v in whole_log]
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[name]), name


@pytest.mark.parametrize(("best", "step", "value"), [("nsdr", 10, 3.0), ("loss", 5, -0.1)])
def test_the_best_state_is_that_of_the_best_validation(data: TrainingMixtures, best: str, step: int, value: float):
    preset = PRESETS["avset"].model_copy(update={"best": best})
    scores = iter([(1.0, 0.1), (3.0, 0.3), (2.0, 0.2)])
    validate = lambda model: dict(zip(("nsdr", "loss"), next(scores), strict=True))  # noqa: E731
    run = train.fit(make_model(preset), data, constants(data), settings(15, 5), validate, lambda *_: None)
    assert (run.best_step, run.best) == (step, value)
    last = run.method.own_state()
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
    method, batch = make_model(preset).method, batch | constants(data)
    terms = method.losses(batch)
    swapped = method.losses({**batch, "clip": batch["clip"].flip(1)})
    assert swapped["caption"] != terms["caption"]
    assert swapped["audio_language"] != terms["audio_language"]
    assert swapped["mask"] == terms["mask"]


def test_level_video_is_a_preset_of_the_same_model(data: TrainingMixtures):
    preset = PRESETS["mix_and_separate"]
    model = make_model(preset)
    assert model.method.net.n_regions == 1
    batch = {k: v[None] for k, v in sparing(data, 1, 2)[0].items()}
    with pytest.raises(AvsetError, match=r"level: video pools all regions; set train\.decoded_frames"):
        model.method.losses(batch | constants(data))


def test_a_shared_caption_is_no_negative_of_itself(data: TrainingMixtures):
    """Eq. 2 by a loop over the captions of three videos of two clips each; a bank of six would count each twice."""
    preset = PRESETS["avset"]
    bank, own = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 2, 2, 1, 1])
    method, items = make_model(preset).method, [data[i] for i in range(3)]
    batch = {k: torch.stack([item[k] for item in items]) for k in items[0]}
    heard: list[torch.Tensor] = []
    embed = method.net.embed
    method.net.embed = lambda *args: heard.append(embed(*args)) or heard[0]
    found = method.losses(batch | {"captions": bank, "own": own})
    expected = []
    for sound, clip in zip(heard[0].detach().flatten(0, 1), batch["clip"].flatten().tolist(), strict=True):
        scores = [100 * torch.cosine_similarity(sound, caption, dim=0).double() for caption in bank]
        expected.append(torch.stack(scores).logsumexp(0) - scores[[0, 0, 2, 2, 1, 1][clip]])
    assert found["audio_language"].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    doubled = method.losses(batch | {"captions": bank[own], "own": torch.arange(6)})
    assert (doubled["audio_language"] - found["audio_language"]).item() == pytest.approx(np.log(2), abs=1e-4)
    for name in ("mask", "caption", "trimodal"):
        assert doubled[name] == found[name], "the caption itself is the same"


def test_negatives_of_the_batch_are_its_own_captions_each_once(data: TrainingMixtures):
    captions = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    batch = {k: v[None] for k, v in data[0].items()}

    def loss(own: list[int], known: list[int], **settings: Any) -> float:
        method = make_model(PRESETS["avset"].model_copy(update=settings)).method
        bank = {"captions": captions[known], "own": torch.tensor([known.index(one) for one in own])}
        return method.losses(batch | bank | {"clip": torch.tensor([[0, 1]])})["audio_language"].item()

    among_two = loss([0, 3], [3, 0])
    assert loss([0, 3], [0, 1, 2, 3], negatives="batch") == pytest.approx(among_two, abs=1e-5)
    assert loss([0, 3], [0, 1, 2, 3]) > among_two + 0.1
    assert loss([2, 2], [0, 1, 2, 3], negatives="batch") == 0, "both sounds have one caption, which has no rival"
    assert loss([0, 3], [0, 1, 2, 3], temperature=1.0) < among_two


def test_the_bank_has_each_caption_once(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch):
    of = {"a_0": "a_10", "a_10": "a_10", "b_0": "b_0", "c_0": "c_10", "c_10": "c_10"}
    items = {clip: Item({"caption": np.full(4, sum(maker.encode()), np.float32)}, {"of": maker})
             for clip, maker in of.items()}  # fmt: skip
    assemble(
        tmp_path / "captions", Record("captions"), spread(items), lambda clip: (items[clip], ""), {"caption": ("D",)}
    )
    store = Store(tmp_path / "captions")
    corpus = Corpus(store, store, store, store, [], {}, {}, store.rows)
    bank, own = corpus.bank(["b_0", "c_0", "a_0", "c_10", "a_10"])
    assert bank[:, 0].tolist() == [sum(maker.encode()) for maker in ("b_0", "c_10", "a_10")]
    assert own.tolist() == [0, 1, 2, 1, 2]
    bank, own = corpus.bank(["a_0", "b_0", "c_0"])
    assert own.tolist() == [0, 1, 2] and bank[:, 0].tolist() == [sum(of[c].encode()) for c in ("a_0", "b_0", "c_0")]
    clips = ["c_0", "a_0", "a_10", "c_10", "b_0"]
    bank, own = corpus.bank(clips)
    monkeypatch.setattr(dataset, "AT_ONCE", 2)
    for damaged in (False, False, True, False):
        if damaged:
            kept = next(private_cache.glob("mapped/*"))
            kept.write_bytes(b"x" + kept.read_bytes()[1:])
        many, numbers = corpus.bank(clips)
        assert many.dtype == torch.float16 and torch.equal(many[numbers].float(), bank[own]) and len(many) == 3
    monkeypatch.setattr(dataset, "mapped", lambda *_: None)  # of a cache that cannot be written
    assert torch.equal(corpus.bank(clips)[0], many)


VIDEOS = {"a": 5, "b": 1, "c": 2, "d": 1}  # clips of each
CLIPS = {f"{video}_{i}": video for video, n in VIDEOS.items() for i in range(n)}


def mixer(data: TrainingMixtures, videos: list[str] | None, n_sources: int, count: int = 9) -> TrainingMixtures:
    clips = list(CLIPS)[:count]
    return TrainingMixtures(clips, data.spectrograms, data.features, 16, 16, n_sources, (1.0, 1.0), 3, 9999, videos)


def test_partners_in_training_are_of_other_videos(data: TrainingMixtures):
    mixed = mixer(data, list(CLIPS.values()), 2)
    pairs = Counter(tuple(mixed.choose(i)[0].tolist()) for i in range(9 * 600))
    clips = list(CLIPS)
    for first, clip in enumerate(clips):
        others = [i for i, other in enumerate(clips) if CLIPS[other] != CLIPS[clip]]
        drawn = [pairs[first, i] for i in range(9)]
        assert sum(drawn) == 600, "first once an epoch"
        assert {i for i in range(9) if drawn[i]} == set(others)
        share = 600 / len(others)
        assert max(abs(drawn[i] - share) for i in others) < 5 * share**0.5


def test_mixtures_of_several_are_of_several_videos(data: TrainingMixtures):
    """Also if one video has most of the clips, and if every video is needed."""
    for n_sources in (3, 4):
        mixed = mixer(data, list(CLIPS.values()), n_sources)
        chosen = [mixed.choose(i)[0] for i in range(900)]
        assert all(len({mixed.contents[i] for i in clips}) == len(clips) == n_sources for clips in chosen)
        assert {clip for clips in chosen for clip in clips[1:]} == set(range(9))


@pytest.mark.parametrize("n_sources", [2, 3])
def test_clips_that_are_videos_are_drawn_as_if_there_were_no_videos(data: TrainingMixtures, n_sources: int):
    for videos in (None, list("zyxwvutsr")):
        mixed = mixer(data, videos, n_sources)
        for i in range(50):
            chosen, rng = mixed.choose(i)
            plain = np.random.default_rng([3, 1, i])
            others = plain.choice(8, n_sources - 1, replace=False)
            assert chosen[1:].tolist() == [k + (k >= chosen[0]) for k in others]
            assert rng.random() == plain.random(), "crops and gains go on from the same place"


def test_too_few_videos_to_train_on_say_so(data: TrainingMixtures):
    with pytest.raises(AvsetError, match="5 training clips of 1 videos, but a mixture is of 2; add videos"):
        mixer(data, ["a"] * 5, 2, count=5)

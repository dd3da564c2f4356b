"""Methods that know nothing of each other go through training, evaluation and report; what they lack is said."""

import json
from contextlib import redirect_stdout
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
import yaml
from safetensors.torch import load_file

from avset import params
from avset.errors import AvsetError, MissingArtifact, ParamsError
from avset.evaluation import examples, metrics
from avset.evaluation.estimates import Estimates, ordered_by_sources
from avset.features.spectrograms import Transform
from avset.inference.separate import Separator
from avset.models.checkpoint import SeparationModel, Settings
from avset.models.contract import Conditions, Sizes
from avset.presets import settings_type
from avset.storage.tables import read_table
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture

STRANGER = {
    "kind": "tests.stranger", "start": 3.0, "losses": {"distance": 1.0}, "optimizer": "adamw", "lr": 0.1,
    "weight_decay": 0.0, "schedule": "cosine", "warmup": 0, "best": "nsdr",
}  # fmt: skip


def tree(**changes: object) -> dict:
    """The toy parameters with NMF-MFCC first, a stranger's method second, AV-SeT last."""
    made = toy.params(presets__stranger=STRANGER | changes)
    made["presets"]["nmf_mfcc"] |= {"templates": 12, "updates": 10}
    made["methods"] = toy.methods("nmf_mfcc") | {"stranger": "tests/stranger.py"} | toy.methods("avset")
    return made


@pytest.fixture(scope="module")
def project(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with three methods."""
    folder = toy.project(toy.clone(scored, tmp_path_factory.mktemp("contract") / "project"), tree())
    (folder / "tests").symlink_to(toy.ROOT / "tests")  # where the stranger's module is
    for method in ("nmf_mfcc", "stranger"):
        toy.run(folder, folder.parent / "cache", "train", "evaluate", method=method)
    with (folder / "said").open("w") as said, redirect_stdout(said):
        toy.run(folder, folder.parent / "cache", "report")
    return folder


def scores(project: Path, method: str) -> list[dict]:
    return read_table(project / "data" / "demo" / "demo" / "scores" / method / "scores.parquet")


def test_a_stranger_learns_what_it_can(project: Path):
    model = SeparationModel.load(project / "data" / "demo" / "demo" / "models" / "stranger")
    assert model.name == "tests.stranger" and model.settings.method.start == 3.0
    assert model.method.bias < 3.0, "a source is less than all of its mixture"
    curves = json.loads((project / "data/demo/demo/models/stranger/curves/metrics.json").read_text())
    assert curves["train"].keys() == {"distance", "loss"} and curves["validation"].keys() == {"caption", "nsdr"}
    assert {row["query"] for row in scores(project, "stranger")} == {"caption"}


def test_what_learns_nothing_is_ready_at_once(project: Path):
    folder = project / "data" / "demo" / "demo" / "models" / "nmf_mfcc"
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "record.json"]
    assert load_file(folder / "model.safetensors") == {}
    assert SeparationModel.load(folder).settings.method.templates == 12


def test_the_table_and_the_page_say_that_it_is_an_oracle(project: Path):
    assert {row["query"] for row in scores(project, "nmf_mfcc")} == {"oracle"}
    said = (
        "NMF-MFCC knows no query. The true sources assign the outputs, by the permutation of the highest SDR: an oracle"
    )
    html = (project / "reports" / "demo" / "demo" / "html" / "index.html").read_text()
    assert said in html and "best assignment (oracle)" in html
    assert said in (project / "said").read_text()


def test_a_report_of_several_methods_takes_from_each_what_it_has(project: Path, scored: Path):
    found, before = (json.loads((p / "reports/demo/demo/metrics.json").read_text()) for p in (project, scored))
    assert found["nmf_mfcc"].keys() == {"oracle"} and found["stranger"].keys() == {"caption"}
    for key in ("avset", "localization", "encoder", "captions", "mixture", "ideal"):
        assert found[key] == before[key], "of AV-SeT, which is the last in the list"
    for name in ("example.png", "queries.png", "localization.png"):
        assert (project / "reports" / "demo" / "demo" / name).stat().st_size > 1000
    assert (project / "reports/demo/demo/localization.png").read_bytes() == (
        scored / "reports/demo/demo/localization.png"
    ).read_bytes()


def test_a_report_without_any_that_localizes(project: Path, tmp_path: Path):
    folder = toy.clone(project, tmp_path / "project")
    made = tree()
    del made["methods"]["avset"]
    toy.run(toy.project(folder, made), tmp_path / "cache", "report")
    found = json.loads((folder / "reports" / "demo" / "demo" / "metrics.json").read_text())
    assert found["localization"] == {} and "encoder" not in found
    assert (folder / "reports" / "demo" / "demo" / "localization.png").stat().st_size > 1000


def test_outputs_are_assigned_by_the_best_permutation(project: Path):
    data = project / "data" / "demo" / "demo"
    rows = {(row["mixture_id"], row["source"]): row["sdr"] for row in scores(project, "nmf_mfcc")}
    for example in examples.read(data / "scores" / "nmf_mfcc" / "examples.h5"):
        made = example.separations["oracle"]
        orders = [list(order) for order in permutations(range(len(made.estimates)))]
        begin, end = (round(seconds * example.sample_rate) for seconds in example.scored)
        references, estimates = example.references[:, begin:end], made.estimates[:, begin:end]
        means = [metrics.bss_eval(references, estimates[order])["sdr"].mean() for order in orders]
        assert means[0] == max(means), "the first order is the one that is there"
        assert means[0] == pytest.approx(np.mean([rows[example.mixture_id, n] for n in range(2)]), abs=0.1)
        assert made.queries == ["", ""] and made.attention is None and not example.attention
        assert made.masks.shape == example.separations["ideal"].masks.shape, "shown on the same axis"


@pytest.mark.parametrize("seed", range(3))
def test_the_best_assignment_is_that_of_all_permutations(seed: int):
    sdr = np.random.default_rng(seed).normal(size=(4, 4))
    best = max(permutations(range(4)), key=lambda order: sum(sdr[i, n] for n, i in enumerate(order)))
    assert metrics.best_assignment(sdr).tolist() == list(best)


def test_a_query_that_a_method_does_not_answer_is_refused(project: Path):
    models = project / "data" / "demo" / "demo" / "models"
    with pytest.raises(AvsetError, match=r"nmf_mfcc answers no text query: it knows no query; give another model"):
        Separator.load(models / "nmf_mfcc").text_query(["violin"])
    stranger = Separator.load(models / "stranger")
    with pytest.raises(AvsetError, match=r"tests\.stranger answers no video query: it answers caption"):
        stranger.video_query(np.zeros((1, 96, 96, 3), np.uint8))
    with pytest.raises(AvsetError, match=r"tests\.stranger does not know where a sound is"):
        stranger.localize(np.zeros((96, 96, 3), np.uint8), "violin")


def test_what_a_stranger_forgets_is_named(project: Path, tmp_path: Path):
    folder = toy.clone(project, tmp_path / "project")
    with pytest.raises(AvsetError, match=r"the settings have no weight of 'distance'; add it to the preset's losses"):
        toy.run(toy.project(folder, tree(losses={})), tmp_path / "cache", "train", method="stranger")
    with pytest.raises(ParamsError, match=r"presets\.stranger\.start: missing from params\.yaml"):
        made = tree()
        del made["presets"]["stranger"]["start"]
        params.resolve(made)
    with pytest.raises(MissingArtifact):
        SeparationModel.load(folder / "data" / "demo" / "demo" / "models" / "none")
    with pytest.raises(
        AvsetError, match=r"a batch cannot carry 'smells'; a method may need captions, frames, regions, tower"
    ):
        Corpus.load(folder / "data" / "demo" / "demo").features({"regions", "smells"})


PRESETS = yaml.safe_load((toy.ROOT / "params.yaml").read_text())["presets"]
SIZES = Sizes(Transform(11025, 1022, 256, 16, 16), 12, 4, [4, 8], "small", 3, 16, 8)


def model_of(preset: str) -> SeparationModel:
    """A small model of a preset, in use; its masks are no binary ones, which are alike before a training."""
    torch.manual_seed(0)
    told = PRESETS[preset] | ({"mask_target": "ratio"} if "pixels" in PRESETS[preset] else {})
    settings = settings_type(told["kind"]).model_validate(told | ({"width": 32} if "width" in told else {}))
    model = SeparationModel(Settings(settings, SIZES, True, ""))
    model.method.eval()
    return model


def batch_of(count: int) -> dict[str, torch.Tensor]:
    """Two mixtures of some sources, with all that any method needs."""
    random = torch.Generator().manual_seed(1)
    sources = torch.rand(2, count, 16, 16, generator=random)
    corners = torch.rand(2, count, 1, 2, 2, generator=random) / 2
    classes = torch.randint(3, (2, count, 1, 2), generator=random)
    return {
        "sources": sources, "mixture": sources.sum(1), "clip": torch.arange(2 * count).view(2, count),
        "regions": torch.randn(2, count, 1, 4, 12, generator=random), "own": torch.arange(2 * count),
        "captions": torch.randn(2 * count, 12, generator=random),
        "frames": torch.randint(256, (2, count, 1, 32, 32, 3), generator=random, dtype=torch.uint8),
        "boxes": torch.cat([corners, corners + 0.5], -1), "classes": classes,
        "confidences": torch.rand(2, count, 1, 2, generator=random) + 0.1,
        "features": torch.randn(2, count, 1, 2, 8, generator=random),
    }  # fmt: skip


def conditions_of(batch: dict[str, torch.Tensor], places: list[int]) -> Conditions:
    """What asks for some of the sources."""
    seen = {name: batch[name][:, places] for name in ("frames", "boxes", "classes", "confidences", "features")}
    return Conditions(len(places), batch["regions"][:, places], seen)


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"nmf_mfcc"}))
def test_of_several_sources_each_has_the_sound_that_it_has_alone(preset: str, count: int):
    """In each system; all are learned from, and all have a score."""
    model, batch = model_of(preset), batch_of(count)
    waves = torch.randn(2, count, SIZES.transform.length, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together, _ = model.separate(waves.sum(1), conditions_of(batch, [*range(count)]))
        for place in range(count):
            alone, _ = model.separate(waves.sum(1), conditions_of(batch, [place]))
            torch.testing.assert_close(together[:, place], alone[:, 0], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together[:, 0], together[:, -1]), "the sources are not asked for alike"
    scores = metrics.bss_eval(waves[0].numpy(), together[0].numpy(), "shared")
    assert {value.shape for value in scores.values()} == {(count,)} and np.isfinite(scores["sdr"]).all()
    terms = model.method.train().losses(batch)
    weighed = {name for name, weight in model.settings.method.weights().items() if weight}
    assert weighed <= terms.keys() and all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize("count", [3, 4])
def test_what_knows_no_query_makes_as_many_sounds_as_there_are(count: int):
    """The masks are parts of the mixture; turned outputs are given back to their sources."""
    model, labels = model_of("nmf_mfcc"), list("abcd")[:count]
    waves = torch.randn(count, SIZES.transform.length, generator=torch.Generator().manual_seed(2))
    made, masks = model.separate(waves.sum(0)[None], Conditions(count))
    assert made.shape == (1, *waves.shape) and masks.shape[:2] == (1, count) and 0 <= masks.min() <= masks.max() <= 1
    mixture = Mixture("m", "test", labels, labels, labels, [0] * count, [1.0] * count, 0)
    sources = waves.numpy()
    turned = Estimates(mixture, [*range(count)], sources, np.roll(sources, 1, 0), np.zeros((count, 1, 1)), None)
    assert np.array_equal(next(ordered_by_sources(iter([turned]))).estimates, sources)

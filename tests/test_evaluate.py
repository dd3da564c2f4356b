"""Train, evaluate and report on a tiny data set: what they write, the same bytes each time, also after a kill."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import toy
from test_store import tree_digest

from avset.errors import AvsetError, MissingArtifact, ParamsError
from avset.evaluation import metrics
from avset.evaluation.estimates import estimates, share_of, words_of
from avset.evaluation.evaluate import example
from avset.evaluation.examples import Separation
from avset.evaluation.validation import Validation
from avset.evaluation.wholes import FADE, whole
from avset.inference.separate import Separator
from avset.models import losses
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Conditions
from avset.storage.artifacts import ARTIFACTS, Record
from avset.storage.tables import read_table, write_table
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture, references

KINDS = ("text", "word", "video", "caption", "player")
CONTROLS = ("other", "absent")


def model(folder: Path) -> dict[str, str]:
    """Digests of the checkpoint and its curves."""
    return tree_digest(folder / "data" / "demo" / "demo" / "models" / "avset")


def numbers(folder: Path) -> dict:
    """The content of metrics.json."""
    return json.loads((folder / "reports" / "demo" / "demo" / "metrics.json").read_text())


def test_every_file_is_there(scored: Path):
    found = {path.relative_to(scored).as_posix() for path in scored.rglob("*") if path.is_file()}
    expected = {"data/demo/demo/models/avset/model.safetensors", "data/demo/demo/models/avset/curves/metrics.json"}
    expected |= {f"data/demo/demo/scores/avset/{name}" for name in
                 ("scores.parquet", "localization.parquet", "duets.parquet", "examples.h5", "facts.json")}  # fmt: skip
    expected |= {f"reports/demo/demo/{name}" for name in
                 ("metrics.json", "coverage.json", "nsdr_by_method.csv", "nsdr_by_set.csv", "nsdr_by_class.csv",
                  "localization.csv", "example.png", "localization.png", "queries.png", "html/index.html")}  # fmt: skip
    assert expected <= found
    assert not [name for name in found if "/." in name and not name.startswith(("data/.locks/", "inputs/"))], (
        "nothing unfinished"
    )


def test_the_metrics_have_their_dotted_keys(scored: Path):
    for key in (
        "avset.text.nsdr", "avset.video.nsdr", "avset.text.sdr", "avset.text.sir", "avset.text.sar",
        "avset.video.sdr", "avset.video.sir", "avset.video.sar", "ideal.nsdr", "mixture.sdr",
        "template.nsdr", "fixed.nsdr", "ideal_linear.nsdr", "ideal.moving", "avset.text.moving", "avset.other.nsdr",
        "avset.absent.nsdr", "three.avset.text.nsdr", "three.template.nsdr", "localization.wrong.pointing",
        "localization.norm.pointing", "localization.duets.text.other", "localization.duets.sound.pointing",
        "localization.text.pointing", "localization.sound.pointing", "localization.chance.pointing",
        "avset.answers.text.likeness", "avset.answers.text.residual", "avset.answers.absent.distance",
    ):  # fmt: skip
        value = numbers(scored)
        for part in key.split("."):
            value = value[part]
        assert isinstance(value, float) and np.isfinite(value), key


def test_the_metrics_are_the_means_of_the_scores(scored: Path):
    rows = read_table(scored / "data" / "demo" / "demo" / "scores" / "avset" / "scores.parquet")
    own = read_table(scored / "data" / "demo" / "demo" / "mixtures" / "scores.parquet")
    before = {(r["mixture_id"], r["source"]): r["sdr"] for r in own if r["method"] == "mixture"}
    found = numbers(scored)
    for kind in KINDS:
        mine = [r for r in rows if r["query"] == kind and r["mixture_id"].startswith("test-")]
        assert len({(r["mixture_id"], r["source"]) for r in mine}) == len(mine) == 4 * 2
        gains = [r["sdr"] - before[r["mixture_id"], r["source"]] for r in mine]
        assert [r["nsdr"] for r in mine] == pytest.approx(gains)
        assert found["avset"][kind]["nsdr"] == pytest.approx(np.mean(gains), abs=1e-4)
    assert found["mixture"]["nsdr"] == 0 < 5 < found["ideal"]["nsdr"]


def test_places_are_scored_against_the_boxes_of_the_test_clips(scored: Path):
    data = scored / "data" / "demo" / "demo"
    rows, corpus = read_table(data / "scores" / "avset" / "localization.parquet"), Corpus.load(data)
    tests = {clip for clip, split in corpus.splits.items() if split == "test"}
    each = sorted((clip, label) for clip in tests for label in corpus.labels[clip])
    for look in ("text", "caption", "wrong", "norm"):
        assert sorted((r["clip_id"], r["label"]) for r in rows if r["attention"] == look) == each, "duets by each label"
    solos = [r for r in rows if r["labels"] == 1]
    duets = [r for r in rows if r["labels"] == 2]
    assert {r["other"] for r in solos} == {None} and {r["other"] for r in duets} <= {True, False}
    heard = sorted(clip for m in corpus.mixtures_of("test") for clip in m.clips)
    assert sorted(r["clip_id"] for r in solos if r["attention"] == "sound") == heard
    assert sorted((r["clip_id"], r["label"]) for r in duets if r["attention"] == "sound") == [
        pair for pair in each if len(corpus.labels[pair[0]]) == 2
    ]
    for look in ("caption", "norm"):  # what knows no label looks at one place: a hit for one is one in the other's box
        hit, other = ([r[key] for r in duets if r["attention"] == look] for key in ("hit", "other"))
        assert hit == [found for pair in zip(other[1::2], other[::2], strict=True) for found in pair]
    assert all(0 <= r["chance"] < 1 and 0 <= r["iou"] <= 1 for r in rows)
    found = numbers(scored)["localization"]
    for rows_of, means in ((solos, found), (duets, found["duets"])):
        mean = np.mean([r["hit"] for r in rows_of if r["attention"] == "text"])
        assert means["text"]["pointing"] == pytest.approx(mean, abs=1e-4)


def test_controls_ask_for_the_wrong_sound(scored: Path):
    """The text of the next source makes what that source's own does; the absent one is in no mixture."""
    data = scored / "data" / "demo" / "demo"
    corpus, separator = Corpus.load(data), Separator.load(data / "models" / "avset")
    names = sorted({label for several in corpus.labels.values() for label in several})
    texts = {name: separator.text_query([f"person playing a {name}"])[0] for name in names}
    tests = corpus.mixtures_of("test")
    own, other = (list(estimates(separator.model, tests, kind, corpus, texts)) for kind in ("text", "other"))
    for one, turned in zip(own, other, strict=True):
        assert np.allclose(one.estimates, turned.estimates[::-1], atol=1e-6)
    for mixture in tests:
        words = words_of("absent", mixture, texts)
        assert not {*words} & {*mixture.labels} and {*words} <= {*names}
    whole = Mixture("m", "test", ["a", "b"], ["a", "b"], ["x", ""], [0, 0], [1.0, 1.0], 0)
    assert words_of("other", whole, {"x": texts[names[0]]}) == ["", ""], "without a label nobody knows what is absent"
    assert words_of("absent", replace(whole, labels=["x", "y"]), dict.fromkeys("xy", texts[names[0]])) == ["", ""]


def test_further_sets_are_scored_and_no_model_knows_them(scored: Path, tmp_path: Path):
    folder = toy.clone(scored, tmp_path / "project")
    tree = toy.params()
    tree["scales"]["demo"]["sets"]["further"] = {
        "pairs": {"count": 3, "n_sources": 2, "category": "any", "seed": 1},
        "same": {"count": 3, "n_sources": 2, "category": "same", "seed": 0},
        "listed": {"count": 3, "n_sources": 2, "category": "different", "seed": 0, "list": "inputs/demo/pairs.csv"},
        "four": {"count": 2, "n_sources": 4, "category": "different", "seed": 0},
    }
    first, second = (f"{label}-test-000" for label in ("cello", "tuba"))
    (folder / "inputs" / "demo" / "pairs.csv").write_text(f"clip_0,clip_1\n{first},{second}_0\n{first},nobody\n")
    tree["evaluate"] |= {"controls": False, "phrases": {}}
    before = numbers(folder)
    toy.run(toy.project(folder, tree), tmp_path / "cache", "sets", "evaluate", "report")
    found = numbers(folder)
    assert model(folder) == model(scored) and "three" not in found
    assert {key: found["avset"][key] for key in KINDS[:4]} == {key: before["avset"][key] for key in KINDS[:4]}
    assert found["pairs"]["avset"].keys() == {*KINDS[:4]} == found["avset"].keys() - {"answers", "presence"}
    assert "same" not in found and {entry["n"] for entry in found["four"]["avset"].values()} == {2 * 4}
    coverage = json.loads((folder / "reports" / "demo" / "demo" / "coverage.json").read_text())
    assert found["listed"]["avset"]["text"]["n"] == 2 == coverage["mixture_lists"]["listed"]["rows"]
    assert coverage["mixture_lists"]["listed"]["left_out"] == {"unknown": 1}
    assert Record.read(folder / "data" / "demo" / "demo" / "sets").recipe["sets"]["further"]["listed"]["list"]
    assert "(sha256 " in (folder / "reports" / "demo" / "demo" / "html" / "index.html").read_text()
    assert "set 'same': no 2 test recordings make a mixture of it" in coverage["sets"]["same"]
    assert not [one for one in ARTIFACTS["models"].parents if one == "sets"]


def test_each_player_of_a_duet_is_asked_for_by_word_and_by_place(scored: Path):
    data = scored / "data" / "demo" / "demo"
    corpus = Corpus.load(data, further=True)
    duet = corpus.mixtures_of("duets")[0]
    clip, labels = duet.clips[0], duet.labels
    assert duet.clips == [clip, clip] and corpus.labels[clip] == labels and len(set(labels)) == 2
    found = numbers(scored)["duets"]["avset"]
    assert found.keys() == {*KINDS, *CONTROLS} - {"caption"}, "the picture of both has one caption"
    whole = corpus.regions.read(clip, "regions")
    for label in labels:
        own = share_of(torch.from_numpy(whole).float(), clip, label, corpus)
        assert own.shape == (len(whole), whole.shape[1] // 2, whole.shape[2])
    assert Record.read(data / "sets").facts["codec_sdr"] > 15, "the decoded sound is that of its players"


def test_what_moves_is_what_the_masks_gain_over_their_mean(scored: Path):
    data = scored / "data" / "demo" / "demo"
    corpus, trained = Corpus.load(data), Separator.load(data / "models" / "avset").model
    rows = read_table(data / "scores" / "avset" / "scores.parquet")
    transform, one = (
        trained.settings.transform,
        next(iter(estimates(trained, corpus.mixtures_of("test"), "video", corpus, {}))),
    )
    spectrum, magnitude = transform.analyse(torch.from_numpy(one.references.sum(0)))
    energy = magnitude.numpy() ** 2
    mean = (one.masks * energy).sum(-1, keepdims=True) / energy.sum(-1, keepdims=True)
    resting = transform.apply(
        torch.from_numpy(np.broadcast_to(mean, one.masks.shape).copy()), spectrum, transform.length
    )
    gained, still = (metrics.bss_eval(one.references, made)["sdr"] for made in (one.estimates, resting.numpy()))
    found = [r["moving"] for r in rows if r["query"] == "video" and r["mixture_id"] == one.mixture.mixture_id]
    assert found == pytest.approx(gained - still, abs=1e-2)


def test_a_score_is_that_of_the_estimate_that_the_page_plays(scored: Path):
    """Each estimate is the model's answer to the query of its own source, and has the NSDR of the table."""
    data = scored / "data" / "demo" / "demo"
    corpus, separator = Corpus.load(data), Separator.load(data / "models" / "avset")
    rows = {(r["query"], r["mixture_id"], r["source"]): r["nsdr"]
            for r in read_table(data / "scores" / "avset" / "scores.parquet")}  # fmt: skip
    mixtures = {m.mixture_id: m for m in corpus.mixtures_of("test")}
    with h5py.File(data / "scores" / "avset" / "examples.h5") as file:
        assert len(file) == 2
        name, group = next(iter(file.items()))
        rate, begin = group.attrs["sample_rate"], json.loads(group.attrs["scored"])[0]
        crop = slice(round(begin * rate), round(begin * rate) + separator.model.settings.transform.length)
        inside = slice(crop.start + round(FADE * rate), crop.stop - round(FADE * rate))
        short = slice(inside.start - crop.start, inside.stop - crop.start)
        mixed, references = torch.from_numpy(group["mixture"][crop]), group["references"][:, crop]
        assert np.allclose(group["references"][:].sum(0), group["mixture"][:], atol=1e-6)
        for kind, prompt in (("text", "person playing a {}"), ("word", "{}")):
            asked = [prompt.format(label) for label in mixtures[name].labels]
            assert json.loads(group[kind].attrs["queries"]) == asked
            conditions = Conditions.of_queries(separator.text_query(asked)[None])
            found, _ = separator.model.separate(mixed[None], conditions)
            assert np.allclose(found[0][:, short], group[f"{kind}/estimates"][:, inside], atol=1e-5)
        regions = np.stack([corpus.regions.read(clip, "regions") for clip in mixtures[name].clips])
        conditions = Conditions.of_queries(torch.from_numpy(regions).float()[None])
        found, _ = separator.model.separate(mixed[None], conditions)
        assert np.allclose(found[0][:, short], group["video/estimates"][:, inside], atol=1e-5)
        assert not {*group} & {*CONTROLS}, "controls are no examples"
        for kind in KINDS:
            scores = metrics.bss_eval(references, group[f"{kind}/estimates"][:, crop])["sdr"]
            gains = scores - [corpus.mixture_sdr[name, n] for n in range(2)]
            assert gains == pytest.approx([rows[kind, name, n] for n in range(2)], abs=0.1)


def test_an_example_goes_on_around_the_crop_that_was_scored(scored: Path):
    """A model of short crops: the whole lasts as long as both clips, which lie there as in the mixture."""
    data = scored / "data" / "demo" / "demo"
    corpus, model = Corpus.load(data), Separator.load(data / "models" / "avset").model
    sizes = model.settings.sizes
    short = replace(sizes, transform=replace(sizes.transform, crop=32))
    model.settings = replace(model.settings, sizes=short)
    transform, hop = model.settings.transform, model.settings.transform.hop_length
    mixture = replace(corpus.mixtures_of("test")[0], offsets=[10, 25])
    shown = example(mixture, corpus, model, corpus.grid, {})
    crop = next(estimates(model, [mixture], "video", corpus, {}))
    shown.separations["video"] = Separation(["video"] * 2, crop.estimates, crop.masks, None, None)
    found = whole(shown, mixture, model, corpus, {})
    lengths = [corpus.spectrograms.dataset(clip, "waveform").shape[0] for clip in mixture.clips]
    length = found.references.shape[1]
    assert 0 <= min(lengths[0], lengths[1] - 15 * hop) - length < hop
    assert found.starts == [0, 15 * hop / transform.sample_rate]
    assert found.scored[0] * transform.sample_rate == 10 * hop
    played = references(replace(mixture, offsets=[0, 15]), corpus.spectrograms, length, hop)
    np.testing.assert_allclose(found.references, played, atol=1e-6)
    fade = round(FADE * transform.sample_rate)
    inside = slice(10 * hop + fade, 10 * hop + transform.length - fade)
    heard = found.separations["video"].estimates
    np.testing.assert_allclose(heard[:, inside], crop.estimates[:, fade:-fade], atol=1e-5)
    assert np.abs(heard[:, inside.stop + hop :]).max() > 1e-3, "there is more than the crop"
    assert {made.masks.shape[2] for made in found.separations.values()} == {length // hop + 1}
    html = (scored / "reports" / "demo" / "demo" / "html" / "index.html").read_text()
    assert html.count('src="data:video/mp4;base64,') == 2 * 2, "a film of each source of both examples"


def test_clips_without_one_label_cost_their_own_texts_alone(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """One test clip has no label, another has two; a third lost its caption."""
    folder = toy.clone(scored, tmp_path / "project")
    data = folder / "data" / "demo" / "demo"
    before, index = read_table(data / "mixtures" / "mixtures.parquet"), data.parent / "clips" / "index.parquet"
    tests = [row for row in before if row["split"] == "test"]
    changed = {tests[0]["clips"][0]: [], tests[1]["clips"][1]: ["tuba", "harp"]}
    rows = [row | {"labels": changed.get(row["clip_id"], row["labels"])} for row in read_table(index)]
    write_table(index, rows)
    own = {row["clip_id"]: row["labels"] for row in rows}
    label = {clip: several[0] if len(several) == 1 else "" for clip, several in own.items()}
    mixtures = [row | {"labels": [label[clip] for clip in row["clips"]]} for row in before]
    write_table(data / "mixtures" / "mixtures.parquet", mixtures)
    lost = next(clip for row in tests[2:] for clip in row["clips"] if clip not in changed)
    captions = read_table(data / "captions" / "index.parquet")
    write_table(data / "captions" / "index.parquet",
                [row | ({"status": "failed"} if row["clip_id"] == lost else {}) for row in captions])  # fmt: skip
    for changed_one in (data.parent / "clips", data / "mixtures", data / "captions"):
        toy.seal(changed_one)
    capsys.readouterr()
    toy.run(folder, tmp_path / "cache", "evaluate", "report")
    said = capsys.readouterr().out
    whole = {(m["mixture_id"], n) for m in mixtures for n in (0, 1) if m["split"] == "test" and lost not in m["clips"]}
    labelled = {(m["mixture_id"], n) for m in mixtures for n in (0, 1) if m["labels"][n]} & whole
    found = [r for r in read_table(data / "scores" / "avset" / "scores.parquet")
             if r["mixture_id"].startswith("test-") and r["query"] not in CONTROLS]  # fmt: skip
    for kind in KINDS:
        asked = {(row["mixture_id"], row["source"]) for row in found if row["query"] == kind}
        assert asked == (labelled if kind in ("text", "word", "player") else whole)
    assert 0 < len(labelled) < len(whole) < 8
    kept = read_table(scored / "data" / "demo" / "demo" / "scores" / "avset" / "scores.parquet")
    same = {(row["query"], row["mixture_id"], row["source"]): row["nsdr"] for row in kept}
    assert [row["nsdr"] for row in found] == pytest.approx(
        [same[row["query"], row["mixture_id"], row["source"]] for row in found], abs=1e-3
    ), "the scores of what is asked are those that they were"
    facts = json.loads((data / "scores" / "avset" / "facts.json").read_text())
    assert facts["drawn"]["test"] == {"mixtures": 4, "sources": 8}
    assert {kind: n["sources"] for kind, n in facts["asked"]["test"].items() if kind not in CONTROLS} == {
        "text": len(labelled), "word": len(labelled), "player": len(labelled), "video": len(whole),
        "caption": len(whole),
    }  # fmt: skip
    assert facts["encoder"]["of"] == facts["captions"]["n"] > facts["encoder"]["n"]
    metrics_kept = numbers(folder)
    assert metrics_kept["avset"]["text"]["n"] == len(labelled) < metrics_kept["avset"]["video"]["n"] == len(whole)
    assert metrics_kept["mixture"]["of"] == 8
    assert (
        f"evaluate: text: NSDR {metrics_kept['avset']['text']['nsdr']:.2f} dB on {len(labelled)} of 8 sources" in said
    )
    assert "are left out: a clip has no regions or no caption" in said
    html = (folder / "reports" / "demo" / "demo" / "html" / "index.html").read_text()
    assert f"{len(labelled)} of 8" in html and f"{len(labelled)} of 8" in said
    assert not re.search(r"[^a-z]nan[^a-z]", re.sub('base64,[^"]*', "", html)), (
        "a source that was not asked for has no card"
    )


@contextmanager
def interrupted() -> Iterator[None]:
    """Ctrl-C at the second validation of a training inside."""
    score, seen = Validation.__call__, list[int]()

    def stumble(self: Validation, model: SeparationModel) -> dict[str, float]:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return score(self, model)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Validation, "__call__", stumble)
        yield


def test_a_killed_training_goes_on_to_the_same_bytes(scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = toy.clone(scored, tmp_path / "project")
    with interrupted():
        toy.run(folder, tmp_path / "cache", "train")
    assert model(folder) == model(scored), "the model before is whole until there is another one"
    toy.run(folder, tmp_path / "cache", "train")
    assert "train: goes on at step 3" in capsys.readouterr().err
    assert model(folder) == model(scored)
    assert not list((tmp_path / "cache").rglob("*.pt")), "the state of a finished run is gone"


def test_another_seed_is_another_model(scored: Path, tmp_path: Path):
    folder = toy.clone(scored, tmp_path / "project")
    toy.run(toy.project(folder, toy.params(train__seed=1)), tmp_path / "cache", "train")
    assert model(folder)["model.safetensors"] != model(scored)["model.safetensors"]


@pytest.mark.slow
def test_the_report_keeps_listed_methods_only(scored: Path, tmp_path: Path):
    folder = toy.project(toy.clone(scored, tmp_path / "project"), toy.params(methods=["avset", "mix_and_separate"]))
    with pytest.raises(MissingArtifact, match=r"mix_and_separate.*dvc repro evaluate"):
        toy.run(folder, tmp_path / "cache", "report")
    toy.run(folder, tmp_path / "cache", "train", "evaluate", method="mix_and_separate")
    toy.run(folder, tmp_path / "cache", "report")
    both, one = numbers(folder), numbers(scored)
    assert both.keys() == one.keys() | {"mix_and_separate"}
    assert (
        both["mix_and_separate"].keys() == {*KINDS, *CONTROLS, "localization", "answers", "presence"}
        and both["avset"] == one["avset"]
    )
    toy.run(toy.project(folder, toy.params()), tmp_path / "cache", "report")
    assert sorted(path.name for path in (folder / "data" / "demo" / "demo" / "scores").iterdir()) == ["avset"]
    assert tree_digest(folder / "reports") == tree_digest(scored / "reports")


def test_what_cannot_be_trained_or_scored_says_why(scored: Path, tmp_path: Path):
    folder = toy.clone(scored, tmp_path / "project")
    with pytest.raises(ParamsError, match=r"method: 'avzet' is not one of avset, "):
        toy.run(folder, tmp_path / "cache", "train", method="avzet")
    mixtures = folder / "data" / "demo" / "demo" / "mixtures" / "mixtures.parquet"
    rows = read_table(mixtures)
    for split, stage in (("validation", "train"), ("test", "evaluate")):
        write_table(mixtures, [row for row in rows if row["split"] != split])
        toy.seal(mixtures.parent)
        with pytest.raises(AvsetError, match=f"no mixture of split '{split}'.*mixtures.{split}, or add clips"):
            toy.run(folder, tmp_path / "cache", stage)
    assert model(folder) == model(scored), "what was there stays"


def test_features_of_another_encoder_are_refused(scored: Path, tmp_path: Path):
    folder = toy.clone(scored, tmp_path / "project")
    with (folder / "data" / "demo" / "demo" / "encoder" / "encoder.json").open("a") as file:
        file.write("\n")
    toy.seal(folder / "data" / "demo" / "demo" / "encoder")
    for stage in ("train", "evaluate"):
        with pytest.raises(AvsetError, match=r"regions was made with another .*encoder.*dvc repro regions"):
            toy.run(folder, tmp_path / "cache", stage)
    with pytest.raises(AvsetError, match="trained with encoder"):
        Separator.load(folder / "data" / "demo" / "demo" / "models" / "avset")


def test_a_tidied_training_is_adopted_and_restored(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    folder, cache = toy.with_own_code(toy.clone(scored, tmp_path / "project")), scored.parent / "cache"
    toy.clone(cache, tmp_path / "cache")
    network = folder / "pipeline" / "avset" / "models" / "avset.py"
    network.write_text(network.read_text().replace("widths", "sizes_of_levels"))
    with pytest.raises(AvsetError, match=r"code of train/avset changed .*`python -m stages.train avset --adopt 20`"):
        toy.run(folder, tmp_path / "cache", "train")
    real = losses.mask_loss
    monkeypatch.setattr(losses, "mask_loss", lambda *told: 2 * real(*told))
    with pytest.raises(AvsetError, match=r"the losses of the first 3 steps differ by at most 0\.\d+"):
        toy.run(folder, tmp_path / "cache", "train", adopt=3)
    monkeypatch.setattr(losses, "mask_loss", real)
    toy.run(folder, tmp_path / "cache", "train", adopt=3)
    assert "the first 3 steps have the same losses; the code keeps version" in capsys.readouterr().out
    monkeypatch.setattr("avset.training.train.fit", lambda *_: pytest.fail("trained again"))
    toy.run(folder, tmp_path / "cache", "train")
    assert model(folder) == model(scored)

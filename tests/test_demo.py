"""The drawn source: its media repeat, its boxes are true, its splits share nothing."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load

from avset.sources import Entry, demo
from avset.sources.demo import likeness, train_encoder
from avset.sources.demo.canvas import OVERSAMPLING, Canvas, smooth
from avset.sources.demo.descriptions import facts_of, sentence_about, sentence_of_anything
from avset.sources.demo.instruments import DRAWINGS, TINTS
from avset.sources.demo.motion import Motion, motions
from avset.sources.demo.people import POSES
from avset.sources.demo.pictures import BACKGROUNDS, FLOOR_LINES, Painter
from avset.sources.demo.pools import Pool, draw_pool
from avset.sources.demo.scenes import LABELS, scene
from avset.sources.demo.sounds import LABELS as SOUND_LABELS
from avset.sources.demo.sounds import Note

SHORT = demo.Options(duration=1.0, size=64, fps=5)


def test_entries_are_unique_and_counted():
    options = demo.Options(train_per_label=2, validation_per_label=1, test_per_label=3, duets=8)
    entries = demo.listing(options).entries
    assert len({entry.media_id for entry in entries}) == len(entries) == 11 * (2 + 1 + 3) + 8
    duets = sorted((e for e in entries if len(e.labels) == 2), key=lambda e: e.media_id[-3:])
    assert [entry.split for entry in duets] == ["train", "train", "train", "test"] * 2
    assert all(len(set(entry.labels)) == 2 for entry in duets)
    assert {entry.labels for entry in entries if len(entry.labels) == 1} == {(label,) for label in SOUND_LABELS}


def test_more_clips_leave_the_old_ones_alone():
    assert set(demo.listing(demo.Options()).entries) < set(
        demo.listing(demo.Options(train_per_label=20, duets=15, test_duets=3)).entries
    )
    further = {e.media_id: e for e in demo.listing(demo.Options(test_duets=3)).entries if "-test-" in e.media_id}
    assert [e.split for e in further.values() if len(e.labels) == 2] == ["test"] * 3


def test_every_label_has_a_sound_a_drawing_a_pose_and_colours():
    assert LABELS == SOUND_LABELS
    assert set(DRAWINGS) == set(POSES) == set(TINTS)
    assert set(BACKGROUNDS) == set(FLOOR_LINES)


@pytest.mark.parametrize("bad", [{"size": 65}, {"duration": 0.0}, {"clips": 3}])
def test_wrong_options_are_refused(bad: dict):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        demo.Options(**bad)


@pytest.mark.parametrize("labels", [("violin",), ("flute", "tuba")])
def test_a_file_has_all_frames_all_samples_and_boxes(labels: tuple[str, ...], tmp_path: Path):
    target = tmp_path / "clip.mp4"
    boxes = demo.fetch(Entry("any-test-000", "test", labels, "demo"), SHORT, target).boxes
    with av.open(str(target)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == Fraction(5)
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
    with av.open(str(target)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(pictures) == 5 and pictures[0].shape == (64, 64, 3)
    assert len(samples) >= demo.SAMPLE_RATE and 0.02 < np.abs(samples).max() < 1.1
    assert [(box.time_s, box.label) for box in boxes] == [(k / 5, label) for k in range(5) for label in labels]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


def test_the_same_clip_twice_is_the_same_bytes(tmp_path: Path):
    entry = next(entry for entry in demo.listing(SHORT).entries if len(entry.labels) == 2)
    boxes = [demo.fetch(entry, SHORT, tmp_path / f"{name}.mp4").boxes for name in "abcd"]
    assert len({(tmp_path / f"{name}.mp4").read_bytes() for name in "abcd"}) == 1
    assert boxes[0] == boxes[1]


def test_the_stems_of_a_duet_add_up_to_its_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = next(entry for entry in demo.listing(SHORT).entries if len(entry.labels) == 2)
    written: list[np.ndarray] = []
    monkeypatch.setattr(demo, "write_mp4", lambda _, __, ___, waveform, ____: written.append(waveform))
    demo.fetch(entry, SHORT, tmp_path / "clip.mp4")
    stems = demo.stems(entry, SHORT)
    assert stems.shape == (2, demo.SAMPLE_RATE) and np.abs(stems).max(axis=1).min() > 0.02
    assert np.array_equal(stems.sum(axis=0), written[0])


@pytest.mark.parametrize("change", [{"media_id": "violin-test-000"}, {"media_id": "violin-train-001"}, {"seed": 1}])
def test_splits_numbers_and_seeds_share_neither_melody_nor_scene(change: dict):
    entry = Entry(change.get("media_id", "violin-train-000"), "train", ("violin",), "demo")
    first = Entry("violin-train-000", "train", ("violin",), "demo")
    other = SHORT.model_copy(update={"seed": change.get("seed", 0)})
    for purpose in ("sound 0", "scene", "sway"):
        assert demo._seed(first, SHORT, purpose) != demo._seed(entry, other, purpose)
    seeds = demo._seed(first, SHORT, "scene"), demo._seed(entry, other, "scene")
    assert scene(["violin"], seeds[0]) != scene(["violin"], seeds[1])


def test_the_written_pixels_are_the_drawn_ones(tmp_path: Path):
    """Decoding gives the drawing back: rows, columns and colours in their places."""
    entry = next(entry for entry in demo.listing(SHORT).entries if len(entry.labels) == 1)
    demo.fetch(entry, SHORT, tmp_path / "clip.mp4")
    drawn = Painter(scene(entry.labels, demo._seed(entry, SHORT, "scene")), 64).room.reduce(OVERSAMPLING)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.median(np.abs(frame.astype(float) - np.asarray(drawn))) < 6


@pytest.mark.parametrize("label", LABELS)
def test_the_box_holds_the_instrument(label: str):
    """Another tint of the instrument changes pixels inside its box only, and over most of it."""
    for seed in range(4):
        spec = scene([label], seed)
        player = spec.players[0]
        changed = type(player)(**{**player.__dict__, "tint": tuple(255 - value for value in player.tint)})
        other = type(spec)(**{**spec.__dict__, "players": (changed,)})
        before, (box,) = Painter(spec, 128).frame((Motion(),))
        after, _ = Painter(other, 128).frame((Motion(),))
        rows, columns = np.nonzero((before != after).any(axis=2))
        x0, y0, x1, y1 = (128 * edge for edge in box)
        assert x0 - 1.5 <= columns.min() and columns.max() < x1 + 1.5
        assert y0 - 1.5 <= rows.min() and rows.max() < y1 + 1.5
        assert (np.ptp(columns) + 1) * (np.ptp(rows) + 1) > 0.4 * (x1 - x0) * (y1 - y0)


def test_instruments_are_whole_and_large_enough_for_a_grid():
    for label in LABELS:
        for seed in range(8):
            painter = Painter(scene([label], 100 + seed), 64)
            _, [(x0, y0, x1, y1)] = painter.frame((Motion(),))
            assert (x1 - x0) * (y1 - y0) > 0.02
            assert x0 > 0 and x1 < 1 and y0 > 0


def test_duet_players_stand_in_the_order_of_their_labels():
    for seed in range(30):
        first, second = scene(["tuba", "flute"], seed).players
        assert first.label == "tuba" and first.x < second.x


def test_places_nest_and_mirror():
    canvas = Canvas(Image.new("RGB", (100, 100)), 2.0)
    inner = canvas.place(10 + 20j, 90, 3.0)
    assert np.allclose(inner.pixels([1 + 0j]), [20 + 46j])  # x turned downwards, three times as long
    mirrored = canvas.place(10 + 20j, 0, 1.0, mirrored=True)
    assert np.allclose(mirrored.pixels([1 + 1j]), [18 + 42j])
    nested = mirrored.place(2 + 0j, 90)
    assert np.allclose(nested.pixels([1 + 0j]), [16 + 42j])
    assert nested.within(canvas, 1 + 0j) == pytest.approx(8 + 21j)
    assert canvas.within(nested, 8 + 21j) == pytest.approx(1 + 0j)


def test_a_disc_has_the_area_of_a_disc():
    """Oversampling then averaging keeps grey levels in proportion to the covered area."""
    image = Image.new("RGB", (300, 300))
    canvas = Canvas(image, 3.0)
    canvas.ellipse(50 + 50j, 30, 30, (255, 255, 255))
    covered = np.asarray(image.reduce(3))[..., 0].sum() / 255
    assert covered == pytest.approx(np.pi * 30**2, rel=0.03)
    assert canvas.extent() == pytest.approx((60, 60, 240, 240), abs=1)


def test_a_smooth_curve_passes_through_its_points():
    points = [0j, 10 + 0j, 10 + 10j, 10j]
    assert np.allclose(smooth(points, steps=5)[::5], points)
    assert np.allclose(smooth(points, closed=False, steps=5)[::5], points)


def test_motion_follows_the_notes():
    notes = [Note(1.0, 2.0, 60.0, 0.8), Note(2.0, 3.0, 72.0, 0.8)]
    before, start, half, second, over = motions(notes, np.array([0.0, 1.0, 1.5, 2.25, 9.0]))
    assert (before.strike, start.strike) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert [start.stroke, half.stroke, second.stroke] == pytest.approx([0.0, 0.5, 0.75])  # the bow turns back
    assert [start.pitch, second.pitch] == [0.0, 1.0]
    assert (start.hand, second.hand) == (0, 1)
    assert over.strike < 1e-6
    assert motions([], np.array([0.0, 1.0])) == [Motion(), Motion()]


def test_the_picture_moves_only_when_the_player_does():
    painter = Painter(scene(["cello"], 3), 64)
    still, _ = painter.frame((Motion(stroke=0.2),))
    same, _ = painter.frame((Motion(stroke=0.2),))
    moved, _ = painter.frame((Motion(stroke=0.9),))
    assert np.array_equal(still, same) and not np.array_equal(still, moved)


@pytest.mark.parametrize("sentence", [sentence_about, sentence_of_anything])
def test_what_is_said_of_a_scene_is_true_of_it(sentence: Callable):
    rng = np.random.default_rng(0)
    for seed in range(60):
        labels = [LABELS[k] for k in rng.permutation(len(LABELS))[: 1 + seed % 2]]
        drawn = scene(labels, seed)
        for text, needed in (sentence(drawn, rng) for _ in range(10)):
            assert needed and needed <= facts_of(drawn)
            assert {label for label in LABELS if label in text} <= set(labels)


def test_a_scene_without_players_has_a_place_and_things_to_tell_of():
    pool, rng = draw_pool(12, 0, 0.0, 32, empty_share=1.0), np.random.default_rng(0)
    assert pool.boxes == [[]] * 12 and len({drawn.background for drawn in pool.scenes}) > 3
    for drawn in pool.scenes:
        for text, needed in (sentence_of_anything(drawn, rng) for _ in range(10)):
            assert needed <= facts_of(drawn) and "person" not in text and not any(label in text for label in LABELS)


def test_a_solo_is_not_a_duet_and_a_flute_no_tuba():
    flute, both = facts_of(scene(["flute"], 1)), facts_of(scene(["flute", "tuba"], 1))
    assert "flute" in flute and "tuba" not in flute
    assert {"flute", "tuba", "flute left of tuba", "brass instrument"} <= both
    assert "tuba left of flute" not in both and "two people" not in flute


def test_contrast_knows_its_bounds():
    """Equal scores cost log B; a perfect match costs nothing, or log 2 where two sentences are equally true."""
    alone = torch.eye(4, dtype=torch.bool)
    assert train_encoder.contrast(torch.zeros(4, 4), alone).item() == pytest.approx(np.log(4))
    assert train_encoder.contrast(100 * alone.float(), alone).item() == pytest.approx(0, abs=1e-6)
    twice = torch.eye(4, dtype=torch.bool).repeat(1, 2)
    assert train_encoder.contrast(100 * twice.float(), twice).item() == pytest.approx(np.log(2) / 2)


def test_truth_is_facts_within_facts():
    pictures = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    pool = Pool(pictures, [scene(["flute"], 1), scene(["flute", "tuba"], 2)], [[], []])
    needs = [frozenset({"flute"}), frozenset({"flute", "tuba"}), frozenset({"one person"})]
    sentences = train_encoder.Sentences(torch.zeros(3, 5, dtype=torch.int64), needs, np.zeros((2, 1), np.int64))
    assert train_encoder.truth(sentences, pool).tolist() == [[True, False, True], [True, True, False]]


def test_a_variant_is_a_plain_clip_and_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And the region embeddings that it is trained with are those that the encoder gives."""
    monkeypatch.setattr(train_encoder, "PICTURES", 12)
    monkeypatch.setattr(train_encoder, "BATCH_SIZE", 6)
    variant = replace(train_encoder.VARIANTS["clip"], steps=2)
    for folder in "ab":
        train_encoder.make(variant, tmp_path / folder)
    files = [(tmp_path / folder / "encoder.safetensors").read_bytes() for folder in "ab"]
    assert files[0] == files[1]
    model, pool = train_encoder.new_model(variant.attention), draw_pool(2, 5, 0.0, 128)
    model.load_state_dict(load(files[0]))
    assert model.visual.attnpool.q_proj.weight.any()
    assert not train_encoder.new_model(attention=False).visual.attnpool.q_proj.weight.any()
    encoder = likeness.load(tmp_path / "a")
    with torch.no_grad():
        whole, regions = train_encoder.embed_pictures(model.eval(), pool.pictures)
    found = encoder.forward_image(encoder.preprocess(pool.pictures.permute(0, 2, 3, 1)), positional=True)
    assert torch.allclose(whole, found[0], atol=1e-4) and torch.allclose(regions, found[1], atol=1e-4)


@pytest.mark.slow
def test_the_shipped_encoder_is_the_default_variant_and_knows_the_instruments():
    """On drawings that it was not trained on; unknown words are silent."""
    tensors = load(train_encoder.WEIGHTS_FILE.read_bytes())
    variant = train_encoder.VARIANTS[train_encoder.DEFAULT]
    assert tensors["visual.attnpool.q_proj.weight"].any() == variant.attention
    assert 60 < (tensors["token_embedding.weight"] != 0).any(1).sum() < 250
    if variant.temperature:
        assert tensors["logit_scale"].exp().item() == pytest.approx(1 / variant.temperature, rel=1e-2)
    encoder = likeness.load(train_encoder.WEIGHTS_FILE.parent)
    found = likeness.measure(encoder, draw_pool(110, 10, 0.0, 128), draw_pool(33, 10, 1.0, 128))
    assert found["zero-shot accuracy"] >= 0.9
    assert found["solos: text in its own box"] > 2 * found["solos: chance"]
    assert found["duets: text in its own box"] > 2 * found["duets: text in the other's box"]

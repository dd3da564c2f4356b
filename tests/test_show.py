"""Figures and the film: pictures and sound begin together, parts stand in the order of A.7, the choice is fixed."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from PIL import Image

from avset import params
from avset.__main__ import main
from avset.compute.build import media_payloads
from avset.compute.limited import Limits
from avset.evaluation.evaluate import evenly
from avset.media.container import probe
from avset.media.frames import decode_frames
from avset.media.recordings import read_audio
from avset.media.waveforms import resample
from avset.models.checkpoint import SeparationModel
from avset.report import plots
from avset.show import film
from avset.show.show import Cinema
from avset.storage.store import Store
from avset.training.dataset import Corpus
from avset.training.mixtures import Mixture, references
from stages.train import settings_of

RATE = 11025
DATA = Path("data/demo/demo")


@pytest.fixture(scope="module")
def project(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with two models that were never trained, and one that learns nothing."""
    folder = toy.project(tmp_path_factory.mktemp("show"), toy.params())
    (folder / DATA).mkdir(parents=True)
    (folder / "data/demo/clips").symlink_to(toy_data / "data/demo/clips")
    for path in (toy_data / DATA).iterdir():
        (folder / DATA / path.name).symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(toy_data)
        p = params.load()
        for name in ("avset", "mix_and_separate", "nmf_mfcc"):
            torch.manual_seed(0)
            settings = settings_of(p, name, Store(p.data / "regions"))
            SeparationModel(settings).save(folder / DATA / "models" / name, {})
    return folder


def scene(flash: int, onset: float, part: int = 0, seconds: float = 1.3) -> film.Scene:
    """Two parts: in one of them a picture is white, and a click sounds."""
    count = film.picture_count(int(seconds * RATE), RATE)
    pictures = np.zeros((2, count, film.SIDE, film.SIDE, 3), np.uint8)
    pictures[0, flash] = 255
    sounds = np.zeros((2, int(seconds * RATE)), np.float32)
    sounds[part, int(onset * RATE)] = 1.0
    parts = [film.Part("one", sounds[0], whole=True), film.Part("two", sounds[1])]
    return film.Scene("of two", RATE, parts, lambda: pictures)


def test_a_click_is_heard_when_its_picture_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """To half a picture, in each part of each scene, also behind the first ten seconds."""
    flashes = [(10, 0), (3, 1), (30, 1), (17, 0)]
    monkeypatch.setattr(film, "SIDE", 64)
    scenes = [scene(flash, (flash + 0.5) / film.FPS, part) for flash, part in flashes]
    film.write(tmp_path / "film.mp4", scenes, 2)
    told, count = probe(tmp_path / "film.mp4"), scenes[0].count()
    assert (told.width, told.height, told.fps) == (2 * film.SIDE, film.SIDE + 2 * plots.LINE, film.FPS)
    assert told.duration == pytest.approx(len(scenes) * 2 * count / film.FPS, abs=0.01) and told.duration > 10
    seen = decode_frames(tmp_path / "film.mp4", np.arange(len(scenes) * 2 * count) / film.FPS, 64)
    white = np.flatnonzero(seen[:, :30, :10].mean((1, 2, 3)) > 128)
    assert white.tolist() == [
        (2 * n + part) * count + flash for n, (flash, _) in enumerate(flashes) for part in (0, 1)
    ], "each picture once a part"
    sound = np.abs(read_audio(tmp_path / "film.mp4")[0][0])
    for n, (flash, part) in enumerate(flashes):
        start = (2 * n + part) * count
        piece = sound[start * film.SAMPLE_RATE // film.FPS : (start + count) * film.SAMPLE_RATE // film.FPS]
        assert piece.argmax() / film.SAMPLE_RATE * film.FPS == pytest.approx(flash + 0.5, abs=0.5)


def test_the_pictures_are_those_of_the_crop(toy_data: Path, monkeypatch: pytest.MonkeyPatch):
    """Also of a clip that is shorter than a crop: it begins again, as its sound does."""
    monkeypatch.chdir(toy_data)
    p = params.load()
    corpus, media = Corpus.load(p.data), media_payloads(p)
    transform = settings_of(p, "avset", Store(p.data / "regions")).transform
    cinema, mixture = Cinema(corpus, media, Limits(600.0, 2.0)), corpus.mixtures_of("test")[0]
    told = media[mixture.clips[1]]
    period = (corpus.spectrograms.dataset(mixture.clips[1], "waveform").shape[0]) / RATE
    assert mixture.offsets[1] == 0 and period < transform.length / RATE, "else the test is none"
    times = np.array([0.0, 0.5, 0.9, period + 0.5, period + 0.9])
    found = cinema.pictures(mixture, 1, times, transform)
    expected = decode_frames(told["media"], told["start"] + times[:3], film.SIDE)
    assert np.array_equal(found[:3], expected) and np.array_equal(found[3:], expected[1:])
    assert not np.array_equal(found[0], found[2]), "it moves"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A film of few, small pictures."""
    monkeypatch.setattr(film, "SIDE", 96)
    monkeypatch.setattr(film, "FPS", 10)


@pytest.fixture
def run(small: None, project: Path, monkeypatch: pytest.MonkeyPatch, command_line):
    """Run `avset show` in the project folder: (exit code, what it said, its errors)."""
    monkeypatch.chdir(project)
    return partial(command_line, main, "show")


def lag(heard: np.ndarray, sound: np.ndarray) -> tuple[float, float]:
    """The best correlation of a part of the film with a sound, and how much later it is (s)."""
    size = 2 * len(heard)
    crossed = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(sound, size).conj(), size)
    best = int(crossed.argmax())
    late = best - size if best > size // 2 else best
    return crossed[best] / np.linalg.norm(heard) / np.linalg.norm(sound), late / film.SAMPLE_RATE


@pytest.mark.slow
def test_the_film_has_the_papers_parts_in_its_order(run, project: Path, tmp_path: Path):
    code, said, error = run("-o", tmp_path, "--baseline", DATA / "models/mix_and_separate", "--examples", 1)
    assert code == 0 and said.strip() == str(tmp_path) and not error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure5.png", "figure6.png", "figure7.png", "film.mp4"]
    assert all(np.asarray(Image.open(path)).std() > 10 for path in tmp_path.glob("*.png"))
    corpus = Corpus.load(project / DATA)
    mixture, length = corpus.mixtures_of("test")[0], SeparationModel.load(project / DATA / "models/avset")
    sources = references(mixture, corpus.spectrograms, length.settings.transform.length, 256)
    sound = read_audio(tmp_path / "film.mp4")[0][0]
    size = film.picture_count(sources.shape[1], RATE) * film.SAMPLE_RATE // film.FPS
    assert len(sound) // size == 5
    for part, wanted in ((0, sources.sum(0)), (3, sources[0])):
        heard = sound[part * size : (part + 1) * size]
        reference = np.pad(resample(wanted.astype(np.float32), RATE, film.SAMPLE_RATE), (0, size))[:size]
        alike, late = lag(heard, reference)
        assert alike > 0.95 and abs(late) < 0.5 / film.FPS
    code, _, error = run("-o", tmp_path)
    assert code == 1 and "figure5.png'" in error and "--overwrite" in error and len(error.splitlines()) == 1


def test_what_a_method_cannot_show_is_left_out_and_told(run, tmp_path: Path):
    code, _, error = run("-o", tmp_path, "--model", DATA / "models/nmf_mfcc", "--examples", 1)
    assert code == 0 and sorted(path.name for path in tmp_path.iterdir()) == ["figure7.png", "film.mp4"]
    assert error.splitlines() == [
        "left out: figure5.png: nmf_mfcc does not know where a caption is",
        "left out: figure6.png, and the last part of the film: nmf_mfcc does not know where a sound is",
    ]
    told = probe(tmp_path / "film.mp4")
    assert told.duration == pytest.approx(3 * 3.0, abs=0.01), "mixture, ours, reference; 2.95 s are 30 pictures each"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--baseline", "nowhere"), "there is no model 'nowhere'"),
        (("--examples", "0"), "greater than or equal to 1"),
    ],
)
def test_bad_input_is_told_before_anything_is_made(run, tmp_path: Path, arguments: tuple[str, ...], told: str):
    code, said, error = run("-o", tmp_path / "out", *arguments)
    assert code and told in " ".join(error.split()) and not said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("there", "asked", "chosen"), [(10, 3, "036"), (3, 10, "012"), (7, 7, "0123456")])
def test_examples_are_spread_evenly(there: int, asked: int, chosen: str):
    mixtures = [Mixture(str(n), "test", [], [], [], [], [], 0) for n in range(there)]
    assert [one.mixture_id for one in evenly(mixtures, asked)] == list(chosen)


def test_a_caption_fits_whatever_it_says():
    for line in ("x", "wide " * 40, "Ж" * 500):
        strip = plots.caption([line, ""], 640)
        assert strip.shape == (2 * plots.LINE, 640, 3) and strip[:, -8:].max() == 0 < strip.max()

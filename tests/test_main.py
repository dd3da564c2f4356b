"""What users type: separate any recording, show where a sound comes from; what goes wrong is one line."""

import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import toy
from media import make_video, numbers, tone_samples
from PIL import Image

from avset import params
from avset.__main__ import main
from avset.inference.separate import Block
from avset.media.waveforms import resample
from avset.models.checkpoint import SeparationModel
from avset.storage.store import Store
from stages.train import settings_of

RATE = 11025
QUERY = ("--query", "person playing a violin")
STEP = 1 / 32768  # of 16 bit samples
SUFFIX = {"separate": ".wav", "localize": ".png"}  # of what a command writes


@pytest.fixture(scope="module")
def project(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model that was never trained and its encoder, where the commands look for them."""
    folder = toy.project(tmp_path_factory.mktemp("commands"), toy.params())
    data = folder / "data" / "demo" / "demo"
    data.mkdir(parents=True)
    (data / "encoder").symlink_to(toy_data / "data" / "demo" / "demo" / "encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(toy_data)
        p = params.load()
        settings = settings_of(p, "avset", Store(p.data / "regions"))
    torch.manual_seed(0)
    SeparationModel(settings).save(data / "models" / "avset", {})
    return folder


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch, command_line):
    """Run the command line in the project folder: (exit code, what it said, its errors)."""
    monkeypatch.chdir(project)
    return partial(command_line, main)


def read(path: Path, rate: int = RATE) -> np.ndarray:
    samples, found = soundfile.read(path)
    assert found == rate
    return samples


def test_a_long_stereo_recording(run, tmp_path: Path):
    left, right = tone_samples(20.0, 44100, 440, 0.4, onset=1.0), tone_samples(20.0, 44100, 8000, 0.2, onset=0.0)
    soundfile.write(tmp_path / "long.wav", np.stack([left, right], 1), 44100, subtype="PCM_24")
    output, rest = tmp_path / "out" / "violin.wav", tmp_path / "rest.flac"
    code, said, _ = run("separate", tmp_path / "long.wav", *QUERY, "-o", output, "--residual", rest)
    assert code == 0 and f"{output}: 20.0 s at 44100 Hz, stereo, " in said
    mixture, estimate, residual = (read(path, 44100) for path in (tmp_path / "long.wav", output, rest))
    np.testing.assert_array_equal(estimate + residual, mixture)
    assert 0 < np.square(estimate).sum() < np.square(mixture).sum(), "a mask takes a part"


def test_a_long_stereo_recording_at_the_model_s_rate(run, tmp_path: Path):
    tone = tone_samples(20.0, 44100, 440, 0.4, onset=1.0)
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(tone))
    soundfile.write(tmp_path / "long.wav", np.stack([tone, noise], 1), 44100, subtype="FLOAT")
    output, rest = tmp_path / "out" / "violin.wav", tmp_path / "rest.flac"
    code, said, _ = run(
        "separate", tmp_path / "long.wav", *QUERY, "-o", output, "--residual", rest, "--model-rate", "--bits", 16
    )
    assert code == 0 and f"{output}: 20.0 s at {RATE} Hz, mono, " in said
    mixture = resample(((tone + noise) / 2).astype(np.float32), 44100, RATE)
    estimate, residual = read(output), read(rest)
    assert estimate.ndim == 1 and len(estimate) == len(residual) == len(mixture) == 20 * RATE
    assert np.abs(estimate + residual - mixture).max() <= STEP * 1.01
    assert 0 < np.square(estimate).sum() < np.square(mixture).sum(), "a mask takes a part"


def test_the_sound_of_a_film(run, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 3.0)
    for query in ("violin", "drum"):
        code, said, _ = run("separate", film, "-q", query, "-o", tmp_path / f"{query}.wav")
        assert code == 0 and "% of the mixture's energy" in said
    rate = soundfile.info(tmp_path / "violin.wav").samplerate
    violin, drum = read(tmp_path / "violin.wav", rate), read(tmp_path / "drum.wav", rate)
    assert len(violin) == len(drum) == pytest.approx(3 * rate, rel=0.04)
    assert np.abs(violin - drum).max() > 0, "the query matters"


@pytest.mark.parametrize(
    ("name", "content"),
    [("text.mp4", b"This is no film. " * 99), ("empty.wav", b"")],
)
def test_a_bad_file_is_one_line(run, tmp_path: Path, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    code, said, error = run("separate", path, *QUERY, "-o", tmp_path / "out.wav")
    assert code == 1 and not said and len(error.splitlines()) == 1
    assert error.startswith(f"error: cannot read sound from '{path}'") and "give a .wav" in error
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("output", ["out.wav", "deep/out.ogg"])
def test_a_film_that_breaks_off_leaves_no_file(run, tmp_path: Path, output: str):
    """Found after some of it was separated and written."""
    film = make_video(tmp_path / "film.mov", 30.0, size=(32, 32), fps=1, acodec="pcm_s16le")
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 3 // 4])
    code, said, error = run("separate", film, *QUERY, "-o", tmp_path / output, "--residual", tmp_path / "rest.wav")
    assert code == 1 and not said and len(error.splitlines()) == 1
    assert "ends at 22.48 s of 30.00 s" in error and "plays to its end" in error
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["film.mov"]


def test_shares_and_clipping_are_told_of_the_whole(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A loud beginning, then silence: running sums and the largest sample so far."""
    loud = np.concatenate([np.full(5 * RATE, 0.8), np.zeros(30 * RATE)]).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", loud, RATE, subtype="FLOAT")

    def negative(self, sound, masks, queries):  # a "separation" that takes -1/2 of it
        yield from (Block(block, -block[None] / 2, rate) for block, rate in sound)

    monkeypatch.setattr("avset.inference.separate.Separator.apply", negative)
    arguments = ("separate", tmp_path / "in.wav", *QUERY, "-o", tmp_path / "out.wav", "--residual", tmp_path / "r.wav")
    code, said, error = run(*arguments, "--bits", "16")
    assert code == 0 and said.startswith(f"{tmp_path / 'out.wav'}: 35.0 s at {RATE} Hz, mono, 25% of the mixture's")
    assert error.startswith("note: louder than full scale in places, clipped there")
    np.testing.assert_allclose(read(tmp_path / "r.wav"), np.minimum(loud * 1.5, 1), atol=STEP)
    code, _, error = run(*arguments, "--bits", "16", "--clip", "rescale", "--overwrite")
    assert code == 0 and error.startswith("note: rescaled by 0.833")
    np.testing.assert_allclose(read(tmp_path / "r.wav"), loud * 1.25, atol=STEP)
    assert run(*arguments, "--overwrite")[2] == "", "floating point, as the file"
    np.testing.assert_allclose(read(tmp_path / "out.wav"), -loud / 2, atol=STEP)


def test_a_film_without_sound_cannot_be_separated_but_localised(run, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 2.0, size=(320, 180), audio=False)
    code, _, error = run("separate", film, *QUERY, "-o", tmp_path / "out.wav")
    assert code == 1 and "no_audio" in error and len(error.splitlines()) == 1
    code, said, _ = run("localize", film, *QUERY, "-o", tmp_path / "maps" / "where.png")
    assert code == 0 and "strongest in row" in said and "of 4" in said
    with Image.open(tmp_path / "maps" / "where.png") as picture:
        assert (picture.size, picture.mode) == ((512, 530), "RGB"), "with a legend"


def test_the_time_of_the_picture_matters(run, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 2.0)
    maps = {}
    for time in ("0.0", "1.0", None):
        output = tmp_path / f"{time}.png"
        assert run("localize", film, *QUERY, "-o", output, *(("--time", time) if time else ()))[0] == 0
        maps[time] = output.read_bytes()
    assert maps[None] == maps["1.0"] != maps["0.0"], "the middle, unless told"


@pytest.mark.parametrize(
    ("command", "output", "said"),
    [("separate", "out.aiff", "give a name that ends in .wav, .flac, .mp3"),
     ("separate", "out", "give a name that ends in .wav"),
     ("localize", "out.jpg", "give a name that ends in .png"),
     ("localize", "film.mp4/out.png", "cannot write"),
     ("separate", "film.mp4/out.wav", "cannot write")],
)  # fmt: skip
def test_a_bad_place_for_the_result_is_one_line(run, tmp_path: Path, command: str, output: str, said: str):
    film = make_video(tmp_path / "film.mp4", 1.0)
    code, out, error = run(command, film, *QUERY, "-o", tmp_path / output)
    assert code == 1 and not out and len(error.splitlines()) == 1
    assert error.startswith("error: cannot write") and said in error and output in error


@pytest.mark.parametrize(
    ("time", "said"), [("9.0", "truncated"), ("nan", "no picture at nan s"), ("-1", "no picture at -1 s")]
)
def test_a_time_outside_of_the_film_is_one_line(run, tmp_path: Path, time: str, said: str):
    film = make_video(tmp_path / "film.mp4", 1.0)
    code, _, error = run("localize", film, *QUERY, "-o", tmp_path / "out.png", "--time", time)
    assert code == 1 and len(error.splitlines()) == 1 and said in error


@pytest.mark.parametrize("command", ["separate", "localize"])
def test_a_missing_model_is_one_line_that_names_its_stage(
    run, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
):
    film = make_video(tmp_path / "film.mp4", 1.0)
    monkeypatch.chdir(tmp_path)
    code, _, error = run(command, film, *QUERY, "-o", tmp_path / f"out{SUFFIX[command]}")
    assert code == 0 and error.startswith("note: there is no params.yaml, so this is the demo's model")
    (tmp_path / f"out{SUFFIX[command]}").unlink()
    toy.project(tmp_path, toy.params(dataset="folder", scale="paper", methods=["release"]))
    code, _, error = run(command, film, *QUERY, "-o", tmp_path / f"out{SUFFIX[command]}")
    assert code == 1 and len(error.splitlines()) == 1
    assert error.startswith("error: data/folder/paper/models/release/model.safetensors is not there")
    assert "dvc repro train" in error


def test_an_encoder_of_its_own(run, project: Path, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 1.0)
    model = tmp_path / "elsewhere" / "model"
    model.parent.mkdir()
    model.symlink_to(project / "data" / "demo" / "demo" / "models" / "avset")
    encoder = project / "data" / "demo" / "demo" / "encoder"
    arguments = ("separate", film, *QUERY, "-o", tmp_path / "out.wav", "--model", model)
    assert run(*arguments, "--encoder", encoder)[0] == 0
    code, _, error = run(*arguments)
    assert code == 1 and "encoder" in error and len(error.splitlines()) == 1


def test_help_names_both_commands(toy_data: Path):
    done = subprocess.run([sys.executable, "-m", "avset", "--help"], cwd=toy_data, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert "separate" in done.stdout and "localize" in done.stdout


@pytest.mark.parametrize("command", ["separate", "localize"])
def test_help_of_a_command_names_its_options(run, command: str):
    code, said, _ = run(command, "--help")
    assert code == 0 and all(option in said for option in ("--query", "--output", "--model", "--encoder"))


@pytest.mark.parametrize("command", ["separate", "localize"])
def test_a_file_that_is_there_is_replaced_only_if_told_to(run, tmp_path: Path, command: str):
    film, output = make_video(tmp_path / "film.mp4", 1.0), tmp_path / f"out{SUFFIX[command]}"
    output.write_text("mine")
    (tmp_path / f"link{SUFFIX[command]}").symlink_to(output)
    for name in ("out", "link"):
        code, said, error = run(command, film, *QUERY, "-o", tmp_path / f"{name}{SUFFIX[command]}")
        assert code == 1 and not said and len(error.splitlines()) == 1 and "--overwrite" in error
        assert output.read_text() == "mine"
    assert run(command, film, *QUERY, "-o", tmp_path / f"link{SUFFIX[command]}", "--overwrite")[0] == 0
    assert output.read_bytes() != b"mine" and (tmp_path / f"link{SUFFIX[command]}").is_symlink()


@pytest.mark.parametrize("at", ["start", "end"])
def test_an_interrupted_separation_leaves_the_old_files(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str):
    """Also a file that came into being meanwhile."""
    soundfile.write(tmp_path / "in.wav", np.zeros(RATE, np.float32), RATE)
    output, rest = tmp_path / "out.wav", tmp_path / "rest.wav"
    for path in (output, rest):
        path.write_text("old")

    def broken(self, sound, masks, queries):
        for block, rate in sound:
            yield Block(block, block[None], rate)
            raise KeyboardInterrupt

    def late(self, sound, masks, queries):
        yield from (Block(block, block[None], rate) for block, rate in sound)
        output.write_text("new")

    arguments = ("separate", tmp_path / "in.wav", *QUERY, "-o", output, "--residual", rest)
    if at == "start":
        monkeypatch.setattr("avset.inference.separate.Separator.apply", broken)
        assert run(*arguments, "--overwrite")[0] != 0
        assert output.read_text() == rest.read_text() == "old"
    else:
        output.unlink()
        rest.unlink()
        monkeypatch.setattr("avset.inference.separate.Separator.apply", late)
        code, said, error = run(*arguments)
        assert (
            code == 1 and not said and error == f"error: cannot write '{output}': another process made it meanwhile\n"
        )
        assert output.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []


def test_what_can_be_known_is_known_without_torch(project: Path, tmp_path: Path):
    """Each wrong argument, in a process that may not import torch; the last line is right, and gets as far as torch."""
    film = make_video(tmp_path / "film.mp4", 1.0)
    wrong = [
        ["separate", film, *QUERY, "-o", "out.aiff"], ["separate", film, *QUERY, "-o", "no/folder.wav/out"],
        ["separate", tmp_path / "gone.mp4", *QUERY, "-o", "out.wav"], ["separate", film, "-q", " ", "-o", "out.wav"],
        ["separate", film, *QUERY, "-o", "out.wav", "--model", "nowhere"],
        ["separate", film, *QUERY, "-o", "out.wav", "--encoder", "nowhere"],
        ["separate", film, *QUERY, "-o", "out.wav", "--residual", "./OUT.wav"],
        ["localize", film, *QUERY, "-o", "out.wav"], ["localize", film, *QUERY, "-o", "out.png", "--time", "nan"],
        ["localize", film, "-q", "", "-o", "out.png"], ["localize", tmp_path, *QUERY, "-o", "out.png"],
        ["localize", film, "-o", "out.png"], ["localize", film, *QUERY, "--like", film, "-o", "out.png"],
        ["localize", film, "--like", "gone.wav", "-o", "out.png"], ["separate", film, "-o", "out.wav"],
        ["separate", film, "--box", "0,0,999,9", "-o", "o.wav"], ["separate", film, "--box", "0,0,1", "-o", "o.wav"],
        ["separate", film, "-q", "violin=+99dB", "-o", "o.wav"], ["separate", film, "--like", "gone", "-o", "o.wav"],
        ["separate", film, "-q", "a=1dB", "-o", "o.wav", "--residual", "r.wav"],
        ["separate", film, *QUERY, "--not-from", "8", "--not-to", "9", "-o", "o.wav"],
    ]  # fmt: skip
    code = f"""
import sys
sys.modules["torch"] = None
from avset.__main__ import main
for arguments in {[[str(part) for part in line] for line in wrong]}:
    sys.argv = ["avset", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 1, arguments
sys.argv = ["avset", "separate", {str(film)!r}, "-q", "x", "-o", "out.wav"]
try:
    main()
except ImportError as e:
    print("torch is next", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    *errors, last = done.stderr.splitlines()
    assert last == "torch is next" and len(errors) == len(wrong), done.stderr
    assert all(line.startswith("error: ") for line in errors)


def test_many_files_by_a_template_and_again(run, tmp_path: Path):
    """Folders, patterns and names; what is there is not made again, and a bad file does not end the others."""
    sounds = tmp_path / "sounds"
    (sounds / "deep").mkdir(parents=True)
    for name, channels in (("a", 1), ("deep/b", 2), ("c", 1)):
        soundfile.write(sounds / f"{name}.wav", np.zeros((RATE, channels), np.float32) + 0.1, RATE)
    (sounds / "bad.wav").write_text("no sound")
    (sounds / "notes.txt").write_text("no sound either")
    words = ("separate", sounds, tmp_path / "sounds" / "*.wav", "-q", "a violin", "-q", "drum")
    template = tmp_path / "out" / "{folder}" / "{name}-{query}.flac"
    code, said, error = run(
        *words, "-o", template, "--residual", tmp_path / "out" / "{folder}" / "{name}.rest.wav", "--json"
    )
    told = json.loads(said)
    assert code == 1 and error.startswith("error: cannot read sound from") and len(error.splitlines()) == 1
    assert told["queries"] == ["a violin", "drum"] and len(told["files"]) == 4
    by_name = {Path(one["file"]).stem: one for one in told["files"]}
    assert "cannot read sound" in by_name["bad"]["error"] and by_name["b"]["channels"] == 2
    assert by_name["b"]["sounds"][0]["path"] == str(tmp_path / "out" / "deep" / "b-a-violin.flac")
    assert {one["query"] for one in by_name["a"]["sounds"]} == {"a violin", "drum"}
    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert made == sorted(
        f"{n}{e}" for n in ("a", "c", "deep/b") for e in ("-a-violin.flac", "-drum.flac", ".rest.wav")
    )
    (sounds / "bad.wav").unlink()
    (tmp_path / "out" / "c-drum.flac").unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    code, said, _ = run(*words, "-o", template, "--resume", "--jobs", 2)
    assert code == 0 and said.count("all of it is there already") == 2 and (tmp_path / "out" / "c-drum.flac").exists()
    changed = {path.name for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert changed == {"c-a-violin.flac"}


def test_all_that_a_query_may_say(run, tmp_path: Path):
    """A box, the video, an exclusion, spans, shares: names and JSON tell of them, and so it is made once."""
    film = make_video(tmp_path / "film.mp4", 2.0)
    words = ("separate", film, *QUERY, "--box", "0,0,0.5,1", "--video", "--not", "drum", "--from", 0.5,
             "--to", 1.5, "--shares", "-o", tmp_path / "{query}.wav", "--residual", tmp_path / "rest.wav")  # fmt: skip
    code, said, _ = run(*words, "--json")
    told = json.loads(said)
    assert code == 0 and told["shares"] and told["files"][0]["excluded"].keys() == {"drum"}, told
    ends = "not drum from 0.5 to 1.5 s"
    assert told["queries"] == [f"{QUERY[1]} {ends}", f"video {ends}", f"box 0,0,0.5,1 {ends}"]
    outputs = [Path(sound["path"]) for sound in told["files"][0]["sounds"]]
    assert outputs[2].name == "box-0-0-0-5-1-not-drum-from-0-5-to-1-5-s-shares.wav"
    rate = soundfile.info(outputs[0]).samplerate
    whole = [read(path, rate) for path in (*outputs, tmp_path / "rest.wav")]
    assert not any(sound[: round(0.49 * rate)].any() for sound in whole[:3])
    np.testing.assert_array_equal(sum(whole)[: rate // 4], whole[3][: rate // 4])
    assert "all of it is there already" in run(*words, "--resume")[1]
    other = [word if word != "drum" else "flute" for word in words]
    assert "all of it is there already" not in run(*other, "--resume")[1], "another question"


def test_a_remix(run, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 2.0)
    code, said, error = run("separate", film, "-q", "violin=+6dB", "-q", "drum=-inf", "-o", tmp_path / "{query}.wav")
    name = tmp_path / "violin-plus-6-dB-and-drum-muted.wav"
    assert code == 0 and said.startswith(f"{name}: 2.0 s at") and "  drum, -inf dB, " in said and name.exists(), error
    (told,) = json.loads(run("separate", film, "-q", "a=-inf", "-o", tmp_path / "a.wav", "--json")[1])["files"]
    assert told["remix"] == str(tmp_path / "a.wav") and told["sounds"][0]["gain"] == "-inf"


@pytest.mark.slow
def test_two_jobs_do_what_one_does(run, tmp_path: Path):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", tone_samples(1.0, RATE, 440, 0.4, onset=0.0), RATE)
    files = [tmp_path / f"{name}.wav" for name in "abc"]
    assert run("separate", *files, *QUERY, "-o", tmp_path / "one" / "{name}.wav")[0] == 0
    code, said, error = run("separate", *files, *QUERY, "-o", tmp_path / "two" / "{name}.wav", "--jobs", 2)
    assert code == 0 and len(said.splitlines()) == 3, error
    for name in "abc":
        assert (tmp_path / "two" / f"{name}.wav").read_bytes() == (tmp_path / "one" / f"{name}.wav").read_bytes()


@pytest.mark.slow
def test_from_stdin_to_stdout(project: Path, tmp_path: Path):
    soundfile.write(tmp_path / "in.wav", tone_samples(1.0, 22050, 440, 0.4, onset=0.0), 22050, subtype="PCM_24")
    command = [sys.executable, "-m", "avset", "separate", "-", *QUERY, "-o", "-"]
    done = subprocess.run(command, cwd=project, input=(tmp_path / "in.wav").read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    samples, rate = soundfile.read(io.BytesIO(done.stdout))
    assert (rate, len(samples)) == (22050, 22050) and done.stderr.startswith(b"stdout: 1.0 s at 22050 Hz, mono")


@pytest.mark.parametrize(
    ("words", "said"),
    [(["-o", "out.wav", "--overwrite", "--resume"], "do not go together"), (["-o", "-", "--json"], "stdout takes one"),
     (["-q", "drum", "-o", "out.wav"], "several queries would be written to 'out.wav'; give a template"),
     (["b.wav", "-o", "out.wav"], "would be written to 'out.wav'; give a template with {folder}, {name}"),
     (["b.wav", "-o", "{name}.wav", "--overwrite"], "that is the input"),
     (["*.xyz", "-o", "{name}.ogg"], "the pattern '*.xyz' has no audio"),
     (["-o", "o.mp4"], "the input has no pictures"),
     (["-o", "o.flac", "--bits", "32"], "no samples of 32 bits"), (["-", "-o", "o.ogg"], "stdin is one file by itself"),
     (["-o", "o.ogg", "--device", "tpu"], "the device 'tpu' cannot be used"),
     (["-o", "o.ogg", "-q", "drum=+6dB"], "has no gain, and others have one"),
     (["-o", "{query}.ogg", "--like", "b.wav"], "the example 'b.wav' is silent"),
     (["-o", "{query}.ogg", "--like", "c.wav"], "cannot read 'c.wav'"),
     (["-o", "{query}.ogg", "--box", "0,0,0.5,1"], "cannot take a picture from 'a.wav'"),
     (["-o", "o.ogg", "--not", "drum=+6dB"], "is not wanted, and has a gain"),
     (["-o", "o.ogg", "--from", "1"], "give a --to for each --from"),
     (["-o", "o.ogg", "--from", "1", "--to", "2"], "after the end of the sound"),
     (["-o", "o.ogg", "--time", "1"], "--time is that of a picture")],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(
    run, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(9), RATE)
    model = project / "data" / "demo" / "demo" / "models" / "avset"
    encoder = project / "data" / "demo" / "demo" / "encoder"
    monkeypatch.chdir(tmp_path)
    code, out, error = run("separate", "a.wav", *words, *QUERY, "--model", model, "--encoder", encoder)
    assert code == 1 and not out and said in error and len(error.splitlines()) == 1


def test_a_film_with_the_sound_of_a_query(run, tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", 2.0)
    assert run("separate", film, *QUERY, "-o", tmp_path / "out.mp4")[0] == 0
    assert numbers(tmp_path / "out.mp4", [0.5, 1.5]) == numbers(film, [0.5, 1.5])
    (told,) = json.loads(run("separate", film, *QUERY, "-o", tmp_path / "out.wav", "--json")[1])["files"]
    assert told["sounds"][0]["where"].keys() == {"row", "rows", "column", "columns"}
    assert run("separate", film, *QUERY, "-o", tmp_path / "out.wav", "--quiet", "--overwrite")[1:] == ("", "")
    verbose = run("separate", film, *QUERY, "-o", tmp_path / "out.ogg", "--verbose")[2]
    assert verbose.startswith(f"{film}: 2.0 s, mono at ")

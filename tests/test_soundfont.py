"""The demo's melodies on a sound font: one that the tests write, with a looped sine for every instrument."""

import struct
from pathlib import Path

import numpy as np
import pytest

from avset.errors import ParamsError
from avset.sources import Entry, clips, demo
from avset.sources.demo import soundfont
from avset.sources.demo.sounds import LABELS, Note, synthesize

RATE = 22050
PERIOD = 50  # samples: 441 Hz, which the bank says is MIDI 69 of 440 Hz


def chunk(name: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def bank_of(programs: list[int]) -> bytes:
    """A sound font (SF2): presets with these numbers, all of one instrument, which is one looped sine."""
    samples = np.sin(2 * np.pi * np.arange(20 * PERIOD) / PERIOD) * 16000
    wave = np.concatenate([samples, np.zeros(46)]).astype("<i2").tobytes()
    presets = [struct.pack("<20sHHHIII", b"sine", n, 0, i, 0, 0, 0) for i, n in enumerate(programs)]
    presets.append(struct.pack("<20sHHHIII", b"EOP", 0, 0, len(programs), 0, 0, 0))
    bags = [struct.pack("<HH", i, 0) for i in range(len(programs) + 1)]
    to_instrument = struct.pack("<HH", 41, 0)
    zone = struct.pack("<HHHH", 54, 1, 53, 0)  # sampleModes: loop; sampleID
    header = struct.pack("<20sIIIIIBbHH", b"sine", 0, len(samples), PERIOD, 19 * PERIOD, RATE, 69, 0, 0, 1)
    pdta = [
        chunk(b"phdr", *presets), chunk(b"pbag", *bags), chunk(b"pmod", bytes(10)),
        chunk(b"pgen", to_instrument * len(programs), bytes(4)),
        chunk(b"inst", struct.pack("<20sH", b"sine", 0), struct.pack("<20sH", b"EOI", 1)),
        chunk(b"ibag", struct.pack("<HHHH", 0, 0, 2, 0)), chunk(b"imod", bytes(10)), chunk(b"igen", zone, bytes(4)),
        chunk(b"shdr", header, struct.pack("<20s26x", b"EOS")),
    ]  # fmt: skip
    info = chunk(b"LIST", b"INFO", chunk(b"ifil", struct.pack("<HH", 2, 1)), chunk(b"INAM", b"test"))
    sounds = chunk(b"LIST", b"sdta", chunk(b"smpl", wave))
    return chunk(b"RIFF", b"sfbk", info, sounds, chunk(b"LIST", b"pdta", *pdta))


@pytest.fixture
def bank(tmp_path: Path) -> str:
    pytest.importorskip(soundfont.PACKAGE)
    (tmp_path / "bank.sf2").write_bytes(bank_of(list(soundfont.PROGRAMS.values())))
    return str(tmp_path / "bank.sf2")


def played(bank: str, label: str = "violin") -> np.ndarray:
    """Two notes, and a pause behind each."""
    notes = [Note(0.2, 0.8, 69.0, 0.9), Note(1.2, 1.8, 81.0, 0.5)]
    return soundfont.play(bank, label, notes, 0.0, 2 * RATE, RATE)


def frequency(wave: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave))))) * RATE / len(wave))


def test_notes_sound_when_they_are_held_at_their_pitch_and_loudness(bank: str):
    wave = played(bank)
    first, second = (wave[int(a * RATE) : int(b * RATE)] for a, b in ((0.3, 0.7), (1.3, 1.7)))
    assert frequency(first) == pytest.approx(440, rel=0.01) and frequency(second) == pytest.approx(880, rel=0.01)
    assert np.std(first) > 1.5 * np.std(second) > 0
    assert np.abs(wave[: int(0.19 * RATE)]).max() == 0
    pauses = [np.abs(wave[int(a * RATE) : int(b * RATE)]).max() for a, b in ((1.0, 1.19), (1.95, 2.0))]
    assert max(pauses) < 0.01 * wave.max()


def test_a_performance_does_not_depend_on_those_before_and_tuning_moves_its_pitch(bank: str):
    once = played(bank)
    soundfont.play(bank, "tuba", [Note(0.0, 2.0, 40.0, 1.0)], 0.5, 2 * RATE, RATE)
    assert np.array_equal(played(bank), once)
    sharp = soundfont.play(bank, "violin", [Note(0.0, 2.0, 69.0, 1.0)], 1.0, 2 * RATE, RATE)
    assert frequency(sharp[RATE // 2 :]) == pytest.approx(466.2, rel=0.005)


@pytest.mark.parametrize("label", LABELS)
def test_only_the_voice_of_a_clip_is_another(label: str, bank: str):
    ours, notes = synthesize(label, 5, 1.0)
    theirs, same = synthesize(label, 5, 1.0, bank=bank)
    assert notes == same and theirs.shape == ours.shape and not np.array_equal(theirs, ours)
    assert 0.02 < np.abs(theirs).max() <= 0.9


def test_the_content_of_the_bank_is_part_of_what_a_clip_is(bank: str, tmp_path: Path):
    entry = Entry("violin-test-000", "test", ("violin",), "demo")

    def named(path: str | None) -> list:
        options = demo.Options(voice="soundfont" if path else "synthesis", bank=path)
        return clips.identity(entry, options, "1")

    (tmp_path / "copy.sf2").write_bytes(Path(bank).read_bytes())
    (tmp_path / "other.sf2").write_bytes(bank_of([*soundfont.PROGRAMS.values(), 0]))
    assert named(bank) == named(str(tmp_path / "copy.sf2")) != named(str(tmp_path / "other.sf2")) != named(None)
    assert not {"voice", "bank", "duets"} & named(None)[2].keys(), "what was drawn before keeps its name"


def test_of_both_voices_each_has_every_second_clip(bank: str):
    kinds = {"ours": demo.Options(duration=1.0), "theirs": demo.Options(duration=1.0, voice="soundfont", bank=bank),
             "both": demo.Options(duration=1.0, voice="both", bank=bank)}  # fmt: skip
    for number, voice in enumerate(("ours", "theirs", "ours")):
        entry = Entry(f"tuba-train-{number:03d}", "train", ("tuba",), "demo")
        assert np.array_equal(demo.stems(entry, kinds["both"]), demo.stems(entry, kinds[voice]))


def test_the_stems_of_a_duet_on_a_sound_font_are_in_one_room(bank: str):
    options = demo.Options(voice="soundfont", bank=bank, duration=1.0, duets=1)
    duet = next(entry for entry in demo.listing(options).entries if len(entry.labels) == 2)
    assert demo.stems(duet, options).shape == (2, RATE)


def test_a_bank_that_cannot_play_is_one_sentence_before_anything_is_made(
    bank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for content, said in (
        (None, "there is no file"), (b"", "is no sound font that can be read"),
        (Path(bank).read_bytes()[:900], "is no sound font that can be read"),
        (bank_of([40]), "has no instrument 21 of General MIDI for accordion"),
    ):  # fmt: skip
        path = tmp_path / f"{said[:8]}{len(content or b'')}.sf2"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ParamsError, match=said):
            demo.listing(demo.Options(voice="soundfont", bank=str(path)))
    monkeypatch.setattr(soundfont, "find_spec", lambda _: None)
    with pytest.raises(ParamsError, match="pip install --no-deps tinysoundfont"):
        demo.listing(demo.Options(voice="soundfont", bank=bank))


@pytest.mark.parametrize("told", [{"voice": "soundfont"}, {"voice": "both"}, {"bank": "x.sf2"}])
def test_a_bank_belongs_to_the_voice_of_a_sound_font(told: dict):
    with pytest.raises(ValueError, match="voice: soundfont and both need bank"):
        demo.Options(**told)

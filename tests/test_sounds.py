"""The demo's instruments, held against what their sound must be."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from avset.errors import ParamsError
from avset.sources.demo import rooms, sounds, tones
from avset.sources.demo.melodies import MODES, SHORTEST_NOTE, compose
from avset.sources.demo.sounds import INSTRUMENTS, LABELS, Note, response, synthesize
from avset.sources.demo.timbres import Body
from avset.sources.demo.tones import performer

RATE = 22050
SUSTAINED = [label for label in LABELS if label not in ("acoustic guitar", "xylophone")]
Play = Callable[..., np.ndarray]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Any notes on any instrument, in no room: (label, notes or one MIDI pitch) -> waveform of 2 s."""
    monkeypatch.setattr(sounds, "equaliser", lambda _, hertz: np.zeros(len(hertz)))
    monkeypatch.setattr(sounds, "impulse_response", lambda *_: np.ones(1))
    monkeypatch.setattr(sounds, "hiss", lambda _, length, __: np.zeros(length))

    def perform(label: str, score: float | list[Note], seed: int = 3, rate: int = RATE) -> np.ndarray:
        notes = score if isinstance(score, list) else [Note(0.1, 1.9, float(score), 0.8)]
        monkeypatch.setattr(sounds, "compose", lambda *_: notes)
        return synthesize(label, seed, 2.0, rate)[0].astype(np.float64)

    return perform


def hertz(midi: float) -> float:
    return 440.0 * 2 ** ((midi - 69) / 12)


def middle(label: str) -> int:
    """A pitch in the middle of an instrument's range."""
    return (INSTRUMENTS[label].style.low + INSTRUMENTS[label].style.high) // 2


def power(wave: np.ndarray, rate: int = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and the power spectrum."""
    return np.fft.rfftfreq(len(wave), 1 / rate), np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2


def partial(wave: np.ndarray, frequency: float, width: float = 0.04) -> float:
    """Power within a band around a frequency, in dB."""
    frequencies, spectrum = power(wave)
    return float(10 * np.log10(spectrum[np.abs(frequencies / frequency - 1) < width].sum() + 1e-20))


def analytic(wave: np.ndarray, frequency: float, width: float = 0.3, rate: int = RATE) -> np.ndarray:
    """The complex signal of the band around a frequency."""
    spectrum, frequencies = np.fft.fft(wave), np.fft.fftfreq(len(wave), 1 / rate)
    return np.fft.ifft(np.where(np.abs(frequencies / frequency - 1) < width, 2 * spectrum, 0))


def pitch(wave: np.ndarray, frequency: float, rate: int = RATE) -> np.ndarray:
    """Instantaneous pitch in semitones relative to `frequency`, smoothed over 20 ms."""
    phase = np.unwrap(np.angle(analytic(wave, frequency, rate=rate)))
    slope = np.convolve(np.diff(phase), np.ones(441) / 441, mode="same") * rate / (2 * np.pi)
    return np.asarray(12 * np.log2(np.maximum(slope, 1.0) / frequency))


def centroid(wave: np.ndarray) -> float:
    """Mean frequency in Hz, weighted by magnitude, below 5 kHz."""
    frequencies, spectrum = power(wave)
    weights = np.sqrt(spectrum) * (frequencies < 5000)
    return float((frequencies * weights).sum() / weights.sum())


def test_there_are_the_eleven_instruments_of_music() -> None:
    assert LABELS == (
        "accordion", "acoustic guitar", "cello", "clarinet", "erhu", "flute",
        "saxophone", "trumpet", "tuba", "violin", "xylophone",
    )  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
def test_a_clip_has_its_length_and_its_loudness(label: str) -> None:
    wave, notes = synthesize(label, 5, 6.0)
    sounding = np.zeros(len(wave), dtype=bool)
    for note in notes:
        sounding[round(note.onset * RATE) : round(note.offset * RATE)] = True
    assert wave.shape == (6 * RATE,) and wave.dtype == np.float32
    peak, rms = float(np.abs(wave).max()), float(np.sqrt(np.mean(wave[sounding].astype(np.float64) ** 2)))
    assert peak <= 0.9
    assert rms == pytest.approx(0.1, abs=1e-4) or (peak > 0.899 and rms < 0.1)


@pytest.mark.parametrize("label", LABELS)
def test_there_are_pauses_to_hear(label: str) -> None:
    style = INSTRUMENTS[label].style
    for seed in range(40):
        notes = compose(np.random.default_rng(seed), style, 6.0)
        grid = np.zeros(6000, dtype=bool)
        for note in notes:
            assert 0 <= note.onset < note.offset <= 6.0
            assert style.low <= note.midi <= style.high and 0 < note.velocity <= 1
            grid[round(note.onset * 1000) : round(note.offset * 1000)] = True
        assert 0.15 <= 1 - grid.mean() <= 0.8
        edges = np.flatnonzero(np.diff(np.concatenate([[1], grid, [1]])))
        assert (edges[1::2] - edges[::2]).max() > 150  # ms: one pause at least can be heard


def test_a_melody_keeps_to_one_mode_and_moves_by_steps_and_leaps() -> None:
    leaps = []
    for seed in range(30):
        notes = compose(np.random.default_rng(seed), INSTRUMENTS["violin"].style, 12.0)
        classes = {int(note.midi) % 12 for note in notes}
        assert any(classes <= {(tonic + d) % 12 for d in mode} for tonic in range(12) for mode in MODES)
        assert all(b.onset - a.onset >= SHORTEST_NOTE for a, b in pairwise(notes))
        leaps += [abs(b.midi - a.midi) for a, b in pairwise(notes)]
    steps = np.mean(np.array(leaps) <= 3)
    assert 0.5 < steps < 0.9


def test_only_instruments_that_can_play_chords() -> None:
    def most(label: str) -> int:
        scores = [compose(np.random.default_rng(s), INSTRUMENTS[label].style, 6.0) for s in range(20)]
        return max(sum(abs(a.onset - b.onset) < 0.06 for b in score) for score in scores for a in score)

    assert {label for label in LABELS if most(label) >= 3} == {"accordion", "acoustic guitar", "xylophone"}


def test_the_same_arguments_give_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from avset.sources.demo.sounds import LABELS, synthesize\n"
        "for label in LABELS: print(hashlib.sha256(synthesize(label, 7, 1.0)[0].tobytes()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert there == [hashlib.sha256(synthesize(label, 7, 1.0)[0].tobytes()).hexdigest() for label in LABELS]


@pytest.mark.parametrize("label", LABELS)
def test_seeds_differ_in_melody_and_in_timbre(label: str, play: Play) -> None:
    scores = {
        tuple(note.midi for note in compose(np.random.default_rng(s), INSTRUMENTS[label].style, 6.0)) for s in range(8)
    }
    assert len(scores) == 8
    note = middle(label)
    levels = np.array([[partial(play(label, note, seed), hertz(note) * k) for k in (1, 3)] for seed in range(4)])
    assert np.ptp(levels[:, 1] - levels[:, 0]) > 1.5  # dB


@pytest.mark.parametrize("label", LABELS)
def test_the_fundamental_is_the_pitch_of_the_note(label: str, play: Play) -> None:
    low, high = INSTRUMENTS[label].style.low, INSTRUMENTS[label].style.high
    notes = [Note(0.05 + 0.4 * i, 0.35 + 0.4 * i, midi, 0.8) for i, midi in enumerate(np.linspace(low, high, 5))]
    wave = play(label, notes, seed=8)
    for note in notes:
        part = wave[round((note.onset + 0.05) * RATE) : round((note.offset - 0.05) * RATE)]
        correlation = np.correlate(part, part, "full")[len(part) - 1 :] / np.arange(len(part), 0, -1)
        lags = np.arange(int(RATE / hertz(note.midi + 7)), int(RATE / hertz(note.midi - 7)) + 2)
        best = lags[np.argmax(correlation[lags])]
        a, b, c = correlation[best - 1 : best + 2]
        period = best + 0.5 * (a - c) / (a - 2 * b + c)
        assert 12 * np.log2(RATE / period) == pytest.approx(12 * np.log2(hertz(note.midi)), abs=0.5)


@pytest.mark.parametrize("label", LABELS)
def test_nothing_sounds_below_the_fundamental(label: str, play: Play) -> None:
    note = middle(label) + 5
    frequencies, spectrum = power(play(label, note))
    assert spectrum[frequencies < 0.75 * hertz(note)].sum() < 0.02 * spectrum.sum()


def test_a_clarinet_has_odd_partials_and_a_saxophone_all(play: Play) -> None:
    def odd_over_even(label: str) -> float:
        wave = play(label, 57)
        level = [partial(wave, hertz(57) * k) for k in range(1, 6)]
        return float(np.mean([level[0], level[2], level[4]]) - np.mean([level[1], level[3]]))

    assert odd_over_even("clarinet") > 18
    assert abs(odd_over_even("saxophone")) < 8


def test_a_saxophone_keeps_its_partials_up_to_the_cutoff_of_its_tone_holes_and_loses_them_above(play: Play) -> None:
    """Little falls below 1 kHz, 10 to 18 dB per octave do above; a soft tone has less above, and air is heard."""

    def levels(velocity: float) -> np.ndarray:
        waves = [play("saxophone", [Note(0.1, 1.9, 50.0, velocity)], seed) for seed in range(6)]
        return np.mean([[partial(wave, hertz(50) * k, 0.1 / k) for k in range(1, 25)] for wave in waves], axis=0)

    loud, soft, octaves = levels(0.9), levels(0.4), np.log2(hertz(50) * np.arange(1, 25) / 1000)
    below, above = (np.polyfit(octaves[part], loud[part], 1)[0] for part in (octaves < 0, octaves > 0.2))
    assert -6 < below < 4 and -18 < above < -10
    assert np.ptp(loud[:5]) < 12, "all partials of a cone are strong"
    tilt = (loud - soft) - (loud - soft)[0]
    assert tilt[16:].mean() > 5 > abs(tilt[1])
    frequencies, spectrum = power(play("saxophone", 58)[int(0.4 * RATE) : int(1.7 * RATE)])
    between = np.abs(frequencies / hertz(58) % 1 - 0.5) < 0.2
    breath = 10 * np.log10(spectrum[between & (frequencies < 6000)].sum() / spectrum.sum())
    assert -45 < breath < -22


def test_plucked_and_struck_tones_decay_and_the_others_last(play: Play) -> None:
    def fall(label: str) -> float:
        early, late = (play(label, middle(label))[round(t * RATE) :][: RATE // 4] for t in (0.3, 1.4))
        return float(10 * np.log10(np.mean(late**2) / np.mean(early**2)))

    assert fall("xylophone") < -40 < fall("acoustic guitar") < -10
    assert all(abs(fall(label)) < 4 for label in SUSTAINED)


def test_high_partials_of_a_string_die_first(play: Play) -> None:
    wave = play("acoustic guitar", 45)
    early, late = wave[int(0.15 * RATE) :][: RATE // 2], wave[int(0.8 * RATE) :][: RATE // 2]
    losses = [partial(early, hertz(45) * k) - partial(late, hertz(45) * k) for k in (1, 4, 9)]
    assert losses[0] + 3 < losses[1] < losses[2] - 3


def test_the_bars_of_a_xylophone_are_tuned_to_the_twelfth(play: Play) -> None:
    wave, f0 = play("xylophone", 72), hertz(72)
    assert partial(wave, 3 * f0) > partial(wave, 2 * f0) + 10
    assert partial(wave, 3 * f0) > partial(wave, 4 * f0) + 10
    assert partial(wave, 6.05 * f0) > partial(wave, 5 * f0) + 6


@pytest.mark.parametrize("label", ["erhu", "violin", "cello", "saxophone"])
def test_the_vibrato_has_its_rate_and_depth(label: str, play: Play) -> None:
    note = middle(label)
    rate, depth, _ = INSTRUMENTS[label].gesture.vibrato
    curve = pitch(play(label, note), hertz(note))[int(0.6 * RATE) : int(1.6 * RATE)]
    curve = (curve - curve.mean()) * np.hanning(len(curve)) * 2
    spectrum = np.abs(np.fft.rfft(curve, 8 * len(curve)))
    assert np.argmax(spectrum) / 8 == pytest.approx(rate, rel=0.25)
    assert 0.5 * depth < np.sqrt(np.mean(curve**2) * 4 / 3) < 1.7 * depth


@pytest.mark.parametrize("label", ["clarinet", "tuba"])
def test_who_has_no_vibrato_holds_the_pitch(label: str, play: Play) -> None:
    curve = pitch(play(label, middle(label)), hertz(middle(label)))[int(0.6 * RATE) : int(1.6 * RATE)]
    assert curve.std() < 0.03


def test_the_reeds_of_an_accordion_beat(play: Play) -> None:
    def beats(label: str) -> float:
        loudness = np.abs(analytic(play(label, 69), 440.0))[int(0.3 * RATE) : int(1.7 * RATE)]
        return float(np.ptp(loudness) / loudness.max())

    assert beats("accordion") > 0.8
    assert beats("clarinet") < 0.2


def test_a_trumpet_brightens_in_its_attack_and_with_loudness(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    def brightness(wave: np.ndarray, start: float) -> float:
        frequencies, spectrum = power(wave[int(start * RATE) :][: int(0.03 * RATE)])
        return float(10 * np.log10(spectrum[frequencies > 1500].sum() / spectrum[frequencies < 1500].sum()))

    loud, soft = (play("trumpet", [Note(0.1, 1.9, 65.0, velocity)]) for velocity in (1.0, 0.4))
    assert brightness(loud, 0.1) < brightness(loud, 0.5) - 3
    assert brightness(loud, 0.5) > brightness(soft, 0.5) + 2.5
    trumpet = INSTRUMENTS["trumpet"]
    steady = replace(trumpet, gesture=replace(trumpet.gesture, bloom=(0, 1)))
    monkeypatch.setitem(INSTRUMENTS, "trumpet", steady)
    assert brightness(play("trumpet", 65), 0.1) > brightness(play("trumpet", 65), 0.5) - 2


def test_an_erhu_slides_into_a_slurred_note_and_a_clarinet_does_not(play: Play) -> None:
    slur = [Note(0.1, 1.04, 70.0, 0.8), Note(1.0, 1.9, 75.0, 0.8)]

    def halfway(label: str) -> float:
        curve = pitch(play(label, slur), hertz(72.5))[int(1.05 * RATE) : int(1.3 * RATE)]
        return float(np.mean(np.abs(curve) < 1.5))

    assert halfway("erhu") > 0.1
    assert halfway("clarinet") < 0.03


def test_a_flute_breathes(play: Play) -> None:
    def breath(label: str) -> float:
        frequencies, spectrum = power(play(label, 72))
        between = np.abs(frequencies / hertz(72) % 1 - 0.5) < 0.2
        band = (frequencies > 1000) & (frequencies < 4000)
        return float(10 * np.log10(spectrum[between & band].sum() / spectrum[band | ~band].sum()))

    assert breath("flute") > -32 > breath("clarinet") + 15


def test_the_brightness_of_the_instruments_is_ordered(play: Play) -> None:
    bright = {label: np.mean([centroid(play(label, middle(label), s)) for s in range(4)]) for label in LABELS}
    for low, high in pairwise(["tuba", "cello", "violin"]):
        assert bright[low] * 1.1 < bright[high], bright
    assert bright["clarinet"] * 1.3 < bright["trumpet"] and bright["acoustic guitar"] * 1.3 < bright["accordion"]
    assert bright["tuba"] * 1.7 < bright["xylophone"]


def test_partials_above_the_band_are_left_out_and_do_not_fold_back(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    def stray(rate: int) -> float:
        wave = play("accordion", 74, rate=rate)
        frequencies, spectrum = power(wave, rate)
        number = np.maximum(np.rint(frequencies / hertz(74)), 1)
        near = np.abs(frequencies / (number * hertz(74)) - 1) < 0.04
        return float(10 * np.log10(spectrum[~near].sum() / spectrum.sum()))

    assert stray(8000) < -30
    monkeypatch.setattr(tones, "TOP", 3.0)
    assert stray(8000) > -20


@pytest.mark.parametrize("label", LABELS)
def test_notes_begin_and_end_without_a_click(label: str, play: Play) -> None:
    wave = play(label, middle(label))
    first, last = round(0.1 * RATE), round(1.9 * RATE) - 1
    assert max(abs(wave[first - 1]), abs(wave[first])) < 1e-9
    peak = np.abs(wave).max()
    assert np.abs(wave[first : first + 4]).max() < 0.15 * peak
    assert np.abs(wave[last - 22 : last]).max() < 0.15 * peak  # the body rings on


def test_notes_do_not_depend_on_the_sample_rate() -> None:
    assert synthesize("erhu", 2, 3.0, 8000)[1] == synthesize("erhu", 2, 3.0, 22050)[1]


@pytest.mark.parametrize(("label", "least", "most"), [("violin", 30, 100), ("cello", 30, 120), ("trumpet", 8, 70),
                                                       ("saxophone", 25, 80),
                                                       ("flute", 25, 110), ("xylophone", 0, 8)])  # fmt: skip
def test_tones_rise_as_fast_as_their_instrument_lets_them(label: str, least: float, most: float, play: Play) -> None:
    """From 10 to 90 % of the level that the tone has in its first 0.2 s, in ms."""
    rises = []
    for seed in range(4):
        wave = play(label, middle(label), seed)[round(0.09 * RATE) : round(0.3 * RATE)]
        loudness = np.array([np.sqrt(np.mean(wave[i : i + 160] ** 2)) for i in range(0, len(wave) - 160, 16)])
        high = np.argmax(loudness > 0.9 * loudness.max())
        rises.append((high - np.argmax(loudness > 0.1 * loudness.max())) * 16000 / RATE)
    assert least < np.median(rises) < most


@pytest.mark.parametrize(("label", "peaks"), [("violin", (275, 545, 2500)), ("cello", (100, 190, 2100))])
def test_the_body_of_a_bowed_string_has_its_published_peaks(label: str, peaks: tuple[int, ...]) -> None:
    """A0, B1 and the bridge hill, in the mean of many instruments, against one third of an octave to both sides."""
    hertz = np.geomspace(50, 6000, 500)
    bodies = [response(INSTRUMENTS[label].body, performer(np.random.default_rng(s)), hertz) for s in range(60)]
    mean = np.mean(bodies, axis=0)
    for peak in peaks:
        near, below, above = (np.interp(peak * 2**step, hertz, mean) for step in (0, -0.4, 0.5))
        assert near > max(below, above) + 1
    assert 2 < np.std(bodies, axis=0).mean() < 6  # dB; no two are alike


def test_a_bowed_string_is_a_sawtooth_and_a_soft_one_is_rounder() -> None:
    player = replace(performer(np.random.default_rng(0)), wobble=np.zeros(tones.PARTIALS))
    tables = tones._tables(INSTRUMENTS["violin"].spectrum, player, 60, 261.6, RATE)[:, :-1]
    level = 20 * np.log10(np.abs(np.fft.rfft(tables))[:, [1, 2, 4, 8]])
    assert np.diff(level[-1]) == pytest.approx([-6] * 3) and np.diff(level[0]) == pytest.approx([-10] * 3)
    assert np.mean(tables**2, axis=1) == pytest.approx(1)


def test_a_table_read_at_a_steady_phase_is_its_sum_of_sines() -> None:
    player, corners = performer(np.random.default_rng(1)), np.arange(20) * tones.HOP
    spectrum = INSTRUMENTS["clarinet"].spectrum
    phase = np.arange(1000) * 220.0 / RATE % 1.0
    found = tones._read(tones._tables(spectrum, player, 57, 220.0, RATE), phase, np.full(20, 1.0), corners)
    number = np.arange(1, int(tones.TOP * RATE / 220.0) + 1)
    gains = 10 ** ((tones.levels(spectrum, 57, number) + player.wobble[: len(number)]) / 20)
    sines = np.cos(2 * np.pi * (number[:, None] * phase + player.phases[: len(number), None]))
    assert found == pytest.approx(gains @ sines / np.sqrt(0.5 * np.sum(gains**2)), abs=2e-3)


def test_vibrato_moves_the_loudness_of_the_partials_of_a_violin_through_its_body(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two partials rise and fall differently; without a body they do not."""

    def movement(label: str) -> float:
        wave = play(label, 71, 5)[int(0.6 * RATE) : int(1.7 * RATE)]
        curves = [20 * np.log10(np.abs(analytic(wave, hertz(71) * k, 0.4 / k))[2000:-2000]) for k in (2, 3, 4, 5)]
        return float(np.mean([np.std(a - b) for a, b in pairwise(curves)]))

    moving = movement("violin")
    instrument = INSTRUMENTS["violin"]
    monkeypatch.setitem(INSTRUMENTS, "violin", replace(instrument, body=Body()))
    assert moving > 1.5 * movement("violin")


def test_any_two_instruments_meet_and_most_share_an_octave() -> None:
    def reach(label: str) -> set[float]:
        return {n.midi for s in range(12) for n in compose(np.random.default_rng(s), INSTRUMENTS[label].style, 8.0)}

    reaches = {label: reach(label) for label in LABELS}
    shared = [len(reaches[one] & reaches[other]) for one, other in combinations(LABELS, 2)]
    assert min(shared) >= 3 and np.median(shared) >= 12


def test_a_room_reverberates_as_long_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decay by Schroeder's backward integration; all begins with the direct sound."""
    monkeypatch.setattr(rooms, "REVERBERATION", (0.4, 0.4))
    for seed in range(4):
        place = np.random.default_rng(seed + 100)
        heard = rooms.impulse_response(np.random.default_rng(seed), place, RATE)
        left = 10 * np.log10(np.cumsum(heard[::-1] ** 2)[::-1])
        slope = (left[round(0.2 * RATE)] - left[round(0.08 * RATE)]) / 0.12
        assert heard[0] == 1
        assert -60 / slope == pytest.approx(0.4, rel=0.25)


def test_equalisers_vary_as_much_as_instruments_do() -> None:
    """The spread of the colour of recordings, in dB, is no smaller than that of the instruments' mean spectra."""
    hertz = np.geomspace(200, 4000, 60)
    colours = np.array([rooms.equaliser(np.random.default_rng(s), hertz) for s in range(100)])
    bodies = np.array(
        [response(INSTRUMENTS[label].body, performer(np.random.default_rng(0)), hertz) for label in LABELS]
    )
    within, between = ((x - x.mean(axis=1, keepdims=True)).std(axis=0).mean() for x in (colours, bodies))
    assert within > 0.6 * between and 3 < within < 9


def test_a_minimum_phase_response_has_its_gain_and_comes_at_once() -> None:
    hertz = np.fft.rfftfreq(1024, 1 / RATE)
    wanted = 9 * np.exp(-0.5 * ((hertz - 3000) / 700) ** 2)
    heard = rooms.minimum_phase(wanted)
    assert 20 * np.log10(np.abs(np.fft.rfft(heard))) == pytest.approx(wanted, abs=1e-6)
    assert np.sum(heard[:64] ** 2) > 0.99 * np.sum(heard**2)


def test_noise_has_its_spectrum_and_is_heard_in_half_of_the_clips() -> None:
    noise = rooms.shaped(np.random.default_rng(0), np.where(np.arange(4097) < 1000, 1.0, 0.1), 8192)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    assert np.mean(noise**2) == pytest.approx(1)
    assert 10 * np.log10(spectrum[1:1000].mean() / spectrum[1000:].mean()) == pytest.approx(20, abs=1)
    loud = [np.mean(rooms.hiss(np.random.default_rng(s), 2000, RATE) ** 2) for s in range(100)]
    assert 35 < np.count_nonzero(loud) < 65 and max(loud) < 10 ** (max(rooms.NOISE) / 10) * 1.01


def test_two_players_of_one_room_are_heard_by_one_microphone() -> None:
    def long_term(room: int, seed: int) -> np.ndarray:
        return np.abs(np.fft.rfft(synthesize("clarinet", seed, 1.0, RATE, room)[0]))

    assert np.array_equal(long_term(4, 1), long_term(4, 1)) and not np.array_equal(long_term(4, 1), long_term(5, 1))


@pytest.mark.parametrize("label", LABELS)
def test_the_shortest_clip_sounds(label: str) -> None:
    for seed in range(5):
        assert np.abs(synthesize(label, seed, 0.2, 8000)[0]).max() > 0.05


@pytest.mark.parametrize(
    ("label", "duration", "rate", "says"),
    [
        ("kazoo", 1.0, 22050, "accordion, acoustic guitar"),
        ("tuba", 0.1, 22050, "0.2 s"),
        ("tuba", 1.0, 4000, "8000"),
    ],
)
def test_wrong_arguments_are_named(label: str, duration: float, rate: int, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        synthesize(label, 0, duration, rate)

"""Fingerprints: what the sound and the pictures of a medium are, whatever codec, bit rate and size carry them.

The sound is told as in Haitsma and Kalker, "A highly robust audio fingerprinting system" (ISMIR 2002): one bit says
whether the energy of a band, less that of the next band, rises in time. Here it must rise by `RISE` dB: so a steady
sound has no bits, instead of random ones. A picture is told by the signs of its lowest frequencies.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av import AudioResampler
from jaxtyping import Bool, Float32, UInt8, UInt32, UInt64

from avset.errors import RETRIED, ClipError
from avset.media.container import decode_from, open_media, track
from avset.media.frames import decode_frames

LONGEST = 30.0  # s of a medium that are looked at, from its start on
RATE = 8000  # Hz
WINDOW, HOP = 2048, 512  # samples: a word every 64 ms
BACK = 4  # hops between the two spectra of a word
LOWEST, HIGHEST = 150.0, 3400.0  # Hz; all codecs keep these
BITS = 32  # of a word: one for two neighbours of BITS + 1 bands
RISE = 4.0  # dB
DEPTH = 50.0  # dB below the loudest band of a medium; what is weaker may be noise of a codec
PLAIN = 30.0  # dB below it, for the spectrum of a steady sound
PICTURES = 8  # of a medium, spread evenly
SIDE = 32  # pixels of a picture that is looked at
FLAT = 4.0  # levels of 255; a picture with a smaller standard deviation shows nothing but its colour

NEAR = 12  # bits of 64 by which pictures may differ that are the same
MOST = 5  # of PICTURES that must be the same
ALIKE = 0.4  # of the bits that are set in either of two sounds, those set in both
OVERLAP = 0.7  # of the shorter sound
LEAST = 40  # bits that a sound must have set; with fewer it is steady
SAME_SHAPE = 0.95  # correlation of the spectra of two steady sounds


@dataclass(frozen=True)
class Fingerprint:
    """Of one medium. `sound` or `pictures` are empty if they cannot be decoded."""

    sound: UInt32[np.ndarray, "W"]  # words
    shape: Float32[np.ndarray, "G"]  # dB of each band on average, above PLAIN
    pictures: UInt64[np.ndarray, "P"]  # PICTURES hashes

    @property
    def steady(self) -> bool:
        """Whether the sound has too few bits to be recognised by them: a tone, a hum, silence."""
        return int(np.bitwise_count(self.sound).sum()) < LEAST

    @property
    def still(self) -> bool:
        """Whether all pictures are the same one."""
        return bool((np.bitwise_count(self.pictures ^ self.pictures[:1]) <= NEAR).all())


def fingerprint(path: Path, duration: float) -> Fingerprint:
    """The fingerprint of a media file that lasts so long (s). ClipError only of what may pass."""
    sound, shape = words(np.empty((0, BITS + 1), np.float32))
    pictures = np.empty(0, np.uint64)
    try:
        sound, shape = words(bands(_samples(path)))
        times = (np.arange(PICTURES) + 0.5) / PICTURES * min(duration, LONGEST)
        pictures = hashes(decode_frames(path, times, SIDE))
    except ClipError as e:
        if e.reason in RETRIED:
            raise
    return Fingerprint(sound, shape, pictures)


def _samples(path: Path) -> Float32[np.ndarray, "L"]:
    """The first LONGEST s of the sound, mono, at RATE; a part that changes its form ends it."""
    count, blocks, resampler = round(LONGEST * RATE), [], AudioResampler("flt", "mono", RATE)
    with open_media(path) as container, suppress(ValueError):
        for frame in decode_from(container, track(container, "audio"), 0.0):
            blocks += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
            if sum(map(len, blocks)) >= count:
                break
    samples = np.concatenate([np.empty(0, np.float32), *blocks])[:count]
    return np.clip(np.nan_to_num(samples), -1.0, 1.0)


def bands(samples: Float32[np.ndarray, "L"]) -> Float32[np.ndarray, "S G"]:
    """Energy (dB) of the G = BITS + 1 bands in each spectrum; no spectrum if the sound is shorter than WINDOW."""
    if len(samples) < WINDOW:
        return np.empty((0, BITS + 1), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW).astype(np.float32))) ** 2
    edges = np.round(np.geomspace(LOWEST, HIGHEST, BITS + 2) * WINDOW / RATE).astype(int)
    energy = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1)
    return (10 * np.log10(energy + 1e-9)).astype(np.float32)


def words(levels: Float32[np.ndarray, "S G"]) -> tuple[UInt32[np.ndarray, "W"], Float32[np.ndarray, "G"]]:
    """A word for each spectrum but the first BACK, and the mean level of each band."""
    if len(levels) <= BACK:
        return np.empty(0, np.uint32), np.zeros(levels.shape[1], np.float32)
    levels = np.maximum(levels - levels.max(), -DEPTH)
    slope = levels[:, :-1] - levels[:, 1:]
    rises = (slope[BACK:] - slope[:-BACK] > RISE).astype(np.uint32)
    shape = np.maximum(levels, -PLAIN).mean(0) + np.float32(PLAIN)
    return rises @ (np.uint32(1) << np.arange(BITS, dtype=np.uint32)), shape


def hashes(pictures: UInt8[np.ndarray, "P S S 3"]) -> UInt64[np.ndarray, "P"]:
    """64 bits of each picture: which of its lowest 8 x 8 frequencies are above their median; of a flat one, its colour.

    The colour is told by 21 levels of red, green and blue each, so near colours differ in few bits.
    """
    grey, place = pictures.mean(3), np.arange(SIDE) + 0.5
    waves = np.cos(np.pi * np.outer(np.arange(8), place) / SIDE)
    spectra = np.einsum("ui,pij,vj->puv", waves, grey, waves).reshape(len(grey), 64)
    bits = spectra > np.median(spectra[:, 1:], 1, keepdims=True)
    colours = pictures.mean((1, 2))[:, :, None] > np.arange(21) * 12 + 6
    flat = grey.std((1, 2)) < FLAT
    bits[flat] = np.pad(colours.reshape(len(grey), 63), ((0, 0), (0, 1)))[flat]
    return bits.astype(np.uint64) @ (np.uint64(1) << np.arange(64, dtype=np.uint64))


def same_pictures(a: UInt64[np.ndarray, "N P"], b: UInt64[np.ndarray, "N P"]) -> Bool[np.ndarray, "N"]:
    """Of N pairs of media: whether MOST pictures of one are near to a picture of the other."""
    near = np.bitwise_count(a[:, :, None] ^ b[:, None, :]) <= NEAR
    return np.maximum(near.any(2).sum(1), near.any(1).sum(1)) >= MOST


def same_sound(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether two media sound the same, at some lag: as much of their words as their lengths let overlap.

    Steady sounds of one spectrum count as the same only if the pictures move: else nothing is recognised.
    """
    if a.steady and b.steady:
        spread = a.shape.std() > 0 and b.shape.std() > 0 and not a.still and not b.still
        return bool(spread and np.corrcoef(a.shape, b.shape)[0, 1] > SAME_SHAPE)
    return not a.steady and not b.steady and likeness(a.sound, b.sound) > ALIKE


def likeness(a: UInt32[np.ndarray, "W"], b: UInt32[np.ndarray, "X"]) -> float:
    """Bits set in both sounds by bits set in either, at the lag where that is the most."""
    x, y = ((words[:, None] >> np.arange(BITS, dtype=np.uint32) & 1).astype(np.float32) for words in (a, b))
    lags = (np.arange(len(a))[:, None] - np.arange(len(b)) + len(b) - 1).ravel()
    both = np.bincount(lags, (x @ y.T).ravel())
    either = np.bincount(lags, (x.sum(1)[:, None] + y.sum(1)).ravel()) - both
    enough = (np.bincount(lags) >= OVERLAP * min(len(a), len(b))) & (either >= LEAST)
    return float((both[enough] / either[enough]).max(initial=0.0))

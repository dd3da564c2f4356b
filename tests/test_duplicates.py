"""Contents: what is the same by bytes, or by sound and pictures together, without comparing all pairs."""

from typing import Any

import numpy as np
import pytest

from avset.media.fingerprint import BITS, PICTURES, Fingerprint
from avset.sources import duplicates


def stranger(seed: int, words: int = 60) -> Fingerprint:
    """The fingerprint of a recording that is like no other."""
    rng = np.random.default_rng(seed)
    sound = np.bitwise_and.reduce(rng.integers(0, 2**32, (2, words), dtype=np.uint32))
    return Fingerprint(sound, np.zeros(BITS + 1, np.float32), rng.integers(0, 2**63, PICTURES).astype(np.uint64))


def version(one: Fingerprint, seed: int, words: slice = slice(None), **other: Any) -> Fingerprint:
    """Another version of a recording: some bits differ."""
    rng, sound = np.random.default_rng(seed), one.sound[words].copy()
    hit = rng.random(len(sound)) < 0.5
    sound[hit] ^= np.uint32(1) << rng.integers(0, BITS, hit.sum()).astype(np.uint32)
    return Fingerprint(**({"sound": sound, "shape": one.shape, "pictures": one.pictures ^ np.uint64(5)} | other))


def contents(prints: dict[str, Fingerprint], **digests: str) -> dict[str, str]:
    rows = [{"media_id": name, "status": "ok", "sha256": digests.get(name, name)} for name in prints]
    return duplicates.contents([*rows, {"media_id": "bad", "status": "failed"}], prints)


def test_versions_of_a_recording_are_one_content():
    first, other = stranger(0), stranger(1)
    prints = {"c": first, "b": version(first, 2), "a": other, "d": version(first, 3, slice(9, 55))}
    assert contents(prints) == {"a": "a", "b": "b", "c": "b", "d": "b"}
    assert contents({}) == {}


def test_sound_alone_and_pictures_alone_are_not_enough():
    first, other = stranger(0), stranger(1)
    prints = {"a": first, "b": version(first, 2, pictures=other.pictures), "c": version(first, 3, sound=other.sound)}
    assert set(contents(prints)) == set(contents(prints).values())


def test_bytes_are_enough():
    none = Fingerprint(np.empty(0, np.uint32), np.zeros(BITS + 1, np.float32), np.empty(0, np.uint64))
    prints = {"a": stranger(0), "b": none, "c": none, "d": stranger(1)}
    assert contents(prints, c="b") == {"a": "a", "b": "b", "c": "b", "d": "d"}
    assert contents(prints, d="a")["d"] == "a"


def test_silence_and_a_still_picture_group_no_strangers():
    """All with one and the same picture, some of them silent."""
    silence, still = np.zeros(60, np.uint32), np.full(PICTURES, 12345, np.uint64)
    prints = {f"s{i}": version(stranger(i), 0, pictures=still) for i in range(20)}
    prints |= {f"n{i}": version(stranger(i), 0, pictures=still, sound=silence) for i in range(20)}
    assert set(contents(prints).values()) == set(prints)


def test_the_work_grows_with_the_media_and_not_with_their_pairs(monkeypatch: pytest.MonkeyPatch):
    """Though all share a key: the first word of their sounds."""
    asked = 0
    real = duplicates.same_pictures

    def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(a)
        return real(a, b)

    monkeypatch.setattr(duplicates, "same_pictures", counted)
    prints = {f"m{i:03d}": stranger(i) for i in range(500)}
    for one in prints.values():
        one.sound[0] = 7
    prints["n"] = version(prints["m250"], 1)
    found = contents(prints)
    assert found.pop("n") == "m250" and set(found.values()) == prints.keys() - {"n"}
    assert 500 <= asked < 2000

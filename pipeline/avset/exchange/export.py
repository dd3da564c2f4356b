"""The frozen mixtures as sound files with a manifest, so that any system can be run on them anywhere.

mixtures/<mixture_id>.wav, references/<mixture_id>-<source>.wav    mono, float32, one length and rate
manifest.csv     a row for each source: files, clip, label, the words of each text query
manifest.json    data set, rate, length, identities of the frozen lists; written last
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from avset.console import as_csv
from avset.errors import AvsetError
from avset.exchange.frozen import Frozen, file_of
from avset.media.waveforms import LEAST_RATE, MOST_RATE, resample
from avset.media.writers import as_wav
from avset.storage.files import write_atomic
from avset.training.mixtures import Mixture

FACTS, TABLE = "manifest.json", "manifest.csv"
MIXTURES, REFERENCES = "mixtures", "references"
COLUMNS = ("mixture_id", "split", "source", "clip_id", "label", "start_s", "gain", "mixture", "reference", "estimate")


def export(
    frozen: Frozen, folder: Path, splits: Sequence[str], rate: int | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write the mixtures of some splits into a folder; returns what manifest.json says.

    rate  in Hz, of all files; None: that of the spectrograms

    What is there already, byte for byte, stays, so that an export that was interrupted goes on. AvsetError if a file is
    there that this export would change, and `overwrite` is not set; nothing is written before the manifest is compared.
    """
    rate = rate or frozen.transform.sample_rate
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise AvsetError(f"--rate must be from {LEAST_RATE} to {MOST_RATE} Hz, not {rate}")
    mixtures = frozen.of(splits)
    facts = _facts(frozen, splits, mixtures, rate)
    table, told = as_csv(_table(frozen, mixtures)).encode(), _as_json(facts)
    for name, data in ((FACTS, told), (TABLE, table)):
        _may_write(folder / name, data, overwrite)
    for mixture in mixtures:
        for name, data in _sounds(frozen, mixture, rate):
            _write(folder / name, data, overwrite)
    _write(folder / TABLE, table, overwrite)
    _write(folder / FACTS, told, overwrite)
    return facts


def _sounds(frozen: Frozen, mixture: Mixture, rate: int) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of the files of a mixture."""
    sources = resample(frozen.sources(mixture), frozen.transform.sample_rate, rate)
    yield f"{MIXTURES}/{mixture.mixture_id}.wav", as_wav(sources.sum(0), rate)
    for n, source in enumerate(sources):
        yield f"{REFERENCES}/{file_of(mixture.mixture_id, n)}.wav", as_wav(source, rate)


def _facts(frozen: Frozen, splits: Sequence[str], mixtures: Sequence[Mixture], rate: int) -> dict[str, Any]:
    transform = frozen.transform
    return {
        "dataset": frozen.p.dataset, "scale": frozen.p.scale, "identities": frozen.identity(splits),
        "splits": {split: sum(one.split == split for one in mixtures) for split in sorted(set(splits))},
        "sample_rate": rate, "samples": -(-transform.length * rate // transform.sample_rate),
        "original_rate": transform.sample_rate, "queries": list(frozen.phrases),
    }  # fmt: skip


def _table(frozen: Frozen, mixtures: Sequence[Mixture]) -> Iterator[Sequence[Any]]:
    """The rows of manifest.csv; a source without a label has no words."""
    hop = frozen.transform.hop_length / frozen.transform.sample_rate
    yield [*COLUMNS, *(f"query_{query}" for query in frozen.phrases)]
    for one in mixtures:
        for n, (clip, label) in enumerate(zip(one.clips, one.labels, strict=True)):
            name = file_of(one.mixture_id, n)
            files = f"{MIXTURES}/{one.mixture_id}.wav", f"{REFERENCES}/{name}.wav", f"{name}.wav"
            words = [told.get(label, "") for told in frozen.phrases.values()]
            start = round(one.offsets[n] * hop, 6)
            yield [one.mixture_id, one.split, n, clip, label, start, one.gains[n], *files, *words]


def _as_json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _may_write(path: Path, data: bytes, overwrite: bool) -> bool:
    """Whether a file is to be written: it is not there yet, or with other bytes, which may be overwritten.

    AvsetError if they may not.
    """
    if not (path.exists() or path.is_symlink()):
        return True
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return False
    if overwrite and path.is_file():
        return True
    raise AvsetError(f"{path} is there, and is not of this export; give another folder, or allow it with --overwrite")


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    if _may_write(path, data, overwrite):
        write_atomic(path, data)

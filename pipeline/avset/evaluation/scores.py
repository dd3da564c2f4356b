"""Scores of estimates as rows of a table, spread over processes; and those of the mixtures themselves."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa

from avset.compute.process import end_with_parent
from avset.evaluation import bounds, metrics
from avset.features.spectrograms import Transform
from avset.storage.store import Store
from avset.training.mixtures import Mixture, references

WORTH = 100  # pairs from which on processes gain more than their start takes
DIGITS = 6  # of a score in dB: the last ones depend on the number of BLAS threads
MIXTURES = pa.schema(
    [("mixture_id", pa.string()), ("split", pa.string()), ("clips", pa.list_(pa.string())),
     ("contents", pa.list_(pa.string())), ("labels", pa.list_(pa.string())), ("offsets", pa.list_(pa.int64())),
     ("gains", pa.list_(pa.float64())), ("seed", pa.int64())]
)  # fmt: skip
SETS = MIXTURES.append(pa.field("sounds", pa.binary()))  # what each player of a duet plays
SCORES = pa.schema(
    [("method", pa.string()), ("query", pa.string()), ("mixture_id", pa.string()), ("source", pa.int64()),
     ("clip_id", pa.string()), ("label", pa.string()), ("sdr", pa.float64()), ("sir", pa.float64()),
     ("sar", pa.float64()), ("nsdr", pa.float64()), ("moving", pa.float64()), ("silent", pa.bool_())]
)  # fmt: skip
AT_ONCE = 200  # mixtures whose bounds are in memory together
Scores = dict[str, np.ndarray]  # sdr, sir, sar, silent
Pair = tuple[np.ndarray, np.ndarray]  # references (N, L), estimates (..., N, L)


def score(pairs: Sequence[Pair], solver: str = "shared", workers: int = 1) -> list[dict[str, np.ndarray]]:
    """BSS Eval of (references (N, L), estimates (..., N, L)) pairs, spread over processes where that pays."""
    tasks = [(*pair, solver) for pair in pairs]
    if workers == 1 or len(tasks) < WORTH:
        return [_score(task) for task in tasks]
    with one_thread(), ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
        return list(pool.map(_score, tasks, chunksize=4))


@contextmanager
def one_thread() -> Iterator[None]:
    """Children that start in here use one BLAS thread each: many on few cores wait for one another."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _score(task: tuple[np.ndarray, np.ndarray, str]) -> dict[str, np.ndarray]:
    return metrics.bss_eval(*task)


def rows_of(
    method: str,
    query: str,
    mixtures: Sequence[Mixture],
    scores: Sequence[Scores],
    mixture_sdr: dict[tuple[str, int], float],
    asked: Sequence[Sequence[int]] | None = None,
    still: Sequence[Scores | None] | None = None,
) -> list[dict[str, Any]]:
    """One row per source of each mixture that was asked for (None: all), for scores.parquet.

    `still` has the scores of the same masks averaged over time; None: they are the same. `moving` is what the masks
    gain over those.
    """
    rows = []
    for i, (mixture, found) in enumerate(zip(mixtures, scores, strict=True)):
        resting = (still[i] if still else None) or found
        for n in range(len(mixture.clips)) if asked is None else asked[i]:
            values = {k: round(float(found[k][n]), DIGITS) for k in ("sdr", "sir", "sar")}
            own = mixture_sdr.get((mixture.mixture_id, n), values["sdr"])
            moving = float(found["sdr"][n] - resting["sdr"][n])
            rows.append(
                {"method": method, "query": query, "mixture_id": mixture.mixture_id, "source": n,
                 "clip_id": mixture.clips[n], "label": mixture.labels[n], **values,
                 "nsdr": round(values["sdr"] - own, DIGITS), "moving": round(moving, DIGITS),
                 "silent": bool(found["silent"][n])}
            )  # fmt: skip
    return rows


def own_scores(
    mixtures: Sequence[Mixture], store: Store, transform: Transform, known: bounds.Templates, workers: int
) -> list[dict[str, Any]]:
    """The rows that belong to the mixtures and to no model: the mixture itself, and what oracles make of it.

    `known` are the templates of the labels.
    """
    found: list[dict[str, tuple[Scores, Scores | None]]] = []
    for i in range(0, len(mixtures), AT_ONCE):
        found += _of_bounds(mixtures[i : i + AT_ONCE], store, transform, known, workers)
    own: dict[tuple[str, int], float] = {}
    rows = []
    for bound in bounds.BOUNDS:
        scored = [(mixture, *one[bound]) for mixture, one in zip(mixtures, found, strict=True) if bound in one]
        several, moving, resting = (list(column) for column in zip(*scored, strict=True)) if scored else ([], [], [])
        rows += rows_of(bound, "", several, moving, own, still=resting)
        if bound == bounds.MIXTURE:
            own = {(row["mixture_id"], row["source"]): row["sdr"] for row in rows}
    return rows


def _of_bounds(
    mixtures: Sequence[Mixture], store: Store, transform: Transform, known: bounds.Templates, workers: int
) -> list[dict[str, tuple[Scores, Scores | None]]]:
    """By bound the scores of each mixture, and those of its still masks."""
    pairs, of = [], []
    for mixture in mixtures:
        sources = references(mixture, store, transform.length, transform.hop_length)
        made = bounds.estimates(sources, mixture.labels, known, transform)
        of.append({bound: resting is not None for bound, (_, resting) in made.items()})
        pairs.append((sources, np.stack([sound for both in made.values() for sound in both if sound is not None])))
    found = []
    for moves, scored in zip(of, score(pairs, workers=workers), strict=True):
        singles = iter(each(scored))
        found.append({bound: (next(singles), next(singles) if moving else None) for bound, moving in moves.items()})
    return found


def each(scored: Scores) -> list[Scores]:
    """The scores of each set of estimates of a batch."""
    return [{key: values[i] for key, values in scored.items()} for i in range(len(scored["sdr"]))]


def mean_sdr(rows: Sequence[dict[str, Any]], mixtures: Sequence[Mixture]) -> dict[str, float]:
    """The mean SDR of some mixtures by method, in dB."""
    names, values = {one.mixture_id for one in mixtures}, defaultdict[str, list[float]](list)
    for row in rows:
        if row["mixture_id"] in names:
            values[row["method"]].append(row["sdr"])
    return {method: fmean(found) for method, found in values.items()}

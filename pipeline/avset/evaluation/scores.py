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
import torch

from avset.compute.process import end_with_parent
from avset.evaluation import metrics
from avset.features.spectrograms import Transform
from avset.storage.store import Store
from avset.training.mixtures import Mixture, references

WORTH = 100  # pairs from which on processes gain more than their start takes
DIGITS = 6  # of a score in dB: the last ones depend on the number of BLAS threads
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
    scores: Sequence[dict[str, np.ndarray]],
    mixture_sdr: dict[tuple[str, int], float],
    asked: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """One row per source of each mixture that was asked for (None: all), for scores.parquet."""
    rows = []
    for i, (mixture, found) in enumerate(zip(mixtures, scores, strict=True)):
        for n in range(len(mixture.clips)) if asked is None else asked[i]:
            values = {k: round(float(found[k][n]), DIGITS) for k in ("sdr", "sir", "sar")}
            own = mixture_sdr.get((mixture.mixture_id, n), values["sdr"])
            rows.append(
                {"method": method, "query": query, "mixture_id": mixture.mixture_id, "source": n,
                 "clip_id": mixture.clips[n], "label": mixture.labels[n], **values,
                 "nsdr": round(values["sdr"] - own, DIGITS), "silent": bool(found["silent"][n])}
            )  # fmt: skip
    return rows


def own_scores(mixtures: Sequence[Mixture], store: Store, transform: Transform, workers: int) -> list[dict[str, Any]]:
    """The rows that belong to the mixtures and to no model: the mixture itself, and the ideal ratio mask."""
    pairs, ideals = [], []
    for mixture in mixtures:
        sources = references(mixture, store, transform.length, transform.hop_length)
        pairs.append((sources, np.broadcast_to(sources.sum(0), sources.shape)))
        ideals.append((sources, transform.ideal(torch.from_numpy(sources))[0].numpy()))
    found = score(pairs + ideals, workers=workers)
    rows = rows_of("mixture", "", mixtures, found[: len(pairs)], {})
    own = {(row["mixture_id"], row["source"]): row["sdr"] for row in rows}
    return rows + rows_of("ideal", "", mixtures, found[len(pairs) :], own)


def mean_sdr(rows: Sequence[dict[str, Any]], mixtures: Sequence[Mixture]) -> dict[str, float]:
    """The mean SDR of some mixtures by method, in dB."""
    names, values = {one.mixture_id for one in mixtures}, defaultdict[str, list[float]](list)
    for row in rows:
        if row["mixture_id"] in names:
            values[row["method"]].append(row["sdr"])
    return {method: fmean(found) for method, found in values.items()}

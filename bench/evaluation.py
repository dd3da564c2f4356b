"""Evaluation: BSS Eval of all kinds of query on frozen mixtures.

The plain way asks mir_eval, in one process, for the scores of each kind's estimates, and of the mixture itself again
for each. Ours solves a mixture's least-squares problems once for all its estimates; the mixture's own scores were
cached when it was drawn, which is counted here as one more estimate.
"""

import os
import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np

from bench.measure import Case, Growth

KINDS, LENGTH = 4, 65_535  # text, word, video, caption; samples of a crop of 256 frames
Pair = tuple[np.ndarray, np.ndarray]


def pairs(count: int, sources: int = 2, length: int = LENGTH) -> list[Pair]:
    """References (N, L), and estimates (1 + KINDS, N, L) of which the first is the mixture."""
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        references = np.stack(
            [np.convolve(x, random.normal(size=32), "same") for x in random.normal(size=(sources, length))]
        )
        leaks = random.uniform(0.05, 0.5, (KINDS, 1, 1))
        estimates = (
            references + leaks * (references.sum(0) - references) + 0.1 * random.normal(size=(KINDS, sources, length))
        )
        mixture = np.broadcast_to(references.sum(0), references.shape)
        found.append((references, np.concatenate([mixture[None], estimates])))
    return found


def plain(tasks: list[Pair]) -> list[np.ndarray]:
    """SDR, SIR, SAR (KINDS, 3, N) of each, and every time those of the mixture for the NSDR."""
    import mir_eval.separation

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for references, (mixture, *estimates) in tasks:
            rows = []
            for estimate in estimates:
                *scores, _ = mir_eval.separation.bss_eval_sources(references, estimate, compute_permutation=False)
                mir_eval.separation.bss_eval_sources(references, mixture, compute_permutation=False)
                rows.append(scores)
            found.append(np.array(rows))
    return found


def ours(tasks: list[Pair], workers: int = 1) -> list[np.ndarray]:
    """The same, by `avset.evaluation.scores`."""
    from avset.evaluation.scores import score

    return [
        np.stack([scores[name][1:] for name in ("sdr", "sir", "sar")], 1) for scores in score(tasks, workers=workers)
    ]


def apart(tasks: list[Pair]) -> float:
    """Largest difference of a score in dB."""
    return max(float(np.abs(a - b).max()) for a, b in zip(plain(tasks), ours(tasks), strict=True))


def cases(device: str) -> Iterator[Case]:
    """On one core, and with a process a core."""
    few, many, cores = pairs(2), pairs(120), os.cpu_count() or 1
    size = f"2 sources x {LENGTH} samples, {KINDS} kinds of query"
    yield Case(
        "evaluation", f"{size}, one core", "mixtures", partial(plain, few), partial(ours, few), 2, 2,
        partial(apart, few), 1e-6, goal=10,
    )  # fmt: skip
    yield Case(
        "evaluation", f"{size}, {cores} processes, their start included", "mixtures", partial(plain, few),
        partial(ours, many, cores), 2, len(many), wall=True,
    )  # fmt: skip


def growth(device: str) -> Iterator[Growth]:
    """By mixtures, sources, and length."""
    short = 16_384
    mixtures = {f"{n} mixtures": (partial(ours, pairs(n, length=short)), float(n)) for n in (2, 4, 8)}
    yield Growth("evaluation", f"mixtures of {short} samples", "mixture", mixtures)
    sources = {f"{n} sources": (partial(ours, pairs(2, n, short)), 2.0 * n) for n in (2, 3, 4)}
    yield Growth("evaluation", "sources", "source", sources, "their joint system has (512 N)^3 / 3 products")
    lengths = {f"{n} samples": (partial(ours, pairs(2, length=n)), 2.0 * n / short) for n in (16_384, 32_768, 65_536)}
    yield Growth("evaluation", "length", f"{short} samples", lengths, "solving costs the same at any length")

"""Whether two methods differ on the same mixtures: a sign-flip test that knows which mixtures share videos."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from avset.evaluation.metrics import Clusters

RESAMPLES = 9999
AT_ONCE = 1000  # resamples that are in memory together
TINY = 1e-12  # dB; keeps the quotient finite where all differences are equal


def paired_test(
    differences: Float[np.ndarray, " n"], videos: Sequence[Sequence[str]], resamples: int = RESAMPLES
) -> float:
    """The probability of a difference at least as large as the mean one, if neither method were the better one.

    differences  of the scores of two methods, one for each mixture
    videos       of each mixture; mixtures may share some

    The signs of all mixtures whose first video is the same are flipped together, in all ways or in `resamples` random
    ones. What is compared is the mean divided by its standard error, which counts shared videos: so the test holds its
    level where the plain mean rejects three times too often. NaN if there is no standard error.
    """
    from scipy.stats import permutation_test  # takes a second

    clusters = Clusters(videos)
    if not clusters.known:
        return math.nan
    if not np.any(differences):
        return 1.0
    first: Int[np.ndarray, " n"] = np.unique([own[0] for own in videos], return_inverse=True)[1]

    def quotient(signs: np.ndarray, axis: int = -1) -> np.ndarray:
        flipped = differences * np.moveaxis(signs, axis, -1)[..., first]
        return np.asarray(np.abs(flipped.mean(-1)) / (clusters.standard_error(flipped) + TINY))

    test = permutation_test(
        (np.ones(first.max() + 1),), quotient, permutation_type="samples", vectorized=True, n_resamples=resamples,
        batch=AT_ONCE, alternative="greater", rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(test.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """The probabilities of several tests, each raised so that one false alarm in all of them is as rare (Holm 1979).

    NaN stays, and counts for none.
    """
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    raised, largest = list(p), 0.0
    for rank, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        raised[i] = largest
    return raised

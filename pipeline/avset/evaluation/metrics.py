"""What an estimate is worth: BSS Eval (SDR, SIR, SAR), NSDR, and the localisation scores.

The only door to mir_eval. Sound scores are in dB, computed in float64 and always finite: a silent estimate
scores `SILENT`, and all others lie within +-`CEILING` (a mixture holds no artefact, so its SAR would be the
rounding error of the projection, about 300 dB). Boxes are x0, y0, x1, y1 as fractions of the picture, y
downwards; a score map is a row of R = rows * columns cells, row by row from the top left corner.
"""

import math
import warnings
from collections.abc import Collection, Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from avset.errors import AvsetError

SILENT = -30.0  # dB, each score of a silent estimate (the SDR of unrelated white noise of 5.94 s is about -21)
CEILING = 100.0  # dB; a score beyond it would measure rounding errors
SILENCE = 1e-8  # peak, of full scale (-160 dB), up to which a sound counts as silent
TAPS = 512  # length of the distortion filter that BSS Eval forgives
EXACT = 1e-6  # dB; what the fast solver may differ from mir_eval
UNIT = 1e-16  # rounding of a product in float64


def bss_eval(
    references: Float[ndarray, "N L"], estimates: Float[ndarray, "*batch _N _L"], solver: str = "mir_eval"
) -> dict[str, ndarray]:
    """SDR, SIR and SAR in dB of each estimate against the reference of the same place (no permutation).

    Returns `sdr`, `sir`, `sar` and `silent` (bool), each (*batch, N). A silent estimate scores `SILENT` three
    times, and its neighbours are scored as if it were not there. `solver="shared"` solves mir_eval's
    least-squares problems once for the whole batch: the same scores within 1e-6 dB, several times faster when
    a batch holds all estimates of one mixture. What that cannot promise is given to mir_eval.

    Raises:
        AvsetError: the shapes differ, a sample is not finite, a reference is silent, or the references are
            linearly dependent.
    """
    references, estimates = references.astype(np.float64), estimates.astype(np.float64)
    _validate(references, estimates)
    batch = estimates.reshape(-1, *references.shape)
    silent = np.abs(batch).max(-1) <= SILENCE
    # mir_eval refuses silence; each estimate is scored alone, so a stand-in changes none of the others
    heard = np.where(silent[..., None], references, batch)
    if solver == "shared":
        scores = _shared(references, heard)
    elif solver == "mir_eval":
        scores = _mir_eval(references, heard)
    else:
        raise AvsetError(f"solver {solver!r} is neither 'mir_eval' nor 'shared'")
    scores = np.where(silent, SILENT, np.clip(scores, -CEILING, CEILING))
    sdr, sir, sar = scores.reshape(3, *estimates.shape[:-1])
    return {"sdr": sdr, "sir": sir, "sar": sar, "silent": silent.reshape(sdr.shape)}


def _validate(references: Float[ndarray, "N L"], estimates: Float[ndarray, "*batch _N _L"]) -> None:
    if estimates.shape[-2:] != references.shape or estimates.size == 0:
        raise AvsetError(f"estimates {estimates.shape} and references {references.shape} differ: both are (N, L)")
    for name, sounds in (("references", references), ("estimates", estimates)):
        if not np.isfinite(sounds).all():
            raise AvsetError(f"the {name} hold samples that are not finite: look for NaN in the masks")
    for n in np.flatnonzero(np.abs(references).max(-1) <= SILENCE):
        raise AvsetError(f"reference {n} is silent, so it has no score: draw the mixture from audible crops")


def _mir_eval(references: Float[ndarray, "N L"], batch: Float[ndarray, "K N L"]) -> Float[ndarray, "3 K N"]:
    import mir_eval.separation  # brings scipy

    scores = []
    for estimates in batch:
        with warnings.catch_warnings(), np.errstate(divide="ignore"):
            warnings.simplefilter("ignore", FutureWarning)  # deprecated in 0.8, to go in 0.9: pinned below it
            mir_eval.separation.validate(references, estimates)
            try:
                found = mir_eval.separation.bss_eval_sources(references, estimates, compute_permutation=False)
            except (np.linalg.LinAlgError, AttributeError) as error:  # its fallback looks for numpy 1's name
                raise AvsetError("the references are linearly dependent: mix distinct clips") from error
        scores.append(np.stack(found[:3]))
    return np.stack(scores, 1)


def _shared(references: Float[ndarray, "N L"], batch: Float[ndarray, "K N L"]) -> Float[ndarray, "3 K N"]:
    """BSS Eval by energies: its parts are orthogonal (Vincent et al. 2006, Sec. III), and the projection on
    the delayed references has the energy d' G^-1 d, G their correlations and d those with the estimate.

    A part is a difference of energies, so it is only as exact as they are: with x = G^-1 d they are off by the
    rounding of G and d, at most |G| |x|^2 + 2 |e| |r| |x| in units of 1e-16. Estimates of which a part could be off
    by more than `EXACT` dB go to mir_eval.
    """
    from scipy import fft, linalg  # takes a third of a second

    n, length = references.shape
    size = fft.next_fast_len(length + TAPS - 1, real=True)
    spectra = fft.rfft(references, size)
    lags = np.arange(TAPS) - np.arange(TAPS)[:, None]
    gram = fft.irfft(spectra[:, None] * spectra.conj(), size)[:, :, lags].transpose(0, 2, 1, 3)
    towards = np.stack([fft.irfft(fft.rfft(e, size)[:, None] * spectra.conj(), size)[..., :TAPS] for e in batch], 1)
    energy, loud = np.ascontiguousarray((batch**2).sum(-1).T), np.sqrt((references**2).sum())

    def explained(matrix: ndarray, right: Float[ndarray, "m P"], of: Float[ndarray, " m"]) -> ndarray:
        """Energies (m,) of the projections of sounds whose own are `of`, and how far they may be off."""
        x = linalg.cho_solve(linalg.cho_factor(matrix, lower=True, check_finite=False), right.T, check_finite=False)
        long = np.sqrt((x**2).sum(0))
        off = UNIT * long * (np.abs(matrix).sum(0).max() * long + 2 * np.sqrt(of) * loud)
        return np.stack([(x * right.T).sum(0), off])

    try:
        every, off = explained(gram.reshape(n * TAPS, -1), towards.reshape(-1, n * TAPS), energy.ravel())
        alone = [explained(gram[j, :, j], towards[j, :, j], energy[j]) for j in range(n)]
    except linalg.LinAlgError:
        return _mir_eval(references, batch)
    every, off, (own, off_own) = every.reshape(n, -1), off.reshape(n, -1), np.stack(alone, 1)
    pairs = [(own, energy - own, off_own), (own, every - own, off + off_own), (every, energy - every, off)]
    scores = np.stack([_decibel(signal, rest).T for signal, rest, _ in pairs])
    unsure = np.stack([_unsure(*pair) for pair in pairs]).any((0, 1))
    if unsure.any():
        scores[:, unsure] = _mir_eval(references, batch[unsure])
    return scores


def _unsure(signal: ndarray, rest: ndarray, off: ndarray) -> ndarray:
    """Whether the ratio of two energies that are off by so much may be wrong by `EXACT` dB, below `CEILING`."""
    relative = EXACT / 10 * math.log(10)
    beyond = (rest + off) * 10 ** (CEILING / 10) < signal - off
    return ~beyond & (off > relative / 2 * np.minimum(np.abs(signal), np.abs(rest)))


def _decibel(signal: Float[ndarray, "*n"], rest: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
    tiny = np.finfo(np.float64).tiny
    return 10 * (np.log10(np.maximum(signal, tiny)) - np.log10(np.maximum(rest, tiny)))


def best_assignment(sdr: Float[ndarray, "N N"]) -> Int[ndarray, " N"]:
    """The output of each source that makes the mean SDR highest; `sdr[i, n]` is that of output i as source n."""
    from scipy import optimize  # takes a third of a second

    return np.asarray(optimize.linear_sum_assignment(sdr.T, maximize=True)[1])


def nsdr(estimate_sdr: Float[ndarray, "*n"], mixture_sdr: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
    """Normalised SDR in dB: what the estimate gains over the untouched mixture (paper, Sec. 4)."""
    return estimate_sdr - mixture_sdr


def summary(values: Sequence[float] | ndarray, videos: Sequence[Collection[str]]) -> dict[str, float]:
    """`mean`, `median`, `sem` (see `standard_error`), `n`, and the number of distinct `videos`.

    `videos` are those that each score depends on: all of its mixture.

    Raises:
        AvsetError: there is no value, or one is not finite.
    """
    data = np.asarray(values, np.float64).ravel()
    if data.size == 0 or not np.isfinite(data).all():
        raise AvsetError(f"cannot summarise {data.size} scores of which {np.isfinite(data).sum()} are finite")
    return {"mean": float(data.mean()), "median": float(np.median(data)), "sem": standard_error(data, videos),
            "n": data.size, "videos": len({video for several in videos for video in several})}  # fmt: skip


def standard_error(values: Float[ndarray, " n"], videos: Sequence[Collection[str]]) -> float:
    """Standard error of the mean of scores, see `Clusters`; NaN if it cannot be known."""
    clusters = Clusters(videos)
    return float(clusters.standard_error(values)) if clusters.known else math.nan


class Clusters:
    """Which scores share videos, for standard errors: more scores of the same videos make them no smaller.

    `videos` are those that each score depends on, N each.

    With J(groups) = (G - 1) / G sum_g (mean without group g - mean)^2, the delete-one jackknife, it is the root of
    max(J(videos) - (N - 1) J(mixtures), J(mixtures)). Without a video all its mixtures are left out, so J(videos)
    has what is a mixture's own N times. Scores of the same N videos are one mixture here. If mixtures share no video,
    this is the usual error of the means of mixtures; if N is 1, that of the means of videos.
    """

    def __init__(self, videos: Sequence[Collection[str]]):
        sets = [frozenset(several) for several in videos]
        self.shared = len(sets[0]) - 1
        self.mixtures, self.videos = Groups([[one] for one in sets]), Groups(sets)

    @property
    def known(self) -> bool:
        """Whether there is a standard error: more than one mixture, and no video in all of them."""
        return self.mixtures.known and self.videos.known

    def standard_error(self, values: Float[ndarray, "*batch n"]) -> Float[ndarray, "*batch"]:
        """Of the mean of the scores."""
        of_mixtures, of_videos = self.mixtures.variance(values), self.videos.variance(values)
        return np.asarray(np.sqrt(np.maximum(of_videos - self.shared * of_mixtures, of_mixtures)))


class Groups:
    """Groups of scores, each score in one or more of them, for the jackknife that leaves out one group at a time."""

    def __init__(self, groups: Sequence[Collection[Hashable]]):
        number: dict[Hashable, int] = {}
        places = sorted((number.setdefault(group, len(number)), i) for i, own in enumerate(groups) for group in own)
        at, self.of = np.array(places).T
        self.begin = np.flatnonzero(np.diff(at, prepend=-1))
        self.left = len(groups) - np.bincount(at)

    @property
    def known(self) -> bool:
        """Whether there are two groups or more, and none has all scores."""
        return len(self.left) > 1 and bool(self.left.all())

    def variance(self, values: Float[ndarray, "*batch n"]) -> Float[ndarray, "*batch"]:
        """Of the mean of the scores."""
        inside = np.add.reduceat(values[..., self.of], self.begin, axis=-1)
        means = (values.sum(-1, keepdims=True) - inside) / self.left
        apart = means - values.mean(-1, keepdims=True)
        return np.asarray((len(self.left) - 1) / len(self.left) * (apart**2).sum(-1))


def pointing(scores: Float[ndarray, " R"], grid: tuple[int, int], boxes: Float[ndarray, "n 4"]) -> bool:
    """Pointing game: whether the centre of the best cell lies in any box (the first of equal cells counts).

    That centre is where the bilinearly upsampled map has its maximum, so no upsampling is needed.
    """
    return bool(_centres_inside(grid, _boxes(boxes))[int(_scores(scores, grid).argmax())])


def pointing_chance(grid: tuple[int, int], boxes: Float[ndarray, "n 4"]) -> float:
    """The expected `pointing` of a uniformly random cell: the share of cells with their centre in any box."""
    return float(_centres_inside(grid, _boxes(boxes)).mean())


def ciou(
    scores: Float[ndarray, " R"],
    grid: tuple[int, int],
    boxes: Float[ndarray, "n 4"],
    size: int = 96,
    threshold: float = 0.5,
) -> float:
    """IoU of a score map with the union of the boxes, on `size` x `size` pixels; in [0, 1].

    The map is upsampled bilinearly, scaled to 0..1 and cut at `threshold`; a constant map marks nothing. This
    is the consensus IoU of Senocak et al. (CVPR 2018) for one annotator; "cIoU@0.5" is the share of clips
    that reach 0.5. Boxes that hold no pixel's centre score 0.
    """
    found = upsample(_scores(scores, grid), grid, (size, size))
    level = found.min() + threshold * (found.max() - found.min())
    marked = (found >= level) & (scores.max() > scores.min())
    truth = _centres_inside((size, size), _boxes(boxes)).reshape(size, size)
    union = (marked | truth).sum()
    return float((marked & truth).sum() / union) if union else 0.0


def auc(present: Float[ndarray, " n"], absent: Float[ndarray, " m"]) -> float:
    """How often a score of `present` is higher than one of `absent`: the area under the ROC curve; ties count half.

    Without scores on both sides it is no number.
    """
    if not len(present) or not len(absent):
        return float("nan")
    ranked = np.sort(absent)
    below = np.searchsorted(ranked, present, "left") + np.searchsorted(ranked, present, "right")
    return float(below.mean() / (2 * len(absent)))


def upsample(scores: Float[ndarray, " R"], grid: tuple[int, int], size: tuple[int, int]) -> Float[ndarray, "H W"]:
    """Bilinear upsampling to (H, W), torch's `interpolate(mode="bilinear", align_corners=False)`."""
    rows, columns = (_weights(n, pixels) for n, pixels in zip(grid, size, strict=True))
    return rows @ scores.astype(np.float64).reshape(grid) @ columns.T


def _weights(n: int, size: int) -> Float[ndarray, "{size} {n}"]:
    position = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    return np.maximum(0.0, 1 - np.abs(position[:, None] - np.arange(n)))


def _centres_inside(grid: tuple[int, int], boxes: Float[ndarray, "n 4"]) -> Bool[ndarray, " R"]:
    y, x = ((np.arange(n) + 0.5) / n for n in grid)
    x0, y0, x1, y1 = boxes.T[:, :, None, None]
    inside = (x0 <= x) & (x <= x1) & (y0 <= y[:, None]) & (y[:, None] <= y1)
    return inside.any(0).ravel()


def _boxes(boxes: Float[ndarray, "n 4"]) -> Float[ndarray, "n 4"]:
    if len(boxes) == 0 or not np.isfinite(boxes).all() or (boxes[:, :2] > boxes[:, 2:]).any():
        raise AvsetError(f"boxes {boxes.tolist()} are not rows of x0 <= x1, y0 <= y1: only clips with boxes are scored")
    return boxes


def _scores(scores: Float[ndarray, " R"], grid: tuple[int, int]) -> Float[ndarray, " R"]:
    if scores.size != grid[0] * grid[1] or not np.isfinite(scores).all():
        raise AvsetError(f"{scores.size} finite scores do not fill a grid of {grid[0]} x {grid[1]} cells")
    return scores

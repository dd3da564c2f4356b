"""Training data: what a mixture costs until its magnitudes are there; and CLIP, which a step no longer runs.

The plain way decodes a 44.1 kHz stereo file of 10 s for each source, resamples it, cuts a crop, transforms each source
and the mixture, and warps the magnitudes with a sampling grid; and runs CLIP's image tower on the sources' frames.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from bench.measure import Case, Growth

RATE, SECONDS, CLIPS = 44100, 10, 16
WINDOW, HOP, BINS, CROP = 1022, 256, 256, 256
TARGET = 11025  # Hz
FRAMES, REGIONS, DIM = 1, 49, 1024  # of the paper's runs with regions


def tone(clip: int) -> np.ndarray:
    """10 s of harmonics that come and go, at 44.1 kHz: (L, 2)."""
    rng = np.random.default_rng(clip)
    t = np.arange(RATE * SECONDS) / RATE
    waves = [rng.uniform(0.1, 1) / k * np.sin(2 * np.pi * k * 110 * 2 ** rng.uniform(0, 2) * t) for k in range(1, 12)]
    fade = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.2, 1) * t)
    mono = 0.2 * fade * np.sum(waves, 0) + 1e-3 * rng.standard_normal(len(t))
    return np.stack([mono, 0.8 * mono], 1).astype(np.float32)


def promised(item: Any) -> tuple[Any, str]:
    """An item with its digest, which the reader of a store compares."""
    return item, hashlib.sha256(item.dump()).hexdigest()


class Corpus:
    """Files as the plain way reads them, and the stores that the pipeline makes of the same files."""

    def __init__(self, folder: Path, seconds: int = SECONDS, count: int = CLIPS):
        import soundfile

        from avset.compute.limited import Limits
        from avset.params import Spectrograms
        from avset.storage.artifacts import ARTIFACTS, Record
        from avset.storage.checksums import sha256_of
        from avset.storage.items import Item
        from avset.storage.shards import assemble, spread
        from avset.storage.store import Store
        from avset.training.batches import TrainingMixtures
        from stages.spectrograms import Analyse

        sizes = Spectrograms(sample_rate=TARGET, window_length=WINDOW, hop_length=HOP, precision="float16")
        self.clips = [f"c{i:02d}_0" for i in range(count)]
        self.files = {clip: folder / f"{clip}.mp3" for clip in self.clips}
        for i, clip in enumerate(self.clips):
            sound = np.tile(tone(i), (seconds // SECONDS, 1))
            soundfile.write(self.files[clip], sound, RATE, format="MP3", subtype="MPEG_LAYER_III")
        rng, mapper = np.random.default_rng(0), Analyse(sizes, -60.0, Limits(900.0, 2.0))

        def features(clip: str) -> tuple[Item, str]:
            shape = (FRAMES, REGIONS, DIM)
            regions = rng.standard_normal(shape).astype(np.float16)
            return promised(Item({"regions": regions, "embedding": regions[0, 0].astype(np.float32)}))

        def spectrogram(clip: str) -> tuple[Item, str]:
            media = self.files[clip]
            return promised(mapper.transform(media, 0.0, float(seconds), [sha256_of(media)]))

        for stage, item_of in (("spectrograms", spectrogram), ("regions", features)):
            assemble(folder / stage, Record(stage), spread(self.clips), item_of, ARTIFACTS[stage].arrays)
        self.data = TrainingMixtures(
            self.clips,
            Store(folder / "spectrograms"),
            {"regions": Store(folder / "regions")},
            CROP,
            BINS,
            2,
            (0.5, 1.5),
            0,
            10**6,
        )

    def drawn(self, index: int) -> tuple[list[str], list[int], list[float]]:
        """The clips, crops (in hops) and gains of a training mixture, as the pipeline draws them."""
        chosen, rng = self.data.choose(index)
        names = [self.clips[i] for i in chosen]
        starts, gains = [], []
        for name in names:
            count = len(self.data.spectrograms.dataset(name, "stft"))
            starts.append(int(rng.integers(max(1, count - CROP + 1))))
            gains.append(float(rng.uniform(*self.data.gain)))
        return names, starts, gains


def plain_warp(magnitude: Tensor) -> Tensor:
    """(N, F, T) -> (N, 256, T) on the logarithmic axis of Sec. 4 of the paper's lineage, by a sampling grid."""
    axis = (21 ** torch.linspace(0, 1, BINS) - 11) / 10
    across = torch.linspace(-1, 1, magnitude.shape[-1])
    grid = torch.stack(torch.broadcast_tensors(across[None], axis[:, None]), -1)[None]
    return fn.grid_sample(magnitude[None], grid, align_corners=True)[0]


def plain(corpus: Corpus, index: int) -> tuple[Tensor, Tensor]:
    """Log-frequency magnitudes of the sources (N, 256, T) and of their mixture (256, T), from files."""
    import soundfile
    import torchaudio

    names, starts, gains = corpus.drawn(index)
    sources = []
    for name, start, gain in zip(names, starts, gains, strict=True):
        sound, rate = soundfile.read(corpus.files[name], dtype="float32")
        mono = torch.from_numpy(sound.mean(1))
        wave = torchaudio.functional.resample(mono, rate, TARGET, lowpass_filter_width=64)
        sources.append(gain / len(names) * wave[start * HOP :][: CROP * HOP - 1])
    window = torch.hann_window(WINDOW)
    both = torch.stack([*sources, torch.stack(sources).sum(0)])
    spectra = [torch.stft(w, WINDOW, HOP, window=window, pad_mode="constant", return_complex=True) for w in both]
    magnitudes = plain_warp(torch.stack([s.abs() for s in spectra]))
    return magnitudes[:-1], magnitudes[-1]


def several(corpus: Corpus, count: int) -> None:
    """So many mixtures the plain way, one after the other."""
    for index in range(count):
        plain(corpus, index)


def batches(corpus: Corpus, count: int, size: int = 20) -> None:
    """So many batches of ours, one after the other, as a training run takes them."""
    for first in range(0, count * size, size):
        ours(corpus, range(first, first + size))


def ours(corpus: Corpus, indices: range) -> tuple[Tensor, Tensor]:
    """The same for a batch, from the stores; the regions are read too."""
    from torch.utils.data import default_collate

    batch = default_collate([corpus.data[i] for i in indices])
    return batch["sources"], batch["mixture"]


def apart(corpus: Corpus) -> float:
    """Largest relative RMS difference of a mixture's magnitudes, without the frames that see a crop's border."""
    worst = 0.0
    for index in range(2):
        there, here = plain(corpus, index)[1], ours(corpus, range(index, index + 1))[1][0]
        inner = slice(2, CROP - 2)
        difference = (there - here)[:, inner].square().mean() / there[:, inner].square().mean()
        worst = max(worst, float(difference.sqrt()))
    return worst


def cases(device: str) -> Iterator[Case]:
    """Two sources; the files in the page cache."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        corpus = Corpus(folder)
        yield Case(
            "training data", "2 sources, 5.9 s of 10 s clips", "mixtures", partial(several, corpus, 10),
            partial(batches, corpus, 10), 10, 200, partial(apart, corpus), 1e-2, goal=30,
        )  # fmt: skip
        yield from clip_in_the_step(corpus, device)
    finally:
        shutil.rmtree(folder)


def clip_in_the_step(corpus: Corpus, device: str) -> Iterator[Case]:
    """CLIP RN50's image tower on the frames of both sources, against reading what it once made of them."""
    from bench.captions import rn50

    encoder = rn50(device)
    images = torch.rand(2 * FRAMES, 3, 224, 224, device=device)
    yield Case(
        "CLIP in the training step", f"2 sources x {FRAMES} frame of 224 px, RN50", "mixtures",
        partial(encoder.forward_image, images),
        lambda: [corpus.data.regions.read(clip, "regions") for clip in corpus.clips[:2]],
    )  # fmt: skip


def growth(device: str) -> Iterator[Growth]:
    """By the batch, and by the length of the clips that crops are taken from."""
    folders = [Path(tempfile.mkdtemp(prefix="bench-")) for _ in range(3)]
    try:
        corpora = {seconds: Corpus(at, seconds) for seconds, at in zip((10, 60, 180), folders, strict=True)}
        sizes = {f"{n} mixtures": (partial(batches, corpora[10], 3, n), 3.0 * n) for n in (5, 20, 80)}
        yield Growth("training data", "mixtures in a batch", "mixture", sizes)
        lengths = {f"{s} s": (partial(batches, corpus, 3), 60.0) for s, corpus in corpora.items()}
        yield Growth("training data", "length of the clips", "mixture", lengths, "a crop is read, not the clip")
    finally:
        for folder in folders:
            shutil.rmtree(folder)

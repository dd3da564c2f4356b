"""spectrograms: complex STFT and waveform of each clip.

Makes data/<dataset>/<scale>/spectrograms/: per clip `stft` (T, 2, F), real and imaginary planes, time-major, and
`waveform` (L,) int16 at spectrograms.sample_rate.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avset.compute.build import build, media_payloads
from avset.compute.limited import Limits
from avset.compute.run import Job
from avset.features import samples
from avset.features import spectrograms as sp
from avset.media import waveforms
from avset.params import Spectrograms
from avset.storage.checksums import unchanged
from avset.storage.items import Item
from stages import PARAMS, Adopt, NewVersion, ParamsFile, Verify, begin, command, limits_of


class Analyse:
    """Mapper: the waveform of one clip and its STFT."""

    def __init__(self, sizes: Spectrograms, silence: float, limits: Limits):
        self.sizes, self.silence, self.limits = sizes, silence, limits

    def __call__(self, jobs: list[Job]) -> list[Item]:
        return [self.transform(**job.payload) for job in jobs]

    def transform(self, media: Path, start: float, duration: float, digest: list[Any]) -> Item:
        """The STFT is that of the stored samples; AvsetError if the medium is not the one of the index."""
        sizes = self.sizes
        medium = unchanged(media, digest[0])
        wave = waveforms.decode_audio(medium, start, duration, sizes.sample_rate, self.silence, self.limits)
        stored = samples.to_int16(wave)
        spectrum = sp.stft(torch.from_numpy(samples.from_int16(stored)), sizes.window_length, sizes.hop_length)
        return Item({"stft": sp.pack(spectrum).numpy().astype(np.dtype(sizes.precision)), "waveform": stored})


def main(path: ParamsFile = PARAMS, verify: Verify = 0, adopt: Adopt = 0, new_version: NewVersion = False) -> None:
    """Decode the sound of every clip and transform it."""
    p = begin("spectrograms", path, new_version=new_version)
    p = p.model_copy(update={"runtime": p.runtime.model_copy(update={"device": "cpu"})})  # no worker holds a GPU
    recipe = {**p.spectrograms.recipe(), "silence": p.clips.silence}
    factory = partial(Analyse, p.spectrograms, p.clips.silence, limits_of(p))
    build("spectrograms", p, media_payloads(p), factory, recipe, verify=verify, adopt=adopt)


if __name__ == "__main__":
    command(main)

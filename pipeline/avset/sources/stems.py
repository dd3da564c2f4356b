"""What each player of a clip plays, where a source knows it: the true references of a real recording of several."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Int16

from avset.features.samples import to_int16
from avset.media.waveforms import resample
from avset.params import Clips
from avset.sources import Entry
from avset.values import checked

Stems = Callable[[Mapping[str, Any]], Int16[np.ndarray, "N L"]]  # of a row of clips/index.parquet


def stems_of(clips: Clips, sample_rate: int) -> Stems | None:
    """What makes the stems of a clip, at a rate in Hz: one for each label, in their order, before any codec.

    None if the source does not know them: it has no `stems`.
    """
    source = import_module(f"avset.sources.{clips.source}")
    if not hasattr(source, "stems"):
        return None
    options = checked(source.Options, clips.options, "clips.options")

    def of(row: Mapping[str, Any]) -> Int16[np.ndarray, "N L"]:
        entry = Entry(row["media_id"], row["split"], tuple(row["labels"]), "")
        first = round(row["start_s"] * source.SAMPLE_RATE)
        played = source.stems(entry, options)[:, first : first + round(row["duration_s"] * source.SAMPLE_RATE)]
        return to_int16(resample(played.astype(np.float32), source.SAMPLE_RATE, sample_rate))

    return of

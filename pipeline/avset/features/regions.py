"""Frames -> language-aligned region embeddings of every frame, and the embedding of the centre frame (App. A.2)."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from avset.features.encoder import Encoder
from avset.features.padding import padded_size


class RegionMapper:
    """Maps the frames of some clips to `regions` (V, R, D) and `embedding` (D,) each.

    The encoder loads at the first call, so a mapper is small on its way to a worker. The frames of all clips share
    zero-padded batches of one constant size: on the CPU the bytes of a clip do not depend on the other clips.

    encoder     folder of the encoder artifact
    positional  add the positional embedding of the cells (Eq. 9 omits it)
    batch_size  frames at once, rounded up to a multiple of 16
    dtype       of the regions, "float16" or "float32"; the embedding is float32, as the target of the captions
    """

    def __init__(self, encoder: Path, positional: bool, batch_size: int, device: str, dtype: str = "float16"):
        self.folder, self.positional, self.batch_size = encoder, positional, padded_size(batch_size)
        self.device, self.dtype = device, np.dtype(dtype)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded at first use."""
        return Encoder.load(self.folder).to(self.device)

    def __call__(self, clips: list[UInt8[np.ndarray, "_ _ _ 3"]]) -> list[dict[str, np.ndarray]]:
        """Frames (V, H, W, 3) of each clip, of any V, H, W -> the regions of all, the embedding of frame V // 2."""
        images = torch.cat([self.encoder.preprocess(frames) for frames in clips])
        embeddings, regions = [], []
        for batch in images.split(self.batch_size):
            padding = batch.new_zeros(self.batch_size - len(batch), *batch.shape[1:])
            embedding, cells = self.encoder.forward_image(torch.cat([batch, padding]), self.positional)
            embeddings.append(embedding[: len(batch)].cpu())
            regions.append(cells[: len(batch)].cpu())
        counts = [len(frames) for frames in clips]
        return [
            {"regions": r.numpy().astype(self.dtype), "embedding": e[len(e) // 2].numpy().copy()}
            for r, e in zip(torch.cat(regions).split(counts), torch.cat(embeddings).split(counts), strict=True)
        ]

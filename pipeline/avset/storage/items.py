"""An item: what one stage computed for one clip, arrays and a few fields, or a reason why there are none."""

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from avset.errors import ClipError

SCHEMA = 2  # of items and stores: what another number wrote is not read
LIBRARIES = ("av", "numpy", "open_clip_torch", "pillow", "torch", "torchaudio")  # an item tells their versions


@cache
def versions() -> str:
    """The versions of the libraries that compute items: "av 18.1.0, numpy 2.4.6, ..."."""
    return ", ".join(f"{name} {version(name)}" for name in LIBRARIES)


@dataclass(frozen=True)
class Item:
    """What a stage computed for one clip; with a `reason` (a key of errors.REASONS) it failed.

    `made` tells the `versions` that made it, once it is in the cache; it is no part of its content.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    made: str = ""

    @classmethod
    def failed(cls, error: ClipError) -> "Item":
        """The item of a clip that raised `error`."""
        return cls(reason=error.reason, detail=error.detail)

    def dump(self) -> bytes:
        """The content of the item as bytes, the same for the same content."""
        header = json.dumps([self.fields, self.reason, self.detail], sort_keys=True)
        arrays = {k: np.ascontiguousarray(v) for k, v in sorted(self.arrays.items())}
        return save_tensors(arrays, metadata={"item": header})

    @classmethod
    def parse(cls, payload: bytes, made: str = "") -> "Item":
        """The inverse of `dump`."""
        size = int.from_bytes(payload[:8], "little")
        fields, reason, detail = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["item"])
        return cls(load_tensors(payload), fields, reason, detail, made)

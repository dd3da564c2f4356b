"""A model together with its encoder, wherever it is: what `avset.load` and `--model` take."""

import shutil
from pathlib import Path

from avset.params import digest
from avset.storage.artifacts import PRESENCE
from avset.storage.cache import cache_folder
from avset.storage.checksums import sha256_of
from avset.storage.hub import PACKED, fetch, new_model


def locate(address: str | Path) -> Path:
    """The folder of a model that has its encoder inside or beside it; address and errors as of `storage.hub.fetch`."""
    folder = fetch(address)
    return _unpacked() if folder == PACKED else folder


def _unpacked() -> Path:
    """The demo's model with its encoder, whose weights are in the package in half of their size."""
    from avset.features.weights import export  # torch: whoever has a folder need not wait for it

    packed = [PACKED / name for name in ("model.safetensors", PRESENCE, "encoder.safetensors", "encoder.json")]
    target = cache_folder("shared") / digest([sha256_of(path) for path in packed])
    if not target.exists():
        with new_model(target) as fresh:
            for path in packed[:2]:
                shutil.copyfile(path, fresh / path.name)
            export(str(packed[3]), str(packed[2]), fresh / "encoder")
    return target

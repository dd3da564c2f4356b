"""What the artifacts of a data set are."""

import hashlib
import json
from pathlib import Path
from typing import Any

from avset.storage.files import require


def encoder_digest(folder: Path) -> str:
    """The identity of an encoder artifact: sha256 of encoder.json, which holds that of the weights."""
    return hashlib.sha256(require(folder / "encoder.json").read_bytes()).hexdigest()


def encoder_facts(folder: Path) -> dict[str, Any]:
    """What encoder.json says: architecture, preprocessing, sha256 of the weights."""
    return dict(json.loads(require(folder / "encoder.json").read_text()))

"""The frozen picture tower of the systems that have one of their own: an artifact of two files, read here.

`avset.features.tower_weights` writes it.
"""

import json
from pathlib import Path

from safetensors.torch import load as load_tensors
from torch import Tensor

from avset.features.resnet import TOWER, ResNet
from avset.storage.checksums import checked

WEIGHTS, DESCRIPTION = "weights.safetensors", "tower.json"


def architecture_of(folder: Path) -> str:
    """The architecture of the artifact in `folder`; MissingArtifact if there is none."""
    return str(json.loads(checked(folder / DESCRIPTION).read_bytes())["architecture"])


def constants_of(folder: Path) -> dict[str, Tensor]:
    """The weights, named as `ResNet.start` takes them."""
    return {f"{TOWER}{name}": one for name, one in load_tensors(checked(folder / WEIGHTS).read_bytes()).items()}


def load(folder: Path) -> ResNet:
    """The frozen tower of the artifact, of stride 32, in evaluation mode."""
    tower = ResNet(architecture_of(folder))
    tower.start(constants_of(folder))
    return tower.requires_grad_(False).eval()

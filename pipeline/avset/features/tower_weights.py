"""ImageNet's weights, a file, or none -> the tower artifact: weights.safetensors and tower.json."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from avset.errors import AvsetError
from avset.features.resnet import TOWER, ResNet
from avset.features.tower import DESCRIPTION, WEIGHTS
from avset.features.weights import fetched, read_checkpoint
from avset.storage.checksums import finite

IMAGENET, NONE = "imagenet", "none"
ADDRESSES = {"resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth"}  # torchvision's IMAGENET1K_V1
SEED = 0  # of weights that nobody trained


def export(architecture: str, weights: str, folder: Path) -> None:
    """Write the artifact, the same bytes for the same input.

    architecture  a key of avset.features.resnet.WIDTHS
    weights       `imagenet` (torchvision's), `none` (drawn here, from a fixed seed), or the path of a state dict

    AvsetError: no ImageNet weights of this architecture, no network, a file that does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        tower = ResNet(architecture)
    if weights != NONE:
        state = read_checkpoint(_place(architecture, weights))[0]
        tower.start({f"{TOWER}{name}": one for name, one in state.items() if not name.startswith("fc.")})
    tensors = {name: one.contiguous() for name, one in tower.state_dict().items()}
    finite(folder / WEIGHTS, tensors)
    data = save_tensors(tensors)
    told = {"architecture": architecture, "sha256": hashlib.sha256(data).hexdigest(), "width": tower.width}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(data)
    (folder / DESCRIPTION).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


def _place(architecture: str, weights: str) -> Path:
    """The file of the weights, fetched if it is published."""
    if weights == IMAGENET:
        if architecture not in ADDRESSES:
            raise AvsetError(f"tower: there are no ImageNet weights of {architecture}; take resnet18, or weights: none")
        return fetched(ADDRESSES[architecture])
    if not Path(weights).is_file():
        raise AvsetError(f"tower: {weights!r} is not there; give a file, {IMAGENET}, or {NONE}")
    return Path(weights)

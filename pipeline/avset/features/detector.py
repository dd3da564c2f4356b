"""torchvision's detectors of things, from published weights or a file: the door to them."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from avset.errors import AvsetError
from avset.features.weights import fetched, read_checkpoint

CLASSES = "roi_heads.box_predictor.cls_score.bias"  # a number for each class, and the first for the background


class Detector(nn.Module):
    """A frame (H, W, 3) -> boxes (n, 4) as its fractions, classes (n,) without the background, confidences (n,)."""

    def __init__(self, model: Any, least: float):
        super().__init__()
        self.model, self.least = model, least
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(
        self, frame: UInt8[Tensor, "H W 3"]
    ) -> tuple[Float[Tensor, "n 4"], Int[Tensor, " n"], Float[Tensor, " n"]]:
        """What is seen with a confidence of at least `least`, the most confident first."""
        (told,) = self.model([frame.permute(2, 0, 1).float() / 255])
        kept = (told["scores"] >= self.least) & (told["boxes"][:, 2:] > told["boxes"][:, :2]).all(1)
        size = torch.tensor([frame.shape[1], frame.shape[0]] * 2, device=frame.device)
        return told["boxes"][kept] / size, told["labels"][kept] - 1, told["scores"][kept]


def weights_of(architecture: str, weights: str | None) -> tuple[Path, list[str]]:
    """The file of the weights, fetched if none is given, and the names of the classes.

    The names are COCO's for published weights. Of a file they stand beside it, a JSON list in <file>.json.
    AvsetError: an unknown architecture, no file, no names, no network.
    """
    from torchvision.models import detection, get_model_weights, list_models

    if architecture not in list_models(detection):
        known = ", ".join(list_models(detection))
        raise AvsetError(f"objects: torchvision has no detector {architecture!r}; it has {known}")
    if weights is None:
        published = get_model_weights(architecture)["DEFAULT"]
        return fetched(published.url), list(published.meta["categories"])[1:]
    file, names = Path(weights), Path(f"{weights}.json")
    if not file.is_file():
        raise AvsetError(f"objects: {weights!r} has no weights of a detector; give the path of a file, or none at all")
    try:
        told = json.loads(names.read_bytes())
        assert isinstance(told, list) and all(isinstance(name, str) for name in told)
    except (OSError, ValueError, AssertionError) as e:
        raise AvsetError(f"objects: {names} must be a list of the detector's classes, in JSON ({e})") from e
    return file, told


def load(architecture: str, weights: Path, least: float) -> Detector:
    """A frozen detector with the weights of a file; AvsetError if they do not fit."""
    from torchvision.models import get_model

    state, _ = read_checkpoint(weights)
    try:
        count = len(state[CLASSES])
        model = get_model(architecture, weights=None, weights_backbone=None, num_classes=count)
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as e:
        reason = str(e).splitlines()[-1].strip()[:200]
        raise AvsetError(f"objects: {weights} does not fit the detector {architecture} ({reason})") from e
    return Detector(model, least)

"""What an encoder's JSON file tells before its weights are there: how much text it reads, how many regions it has."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

MARKS = 2  # tokens of every text that are no words: its start and its end


class Architecture(NamedTuple):
    """Sizes of an encoder that other parameters must fit."""

    context: int  # longest text, tokens, the marks of its start and end among them
    regions: int  # R, of a picture


def known(name: str, artifact: Path, root: Path = Path()) -> Architecture | None:
    """The sizes of an architecture, an open_clip name or a .json file; None if no file here tells them.

    `artifact` is the folder of the encoder that was made last: it tells of an architecture that lies on a hub.
    `root` is the folder of relative paths.
    """
    described = _json(root / artifact / "encoder.json")
    if name.endswith(".json"):
        return _sizes(_json(root / name))
    if found := _sizes(_json(*(folder / f"{name}.json" for folder in _catalogue()))):
        return found
    if described.get("architecture") == name:
        return Architecture(described["context"], described["grid"][0] * described["grid"][1])
    return None


def _catalogue() -> list[Path]:
    """The folder of open_clip's own architectures. The package itself takes seconds to import, and is not."""
    package = find_spec("open_clip")
    return [Path(place) / "model_configs" for place in (package and package.submodule_search_locations) or ()]


def _json(*files: Path) -> dict[str, Any]:
    """The object in the first of some files that is there; {} if there is none."""
    for file in files:
        try:
            tree = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(tree, dict):
            return tree
    return {}


def _sizes(tree: dict[str, Any]) -> Architecture | None:
    """What a model config tells; None if it is not that of a plain CLIP, which the encoder stage refuses."""
    config = tree.get("model_cfg", tree)
    vision, text = (config.get(tower) if isinstance(config, dict) else None for tower in ("vision_cfg", "text_cfg"))
    if not isinstance(vision, dict) or not isinstance(text, dict):
        return None
    cell = 32 if isinstance(vision.get("layers"), list) else vision.get("patch_size")
    size, context = vision.get("image_size"), text.get("context_length", 77)
    if not (isinstance(cell, int) and isinstance(size, int) and isinstance(context, int) and 0 < cell <= size):
        return None
    return Architecture(context, (size // cell) ** 2)

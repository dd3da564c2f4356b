"""Published or local weights -> the encoder artifact: weights.safetensors and encoder.json.

The door to open_clip's catalogue and to checkpoint files; `avset.features.encoder` reads only what `export` writes.
"""

import difflib
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from avset.errors import AvsetError
from avset.features.encoder import DESCRIPTION, WEIGHTS, check_plain, feature_map, headed, model_without_weights
from avset.features.torchscript import is_torchscript, read_tensors
from avset.storage.checksums import finite
from avset.storage.tensors import plain

PREPROCESS = {  # of OpenAI: the default where neither the tag nor the config says how
    "interpolation": "bicubic",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "resize_mode": "shortest",
    "std": (0.26862954, 0.26130258, 0.27577711),
}
HUB = "hf-hub:"  # before the name of a repository on the Hugging Face hub
OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}  # entries of OpenAI's files, and of no others


def export(architecture: str, weights: str, folder: Path) -> None:
    """Write the encoder artifact: weights.safetensors and encoder.json, the same bytes for the same input.

    architecture  an open_clip name, or the path of an open_clip model config: a .json file that is the config, or
                  has it as `model_cfg` beside an optional `preprocess_cfg`
    weights       an open_clip tag ("openai"), or the path of a checkpoint: safetensors, a pickled state dict
                  (read as data only), or OpenAI's TorchScript archive (the same)

    The activation is never guessed. A tag says which activation was trained, and OpenAI's files always need
    QuickGELU: a config that disagrees is refused (open_clip warns at most). No other file says its activation, so
    the config must say it, by `"quick_gelu": true` or `false`.

    AvsetError: an unknown name or tag, no network, the wrong activation, a checkpoint that does not fit, or a model
    other than a plain CLIP, which has a causal text tower, and for pictures a ModifiedResNet, a ViT, or a tower of timm
    with a feature map.
    """
    config, preprocess = _config(architecture)
    state, published = _checkpoint(architecture, weights, config)
    preprocess = {key: (preprocess | published).get(key) or default for key, default in PREPROCESS.items()}
    model = model_without_weights(config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as e:
        reason = str(e).splitlines()[-1].strip()[:200]
        raise AvsetError(f"the weights {weights} do not fit the architecture {architecture}: {reason}") from e
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    finite(folder / WEIGHTS, tensors)
    data = save_tensors({k: v.contiguous() for k, v in tensors.items()})
    size = config["vision_cfg"]["image_size"]
    description = {
        "activation": "quick_gelu" if config.get("quick_gelu") else "gelu",
        "architecture": Path(architecture).stem if architecture.endswith(".json") else architecture,
        "context": model.context_length,
        "embedding": config["embed_dim"],
        "grid": _grid(model.visual.eval(), size),
        "model": config,
        "preprocess": {**preprocess, "size": size},
        "sha256": hashlib.sha256(data).hexdigest(),
        "token_width": model.token_embedding.embedding_dim,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(data)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def _grid(visual: Any, size: int) -> list[int]:
    """Rows and columns of the regions of a picture of `size` px."""
    if hasattr(visual, "trunk"):
        features = feature_map(visual, torch.zeros(1, 3, size, size))
        with suppress(RuntimeError, TypeError):  # a linear layer on a map
            if headed(visual, features)[0].ndim == 2:
                return list(features.shape[2:])
        raise AvsetError(f"the head of this {type(visual.trunk).__name__} does not pool; set timm_pool: avg")
    return [size // 32, size // 32] if hasattr(visual, "attnpool") else list(visual.grid_size)


def whereabouts(architecture: str, weights: str) -> list[tuple[str, list[str]]]:
    """What `export` has to fetch for a published model; nothing is fetched here.

    Of each file its place in a cache, "" if it is in none, and the addresses that may have it. AvsetError if the
    weights are neither a file nor a tag.
    """
    import open_clip
    from open_clip import pretrained

    files = []
    if architecture.startswith(HUB):
        files.append(_in_hub(architecture.removeprefix(HUB), ["open_clip_config.json"]))
    elif not architecture.endswith(".json"):
        _config(architecture)
    published = {} if architecture.endswith(".json") else open_clip.get_pretrained_cfg(architecture, weights)
    if published.get("hf_hub") and pretrained.has_hf_hub():
        repository, _, name = published["hf_hub"].rpartition("/")
        names = [name] if name else [pretrained.HF_SAFE_WEIGHTS_NAME, pretrained.HF_WEIGHTS_NAME]
        files.append(_in_hub(repository, names))
    elif published:
        kept = Path("~/.cache/clip").expanduser() / Path(published["url"]).name
        files.append((str(kept) if kept.is_file() else "", [published["url"]]))
    elif not Path(weights).is_file():
        known = open_clip.list_pretrained_tags_by_model(architecture)
        tags = ", ".join(known) or "none"
        raise AvsetError(f"{weights!r} is neither a file nor a tag of {architecture} (its tags: {tags})")
    return files


def _in_hub(repository: str, names: list[str]) -> tuple[str, list[str]]:
    """Where the hub's cache has one of some files, "" if nowhere, and their addresses."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    kept = (try_to_load_from_cache(repository, name) for name in names)
    here = next((path for path in kept if isinstance(path, str)), "")
    return here, [hf_hub_url(repository, name) for name in names]


def _config(architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The open_clip model config, checked to be plain, and the preprocessing that the file gives, if any."""
    import open_clip

    tree: Any = None
    if architecture.endswith(".json"):
        try:
            tree = json.loads(Path(architecture).read_bytes())
        except (OSError, ValueError) as e:
            raise AvsetError(f"the model config {architecture} cannot be read: {e}") from e
    else:
        with fetching(architecture):
            tree = open_clip.get_model_config(architecture)
    if not isinstance(tree, dict):
        near = ", ".join(difflib.get_close_matches(architecture, open_clip.list_models(), cutoff=0.3))
        raise AvsetError(f"{architecture!r} is neither an architecture of open_clip ({near}) nor a config file")
    config, preprocess = tree.get("model_cfg", tree), tree.get("preprocess_cfg", {})
    check_plain(architecture, config)
    if preprocess.get("resize_mode", "shortest") not in ("shortest", "squash"):
        raise AvsetError(f"{architecture}: preprocess_cfg.resize_mode must be shortest or squash")
    return config, preprocess


def _checkpoint(architecture: str, weights: str, config: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict, with the activation checked, and what open_clip says of the tag."""
    import open_clip

    builtin, quick = not architecture.endswith(".json"), bool(config.get("quick_gelu", False))
    published = open_clip.get_pretrained_cfg(architecture, weights) if builtin else {}
    state: dict[str, Tensor] = {}
    if published:
        trained = bool(published.get("quick_gelu", False))
    elif Path(weights).is_file():
        state, openai = read_checkpoint(Path(weights))
        trained = quick or openai
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise AvsetError(f"{weights!r} is neither a file nor a tag of {architecture} (its tags: {tags})")
    if trained and not quick:
        cure = f"take {architecture}-quickgelu" if builtin else 'let it say "quick_gelu": true'
        raise AvsetError(f"the weights {weights} were trained with QuickGELU, {architecture} has GELU: {cure}")
    if quick and not trained:
        cure = f"take {architecture.removesuffix('-quickgelu')}"
        raise AvsetError(f"the weights {weights} were trained with GELU, {architecture} has QuickGELU: {cure}")
    if not published and "quick_gelu" not in config:
        raise AvsetError(
            f"neither {weights} nor {architecture} says which activation was trained: for OpenAI's weights "
            f'take {architecture}-quickgelu, else a model config (.json) with "quick_gelu": false'
        )
    if published:
        with fetching(f"{architecture} / {weights}"):
            place = Path(open_clip.download_pretrained(published))
        state, _ = read_checkpoint(place)
    return state, published


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """One sentence if the block cannot fetch: whatever a client of the hub raises, and without its retries as lines."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as e:
        why = " ".join(str(e).split())[:300].rstrip(".")
        raise AvsetError(f"{what} could not be fetched ({why}); check the network, or give the path of a file") from e
    finally:
        hub.setLevel(level)


def in_cache(address: str) -> Path:
    """Where torch's cache has a published file of weights, once it was fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]


def fetched(address: str) -> Path:
    """A published file of weights, from torch's cache, or fetched into it; its name has the start of its sha256.

    AvsetError if it cannot be fetched, or is another.
    """
    place = in_cache(address)
    if not place.is_file():
        promised = torch.hub.HASH_REGEX.search(place.name)
        with fetching(address):
            place.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(place), promised[1] if promised else None, progress=False)
    return place


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], bool]:
    """The state dict of a checkpoint, and whether the file is known to be OpenAI's.

    OpenAI alone publishes TorchScript archives, and a state dict saved from such an archive still has its marks. A
    converted file, as on the Hugging Face hub, looks like any other.
    """
    state: Any
    try:
        if script := is_torchscript(file):
            state = read_tensors(file)
        elif file.suffix == ".safetensors":
            state = load_tensors(file.read_bytes())
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        state = {plain(name): tensor for name, tensor in state.get("state_dict", state).items()}
    except Exception as e:  # a broken or foreign file may make its reader raise anything
        raise AvsetError(f"{file} cannot be read as a checkpoint ({type(e).__name__}: {str(e)[:200]})") from e
    openai = script or bool(OPENAI_MARKS & set(state))
    dropped = OPENAI_MARKS | {"attn_mask"}  # a TorchScript archive has the mask, and the model makes its own
    return {k: v for k, v in state.items() if k not in dropped}, openai

"""The frozen vision-language encoder (CLIP): exported once to plain files, loaded from them ever after.

`export` turns an open_clip model, published or local, into weights.safetensors and encoder.json; `Encoder`
reads nothing but these two. What it adds to CLIP is the region embeddings of App. A.2, and the encoding of
learnable tokens of App. A.1 at the cost of the K + 2 positions that matter.

open_clip takes seconds to import, so the functions that need it do so.
"""

import difflib
import hashlib
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import AvsetError, MissingArtifact

WEIGHTS, DESCRIPTION = "weights.safetensors", "encoder.json"
REQUIRED = {"embed_dim", "vision_cfg", "text_cfg", "vision_cfg.image_size"}
OPTIONAL = {  # all else that a model config may say; any other key changes the computation
    "quick_gelu", "vision_cfg.layers", "vision_cfg.width", "vision_cfg.patch_size", "vision_cfg.head_width",
    "vision_cfg.mlp_ratio", "text_cfg.context_length", "text_cfg.vocab_size", "text_cfg.width",
    "text_cfg.heads", "text_cfg.layers", "text_cfg.mlp_ratio",
}  # fmt: skip
PREPROCESS = {  # OpenAI's, where neither the tag nor the config says otherwise
    "interpolation": "bicubic",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "resize_mode": "shortest",
    "std": (0.26862954, 0.26130258, 0.27577711),
}
LANES = 16  # matrix kernels, and threads, treat the rows of a ragged edge otherwise: see `whole`
OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}  # entries that only OpenAI's files have


def export(architecture: str, weights: str, folder: Path) -> None:
    """Write the encoder artifact: weights.safetensors and encoder.json, the same bytes for the same input.

    architecture  an open_clip name, or the path of an open_clip model config (.json; bare, or as the
                  `model_cfg` of a file that may also have a `preprocess_cfg`)
    weights       an open_clip tag ("openai"), or the path of a checkpoint: safetensors, a pickled state dict
                  (read as data only), or OpenAI's TorchScript archive

    The activation is never guessed. A tag says which one it was trained with, and OpenAI's files are known
    to want QuickGELU; a config that disagrees is refused (open_clip builds it, with a warning at most). Any
    other file cannot say, so the config must, by `"quick_gelu": true` or `false`.

    AvsetError: unknown name or tag, no network, wrong activation, a checkpoint that does not fit, or a
    model that is more than a plain CLIP with a ModifiedResNet or ViT image tower and a causal text tower.
    """
    config, preprocess = _config(architecture)
    state, published = _checkpoint(architecture, weights, config)
    preprocess = {key: (preprocess | published).get(key) or default for key, default in PREPROCESS.items()}
    model = _build(config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as e:
        reason = str(e).splitlines()[-1].strip()[:200]
        raise AvsetError(f"the weights {weights} do not fit the architecture {architecture}: {reason}") from e
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    data = save_tensors({k: v.contiguous() for k, v in tensors.items()})
    size, visual = config["vision_cfg"]["image_size"], model.visual
    description = {
        "activation": "quick_gelu" if config.get("quick_gelu") else "gelu",
        "architecture": Path(architecture).stem if architecture.endswith(".json") else architecture,
        "context": model.context_length,
        "embedding": config["embed_dim"],
        "grid": [size // 32, size // 32] if hasattr(visual, "attnpool") else list(visual.grid_size),
        "model": config,
        "preprocess": {**preprocess, "size": size},
        "sha256": hashlib.sha256(data).hexdigest(),
        "token_width": model.token_embedding.embedding_dim,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(data)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def _config(architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The open_clip model config, known to be plain, and the preprocessing if it comes with one."""
    import open_clip

    tree: Any = None
    if architecture.endswith(".json"):
        try:
            tree = json.loads(Path(architecture).read_text())
        except (OSError, ValueError) as e:
            raise AvsetError(f"the model config {architecture} cannot be read: {e}") from e
    else:
        tree = open_clip.get_model_config(architecture)
    if not isinstance(tree, dict):
        near = ", ".join(difflib.get_close_matches(architecture, open_clip.list_models(), cutoff=0.3))
        raise AvsetError(f"{architecture!r} is neither an architecture of open_clip ({near}) nor a config file")
    config, preprocess = tree.get("model_cfg", tree), tree.get("preprocess_cfg", {})
    keys = {*config, *(f"{tower}.{k}" for tower in ("vision_cfg", "text_cfg") for k in config.get(tower, ()))}
    strange, missing = ", ".join(sorted(keys - REQUIRED - OPTIONAL)), ", ".join(sorted(REQUIRED - keys))
    if strange or missing:
        saw = f"it says {strange}" if strange else f"it lacks {missing}"
        raise AvsetError(f"{architecture} is not a plain CLIP, {saw}; take an RN* or ViT-* of OpenAI's form")
    if preprocess.get("resize_mode", "shortest") not in ("shortest", "squash"):
        raise AvsetError(f"{architecture}: preprocess_cfg.resize_mode must be shortest or squash")
    return config, preprocess


def _checkpoint(architecture: str, weights: str, config: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict, its activation checked, and what was published with a tag."""
    import open_clip

    builtin, quick = not architecture.endswith(".json"), bool(config.get("quick_gelu", False))
    published = open_clip.get_pretrained_cfg(architecture, weights) if builtin else {}
    state: dict[str, Tensor] = {}
    if published:
        trained = bool(published.get("quick_gelu", False))
    elif Path(weights).is_file():
        state, openai = _read(Path(weights))
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
        try:
            state, _ = _read(Path(open_clip.download_pretrained(published)))
        except (OSError, RuntimeError, ValueError) as e:
            cure = "check the network, or give the path of a checkpoint"
            raise AvsetError(f"{architecture} / {weights} could not be fetched ({e}); {cure}") from e
    return state, published


def _read(file: Path) -> tuple[dict[str, Tensor], bool]:
    """The state dict of a checkpoint, and whether it is known to be OpenAI's.

    Known are their TorchScript archives (they alone publish such), and state dicts saved from those as they
    were. A converted file, as on the Hugging Face hub, cannot be told from any other.
    """
    try:
        names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
        script = any("/code/" in name for name in names)
        if script:
            with warnings.catch_warnings():  # torch.jit is on its way out, but this is how they come
                warnings.simplefilter("ignore", DeprecationWarning)
                state = torch.jit.load(file, map_location="cpu").state_dict()
        elif file.suffix == ".safetensors":
            state = load_tensors(file.read_bytes())
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        state = dict(state.get("state_dict", state))
    except Exception as e:  # whatever a broken or foreign file makes its reader raise
        raise AvsetError(f"{file} cannot be read as a checkpoint ({type(e).__name__}: {str(e)[:200]})") from e
    openai = script or bool(OPENAI_MARKS & set(state))
    dropped = OPENAI_MARKS | {"attn_mask"}  # `_build` makes the mask, but a TorchScript archive has it too
    return {k.removeprefix("module."): v for k, v in state.items() if k not in dropped}, openai


def _build(config: dict[str, Any]) -> Any:
    """open_clip's model without values: no time lost on random weights, no random number drawn."""
    import open_clip

    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    length = model.context_length
    model.attn_mask = torch.full((length, length), float("-inf")).triu(1)  # in no checkpoint
    return model


def whole(batch_size: int) -> int:
    """The batch size rounded up to a multiple of 16.

    Rows of such batches come out the same to the byte wherever they stand, on one thread or several (CPU).
    """
    return -(-batch_size // LANES) * LANES


class Encoder(nn.Module):
    """The frozen encoder of an artifact, always in evaluation mode.

    Attributes
        digest   sha256 of encoder.json, which holds that of the weights: it names weights, activation and
                 preprocessing together
        dim      D, width of the joint embedding space        width    E, width of a caption token
        grid     (rows, columns) of the regions, R in all     size     side of a picture, px
        context  longest text, tokens, with [SOT] and [EOT]

    Embeddings come un-normalised, as the decoder of AV-SeT takes them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, description: dict[str, Any], digest: str):
        import open_clip

        super().__init__()
        self.model: Any = model
        self.digest, self.dim, self.width = digest, description["embedding"], description["token_width"]
        self.grid, self.context = tuple(description["grid"]), description["context"]
        self.preprocessing = description["preprocess"]
        self.size = self.preprocessing["size"]
        for name in ("mean", "std"):
            values = torch.tensor(self.preprocessing[name])[:, None, None]
            self.register_buffer(name, values, persistent=False)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=self.context)
        self.sot, self.eot = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        self._past: list[tuple[Tensor, Tensor]] = []  # keys and values of [SOT] in every layer
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, folder: Path) -> "Encoder":
        """Read an artifact. MissingArtifact if it is not there, AvsetError if its files do not match."""
        try:
            text, data = (folder / DESCRIPTION).read_bytes(), (folder / WEIGHTS).read_bytes()
        except FileNotFoundError as e:
            raise MissingArtifact(f"{e.filename} is not there; make it with `dvc repro encoder`") from e
        description = json.loads(text)
        if hashlib.sha256(data).hexdigest() != description["sha256"]:
            raise AvsetError(f"{folder / WEIGHTS} is not the file that {DESCRIPTION} describes; make both anew")
        model = _build(description["model"])
        try:
            model.load_state_dict(load_tensors(data), assign=True)
        except (RuntimeError, SafetensorError) as e:
            raise AvsetError(f"{folder / WEIGHTS} does not fit its own {DESCRIPTION}; make both anew") from e
        return cls(model, description, hashlib.sha256(text).hexdigest())

    def train(self, mode: bool = True) -> "Encoder":
        """Stays in evaluation mode, also as part of a model that trains."""
        return super().train(False)

    def _apply(self, *args: Any, **kwargs: Any) -> "Encoder":
        self._past = []  # was of another device or precision
        return super()._apply(*args, **kwargs)

    def preprocess(
        self, frames: UInt8[np.ndarray, "V H W 3"] | UInt8[Tensor, "V H W 3"]
    ) -> Float[Tensor, "V 3 size size"]:
        """Resize the shorter side, cut the centre square, normalise; as CLIP does, to one grey level."""
        frames = frames if isinstance(frames, Tensor) else torch.from_numpy(np.array(frames))
        pixels = frames.to(self.mean.device).permute(0, 3, 1, 2).to(self.mean.dtype)
        height, width = pixels.shape[2:]
        shorter = min(height, width)
        shape = (self.size * height // shorter, self.size * width // shorter)
        if self.preprocessing["resize_mode"] == "squash":
            shape = (self.size, self.size)
        for step in ((height, shape[1]), shape):  # rows, then columns; grey levels in between as in a picture
            if step != tuple(pixels.shape[2:]):
                mode = self.preprocessing["interpolation"]
                pixels = F.interpolate(pixels, step, mode=mode, antialias=True, align_corners=False)
                pixels = pixels.clamp(0, 255).round()
        top, left = round((shape[0] - self.size) / 2), round((shape[1] - self.size) / 2)
        pixels = pixels[:, :, top : top + self.size, left : left + self.size]
        return (pixels / 255 - self.mean) / self.std

    @torch.no_grad()
    def forward_image(
        self, images: Float[Tensor, "V 3 size size"], positional: bool = True
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "V R D"]]:
        """Global and region embeddings (App. A.2), from one run of the trunk.

        ModifiedResNet: the regions are the cells of the last feature map through the value and output
        projections of the attention pool, Eq. 9 with its biases; `positional` adds the positional embedding
        of the cells first, as the pool itself does and Eq. 9 does not.
        ViT: the patches leave the last block as if each had attended to itself alone, the value path of
        MaskCLIP; then the final norm and projection. Positions enter at the input, so `positional` has
        no effect.
        """
        visual = self.model.visual
        if hasattr(visual, "attnpool"):
            out = visual.forward_intermediates(images, indices=[-1], intermediates_only=True)
            return _attention_pool(visual.attnpool, out["image_intermediates"][0], positional)
        out = visual.forward_intermediates(images, indices=[-2], output_fmt="NLC", output_extra_tokens=True)
        x = torch.cat([out["image_intermediates_prefix"][0], out["image_intermediates"][0]], dim=1)
        itself = torch.full((x.shape[1],) * 2, float("-inf"), device=x.device).fill_diagonal_(0)
        x = visual.transformer.resblocks[-1](x, attn_mask=itself)
        return out["image_features"], visual.ln_post(x[:, 1:]) @ visual.proj

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Float[Tensor, "n D"]:
        """g^L of written queries, computed no further than the longest of them.

        AvsetError for a text that is longer than the context.
        """
        rows = [[self.sot, *self.tokenizer.encode(text), self.eot] for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.context:
                raise AvsetError(f"{text!r} has {len(row)} tokens, the encoder takes {self.context}; shorten it")
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.mean.device)
        x = self.model.token_embedding(ids) + self.model.positional_embedding[:length]
        x = self.model.transformer(x, attn_mask=self.model.attn_mask[:length, :length])
        ends = (ids == self.eot).int().argmax(dim=1)
        return self.model.ln_final(x[torch.arange(len(x)), ends]) @ self.model.text_projection

    def encode_tokens(self, tokens: Float[Tensor, "B K E"]) -> Float[Tensor, "B D"]:
        """g^L(p) of App. A.1: the embedding of [SOT] p_1 .. p_K [EOT]; differentiable in the tokens.

        Equal to CLIP's text encoder on its whole context, in values and gradients, at a fraction of the
        cost: the tower is causal, so what follows [EOT] is not computed; nor is [SOT], whose keys and values
        never change; and the last layer computes the row of [EOT] alone.
        AvsetError if K + 2 is more than the context.
        """
        batch, count = tokens.shape[:2]
        if count + 2 > self.context:
            raise AvsetError(f"{count} caption tokens, [SOT] and [EOT] exceed the context of {self.context}")
        eot = self.model.token_embedding.weight[self.eot]
        x = torch.cat([tokens, eot.expand(batch, 1, -1)], dim=1)
        x = x + self.model.positional_embedding[1 : count + 2]
        causal = torch.ones(count + 1, count + 2, dtype=torch.bool, device=x.device).tril(1)
        blocks = self.model.transformer.resblocks
        for block, past in zip(blocks, self._prefix(), strict=True):
            x, _ = _attend(block, x, past, causal[-1:] if block is blocks[-1] else causal)
        return self.model.ln_final(x[:, 0]) @ self.model.text_projection

    def nearest_words(self, tokens: Float[Tensor, "B K E"]) -> list[list[str]]:
        """The vocabulary entry of the highest cosine to each token, for study.

        [SOT], [EOT] and entries that are all zero (never trained) do not count.
        """
        table = self.model.token_embedding.weight
        norms = table.norm(dim=1)
        excluded = norms == 0
        excluded[[self.sot, self.eot]] = True
        scores = tokens.detach().to(table) @ table.T / norms.clamp_min(1e-12)
        best = scores.masked_fill(excluded, float("-inf")).argmax(dim=-1).tolist()
        return [[self.tokenizer.decoder[word].removesuffix("</w>") for word in caption] for caption in best]

    @torch.no_grad()
    def _prefix(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of [SOT] in every layer; nothing before it, so they never change."""
        if not self._past:
            x = self.model.token_embedding.weight[self.sot] + self.model.positional_embedding[0]
            x = x[None, None]
            for block in self.model.transformer.resblocks:
                x, keys_values = _attend(block, x, None, None)
                self._past.append(keys_values)
        return self._past


def _attend(
    block: Any, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One pre-norm transformer block over x (B, L, E) and the keys and values `past` of what came before.

    mask (Q, P + L), true where seen: only the last Q rows leave the block. `past` is a pair of
    (1, heads, P, E / heads). Returns the rows (B, Q, E), and the keys and values of x.
    """
    attn, rows = block.attn, x if mask is None else x[:, -len(mask) :]
    weight, bias, width = attn.in_proj_weight, attn.in_proj_bias, attn.embed_dim

    def heads(projected: Tensor) -> Tensor:  # (B, L, E) -> (B, heads, L, E / heads)
        return projected.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)

    normed = block.ln_1(x)
    queries = heads(F.linear(normed[:, -rows.shape[1] :], weight[:width], bias[:width]))
    keys, values = map(heads, F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=2))
    own = (keys, values)
    if past is not None:
        keys, values = (
            torch.cat([old.expand(len(x), -1, -1, -1), new], dim=2) for old, new in zip(past, own, strict=True)
        )
    seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    rows = rows + attn.out_proj(seen.transpose(1, 2).flatten(2))
    return rows + block.mlp(block.ln_2(rows)), own


def _attention_pool(pool: Any, features: Tensor, positional: bool) -> tuple[Tensor, Tensor]:
    """CLIP's attention pool (Eq. 7, 8; the mean cell is the query), and its value path without the mixing.

    features (V, C, rows, columns) -> embedding (V, D), regions (V, R, D).
    """
    cells = features.flatten(2).transpose(1, 2)
    tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + pool.positional_embedding
    values = pool.v_proj(tokens)
    queries, keys = pool.q_proj(tokens[:, :1]), pool.k_proj(tokens)
    heads = (x.unflatten(2, (pool.num_heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    pooled = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    return pool.c_proj(pooled[:, 0]), pool.c_proj(values[:, 1:] if positional else pool.v_proj(cells))

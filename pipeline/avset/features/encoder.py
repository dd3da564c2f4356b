"""The frozen vision-language encoder (CLIP): exported once to plain files, always loaded from these files.

`avset.features.weights` turns an open_clip model, published or local, into weights.safetensors and encoder.json;
`Encoder` reads nothing but these two files. `Encoder` adds two things to CLIP: the region embeddings of App. A.2, and
the encoding of learnable tokens of App. A.1 at the cost of K + 2 positions.

open_clip takes seconds to import, so only the functions that need open_clip import it.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from avset.errors import AvsetError
from avset.storage.checksums import checked, finite

WEIGHTS, DESCRIPTION = "weights.safetensors", "encoder.json"
TOWERS = ("vision_cfg", "text_cfg")
REQUIRED = {"embed_dim", "vision_cfg", "text_cfg", "vision_cfg.image_size"}  # in a model config
OPTIONAL = {  # what else a model config may say: any other key would change the computation, or fetch a model
    "quick_gelu", "vision_cfg.layers", "vision_cfg.width", "vision_cfg.patch_size", "vision_cfg.head_width",
    "vision_cfg.mlp_ratio", "text_cfg.context_length", "text_cfg.vocab_size", "text_cfg.width",
    "text_cfg.heads", "text_cfg.layers", "text_cfg.mlp_ratio",
    "vision_cfg.timm_model_name", "vision_cfg.timm_model_pretrained", "vision_cfg.timm_pool", "vision_cfg.timm_proj",
    "vision_cfg.timm_proj_bias", "vision_cfg.timm_drop", "vision_cfg.timm_drop_path",
}  # fmt: skip
CHOICES: dict[str, tuple[Any, ...]] = {  # of those that are no numbers
    "quick_gelu": (True, False), "vision_cfg.timm_model_pretrained": (False,),
    "vision_cfg.timm_pool": ("", "avg", "abs_attn", "rot_attn"),
    "vision_cfg.timm_proj": ("", "linear", "mlp", None), "vision_cfg.timm_proj_bias": (True, False),
}  # fmt: skip
TAKE = "take an RN* or ViT-* of OpenAI's form, or a convolutional tower of timm"
LARGEST = {"layers": 200, "vocab_size": 1_000_000}  # far beyond any CLIP, as
LARGE = 20_000  # of all other numbers of a model config


def check_plain(source: str | Path, config: Any) -> None:
    """AvsetError if a model config, which stands in `source`, is none of a plain CLIP, before open_clip sees it."""
    if not isinstance(config, dict):
        raise AvsetError(f"{source} has no model config; {TAKE}")
    parts = [(f"{tower}.", config[tower]) for tower in TOWERS if isinstance(config.get(tower), dict)]
    values = {f"{above}{key}": value for above, told in [("", config), *parts] for key, value in told.items()}
    strange, missing = (
        ", ".join(sorted(values.keys() - REQUIRED - OPTIONAL)),
        ", ".join(sorted(REQUIRED - values.keys())),
    )
    odd = ", ".join(f"{k} = {v!r:.40}" for k, v in sorted(values.items()) if not _plain(k, v))
    if strange or missing or odd:
        saw = f"it lacks {missing}" if missing and not strange else f"it says {strange or odd}"
        raise AvsetError(f"{source} is not a plain CLIP, {saw}; {TAKE}")


def _plain(key: str, value: Any) -> bool:
    """Whether a value of a model config is of the right type and of a size that a CLIP may have."""
    if key in TOWERS:
        return isinstance(value, dict)
    if key in CHOICES:
        return any(value is one or (value == one and isinstance(one, str)) for one in CHOICES[key])
    if key == "vision_cfg.timm_model_name":
        return isinstance(value, str) and re.fullmatch(r"[a-z0-9_]+", value) is not None  # of timm itself, on no hub
    name = key.rpartition(".")[2]
    if name.startswith("timm_drop"):  # of training
        return value is None or (type(value) in (int, float) and 0 <= value < 1)
    numbers = value if key == "vision_cfg.layers" and isinstance(value, list) else [value]
    optional = value is None and key not in REQUIRED
    kinds = (int, float) if name == "mlp_ratio" else (int,)
    return optional or all(type(n) in kinds and 0 < n <= LARGEST.get(name, LARGE) for n in numbers)


def model_without_weights(config: dict[str, Any]) -> Any:
    """open_clip's model on the meta device: no random weights are drawn, and no time is spent on them.

    Towers of timm may have values that no checkpoint keeps, so they are made on the CPU; no random number is lost.
    AvsetError if timm has no such tower.
    """
    import open_clip

    check_plain(DESCRIPTION, config)
    name = config["vision_cfg"].get("timm_model_name")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if name else "meta"):
            model = open_clip.CLIP(**config)
    except (RuntimeError, AssertionError, TypeError) as e:
        if not name:
            raise
        raise AvsetError(f"timm cannot make the tower {name} ({' '.join(str(e).split())[:200]}); {TAKE}") from e
    length = model.context_length
    model.attn_mask = torch.full((length, length), float("-inf")).triu(1)  # in no checkpoint
    return model


class Encoder(nn.Module):
    """The frozen encoder of an artifact, always in evaluation mode.

    Attributes
        digest   sha256 of encoder.json, which holds the sha256 of the weights: one name for the weights, the
                 activation and the preprocessing
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
        text = checked(folder / DESCRIPTION).read_bytes()
        data = checked(folder / WEIGHTS).read_bytes()
        try:
            description = json.loads(text)
            if hashlib.sha256(data).hexdigest() != description["sha256"]:
                raise AvsetError(f"{folder / WEIGHTS} is not the file that {DESCRIPTION} describes; make both anew")
            tensors = load_tensors(data)
            finite(folder / WEIGHTS, tensors)
            model = model_without_weights(description["model"])
            model.load_state_dict(tensors, assign=True)
            return cls(model, description, hashlib.sha256(text).hexdigest())
        except (LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as e:
            raise AvsetError(f"{folder / WEIGHTS} does not fit its own {DESCRIPTION}; make both anew") from e

    def train(self, mode: bool = True) -> "Encoder":
        """Stays in evaluation mode, also as part of a model that trains."""
        return super().train(False)

    def _apply(self, *args: Any, **kwargs: Any) -> "Encoder":
        self._past = []  # had another device or precision
        return super()._apply(*args, **kwargs)

    def preprocess(
        self, frames: UInt8[np.ndarray, "V H W 3"] | UInt8[Tensor, "V H W 3"]
    ) -> Float[Tensor, "V 3 size size"]:
        """Resize the shorter side, cut the centre square, normalise; equal to CLIP's own code within one grey level."""
        frames = frames if isinstance(frames, Tensor) else torch.from_numpy(np.array(frames))
        pixels = frames.to(self.mean.device).permute(0, 3, 1, 2).to(self.mean.dtype)
        height, width = pixels.shape[2:]
        shorter = min(height, width)
        shape = (self.size * height // shorter, self.size * width // shorter)
        if self.preprocessing["resize_mode"] == "squash":
            shape = (self.size, self.size)
        for step in ((height, shape[1]), shape):  # rows, then columns; whole grey levels after each
            if step != tuple(pixels.shape[2:]):
                mode = self.preprocessing["interpolation"]
                pixels = F.interpolate(pixels, step, mode=mode, antialias=True, align_corners=False)
                pixels = pixels.clamp(0, 255).round()
        top, left = round((shape[0] - self.size) / 2), round((shape[1] - self.size) / 2)
        pixels = pixels[:, :, top : top + self.size, left : left + self.size]
        return (pixels / 255 - self.mean) / self.std

    @torch.no_grad()
    def forward_image(
        self, images: Float[Tensor, "V 3 size size"], positional: bool
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "V R D"]]:
        """Global and region embeddings (App. A.2), from one run of the trunk.

        ModifiedResNet: the regions are the cells of the last feature map after the value and output projections
        of the attention pool (Eq. 9, with biases). `positional` adds the positional embedding of the cells first:
        the pool itself does so, and Eq. 9 does not.
        timm: the regions are what the tower's head (pool, norm, projection) makes of each cell of the last feature
        map alone. With an average pool and a linear head their mean is the embedding. `positional` has no effect.
        ViT: in the last block each patch attends to itself alone (the value path of MaskCLIP); the final norm and
        projection follow. Positions enter at the input, so `positional` has no effect.
        """
        visual = self.model.visual
        if hasattr(visual, "attnpool"):
            out = visual.forward_intermediates(images, indices=[-1], intermediates_only=True)
            return _attention_pool(visual.attnpool, out["image_intermediates"][0], positional)
        if hasattr(visual, "trunk"):
            return headed(visual, feature_map(visual, images))
        out = visual.forward_intermediates(images, indices=[-2], output_fmt="NLC", output_extra_tokens=True)
        x = torch.cat([out["image_intermediates_prefix"][0], out["image_intermediates"][0]], dim=1)
        itself = torch.full((x.shape[1],) * 2, float("-inf"), device=x.device).fill_diagonal_(0)
        x = visual.transformer.resblocks[-1](x, attn_mask=itself)
        return out["image_features"], visual.ln_post(x[:, 1:]) @ visual.proj

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Float[Tensor, "n D"]:
        """g^L of written queries, on no more positions than the longest text has.

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

        Values and gradients are those of CLIP's text encoder on its whole context, at a fraction of the cost. The
        tower is causal, so the positions after [EOT] are not computed. The keys and values of [SOT] never change, so
        they are computed once. The last layer computes the row of [EOT] alone.
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
        """Keys and values of [SOT] in every layer: [SOT] comes first in a causal tower, so they never change."""
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
    """One pre-norm transformer block over x (B, L, E), with the keys and values `past` of the P positions before x.

    `mask` (Q, P + L) is true where a row sees a position: only the last Q rows leave the block. `past` is a pair of
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


def feature_map(visual: Any, images: Float[Tensor, "V 3 size size"]) -> Float[Tensor, "V C rows columns"]:
    """The last feature map of a timm tower; AvsetError if what leaves its trunk is no map."""
    features: Tensor = visual.trunk.forward_features(images)
    if features.ndim != 4 or features.shape[1] != visual.trunk.num_features:
        raise AvsetError(f"a {type(visual.trunk).__name__} of timm has no feature map of rows and columns; {TAKE}")
    return features


def headed(
    visual: Any, features: Float[Tensor, "V C rows columns"]
) -> tuple[Float[Tensor, "V D"], Float[Tensor, "V R D"]]:
    """The head of a timm tower on a whole feature map, and on each cell of it alone."""
    cells = features.flatten(2).transpose(1, 2).flatten(0, 1)[..., None, None]
    embedding, regions = (visual.head(visual.trunk.forward_head(part)) for part in (features, cells))
    return embedding, torch.unflatten(regions, 0, (len(features), -1))


def _attention_pool(pool: Any, features: Tensor, positional: bool) -> tuple[Tensor, Tensor]:
    """CLIP's attention pool (Eq. 7, 8; the mean cell is the query), and the value path of each cell alone (Eq. 9).

    features (V, C, rows, columns) -> embedding (V, D), regions (V, R, D).
    """
    cells = features.flatten(2).transpose(1, 2)
    tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + pool.positional_embedding
    values = pool.v_proj(tokens)
    queries, keys = pool.q_proj(tokens[:, :1]), pool.k_proj(tokens)
    heads = (x.unflatten(2, (pool.num_heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    pooled = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    return pool.c_proj(pooled[:, 0]), pool.c_proj(values[:, 1:] if positional else pool.v_proj(cells))

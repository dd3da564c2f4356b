"""Trains tiny CLIPs on drawn pictures and sentences: the demo's own, and variants that differ in one thing each.

`python -m avset.sources.demo.train_encoder --variant attention OUT` writes OUT/encoder.json and
OUT/encoder.safetensors; without words it makes the demo's own encoder anew, in this folder. The weights are shipped, so
nobody needs to run this (about five minutes on a free core). No sound, no box and no label is used but what the
sentences say. `avset.sources.demo.likeness` measures what came out, and docs/encoders.md has the table.

The second door to open_clip: `avset.features.encoder` loads finished models, this makes one with the same classes.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from avset.sources.demo.descriptions import Facts, facts_of, sentence_about, sentence_of_anything
from avset.sources.demo.pools import Pool, draw_pool
from avset.storage.files import write_atomic

Clip = Any  # open_clip.model.CLIP, which is imported where it is needed
CONFIG_FILE, WEIGHTS_FILE = (Path(__file__).with_name(f"encoder.{kind}") for kind in ("json", "safetensors"))
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
PICTURES, DUET_SHARE, EMPTY_SHARE = 8_000, 0.3, 0.2
SENTENCES, CHOSEN = 8, 2  # written for each picture, and taken of these at each step
BATCH_SIZE, LEARNING_RATE, DECAY, THREADS = 48, 2e-3, 0.05, 1


@dataclass(frozen=True)
class Variant:
    """What an encoder is trained with. The defaults are the kindest: whatever helps regions and texts to agree.

    attention    the attention pool learns where to look, as CLIP's; else its attention is uniform for good, and
                 the global embedding is a mean of region embeddings: what aligns the mean aligns the regions
    regions      a second term contrasts each sentence with the best region of each picture; CLIP has none
    pairs        a sentence is true of the pictures alone that it was written for, as in CLIP; else of each that it fits
    temperature  of the contrast, fixed; None: learned, from CLIP's start of 0.07, not below CLIP's end of 0.01
    world        sentences about scenes, people, clothes, colours and things as often as about instruments, and pictures
                 without players among them
    steps        of training; 0 leaves the random start
    """

    attention: bool = False
    regions: bool = True
    pairs: bool = False
    temperature: float | None = None
    world: bool = False
    steps: int = 400


VARIANTS = {
    "kind": Variant(),
    "attention": Variant(attention=True),
    "whole": Variant(regions=False),
    "pairs": Variant(pairs=True),
    "cold": Variant(temperature=0.01),
    "world": Variant(world=True),
    "short": Variant(steps=80),
    "random": Variant(steps=0),
    "clip": Variant(attention=True, regions=False, temperature=0.01, world=True),
}
DEFAULT = "attention"


@dataclass(frozen=True)
class Sentences:
    """W different sentences; `owner` says which were written for which picture."""

    tokens: Int[Tensor, "W K"]
    needs: list[Facts]
    owner: Int[np.ndarray, "P C"]


def write(pool: Pool, seed: int, world: bool = False) -> Sentences:
    """Sentences about the pictures of the pool, cut to the length of the longest."""
    from open_clip.tokenizer import SimpleTokenizer

    rng, sentence = np.random.default_rng(seed), sentence_of_anything if world else sentence_about
    written = [[sentence(drawn, rng) for _ in range(SENTENCES)] for drawn in pool.scenes]
    needs = {text: needed for told in written for text, needed in told}
    number = {text: k for k, text in enumerate(needs)}
    tokens = SimpleTokenizer()(list(needs))
    owner = np.array([[number[text] for text, _ in told] for told in written])
    return Sentences(tokens[:, : int((tokens != 0).sum(1).max())], list(needs.values()), owner)


def new_model(attention: bool = False) -> Clip:
    """An untrained open_clip model of encoder.json; its attention pool learns to attend, or is uniform for good."""
    from open_clip.model import CLIP

    model = CLIP(**json.loads(CONFIG_FILE.read_text()))
    for projection in () if attention else (model.visual.attnpool.q_proj, model.visual.attnpool.k_proj):
        for parameter in projection.parameters():
            nn.init.zeros_(parameter).requires_grad_(False)
    return model


def embed_pictures(
    model: Clip, pictures: UInt8[Tensor, "B 3 S S"]
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B R D"]]:
    """Global and region embeddings, not normalised: each cell through the value path (App. A.2)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    visual, pool = model.visual, model.visual.attnpool
    maps = ((pictures.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    maps = visual.stem(maps)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        maps = layer(maps)
    cells = maps.flatten(2).transpose(1, 2) + pool.positional_embedding[1:]
    return pool(maps), pool.c_proj(pool.v_proj(cells))


def embed_sentences(model: Clip, tokens: Int[Tensor, "W K"]) -> Float[Tensor, "W D"]:
    """Text embeddings of K positions (open_clip takes 77; what follows the end token changes nothing)."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), (tokens != 0).sum(1) - 1] @ model.text_projection


def contrast(similarity: Float[Tensor, "B W"], true: Bool[Tensor, "B W"]) -> Float[Tensor, ""]:
    """Cross-entropy in both directions: several sentences may be true of a picture, and one of several pictures."""
    shares = true.float()
    ways = [-(F.log_softmax(similarity, way) * shares).sum(way) / shares.sum(way) for way in (0, 1)]
    return (ways[0].mean() + ways[1].mean()) / 2


def truth(sentences: Sentences, pool: Pool) -> Bool[Tensor, "P W"]:
    """Which sentence is true of which picture: all its facts are facts of the scene."""
    known = [facts_of(drawn) for drawn in pool.scenes]
    column = {fact: k for k, fact in enumerate(sorted(frozenset().union(*known)))}
    has, needs = torch.zeros(len(known), len(column)), torch.zeros(len(sentences.needs), len(column))
    for rows, table in ((known, has), (sentences.needs, needs)):
        for k, row in enumerate(rows):
            table[k, [column[fact] for fact in row]] = 1
    return (1 - has) @ needs.T == 0


def train(model: Clip, pool: Pool, sentences: Sentences, variant: Variant, seed: int) -> None:
    """AdamW, one cycle; prints the loss. Each of the two terms has its own temperature."""
    true, rng, started = truth(sentences, pool), np.random.default_rng(seed), time.time()
    if variant.temperature is not None:
        model.logit_scale.requires_grad_(False).fill_(-math.log(variant.temperature))
    scale = nn.Parameter(model.logit_scale.detach().clone(), model.logit_scale.requires_grad)
    parameters = [p for p in [*model.parameters(), scale] if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, max(variant.steps, 1), pct_start=0.15)
    model.to(memory_format=torch.channels_last).train()
    for step in range(1, variant.steps + 1):
        rows = rng.permutation(len(pool.scenes))[:BATCH_SIZE]
        told = np.unique(sentences.owner[rows[:, None], rng.integers(0, SENTENCES, (len(rows), CHOSEN))])
        whole, regions = (F.normalize(x, dim=-1) for x in embed_pictures(model, pool.pictures[rows]))
        texts = F.normalize(embed_sentences(model, sentences.tokens[told]), dim=-1)
        fits = true[rows][:, told]
        if variant.pairs:
            fits = torch.from_numpy((sentences.owner[rows][:, :, None] == told).any(1))
        loss = contrast(model.logit_scale.exp().clamp(max=100) * whole @ texts.T, fits)
        if variant.regions:
            best = torch.einsum("brd,wd->brw", regions, texts).amax(1)
            loss = loss + contrast(scale.exp().clamp(max=100) * best, fits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}  {time.time() - started:.0f} s", flush=True)


def save_weights(model: Clip, vocabulary: Int[Tensor, " U"], target: Path) -> None:
    """Write an open_clip state dict as float16; the model's U token rows become rows of the whole table.

    All other rows are zero (an unknown word adds nothing, and the file packs well), the padding's too.
    """
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    words = json.loads(CONFIG_FILE.read_text())["text_cfg"]["vocab_size"]
    table = torch.zeros(words, model.token_embedding.embedding_dim)
    table[vocabulary] = model.token_embedding.weight.detach()
    table[0] = 0
    tensors["token_embedding.weight"] = table.half()
    write_atomic(target, save_tensors({key: tensors[key].contiguous() for key in sorted(tensors)}))


def make(variant: Variant, folder: Path) -> None:
    """Draw, train, and write the config and the weights of one encoder; the same bytes on the same machine."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model, started = new_model(variant.attention), time.time()
    pool = draw_pool(PICTURES, 1_000_000, DUET_SHARE, model.visual.image_size, EMPTY_SHARE if variant.world else 0.0)
    sentences = write(pool, 1, variant.world)
    vocabulary, compact = torch.unique(sentences.tokens, return_inverse=True)
    print(f"{PICTURES} pictures, {len(sentences.needs)} sentences of {len(vocabulary)} tokens", flush=True)
    model.token_embedding = nn.Embedding(len(vocabulary), model.token_embedding.embedding_dim)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    train(model, pool, replace(sentences, tokens=compact), variant, 2)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / CONFIG_FILE.name, CONFIG_FILE.read_bytes())
    save_weights(model, vocabulary, folder / WEIGHTS_FILE.name)
    print(f"{folder / WEIGHTS_FILE.name}, temperature {1 / model.logit_scale.exp():.3f}, {time.time() - started:.0f} s")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m avset.sources.demo.train_encoder")
    parser.add_argument("--variant", choices=VARIANTS, default=DEFAULT)
    parser.add_argument("folder", type=Path, nargs="?", default=CONFIG_FILE.parent, metavar="OUT")
    told = parser.parse_args()
    make(VARIANTS[told.variant], told.folder)


if __name__ == "__main__":
    main()

"""Trains the demo's own tiny CLIP on drawn pictures and sentences.

`python -m avset.sources.demo.train_encoder`; the weights are shipped, so nobody needs to run this (about seven
minutes on a free core). No sound and no box is used. The attention pool's query and key projections are
zero and stay so. Hence its attention is uniform, and the global embedding is a mean of region embeddings (paper,
App. A.2): what aligns the mean with language aligns the regions. A second contrastive term compares each
sentence with the best region of each picture.

The second door to open_clip: `avset.features.encoder` loads finished models, this makes one with the same classes.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from avset.sources.demo.descriptions import Facts, facts_of, sentence_about
from avset.sources.demo.motion import Motion
from avset.sources.demo.pictures import Painter, Scene
from avset.sources.demo.scenes import LABELS, scene
from avset.storage.files import write_atomic

Clip = Any  # open_clip.model.CLIP, which is imported where it is needed
CONFIG_FILE, WEIGHTS_FILE = (Path(__file__).with_name(f"encoder.{kind}") for kind in ("json", "safetensors"))
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
DRAWN = 128  # pixels of the side, as in the clips
PICTURES, HELD_OUT, DUET_SHARE = 8_000, 660, 0.3
SENTENCES, CHOSEN = 8, 2  # written for each picture, and taken of these at each step
TRAINING_STEPS, BATCH_SIZE, LEARNING_RATE, DECAY, THREADS = 500, 96, 2e-3, 0.05, 1
PROMPTS = [f"person playing a {label}" for label in LABELS]


@dataclass(frozen=True)
class Pool:
    """P pictures of side S, what is on them, and where the instruments are (for measuring only)."""

    pictures: UInt8[Tensor, "P 3 S S"]
    scenes: list[Scene]
    boxes: list[list[tuple[float, float, float, float]]]


@dataclass(frozen=True)
class Sentences:
    """W different sentences; `owner` says which were written for which picture."""

    tokens: Int[Tensor, "W K"]
    needs: list[Facts]
    owner: Int[np.ndarray, "P C"]


def draw_pool(count: int, seed: int, duet_share: float, size: int) -> Pool:
    """Scenes in the middle of a random movement, resized to `size` pixels as the loader does."""
    rng, pictures, scenes, boxes = np.random.default_rng(seed), [], [], []
    for number in range(count):
        players = 2 if rng.random() < duet_share else 1
        drawn = scene([LABELS[k] for k in rng.permutation(len(LABELS))[:players]], seed + number)
        moves = tuple(_movement(rng) for _ in range(players))
        pixels, places = Painter(drawn, DRAWN).frame(moves)
        pictures.append(np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)))
        scenes.append(drawn)
        boxes.append(places)
    return Pool(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), scenes, boxes)


def _movement(rng: np.random.Generator) -> Motion:
    stroke, pitch, strike, sway = rng.random(4).tolist()
    return Motion(stroke, pitch, strike, 2 * sway - 1, int(rng.integers(2)))


def write(pool: Pool, seed: int) -> Sentences:
    """Sentences about the pictures of the pool, cut to the length of the longest."""
    from open_clip.tokenizer import SimpleTokenizer

    rng = np.random.default_rng(seed)
    written = [[sentence_about(drawn, rng) for _ in range(SENTENCES)] for drawn in pool.scenes]
    needs = {text: needed for told in written for text, needed in told}
    number = {text: k for k, text in enumerate(needs)}
    tokens = SimpleTokenizer()(list(needs))
    owner = np.array([[number[text] for text, _ in told] for told in written])
    return Sentences(tokens[:, : int((tokens != 0).sum(1).max())], list(needs.values()), owner)


def new_model() -> Clip:
    """An untrained open_clip model of encoder.json, its pooling attention uniform for good."""
    from open_clip.model import CLIP

    model = CLIP(**json.loads(CONFIG_FILE.read_text()))
    for projection in (model.visual.attnpool.q_proj, model.visual.attnpool.k_proj):
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
    cells = maps.flatten(2).transpose(1, 2)
    cells = torch.cat([cells.mean(1, keepdim=True), cells], 1) + pool.positional_embedding
    embedded = pool.c_proj(pool.v_proj(cells))
    return embedded.mean(1), embedded[:, 1:]


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


def train(model: Clip, pool: Pool, sentences: Sentences, steps: int, seed: int) -> None:
    """AdamW, one cycle; prints the loss. Each of the two terms learns its own temperature."""
    true, rng, started = truth(sentences, pool), np.random.default_rng(seed), time.time()
    scale = nn.Parameter(model.logit_scale.detach().clone())
    parameters = [p for p in [*model.parameters(), scale] if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.15)
    model.to(memory_format=torch.channels_last).train()
    for step in range(1, steps + 1):
        rows = rng.permutation(len(pool.scenes))[:BATCH_SIZE]
        told = np.unique(sentences.owner[rows[:, None], rng.integers(0, SENTENCES, (len(rows), CHOSEN))])
        whole, regions = (F.normalize(x, dim=-1) for x in embed_pictures(model, pool.pictures[rows]))
        texts = F.normalize(embed_sentences(model, sentences.tokens[told]), dim=-1)
        fits = true[rows][:, told]
        best = torch.einsum("brd,wd->brw", regions, texts).amax(1)
        loss = contrast(model.logit_scale.exp().clamp(max=100) * whole @ texts.T, fits)
        loss = loss + contrast(scale.exp().clamp(max=100) * best, fits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}  {time.time() - started:.0f} s", flush=True)


@torch.no_grad()
def measure(model: Clip, solos: Pool, duets: Pool) -> dict[str, float]:
    """Zero-shot accuracy of the prompts on solos, and the pointing game of the prompts on both pools.

    A point is the centre of the region most similar to the prompt; it hits inside the instrument's box. Boxes
    that hold no region's centre are left out. `chance` is the share of the regions that would hit.
    """
    from open_clip.tokenizer import SimpleTokenizer

    texts, scores = model.eval().encode_text(SimpleTokenizer()(PROMPTS)), {}
    for name, pool in (("solo", solos), ("duet", duets)):
        parts = [embed_pictures(model, part) for part in pool.pictures.split(110)]
        whole, regions = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if name == "solo":
            right = torch.tensor([LABELS.index(drawn.players[0].label) for drawn in pool.scenes])
            guess = (F.normalize(whole, dim=-1) @ F.normalize(texts, dim=-1).T).argmax(1)
            scores["zero-shot accuracy"] = (guess == right).float().mean().item()
        similarities = {
            "cosine": F.normalize(regions, dim=-1) @ F.normalize(texts, dim=-1).T,
            "dot": regions @ texts.T,
            "centered": (regions - regions.mean((0, 1))) @ (texts - texts.mean(0)).T,
        }
        inside, place = _inside(pool, round(regions.shape[1] ** 0.5))
        for kind, similarity in similarities.items():
            peaks = similarity[place[:, 0], :, place[:, 1]].argmax(1)
            scores[f"{name} pointing, {kind}"] = inside[torch.arange(len(peaks)), peaks].float().mean().item()
        scores[f"{name} pointing, chance"] = inside.float().mean().item()
        scores[f"{name} pointing, boxes"] = len(inside)
    return scores


def _inside(pool: Pool, side: int) -> tuple[Bool[Tensor, "Q R"], Int[Tensor, "Q 2"]]:
    """For each usable box: the regions whose centre it holds, and (picture, label)."""
    centres, inside, place = (np.arange(side) + 0.5) / side, [], []
    for number, (drawn, boxes) in enumerate(zip(pool.scenes, pool.boxes, strict=True)):
        for player, (x0, y0, x1, y1) in zip(drawn.players, boxes, strict=True):
            held = np.outer((centres > y0) & (centres < y1), (centres > x0) & (centres < x1)).ravel()
            if held.any():
                inside.append(held)
                place.append((number, LABELS.index(player.label)))
    return torch.from_numpy(np.stack(inside)), torch.tensor(place)


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


def main() -> None:
    """Draw, train, write the weights, and measure what was written."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model, started = new_model(), time.time()
    pool = draw_pool(PICTURES, 1_000_000, DUET_SHARE, model.visual.image_size)
    sentences = write(pool, 1)
    vocabulary, compact = torch.unique(sentences.tokens, return_inverse=True)
    print(f"{PICTURES} pictures, {len(sentences.needs)} sentences of {len(vocabulary)} tokens", flush=True)
    model.token_embedding = nn.Embedding(len(vocabulary), model.token_embedding.embedding_dim)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    train(model, pool, replace(sentences, tokens=compact), TRAINING_STEPS, 2)
    save_weights(model, vocabulary, WEIGHTS_FILE)
    written = new_model()
    written.load_state_dict(load_file(WEIGHTS_FILE))
    size = written.visual.image_size
    solos, duets = draw_pool(HELD_OUT, 100_000_000, 0.0, size), draw_pool(HELD_OUT // 3, 200_000_000, 1.0, size)
    for what, value in measure(written, solos, duets).items():
        print(f"{what:28s} {value:.3f}" if isinstance(value, float) else f"{what:28s} {value}")
    print(f"{WEIGHTS_FILE.name}: {WEIGHTS_FILE.stat().st_size / 1e6:.2f} MB, {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()

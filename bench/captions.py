"""Latent captions (Eq. 1): textual inversion of a clip's centre frame.

The plain way puts [SOT] p_1 .. p_K [EOT] into CLIP's whole context of 77 positions, lets gradients flow into the
frozen weights too, and takes 5 000 steps of SGD, lr 10, on -100 x the mean cosine of a batch of 16.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from bench.measure import Case, Growth

BATCH, STEPS, RATE = 16, 5000, 10.0  # of the plain way
ADAM = {"optimizer": "adam", "schedule": "cosine"}
OURS = {  # of the scales: the demo's, and the paper's
    "demo": {"tokens": 3, "steps": 300, "lr": 0.2, "init_std": 1.0, "batch_size": 32, **ADAM},
    "RN50": {"tokens": 3, "steps": 500, "lr": 0.2, "init_std": 0.02, "batch_size": 64, **ADAM},
}
DEMO = Path("pipeline/avset/sources/demo")


def whole_context(model: Any, tokens: Tensor, sot: int, eot: int) -> Tensor:
    """CLIP's text encoder on [SOT] p_1 .. p_K [EOT] 0 0 ...: tokens (B, K, E) -> (B, D)."""
    ids = torch.zeros(len(tokens), model.context_length, dtype=torch.long, device=tokens.device)
    ids[:, 0], ids[:, tokens.shape[1] + 1] = sot, eot
    x = model.token_embedding(ids)
    x = torch.cat([x[:, :1], tokens, x[:, tokens.shape[1] + 1 :]], 1) + model.positional_embedding
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask.to(x)))
    return x[:, tokens.shape[1] + 1] @ model.text_projection


def plain(encoder: Any, targets: Tensor, first: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """So many steps from the first guesses (B, K, E) towards targets (B, D); returns tokens and cosines (B,)."""
    p = first.clone().requires_grad_()
    mover = torch.optim.SGD([p], lr=RATE)
    encoder.model.requires_grad_(True)
    for _ in range(steps):
        embedding = whole_context(encoder.model, p, encoder.sot, encoder.eot)
        encoder.model.zero_grad()
        mover.zero_grad()
        (-100 * fn.cosine_similarity(embedding, targets, dim=1).mean()).backward()
        mover.step()
    encoder.model.zero_grad()
    encoder.model.requires_grad_(False)
    with torch.no_grad():
        reached = fn.cosine_similarity(whole_context(encoder.model, p, encoder.sot, encoder.eot), targets, dim=1)
    return p.detach(), reached


def demo(device: str) -> Any:
    """The demo's encoder, trained on its pictures and their descriptions."""
    import tempfile

    from avset.features.encoder import Encoder
    from avset.features.weights import export

    with tempfile.TemporaryDirectory() as folder:
        export(str(DEMO / "encoder.json"), str(DEMO / "encoder.safetensors"), Path(folder))
        return Encoder.load(Path(folder)).to(device)


def rn50(device: str) -> Any:
    """CLIP RN50 at its size with random weights: what a step costs does not depend on them."""
    import open_clip

    from avset.features.encoder import Encoder

    torch.manual_seed(0)
    model = open_clip.create_model("RN50-quickgelu")
    size = {"size": 224, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    told = {"embedding": 1024, "token_width": 512, "grid": [7, 7], "context": 77, "preprocess": size}
    return Encoder(model, told, "").to(device)


def problem(encoder: Any, count: int, tokens: int, std: float) -> tuple[Tensor, Tensor]:
    """Targets: embeddings of captions of other tokens, with noise of half their length; and first guesses."""
    random = torch.Generator().manual_seed(0)
    device = encoder.mean.device
    with torch.no_grad():
        texts = torch.randn(count, 6, encoder.width, generator=random).to(device)
        targets = encoder.encode_tokens(texts)
    noise = torch.randn(targets.shape, generator=random).to(device)
    targets = fn.normalize(targets, dim=1) + 0.5 * fn.normalize(noise, dim=1)
    return targets, std * torch.randn(count, tokens, encoder.width, generator=random).to(device)


def same_steps(encoder: Any, steps: int = 3) -> float:
    """Largest difference of the cosines after so many of the plain way's own steps, by both."""
    from avset.features.captions import ascend

    targets, first = problem(encoder, BATCH, 3, 0.02)
    _, reached = plain(encoder, targets, first, steps)
    ours = ascend(encoder, targets, first, steps, "sgd", 100 * RATE / BATCH, "constant")["cosine"]
    return float((reached - ours).abs().max())


def ours(encoder: Any, targets: Tensor, how: dict[str, Any], steps: int) -> Tensor:
    """Our ascent for so many steps: cosines (B,)."""
    from avset.features.captions import invert

    return invert(encoder, targets, seeds=range(len(targets)), **{**how, "steps": steps})["cosine"]


def cases(device: str) -> Iterator[Case]:
    """A few steps of each, counted as that share of a clip's caption."""
    for name, make, few in (("demo", demo, (20, 300)), ("RN50", rn50, (1, 5))):
        encoder, how = make(device), OURS[name]
        size = f"{name}'s text tower, K = 3, {how['steps']} Adam steps against {STEPS} of SGD"
        batch = how["batch_size"]
        targets, first = problem(encoder, max(BATCH, batch), 3, how["init_std"])
        few_plain, few_ours = few if device == "cpu" else (50, how["steps"])
        yield Case(
            "latent captions", size, "clips", partial(plain, encoder, targets[:BATCH], first[:BATCH], few_plain),
            partial(ours, encoder, targets[:batch], how, few_ours), BATCH * few_plain / STEPS,
            batch * few_ours / how["steps"], partial(same_steps, encoder), 1e-3, goal=100,
        )  # fmt: skip


def text(device: str) -> Iterator[str]:
    """That both reach the same cosine, on the demo's encoder. The plain way's steps are made by our ascent, which
    takes the same ones (see `agree`)."""
    from avset.features.captions import EVERY, ascend

    encoder, how = demo(device), OURS["demo"]
    targets, first = problem(encoder, BATCH, 3, how["init_std"])
    sgd = ascend(encoder, targets, first, STEPS, "sgd", 100 * RATE / BATCH, "constant")
    adam = ascend(encoder, targets, first, how["steps"], "adam", how["lr"], "cosine")
    aim, curve = float(sgd["cosine"].mean()), adam["curve"].mean(0)
    there = (curve >= aim).nonzero()
    step = f"reaches that at step {int(there[0]) * EVERY}" if len(there) else "does not reach that"
    yield (
        f"Captions, demo's tower, {BATCH} targets: mean cosine {aim:.4f} after {STEPS} SGD steps; ours {step} and ends "
        f"at {float(adam['cosine'].mean()):.4f} after {how['steps']}."
    )


def growth(device: str) -> Iterator[Growth]:
    """By tokens, clips at once, steps; the demo's tower."""
    encoder, how = demo(device), OURS["demo"]
    targets, _ = problem(encoder, 128, 3, 1.0)

    def call(clips: int, steps: int, **other: Any) -> partial:
        return partial(ours, encoder, targets[:clips], {**how, "batch_size": clips, **other}, steps)

    by_tokens = {f"K = {k}": (call(32, 50, tokens=k), 50.0 * (k + 1)) for k in (1, 4, 16)}
    yield Growth("latent captions", "tokens K, 32 clips", "step and position", by_tokens)
    by_clips = {f"{n} clips": (call(n, 50), 50.0 * n) for n in (32, 64, 128)}
    yield Growth("latent captions", "clips at once", "step and clip", by_clips)
    by_steps = {f"{n} steps": (call(32, n), float(n)) for n in (50, 100, 200)}
    yield Growth("latent captions", "steps, 32 clips", "step", by_steps)

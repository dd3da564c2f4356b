"""Training: mix and separate (App. A.3) with the losses of Eq. 5, resumable at any step."""

import hashlib
import io
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

from avset.errors import AvsetError
from avset.features import attention
from avset.features import spectrograms as sp
from avset.models.checkpoint import Model
from avset.params import Preset, Train
from avset.storage.files import write_atomic
from avset.training import distributed, losses
from avset.training.batches import TrainingMixtures


@dataclass
class Run:
    """The state of a training run: all that a resumed run needs; the data is a function of the step."""

    model: Model
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    best_state: dict[str, Tensor] | None = None
    history: list[tuple[int, dict[str, float]]] | None = None

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        buffer = io.BytesIO()
        kept = {k: v for k, v in self.__dict__.items() if k not in ("model", "optimizer")}
        torch.save({**kept, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, buffer)
        data = buffer.getvalue()
        write_atomic(path, data + hashlib.sha256(data).digest())

    def load(self, path: Path) -> None:
        """Take up a saved state, if there is one and it is what was written."""
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            return
        state = torch.load(io.BytesIO(data[:-32]), weights_only=True, map_location="cpu")
        self.model.load_state_dict(state.pop("model"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        self.__dict__.update(state)


def make_optimizer(model: torch.nn.Module, preset: Preset) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 (the paper's), or AdamW; biases and norms are not decayed by AdamW."""
    fused = next(model.parameters()).is_cuda
    if preset.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=preset.lr, momentum=0.9, weight_decay=preset.weight_decay, fused=fused
        )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=preset.lr, weight_decay=preset.weight_decay, fused=fused)


def learning_rate(step: int, steps: int, preset: Preset) -> float:
    """Linear warm-up, then a cosine to zero, or a step to a tenth at four fifths (the authors' code)."""
    warmup = min(preset.warmup, steps // 2)
    if step < warmup:
        return preset.lr * (step + 1) / warmup
    if preset.schedule == "step":
        return preset.lr * (0.1 if step >= 0.8 * steps else 1.0)
    return preset.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def batch_losses(
    model: Model, batch: dict[str, Tensor], captions: Float[Tensor, "C D"], own: Int[Tensor, " n"], preset: Preset,
    precision: str = "float32",
) -> dict[str, Tensor]:  # fmt: skip
    """The terms of Eq. 5 for one batch, unweighted; a term of weight zero is not computed.

    `precision` is that of the network's convolutions: masks, embeddings and losses are float32.

    `captions` are the latent captions of all training clips, each once, and `own` is the number of each clip's,
    in the order of `batch["clip"]`'s numbers.
    """
    weights = preset.losses
    mixture, regions = batch["mixture"], batch["regions"].to(captions.dtype)
    targets = sp.ratio_mask(batch["sources"], mixture, preset.mask_target)
    labels = own[batch["clip"]]
    caption = captions[labels]  # (B, N, D)
    queries = [decoded(batch, regions)] + ([caption[:, :, None, None]] if weights.caption else [])
    network = torch.autocast(mixture.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with network:
        masks = model.net.decode(model.net.encode(mixture), queries)
    if model.net.scale == "sum":  # of all regions, of which some were decoded
        masks[0] = masks[0] * (regions.shape[3] / queries[0].shape[3])
    terms = {"mask": losses.mask_loss(masks[0], targets, mixture)}
    if weights.caption:
        terms["caption"] = losses.mask_loss(masks[1], targets, mixture)
    if weights.audio_language or weights.trimodal:
        with network:
            audio = model.net.embed(mixture, masks[0]).to(masks[0].dtype)  # (B, N, D)
    if weights.audio_language:
        terms["audio_language"] = losses.audio_language_loss(audio.flatten(0, 1), captions, labels.flatten())
    if weights.trimodal:
        frames, scale = regions.shape[2], attention.SCALES[model.settings.similarity]
        seen, heard = (
            scale * model.scores(regions, target[:, :, None].expand(-1, -1, frames, -1)) for target in (caption, audio)
        )
        terms["trimodal"] = losses.trimodal_loss(seen, heard, preset.kl_reduction)
    return terms


def decoded(batch: dict[str, Tensor], regions: Float[Tensor, "B N V R D"]) -> Float[Tensor, "B N v r D"]:
    """The regions that the decoder sees at this step: all, or those that were drawn."""
    if "decoded" not in batch:
        return regions
    places = batch["decoded"].flatten(2)[..., None].expand(-1, -1, -1, regions.shape[-1])
    return regions.flatten(2, 3).gather(2, places).unflatten(2, batch["decoded"].shape[2:])


class Objective(torch.nn.Module):
    """Eq. 5 of a model as one module: a batch -> its unweighted terms, as `batch_losses`, and "loss", their sum."""

    def __init__(
        self, model: Model, captions: Float[Tensor, "C D"], own: Int[Tensor, " n"], preset: Preset,
        precision: str = "float32",
    ):  # fmt: skip
        super().__init__()
        self.model, self.captions, self.own, self.preset, self.precision = model, captions, own, preset, precision

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms and their weighted sum."""
        terms = batch_losses(self.model, batch, self.captions, self.own, self.preset, self.precision)
        weights = self.preset.losses.recipe()
        return terms | {"loss": torch.stack([weights[k] * v for k, v in terms.items()]).sum()}


def fit(
    model: Model,
    data: TrainingMixtures,
    captions: Float[Tensor, "C D"],
    own: Int[Tensor, " n"],
    preset: Preset,
    train: Train,
    validate: Callable[[Model], dict[str, float]],
    log: Callable[[int, dict[str, float]], None],
    state: Path | None = None,
    workers: int = 0,
) -> Run:
    """Train for `train.steps` steps; the run's best state is that of the best validation.

    `captions` and `own` are those of `batch_losses`.
    `validate` returns scores of which "nsdr" (and, for presets that say so, minus the training loss) decides;
    `log` gets the curves. With `state`, the run is kept there at every validation and taken up if it exists.
    In a process group (see `distributed`) the first process keeps the run, all take it up and all validate.
    """
    device = next(model.parameters()).device
    run = Run(model, make_optimizer(model, preset), history=[])
    if state is not None and state.exists():
        run.load(state)
    if len(set(distributed.gather(run.step))) > 1:
        raise AvsetError(f"not every worker sees {state}; put AVSET_CACHE on a disk that all machines share")
    objective = distributed.parallel(Objective(model, captions.to(device), own.to(device), preset, train.precision))
    assert run.history is not None
    for step, values in run.history:
        log(step, values)
    if run.step:
        say(f"goes on at step {run.step}")
    loader = DataLoader(
        data,
        batch_sampler=distributed.shares(run.step * train.batch_size, train.steps * train.batch_size, train.batch_size),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    sums: dict[str, Tensor] = {}
    since, began, first = 0, time.monotonic(), run.step
    for batch in loader:
        model.train()
        terms = objective({k: v.to(device, non_blocking=True) for k, v in batch.items()})
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, train.steps, preset)
        run.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        run.optimizer.step()
        run.step, since = run.step + 1, since + 1
        sums = {k: sums.get(k, 0) + v.detach() for k, v in terms.items()}
        if run.step % train.validate_every == 0 or run.step == train.steps:
            values = {f"train/{k}": v / since for k, v in distributed.mean(sums).items()}
            values |= {f"validation/{k}": v for k, v in validate(model.eval()).items()}
            keep_best(run, values, preset)
            run.history.append((run.step, values))
            log(run.step, values)
            if state is not None and distributed.rank() == 0:
                run.save(state)
            rate = (run.step - first) / (time.monotonic() - began)
            say(
                f"step {run.step}/{train.steps}, loss {values['train/loss']:.4f}, validation NSDR "
                f"{values['validation/nsdr']:.2f} dB; {rate:.1f} steps/s, {(train.steps - run.step) / rate:.0f} s left"
            )
            sums, since = {}, 0
    return run


def say(text: str) -> None:
    """A line on stderr, from the first process."""
    if distributed.rank() == 0:
        print(f"train: {text}", file=sys.stderr, flush=True)


def keep_best(run: Run, values: dict[str, float], preset: Preset) -> None:
    """Remember the state if this validation is the best so far."""
    score = values["validation/nsdr"] if preset.best == "nsdr" else -values["train/loss"]
    if score > run.best:
        run.best, run.best_step = score, run.step
        run.best_state = {k: v.detach().cpu().clone() for k, v in run.model.own_state().items()}

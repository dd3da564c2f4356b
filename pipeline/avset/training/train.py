"""Training: mix and separate (App. A.3) with the losses of a method, weighed and summed; resumable at any step."""

import hashlib
import io
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from avset.errors import AvsetError
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Method
from avset.params import Train
from avset.presets import LearnedSettings
from avset.storage.files import write_atomic
from avset.training import distributed
from avset.training.batches import TrainingMixtures

WITNESSES = 100  # first steps whose losses a model's record tells, for other code to be compared with


@dataclass
class Run:
    """The state of a training run: all that a resumed run needs; the data is a function of the step."""

    method: Method
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    best_state: dict[str, Tensor] | None = None
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of the first steps

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        buffer = io.BytesIO()
        kept = {k: v for k, v in self.__dict__.items() if k not in ("method", "optimizer")}
        torch.save({**kept, "method": self.method.state_dict(), "optimizer": self.optimizer.state_dict()}, buffer)
        data = buffer.getvalue()
        write_atomic(path, data + hashlib.sha256(data).digest())

    def load(self, path: Path) -> None:
        """Take up a saved state, if there is one and it is what was written."""
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            return
        state = torch.load(io.BytesIO(data[:-32]), weights_only=True, map_location="cpu")
        self.method.load_state_dict(state.pop("method"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        self.__dict__.update(state)


def make_optimizer(method: Method, settings: LearnedSettings) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 (the paper's), or AdamW; biases and norms are not decayed by AdamW.

    A part with a learning rate of its own (`Method.rates`) is a group, or two, with its `share` of `settings.lr`.
    AvsetError if the method has no such part.
    """
    fused, groups = next(method.parameters()).is_cuda, list[dict[str, Any]]()
    for part, named in _parts(method).items():
        share = {"share": method.rates[part] / settings.lr} if part else {}
        if settings.optimizer == "sgd":
            groups.append({"params": named, **share})
        else:
            groups.append({"params": [p for p in named if p.ndim > 1], **share})
            groups.append({"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0, **share})
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay, fused=fused)
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def _parts(method: Method) -> dict[str, list[torch.nn.Parameter]]:
    """The parameters of each part with a learning rate of its own, by the start of their names; "": all others."""
    parts: dict[str, list[torch.nn.Parameter]] = {part: [] for part in ("", *method.rates)}
    for name, parameter in method.named_parameters():
        parts[next((part for part in method.rates if name.startswith(part)), "")].append(parameter)
    if empty := [part for part, named in parts.items() if part and not named]:
        raise AvsetError(f"{type(method).__module__}: rates has {empty[0]!r}, with which no parameter's name starts")
    return parts


def learning_rate(step: int, steps: int, settings: LearnedSettings) -> float:
    """Linear warm-up, then a cosine to zero, or a step to a tenth at four fifths (the authors' code)."""
    warmup = min(settings.warmup, steps // 2)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "step":
        return settings.lr * (0.1 if step >= 0.8 * steps else 1.0)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Objective(torch.nn.Module):
    """The losses of a method as one module: a batch -> its unweighted losses, and "loss", their weighted sum.

    `constants` are what is the same in all batches (see avset.models.contract); the method finds them in each.
    """

    def __init__(self, method: Method, constants: Mapping[str, Tensor]):
        super().__init__()
        self.method, self.constants = method, constants
        self.weights = method.settings.weights()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms and their weighted sum; AvsetError if the settings weigh no term of a name."""
        terms = self.method.losses({**batch, **self.constants})
        if unknown := terms.keys() - self.weights.keys():
            raise AvsetError(f"losses: the settings have no weight of {min(unknown)!r}; add it to the preset's losses")
        return terms | {"loss": torch.stack([self.weights[k] * v for k, v in terms.items()]).sum()}


def fit(
    model: SeparationModel,
    data: TrainingMixtures,
    constants: Mapping[str, Tensor],
    train: Train,
    validate: Callable[[SeparationModel], dict[str, float]],
    log: Callable[[int, dict[str, float]], None],
    state: Path | None = None,
    workers: int = 0,
    stop: int | None = None,
) -> Run:
    """Train for `train.steps` steps; the run's best state is that of the best validation.

    `constants` are those of `Objective`.
    `validate` returns scores of which "nsdr" (or, for settings that say so, "loss", the lower the better) decides;
    `log` gets the curves. With `state`, the run is kept there at every validation and taken up if it exists.
    In a process group (see `distributed`) the first process keeps the run, all take it up and all validate. With `stop`
    the run ends after so many steps, as the first part of a whole one.
    """
    method, device = model.method, model.device
    settings: LearnedSettings = method.settings
    method.precision = train.precision
    run = Run(method, make_optimizer(method, settings))
    if state is not None and state.exists():
        run.load(state)
    if len(set(distributed.gather(run.step))) > 1:
        raise AvsetError(f"not every worker sees {state}; put AVSET_CACHE on a disk that all machines share")
    objective = distributed.parallel(Objective(method, {k: v.to(device) for k, v in constants.items()}))
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
        method.train()
        terms = objective({k: v.to(device, non_blocking=True) for k, v in batch.items()})
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, train.steps, settings) * group.get("share", 1.0)
        run.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        run.optimizer.step()
        run.step, since = run.step + 1, since + 1
        sums = {k: sums.get(k, 0) + v.detach() for k, v in terms.items()}
        if run.step <= WITNESSES:
            run.losses.append(terms["loss"].item())
        if run.step == stop:
            break
        if run.step % train.validate_every == 0 or run.step == train.steps:
            values = {f"train/{k}": v / since for k, v in distributed.mean(sums).items()}
            method.eval()
            values |= {f"validation/{k}": v for k, v in validate(model).items()}
            keep_best(run, values, settings)
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


def keep_best(run: Run, values: dict[str, float], settings: LearnedSettings) -> None:
    """Remember the state if this validation is the best so far."""
    score = values["validation/nsdr"] if settings.best == "nsdr" else -values["validation/loss"]
    if score > run.best:
        run.best, run.best_step = score, run.step
        run.best_state = {k: v.detach().cpu().clone() for k, v in run.method.own_state().items()}

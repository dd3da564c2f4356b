"""train: a model of one preset, from stored spectrograms and what else its method needs.

Makes data/<dataset>/models/<method>/: model.safetensors (weights, settings, facts) and, of a method that learns,
curves/ (dvclive).
No label is read. A killed run goes on where its last validation was. With train.workers > 1 so many processes
train together (see avset.training.distributed), started by Ray Train.
"""

import inspect
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from avset import params
from avset.compute import ray_train as group
from avset.compute.identity import code_digest
from avset.compute.making import making
from avset.errors import AvsetError
from avset.evaluation.estimates import Validation
from avset.models.checkpoint import SeparationModel, Settings
from avset.models.contract import Sizes
from avset.params import Params
from avset.presets import LearnedSettings, module_of
from avset.storage.artifacts import encoder_digest
from avset.storage.cache import ItemCache
from avset.storage.store import Store
from avset.training import distributed, train
from avset.training.batches import TrainingMixtures
from avset.training.dataset import Corpus
from stages import PARAMS, ParamsFile, begin, command, device_of, transform_of


def settings_of(p: Params, method: str, regions: Store) -> Settings:
    """What the checkpoint will carry."""
    _, n_regions, dim = regions.dataset(regions.clips[0], "regions").shape
    sizes = Sizes(transform_of(p), dim, n_regions, p.model.channels)
    return Settings(p.preset(method), sizes, p.regions.positional, encoder_digest(p.data / "encoder"))


def state_of(p: Params, method: str, corpus: Corpus) -> Path:
    """Where the state of a training is kept while it runs: a name for all that decides it."""
    settings = settings_of(p, method, corpus.regions)
    own_code = inspect.getsource(import_module(module_of(settings.method.kind)))
    told = [p.train.recipe(), settings.plain(), code_digest("train"), own_code, corpus.identity(), method]
    return ItemCache().root.absolute() / "runs" / f"{params.digest(told)}.pt"


def main(method: Annotated[str, typer.Argument(help="A preset.")] = "avset", path: ParamsFile = PARAMS) -> None:
    """Train one method."""
    p = begin("train", path, method)
    corpus = Corpus.load(p.data)
    state = state_of(p, method, corpus)
    with making(p.data / "models" / method) as folder:
        if not isinstance(p.preset(method), LearnedSettings):
            SeparationModel(settings_of(p, method, corpus.regions)).save(folder, facts_of(p, method))
            train.say(f"{method} learns nothing, so it is ready")
        elif p.train.workers == 1:
            learn(p, method, corpus, state, folder, device_of(p))
        else:
            work = partial(join, p, method, state, folder)
            group.run(work, p.train.workers, p.train.threads, p.runtime.device, state)
    state.unlink(missing_ok=True)


def join(p: Params, method: str, state: Path, folder: Path, device: str) -> None:
    """A worker's part of the training; AvsetError if it is another training that this machine would do."""
    corpus = Corpus.load(p.data)
    if state_of(p, method, corpus) != state:
        raise AvsetError(f"{socket.gethostname()} has other code or other data in {Path.cwd()}; share the folder")
    learn(p, method, corpus, state, folder, device)


def learn(p: Params, method: str, corpus: Corpus, state: Path, folder: Path, device: str) -> None:
    """Train in this process, as the only one or in a process group, whose first process writes."""
    torch.set_num_threads(p.train.threads)
    torch.manual_seed(p.train.seed)
    model = SeparationModel(settings_of(p, method, corpus.regions))
    clips = [clip for clip in corpus.complete() if corpus.splits[clip] == "train"]
    data = TrainingMixtures(
        clips, corpus.spectrograms, corpus.features(model.method.needs), p.model.crop,
        p.model.log_bins if model.method.grid == "log" else None, p.mixtures.n_sources, p.train.gain, p.train.seed,
        p.train.steps * p.train.batch_size, [corpus.videos[clip] for clip in clips],
        (p.train.decoded_frames, p.train.decoded_regions),
    )  # fmt: skip
    constants = corpus.constants(model.method.needs, clips)
    model.method.prepare(constants)
    model.to(device)
    readers = p.runtime.workers if device == "cuda" else 0  # processes that read ahead while the GPU works
    validation = Validation(corpus, "validation", model.method.validated)
    validation.mixtures = distributed.own_share(validation.mixtures)
    validate = distributed.together(validation, len(validation.mixtures))
    if distributed.rank() > 0:
        train.fit(model, data, constants, p.train, validate, lambda *_: None, state, readers)
        return
    with curves(folder / "curves") as log:
        run = train.fit(model, data, constants, p.train, validate, log, state, readers)
    model.method.load_own_state(run.best_state or model.method.own_state())
    facts = {"step": run.best_step, "validation": run.best, "clips": len(clips)}
    model.save(folder, facts_of(p, method) | {"train": p.train.recipe()} | facts)
    train.say(f"best at step {run.best_step}, validation {run.best:.2f}")


def facts_of(p: Params, method: str) -> dict[str, Any]:
    """What a model file says of its making."""
    return {"method": method, "dataset": p.dataset}


@contextmanager
def curves(folder: Path) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A log of values by step, for DVC."""
    os.environ["DVCLIVE_LOGLEVEL"] = "ERROR"
    from dvclive import Live  # brings DVC and pandas, which only the process that writes needs

    with Live(str(folder), report=None, save_dvc_exp=False, dvcyaml=None) as live:

        def log(step: int, values: dict[str, float]) -> None:
            live.step = step
            for name, value in values.items():
                live.log_metric(name, round(value, 6))
            live.make_summary()

        yield log


if __name__ == "__main__":
    command(main)

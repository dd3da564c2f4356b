"""train: a separation model of one preset, from stored spectrograms, regions and captions.

Makes data/<dataset>/<scale>/models/<method>/: model.safetensors (weights, settings, facts) and curves/ (dvclive).
No label is read. A killed run goes on where its last validation was. With train.workers > 1 so many processes
train together (see avset.training.distributed), started by Ray Train.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from avset import params
from avset.compute import ray_train as group
from avset.compute.identity import code_digest
from avset.compute.making import making
from avset.errors import AvsetError
from avset.evaluation.estimates import Validation
from avset.models.checkpoint import Model, Settings
from avset.params import Params
from avset.storage.artifacts import encoder_digest
from avset.storage.cache import ItemCache
from avset.storage.store import Store
from avset.training import distributed, train
from avset.training.batches import TrainingMixtures
from avset.training.dataset import Material
from stages import PARAMS, ParamsFile, begin, command, device_of, transform_of


def settings_of(p: Params, method: str, regions: Store) -> Settings:
    """What the checkpoint will carry."""
    preset = p.preset(method)
    _, n_regions, dim = regions.dataset(regions.clips[0], "regions").shape
    switches = ("norm", "level", "query_norm", "scale", "shared_encoder", "embedding_input")
    model = {name: getattr(preset, name) for name in switches}
    model |= {"dim": dim, "n_regions": n_regions, "channels": p.model.channels}
    return Settings(model, transform_of(p), p.regions.positional, preset.similarity, encoder_digest(p.data / "encoder"))


def state_of(p: Params, method: str, material: Material) -> Path:
    """Where the state of a training is kept while it runs: a name for all that decides it."""
    settings = repr(settings_of(p, method, material.regions))
    told = [p.train.recipe(), p.preset(method).recipe(), settings, code_digest("train"), material.identity(), method]
    return ItemCache().root.absolute() / "runs" / f"{params.digest(told)}.pt"


def main(method: Annotated[str, typer.Argument(help="A preset.")] = "avset", path: ParamsFile = PARAMS) -> None:
    """Train one model."""
    p = begin("train", path, method)
    material = Material.load(p.data)
    state = state_of(p, method, material)
    with making(p.data / "models" / method) as folder:
        if p.train.workers == 1:
            learn(p, method, material, state, folder, device_of(p))
        else:
            work = partial(join, p, method, state, folder)
            group.run(work, p.train.workers, p.train.threads, p.runtime.device, state)
    state.unlink(missing_ok=True)


def join(p: Params, method: str, state: Path, folder: Path, device: str) -> None:
    """A worker's part of the training; AvsetError if it is another training that this machine would do."""
    material = Material.load(p.data)
    if state_of(p, method, material) != state:
        raise AvsetError(f"{socket.gethostname()} has other code or other data in {Path.cwd()}; share the folder")
    learn(p, method, material, state, folder, device)


def learn(p: Params, method: str, material: Material, state: Path, folder: Path, device: str) -> None:
    """Train in this process, as the only one or in a process group, whose first process writes."""
    torch.set_num_threads(p.train.threads)
    torch.manual_seed(p.train.seed)
    preset, model = p.preset(method), Model(settings_of(p, method, material.regions))
    fewer = (p.train.decoded_frames, p.train.decoded_regions)
    if preset.level == "video" and any(fewer):
        raise AvsetError(f"{method} pools all regions (level: video); set train.decoded_frames and _regions to null")
    clips = [clip for clip in material.complete() if material.splits[clip] == "train"]
    data = TrainingMixtures(
        clips, material.spectrograms, material.regions, p.model.crop, p.model.log_bins, p.mixtures.n_sources,
        p.train.gain, p.train.seed, p.train.steps * p.train.batch_size, [material.videos[clip] for clip in clips],
        fewer,
    )  # fmt: skip
    captions, own = material.bank(clips)
    model.mean_caption.copy_(captions.mean(0))
    model.mean_region.copy_(material.mean_region(clips))
    model.to(device)
    readers = p.runtime.workers if device == "cuda" else 0  # processes that read ahead while the GPU works
    validation = Validation(material, "validation", ["video"] + ["caption"] * (preset.losses.caption > 0))
    validation.mixtures = distributed.share(validation.mixtures)
    validate = distributed.together(validation, len(validation.mixtures))
    if distributed.rank() > 0:
        train.fit(model, data, captions, own, preset, p.train, validate, lambda *_: None, state, readers)
        return
    with curves(folder / "curves") as log:
        run = train.fit(model, data, captions, own, preset, p.train, validate, log, state, readers)
    model.load_own_state(run.best_state or model.own_state())
    facts = {"method": method, "dataset": p.dataset, "preset": preset.recipe(), "train": p.train.recipe(),
             "step": run.best_step, "validation": run.best, "clips": len(clips)}  # fmt: skip
    model.save(folder, facts)
    train.say(f"best at step {run.best_step}, validation {run.best:.2f}")


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

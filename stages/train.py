"""train: a model of one preset, from stored spectrograms and what else its method needs.

Makes data/<dataset>/<scale>/models/<method>/: model.safetensors (weights, settings, facts), record.json and, of a
method that learns, curves/ (dvclive); of one that localizes presence.safetensors, which knows what is not there.
No label is read. A killed run goes on where its last validation was. With train.workers > 1 so many processes
train together (see avset.training.distributed), on this machine or, with runtime.executor ray, on a cluster.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from avset import params
from avset.compute import group, ray_train
from avset.compute.identity import Recipe, code_of
from avset.compute.making import making
from avset.errors import AvsetError
from avset.evaluation.presence import calibrated
from avset.evaluation.validation import Validation
from avset.features.encoder import Encoder
from avset.features.tower import architecture_of
from avset.models.checkpoint import SeparationModel, Settings, needs_of
from avset.models.contract import Sizes
from avset.params import Params
from avset.presets import LearnedSettings, module_of
from avset.storage import finished
from avset.storage.artifacts import Record, identity_of
from avset.storage.cache import cache_folder
from avset.storage.hub import WATCHED, unwatched
from avset.storage.store import Store
from avset.training import distributed, train
from avset.training.batches import TrainingMixtures
from avset.training.dataset import Corpus, on_demand
from avset.training.start import Start
from stages import METHOD, PARAMS, Adopt, NewVersion, ParamsFile, begin, command, device_of, transform_of


def settings_of(p: Params, method: str, regions: Store) -> Settings:
    """What the checkpoint will carry."""
    _, n_regions, dim = regions.dataset(regions.clips[0], "regions").shape
    needed, further = on_demand(needs_of(p.preset(method))), dict[str, Any]()
    if "tower" in needed:
        further["tower"] = architecture_of(p.data / "tower")
    if "objects" in needed:
        objects = Store(p.data / "objects")
        told, features = objects.record.recipe, objects.dataset(objects.clips[0], "features")
        further |= {"classes": len(told["names"]), "side": told["side"], "object_width": features.shape[-1]}
    sizes = Sizes(transform_of(p), dim, n_regions, p.model.channels, **further)
    return Settings(p.preset(method), sizes, p.regions.positional, identity_of(p.data / "encoder", "encoder"))


def start_of(p: Params, method: str, corpus: Corpus) -> Start | None:
    """The model that a training starts from, if the parameters name one and the method learns."""
    learns = isinstance(p.preset(method), LearnedSettings)
    return Start.of(p.train.start_from, settings_of(p, method, corpus.regions)) if learns else None


def state_of(p: Params, method: str, corpus: Corpus, start: Start | None) -> Path:
    """Where the state of a training is kept while it runs: a name for all that decides it."""
    settings = settings_of(p, method, corpus.regions)
    told = [p.train.recipe(), settings.plain(), recipe_of(p, method).version, corpus.identity(), method]
    if further := on_demand(needs_of(p.preset(method))):
        told.append({name: identity_of(p.data / name, name) for name in further})
    if start:
        told.append(start.identity)
    return cache_folder("runs").absolute() / f"{params.digest(told)}.pt"


def inputs_of(corpus: Corpus, start: Start | None) -> dict[str, str]:
    """The identities of all that a model is made of."""
    return corpus.inputs(needs=corpus.needs) | ({"start": start.identity} if start else {})


def recipe_of(p: Params, method: str) -> Recipe:
    """The recipe of training a method: the code of the stage, and the module of the method's kind."""
    kind = p.preset(method).kind
    own = p.methods.get(method) or import_module(module_of(kind)).__file__ or ""
    return Recipe("train", f"train/{kind}", [*code_of("train"), Path(own)], f"train {method}")


def main(
    method: Annotated[str, typer.Argument(help="A preset.")] = METHOD,
    path: ParamsFile = PARAMS,
    adopt: Adopt = 0,
    new_version: NewVersion = False,
) -> None:
    """Train one method. What --adopt makes anew are the first steps."""
    p = begin("train", path, method)
    if p.train.start_from and unwatched(p.train.start_from):
        train.say(f"DVC does not watch {p.train.start_from} (train.start_from); put it in {WATCHED}")
    recipe = recipe_of(p, method)
    if new_version:
        recipe.renew()
    corpus = Corpus.load(p.data, needs=needs_of(p.preset(method)))
    start = start_of(p, method, corpus)
    state, inputs = state_of(p, method, corpus, start), inputs_of(corpus, start)
    if adopt:
        return compare(p, method, recipe, state, adopt)
    recipe.check()
    with making(p.data / "models" / method) as folder:
        if not isinstance(p.preset(method), LearnedSettings):
            SeparationModel(settings_of(p, method, corpus.regions)).save(folder, model_facts(p, method))
            Record("models", inputs=inputs).write(folder)
            train.say(f"{method} learns nothing, so it is ready")
        elif finished.restore(state.stem, folder):
            replace(Record.read(folder), inputs=inputs).write(folder)
            train.say(f"{method} was trained before, it is restored")
        else:
            if p.train.workers == 1:
                learn(p, method, corpus, start, state, folder, device_of(p))
            else:
                train_together(p, partial(join, p, method, state, folder, 0), state)
            with suppress(AvsetError):  # a cache that is full, or that we may only read
                finished.keep(folder, state.stem)
        know_absence(p, folder, corpus)
    state.unlink(missing_ok=True)


def know_absence(p: Params, folder: Path, corpus: Corpus) -> None:
    """Calibrate the trained model's presence, if its method can tell, and put it beside the model."""
    torch.set_num_threads(p.train.threads)
    model, encoder = SeparationModel.load(folder).to(device_of(p)), Encoder.load(p.data / "encoder")
    if found := calibrated(model, encoder, corpus):
        found.save(folder)
        Record.read(folder).write(folder)


def train_together(p: Params, work: Callable[[str], list[float]], state: Path) -> None:
    """Have train.workers processes do `work`: on this machine, or where Ray has room for them."""
    if p.runtime.executor == "ray":
        ray_train.run(work, p.train.workers, p.train.threads, p.runtime.device, state)
    else:
        group.run(work, p.train.workers, device_of(p))


def compare(p: Params, method: str, recipe: Recipe, state: Path, count: int) -> None:
    """Give the code as it is the version that it had before, if the first steps have the same losses to the last bit.

    AvsetError with the largest difference if they have not, or if no model is there to compare with.
    """
    with TemporaryDirectory() as before:
        if not finished.restore(state.stem, Path(before)) or not (
            losses := Record.read(Path(before)).facts.get("losses")
        ):
            raise AvsetError(
                f"train: no model of {method}, version {recipe.number}, is in the cache to compare with; run the "
                f"stage with the former code, or raise the version with `python -m stages.train {method} --new-version`"
            )
    steps = min(count, len(losses))
    again = group.run(partial(join, p, method, state, Path(), steps), p.train.workers, device_of(p))
    apart = max(abs(old - new) for old, new in zip(losses, again, strict=False))
    if apart or len(again) < steps:
        raise AvsetError(
            f"train: the losses of the first {len(again)} steps differ by at most {apart:g}; the code is not "
            f"that of version {recipe.number}: mend it, or run `python -m stages.train {method} --new-version`"
        )
    recipe.adopt()
    print(f"train: the first {len(again)} steps have the same losses; the code keeps version {recipe.number}")


def join(p: Params, method: str, state: Path, folder: Path, steps: int, device: str) -> list[float]:
    """`learn` in one of several processes; AvsetError if it is another training that this machine would do."""
    corpus = Corpus.load(p.data, needs=needs_of(p.preset(method)))
    start = start_of(p, method, corpus)
    if state_of(p, method, corpus, start) != state:
        raise AvsetError(f"{socket.gethostname()} has other code or other data in {Path.cwd()}; share the folder")
    return learn(p, method, corpus, start, state, folder, device, steps)


def learn(
    p: Params, method: str, corpus: Corpus, start: Start | None, state: Path, folder: Path, device: str, steps: int = 0
) -> list[float]:
    """Train in this process, as the only one or in a process group, whose first process writes.

    Returns the losses of the first steps. With `steps` it ends after so many, and writes nothing.
    """
    torch.set_num_threads(p.train.threads)
    torch.manual_seed(p.train.seed)
    model = SeparationModel(settings_of(p, method, corpus.regions))
    clips = corpus.training_clips()
    data = TrainingMixtures(
        clips, corpus.spectrograms, corpus.features(model.method.needs), p.model.crop,
        p.model.log_bins if model.method.grid == "log" else None, p.mixtures.n_sources, p.train.gain, p.train.seed,
        p.train.steps * p.train.batch_size, corpus.recordings(clips),
        (p.train.decoded_frames, p.train.decoded_regions),
    )  # fmt: skip
    constants = corpus.constants(model.method.needs, clips)
    model.method.prepare(constants | corpus.beginnings(model.method.needs))
    if start:
        model.method.begin(start.model.method.own_state())
    model.to(device)
    readers = p.runtime.workers if device == "cuda" else 0  # processes that read ahead while the GPU works
    validation = Validation(corpus, "validation", model.method.validated)
    validation.mixtures = distributed.own_share(validation.mixtures)
    validate = distributed.together(validation, len(validation.mixtures))
    fit = partial(train.fit, model, data, constants, p.train, validate)
    if steps:
        return fit(lambda *_: None, None, readers, steps).losses
    if distributed.rank() > 0:
        return fit(lambda *_: None, state, readers).losses
    with curves(folder / "curves") as log:
        run = fit(log, state, readers)
    model.method.load_own_state(run.best_state or model.method.own_state())
    facts = {"step": run.best_step, "validation": run.best, "clips": len(clips)}
    model.save(folder, model_facts(p, method) | {"train": p.train.recipe()} | facts)
    version, recipe = recipe_of(p, method).version, {"method": p.preset(method).recipe(), "train": p.train.recipe()}
    Record("models", version, recipe, inputs_of(corpus, start), facts={"losses": run.losses}).write(folder)
    train.say(f"best at step {run.best_step}, validation {run.best:.2f}")
    return run.losses


def model_facts(p: Params, method: str) -> dict[str, Any]:
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

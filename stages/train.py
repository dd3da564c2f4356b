"""train: a separation model of one preset, from stored spectrograms, regions and captions.

Makes data/<dataset>/models/<method>/: model.safetensors (weights, settings, facts) and curves/ (dvclive).
No label is read. A killed run goes on where its last validation was.
"""

import os
import shutil
from typing import Annotated

import torch
import typer
from dvclive import Live

from pipeline import params, train
from pipeline.checkpoints import Model, Settings
from pipeline.material import Material, Validation
from pipeline.mixtures import TrainingMixtures
from pipeline.params import Params
from pipeline.store import ItemCache, Store
from stages import (
    PARAMS,
    ParamsFile,
    begin,
    code_digest,
    command,
    device_of,
    encoder_digest,
    only_writer,
    transform_of,
)


def settings_of(p: Params, method: str, regions: Store) -> Settings:
    """What the checkpoint will carry."""
    preset = p.preset(method)
    _, n_regions, dim = regions.dataset(regions.clips[0], "regions").shape
    switches = ("norm", "level", "query_norm", "scale", "shared_encoder", "embedding_input")
    model = {name: getattr(preset, name) for name in switches}
    model |= {"dim": dim, "n_regions": n_regions, "channels": p.model.channels}
    return Settings(model, transform_of(p), p.regions.positional, preset.similarity, encoder_digest(p.data / "encoder"))


def main(method: Annotated[str, typer.Argument(help="A preset.")] = "avset", path: ParamsFile = PARAMS) -> None:
    """Train one model."""
    p = begin("train", path, method)
    preset, material = p.preset(method), Material.load(p.data)
    torch.set_num_threads(p.train.threads)
    torch.manual_seed(p.train.seed)
    model = Model(settings_of(p, method, material.regions))
    clips = [clip for clip in material.complete() if material.splits[clip] == "train"]
    data = TrainingMixtures(
        clips, material.spectrograms, material.regions, p.model.crop, p.mixtures.n_sources, p.train.gain,
        p.train.seed, p.train.steps * p.train.batch_size, [material.videos[clip] for clip in clips],
    )  # fmt: skip
    captions, own = material.bank(clips)
    model.mean_caption.copy_(captions.mean(0))
    model.mean_region.copy_(material.mean_region(clips))
    model.to(device_of(p))
    validation = Validation(material, "validation", ["video"] + ["caption"] * (preset.losses.caption > 0))
    told = [
        p.train.recipe(),
        preset.recipe(),
        repr(model.settings),
        code_digest("train"),
        material.identity(),
        method,
    ]
    state = ItemCache().root / "runs" / f"{params.digest(told)}.pt"
    folder = p.data / "models" / method
    with only_writer(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.environ["DVCLIVE_LOGLEVEL"] = "ERROR"
        with Live(str(folder / "curves"), report=None, save_dvc_exp=False, dvcyaml=None) as live:

            def log(step: int, values: dict[str, float]) -> None:
                live.step = step
                for name, value in values.items():
                    live.log_metric(name, round(value, 6))
                live.make_summary()

            run = train.fit(model, data, captions, own, preset, p.train, validation, log, state)
        model.load_own_state(run.best_state or model.own_state())
        facts = {"method": method, "dataset": p.dataset, "preset": preset.recipe(), "train": p.train.recipe(),
                 "step": run.best_step, "validation": run.best, "clips": len(clips)}  # fmt: skip
        model.save(folder, facts)
    state.unlink(missing_ok=True)
    print(f"train: best at step {run.best_step}, validation {run.best:.2f}")


if __name__ == "__main__":
    command(main)

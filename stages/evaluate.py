"""evaluate: scores of a model on the frozen test mixtures, and of attention on the boxes.

Makes data/<dataset>/<scale>/scores/<method>/: scores.parquet (per query, mixture and source),
localization.parquet, examples.h5 (whole mixtures to look at and to listen to).
"""

from collections import defaultdict
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer

from avset.compute.making import making
from avset.errors import AvsetError
from avset.evaluation import scores
from avset.evaluation.estimates import estimates
from avset.evaluation.evaluate import Examples, encoder_facts, look, texts_of
from avset.inference.separate import Separator
from avset.storage.files import write_json
from avset.storage.hdf5 import new_hdf5
from avset.storage.tables import write_table
from avset.training.dataset import Material
from stages import PARAMS, ParamsFile, begin, command, device_of

PLACES = pa.schema(
    [("clip_id", pa.string()), ("label", pa.string()), ("attention", pa.string()), ("hit", pa.bool_()),
     ("iou", pa.float64()), ("chance", pa.float64())]
)  # fmt: skip


def main(method: Annotated[str, typer.Argument(help="A preset.")] = "avset", path: ParamsFile = PARAMS) -> None:
    """Score one model."""
    p = begin("evaluate", path, method)
    material, separator = Material.load(p.data), Separator.load(p.data / "models" / method)
    model = separator.model.to(device_of(p))
    torch.set_num_threads(p.train.threads)
    mixtures = material.of("test")
    if not mixtures:
        raise AvsetError("no mixture of split 'test' has all its clips; raise mixtures.test, or add clips")
    shown = mixtures[:: max(1, len(mixtures) // max(1, p.evaluate.examples))][: p.evaluate.examples]
    labels = [label for found in material.labels.values() for label in found]
    texts = {name: texts_of(separator.encoder, labels, prompt) for name, prompt in p.evaluate.prompts.items()}
    labelled = all(all(m.labels) for m in mixtures)
    kinds = [*(texts if labelled else {}), "video", "caption"]
    folder, rows, sounds = p.data / "scores" / method, [], defaultdict(list)
    with making(folder) as fresh:
        with new_hdf5(fresh / "examples.h5") as file:
            examples = Examples(file, material, model, separator.encoder.grid, shown, texts.get("text", {}))
            found = {kind: list(estimates(model, mixtures, kind, material, texts.get(kind, {}))) for kind in kinds}
            tasks = [(mixture[0][1], np.stack([parts["estimates"] for _, _, parts in mixture]))
                     for mixture in zip(*found.values(), strict=True)]  # fmt: skip
            scored = scores.score(tasks, workers=p.runtime.workers)
            for i, kind in enumerate(kinds):
                own = [{name: values[i] for name, values in one.items()} for one in scored]
                new = scores.rows_of(method, kind, mixtures, own, material.mixture_sdr)
                gains = np.array([row["nsdr"] for row in new]).reshape(len(mixtures), -1)
                print(f"evaluate: {kind}: NSDR {gains.mean():.2f} dB on {len(mixtures)} mixtures", flush=True)
                for (mixture, _, parts), gain in zip(found[kind], gains, strict=True):
                    prompt = p.evaluate.prompts.get(kind, kind)
                    asked = [prompt.format(label=label) for label in mixture.labels]
                    examples.add_query(mixture, kind, {**parts, "nsdr": gain}, asked)
                    if kind == kinds[0]:
                        for clip, attention in zip(mixture.clips, parts["attention"], strict=True):
                            sounds[clip].append(attention)
                rows += new
        clips = [clip for clip in material.complete() if material.splits[clip] == "test"]
        places = look(model, separator.encoder.grid, material, clips, texts.get("text", {}), sounds)
        write_json(fresh / "facts.json", encoder_facts(material, clips, texts.get("text", {})))
        write_table(fresh / "scores.parquet", rows)
        write_table(fresh / "localization.parquet", places, PLACES)


if __name__ == "__main__":
    command(main)

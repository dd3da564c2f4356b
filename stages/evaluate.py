"""evaluate: scores of a method on the frozen test mixtures, and of attention on the boxes.

Makes data/<dataset>/<scale>/scores/<method>/: scores.parquet (per query, mixture and source),
localization.parquet, duets.parquet, presence.parquet, facts.json, record.json, examples.h5 (whole mixtures to look at
and to listen to).
"""

from typing import Annotated

import torch
import typer

from avset.compute.making import making
from avset.evaluation.evaluate import evaluate
from avset.inference.pair import load_pair
from avset.models.checkpoint import needs_of
from avset.storage.artifacts import Record, identity_of
from avset.training.dataset import Corpus
from stages import METHOD, PARAMS, ParamsFile, begin, command, device_of


def main(method: Annotated[str, typer.Argument(help="A preset.")] = METHOD, path: ParamsFile = PARAMS) -> None:
    """Score one method."""
    p = begin("evaluate", path, method)
    corpus = Corpus.load(p.data, further=True, needs=needs_of(p.preset(method)))
    model, encoder = load_pair(p.data / "models" / method)
    model.to(device_of(p))
    torch.set_num_threads(p.train.threads)
    with making(p.data / "scores" / method) as folder:
        evaluate(
            method, model, encoder, corpus, p.evaluate, folder, p.runtime.workers,
        )  # fmt: skip
        inputs = corpus.inputs("scores", model.method.needs - {"tower"}) | {
            "models": identity_of(p.data / "models" / method, "models")
        }
        Record("scores", recipe=p.evaluate.recipe(), inputs=inputs).write(folder)


if __name__ == "__main__":
    command(main)

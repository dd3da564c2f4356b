"""`avset show`: from params.yaml and folders of models to figures and a film."""

from pathlib import Path

from avset.compute.build import media_payloads
from avset.compute.limited import Limits
from avset.inference.separate import Separator
from avset.params import Params
from avset.show.show import Cinema, show
from avset.training.dataset import Corpus


def show_data_set(
    p: Params, model: Path, encoder: Path, baseline: Path | None, folder: Path, count: int, overwrite: bool
) -> list[str]:
    """Show a model, beside a baseline if there is one, on the data set of the parameters; see `avset.show.show`.

    Models are called as their folders are.
    """
    ours, other = Separator.load(model, encoder), Separator.load(baseline, encoder) if baseline else None
    corpus = Corpus.load(p.data)
    cinema = Cinema(corpus, media_payloads(p), Limits(p.runtime.time_limit, p.runtime.memory_limit))
    names = model.name, baseline.name if baseline else ""
    return show(ours, other, corpus, p.evaluate, cinema, folder, names, count, overwrite)

"""tower: the picture tower of the systems that see frames or objects by one of their own, with an identity.

Makes data/<dataset>/<scale>/tower/: weights.safetensors and tower.json. ImageNet's weights are fetched here, and never
again; `weights: none` draws some. No method of ours needs it: it is made on demand.
"""

from avset.compute.making import making
from avset.features import tower_weights
from avset.storage.artifacts import Record
from stages import PARAMS, ParamsFile, begin, command


def main(path: ParamsFile = PARAMS) -> None:
    """Fetch, read or draw the weights, check that they fit, write them plainly."""
    p = begin("tower", path)
    with making(p.data / "tower") as fresh:
        tower_weights.export(p.tower.architecture, p.tower.weights, fresh)
        Record("tower", recipe=p.tower.recipe()).write(fresh)


if __name__ == "__main__":
    command(main)

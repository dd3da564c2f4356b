"""encoder: the frozen vision-language model as an artifact with an identity.

Makes data/<dataset>/encoder/: weights.safetensors and encoder.json (architecture, activation, preprocessing,
sha256). Later stages load only this, so a colleague gets it by `dvc pull` and needs no hub.
"""

import shutil

from pipeline import weights
from stages import PARAMS, ParamsFile, begin, command, only_writer


def main(path: ParamsFile = PARAMS) -> None:
    """Fetch or read the weights, check that they fit, write them plainly."""
    p = begin("encoder", path)
    folder = p.data / "encoder"
    fresh = folder.with_name(".encoder.new")
    with only_writer(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        weights.export(p.encoder.architecture, p.encoder.weights, fresh)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)


if __name__ == "__main__":
    command(main)

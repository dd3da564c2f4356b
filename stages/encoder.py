"""encoder: the frozen vision-language model as an artifact with an identity.

Makes data/<dataset>/<scale>/encoder/: weights.safetensors and encoder.json (architecture, activation,
preprocessing, sha256). Later stages load only this, so a colleague gets it by `dvc pull` and needs no hub.
"""

from avset import params
from avset.compute.making import making
from avset.features import weights
from avset.storage.artifacts import Record, encoder_facts
from stages import PARAMS, ParamsFile, begin, command


def main(path: ParamsFile = PARAMS) -> None:
    """Fetch or read the weights, check that they fit, write them plainly."""
    p = begin("encoder", path)
    with making(p.data / "encoder") as fresh:
        weights.export(p.encoder.architecture, p.encoder.weights, fresh)
        Record("encoder", facts=encoder_facts(fresh)).write(fresh)
    params.load(path)  # once more: now it is known what the encoder reads and sees, wherever it is from


if __name__ == "__main__":
    command(main)

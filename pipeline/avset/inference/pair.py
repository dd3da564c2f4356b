"""A trained model and its encoder: they belong together."""

from pathlib import Path

from avset.errors import AvsetError
from avset.features.encoder import Encoder
from avset.models.checkpoint import SeparationModel
from avset.params import encoder_of


def load_pair(model: Path, encoder: Path | None = None) -> tuple[SeparationModel, Encoder]:
    """From folders; without `encoder`, that of the same data set and scale. Errors as of `check_pair`.

    MissingArtifact if a file is not there.
    """
    pair = SeparationModel.load(model), Encoder.load(encoder or encoder_of(model))
    check_pair(*pair)
    return pair


def check_pair(model: SeparationModel, encoder: Encoder) -> None:
    """AvsetError if the model was trained with another encoder."""
    if model.settings.encoder != encoder.digest:
        raise AvsetError(
            f"the model was trained with encoder {model.settings.encoder[:12]}, this one is "
            f"{encoder.digest[:12]}; give the folder of the encoder that belongs to the model"
        )

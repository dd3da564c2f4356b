"""Fine-tuning: a training that begins with the weights of a model (`train.start_from`), and not with random ones."""

from dataclasses import dataclass

from avset.errors import AvsetError
from avset.models.checkpoint import SeparationModel, Settings
from avset.storage.artifacts import identity_of
from avset.storage.hub import fetch

SHOWN = 4  # differences in one sentence


@dataclass(frozen=True)
class Start:
    """A model to begin with, and the identity of its file."""

    model: SeparationModel
    identity: str

    @classmethod
    def of(cls, address: str | None, settings: Settings) -> "Start | None":
        """The model at an address (see `avset.storage.hub.fetch`), for a training with these settings; None for none.

        AvsetError if the model is not there, or if it was trained with another encoder or is of another architecture.
        """
        if address is None:
            return None
        folder = fetch(address)
        model = SeparationModel.load(folder)
        theirs, ours = model.settings.encoder, settings.encoder
        if theirs != ours:
            raise AvsetError(
                f"train.start_from: {address} was trained with encoder {theirs[:12]}, and this training has "
                f"{ours[:12]}; take the scale and its encoder with which that model was trained"
            )
        if apart := settings.unlike(model.settings):
            more = [f"{len(apart) - SHOWN} more"] if len(apart) > SHOWN else []
            raise AvsetError(
                f"train.start_from: {address} is of another architecture: {'; '.join([*apart[:SHOWN], *more])}; set "
                "params.yaml as for that model, or start from another one"
            )
        return cls(model, identity_of(folder, "models"))

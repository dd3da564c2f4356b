"""What decides the best state: scores of the queries that need no label, and the losses on the same mixtures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from avset.evaluation.estimates import estimates
from avset.evaluation.validation import Validation
from avset.inference.separate import Separator
from avset.models.losses import mask_loss
from avset.storage.store import Store
from avset.storage.tables import read_table
from avset.training.dataset import Corpus


def test_validation_scores_the_kinds_that_it_was_asked_for(scored: Path):
    data = scored / "data" / "demo" / "demo"
    corpus, trained = Corpus.load(data), Separator.load(data / "models" / "avset").model
    found = Validation(corpus, "test", ["video"])(trained)
    rows = read_table(data / "scores" / "avset" / "scores.parquet")
    mean = np.mean([r["nsdr"] for r in rows if r["query"] == "video" and r["mixture_id"].startswith("test-")])
    assert found == {"video": pytest.approx(mean, abs=1e-3), "nsdr": found["video"]}
    sound = next(estimates(trained, corpus.mixtures_of("test"), "video", corpus, {}))
    regions = Store(data / "regions")
    assert sound.attention.shape == (2, regions.dataset(regions.clips[0], "regions").shape[1])


def test_the_validation_loss_is_that_of_the_masks_on_the_mixtures(scored: Path):
    """With the mask loss alone: Eq. 11 of the ideal masks, from the references instead of the stored spectrograms."""
    data = scored / "data" / "demo" / "demo"
    corpus, trained = Corpus.load(data), Separator.load(data / "models" / "avset").model
    none = dict.fromkeys(trained.method.settings.losses.recipe(), 0.0)
    only = trained.method.settings.losses.model_copy(update=none | {"mask": 1.0})
    trained.method.settings = trained.method.settings.model_copy(update={"best": "loss", "losses": only})
    transform, wanted = trained.settings.transform, []
    for one in estimates(trained, corpus.mixtures_of("validation"), "video", corpus, {}):
        _, mixture = transform.analyse(torch.from_numpy(one.references.sum(0))[None], "log")
        _, ideal = transform.ideal(torch.from_numpy(one.references))
        wanted.append(mask_loss(torch.from_numpy(one.masks)[None], ideal[None], mixture).item())
    validation = Validation(corpus, "validation", ["video"])
    found = validation(trained)
    assert found.keys() == {"video", "nsdr", "loss"}
    assert found["loss"] == pytest.approx(np.mean(wanted), rel=0.05)
    shares = []
    for part in (slice(0, 1), slice(1, None)):
        mine = Validation(corpus, "validation", ["video"])
        mine.mixtures = mine.mixtures[part]
        shares.append((len(mine.mixtures), mine.loss(trained)))
    whole = sum(count * value for count, value in shares) / sum(count for count, _ in shares)
    assert found["loss"] == pytest.approx(whole, rel=1e-5), "processes that share the mixtures find the same"


def test_every_term_of_the_loss_is_weighed(scored: Path):
    data = scored / "data" / "demo" / "demo"
    corpus, trained = Corpus.load(data), Separator.load(data / "models" / "avset").model
    settings, validation, found = trained.method.settings, Validation(corpus, "validation", ["video"]), {}
    weights = settings.losses.recipe()
    for name in (*weights, "all"):
        told = {k: v if name in (k, "all") else 0.0 for k, v in weights.items()}
        trained.method.settings = settings.model_copy(update={"losses": settings.losses.model_copy(update=told)})
        found[name] = validation.loss(trained)
    assert min(found.values()) > 0
    assert found.pop("all") == pytest.approx(sum(found.values()), rel=1e-5)

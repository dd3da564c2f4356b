"""Textual inversion: planted captions, exact steps, and bytes that depend on nothing but the clip."""

import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoders import artifact

from pipeline.captions import Captions, invert, seed_of
from pipeline.encoders import Encoder
from pipeline.errors import AvsetError, ParamsError


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """One thread: the matrices are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with a text tower of width 32."""
    return artifact(tmp_path_factory.mktemp("tiny"))[1]


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    """Its encoder."""
    return Encoder.load(folder)


@pytest.fixture(scope="module")
def targets(encoder: Encoder) -> torch.Tensor:
    """Embeddings of five captions that exist."""
    return encoder.encode_tokens(torch.randn(5, 3, 32, generator=torch.Generator().manual_seed(1)))


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(a, b, dim=1)


def test_a_caption_that_exists_is_found(encoder: Encoder, targets: torch.Tensor):
    found = invert(encoder, targets, tokens=3, steps=200, lr=0.2, init_std=1.0, seeds=range(5))
    assert found["cosine"].min() > 0.99
    torch.testing.assert_close(found["caption"], encoder.encode_tokens(found["tokens"]))
    torch.testing.assert_close(found["cosine"], cosines(found["caption"], targets))
    assert {k: v.shape for k, v in found.items()} == {
        "caption": (5, 24), "tokens": (5, 3, 32), "curve": (5, 21), "cosine": (5,),
    }  # fmt: skip


def test_the_length_of_a_target_is_of_no_account(encoder: Encoder, targets: torch.Tensor):
    a, b = (invert(encoder, scale * targets, 2, steps=20, seeds=range(5)) for scale in (1, 64))
    torch.testing.assert_close(a["tokens"], b["tokens"])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_bytes_do_not_depend_on_the_company_or_the_threads(encoder: Encoder, optimizer: str):
    targets = torch.randn(19, 24)

    def run(clips: list[int]) -> list[bytes]:
        found = invert(encoder, targets[clips], 3, 5, optimizer, 0.3, init_std=1.0, seeds=clips, batch_size=5)
        return [b"".join(found[k][i].numpy().tobytes() for k in sorted(found)) for i in range(len(clips))]

    together, backwards = run(list(range(19))), run(list(range(18, -1, -1)))[::-1]
    assert together == backwards
    assert together[:3] == run([0, 1, 2]) == [run([clip])[0] for clip in range(3)]
    assert len(set(together)) == 19
    torch.set_num_threads(2)
    assert run(list(range(18, -1, -1)))[::-1] == together


def descend(encoder: Encoder, targets: torch.Tensor, loss: Callable, rates: list[float]) -> torch.Tensor:
    """Plain gradient descent from N(0, 1), clip i with seed i."""
    p = torch.stack([torch.randn(3, 32, generator=torch.Generator().manual_seed(i)) for i in range(len(targets))])
    for rate in rates:
        p.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(cosines(encoder.encode_tokens(p), targets)), p)
        p = (p - rate * gradient).detach()
    return p


def test_sgd_takes_the_steps_of_the_release_at_batch_16(encoder: Encoder):
    targets = torch.randn(16, 24)
    wanted = descend(encoder, targets, lambda c: -100 * c.mean(), [10, 10, 10])
    ours = invert(encoder, targets, 3, 3, "sgd", 62.5, "constant", init_std=1.0, seeds=range(16))
    torch.testing.assert_close(ours["tokens"], wanted, atol=1e-3, rtol=1e-3)


def test_the_cosine_schedule_halves_the_rate_halfway(encoder: Encoder, targets: torch.Tensor):
    wanted = descend(encoder, targets, lambda c: -c.sum(), [0.02, 0.01])
    ours = invert(encoder, targets, 3, 2, "sgd", 0.02, "cosine", init_std=1.0, seeds=range(5))
    torch.testing.assert_close(ours["tokens"], wanted, atol=1e-6, rtol=0)


def test_the_cosine_schedule_ends_at_its_best(encoder: Encoder, targets: torch.Tensor):
    found = invert(encoder, targets, 3, 100, lr=0.3, seeds=range(5))
    assert (found["cosine"] >= found["curve"].max(dim=1).values - 1e-6).all()
    assert (found["cosine"] > found["curve"][:, 0] + 0.2).all()
    assert torch.equal(found["cosine"], found["curve"][:, -1])


def test_the_first_guess_follows_seed_and_deviation(encoder: Encoder, targets: torch.Tensor):
    near, far = (
        invert(encoder, targets[:1].expand(2, -1), 3, 1, "sgd", 1e-9, init_std=std, seeds=[7, 8])["tokens"]
        for std in (0.02, 1.0)
    )
    torch.testing.assert_close(near / 0.02, far)
    assert near.std().item() == pytest.approx(0.02, rel=0.2)
    assert not torch.equal(near[0], near[1])


def test_seeds_come_from_the_name_alone():
    wanted = int(hashlib.sha256(b"abc_2000").hexdigest()[:16], 16) // 2
    assert seed_of("abc_2000") == wanted < 2**63


def test_wrong_parameters_are_named(encoder: Encoder, targets: torch.Tensor):
    with pytest.raises(ParamsError, match=r"captions\.optimizer: 'adamw' is not one of adam, sgd"):
        invert(encoder, targets, 3, 1, optimizer="adamw", seeds=range(5))
    with pytest.raises(ParamsError, match=r"captions\.schedule: 'step'"):
        invert(encoder, targets, 3, 1, schedule="step", seeds=range(5))
    with pytest.raises(AvsetError, match="76 caption tokens"):
        invert(encoder, targets, 76, 1, seeds=range(5))


def test_the_mapper_gives_each_clip_its_caption_and_facts(folder: Path, targets: torch.Tensor):
    how = {"optimizer": "adam", "lr": 0.1, "schedule": "cosine", "init_std": 0.02}
    captions = pickle.loads(pickle.dumps(Captions(folder, tokens=2, steps=40, low=0.9, **how)))
    assert "encoder" not in vars(captions)
    clips = [(f"clip_{i}", target.numpy()) for i, target in enumerate(targets)]
    mapped = captions(clips)
    direct = invert(captions.encoder, targets, 2, 40, seeds=[seed_of(name) for name, _ in clips], **how)
    for i, (name, _) in enumerate(clips):
        one = mapped[i]
        for key in ("caption", "tokens", "curve"):
            assert one[key].dtype == np.float32
            assert one[key].tobytes() == direct[key][i].numpy().tobytes()
        assert (one["cosine"], one["steps"], one["seed"]) == (direct["cosine"][i].item(), 40, seed_of(name))
        assert one["words"].split() == captions.encoder.nearest_words(direct["tokens"][i : i + 1])[0]
        assert one["low"] is (one["cosine"] < 0.9)
    assert [one["low"] for one in Captions(folder, 2, steps=1, low=1.0)(clips)] == [True] * 5

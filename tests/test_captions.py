"""Textual inversion: planted captions, exact steps, bytes that depend on nothing but the clip; one per video."""

import hashlib
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from test_encoder import artifact
from test_store import tree_digest

from avset.errors import AvsetError, ClipError, ParamsError
from avset.features.captions import CaptionMapper, invert, seed_of
from avset.features.encoder import Encoder
from avset.params import clips_of
from avset.storage.artifacts import Record
from avset.storage.items import Item
from avset.storage.shards import assemble, spread
from avset.storage.store import Store
from avset.storage.tables import write_table
from bench import captions as plain_captions
from stages.captions import centres

HOW = {"tokens": 3, "optimizer": "adam", "lr": 0.1, "schedule": "cosine", "init_std": 0.02, "batch_size": 16}
RELEASE = {"optimizer": "sgd", "lr": 62.5, "schedule": "constant", "init_std": 1.0}


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


def inverted(encoder: Encoder, targets: torch.Tensor, **how: Any) -> dict[str, torch.Tensor]:
    """`invert`, clip i with seed i, with HOW where nothing else is said."""
    return invert(encoder, targets, **{"seeds": range(len(targets)), **HOW, **how})


def test_a_caption_that_exists_is_found(encoder: Encoder, targets: torch.Tensor):
    found = inverted(encoder, targets, steps=200, lr=0.2, init_std=1.0)
    assert found["cosine"].min() > 0.99
    torch.testing.assert_close(found["caption"], encoder.encode_tokens(found["tokens"]))
    torch.testing.assert_close(found["cosine"], cosines(found["caption"], targets))
    assert {k: v.shape for k, v in found.items()} == {
        "caption": (5, 24), "tokens": (5, 3, 32), "curve": (5, 21), "cosine": (5,),
    }  # fmt: skip


def test_the_length_of_a_target_is_of_no_account(encoder: Encoder, targets: torch.Tensor):
    a, b = (inverted(encoder, scale * targets, tokens=2, steps=20) for scale in (1, 64))
    torch.testing.assert_close(a["tokens"], b["tokens"])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_bytes_do_not_depend_on_the_company_or_the_threads(encoder: Encoder, optimizer: str):
    targets = torch.randn(19, 24)

    def run(clips: list[int]) -> list[bytes]:
        found = inverted(
            encoder, targets[clips], seeds=clips, steps=5, optimizer=optimizer, lr=0.3, init_std=1.0, batch_size=5
        )
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
    ours = inverted(encoder, targets, steps=3, **RELEASE)
    torch.testing.assert_close(ours["tokens"], wanted, atol=1e-3, rtol=1e-3)


def test_the_plain_way_takes_the_same_steps():
    """77 positions, gradients into the weights too, -100 x the mean; on the demo's encoder."""
    assert plain_captions.same_steps(plain_captions.demo("cpu"), 5) < 1e-5


@pytest.mark.slow
def test_300_steps_reach_the_cosine_of_1500_plain_ones():
    """With the paper's 5000 they are as far apart (bench/README.md), which takes a minute."""
    encoder, how = plain_captions.demo("cpu"), plain_captions.OURS["demo"]
    wanted, _ = plain_captions.problem(encoder, 16, 3, 1.0)
    plain = inverted(encoder, wanted, steps=1500, **RELEASE)
    assert plain["cosine"].mean() > plain["curve"][:, 30].mean(), "the plain way needs its steps"
    assert plain_captions.ours(encoder, wanted, how, 300).mean() > plain["cosine"].mean() - 1e-3


def test_the_cosine_schedule_halves_the_rate_halfway(encoder: Encoder, targets: torch.Tensor):
    wanted = descend(encoder, targets, lambda c: -c.sum(), [0.02, 0.01])
    ours = inverted(encoder, targets, steps=2, optimizer="sgd", lr=0.02, init_std=1.0)
    torch.testing.assert_close(ours["tokens"], wanted, atol=1e-6, rtol=0)


def test_the_cosine_schedule_ends_at_its_best(encoder: Encoder, targets: torch.Tensor):
    found = inverted(encoder, targets, steps=100, lr=0.3)
    assert (found["cosine"] >= found["curve"].max(dim=1).values - 1e-6).all()
    assert (found["cosine"] > found["curve"][:, 0] + 0.2).all()
    assert torch.equal(found["cosine"], found["curve"][:, -1])


def test_the_first_guess_follows_seed_and_deviation(encoder: Encoder, targets: torch.Tensor):
    near, far = (
        inverted(encoder, targets[:1].expand(2, -1), seeds=[7, 8], steps=1, optimizer="sgd", lr=1e-9, init_std=std)[
            "tokens"
        ]
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
        inverted(encoder, targets, steps=1, optimizer="adamw")
    with pytest.raises(ParamsError, match=r"captions\.schedule: 'step'"):
        inverted(encoder, targets, steps=1, schedule="step")
    with pytest.raises(AvsetError, match="76 caption tokens"):
        inverted(encoder, targets, tokens=76, steps=1)


def test_the_mapper_gives_each_clip_its_caption_and_facts(folder: Path, targets: torch.Tensor):
    how = HOW | {"tokens": 2, "steps": 40}
    captions = pickle.loads(pickle.dumps(CaptionMapper(folder, 0.9, "cpu", **how)))
    assert "encoder" not in vars(captions)
    clips = [(f"clip_{i}", target.numpy()) for i, target in enumerate(targets)]
    mapped = captions(clips)
    direct = invert(captions.encoder, targets, seeds=[seed_of(name) for name, _ in clips], **how)
    for i, (name, _) in enumerate(clips):
        one = mapped[i]
        for key in ("caption", "tokens", "curve"):
            assert one[key].dtype == np.float32
            assert one[key].tobytes() == direct[key][i].numpy().tobytes()
        assert (one["cosine"], one["steps"], one["seed"]) == (direct["cosine"][i].item(), 40, seed_of(name))
        assert one["words"].split() == captions.encoder.nearest_words(direct["tokens"][i : i + 1])[0]
        assert one["low"] is (one["cosine"] < 0.9)
    assert [one["low"] for one in CaptionMapper(folder, 1.0, "cpu", **HOW | {"steps": 1})(clips)] == [True] * 5


def rows(video: str, *spans: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of clips/index.parquet: the clips of a video by start and end; none: it could not be fetched."""
    row = {"media_id": video, "status": "ok", "split": "train"}
    if not spans:
        return [row | {"clip_id": f"{video}_0", "status": "failed", "start_s": None, "duration_s": None}]
    return [row | {"clip_id": f"{video}_{s * 1000:.0f}", "start_s": s, "duration_s": e - s} for s, e in spans]


def grid(start: float, *edges: float) -> list[tuple[float, float]]:
    """Adjoining spans."""
    return list(zip([start, *edges], edges, strict=False))


@pytest.mark.parametrize(
    ("spans", "missing", "centre"),
    [
        (grid(0, 10), (), 0),
        (grid(0, 10, 20, 30), (), 10),
        (grid(0, 10, 20, 30, 40), (), 10),  # 15 and 25 are as near to 20
        (grid(0, 10, 20, 30, 36), (), 10),  # 15, not 25, is nearest to 18
        ([(0, 10), (70, 80), (90, 100)], (), 70),  # 75, not 5, is nearest to 50: gaps count
        ([(0, 2), (2, 20), (20, 30)], (), 2),  # 11, not 25, is nearest to 15
        (grid(0, 10, 20, 30), (10,), 0),  # 5 and 25 are as near to 15
        (grid(0, 10, 20, 30, 40, 50), (20, 10), 30),
        (grid(0, 10, 20, 30, 40, 50), (0, 10), 20),  # what is missing still spans the video
        (grid(40, 50, 60, 70), (), 50),
        (grid(0.1, 0.4, 0.7, 1.0, 1.3), (), 0.4),  # equal but for the last bits of a float
    ],
)
def test_a_video_is_what_its_centre_shows(spans: list[tuple[float, float]], missing: tuple[float, ...], centre: float):
    found = rows("v", *spans)
    usable = {row["clip_id"] for row in found if row["start_s"] not in missing}
    for order in (found, found[::-1]):
        assert centres(order, usable) == dict.fromkeys(usable, f"v_{centre * 1000:.0f}")


def test_videos_are_apart():
    listed = rows("a", *grid(0, 10, 20, 30)) + rows("gone") + rows("b", *grid(0, 10)) + rows("c", *grid(0, 10, 20))
    usable = {row["clip_id"] for row in listed} - {"gone_0", "c_0", "c_10000"}
    assert centres(listed, usable) == {**dict.fromkeys(["a_0", "a_10000", "a_20000"], "a_10000"), "b_0": "b_0"}


class Project:
    """A project whose clips and regions are planted, for the captions stage to run on."""

    def __init__(self, folder: Path, encoder: Path):
        self.data, self.cache, self.folder = folder / "data" / "demo" / "demo", folder / "cache", folder
        self.data.mkdir(parents=True)
        (self.data / "encoder").symlink_to(encoder)

    def plant(self, listed: list[dict[str, Any]], failed: tuple[str, ...] = ()) -> None:
        """Every clip with an embedding of its own; some failed in an earlier stage."""
        write_table(clips_of(self.data) / "index.parquet", listed)

        def item_of(clip: str) -> tuple[Item, str]:
            if clip in failed or clip.startswith("gone"):
                return Item(reason="upstream"), ""
            embedding = np.random.default_rng(seed_of(clip)).normal(size=24).astype(np.float32)
            item = Item({"embedding": embedding})
            return item, hashlib.sha256(item.dump()).hexdigest()

        clips = [row["clip_id"] for row in listed]
        assemble(self.data / "regions", Record("regions"), spread(clips), item_of, {"embedding": ("D",)})

    def run(self, per: str) -> Store:
        """The store of captions."""
        tree = toy.params(datasets__demo__clips__min_success=0.1)
        tree["datasets"]["demo"]["captions"]["per"] = per
        tree["scales"]["demo"]["captions"] |= {"steps": 12, "batch_size": 4}
        toy.run(toy.project(self.folder, tree), self.cache, "captions")
        return Store(self.data / "captions")

    def inverted(self) -> int:
        """How many captions there are in the cache."""
        return sum(path.is_file() for path in (self.cache / "items").rglob("*"))


@pytest.fixture
def project(tmp_path: Path, folder: Path) -> Project:
    """Videos of three, two and one clips."""
    made = Project(tmp_path, folder)
    made.plant(rows("a", *grid(0, 10, 20, 30)) + rows("b", *grid(0, 10, 20)) + rows("c", *grid(0, 10)))
    return made


def content(store: Store, clip: str) -> tuple[list[bytes], dict[str, Any]]:
    """The bytes of a clip's arrays, and its facts."""
    facts = {k: v for k, v in store.rows[clip].items() if k not in ("clip_id", "shard")}
    return [store.read(clip, name).tobytes() for name in ("caption", "tokens", "curve")], facts


def test_all_clips_of_a_video_have_the_caption_of_its_centre(project: Project):
    own = project.run("clip")
    wanted = {clip: content(own, clip) for clip in own.clips}
    assert len({bytes(arrays[0]) for arrays, _ in wanted.values()}) == 6
    assert all(facts["of"] == clip and facts["seed"] == seed_of(clip) for clip, (_, facts) in wanted.items())
    shared = project.run("video")
    of = {"a_0": "a_10000", "a_10000": "a_10000", "a_20000": "a_10000", "b_0": "b_0", "b_10000": "b_0", "c_0": "c_0"}
    assert {clip: row["of"] for clip, row in shared.rows.items()} == of
    assert {clip: content(shared, clip) for clip in of} == {clip: wanted[maker] for clip, maker in of.items()}


def test_each_video_is_inverted_once(project: Project, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    project.run("video")
    assert project.inverted() == 3 and "3/3 clips (0 cached)" in capsys.readouterr().err
    project.run("clip")
    assert project.inverted() == 6 and "6/6 clips (3 cached)" in capsys.readouterr().err
    monkeypatch.setattr(Encoder, "load", lambda *_: pytest.fail("the encoder was loaded"))
    project.run("video")


def test_another_centre_is_another_caption_of_that_video_alone(project: Project):
    before = project.run("video")
    old = {clip: content(before, clip) for clip in before.clips}
    project.plant(rows("a", *grid(0, 10, 20, 30)) + rows("b", *grid(0, 10, 20, 30)) + rows("c", *grid(0, 10)))
    after = project.run("video")
    assert project.inverted() == 4
    assert {row["of"] for clip, row in after.rows.items() if clip[0] == "b"} == {"b_10000"}
    for clip in old:
        assert (content(after, clip) == old[clip]) == (clip[0] != "b")


def test_videos_of_one_clip_have_the_same_store_either_way(project: Project):
    project.plant(rows("a", *grid(0, 10)) + rows("b", *grid(0, 10)) + rows("gone"))
    project.run("clip")
    one = tree_digest(project.data / "captions")
    project.run("video")
    assert tree_digest(project.data / "captions") == one


@pytest.mark.parametrize("reason", ["corrupt", "error"])  # remembered by the cache, and not
def test_a_video_without_a_caption_is_told_at_each_of_its_clips(
    project: Project, monkeypatch: pytest.MonkeyPatch, reason: str
):
    told = CaptionMapper.__call__

    def fail(self: CaptionMapper, clips: list[tuple[str, np.ndarray]]) -> list[dict[str, Any]]:
        if any(clip == "a_10000" for clip, _ in clips):
            raise ClipError(reason, "no way")
        return told(self, clips)

    monkeypatch.setattr(CaptionMapper, "__call__", fail)
    store = project.run("video")
    lost = {clip: (row["reason"], row["detail"], row["of"]) for clip, row in store.rows.items() if clip[0] == "a"}
    assert lost == dict.fromkeys(["a_0", "a_10000", "a_20000"], (reason, "no way", "a_10000"))
    assert store.clips == ["b_0", "b_10000", "c_0"]
    assert project.run("clip").clips == ["a_0", "a_20000", "b_0", "b_10000", "c_0"]


def test_a_clip_that_failed_before_has_no_caption_and_takes_none_away(project: Project):
    listed = rows("a", *grid(0, 10, 20, 30)) + rows("b", *grid(0, 10, 20)) + rows("gone")
    project.plant(listed, failed=("a_10000", "b_0", "b_10000"))
    store = project.run("video")
    assert {clip: (row["reason"], row["of"]) for clip, row in store.rows.items()} == {
        "a_0": ("", "a_0"), "a_10000": ("upstream", None), "a_20000": ("", "a_0"),
        "b_0": ("upstream", None), "b_10000": ("upstream", None), "gone_0": ("upstream", None),
    }  # fmt: skip


def test_a_damaged_caption_of_a_video_is_made_again_once(project: Project, capsys: pytest.CaptureFixture):
    project.run("video")
    whole = tree_digest(project.data / "captions")
    capsys.readouterr()
    shutil.rmtree(project.cache / "shards")
    for path in (project.cache / "items").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    project.run("video")
    assert tree_digest(project.data / "captions") == whole
    assert capsys.readouterr().err.count("1/1 clips (0 cached)") == 3

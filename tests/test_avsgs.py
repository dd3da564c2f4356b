"""AVSGS, by analytic truth, and through the stages."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
import yaml
from test_co_separation import SIZES, seen, taught

from avset import params
from avset.errors import ParamsError
from avset.models.avsgs import Graph, Method
from avset.models.checkpoint import SeparationModel
from avset.models.contract import Conditions
from avset.presets import AVSGSSettings
from avset.storage.tables import read_table

PRESET = yaml.safe_load((toy.ROOT / "params.yaml").read_text())["presets"]["avsgs"]


def method(**changes: object) -> Method:
    torch.manual_seed(0)
    return Method(AVSGSSettings.model_validate(PRESET | {"width": 32} | changes), replace(SIZES, object_width=8))


def shown() -> dict[str, torch.Tensor]:
    """The things of Co-Separation's test, with features that tell red from blue."""
    told = seen()
    told["features"] = torch.eye(8)[told["classes"].clamp_min(0)]
    return told


@pytest.mark.slow
def test_it_learns_which_thing_is_loud_and_which_is_quiet():
    found, masks = taught(method(), shown(), 0.01, 80, {"mask": 1.0, "classes": 0.05, "orthogonality": 0.1})
    assert all(found[-1][name] < 0.9 * found[0][name] for name in PRESET["losses"])
    assert masks.shape == (2, 2, 16, 16)


def test_a_graph_knows_no_order_and_nothing_that_is_not_there():
    torch.manual_seed(0)
    graph, nodes, there = Graph(6, 16, 2), torch.randn(1, 4, 6), torch.tensor([[True, True, True, False]])
    found = graph(nodes, there)
    assert found.shape == (1, 16)
    order = torch.tensor([2, 3, 0, 1])
    torch.testing.assert_close(graph(nodes[:, order], there[:, order]), found)
    torch.testing.assert_close(graph(nodes[:, :3], there[:, :3]), found)
    assert not torch.allclose(graph(nodes[:, :2], there[:, :2]), found)
    assert graph(nodes, torch.zeros_like(there)).isfinite().all(), "the background alone"


def test_attention_and_edges_are_those_of_the_equations():
    """Against loops over nodes, of one head."""
    torch.manual_seed(1)
    graph, nodes, there = Graph(6, 8, 1), torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    values = graph.values(nodes[0])
    for i in range(3):
        scores = torch.stack([graph.takes[0] @ values[i] + graph.sends[0] @ values[j] for j in range(3)])
        shares = torch.nn.functional.leaky_relu(scores, 0.2).softmax(0)
        expected = torch.nn.functional.elu(sum(shares[j] * values[j] for j in range(3)))
        torch.testing.assert_close(graph.attend(nodes, there)[0, i], expected)


def test_the_background_comes_behind_the_things_and_is_no_part_of_the_source():
    net, told, mixture = method().eval(), shown(), torch.rand(2, 16, 16)
    told["classes"][0, 0, 0, 1] = 1
    vectors, classes = net.embeddings(told)
    assert classes.tolist() == [[[0, 1, 2], [1, 2, -1]], [[0, 2, -1], [1, 2, -1]]] and vectors.shape == (2, 2, 3, 32)
    each = net.parts(mixture, vectors, classes)
    found = net.masks(mixture, Conditions(2, None, told))
    torch.testing.assert_close(found[0, 0], each[0, 0, 0] + each[0, 0, 1])
    torch.testing.assert_close(found[1, 1], each[1, 1, 0])


def test_embeddings_at_right_angles_cost_nothing():
    net, told = method(), shown()
    batch = {"sources": torch.rand(2, 2, 16, 16), "mixture": torch.rand(2, 16, 16), **told}
    vectors, classes = net.embeddings(told)
    for basis, cost in ((torch.eye(3, 32), 0.0), (torch.ones(3, 32), 1.0)):
        net.embeddings = lambda _, basis=basis: (basis.expand_as(vectors), classes)
        assert net.losses(batch)["orthogonality"].item() == pytest.approx(cost)


def test_heads_share_the_width():
    with pytest.raises(ParamsError, match=r"presets\.avsgs\.width: must be a multiple of 8"):
        params.resolve(toy.params(methods=["avsgs"], presets__avsgs__width=30), toy.ROOT)


@pytest.mark.slow
def test_it_goes_through_the_stages(toy_data: Path, tmp_path: Path):
    folder = toy.project(toy.clone(toy_data, tmp_path / "project"), toy.params(methods=["avsgs"]))
    data, cache = folder / "data" / "demo" / "demo", tmp_path / "cache"
    toy.run(folder, cache, "tower", "objects")
    toy.run(folder, cache, "train", "evaluate", method="avsgs")
    first, again = (SeparationModel.load(data / "models" / "avsgs") for _ in range(2))
    assert first.settings.sizes.object_width == 128
    told = {name: value[:1] for name, value in shown().items()} | {"features": torch.rand(1, 2, 1, 3, 128)}
    mixture = torch.rand(1, first.settings.transform.length)
    estimates = [model.separate(mixture, Conditions(2, None, told))[0] for model in (first, again)]
    assert torch.equal(*estimates)
    assert {row["query"] for row in read_table(data / "scores" / "avsgs" / "scores.parquet")} == {"video"}
    toy.run(folder, cache, "report")

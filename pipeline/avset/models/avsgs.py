"""AVSGS (Chatterjee et al., ICCV 2021): a graph of what is seen in a video, from which one embedding a source comes.

Strongly supervised: boxes and classes of the objects are given. Two things differ. The graph joins all objects of the
frames of a clip; the original joins each principal one with those that overlap it. The original assigns the embeddings
to the classes by a permutation; here they come in the order of the things, the background last.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as fn

from avset.errors import AvsetError
from avset.models.contract import Conditions, Sizes
from avset.models.contract import Method as Contract
from avset.models.parts import SEEN, Parts, things
from avset.presets import AVSGSSettings


class Graph(nn.Module):
    """Nodes (n, J, P), of which some are there, -> a vector (n, width) of the whole, fully connected graph.

    Attention of several heads between the nodes, then an edge convolution: of each node the largest of f([x_i, x_j -
    x_i]) over the others. The vector is the sum of what is read out behind the two: maximum and mean over the nodes.
    """

    def __init__(self, features: int, width: int, heads: int):
        super().__init__()
        half = width // 2
        self.reduce = nn.Sequential(nn.Linear(features, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU())
        self.background = nn.Parameter(torch.randn(width))
        self.values = nn.Linear(width, half, bias=False)
        self.sends, self.takes = (nn.Parameter(torch.randn(heads, half // heads) / half**0.5) for _ in range(2))
        self.edges = nn.Sequential(nn.Linear(2 * half, half), nn.ReLU(), nn.Linear(half, half))
        for module in self.modules():
            if isinstance(module, nn.Linear):  # a smaller start hides what is seen behind the biases
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Float[Tensor, "n J P"], there: Bool[Tensor, "n J"]) -> Float[Tensor, "n width"]:
        """The vector of each graph; a node of the background is always there."""
        nodes = self.reduce(features)
        nodes = torch.cat([nodes, self.background.expand(len(nodes), 1, -1)], 1)
        there = fn.pad(there, (0, 1), value=True)
        nodes = self.attend(nodes, there)
        found = _read_out(nodes, there)
        pairs = torch.cat(
            [nodes[:, :, None].expand(-1, -1, nodes.shape[1], -1), nodes[:, None] - nodes[:, :, None]], -1
        )
        edges = self.edges(pairs).masked_fill(~there[:, None, :, None], float("-inf"))
        return found + _read_out(edges.amax(2), there)

    def attend(self, nodes: Float[Tensor, "n J W"], there: Bool[Tensor, "n J"]) -> Float[Tensor, "n J half"]:
        """Each node as a weighted mean of all, by heads (Velickovic et al. 2018)."""
        values = torch.unflatten(self.values(nodes), -1, self.sends.shape)  # (n, J, heads, w)
        takes, sends = ((values * weights).sum(-1) for weights in (self.takes, self.sends))  # (n, J, heads)
        scores = fn.leaky_relu(takes[:, :, None] + sends[:, None], 0.2)
        shares = scores.masked_fill(~there[:, None, :, None], float("-inf")).softmax(2)
        return fn.elu(torch.einsum("nijh,njhw->nihw", shares, values).flatten(2))


def _read_out(nodes: Float[Tensor, "n J W"], there: Bool[Tensor, "n J"]) -> Float[Tensor, "n W2"]:
    """Maximum and mean over the nodes that are there."""
    known = there[..., None]
    mean = (nodes * known).sum(1) / known.sum(1)
    return torch.cat([nodes.masked_fill(~known, float("-inf")).amax(1), mean], -1)


class Method(Contract):
    """A GRU that starts from the vector of a source's graph gives the embedding of one thing after the other."""

    needs = frozenset({"features", "tower", *SEEN})
    answers = ("video",)
    learns = True
    settings: AVSGSSettings

    def __init__(self, settings: AVSGSSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        self.graph = Graph(sizes.object_width, settings.width, settings.heads)
        self.step = nn.GRUCell(settings.width, settings.width)
        self.parts = Parts(sizes, settings.width, settings.norm)

    def masks(self, mixture: Float[Tensor, "B M T"], conditions: Conditions) -> Float[Tensor, "B N M T"]:
        """The sum of the masks of each source's things, without the background; not clamped."""
        if not conditions.seen:
            raise AvsetError("avsgs: there are no objects; give the boxes and the features of each source")
        vectors, classes = self.embeddings(conditions.seen)
        own = (classes >= 0) & (classes < self.sizes.classes)
        each: Tensor = self.parts(mixture, vectors, classes) * own[..., None, None]
        return each.sum(2)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of `Parts`; and the squared cosine of each two embeddings of a source, which should be orthogonal."""
        with self.convolutions(batch["mixture"].device):
            vectors, classes = self.embeddings(batch)
            terms = self.parts.terms(self.parts(batch["mixture"], vectors, classes), classes, batch)
        unit = fn.normalize(vectors.float(), dim=-1)
        pairs = ((classes[..., None] >= 0) & (classes[..., None, :] >= 0)).tril(-1)
        return {**terms, "orthogonality": (unit @ unit.mT).square()[pairs].mean()}

    def embeddings(self, seen: Mapping[str, Tensor]) -> tuple[Float[Tensor, "B N o W"], Int[Tensor, "B N o"]]:
        """The embedding, of unit variance, and the class of each thing of each source, then those of its background."""
        _, classes = things(seen, self.settings.objects)
        count = (classes >= 0).sum(-1, keepdim=True)
        classes = fn.pad(classes, (0, 1), value=-1).scatter(-1, count, self.sizes.classes)
        features, there = seen["features"].flatten(0, 1).flatten(1, 2), seen["confidences"].flatten(0, 1).flatten(1) > 0
        state = self.graph(features, there)
        found, before = [], torch.zeros_like(state)
        for _ in range(classes.shape[-1]):
            state = before = self.step(before, state)
            found.append(fn.layer_norm(state, state.shape[-1:]))
        return torch.unflatten(torch.stack(found, 1), 0, classes.shape[:2]), classes

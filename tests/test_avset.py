"""The factored U-Net equals the plain one, and queries mean what the paper says."""

from collections import Counter

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from avset.models import unet
from avset.models.avset import AVSeT
from bench.decoder import made_plain

DIM, CHANNELS, REGIONS = 16, [4, 8], 6


def model(**options) -> AVSeT:
    torch.manual_seed(0)
    return AVSeT(DIM, CHANNELS, REGIONS, **options)


def results(net: AVSeT, seed: int = 1) -> list[torch.Tensor]:
    """Masks, gradients and normalisation statistics after one step in float64."""
    torch.manual_seed(seed)
    mixture = torch.rand(3, 16, 16, dtype=torch.float64)
    queries = torch.randn(3, 2, 2, REGIONS, DIM, dtype=torch.float64, requires_grad=True)
    masks = net.masks(mixture, queries)
    masks.square().sum().backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None] + [queries.grad]
    return [masks, *gradients, *[b.double() for b in net.buffers()]]


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_factored_equals_plain_in_masks_gradients_and_statistics(
    norm: str, parts: bool, monkeypatch: pytest.MonkeyPatch
):
    if parts:
        monkeypatch.setattr(unet, "LARGE", 0)
    net = model(norm=norm).double()
    found = [results(one) for one in (net, made_plain(net))]
    assert len(found[0]) > 15
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, atol=1e-12, rtol=1e-10)


class Watch(TorchDispatchMode):
    """Counts operations, and knows which of the storages that they made are still there."""

    def __init__(self):
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        self.calls[operation.overloadpacket.__name__] += 1
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.made[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return out

    def held(self) -> int:
        """Bytes that are still there."""
        return sum(size for storage, size in self.made.items() if not storage.expired())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_kept_graph_gives_the_gradients_again(norm: str):
    """As it must for a gradient of each loss; batch normalisation counts one batch."""
    net = model(norm=norm)
    masks = net.masks(torch.rand(1, 16, 16), torch.randn(1, 1, 1, REGIONS, DIM))
    seen = [buffer.clone() for buffer in net.buffers()]
    once, again = (torch.autograd.grad(masks.sum(), list(net.parameters()), retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, once, again)) and all(map(torch.equal, seen, net.buffers()))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_what_is_made_again_for_the_backward_pass_is_no_convolution(norm: str):
    net = model(norm=norm)
    with Watch() as watch:
        net.masks(torch.rand(1, 16, 16), torch.randn(1, 1, 1, REGIONS, DIM)).sum().backward()
    layers = len(CHANNELS) + 1
    assert watch.calls["convolution_backward"] == layers + layers + (layers - 1), "encoder; skips; all but one below"
    assert watch.calls["convolution"] == watch.calls["convolution_backward"] + 1, "and the sums of the first's taps"
    assert watch.calls[f"native_{norm}_norm"] == layers + 2 * (layers - 1), "the decoder's twice"


def test_a_third_of_the_plain_memory_is_held_for_the_backward_pass():
    held, wide = [], AVSeT(DIM, [16, 32, 32], 40)
    for net in (wide, made_plain(wide)):
        with Watch() as watch:
            masks = net.masks(torch.rand(1, 64, 64), torch.randn(1, 1, 1, 40, DIM))
        held.append(watch.held())
        del masks
    assert held[0] < held[1] / 3


def test_paper_size():
    net = AVSeT(1024, [64, 128, 256, 512, 1024, 1024], 49)
    with torch.no_grad():
        maps = net.encode(torch.rand(1, 256, 256))
        assert [tuple(m.shape[1:]) for m in maps][-1] == (1024, 2, 2)
        assert net.decode(maps, [torch.randn(1, 1, 1, 2, 1024)])[0].shape == (1, 1, 256, 256)


def test_the_aggregated_mask_starts_at_one_half():
    for level in ("region", "video"):
        masks = model(level=level).masks(torch.rand(2, 16, 16), torch.randn(2, 2, 1, REGIONS, DIM))
        assert abs(masks.mean().item() - 0.5) < 0.15


def test_a_small_start_is_that_of_the_layers_before_a_normalisation():
    """And changes no mask's scale, since the normalisation behind a layer takes it away."""
    net, other = model(init="small", shared_encoder=False), model()
    kernels = {name: values for name, values in net.named_parameters() if values.ndim == 4}
    small = {name for name, values in kernels.items() if 0.0005 < values.std() < 0.002}
    assert kernels.keys() - small == {"decoder.ups.2.below", "decoder.ups.2.skip"} and len(kernels) == 12
    queries = torch.randn(2, 1, 1, REGIONS, DIM)
    spread = [one.masks(torch.rand(2, 16, 16), queries).std().item() for one in (net, other)]
    assert spread[0] == pytest.approx(spread[1], rel=0.5)


def test_regions_are_summed_and_frames_averaged():
    """Eq. 4, against a loop over regions and frames."""
    net = model()
    mixture, queries = torch.rand(1, 16, 16), torch.randn(1, 1, 3, REGIONS, DIM)
    one = model(scale="sum")
    looped = sum(one.masks(mixture, queries[:, :, v : v + 1, r : r + 1]) for v in range(3) for r in range(REGIONS))
    assert torch.allclose(net.masks(mixture, queries), looped / 3, atol=1e-5)


def test_a_text_has_the_scale_of_a_frame_unless_eq_4_is_taken_to_the_letter():
    mixture, text = torch.rand(1, 16, 16), torch.randn(1, 1, 1, 1, DIM)
    whole, term = model().masks(mixture, text), model(scale="sum").masks(mixture, text)
    assert torch.allclose(whole, REGIONS * term, atol=1e-6)


def test_video_level_is_a_max_pool():
    net = model(level="video")
    mixture, queries = torch.rand(1, 16, 16), torch.randn(1, 1, 2, REGIONS, DIM)
    pooled = queries.amax((2, 3), keepdim=True)
    assert torch.equal(net.masks(mixture, queries), net.masks(mixture, pooled))


def test_query_norm_removes_length():
    net = model(query_norm="l2")
    mixture, queries = torch.rand(1, 16, 16), torch.randn(1, 1, 1, REGIONS, DIM)
    assert torch.allclose(net.masks(mixture, queries), net.masks(mixture, 7 * queries), atol=1e-5)


def test_several_sets_of_queries_decode_as_one_by_one():
    net = model()
    maps = net.encode(torch.rand(2, 16, 16))
    sets = [torch.randn(2, 2, 1, REGIONS, DIM), torch.randn(2, 2, 1, 1, DIM)]
    for together, alone in zip(net.decode(maps, sets), (net.decode(maps, [q])[0] for q in sets), strict=True):
        assert torch.allclose(together, alone, atol=1e-5)


def test_embedding_sees_the_separated_sound_only():
    """A removed bin is silence for `masked`; the release's form takes it for magnitude one."""
    mixture = torch.rand(1, 16, 16) + 0.5
    half = torch.ones(1, 1, 16, 16)
    half[..., 8:, :] = 0
    louder = mixture.clone()
    louder[:, 8:] *= 9
    net = model()
    assert torch.equal(net.embed(mixture, half), net.embed(louder, half))
    assert net.embed(mixture, half).shape == (1, 1, DIM)
    release = model(embedding_input="release")
    assert not torch.allclose(release.embed(mixture, half), net.embed(mixture, half))


def test_separate_encoder_has_parameters_of_its_own():
    count = [sum(p.numel() for p in model(shared_encoder=s).parameters()) for s in (True, False)]
    assert count[1] > count[0]

"""The factored U-Net equals the plain one, and queries mean what the paper says."""

import pytest
import torch
from torch import nn
from torch.nn import functional as fn

from pipeline.models.avset import AVSeT

DIM, CHANNELS, REGIONS = 16, [4, 8], 6


class PlainDecoder(nn.Module):
    """Tile, concatenate, convolve: the U-Net decoder as written, every query on its own."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, maps, queries):
        batch, n = queries.shape[:2]
        maps = [m.repeat_interleave(n, 0) for m in maps]
        x = queries.flatten(0, 1)[:, :, None, None].expand(-1, -1, *maps[-1].shape[-2:])
        for i, (up, skip) in enumerate(zip(self.decoder.ups, maps[::-1], strict=True)):
            weight = torch.cat([up.below, up.skip])
            x = fn.conv_transpose2d(torch.cat([x, skip], 1), weight, up.bias, stride=2, padding=1)
            if i < len(self.decoder.norms):
                x = fn.relu(self.decoder.norms[i](x))
        return x.squeeze(1).sigmoid().unflatten(0, (batch, n))


def model(**options) -> AVSeT:
    torch.manual_seed(0)
    return AVSeT(DIM, CHANNELS, REGIONS, **options)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_factored_equals_plain_in_masks_gradients_and_statistics(norm: str):
    results = []
    for plain in (False, True):
        net = model(norm=norm).double()
        if plain:
            net.decoder.forward = PlainDecoder(net.decoder).forward
        torch.manual_seed(1)
        mixture = torch.rand(3, 16, 16, dtype=torch.float64)
        queries = torch.randn(3, 2, 2, REGIONS, DIM, dtype=torch.float64, requires_grad=True)
        masks = net.masks(mixture, queries)
        masks.square().sum().backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None] + [queries.grad]
        results.append([masks, *gradients, *[b.double() for b in net.buffers()]])
    assert len(results[0]) > 15
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, atol=1e-12, rtol=1e-10)


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

"""Losses against plain loops."""

import math

import pytest
import torch

from avset.models import losses


def test_mask_loss_by_loop():
    masks, targets, mixture = torch.rand(2, 2, 3, 4), torch.rand(2, 2, 3, 4), torch.rand(2, 3, 4) * 9
    total = 0.0
    for b in range(2):
        for n in range(2):
            for m in range(3):
                for t in range(4):
                    weight = min(max(math.log1p(mixture[b, m, t]), 1e-3), 10)
                    total += weight * abs(masks[b, n, m, t] - targets[b, n, m, t])
    assert losses.mask_loss(masks, targets, mixture).item() == pytest.approx(float(total) / 48, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_audio_language_loss_by_loop(temperature: float):
    audio, captions, labels = torch.randn(3, 5), torch.randn(7, 5), torch.tensor([4, 0, 6])
    total = 0.0
    for a, label in zip(audio, labels, strict=True):
        scores = [1 / temperature * torch.cosine_similarity(a, c, dim=0).item() for c in captions]
        top = max(scores)
        total += top + math.log(sum(math.exp(s - top) for s in scores)) - scores[label]
    found = losses.audio_language_loss(audio, captions, labels, temperature).item()
    assert found == pytest.approx(total / 3, rel=1e-4)


def test_very_many_captions_are_compared_in_parts_with_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch):
    audio, captions = torch.randn(6, 5).double().requires_grad_(), torch.randn(50, 5).double()
    labels = torch.tensor([4, 0, 49, 7, 8, 8])
    for stored, within, temperature in ((captions, 1e-12, 0.01), (captions, 1e-12, 0.2), (captions.half(), 1e-1, 0.01)):
        found = []
        for at_once in (50, 7):
            monkeypatch.setattr(losses, "AT_ONCE", at_once)
            known = captions if at_once == 50 else stored
            loss = 3 * losses.audio_language_loss(audio, known, labels, temperature)
            found.append([loss, *torch.autograd.grad(loss, audio)])
        for whole, parts in zip(*found, strict=True):
            torch.testing.assert_close(parts, whole, rtol=within, atol=within)


def test_trimodal_loss_by_loop():
    caption, audio = torch.randn(2, 3, 9), torch.randn(2, 3, 9)
    total = 0.0
    for c, a in zip(caption.view(6, 9), audio.view(6, 9), strict=True):
        p, q = c.softmax(0), a.softmax(0)
        total += sum(float(pi * math.log(pi / qi)) for pi, qi in zip(p, q, strict=True))
    assert losses.trimodal_loss(caption, audio).item() == pytest.approx(total / 6, rel=1e-4)
    assert losses.trimodal_loss(caption, audio, "mean").item() == pytest.approx(total / 54, rel=1e-4)


def test_trimodal_loss_teaches_the_audio_and_never_the_caption():
    caption, audio = torch.randn(4, 9, requires_grad=True), torch.randn(4, 9, requires_grad=True)
    losses.trimodal_loss(caption, audio).backward()
    assert caption.grad is None
    assert audio.grad is not None
    assert losses.trimodal_loss(audio, audio).item() == pytest.approx(0, abs=1e-6)

"""The loss of a frozen head is the usual one, with its gradient, and holds no logits of a whole batch."""

import pytest
import torch
import torch.nn.functional as F

from curvekit.training import losses
from curvekit.training.losses import frozen_head_loss


def usual(hidden, weight, labels, count=None):
    logits = (hidden @ weight.T).float()[:, :-1].flatten(0, 1)
    total = F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    return total / (count or (labels[:, 1:] != -100).sum())


@pytest.fixture
def given():
    hidden, weight = torch.randn(3, 10, 8, requires_grad=True), torch.randn(50, 8)
    labels = torch.randint(0, 50, (3, 10))
    labels[1, 6:], labels[2, :3] = -100, -100
    return hidden, weight, labels


@pytest.mark.parametrize("count", [None, 70])
@pytest.mark.parametrize("piece", [1, 250, 10**6])
def test_it_is_the_usual_loss_with_its_gradient(given, monkeypatch, count, piece):
    monkeypatch.setattr(losses, "PIECE", piece)
    hidden = given[0]
    found = []
    for loss in (frozen_head_loss(*given, count), usual(*given, count)):
        (gradient,) = torch.autograd.grad(3 * loss, hidden)
        found.append((loss, gradient))
    (ours, ours_back), (theirs, theirs_back) = found
    assert torch.allclose(ours, theirs, rtol=1e-6)
    worst = (ours_back - theirs_back).abs().max()
    assert worst < 1e-6, f"max_diff {worst:.2e}"


def test_under_autocast_it_multiplies_in_half_precision_and_sums_in_float32(given):
    hidden, weight, labels = given
    with torch.autocast("cpu", torch.bfloat16):
        loss = frozen_head_loss(*given)
    expected = usual(hidden.bfloat16(), weight.bfloat16(), labels)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.item() != pytest.approx(usual(*given).item(), rel=1e-6)


def test_it_holds_a_piece_of_the_logits_at_a_time(given, monkeypatch):
    monkeypatch.setattr(losses, "PIECE", 250)
    seen = []
    whole = torch.Tensor.logsumexp
    monkeypatch.setattr(torch.Tensor, "logsumexp", lambda x, *a, **k: seen.append(x.numel()) or whole(x, *a, **k))
    frozen_head_loss(*given)
    assert len(seen) == 6 and max(seen) <= 250


def test_the_head_gets_no_gradient(given):
    hidden, weight, labels = given
    frozen_head_loss(hidden, weight.requires_grad_(), labels).backward()
    assert weight.grad is None

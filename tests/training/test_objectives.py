"""What a run may minimise: each is its formula, whatever the batches, padding and rows are, and is never reported."""

import numpy as np
import pytest
import torch

from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import score_documents
from curvekit.training.objectives import (
    Objective,
    as_read,
    inverse_frequency_weights,
    plain_with_gradient_of,
    previous_tokens,
    training_counts,
)
from curvekit.training.settings import LOSSES, RunConfig
from curvekit.training.trainer import train

V, END = 30, 0


@pytest.fixture
def batch():
    ids = torch.randint(1, V, (4, 12))
    ids[:, 0] = END
    ids[0, 6] = END  # a second document in the row
    ids[1, 4:8] = ids[1, 1:5].clone()  # repeats
    mask = torch.ones_like(ids)
    mask[2, 8:], ids[2, 8:] = 0, END
    labels = ids.masked_fill(mask == 0, -100)
    labels[3, :5] = -100  # a prompt
    return torch.randn(4, 12, V), labels, ids, mask


def objective(loss, z=0.0):
    weights = torch.rand(V) + 0.5
    return Objective(loss, 0.2, 1.5, 0.7, z, weights, END)


@pytest.mark.parametrize("z", [0.0, 0.01])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_its_formula(batch, loss, z):
    logits, labels, ids, mask = batch
    found = objective(loss, z)
    for count in (None, 100):
        ours = found(logits, labels, ids, count, mask).item()
        assert ours == pytest.approx(as_read(found, logits, labels, ids, count, mask), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_is_the_same_however_it_is_cut_into_batches(batch, loss):
    logits, labels, ids, mask = batch
    found, count = objective(loss, 0.01), int((labels[:, 1:] != -100).sum())
    gradients = []
    for cut in (4, 1, 3):
        x = logits.clone().requires_grad_()
        parts = zip(*(each.split(cut) for each in (x, labels, ids, mask)), strict=True)
        sum(found(a, b, c, count, d) for a, b, c, d in parts).backward()
        gradients.append(x.grad)
    assert max((each - gradients[0]).abs().max() for each in gradients) < 1e-7


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_changes_nothing(batch, loss):
    logits, labels, ids, mask = batch
    wider = [
        torch.nn.functional.pad(each, (0, 3), value=value) for each, value in ((labels, -100), (ids, END), (mask, 0))
    ]
    more = torch.cat([logits, 9 * torch.randn(4, 3, V)], 1)
    found = objective(loss, 0.01)
    assert found(more, wider[0], wider[1], None, wider[2]).item() == pytest.approx(
        found(logits, labels, ids, None, mask).item(), rel=1e-6
    )


@pytest.mark.parametrize("told_by", ["border", "positions"])
def test_what_shares_a_row_is_as_alone(told_by):
    first, second = torch.randint(1, V, (1, 6)), torch.randint(1, V, (1, 5))
    if told_by == "border":
        first[0, 0] = second[0, 0] = END
        places = None
    else:
        places = torch.cat([torch.arange(6), torch.arange(5)])[None]
    logits = torch.randn(1, 11, V)
    found = Objective("unlikelihood", border=END)
    labels = torch.cat([first, second.clone()], 1)
    labels[0, 6] = -100  # the border between them is scored in neither
    together = found(logits, labels, torch.cat([first, second], 1), 1, None, places)
    apart = found(logits[:, :6], first, first, 1) + found(logits[:, 6:], second, second, 1)
    assert together.item() == pytest.approx(apart.item(), rel=1e-6)


def test_a_token_counts_once_and_the_target_never():
    ids = torch.tensor([[END, 5, 6, 5, 7]])
    seen = previous_tokens(ids, END)
    assert [ids[0][seen[0, t]].tolist() for t in range(5)] == [[], [5], [5, 6], [5, 6], [5, 6, 7]]


def test_rare_tokens_weigh_more_up_to_the_cap_and_one_in_the_mean():
    counts = np.array([1000, 100, 10, 1, 0, 3])
    for power, cap in ((0.5, 10.0), (1.0, 3.0), (1.0, 1.0), (0.0, 5.0)):
        w = inverse_frequency_weights(counts, power, cap)
        assert (counts * w).sum() == pytest.approx(counts.sum()) and w.max() <= cap + 1e-9
        assert (np.diff(w[:4]) >= -1e-12).all() and w[4] == pytest.approx(w[3])
    raw = np.maximum(counts, 1) ** -0.5
    assert np.allclose(inverse_frequency_weights(counts, 0.5, 1e9), raw * counts.sum() / (counts * raw).sum())


def test_each_is_cross_entropy_at_its_own_end(batch):
    logits, labels, ids, mask = batch
    plain = Objective()(logits, labels, ids, None, mask).item()
    ends = (
        Objective("label_smoothing", label_smoothing=0.0), Objective("focal", focal_gamma=0.0),
        Objective("inverse_frequency", weights=torch.ones(V)), Objective("unlikelihood", unlikelihood=0.0, border=END),
    )  # fmt: skip
    for end in ends:
        assert end(logits, labels, ids, None, mask).item() == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_formula(loss):
    ids, step = torch.tensor([[END, 3, 4, 3, 5, 2]]), 1e-6
    found = Objective(loss, weights=torch.rand(6) + 0.5, z_loss=0.1, border=END)
    x = torch.randn(1, 6, 6, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(found(x, ids, ids), x)
    for place in ((0, 1, 3), (0, 3, 5), (0, 4, 2)):
        nudge = torch.zeros_like(x)
        nudge[place] = step
        rise = (as_read(found, x + nudge, ids, ids) - as_read(found, x - nudge, ids, ids)) / (2 * step)
        assert ours[place].item() == pytest.approx(rise, abs=1e-6)


def test_what_is_reported_is_plain_and_what_is_minimised_is_not():
    x = torch.tensor(2.0, requires_grad=True)
    loss = plain_with_gradient_of(3 * x, x**3)
    loss.backward()
    assert loss.item() == 6 and x.grad.item() == 12


def config(tiny_base, tiny_corpus, **change):
    settings = {
        "recipe": "plain", "base": str(tiny_base), "corpus": str(tiny_corpus), "block_size": 32, "batch_size": 4,
        "steps": 3, "eval_every": 3, "sample_prompts": 0, "learning_rate": 1e-2, "dropout": 0.0,
    }  # fmt: skip
    return RunConfig(**settings | change)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "cross_entropy"])
def test_a_run_reports_the_plain_loss_of_the_weights_that_its_own_made(loss, tiny_base, tiny_corpus, tmp_path):
    own = {"focal": {"focal_gamma": 5.0}, "label_smoothing": {"label_smoothing": 0.5}}.get(loss, {})
    one, other = (
        train(config(tiny_base, tiny_corpus, steps=9, eval_every=9, **change), tmp_path / name, progress="none")
        for name, change in {"plain": {}, "other": {"loss": loss, **own}}.items()
    )
    first, second = ([row["loss"] for row in run.history if "loss" in row] for run in (one, other))
    assert first[0] == pytest.approx(second[0], rel=1e-5)  # the same weights still
    assert first[-1] != pytest.approx(second[-1], rel=1e-5)  # and others now
    validated = [row["validation_loss"] for row in other.history if "validation_loss" in row][-1]
    assert validated == pytest.approx(first[-1], rel=0.3)
    score = score_documents(
        other.model(), other.tokenizer(), (tiny_corpus / "test.txt").read_text().splitlines(), context=32
    )
    assert other.metrics["loss"] == pytest.approx(score.loss, rel=1e-5)


@pytest.mark.parametrize("examples", ["packed", "padded"])
def test_accumulated_batches_are_one_large_batch(examples, tiny_base, tiny_corpus, tmp_path):
    rows = []
    for batch, accumulate in ((4, 1), (2, 2)):
        change = {
            "batch_size": batch,
            "accumulate": accumulate,
            "examples": examples,
            "z_loss": 1e-3,
            "precision": "float32",
        }
        made = config(tiny_base, tiny_corpus, loss="inverse_frequency", steps=2, learning_rate=1e-3, **change)
        run = train(made, tmp_path / f"{batch}", progress="none")
        rows.append([row[key] for row in run.history if "loss" in row for key in ("loss", "grad_norm")])
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_counts_are_those_of_the_stream():
    assert training_counts(np.array([3, 3, 1]), 5).tolist() == [0, 1, 0, 2, 0]


def test_the_setting_of_another_loss_is_refused():
    with pytest.raises(CurvekitError, match="focal_gamma is 3.0 with loss 'cross_entropy'.*give loss 'focal'"):
        RunConfig(focal_gamma=3.0).validate()
    RunConfig(focal_gamma=3.0, loss="focal").validate()
    with pytest.raises(CurvekitError, match="did you mean 'focal'"):
        RunConfig(loss="focl").validate()

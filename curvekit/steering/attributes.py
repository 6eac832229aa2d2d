r"""Linear attribute models: p(label | text) from the mean of a language model's hidden states, for PPLM's gradients.

    p(a | x) = softmax(W m(x) + b)_a,     m(x) = mean over t of h_t(x),

with h_t the states after the last norm. W ``[labels, width]`` and b ``[labels]`` minimise the cross-entropy of labelled
rows plus ``decay / 2 * ||W s||^2`` (s: each state's spread, so that the decay knows no units), which has one optimum:
L-BFGS finds it, whatever the seed.

Source: the discriminators of Dathathri et al., "Plug and Play Language Models" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.errors import CurvekitError, pick
from curvekit.steering.parts import open_part, require_same, save_part, trait
from curvekit.steering.states import mean_states

KIND = "attribute model"
LEAST = 4  # rows of each label


@dataclass(frozen=True)
class AttributeModel:
    """``weight`` ``[labels, width]``, ``bias`` ``[labels]``, the labels' names, and whose states it reads."""

    weight: Tensor
    bias: Tensor
    labels: tuple[str, ...]
    model: str

    def log_probabilities(self, means: Tensor) -> Tensor:
        """``log softmax(W m + b)``: ``[rows, width]`` to ``[rows, labels]``."""
        return (means @ self.weight.to(means).T + self.bias.to(means)).log_softmax(-1)

    def place(self, label: str | None) -> int:
        """The place of a label.

        Raises:
            CurvekitError: there is no such label, or none is given.
        """
        if label is None:
            raise CurvekitError(f"label is not given; name what is sought: {', '.join(self.labels)}")
        return self.labels.index(pick(label, self.labels, "label"))

    def save(self, path: str | Path) -> Path:
        """Write it as safetensors, whole or not at all."""
        told = {"labels": list(self.labels), "model": self.model}
        return save_part(path, KIND, {"weight": self.weight, "bias": self.bias}, told)

    @classmethod
    def load(cls, path: str | Path, model: PreTrainedModel) -> AttributeModel:
        """What :meth:`save` wrote.

        Raises:
            CurvekitError: it is no attribute model, or reads another model's states.
        """
        tensors, told = open_part(path, KIND, {"labels": [str], "model": str}, ("weight", "bias"))
        weight, bias, labels = tensors["weight"], tensors["bias"], tuple(told["labels"])
        if weight.ndim != 2 or weight.shape[0] != len(labels) or bias.shape != (len(labels),):
            raise CurvekitError(f"{path} has {len(labels)} labels and weights {list(weight.shape)}; make it again")
        require_same(path, KIND, told["model"], model, weight.shape[-1])
        return cls(weight, bias, labels, told["model"])


def fit_attribute(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    decay: float = 1e-2,
    progress: bool = False,
) -> AttributeModel:
    """The attribute model of labelled texts, on the states of ``model``, which is not changed.

    Raises:
        CurvekitError: fewer than two labels, or a label with fewer than :data:`LEAST` rows.
    """
    names = require_labels(labels)
    means = mean_states(model, tokenizer, texts, progress=progress)
    targets = torch.tensor([names.index(label) for label in labels])
    weight, bias = fit_linear(means, targets, len(names), decay)
    return AttributeModel(weight, bias, names, trait(model))


def require_labels(labels: Sequence[str], least: int = LEAST) -> tuple[str, ...]:
    """The names of the labels, sorted.

    Raises:
        CurvekitError: there are fewer than two, or one has too few rows.
    """
    counts: dict[str, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    if len(counts) < 2:
        raise CurvekitError(f"the rows have the labels {sorted(counts)}; give rows of two labels or more")
    few = min(counts, key=lambda label: counts[label])
    if counts[few] < least:
        raise CurvekitError(f"the label {few!r} has {counts[few]} rows; give {least} or more of each label")
    return tuple(sorted(counts))


def fit_linear(features: Tensor, targets: Tensor, labels: int, decay: float) -> tuple[Tensor, Tensor]:
    """W ``[labels, width]`` and b of logistic regression on ``features`` ``[rows, width]``, as the head says."""
    mean, spread = features.mean(0), features.std(0).clamp(min=1e-6)
    scaled = ((features - mean) / spread).double()
    weight = torch.zeros(labels, features.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(labels, dtype=torch.double, requires_grad=True)
    search = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = objective(weight, bias, scaled, targets, decay)
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    rescaled = weight.detach() / spread.double()
    return rescaled.float(), (bias.detach() - rescaled @ mean.double()).float()


def objective(weight: Tensor, bias: Tensor, scaled: Tensor, targets: Tensor, decay: float) -> Tensor:
    """Mean cross-entropy plus ``decay / 2 * ||W||^2``, of features with mean 0 and spread 1."""
    return nn.functional.cross_entropy(scaled @ weight.T + bias, targets) + decay / 2 * weight.square().sum()

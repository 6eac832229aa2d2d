r"""What a run may minimise in the place of cross-entropy, above all for rare words; what it reports stays plain.

With p the softmax of the logits, y the next token of a scored position, V the vocabulary and N the scored tokens of
all batches of a step, every objective is 1/N times a sum over the scored positions of

===================  =================================================================================
cross_entropy        -log p_y
label_smoothing      -(1 - e) log p_y - e/V sum_v log p_v                        Szegedy et al. 2016
focal                -(1 - p_y)^g log p_y                                        Lin et al. 2017
inverse_frequency    -w_y log p_y, with w_v = min(s n_v^-a, cap)                 after Cui et al. 2019
unlikelihood         -log p_y - u sum_{c in C} log(1 - p_c)                      Welleck et al. 2020
===================  =================================================================================

and to each may be added ``z`` (log sum_v exp x_v)^2, the z-loss of PaLM (Chowdhery et al. 2022). Here n_v is how often
the training text has v, s makes the mean weight of a training token 1, and C holds the tokens of the document before y
without y itself. No sum is divided by what a batch alone holds, so a step is the same however it is cut into batches,
and neither padding nor the documents that share a row take part in one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from curvekit.training.settings import RunConfig

IGNORED = -100  # the label of a token that is not scored


@dataclass(frozen=True)
class Objective:
    """One of the table above, ready to be minimised; ``border`` is the token that stands before each document."""

    loss: str = "cross_entropy"
    label_smoothing: float = 0.1
    focal_gamma: float = 2.0
    unlikelihood: float = 1.0
    z_loss: float = 0.0
    weights: Tensor | None = None  # [vocabulary], of inverse_frequency
    border: int = -1

    @classmethod
    def of(cls, config: RunConfig, counts: np.ndarray | None = None, border: int = -1) -> Objective:
        """The objective of a run whose training text has each token ``counts`` times."""
        weights = None
        if config.loss == "inverse_frequency":
            assert counts is not None
            found = inverse_frequency_weights(counts, config.frequency_power, config.frequency_cap)
            weights = torch.from_numpy(found).float()
        return cls(
            config.loss,
            config.label_smoothing,
            config.focal_gamma,
            config.unlikelihood,
            config.z_loss,
            weights,
            border,
        )

    @property
    def is_plain(self) -> bool:
        return self.loss == "cross_entropy" and not self.z_loss

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        ids: Tensor,
        count: Tensor | int | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """The objective in nats a token.

        Args:
            logits: ``[batch, time, vocabulary]``.
            labels: ``[batch, time]``, the tokens themselves, -100 where nothing is scored; shifted here.
            ids: ``[batch, time]``, what the model read.
            count: scored tokens of all batches of a step, where a batch is a part of one; default: of this batch.
            attention_mask: ``[batch, time]``, 0 at padding.
            position_ids: ``[batch, time]``, which begin anew where another document does.
        """
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED).to(logits.device)
        scored = targets != IGNORED  # [batch, time]
        y = targets.clamp(min=0).unsqueeze(-1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        lse = logits.logsumexp(-1)
        log_p = logits.gather(-1, y).squeeze(-1) - lse
        each = -log_p
        if self.loss == "label_smoothing":
            e = self.label_smoothing
            each = (1 - e) * each + e * (lse - logits.mean(-1))
        elif self.loss == "focal":
            each = (-torch.expm1(log_p)).clamp(min=0) ** self.focal_gamma * each
        elif self.loss == "inverse_frequency":
            assert self.weights is not None
            each = self.weights.to(logits.device)[y.squeeze(-1)] * each
        elif self.loss == "unlikelihood":
            before = previous_tokens(ids, self.border, attention_mask, position_ids) & (ids[:, None] != y)
            p = (logits.gather(-1, ids[:, None].expand(before.shape)) - lse.unsqueeze(-1)).exp()  # [batch, time, time]
            each = each - self.unlikelihood * (torch.log1p(-p.clamp(max=1 - 1e-5)) * before).sum(-1)
        if self.z_loss:
            each = each + self.z_loss * lse**2
        return each.masked_fill(~scored, 0.0).sum() / (scored.sum() if count is None else count)


def previous_tokens(
    ids: Tensor, border: int, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """Whether place j is the first of its token in the document before the target of place i: ``[batch, i, j]``.

    Neither the border between documents nor padding is a token of one.
    """
    real = ids != border if attention_mask is None else (ids != border) & attention_mask.bool()
    document = (ids == border).cumsum(-1)  # [batch, time]
    if position_ids is not None:
        document = document + (position_ids.expand_as(ids) == 0).cumsum(-1)
    together = document[:, :, None] == document[:, None]
    repeats = ((ids[:, :, None] == ids[:, None]) & together).tril(-1).any(-1)  # an earlier place holds the same
    seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
    return seen & together & (real & ~repeats)[:, None]


def inverse_frequency_weights(counts: np.ndarray, power: float = 0.5, cap: float = 10.0) -> np.ndarray:
    """w_v = min(s n_v^-power, cap), with s such that sum_v n_v w_v = sum_v n_v: float64 (vocabulary,).

    What the training text lacks counts as if it stood there once. ``power`` 0 gives 1 for all.
    """
    counts = np.asarray(counts, np.float64)
    share, rarity = counts / counts.sum(), np.maximum(counts, 1) ** -power
    capped = np.zeros(len(counts), bool)
    while True:
        left, room = 1 - cap * share[capped].sum(), (share * rarity)[~capped].sum()
        s = left / room if room > 0 else math.inf  # cap is 1
        more = (s * rarity > cap) & ~capped
        if not more.any():
            return np.where(capped, cap, np.minimum(s * rarity, cap))
        capped |= more


def as_read(
    objective: Objective,
    logits: Tensor,
    labels: Tensor,
    ids: Tensor,
    count: int | None = None,
    attention_mask: Tensor | None = None,
) -> float:
    """The table of this room as it reads, token by token; ``Objective`` is the fast one."""
    total, scored = 0.0, 0
    for row in range(len(ids)):
        document: list[int] = []
        for t in range(ids.shape[1] - 1):
            token, y = int(ids[row, t]), int(labels[row, t + 1])
            if token == objective.border:
                document = []
            elif attention_mask is None or attention_mask[row, t]:
                document.append(token)
            if y == IGNORED:
                continue
            scored += 1
            x = logits[row, t].detach().double()
            p = x.softmax(-1)
            loss = -math.log(p[y])
            if objective.loss == "label_smoothing":
                e = objective.label_smoothing
                loss = (1 - e) * loss - e / len(p) * float(p.log().sum())
            elif objective.loss == "focal":
                loss = (1 - float(p[y])) ** objective.focal_gamma * loss
            elif objective.loss == "inverse_frequency":
                assert objective.weights is not None
                loss = float(objective.weights[y]) * loss
            elif objective.loss == "unlikelihood":
                loss -= objective.unlikelihood * sum(math.log(1 - float(p[c])) for c in set(document) - {y})
            total += loss + objective.z_loss * math.log(float(x.exp().sum())) ** 2
    return total / (scored if count is None else count)


def plain_with_gradient_of(plain: Tensor, objective: Tensor) -> Tensor:
    """A number that is the plain loss and whose gradient is the objective's: what is reported and what is minimised."""
    return plain.detach() + (objective - objective.detach())


def training_counts(stream: Any, vocabulary: int) -> np.ndarray:
    """How often the token stream of a training text has each token: int64 (vocabulary,)."""
    counts = np.zeros(vocabulary, np.int64)
    for start in range(0, len(stream), 2**22):  # in pieces: a stream may be larger than the memory
        counts += np.bincount(np.asarray(stream[start : start + 2**22]), minlength=vocabulary)
    return counts

r"""PPLM: before each token, gradient steps on a copy of the cache toward a bag of words or an attribute model.

With x_t the last token, H the keys and values of what precedes it, p(. | H) what the model says next, a the attribute:

    dH <- 0;   m times:   dH_l <- dH_l + step_size * g_l / ||g_l||,
               g = gradient in dH of   log p(a | H + dH)  -  kl_scale * KL( p(. | H + dH) || p(. | H0) )

    log p(a | H) = log sum over w in the bag of p(w | H)                           (bag of words)
                 = log softmax(W mean(h_1 ... h_t) + b)_a                          (attribute model)

    next token ~ p(. | H + dH)^gm_scale * p(. | H0)^(1 - gm_scale) / Z             (geometric mean)

l runs over the layers, ||.|| is over a layer's keys and values of one row, and H0 is the cache of the model that was
never steered. As in the paper the steered cache goes on: the states of x_t that it keeps were computed under
H + dH. Of a recipe's further layers (curve, encoder, mixers) the past is carried along and not changed.

Each row has its own gradient and its own norm, so a row is steered as it is alone. Cost: m times forward and backward
of one token, and two forwards more.

Source: Dathathri et al., "Plug and Play Language Models: A Simple Approach to Controlled Text Generation" (ICLR 2020);
the exponent of the norm is 1 here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from curvekit.errors import CurvekitError
from curvekit.steering.attributes import AttributeModel
from curvekit.steering.control import Control
from curvekit.steering.reading import Reader, copied, forward

_TINY = 1e-10  # a norm of 0 divides nothing

Objective = Callable[[Tensor, Tensor | None], Tensor]
"""log p(a) ``[rows]`` of log-probabilities ``[rows, vocabulary]`` and, if asked for, mean states ``[rows, width]``."""


def bag_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> Tensor:
    """The token ids of a bag of words, each as it stands within a text: after a space.

    Words of several tokens are left out with a warning that tells their pieces.

    Raises:
        CurvekitError: the bag is empty, or no word of it is one token.
    """
    if not words:
        raise CurvekitError("the bag of words is empty; give words such as love,joy,happy")
    ids: dict[int, None] = {}
    apart: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        pieces = tokenizer(f" {word.strip()}", add_special_tokens=False, verbose=False)["input_ids"]
        if len(pieces) == 1:
            ids[pieces[0]] = None
        else:
            apart[word] = [str(tokenizer.decode([piece])) for piece in pieces]
    told = "; ".join(f"{word!r} is {' + '.join(map(repr, pieces))}" for word, pieces in list(apart.items())[:8])
    if not ids:
        raise CurvekitError(f"no word of the bag is one token of this model: {told}; give other words")
    if apart:
        warnings.warn(f"{len(apart)} of {len(set(words))} words of the bag are no single token, left out: {told}",
                      stacklevel=2)  # fmt: skip
    return torch.tensor(list(ids))


def bag_objective(ids: Tensor) -> Objective:
    """``log sum over the bag of p(w)``."""
    return lambda log_odds, mean: log_odds[:, ids.to(log_odds.device)].logsumexp(-1)


def attribute_objective(attribute: AttributeModel, label: str | None) -> Objective:
    """``log p(label | mean state)``."""
    place = attribute.place(label)
    return lambda log_odds, mean: attribute.log_probabilities(mean)[:, place]  # type: ignore[arg-type]


def fused(steered: Tensor, plain: Tensor, gm_scale: float) -> Tensor:
    """``gm_scale * log p~ + (1 - gm_scale) * log p``, ``[rows, vocabulary]``: logits of the geometric mean."""
    return gm_scale * steered.log_softmax(-1) + (1 - gm_scale) * plain.log_softmax(-1)


class Pplm:
    """Reads rows as :class:`curvekit.steering.reading.Reader` does; the logits are those of the equations above.

    Args:
        objectives: their sum is log p(a).
        needs_states: whether one of them reads hidden states.

    Raises:
        CurvekitError: a model that looks ahead, which keeps no past to take steps on.
    """

    def __init__(
        self, model: PreTrainedModel, control: Control, objectives: Sequence[Objective], needs_states: bool
    ) -> None:
        if getattr(model.config, "leaks", False):
            raise CurvekitError(
                f"the recipe {getattr(model.config, 'recipe', '?')!r} sees later words and keeps no past, on which "
                "PPLM takes its steps; steer a causal recipe"
            )
        self.model, self.control, self.objectives, self.needs_states = model, control, objectives, needs_states
        self.plain = Reader(model)
        self.steered: DynamicCache | None = None
        self.options = {"output_hidden_states": True} if needs_states else {}
        self.summed: Tensor | float = 0.0  # of the states read so far, [rows, width]
        self.count: Tensor | float = 0.0

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Of the next token, ``[rows, vocabulary]``, after new tokens ``[rows, time]``."""
        if ids.shape[1] > 1:  # a prompt: all but its last token are read as they are
            out = self.plain(ids[:, :-1], mask[:, :-1], **self.options)
            if self.needs_states:
                own = mask[:, :-1]
                self._count(out, own * (own.cumsum(-1) > 1))  # the end-of-text is nobody's words
            self.steered = copied(self.plain.cache)  # type: ignore[arg-type]
            ids = ids[:, -1:]
        plain = self.plain.logits(ids, mask)
        if self.steered is None:  # nothing precedes, so there is nothing to take steps on
            self.steered = copied(self.plain.cache)  # type: ignore[arg-type]
            return plain.log_softmax(-1)
        with torch.enable_grad():
            steps = self._steps(ids, mask, plain.log_softmax(-1))
        self.steered = copied(self.steered, steps)
        with torch.no_grad():
            out = forward(self.model, ids, mask, self.steered, **self.options)
        if self.needs_states:
            self._count(out, mask[:, -1:])
        return fused(out.logits[:, -1].float(), plain, self.control.gm_scale)

    def _count(self, out: Any, mask: Tensor) -> None:
        states = out.hidden_states[-1].detach().float()
        weights = mask[..., None].float()
        self.summed = self.summed + (states * weights).sum(1)
        self.count = self.count + weights.sum(1)

    def _steps(self, ids: Tensor, mask: Tensor, plain: Tensor) -> list[tuple[Tensor, Tensor]]:
        """dH after all steps: of each layer of the model, the changes of its keys and values."""
        cache: Any = self.steered
        own = cache.layers[: self.model.config.num_hidden_layers]
        changes = [(torch.zeros_like(layer.keys), torch.zeros_like(layer.values)) for layer in own]
        for _ in range(self.control.iterations):
            leaves = [tensor.requires_grad_() for pair in changes for tensor in pair]
            out = forward(self.model, ids, mask, copied(cache, changes), **self.options)
            log_odds = out.logits[:, -1].float().log_softmax(-1)
            mean = None
            if self.needs_states:
                mean = (self.summed + out.hidden_states[-1][:, -1].float()) / (self.count + 1)
            gain = torch.stack([objective(log_odds, mean) for objective in self.objectives]).sum(0)
            divergence = (log_odds.exp() * (log_odds - plain)).sum(-1)
            aim = (gain - self.control.kl_scale * divergence).sum()  # rows do not see each other
            gradients: Any = torch.autograd.grad(aim, leaves)
            with torch.no_grad():
                changes = [
                    _stepped(changes[number], gradients[2 * number : 2 * number + 2], self.control.step_size)
                    for number in range(len(changes))
                ]
        return [(keys.detach(), values.detach()) for keys, values in changes]


def _stepped(pair: tuple[Tensor, Tensor], gradients: Sequence[Tensor], step_size: float) -> tuple[Tensor, Tensor]:
    """A layer's changes ``[rows, heads, time, width]``, each row one step of that length further."""
    squares = sum(each.float().square().sum((1, 2, 3), keepdim=True) for each in gradients)
    norm = squares.sqrt().clamp(min=_TINY)  # type: ignore[union-attr]
    keys, values = (old.detach() + step_size * new / norm for old, new in zip(pair, gradients, strict=True))
    return keys, values


def formula(
    speak: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
    past: list[Tensor],
    log_attribute: Callable[[Tensor, Tensor], Tensor],
    plain: Tensor,
    control: Control,
) -> Tensor:
    """The equations as they read, for one row: the log-probabilities ``[vocabulary]`` of the next token.

    Args:
        speak: what the model says, (logits ``[vocabulary]``, state ``[width]``), after a past.
        past: H, a tensor of keys and values for each layer.
        log_attribute: log p(a) of (probabilities, state).
        plain: p(. | H0), ``[vocabulary]``.
    """
    change = [torch.zeros_like(layer) for layer in past]
    for _ in range(control.iterations):
        change = [each.detach().requires_grad_() for each in change]
        logits, state = speak([h + d for h, d in zip(past, change, strict=True)])
        odds = torch.softmax(logits, -1)
        kl = sum(q * (torch.log(q) - torch.log(p)) for q, p in zip(odds, plain, strict=True))
        (log_attribute(odds, state) - control.kl_scale * kl).backward()
        slopes: list[Any] = [each.grad for each in change]
        change = [d + control.step_size * g / torch.linalg.vector_norm(g) for d, g in zip(change, slopes, strict=True)]
    odds = torch.softmax(speak([h + d for h, d in zip(past, change, strict=True)])[0], -1)
    mixed = odds**control.gm_scale * plain ** (1 - control.gm_scale)
    return torch.log(mixed / mixed.sum()).detach()

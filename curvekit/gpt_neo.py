"""GPT-Neo's attention behind transformers' attention interface, which its own class does not have.

Scores are unscaled (no ``1/sqrt(d)``) and in float32, and every second layer sees a window of the last W words only:

    y_i = sum_j w_ij v_j,   w_i = normalise(q_i . k_j : i - W < j <= i)

The fused kernels sum scores in float32 whatever the type of q and k, so nothing is cast. With ``eager`` the formula of
transformers' own class is run as it stands.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoModel, GPTNeoSelfAttention

from curvekit.attention import IMPLEMENTATIONS, refuse_unknown


class InterfacedGPTNeoAttention(GPTNeoSelfAttention):
    """transformers' GPT-Neo attention, weight for weight, computed by whatever implementation the model is set to."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        layer_past: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        name = self.config._attn_implementation
        if name in (None, "eager"):
            return super().forward(hidden_states, attention_mask, layer_past, use_cache, output_attentions, **kwargs)
        heads = (*hidden_states.shape[:-1], self.num_heads, self.head_dim)
        query, key, value = (
            part(hidden_states).view(heads).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        past: int | Tensor = 0
        if layer_past is not None:
            past = layer_past.get_seq_length(self.layer_id)
            past = past.clone() if isinstance(past, Tensor) else past  # a static layer counts in place
            key, value = layer_past.update(key, value, self.layer_id)
        attend = functools.partial(
            ALL_ATTENTION_FUNCTIONS[name],
            self,
            dropout=self.attn_dropout.p if self.training else 0.0,
            scaling=1.0,
            output_attentions=output_attentions,
        )
        if self.attention_type != "local":
            output, weights = attend(query, key, value, attention_mask)
        elif self._whole(query, key, attention_mask) and not output_attentions:
            output, weights = self._by_blocks(attend, query, key, value), None
        else:
            output, weights = attend(query, *self._windowed(query, key, value, attention_mask, past))
        return self.resid_dropout(self.out_proj(output.flatten(-2))), weights

    def _whole(self, query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
        """Whether these are whole texts without padding, longer than the window, that need not be traced."""
        same = query.shape[2] == key.shape[2] > self.config.window_size
        return mask is None and same and not torch.compiler.is_compiling()

    def _by_blocks(self, attend: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """A window W over whole texts of T words in T * 2W scores: W queries at a time see their block and the last.

        Returns:
            ``[batch, T, heads, width]``, as transformers' interface has it.
        """
        batch, heads, time, width = query.shape
        window = self.config.window_size
        first, _ = attend(*(x[:, :, :window] for x in (query, key, value)), None)
        query, key, value = (
            nn.functional.pad(x, (0, 0, 0, -time % window)).unflatten(2, (-1, window)) for x in (query, key, value)
        )  # [batch, heads, blocks, window, width]
        key, value = (torch.cat([x[:, :, :-1], x[:, :, 1:]], 3) for x in (key, value))
        own = torch.arange(window, device=query.device)[:, None]
        other = torch.arange(2 * window, device=query.device)
        seen = (own < other) & (other <= own + window)  # the same for every block
        rest, _ = attend(*(x.transpose(1, 2).flatten(0, 1) for x in (query[:, :, 1:], key, value)), seen[None, None])
        return torch.cat([first, rest.reshape(batch, -1, heads, width)], 1)[:, :time]

    def _windowed(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, past: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and mask of a layer that sees ``window_size`` words; those that nobody sees are left out."""
        window, queries, keys = self.config.window_size, query.shape[2], key.shape[2]
        if isinstance(past, int) and keys <= window:
            return key, value, mask
        if queries == 1 and isinstance(past, int) and keys == past + 1:
            return key[:, :, -window:], value[:, :, -window:], None if mask is None else mask[..., -window:]
        own = torch.arange(queries, device=query.device) + past
        other = torch.arange(keys, device=query.device)
        seen = (other > own[:, None] - window) & (other <= own[:, None])  # [queries, keys]
        if mask is None:
            return key, value, seen.view(1, 1, queries, keys)
        if mask.dtype == torch.bool:
            return key, value, mask & seen
        return key, value, mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


_NAMED = frozenset(inspect.signature(GPTNeoModel.forward).parameters)


class InterfacedGPTNeoModel(GPTNeoModel):
    """transformers' GPT-Neo below its head, with :class:`InterfacedGPTNeoAttention` in its blocks."""

    _supports_sdpa = _supports_attention_backend = True
    _supports_flash_attn = False

    def __init__(self, config: Any) -> None:
        wanted = config._attn_implementation
        config._attn_implementation = "eager"  # the only attention that its blocks know by name
        super().__init__(config)
        config._attn_implementation = self.get_correct_attn_implementation(wanted)
        blocks: Any = self.h
        for block in blocks:
            theirs = block.attn.attention
            block.attn.attention = InterfacedGPTNeoAttention(config, theirs.attention_type, theirs.layer_id)
        self.post_init()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As GPT-Neo's, whose blocks hand no further arguments to their attention.

        Raises:
            CurvekitError: one of them would change a member's weights.
        """
        if self.config._attn_implementation in IMPLEMENTATIONS:
            separated = not (kwargs.get("attention_mask") is None and kwargs.get("position_ids") is None)
            refuse_unknown(self, separated, {name: value for name, value in kwargs.items() if name not in _NAMED})
        return super().forward(*args, **kwargs)

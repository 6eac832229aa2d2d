r"""T5 with a curve through its source and any member of the SoftEMax family in its three attentions.

An encoder-decoder reads a source x to its end and then writes a target y, each word from x and the words before it:

    p(y | x) = prod_i p(y_i | y_<i, x).

So the curve belongs to the stack that reads: the published centred curve and a bidirectional encoder, which in a
causal model put the answer into the input, see nothing here that is to be predicted. The stack that writes has no
curve, and :func:`curvekit.causality.future_leak` is measured on it.

Scores are T5's own, unscaled and with its position bias p of the distance; cross attention has none:

    w_ij = exp(q_i . k_j + p_{j-i} - L_i),     L_i as in :mod:`curvekit.normalisers`.

A sink is learned in each head of all three. Source: Raffel et al. (2020), "Exploring the Limits of Transfer Learning
with a Unified Text-to-Text Transformer".
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, T5ForConditionalGeneration, T5Model
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

from curvekit.caches import grow
from curvekit.configuration import CurveT5Config
from curvekit.modeling import Architecture, CurveMixin, _Attending, to_be_replaced


class _StartsAsT5:
    """Random weights as T5 has them, also those that a module gives its parts, such as attention its matrices."""

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: of classes outside of transformers it leaves such modules out, and all matrices would start at std 1."""
        return False


class CurveT5Stack(_StartsAsT5, CurveMixin, T5Stack):
    """:class:`CurveMixin` over one of T5's stacks; that which writes is configured without a curve."""

    config_class = CurveT5Config
    blocks, embeddings, attention = "block", ("embed_tokens",), T5Attention

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As T5's.

        Raises:
            CurvekitError: as :meth:`CurveMixin._prepared`.
        """
        if self.config.source != "none":
            mask = attention_mask if attention_mask is not None and attention_mask.ndim == 2 else None
            positions = None if mask is None else (mask.long().cumsum(-1) - 1).clamp(min=0)  # T5 itself needs none
            inputs_embeds, input_ids = self._embed(input_ids, inputs_embeds, mask, positions, None, None), None
        grow(getattr(past_key_values, "self_attention_cache", None))
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )


class CurveT5Mixin(_StartsAsT5, _Attending):
    """T5's two stacks as :class:`CurveT5Stack`, below a head or without one."""

    encoder: Any  # of CurveT5Stack, both
    decoder: Any

    def __init__(self, config: Any) -> None:
        with to_be_replaced(config):
            super().__init__(config)
        for name in ("encoder", "decoder"):
            own = getattr(self, name).config
            own._attn_implementation = config._attn_implementation
            if own.is_decoder:
                own.source = "none"
            setattr(self, name, CurveT5Stack(own))
        config._attn_implementation = self.encoder.config._attn_implementation
        self.post_init()

    @property
    def curved(self) -> Any:
        """The stack that reads the source."""
        return self.encoder

    @property
    def curved_name(self) -> str:
        return "encoder"

    @property
    def block_names(self) -> tuple[str, ...]:
        return f"encoder.{self.encoder.blocks}.", f"decoder.{self.decoder.blocks}."

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As T5's, for softmax; the curve's encoder follows."""
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        if getattr(self.encoder, "encoder", None) is not None:
            self.encoder.encoder.follow(self.config._attn_implementation)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As T5's; the encoder's table follows, and knows nothing of a new token."""
        words = super().resize_token_embeddings(*args, **kwargs)
        for stack in (self.encoder, self.decoder):
            stack.config.vocab_size = self.config.vocab_size
        self.encoder._follow_vocabulary()
        self.config.encoder_config = self.encoder.config.encoder_config
        return words


class CurveT5Model(CurveT5Mixin, T5Model):
    """:class:`CurveT5Mixin` over T5 without its head."""

    config_class = CurveT5Config


class CurveT5ForConditionalGeneration(CurveT5Mixin, T5ForConditionalGeneration):
    """:class:`CurveT5Mixin` over T5 with its head."""

    config_class, base = CurveT5Config, CurveT5Model

    @functools.wraps(T5ForConditionalGeneration.forward)
    def forward(  # type: ignore[override]
        self, *args: Any, num_items_in_batch: Tensor | int | None = None, **kwargs: Any
    ) -> Any:
        """As T5's; a loss that is a part of several batches' is divided by the scored tokens of all of them."""
        output = super().forward(*args, **kwargs)
        if num_items_in_batch is not None and output.loss is not None:
            output.loss = output.loss * (kwargs["labels"] != -100).sum() / num_items_in_batch
        return output


SEQ2SEQ: dict[str, Architecture] = {  # by transformers' model type
    "t5": Architecture(
        "T5", CurveT5Config, T5ForConditionalGeneration, CurveT5ForConditionalGeneration,
        ("dropout_rate",), "dropout_rate",  # one for embeddings, residuals and attention
        ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads"),
    ),
}  # fmt: skip

for _each in SEQ2SEQ.values():
    AutoConfig.register(_each.config.model_type, _each.config, exist_ok=True)
    AutoModel.register(_each.config, _each.model.base, exist_ok=True)
    AutoModelForSeq2SeqLM.register(_each.config, _each.model, exist_ok=True)
